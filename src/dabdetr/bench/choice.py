"""What was measured of each contender, and which of them to use."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from statistics import median

from scipy.optimize import linear_sum_assignment

from dabdetr.bench.candidates import REFERENCE, Contender
from dabdetr.structures import Detections
from dabdetr.structures.boxes import iou

SAME_BOX = 0.9
"""IoU from which two boxes of a class are the same."""
NOISE = 0.03
"""Share of the time that is no difference: of contenders so close, the more faithful is best."""


@dataclass(frozen=True)
class Row:
    """One contender's measures.

    turns    seconds an image in each round: prepared pixels to boxes, and file to boxes
    start    seconds from the start of a process to the boxes of its first image
    memory   MB that the process held at most, libraries included; None: the system does not say
    file     MB of its file or files
    quality  AP on annotated data, otherwise agreement with the reference; 0–1
    """

    contender: Contender
    turns: tuple[tuple[float, float], ...]
    start: float
    memory: float | None
    file: float | None
    quality: float

    @property
    def model(self) -> float:
        """Seconds an image, prepared pixels to boxes: the median of all rounds."""
        return median(model for model, _ in self.turns)

    @property
    def whole(self) -> float:
        """Seconds an image, file to boxes: the median of all rounds."""
        return median(whole for _, whole in self.turns)

    def gain(self, reference: Row) -> float:
        """How many times as fast as the reference in the same round, file to boxes; median."""
        pairs = zip(reference.turns, self.turns, strict=True)
        return median(theirs[1] / own[1] for theirs, own in pairs)


def reference_of(rows: Sequence[Row]) -> Row:
    """The row that the others are compared with."""
    return next(row for row in rows if row.contender == REFERENCE)


def best(rows: Sequence[Row], drop: float) -> Row:
    """The fastest, file to boxes, whose quality is at most ``drop`` below the reference's.

    Of those as fast as it but for noise, the one of the highest quality. The reference itself
    always qualifies.
    """
    floor = reference_of(rows).quality - drop - 1e-9
    allowed = [row for row in rows if row.quality >= floor]
    fastest = min(row.whole for row in allowed)
    near = [row for row in allowed if row.whole <= fastest * (1 + NOISE)]
    return max(near, key=lambda row: (row.quality, -row.whole))


def agreement(reference: Sequence[Detections], found: Sequence[Detections], conf: float) -> float:
    """Of all boxes that either side shows at ``conf``, the share that the other shows as well.

    Boxes go one to one, by class and IoU. Where neither side shows any, 1.
    """
    shown = alike = 0
    for one, other in zip(reference, found, strict=True):
        one, other = one.above(conf), other.above(conf)
        shown += len(one) + len(other)
        alike += 2 * _pairs(one, other)
    return alike / shown if shown else 1.0


def _pairs(one: Detections, other: Detections) -> int:
    """Boxes of one image that are the same on both sides."""
    same = (iou(one.boxes[:, None], other.boxes) >= SAME_BOX) & (
        one.labels[:, None] == other.labels
    )
    rows, columns = linear_sum_assignment(same, maximize=True)
    return int(same[rows, columns].sum())
