"""Suspicions about an image's labels, from a model's answer about the box of each label.

A label that the answer contradicts is suspicious, and so is a detection that no label explains.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from itertools import compress
from typing import Any

import numpy as np

from dabdetr.data.dataset import DetectionDataset, ImageRecord
from dabdetr.structures import Answers, Detections
from dabdetr.structures.boxes import iou

KINDS = {
    "class": "another class",
    "loose": "a loose or shifted box",
    "missing": "a missing label",
    "phantom": "a label on nothing",
    "duplicate": "a second label of one object",
}
"""Kind of suspicion → its description."""

REPAIRS = {
    "class": "class",
    "loose": "box",
    "missing": "add",
    "phantom": "remove",
    "duplicate": "remove",
}
"""Kind of suspicion → how ``--fix`` repairs the label."""

SAME = 0.5
"""IoU from which two boxes are of one object."""
TIGHT = 0.75
"""IoU of box and answer from which a box is not loose."""
LOOSE = 0.45
"""IoU of box and answer up to which a box is certainly loose."""
EXPLAINED = 0.3
"""IoU with a label from which a detection is not a missing label."""
MISSING = 4
"""Exponent of the probability that such a detection has a label in these data: where people leave
objects out, one more without a label is no news."""
NOTHING = 4
"""Exponent by which the suspicion of a label on nothing falls with the answer's score."""


_Found = tuple[str, float, int | None, tuple[np.ndarray, Any, Any]]
"""Kind, suspicion, row of the label, and the answer's box, label and score."""


@dataclass(frozen=True)
class Suspicion:
    """A possible fault in an image's labels, and its correction.

    kind       a key of ``KINDS``
    suspicion  0–1, the model's confidence in the fault
    image      index in its split
    row        row of the label in the image's record; None if the label is missing
    box        x0 y0 x1 y1 in pixels, as labelled; None if the label is missing
    name       class as labelled
    answer     the model's box, with ``answer_name`` and ``score``
    mend       a value of ``REPAIRS``
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
    """The suspicions of one image; ``answers`` are the model's to its boxes without crowds.

    ``usual`` are the image's ``habits``; the default is the detections' scores.
    """
    rows = np.flatnonzero(~record.crowd)
    boxes = record.boxes[rows]
    labels = label_map(data, answers.names)[record.labels[rows]]
    found = [
        *_of_labels(boxes, labels, answers),
        *_of_detections(boxes, record, answers, data, usual),
    ]
    return [
        Suspicion(
            kind=kind,
            suspicion=round(float(suspicion), 4),
            split=data.split,
            file=record.file,
            image=index,
            row=None if at is None else int(rows[at]),
            box=None if at is None else rounded(boxes[at]),
            name=None if at is None else data.names[record.labels[rows[at]]],
            answer=rounded(box),
            answer_name=name,
            score=round(float(score), 4),
            # a class that these data do not have cannot be given
            mend="remove" if kind == "class" and name not in data.names else REPAIRS[kind],
        )
        for kind, suspicion, at, (box, label, score) in found
        for name in [answers.names[int(label)]]
    ]


def _of_labels(boxes: np.ndarray, labels: np.ndarray, answers: Answers) -> Iterator[_Found]:
    """The strongest suspicion against each label; ``labels`` are the model's, −1: it lacks it."""
    overlap = iou(boxes, answers.boxes)
    duplicates = _duplicates(boxes, overlap)
    for at in range(len(boxes)):
        answer = (answers.boxes[at], answers.labels[at], answers.scores[at])
        if at in duplicates:
            yield "duplicate", duplicates[at], at, answer
            continue
        score = float(answers.scores[at])
        label_score = float(answers.class_scores[at, labels[at]]) if labels[at] >= 0 else score
        # If the answer moved to the object of another label, there is nothing in the box itself.
        others = np.delete(boxes, at, axis=0)
        moved = bool(iou(others, answers.boxes[at]).max(initial=0) >= SAME > overlap[at])
        # A bad box may lower the answer's score for an object that is detected without a question.
        if not moved and overlap[at] >= EXPLAINED:
            score = max(score, _detected(answers.boxes[at], answers))
            label_score = max(label_score, _detected(answers.boxes[at], answers, labels[at]))
        score_in_box = score * min(1.0, overlap[at] / SAME) if moved else score
        looseness = np.clip((TIGHT - overlap[at]) / (TIGHT - LOOSE), 0, 1)
        kinds = {
            "class": (score - label_score) * min(1.0, overlap[at] / SAME),
            "loose": 0.0 if moved else label_score**0.5 * looseness,
            "phantom": (1 - score_in_box) ** NOTHING * (1 - _detected(boxes[at], answers)),
        }
        kind = max(kinds, key=lambda name: kinds[name])
        yield kind, kinds[kind], at, answer


