"""Precision, recall, F1, confusion and calibration of detections, at IoU 0.5."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from dabdetr.evaluation.operating_point import BINS, LOWEST, calibration_error
from dabdetr.structures.boxes import iou

POINTS = 201
"""Points of a drawn curve at most."""
OVERLAP = 0.5


@dataclass(frozen=True)
class ClassCurve:
    """A class's precision, recall and F1 against the lowest score shown, scores falling.

    best  the row with the highest F1; None where nothing is right at any score
    """

    scores: np.ndarray
    precision: np.ndarray
    recall: np.ndarray
    f1: np.ndarray
    best: int | None

    def thinned(self, points: int = POINTS) -> dict[str, list[float]]:
        """Plain values of ``points`` rows about, the best one among them."""
        if not len(self.scores):
            rows = np.zeros(0, np.int64)
        else:  # half of them evenly in recall, half in score: each curve has its own axis
            ways = (self.recall, -self.scores)
            even = [np.linspace(way[0], way[-1], points // 2) for way in ways]
            found = [np.searchsorted(way, at) for way, at in zip(ways, even, strict=True)]
            best = [] if self.best is None else [self.best]
            rows = np.unique(np.concatenate((*found, [0, len(self.scores) - 1], best)))
            rows = rows.astype(np.int64).clip(0, len(self.scores) - 1)
        columns = ("scores", "precision", "recall", "f1")
        return {name: np.round(getattr(self, name)[rows], 5).tolist() for name in columns}


def class_curve(score: np.ndarray, right: np.ndarray, objects: int) -> ClassCurve:
    """Of the counted detections of a class; ``right`` [n] bool."""
    order = np.argsort(-score, kind="stable")
    score, hits = score[order], right[order].cumsum()
    shown = np.arange(1, len(score) + 1)
    apart = np.append(score[:-1] != score[1:], True)[: len(score)]  # equal scores come together
    score, hits, shown = score[apart], hits[apart], shown[apart]
    precision, recall = hits / np.maximum(shown, 1), hits / max(objects, 1)
    f1 = 2 * hits / np.maximum(shown + objects, 1)
    best = int(f1.argmax()) if len(f1) and f1.max() > 0 else None
    return ClassCurve(score, precision, recall, f1, best)


@dataclass(frozen=True)
class Calibrated:
    """How often detections are right by their score: bins that hold equally many of them."""

    score: list[float]
    precision: list[float]
    count: list[int]
    error: float


def reliability(score: np.ndarray, right: np.ndarray) -> Calibrated:
    """Of counted detections from a score of ``LOWEST`` on; the error is ECE over ``BINS`` bins."""
    rows = score >= LOWEST
    score, right = score[rows], right[rows]
    order = np.argsort(score, kind="stable")
    parts = [part for part in np.array_split(order, min(BINS, max(1, len(order)))) if len(part)]
    return Calibrated(
        [float(score[part].mean()) for part in parts],
        [float(right[part].mean()) for part in parts],
        [len(part) for part in parts],
        calibration_error(score, right),
    )


def pair(
    found: np.ndarray, objects: np.ndarray, same: np.ndarray, overlap: float = OVERLAP
) -> tuple[np.ndarray, np.ndarray]:
    """The object of each detection and the detection of each object, one for one; −1: none.

    Corner boxes [n, 4] and [m, 4]; ``same`` [n, m]: of one class. Pairs above ``overlap`` are taken
    from the largest IoU down, those of one class before all others.
    """
    of_found, of_object = np.full(len(found), -1), np.full(len(objects), -1)
    if len(found) and len(objects):
        shared = iou(found[:, None], objects[None])
        rows, columns = np.nonzero(shared > overlap)
        order = np.lexsort((-shared[rows, columns], ~same[rows, columns]))
        for row, column in zip(rows[order].tolist(), columns[order].tolist(), strict=True):
            if of_found[row] < 0 and of_object[column] < 0:
                of_found[row], of_object[column] = column, row
    return of_found, of_object


def confusion(pairs: list[tuple[np.ndarray, np.ndarray]], classes: int) -> np.ndarray:
    """[classes + 1, classes + 1] counts, rows true classes, columns found ones; last: background.

    ``pairs`` are true and found labels, one array each an image; ``classes`` is the background.
    """
    matrix = np.zeros((classes + 1, classes + 1), np.int64)
    for true, found in pairs:
        np.add.at(matrix, (true, found), 1)
    return matrix
