"""Answers of a model to questions about boxes, as numpy arrays without torch."""

from __future__ import annotations

from dataclasses import dataclass, fields, replace
from typing import Any

import numpy as np

from dabdetr.structures.boxes import iou
from dabdetr.structures.detections import Detections


@dataclass(frozen=True)
class Answers:
    """The answers about boxes or clicks in one image, in the order of the questions.

    A box has one row. A click has a row for each anchor tried there, the best first.

    asked         [n, 4] float32, x0 y0 x1 y1 in pixels of the image: the anchor of each query
    boxes         [n, 4] float32: the predicted boxes, clipped to the image
    class_scores  [n, classes] float32, 0–1
    layers        [layers, n, 4] float32: the boxes after every decoder layer, not clipped
    questions     [n] int64: index of the box or click that the row answers
    found         [n] int64: the row of ``detections`` that the answer coincides with; −1: none
    detections    the model's detections in the image, from the same pass
    """

    asked: np.ndarray
    boxes: np.ndarray
    class_scores: np.ndarray
    layers: np.ndarray
    questions: np.ndarray
    found: np.ndarray
    detections: Detections

    def __len__(self) -> int:
        return len(self.boxes)

    def __getitem__(self, index: Any) -> Answers:
        """A subset: by slice, index array or boolean mask."""
        if isinstance(index, int | np.integer):
            index = [index]
        rows = {
            each.name: getattr(self, each.name)[index]
            for each in fields(self)
            if each.name not in ("layers", "detections")
        }
        return replace(self, layers=self.layers[:, index], **rows)

    @property
    def labels(self) -> np.ndarray:
        """[n] int64: the class with the highest score."""
        return self.class_scores.argmax(1)

    @property
    def scores(self) -> np.ndarray:
        """[n] float32: the score of that class; low if there is no object."""
        return self.class_scores.max(1, initial=0)

    @property
    def moved(self) -> np.ndarray:
        """[n] float32: IoU of the answer with the box asked about; 1: it has not moved."""
        return iou(self.asked, self.boxes)

    @property
    def names(self) -> tuple[str, ...]:
        """Class names of the model."""
        return self.detections.names

    def best(self) -> Answers:
        """The first row of each question, which is the best."""
        return self[np.unique(self.questions, return_index=True)[1]]

    def to_detections(self) -> Detections:
        """The best answers as detections, best first; ``queries`` are the questions' indices."""
        best = self.best()
        best = best[np.argsort(-best.scores, kind="stable")]
        return replace(
            self.detections,
            boxes=best.boxes,
            scores=best.scores,
            labels=best.labels,
            queries=best.questions,
        )

    def to_dict(self) -> dict[str, Any]:
        """Plain values, ready for JSON: source, size and a list of answers."""
        about = self.detections[:0].to_dict()
        del about["detections"]
        rows = zip(
            self.questions.tolist(),
            self.asked.astype(float).round(2).tolist(),
            self.boxes.astype(float).round(2).tolist(),
            self.labels.tolist(),
            self.scores.astype(float).round(5).tolist(),
            self.moved.astype(float).round(4).tolist(),
            self.found.tolist(),
            strict=True,
        )
        keys = ("question", "asked", "box", "label", "score", "moved", "found")
        answers = [dict(zip(keys, row, strict=True)) for row in rows]
        return {**about, "answers": [{"name": self.names[a["label"]], **a} for a in answers]}
