"""Counts of the causes of errors, the AP50 that fixing each would gain, and advice."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from dabdetr.data.dataset import DetectionDataset
from dabdetr.data.preprocessing import input_size
from dabdetr.evaluation.causes import CAUSES, Error
from dabdetr.evaluation.errors import Diagnosed
from dabdetr.evaluation.operating_point import operating_points, shown_columns
from dabdetr.evaluation.tide import Points, tide_points
from dabdetr.text import counted

if TYPE_CHECKING:
    from dabdetr.config import Config

SHOWN = 24
"""The most errors in a gallery."""
WORTH = 0.1
"""Share of the misses or of the false detections from which a cause gets advice."""
LEAST = 3
"""The fewest errors of a cause that get advice."""
UNTRAINED = 0.05
"""AP50 below which the only advice is to train longer."""


@dataclass(frozen=True)
class ErrorReport:
    """The errors of a report, summed up.

    data       the images that errors were attributed in: all of the report's, or some
    places     the index of each of these images among the report's
    diagnosed  the errors
    summary    the result of ``summary``
    chosen     indices of the errors in the gallery
    """

    data: DetectionDataset
    places: Sequence[int]
    diagnosed: Diagnosed
    summary: dict[str, Any]
    chosen: list[int]

    @classmethod
    def of(
        cls,
        data: DetectionDataset,
        diagnosed: Diagnosed,
        config: Config | None = None,
        places: Sequence[int] | None = None,
    ) -> ErrorReport:
        """The report on ``diagnosed``, the errors on ``data``; ``config`` is the model's."""
        places = range(len(data)) if places is None else places
        summed_up = summary(data, diagnosed, config)
        return cls(data, places, diagnosed, summed_up, gallery(diagnosed.errors))


def summary(
    data: DetectionDataset, diagnosed: Diagnosed, config: Config | None = None
) -> dict[str, Any]:
    """Plain values: ``causes`` and ``tide`` as rows, ``advice``, and every error as ``rows``.

    AP50 of a cause is the gain if its false detections were right or removed, and its missed
    objects found or not counted, as in TIDE. AP does not depend on the threshold, so objects under
    it gain nothing. ``config`` is the model's, for advice about its input.
    """
    points = tide_points(data, diagnosed.evaluation.detections)
    counts, gains = points.counts(), points.gains()
    return {
        "causes": _causes(points, diagnosed),
        "tide": [
            {"kind": kind, "count": counts[kind], "AP50": round(gains[kind], 5)} for kind in counts
        ],
        "AP50": round(points.ap50, 5),
        "advice": advice(data, diagnosed, config),
        "rows": [error.to_dict(data.names) for error in diagnosed.errors],
    }


def _causes(points: Points, diagnosed: Diagnosed) -> list[dict[str, Any]]:
    """Rows of the causes that occur: description, counts and the gain of AP50."""
    points_at = {
        (image, row): at
        for at, (image, row) in enumerate(
            zip(points.image.tolist(), points.row.tolist(), strict=True)
        )
    }
    first = np.searchsorted(points.object_image, np.arange(len(diagnosed.judged)))
    shown = _rows_of_shown(diagnosed)
    before, rows = points.ap50, []
    for cause, words in CAUSES.items():
        errors = [error for error in diagnosed.errors if error.cause == cause]
        if not errors:
            continue
        wrong, lost = np.zeros(len(points.label), bool), np.zeros(len(points.true), bool)
        for error in errors:
            if error.side == "missed":
                assert error.object is not None
                lost[first[error.image] + error.object] = True
                continue
            at = points_at.get((error.image, shown[error.image][error.detection]))
            if at is not None:
                wrong[at] = True
        sides = Counter(error.side for error in errors)
        gain = points.fixed(wrong & (points.kind >= 0), lost & ~points.taken) - before
        rows.append(
            {
                "cause": cause,
                "words": words,
                "missed": sides["missed"],
                "false": sides["false"],
                "AP50": round(max(0.0, gain), 5),
            }
        )
    return rows


def _rows_of_shown(diagnosed: Diagnosed) -> list[dict[int | None, int]]:
    """For every image: row among the shown detections → row among all its detections."""
    every = []
    for found, judged in zip(diagnosed.evaluation.detections, diagnosed.judged, strict=True):
        pairs = zip(found.queries.tolist(), found.labels.tolist(), strict=True)
        place = {pair: row for row, pair in enumerate(pairs)}
        shown = zip(judged.found.queries.tolist(), judged.found.labels.tolist(), strict=True)
        every.append({at: place[pair] for at, pair in enumerate(shown)})
    return every


