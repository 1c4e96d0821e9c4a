"""Rough boxes made tight and named: each box of a data set is asked; sure answers are taken."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from dabdetr.asking.changed import Changed, Edit
from dabdetr.data.dataset import DetectionDataset
from dabdetr.evaluation.suspicions import label_map, rounded
from dabdetr.predictor import Predictor
from dabdetr.structures import Answers
from dabdetr.structures.boxes import iou

SAME = 0.8
"""IoU from which two answers of a class are the same."""


@dataclass(frozen=True)
class Snap:
    """What one box became.

    image        index in its split, with ``row`` the box in the image's record
    before       x0 y0 x1 y1 in pixels, with ``name_before`` its class
    after        the answer's, whether taken or not, with ``name`` the answer's class
    score        of the answer
    moved        IoU of both boxes
    taken        whether the data set is changed
    """

    split: str
    file: str
    image: int
    row: int
    before: tuple[float, ...]
    after: tuple[float, ...]
    name_before: str
    name_after: str
    name: str
    score: float
    moved: float
    taken: bool

    def to_dict(self) -> dict[str, Any]:
        """Plain values."""
        return asdict(self)


def snap(
    data: DetectionDataset,
    predictor: Predictor,
    conf: float | None = None,
    rename: bool = False,
    clicks: bool = False,
) -> Iterator[list[Snap]]:
    """Every box of every image, asked; a list for each image, in order.

    An answer is taken where it scores at least ``conf`` (the model's own thresholds if not given)
    and is of the box's class. A class that the model does not know is named by the answer; one that
    it knows only with ``rename``. Where several boxes of an image have the same answer, the one
    that is nearest to it takes it, and the others stay. With ``clicks`` a box counts for its
    centre alone.
    """
    known = label_map(data, predictor.names)
    limits = predictor.class_thresholds(conf)

    def entries() -> Iterator[tuple[Any, Any]]:
        for index in range(len(data)):
            record = data.record(index)
            boxes, own = record.boxes[~record.crowd], known[record.labels[~record.crowd]]
            given = [None if rename or label < 0 else int(label) for label in own]
            yield ((boxes[:, :2] + boxes[:, 2:]) / 2 if clicks else boxes), given

    boxes, labels = zip(*entries(), strict=True) if len(data) else ((), ())
    images = (data.image(index) for index in range(len(data)))
    for index, answers in enumerate(predictor.ask_all(images, boxes, labels)):
        yield _of_image(data, index, answers.best(), known, limits, rename)


def _of_image(
    data: DetectionDataset,
    index: int,
    answers: Answers,
    known: np.ndarray,
    limits: np.ndarray,
    rename: bool,
) -> list[Snap]:
    record, found = data.record(index), []
    first = _nearest(answers)
    for answer, row in enumerate(np.flatnonzero(~record.crowd).tolist()):
        label, score = int(answers.labels[answer]), float(answers.scores[answer])
        own, before = int(record.labels[row]), record.boxes[row]
        free = rename or known[own] < 0
        taken = first[answer] and score >= limits[label] and (free or label == known[own])
        name = answers.names[label]
        found.append(
            Snap(
                split=data.split,
                file=record.file,
                image=index,
                row=row,
                before=rounded(before),
                after=rounded(answers.boxes[answer]),
                name_before=data.names[own],
                name_after=name if taken and free else data.names[own],
                name=name,
                score=round(score, 4),
                moved=round(float(iou(before, answers.boxes[answer])), 4),
                taken=bool(taken),
            )
        )
    return found


def _nearest(answers: Answers) -> np.ndarray:
    """[n] bool: no other question has the same answer, or this one is the nearest to it."""
    same = (iou(answers.boxes[:, None], answers.boxes) >= SAME) & (
        answers.labels[:, None] == answers.labels
    )
    rank = (-answers.moved).argsort(kind="stable").argsort()
    return np.all(rank[:, None] <= np.where(same, rank, len(rank)), axis=1)


def snapped(data: DetectionDataset, snaps: list[Snap], names: tuple[str, ...]) -> Changed:
    """``data`` with the boxes and classes that were taken; ``names`` are those of all splits."""
    edits: dict[int, list[Edit]] = {}
    for each in snaps:
        if each.taken:
            edit = Edit(each.row, each.after, names.index(each.name_after))
            edits.setdefault(each.image, []).append(edit)
    return Changed(data, edits, names)
