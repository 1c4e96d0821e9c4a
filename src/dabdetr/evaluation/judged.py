"""An image's shown detections and its objects, paired at IoU 0.5, as a person would count them."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from dabdetr.data.dataset import DetectionDataset, ImageRecord
from dabdetr.evaluation.curves import pair
from dabdetr.evaluation.operating_point import operating_points, shown_columns
from dabdetr.evaluation.result import Evaluation
from dabdetr.structures import Detections
from dabdetr.structures.boxes import area, shared_area


@dataclass(frozen=True)
class Judged:
    """An image's shown detections and its objects, paired at IoU 0.5, whatever their classes.

    found      the detections above the thresholds, one for each query
    labels, boxes  of the objects, without crowds; boxes are corners in pixels
    of_found   [n] the object paired with each detection; −1: none
    of_object  [m] the detection paired with each object; −1: none
    """

    found: Detections
    labels: np.ndarray
    boxes: np.ndarray
    of_found: np.ndarray
    of_object: np.ndarray

    @property
    def caught(self) -> np.ndarray:
        """[m] bool: objects found with the right class."""
        found_as = self.found.labels[self.of_object] if len(self.found) else self.of_object
        return (self.of_object >= 0) & (found_as == self.labels)

    @property
    def missed(self) -> int:
        """Objects not found, or found as another class."""
        return int((~self.caught).sum())

    @property
    def false(self) -> int:
        """Detections that are not paired with an object of their class."""
        return len(self.found) - int(self.caught.sum())


def judge(data: DetectionDataset, found: Evaluation, limits: np.ndarray) -> list[Judged]:
    """``judge_image`` for every image of ``data``; ``found`` has the data set's labels."""
    every = enumerate(found.detections)
    return [judge_image(data.record(index), each, limits) for index, each in every]


def judge_image(record: ImageRecord, found: Detections, limits: np.ndarray) -> Judged:
    """An image's detections from the thresholds ``limits`` [classes] on, paired with its objects.

    Each query is shown once, as its best class. ``found`` has the data set's labels.
    """
    keep = ~record.crowd
    boxes, labels = record.boxes[keep], record.labels[keep]
    shown = found.best_of_query().above(limits)
    if record.crowd.any():  # detections with half of their box on a crowd count neither way
        shared = shared_area(shown.boxes[:, None], record.boxes[record.crowd])
        shown = shown[~np.any(shared >= area(shown.boxes)[:, None] / 2, axis=1)]
    same = shown.labels[:, None] == labels
    return Judged(shown, labels, boxes, *pair(shown.boxes, boxes, same))


def default_limits(data: DetectionDataset, found: Evaluation) -> np.ndarray:
    """[classes] the threshold with the best F1 over all classes, for detections without a model."""
    truth, boxes, labels = shown_columns(data, found)
    whole, _ = operating_points(truth, boxes, len(labels))
    return np.full(len(labels), 0.5 if whole is None else whole.conf, np.float32)
