"""Precision, recall, F1, confusion and calibration of detections, at IoU 0.5."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from dabdetr.evaluation.operating_point import BINS, LOWEST, calibration_error
from dabdetr.structures.boxes import iou

POINTS = 201
"""The most points of a drawn curve."""
OVERLAP = 0.5
"""IoU from which a box is that of an object."""


@dataclass(frozen=True)
class ClassCurve:
    """A class's precision, recall and F1 against the threshold, in falling order of scores.

    best  the row with the highest F1; None if no detection is right
    """

    scores: np.ndarray
    precision: np.ndarray
    recall: np.ndarray
    f1: np.ndarray
    best: int | None

    def thinned(self) -> dict[str, list[float]]:
        """Plain values of about ``POINTS`` rows, including the best one."""
        if not len(self.scores):
            rows = np.zeros(0, np.int64)
        else:  # half spaced evenly in recall, half in score, as one plot has each as its axis
            axes = (self.recall, -self.scores)
            even = [np.linspace(axis[0], axis[-1], POINTS // 2) for axis in axes]
            found = [np.searchsorted(axis, at) for axis, at in zip(axes, even, strict=True)]
            best = [] if self.best is None else [self.best]
            rows = np.unique(np.concatenate((*found, [0, len(self.scores) - 1], best)))
            rows = rows.astype(np.int64).clip(0, len(self.scores) - 1)
        columns = ("scores", "precision", "recall", "f1")
        return {name: np.round(getattr(self, name)[rows], 5).tolist() for name in columns}


def class_curve(score: np.ndarray, right: np.ndarray, objects: int) -> ClassCurve:
    """The curve of a class from its counted detections; ``right`` [n] bool."""
    order = np.argsort(-score, kind="stable")
    score, hits = score[order], right[order].cumsum()
    shown = np.arange(1, len(score) + 1)
    last = np.append(score[:-1] != score[1:], True)[: len(score)]  # one row for equal scores
    score, hits, shown = score[last], hits[last], shown[last]
    precision, recall = hits / np.maximum(shown, 1), hits / max(objects, 1)
    f1 = 2 * hits / np.maximum(shown + objects, 1)
    best = int(f1.argmax()) if len(f1) and f1.max() > 0 else None
    return ClassCurve(score, precision, recall, f1, best)


def reliability(score: np.ndarray, right: np.ndarray) -> dict[str, Any]:
    """How often counted detections are right, by score: ``BINS`` bins of equally many detections.

    Those with a score of at least ``LOWEST`` count. ``error`` is the expected calibration error.
    """
    rows = score >= LOWEST
    score, right = score[rows], right[rows]
    order = np.argsort(score, kind="stable")
    parts = [part for part in np.array_split(order, min(BINS, max(1, len(order)))) if len(part)]
    return {
        "score": [float(score[part].mean()) for part in parts],
        "precision": [float(right[part].mean()) for part in parts],
        "count": [len(part) for part in parts],
        "error": calibration_error(score, right),
    }


def pair(found: np.ndarray, objects: np.ndarray, same: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The object paired with each detection and the detection paired with each object; −1: none.

    Corner boxes [n, 4] and [m, 4]; ``same`` [n, m]: of one class. Pairs with an IoU above
    ``OVERLAP`` are taken in falling order of IoU, those of one class before all others.
    """
    of_found, of_object = np.full(len(found), -1), np.full(len(objects), -1)
    if len(found) and len(objects):
        shared = iou(found[:, None], objects[None])
        rows, columns = np.nonzero(shared > OVERLAP)
        order = np.lexsort((-shared[rows, columns], ~same[rows, columns]))
        for row, column in zip(rows[order].tolist(), columns[order].tolist(), strict=True):
            if of_found[row] < 0 and of_object[column] < 0:
                of_found[row], of_object[column] = column, row
    return of_found, of_object


def confusion(pairs: list[tuple[np.ndarray, np.ndarray]], classes: int) -> np.ndarray:
    """[classes + 1, classes + 1] counts: rows are true classes, columns found ones.

    ``pairs`` holds the true and the found labels of each image; label ``classes`` is background.
    """
    matrix = np.zeros((classes + 1, classes + 1), np.int64)
    for true, found in pairs:
        np.add.at(matrix, (true, found), 1)
    return matrix
