"""Suspicions about an image's labels: what a model answers about each box, against its label.

A label that the answer contradicts is a suspicion, and so is a detection that no label explains.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from dabdetr.data.dataset import DetectionDataset, ImageRecord
from dabdetr.evaluation.causes import Doubt
from dabdetr.structures import Answers
from dabdetr.structures.boxes import iou

KINDS = {
    "class": "another class",
    "loose": "a loose or shifted box",
    "missing": "a missing label",
    "phantom": "a label on nothing",
    "double": "a second label of one object",
}
"""Kind of suspicion → what it says."""

SAME = 0.5
"""IoU from which two boxes are of one object."""
TIGHT = 0.75
"""IoU with its answer from which a box is not suspected of being loose."""
LOOSE = 0.45
"""IoU with its answer up to which a box is certainly loose."""
EXPLAINED = 0.3
"""IoU with a label from which a detection is no missing one."""
MISSING = 0.5
"""How much a detection without a label weighs beside a label that is contradicted: people leave
objects out more often than they get a label wrong."""
NOTHING = 4
"""How sharply the suspicion of a label on nothing falls with the score of the answer."""


@dataclass(frozen=True)
class Suspicion:
    """What may be wrong in an image, and how it would be mended.

    suspicion  0–1, how sure the model is of it
    image      index in its split
    row        of the image's record; None where a label is missing
    box        x0 y0 x1 y1 in pixels, as labelled; None where it is missing
    name       the class as labelled
    answer     the box that the model gives, with ``answer_name`` and ``score``
    mend       what ``--fix`` does: "box", "class", "remove" or "add"
    """

    kind: str
    suspicion: float
    split: str
    file: str
    image: int
    row: int | None
    box: tuple[float, ...] | None
    name: str | None
    answer: tuple[float, ...]
    answer_name: str
    score: float
    mend: str

    def to_dict(self) -> dict[str, Any]:
        """Plain values."""
        return asdict(self)


def of_image(
    data: DetectionDataset,
    index: int,
    record: ImageRecord,
    answers: Answers,
    usual: np.ndarray | None = None,
) -> list[Suspicion]:
    """The suspicions of one image; ``answers`` to its boxes, crowds left out.

    ``usual`` are the image's ``habits``; scores where they are not known.
    """
    rows = np.flatnonzero(~record.crowd)
    boxes = record.boxes[rows]
    own = label_map(data, answers.names)[record.labels[rows]]
    about = {"split": data.split, "file": record.file, "image": index}
    found: list[Suspicion] = []

    def add(kind: str, suspicion: float, at: int | None, answer: Any, mend: str) -> None:
        box, label, score = answer
        found.append(
            Suspicion(
                kind=kind,
                suspicion=round(float(suspicion), 4),
                row=None if at is None else int(rows[at]),
                box=None if at is None else rounded(boxes[at]),
                name=None if at is None else data.names[record.labels[rows[at]]],
                answer=rounded(box),
                answer_name=answers.names[int(label)],
                score=round(float(score), 4),
                mend=mend,
                **about,
            )
        )

    overlap = iou(boxes, answers.boxes)
    doubles = _doubles(boxes, overlap)
    for at in range(len(rows)):
        answer = (answers.boxes[at], answers.labels[at], answers.scores[at])
        score, label = float(answers.scores[at]), int(answers.labels[at])
        given = float(answers.class_scores[at, own[at]]) if own[at] >= 0 else score
        # Where the answer left for an object of another label, the box itself holds nothing.
        others = np.delete(boxes, at, axis=0)
        taken = bool(iou(others, answers.boxes[at]).max(initial=0) >= SAME > overlap[at])
        if (
            not taken and overlap[at] >= EXPLAINED
        ):  # a bad box may lower the score of an object that is found without it
            score = max(score, _near(answers.boxes[at], answers))
            given = max(given, _near(answers.boxes[at], answers, own[at]))
        here = score * min(1.0, overlap[at] / SAME) if taken else score
        if at in doubles:
            add("double", doubles[at], at, answer, "remove")
            continue
        kinds = {
            "class": (score - given) * min(1.0, overlap[at] / SAME),
            "loose": 0.0
            if taken
            else given**0.5 * np.clip((TIGHT - overlap[at]) / (TIGHT - LOOSE), 0, 1),
            "phantom": (1 - here) ** NOTHING * (1 - _near(boxes[at], answers)),
        }
        kind = max(kinds, key=lambda name: kinds[name])
        mend = {"class": "class", "loose": "box", "phantom": "remove"}[kind]
        add(kind, kinds[kind], at, answer, mend)
    detections = answers.detections
    usual = detections.scores if usual is None else usual
    for box, label, score, chance in zip(
        detections.boxes, detections.labels, detections.scores, usual, strict=True
    ):
        explained = max(
            iou(boxes, box).max(initial=0),
            (iou(answers.boxes, box) * (overlap > EXPLAINED)).max(initial=0),
            iou(record.boxes[record.crowd], box).max(initial=0),
        )
        if explained < EXPLAINED and _judged(record, data, answers.names[int(label)]):
            add("missing", MISSING * chance, None, (box, label, score), "add")
    return found


def _doubles(boxes: np.ndarray, overlap: np.ndarray) -> dict[int, float]:
    """Boxes that a better one of the same image covers, and how much they share."""
    pairs = iou(boxes[:, None], boxes)
    found: dict[int, float] = {}
    for at, other in zip(*np.nonzero(np.triu(pairs >= TIGHT, 1)), strict=True):
        worse = int(at if overlap[at] < overlap[other] else other)
        found[worse] = max(found.get(worse, 0.0), float(pairs[at, other]))
    return found


def _near(box: np.ndarray, answers: Answers, label: int | None = None) -> float:
    """The score of the best detection, of one class or any, that is of the box's object."""
    detections = answers.detections
    same = iou(box, detections.boxes) >= SAME
    if label is not None:
        same &= detections.labels == label
    return float(detections.scores[same].max(initial=0))


