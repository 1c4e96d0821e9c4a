"""AP50 of objects by their size, their aspect ratio and the number of objects in their image."""

from __future__ import annotations

from typing import Any

import numpy as np

from dabdetr.evaluation.coco_ap import MOST, THRESHOLDS, Boxes, precision_and_recall

SIZES = np.array([0, 16, 32, 64, 128, 256, np.inf])
"""Root of the area in pixels."""
ASPECTS = np.array([0, 1 / 3, 2 / 3, 1.5, 3, np.inf])
"""Width over height."""
CROWDING = np.array([1, 2, 4, 8, 16, 32, np.inf])
"""Objects in an image."""


def breakdowns(
    truth: Boxes, found: Boxes, classes: int, most: int = MOST[-1]
) -> dict[str, list[dict[str, Any]]]:
    """Rows of ``size``, ``aspect`` and ``objects``: the bin's bounds, number of objects and AP50.

    As for COCO's areas, objects of other bins count neither way, nor do detections matched to them,
    nor unmatched detections that are in another bin themselves.
    """
    aspects = [box.boxes[:, 2] / np.maximum(box.boxes[:, 3], 1e-9) for box in (truth, found)]
    images = int(max(truth.image.max(initial=-1), found.image.max(initial=-1))) + 1
    crowding = np.bincount(truth.image[~truth.crowd], minlength=images)
    columns = {
        "size": (SIZES, *(np.sqrt(box.area.clip(min=0)) for box in (truth, found))),
        "aspect": (ASPECTS, *aspects),
        "objects": (CROWDING, crowding[truth.image], crowding[found.image]),
    }
    limit = THRESHOLDS[:1]
    rows: dict[str, list[dict[str, Any]]] = {}
    for name, (edges, truth_values, found_values) in columns.items():
        kept = truth_values[~truth.crowd]
        pairs = list(zip(edges[:-1].tolist(), edges[1:].tolist(), strict=True))
        bins = [p for p in pairs if ((kept >= p[0]) & (kept < p[1])).any()] or pairs[:1]
        outside = (_outside(truth_values, bins), _outside(found_values, bins))
        precision, _ = precision_and_recall(truth, found, classes, (most,), outside, limit)
        rows[name] = [
            {
                "from": low,
                "to": None if np.isinf(high) else high,
                "objects": int((~outside[0][:, place] & ~truth.crowd).sum()),
                "AP50": _mean(precision[0, ..., place]),
            }
            for place, (low, high) in enumerate(bins)
        ]
    return rows


def _outside(values: np.ndarray, bins: list[tuple[float, float]]) -> np.ndarray:
    """[n, bins] bool: outside each bin."""
    return np.stack([(values < low) | (values >= high) for low, high in bins], axis=1)


def _mean(values: np.ndarray) -> float | None:
    """Mean of the defined values; None if there are none."""
    values = values[values > -1]
    return float(values.mean()) if values.size else None
