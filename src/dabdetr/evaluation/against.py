"""One evaluation compared with another on the same images: objects won and lost, and chance."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from dabdetr.data.dataset import DetectionDataset
from dabdetr.evaluation import bootstrap
from dabdetr.evaluation.evaluate import columns
from dabdetr.evaluation.judged import Judged
from dabdetr.evaluation.result import Evaluation
from dabdetr.structures import Detections
from dabdetr.structures.boxes import iou
from dabdetr.text import counted

NUMBERS = ("AP", "AP50")
SIDES = ("this", "other")
NEAR = 0.1
"""The lowest IoU with an object of a detection that is shown beside it."""


@dataclass(frozen=True)
class Difference:
    """A number of this evaluation and of the other one, 0–1.

    ``interval`` contains the difference in 95 % of the resamples.
    """

    this: float
    other: float
    interval: tuple[float, float]

    @property
    def value(self) -> float:
        """This number minus the other."""
        return self.this - self.other

    @property
    def real(self) -> bool:
        """Whether the difference is more than chance: the interval does not contain 0."""
        low, high = self.interval
        return low > 0 or high < 0


@dataclass(frozen=True)
class Comparison:
    """This evaluation compared with another one.

    other    name of the other one
    numbers  AP and AP50
    won      objects that only this one finds: image and row among its objects, without crowds
    lost     objects that only the other one finds
    false    number of false detections of this one and of the other
    extra    false detections that only this one has, and that only the other has: image and row
             among its shown detections, the highest score first
    shown    the shown detections of each image, of this one and of the other
    """

    other: str
    numbers: dict[str, Difference]
    won: list[tuple[int, int]]
    lost: list[tuple[int, int]]
    false: tuple[int, int]
    extra: tuple[list[tuple[int, int]], list[tuple[int, int]]]
    shown: tuple[list[Detections], list[Detections]] = field(repr=False, compare=False)

    @property
    def sentence(self) -> str:
        """The result in one sentence."""
        ap = self.numbers["AP"]
        low, high = ap.interval
        verdict = "more than chance" if ap.real else "no more than chance"
        return (
            f"against {self.other}: AP {ap.this:.3f}, {ap.value:+.3f} (95 % of paired resamples: "
            f"{low:+.3f} to {high:+.3f}), {verdict}; {counted(len(self.won), 'object')} won, "
            f"{len(self.lost)} lost"
        )

    def to_dict(self, data: DetectionDataset) -> dict[str, Any]:
        """Plain values; objects with their image, class and box."""
        return {
            "other": self.other,
            "sentence": self.sentence,
            "numbers": {
                name: {
                    "this": each.this,
                    "other": each.other,
                    "difference": each.value,
                    "interval": list(each.interval),
                    "more_than_chance": each.real,
                }
                for name, each in self.numbers.items()
            },
            "won": self._objects(data, self.won),
            "lost": self._objects(data, self.lost),
            "false": {"this": self.false[0], "other": self.false[1]},
            "false_only": {
                side: [
                    {
                        "image": index,
                        "file": data.record(index).file,
                        **_row(data, found[index], at),
                    }
                    for index, at in places
                ]
                for side, places, found in zip(SIDES, self.extra, self.shown, strict=True)
            },
        }

    def _objects(
        self, data: DetectionDataset, places: Sequence[tuple[int, int]]
    ) -> list[dict[str, Any]]:
        """Objects as plain values, with what this one and the other show there."""
        rows = []
        for index, at in places:
            record = data.record(index)
            row = np.flatnonzero(~record.crowd)[at]
            rows.append(
                {
                    "image": index,
                    "file": record.file,
                    "object": at,
                    "name": data.names[record.labels[row]],
                    "box": [round(float(edge), 1) for edge in record.boxes[row]],
                }
            )
        for row in rows:
            for side, found in zip(SIDES, self.shown, strict=True):
                row[side] = _nearest(data, found[row["image"]], row["box"])
        return rows


def _nearest(data: DetectionDataset, found: Detections, box: list[float]) -> dict[str, Any] | None:
    """The detection with the highest IoU with a box; None if none has ``NEAR``."""
    overlap = iou(found.boxes, np.array(box))
    if not len(overlap) or overlap.max() < NEAR:
        return None
    at = int(overlap.argmax())
    return {**_row(data, found, at), "iou": round(float(overlap[at]), 3)}


def _row(data: DetectionDataset, found: Detections, at: int) -> dict[str, Any]:
    return {
        "name": data.names[int(found.labels[at])],
        "score": round(float(found.scores[at]), 4),
        "box": [round(float(edge), 1) for edge in found.boxes[at]],
    }


def _only(mine: Judged, theirs: Judged) -> list[int]:
    """Rows of ``mine``'s false detections without a detection of their class in ``theirs``."""
    false = np.ones(len(mine.found), bool)
    false[mine.of_object[mine.caught]] = False
    boxes, others = mine.found.boxes[:, None], theirs.found.boxes
    equal = (boxes == others).all(-1)  # boxes without area have no IoU
    same = (mine.found.labels[:, None] == theirs.found.labels) & (
        equal | (iou(boxes, others) >= 0.5)
    )
    return np.flatnonzero(false & ~same.any(1)).tolist()


def compare(
    data: DetectionDataset,
    this: Evaluation,
    judged: Sequence[Judged],
    other: Evaluation,
    other_judged: Sequence[Judged],
    name: str,
) -> Comparison:
    """The comparison of ``this`` with ``other`` on ``data``, each judged at its own thresholds.

    Both use the same resamples of the images, so images that are hard for both do not widen the
    interval of the difference.
    """
    weights = bootstrap.resamples(len(data))
    values = []
    for each in (this, other):
        truth, boxes, labels = columns(data, each.detections)
        matched = bootstrap.match(truth, boxes, len(data), len(labels), each.most)
        ap = bootstrap.average_precision(matched, weights)
        values.append((bootstrap.class_means(ap), bootstrap.class_means(ap[..., :1])))
    numbers = {}
    for name_of, mine, theirs in zip(NUMBERS, *values, strict=True):
        interval = bootstrap.interval(mine - theirs) or [0.0, 0.0]
        sides = [max(0.0, found.numbers[name_of]) for found in (this, other)]
        numbers[name_of] = Difference(sides[0], sides[1], (interval[0], interval[1]))
    won, lost, extra = [], [], ([], [])
    for index, (mine, theirs) in enumerate(zip(judged, other_judged, strict=True)):
        won += [(index, int(at)) for at in np.flatnonzero(mine.caught & ~theirs.caught)]
        lost += [(index, int(at)) for at in np.flatnonzero(theirs.caught & ~mine.caught)]
        extra[0].extend((index, at) for at in _only(mine, theirs))
        extra[1].extend((index, at) for at in _only(theirs, mine))
    sides = (judged, other_judged)
    for places, images in zip(extra, sides, strict=True):
        places.sort(key=lambda place: -float(images[place[0]].found.scores[place[1]]))
    false = (sum(each.false for each in judged), sum(each.false for each in other_judged))
    shown = ([each.found for each in judged], [each.found for each in other_judged])
    return Comparison(name, numbers, won, lost, false, extra, shown)