def gallery(errors: Sequence[Error]) -> list[int]:
    """Indices of at most ``SHOWN`` errors, from every cause in turn, the most frequent cause first.

    At most two of an image, unless there are too few images.
    """
    waiting: dict[str, list[int]] = defaultdict(list)
    for at, error in enumerate(errors):
        paired = error.side == "false" and error.object is not None and error.cause != "duplicate"
        if not paired:  # the missed object of the pair shows the same error
            waiting[error.cause].append(at)
    order = sorted(waiting, key=lambda cause: -len(waiting[cause]))
    chosen: list[int] = []
    images: Counter[int] = Counter()
    for limit in (2, len(errors)):
        while len(chosen) < SHOWN:
            before = len(chosen)
            for cause in order:
                at = next((a for a in waiting[cause] if images[errors[a].image] < limit), None)
                if at is not None and len(chosen) < SHOWN:
                    waiting[cause].remove(at)
                    images[errors[at].image] += 1
                    chosen.append(at)
            if len(chosen) == before:
                break
    return sorted(chosen, key=lambda at: order.index(errors[at].cause))


# Advice


def advice(data: DetectionDataset, diagnosed: Diagnosed, config: Config | None) -> list[str]:
    """What to do, one sentence each, the largest share first."""
    if diagnosed.errors and (ap50 := diagnosed.evaluation.ap50) < UNTRAINED:
        return [f"AP50 is {max(ap50, 0):.3f}: the model finds almost nothing yet; train longer"]
    missed = [error for error in diagnosed.errors if error.side == "missed"]
    false = [error for error in diagnosed.errors if error.side == "false"]
    of_missed = Counter(error.cause for error in missed)
    of_false = Counter(error.cause for error in false)
    shares: list[tuple[float, str]] = []

    def add(count: int, total: int, sentence: str) -> None:
        if count >= LEAST and count / total >= WORTH:
            shares.append((count / total, f"{count / total:.0%} of the {sentence}"))

    if config is not None:
        small, size = _small(data, missed, config)
        stride = min(config.model.backbone.strides)
        where = f"misses are smaller than one cell at stride {stride}: "
        add(small, len(missed), where + f"--imgsz {size}, or --tiles for large images")
    add(
        of_missed["under_threshold"],
        len(missed),
        "misses are right but under the threshold: " + _threshold(data, diagnosed),
    )
    add(
        of_missed["no_query"],
        len(missed),
        "misses had no query near them: more queries (--queries), or more training images with "
        "objects of these sizes at these places",
    )
    lost = Counter(error.layer for error in missed if error.cause == "left")
    if lost:
        layer, count = lost.most_common(1)[0]
        where = f"{count} of them in layer {layer}: val --per-layer shows whether the layer helps"
        add(of_missed["left"], len(missed), f"misses had a query that moved away, {where}")
    pairs = Counter((error.label, error.found) for error in missed if error.cause == "wrong_class")
    if pairs:
        (label, found), count = pairs.most_common(1)[0]
        assert label is not None
        assert found is not None
        names = f"{data.names[label]} taken for {data.names[found]} ({counted(count, 'time')})"
        add(
            of_missed["wrong_class"],
            len(missed),
            f"misses have the wrong class, most often {names}: add images of both, or make them "
            "one class",
        )
    add(
        of_missed["loose"],
        len(missed),
        "misses have a loose box: train longer, at a larger --imgsz, or check the labels' edges "
        "(dabdetr audit)",
    )
    add(of_false["duplicate"], len(false), "false detections are duplicates: --nms 0.7")
    labels = of_missed["label"] + of_false["label"]
    add(
        labels,
        len(missed) + len(false),
        "errors may be wrong or missing labels: dabdetr audit ranks all labels",
    )
    return [sentence for _, sentence in sorted(shares, key=lambda each: -each[0])]


def _small(data: DetectionDataset, missed: Sequence[Error], config: Config) -> tuple[int, int]:
    """The number of missed objects smaller than a cell of the finest map, and a better input size.

    At that size half of these objects are at least one cell wide; at most four times the config's.
    """
    stride, sides = min(config.model.backbone.strides), []
    for error in missed:
        height, width = data.shape(error.image)
        scale = input_size(height, width, config.image)[0] / height
        x0, y0, x1, y1 = error.box
        sides.append(scale * float(np.sqrt(max(0.0, (x1 - x0) * (y1 - y0)))))
    small = [side for side in sides if side < stride]
    size = config.image.size
    if small:
        size = int(np.ceil(size * stride / max(np.median(small), 1) / 32) * 32)
    return len(small), min(size, 4 * config.image.size)


def _threshold(data: DetectionDataset, diagnosed: Diagnosed) -> str:
    """A clause about a lower threshold that fits this split better."""
    truth, found, labels = shown_columns(data, diagnosed.evaluation)
    best, _ = operating_points(truth, found, len(labels))
    limit = float(np.median(diagnosed.limits))
    if best is None or best.conf > limit:
        return "a lower one would add more false detections than objects found"
    return (
        f"{best.conf:.2f} fits this split best, with F1 {best.f1:.3f} (precision "
        f"{best.precision:.2f}, recall {best.recall:.2f}); --conf {best.conf:.2f}, or val "
        "--calibrate writes it into the weights"
    )