def _of_detections(
    boxes: np.ndarray,
    record: ImageRecord,
    answers: Answers,
    data: DetectionDataset,
    usual: np.ndarray | None,
) -> Iterator[_Found]:
    """A missing label for each detection that no label explains."""
    detections = answers.detections
    overlap = iou(boxes, answers.boxes)
    usual = detections.scores if usual is None else usual
    rows = zip(detections.boxes, detections.labels, detections.scores, usual, strict=True)
    for box, label, score, chance in compress(rows, _best(detections)):
        explained = max(
            iou(boxes, box).max(initial=0),
            (iou(answers.boxes, box) * (overlap > EXPLAINED)).max(initial=0),
            iou(record.boxes[record.crowd], box).max(initial=0),
        )
        name = answers.names[int(label)]
        labelled = name in data.names and (  # whether all objects of the class are, in this image
            record.known is None or data.names.index(name) in record.known
        )
        if explained < EXPLAINED and labelled:
            yield "missing", chance**MISSING, None, (box, label, score)


def _best(found: Detections) -> np.ndarray:
    """[detections] whether each is the best of its object: none with a higher score is there."""
    pairs = iou(found.boxes[:, None], found.boxes) >= SAME
    kept = np.zeros(len(found), bool)
    for at in np.argsort(-found.scores, kind="stable"):
        kept[at] = not (pairs[at] & kept).any()
    return kept


def _duplicates(boxes: np.ndarray, overlap: np.ndarray) -> dict[int, float]:
    """Rows of boxes that a better one of the image covers, and their IoU with it."""
    pairs = iou(boxes[:, None], boxes)
    found: dict[int, float] = {}
    for at, other in zip(*np.nonzero(np.triu(pairs >= TIGHT, 1)), strict=True):
        worse = int(at if overlap[at] < overlap[other] else other)
        found[worse] = max(found.get(worse, 0.0), float(pairs[at, other]))
    return found


def _detected(box: np.ndarray, answers: Answers, label: int | None = None) -> float:
    """The score of the best detection of the box's object, of one class or of any; 0: none."""
    detections = answers.detections
    same = iou(box, detections.boxes) >= SAME
    if label is not None:
        same &= detections.labels == label
    return float(detections.scores[same].max(initial=0))


def doubts(data: DetectionDataset, index: int, answers: Answers) -> dict[int, Suspicion]:
    """The suspicion that ``audit`` reports for each label, by its row without crowds."""
    record = data.record(index)
    place = {int(row): at for at, row in enumerate(np.flatnonzero(~record.crowd))}
    return {
        place[each.row]: each
        for each in of_image(data, index, record, answers)
        if each.row is not None
    }


def label_map(data: DetectionDataset, names: Sequence[str]) -> np.ndarray:
    """[classes of the data] the model's label of the class of the same name; −1: none."""
    return np.array([names.index(each) if each in names else -1 for each in data.names], np.int64)


def rounded(box: np.ndarray) -> tuple[float, ...]:
    """Corners rounded to hundredths of a pixel, as plain numbers."""
    return tuple(box.astype(float).round(2).tolist())


def habits(records: Sequence[ImageRecord], answered: Sequence[Answers]) -> list[np.ndarray]:
    """For each image, the probability that its detections have a label, as fitted to these data.

    A logistic fit to the detection's score and to the share of the image's other objects that have
    a label: in an image with many unlabelled objects, one more is less suspicious. Of several
    detections of one object the best counts.
    """
    inputs, labelled, counted = [], [], []
    for record, answers in zip(records, answered, strict=True):
        found = answers.detections
        has_label = iou(record.boxes[:, None], found.boxes).max(0, initial=0) >= SAME
        best = _best(found)
        score = found.scores.astype(np.float64)
        # of the other objects: neither this detection nor a worse or better one of its object
        apart = best & (iou(found.boxes[:, None], found.boxes) < SAME)
        share = (apart @ (score * has_label) + 0.5) / (apart @ score + 1)
        inputs.append(np.stack((_logit(score), _logit(share), np.ones(len(score))), axis=1))
        labelled.append(has_label)
        counted.append(best)
    if not inputs:
        return []
    kept = np.concatenate(counted)
    x, y = np.concatenate(inputs)[kept], np.concatenate(labelled)[kept]
    weights = np.zeros(x.shape[1])
    for _ in range(20):  # Newton's steps with a unit Gaussian prior on the weights
        chance = 1 / (1 + np.exp(-x @ weights))
        slope = (x * (chance * (1 - chance))[:, None]).T @ x + np.eye(len(weights))
        weights = weights + np.linalg.solve(slope, x.T @ (y - chance) - weights)
    return [1 / (1 + np.exp(-each @ weights)) for each in inputs]


def _logit(share: np.ndarray) -> np.ndarray:
    share = share.clip(1e-4, 1 - 1e-4)
    return np.log(share / (1 - share))
