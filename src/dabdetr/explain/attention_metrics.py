"""How concentrated attention is on the object found: three numbers, over a whole data set."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import torch
from scipy import ndimage

from dabdetr.data.dataset import DetectionDataset
from dabdetr.evaluation.per_layer import matched
from dabdetr.explain.explanation import explain
from dabdetr.predictor import Predictor
from dabdetr.structures.boxes import corners


@dataclass(frozen=True)
class Concentration:
    """Attention of the queries that found an object, against the object's box.

    model    the member's name
    part     what was measured: one of ``PARTS``
    layer    of which decoder layer, counted from 1
    objects  in the data, without crowds
    found    of these, with a query whose last box has IoU ``least_iou`` or more; means are of them
    inside   share of the weight that lies inside the object's box
    by_chance  share of the image that the box covers: ``inside`` of even attention
    centres  peaks of a head's map that are at least half as high as its highest
    width_fit, height_fit  correlation of the map's extent with the box's side, of logarithms: 1
             where wide objects are looked at widely, 0 where size makes no difference
    """

    model: str
    part: str
    layer: int
    objects: int
    found: int
    inside: float
    by_chance: float
    centres: float
    width_fit: float
    height_fit: float

    def to_dict(self) -> dict[str, Any]:
        """Plain values, ready for JSON."""
        return asdict(self)


def measure(
    predictor: Predictor,
    data: DetectionDataset,
    part: str = "all",
    layer: int = -1,
    least_iou: float = 0.5,
    most: int | None = None,
) -> Concentration:
    """Numbers of decoder layer ``layer`` (0 is the first, −1 the last) over the images of
    ``data``, or the first ``most`` of them; NaN where nothing was found.
    """
    rows, objects, depth, name = [], 0, 0, predictor.config.name
    for index in range(min(len(data), len(data) if most is None else most)):
        record = data.record(index)
        boxes = record.boxes[~record.crowd]
        objects += len(boxes)
        if not len(boxes):
            continue
        (one,) = explain(predictor, data.image(index))
        depth = range(one.trace.layers)[layer] + 1
        scale = np.array([record.width, record.height] * 2, np.float32)
        for query, box in finders(one.trace.boxes[-1], boxes / scale, least_iou):
            rows.append(_row(one.trace.looks[layer].maps(query, part), box))
    table = np.array(rows, np.float64).reshape(-1, 7)
    inside, chance, centres, *sides = table.T
    return Concentration(
        *(name, part, depth, objects, len(table)),
        *(_mean(values) for values in (inside, chance, centres)),
        width_fit=_correlation(sides[0], sides[1]),
        height_fit=_correlation(sides[2], sides[3]),
    )


def finders(
    predicted: np.ndarray, objects: np.ndarray, least_iou: float
) -> list[tuple[int, np.ndarray]]:
    """The query that found each object, one for one, and the object's box.

    ``predicted`` [queries, 4] cxcywh, ``objects`` [n, 4] x0 y0 x1 y1 in the same unit.
    """
    queries, rows, overlaps = matched(*map(torch.from_numpy, (corners(predicted), objects)))
    good = overlaps >= least_iou
    return [(int(q), objects[n]) for q, n in zip(queries[good], rows[good], strict=True)]


def _row(maps: np.ndarray, box: np.ndarray) -> list[float]:
    """inside, by chance, centres, and extent beside side along x and y."""
    mean, (x0, y0, x1, y1) = maps.mean(0), box
    wide, tall = extent(mean)
    area = (x1 - x0) * (y1 - y0)
    many = float(np.mean([centres(each) for each in maps]))
    return [share_inside(mean, box), area, many, wide, x1 - x0, tall, y1 - y0]


def share_inside(weights: np.ndarray, box: np.ndarray) -> float:
    """Share of a map [height, width] that lies in ``box`` (x0 y0 x1 y1, 0–1).

    A cell that the box covers in part counts for that part.
    """
    height, width = weights.shape
    across = _covered(width, box[0], box[2])
    down = _covered(height, box[1], box[3])
    return float(down @ weights @ across / max(weights.sum(), 1e-12))


def _covered(cells: int, low: float, high: float) -> np.ndarray:
    """Share of each of ``cells`` equal cells between ``low`` and ``high``."""
    edges = np.arange(cells + 1) / cells
    shared = np.minimum(edges[1:], high) - np.maximum(edges[:-1], low)
    return shared.clip(min=0) * cells


def centres(weights: np.ndarray, least: float = 0.5) -> int:
    """Peaks of a map that are higher than their neighbours and ``least`` of the highest or more."""
    peaks = (weights == ndimage.maximum_filter(weights, 3)) & (weights >= least * weights.max())
    _, count = ndimage.label(peaks, np.ones((3, 3)))  # pyright: ignore[reportGeneralTypeIssues]
    return int(count)


def extent(weights: np.ndarray) -> tuple[float, float]:
    """Width and height, 0–1, of the middle half of a map: far outliers do not count."""
    return _middle_half(weights.sum(0)), _middle_half(weights.sum(1))


def _middle_half(marginal: np.ndarray) -> float:
    sums = np.concatenate(([0.0], np.cumsum(marginal, dtype=np.float64)))
    low, high = np.interp([0.25, 0.75], sums / max(sums[-1], 1e-12), np.linspace(0, 1, len(sums)))
    return float(high - low)


def _mean(values: np.ndarray) -> float:
    return float(values.mean()) if len(values) else float("nan")


def _correlation(a: np.ndarray, b: np.ndarray) -> float:
    a, b = np.log(a.clip(1e-6)), np.log(b.clip(1e-6))
    if len(a) < 2 or not a.std() or not b.std():
        return float("nan")
    return float(np.corrcoef(a, b)[0, 1])
