"""One evaluation compared with another on the same images: objects won and lost, and chance."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from dabdetr.data.dataset import DetectionDataset
from dabdetr.evaluation import bootstrap
from dabdetr.evaluation.evaluate import columns
from dabdetr.evaluation.judged import Judged
from dabdetr.evaluation.result import Evaluation
from dabdetr.text import counted

NUMBERS = ("AP", "AP50")


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
    """

    other: str
    numbers: dict[str, Difference]
    won: list[tuple[int, int]]
    lost: list[tuple[int, int]]
    false: tuple[int, int]

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
            "won": _objects(data, self.won),
            "lost": _objects(data, self.lost),
            "false": {"this": self.false[0], "other": self.false[1]},
        }


def _objects(data: DetectionDataset, places: Sequence[tuple[int, int]]) -> list[dict[str, Any]]:
    rows = []
    for index, at in places:
        record = data.record(index)
        row = np.flatnonzero(~record.crowd)[at]
        box = [round(float(edge), 1) for edge in record.boxes[row]]
        rows.append(
            {
                "image": index,
                "file": record.file,
                "object": at,
                "name": data.names[record.labels[row]],
                "box": box,
            }
        )
    return rows


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
    values = [_resampled(data, each, weights) for each in (this, other)]
    numbers = {}
    for each in NUMBERS:
        rows = [numbers_of[each] for numbers_of in values]
        interval = bootstrap.interval(rows[0] - rows[1]) or [0.0, 0.0]
        sides = [max(0.0, found.numbers[each]) for found in (this, other)]
        numbers[each] = Difference(sides[0], sides[1], (interval[0], interval[1]))
    won, lost = [], []
    for index, (mine, theirs) in enumerate(zip(judged, other_judged, strict=True)):
        won += [(index, int(at)) for at in np.flatnonzero(mine.caught & ~theirs.caught)]
        lost += [(index, int(at)) for at in np.flatnonzero(theirs.caught & ~mine.caught)]
    false = (sum(each.false for each in judged), sum(each.false for each in other_judged))
    return Comparison(name, numbers, won, lost, false)


def _resampled(
    data: DetectionDataset, found: Evaluation, weights: np.ndarray
) -> dict[str, np.ndarray]:
    truth, boxes, labels = columns(data, found.detections)
    matched = bootstrap.match(truth, boxes, len(data), len(labels), found.most)
    ap = bootstrap.average_precision(matched, weights)
    return {"AP": bootstrap.class_means(ap), "AP50": bootstrap.class_means(ap[..., :1])}
