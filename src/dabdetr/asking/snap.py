"""Snapping: each box of a data set is replaced by the model's answer about it, if that is sure."""

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
    """A box and the model's answer about it.

    image        index in its split
    row          row of the box in the image's record
    before       x0 y0 x1 y1 in pixels, as labelled; ``name_before`` is its class
    after        the answer's box, whether taken or not
    name_after   class after snapping
    name, score  class and score of the answer
    moved        IoU of both boxes
    taken        whether the answer replaces the box
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
    """The model's answer about every box; a list for each image, in order.

    An answer is taken if it scores at least ``conf`` (by default the model's thresholds) and has
    the box's class. A box of a class that the model lacks gets the answer's class; any other box
    only with ``rename``. If several boxes of an image have the same answer, only the nearest one
    takes it. With ``clicks`` the centre of a box is asked about instead of the box.
    """
    known = label_map(data, predictor.names)
    limits = predictor.class_thresholds(conf)

    def entries() -> Iterator[tuple[Any, Any]]:
        for index in range(len(data)):
            record = data.record(index)
            boxes, labels = record.boxes[~record.crowd], known[record.labels[~record.crowd]]
            classes = [None if rename or label < 0 else int(label) for label in labels]
            yield ((boxes[:, :2] + boxes[:, 2:]) / 2 if clicks else boxes), classes

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
    record, snaps = data.record(index), []
    nearest = _nearest(answers)
    for answer, row in enumerate(np.flatnonzero(~record.crowd).tolist()):
        label, score = int(answers.labels[answer]), float(answers.scores[answer])
        own_label, before = int(record.labels[row]), record.boxes[row]
        renamed = rename or known[own_label] < 0
        fits = renamed or label == known[own_label]
        taken = nearest[answer] and score >= limits[label] and fits
        name = answers.names[label]
        snaps.append(
            Snap(
                split=data.split,
                file=record.file,
                image=index,
                row=row,
                before=rounded(before),
                after=rounded(answers.boxes[answer]),
                name_before=data.names[own_label],
                name_after=name if taken and renamed else data.names[own_label],
                name=name,
                score=round(score, 4),
                moved=round(float(iou(before, answers.boxes[answer])), 4),
                taken=bool(taken),
            )
        )
    return snaps


def _nearest(answers: Answers) -> np.ndarray:
    """[n] bool: of all questions with the same answer, this one is the nearest to it."""
    same = (iou(answers.boxes[:, None], answers.boxes) >= SAME) & (
        answers.labels[:, None] == answers.labels
    )
    rank = (-answers.moved).argsort(kind="stable").argsort()
    return np.all(rank[:, None] <= np.where(same, rank, len(rank)), axis=1)


def snapped(data: DetectionDataset, snaps: list[Snap], names: tuple[str, ...]) -> Changed:
    """``data`` with the taken boxes and classes; ``names`` are the classes of all splits."""
    edits: dict[int, list[Edit]] = {}
    for each in snaps:
        if each.taken:
            edit = Edit(each.row, each.after, names.index(each.name_after))
            edits.setdefault(each.image, []).append(edit)
    return Changed(data, edits, names)
