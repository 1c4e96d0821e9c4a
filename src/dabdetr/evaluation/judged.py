"""What people would count: an image's shown detections beside its objects, paired at IoU 0.5."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from dabdetr.data.dataset import DetectionDataset, ImageRecord
from dabdetr.evaluation.curves import pair
from dabdetr.evaluation.evaluate import columns
from dabdetr.evaluation.operating_point import operating_points
from dabdetr.evaluation.result import Evaluation
from dabdetr.structures import Detections


@dataclass(frozen=True)
class Judged:
    """An image's shown detections and its objects, paired at IoU 0.5, whatever their classes.

    of_found   [n] the object of each detection, of_object [m] the detection of each; −1: none
    labels, boxes  of the objects, crowds left out; boxes are corners in pixels
    """

    found: Detections
    labels: np.ndarray
    boxes: np.ndarray
    of_found: np.ndarray
    of_object: np.ndarray

    @property
    def caught(self) -> np.ndarray:
        """[m] bool: objects found with the right class."""
        other = self.found.labels[self.of_object] if len(self.found) else self.of_object
        return (self.of_object >= 0) & (other == self.labels)

    @property
    def missed(self) -> int:
        """Objects not found, or found as another class."""
        return int((~self.caught).sum())

    @property
    def false(self) -> int:
        """Detections that are no object of their class."""
        return len(self.found) - int(self.caught.sum())


def judge(data: DetectionDataset, found: Evaluation, limits: np.ndarray) -> list[Judged]:
    """Every image's detections of at least ``limits`` [classes], each query once, and objects."""
    every = enumerate(found.detections)
    return [judge_image(data.record(index), each, limits) for index, each in every]


def judge_image(record: ImageRecord, found: Detections, limits: np.ndarray) -> Judged:
    """One image's; labels of ``found`` count in the data's classes."""
    keep = ~record.crowd
    boxes, labels = record.boxes[keep], record.labels[keep]
    shown = found.best_of_query().above(limits)
    if record.crowd.any():  # what lies on a crowd counts neither way
        shown = shown[~_on_crowd(shown.boxes, record.boxes[record.crowd])]
    same = shown.labels[:, None] == labels
    return Judged(shown, labels, boxes, *pair(shown.boxes, boxes, same))


def default_limits(data: DetectionDataset, found: Evaluation) -> np.ndarray:
    """[classes] the threshold of the best F1 of all classes, for detections without a model."""
    truth, boxes, labels = columns(data, found.detections)
    whole, _ = operating_points(truth, boxes, len(labels))
    return np.full(len(labels), 0.5 if whole is None else whole.conf, np.float32)


def _on_crowd(boxes: np.ndarray, crowds: np.ndarray) -> np.ndarray:
    """[n] bool: half of the box or more lies on a crowd."""
    low = np.maximum(boxes[:, None, :2], crowds[:, :2])
    shared = (np.minimum(boxes[:, None, 2:], crowds[:, 2:]) - low).clip(0).prod(-1)
    own = (boxes[:, 2:] - boxes[:, :2]).clip(0).prod(-1)
    return (shared >= own[:, None] / 2).any(1)