def _judged(record: ImageRecord, data: DetectionDataset, name: str) -> bool:
    """Whether all objects of the class are labelled in this image, as far as the data tell."""
    if name not in data.names:
        return False
    return record.known is None or data.names.index(name) in record.known


def doubts(data: DetectionDataset, index: int, answers: Answers) -> dict[int, Doubt]:
    """The suspicion against each label that ``audit`` has, by its row without crowds."""
    record = data.record(index)
    place = {int(row): at for at, row in enumerate(np.flatnonzero(~record.crowd))}
    return {
        place[each.row]: Doubt(each.kind, each.suspicion)
        for each in of_image(data, index, record, answers)
        if each.row is not None
    }


def label_map(data: DetectionDataset, names: Sequence[str]) -> np.ndarray:
    """[classes of the data] the model's label of the class of the same name; −1: it has none."""
    return np.array([names.index(each) if each in names else -1 for each in data.names], np.int64)


def rounded(box: np.ndarray) -> tuple[float, ...]:
    """Corners to hundredths of a pixel, as plain numbers."""
    return tuple(box.astype(float).round(2).tolist())


def habits(records: Sequence[ImageRecord], answered: Sequence[Answers]) -> list[np.ndarray]:
    """How likely each image's detections have a label, by what is usual in these very data.

    A logistic fit to the detection's score, and to the share of the image's other detections that
    have one: where half of the objects were never labelled, one more is no surprise.
    """
    inputs, labelled = [], []
    for record, answers in zip(records, answered, strict=True):
        found = answers.detections
        has = iou(record.boxes[:, None], found.boxes).max(0, initial=0) >= SAME
        score = found.scores.astype(np.float64)
        others = score.sum() - score
        share = ((score * has).sum() - score * has + 0.5) / (others + 1)
        inputs.append(np.stack((_logit(score), _logit(share), np.ones(len(score))), axis=1))
        labelled.append(has)
    if not inputs:
        return []
    x, y = np.concatenate(inputs), np.concatenate(labelled)
    weights = np.zeros(x.shape[1])
    for _ in range(20):  # Newton's steps, held by a unit prior
        chance = 1 / (1 + np.exp(-x @ weights))
        slope = (x * (chance * (1 - chance))[:, None]).T @ x + np.eye(len(weights))
        weights = weights + np.linalg.solve(slope, x.T @ (y - chance) - weights)
    return [1 / (1 + np.exp(-each @ weights)) for each in inputs]


def _logit(share: np.ndarray) -> np.ndarray:
    share = share.clip(1e-4, 1 - 1e-4)
    return np.log(share / (1 - share))
