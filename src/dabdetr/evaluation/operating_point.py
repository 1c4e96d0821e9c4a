"""Thresholds and a calibration of scores, chosen on a validation split.

F1 is flat around its maximum. The median of the thresholds whose F1 is within ``FLAT`` of it is
written to ``inference.conf``: there F1 falls least if scores on new images are a little higher or
lower. A class with enough objects gets a threshold of its own: of those within ``FLAT`` of its
highest F1, the one nearest to the threshold of all classes. So a class that is easy to detect has
no threshold just below the scores of clear objects, where the first unusual one would be missed.

A logistic curve over the logit of the score (Platt 1999) turns scores into the probability that a
detection is right. Neither changes the order of detections, so neither changes AP.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np

from dabdetr.config import Config
from dabdetr.data.dataset import DetectionDataset
from dabdetr.evaluation.coco_ap import Boxes, right_at
from dabdetr.evaluation.evaluate import columns
from dabdetr.evaluation.result import Evaluation

ENOUGH = 30
"""The fewest objects for which a class gets its own threshold."""

FLAT = 0.01
"""A difference of F1 that a few hundred objects cannot distinguish from chance."""

LOWEST = 0.05
"""Calibration leaves out detections with lower scores, as they are never shown."""

BINS = 10


@dataclass(frozen=True)
class OperatingPoint:
    """A threshold ``conf``, and precision, recall and F1 there at IoU 0.5.

    Of all classes together or of one class.
    """

    conf: float
    precision: float
    recall: float
    f1: float


@dataclass(frozen=True)
class Calibration:
    """p = σ(scale · logit(score) + shift): the probability that a detection of a score is right.

    ``error`` and ``before`` are the expected calibration errors over ``BINS`` equally filled bins,
    with and without the calibration.
    """

    scale: float
    shift: float
    error: float
    before: float

    def of(self, score: np.ndarray) -> np.ndarray:
        """Calibrated scores."""
        return 1 / (1 + np.exp(-(self.scale * _logit(score) + self.shift)))


@dataclass(frozen=True)
class Chosen:
    """A config with thresholds and calibration, and their quality on the split."""

    config: Config
    point: OperatingPoint
    calibration: Calibration | None

    def calibrated(self, found: Evaluation) -> Evaluation:
        """``found``, made without calibration, with calibrated scores."""
        if self.calibration is None:
            return found
        curve = self.calibration
        every = (
            replace(each, scores=curve.of(each.scores).astype(np.float32))
            for each in found.detections
        )
        return replace(found, detections=tuple(every))

    def __str__(self) -> str:
        conf = self.config.inference.conf
        line = f"threshold {conf:.2f}: precision {self.point.precision:.3f}, "
        line += f"recall {self.point.recall:.3f}"
        if self.calibration is None:
            return line + "; scores cannot be calibrated"
        before, after = self.calibration.before, self.calibration.error
        return line + f"; calibration error of scores {before:.3f}, now {after:.3f}"


def with_operating_point(config: Config, data: DetectionDataset, found: Evaluation) -> Chosen:
    """``config`` with thresholds and calibration chosen on the detections of a validation split.

    ``found`` has the model's scores without calibration. ValueError if the split has fewer than
    ``ENOUGH`` objects, or no detection is right.
    """
    truth, boxes, labels = shown_columns(data, found)
    whole, by_class = operating_points(truth, boxes, len(labels))
    objects = int((~truth.crowd).sum())
    if objects < ENOUGH:
        raise ValueError(
            f"thresholds need at least {ENOUGH} objects and {data.name} {data.split} has {objects}"
            "; label more images, or set inference.conf by hand"
        )
    if whole is None:
        raise ValueError(
            f"no detection in {data.name} {data.split} is right at IoU 0.5: there is no threshold "
            "to choose; train the model further"
        )
    curve = calibrate(truth, boxes, len(labels))

    def calibrated(score: float) -> float:
        return round(score if curve is None else float(curve.of(np.array([score]))[0]), 4)

    names = {int(place): name for place, name in zip(labels, data.names, strict=True)}
    inference = config.inference.model_copy(
        update={
            "conf": calibrated(whole.conf),
            "class_conf": {
                names[label]: calibrated(point.conf) for label, point in by_class.items()
            },
            "calibration": None if curve is None else (curve.scale, curve.shift),
        }
    )
    return Chosen(config.model_copy(update={"inference": inference}), whole, curve)


def shown_columns(data: DetectionDataset, found: Evaluation) -> tuple[Boxes, Boxes, np.ndarray]:
    """``columns`` of the best class of each query, as `predict` shows no other."""
    return columns(data, [each.best_of_query() for each in found.detections])


def operating_points(
    truth: Boxes, found: Boxes, classes: int
) -> tuple[OperatingPoint | None, dict[int, OperatingPoint]]:
    """The best threshold for all classes, and by label for each class with ``ENOUGH`` objects.

    None, and no entry for a class, if no detection is right.
    """
    right, counted = right_at(truth, found, classes)
    objects = np.bincount(truth.label[~truth.crowd], minlength=classes)
    every = _thresholds(found.score[counted], right[counted], int(objects.sum()))
    if not every:
        return None, {}
    whole = every[len(every) // 2]
    by_class: dict[int, OperatingPoint] = {}
    for label in np.flatnonzero(objects >= ENOUGH):
        rows = counted & (found.label == label)
        points = _thresholds(found.score[rows], right[rows], int(objects[label]))
        if points:
            by_class[int(label)] = min(points, key=lambda point: abs(point.conf - whole.conf))
    return whole, by_class


def _thresholds(score: np.ndarray, right: np.ndarray, objects: int) -> list[OperatingPoint]:
    """Thresholds whose F1 is within ``FLAT`` of the highest; none if no detection is right.

    Each is halfway between the last score above it and the first one below.
    """
    order = np.argsort(-score, kind="stable")
    score, hits = score[order], right[order].cumsum()
    if not len(hits) or not hits[-1]:
        return []
    shown = np.arange(1, len(hits) + 1)
    f1 = 2 * hits / (shown + objects)
    f1[:-1][score[:-1] == score[1:]] = -1.0  # no threshold separates equal scores
    conf = (score + np.append(score[1:], 0.0)) / 2
    return [
        OperatingPoint(float(conf[at]), hits[at] / shown[at], hits[at] / objects, float(f1[at]))
        for at in np.flatnonzero(f1 >= f1.max() - FLAT)
    ]


def calibrate(truth: Boxes, found: Boxes, classes: int) -> Calibration | None:
    """The curve that fits best; None if all detections are right, none is, or the curve falls."""
    from sklearn.linear_model import LogisticRegression

    right, counted = right_at(truth, found, classes)
    rows = counted & (found.score >= LOWEST)
    score, right = found.score[rows], right[rows]
    if not len(right) or right.all() or not right.any():
        return None
    logit = _logit(score)[:, None]
    # the penalty keeps the slope finite where scores separate right from wrong
    curve = LogisticRegression(C=1.0).fit(logit, right)
    scale, shift = float(curve.coef_[0, 0]), float(curve.intercept_[0])
    if scale <= 0:  # a falling curve would reverse the order of detections
        return None
    curve = Calibration(scale, shift, 0.0, calibration_error(score, right))
    return replace(curve, error=calibration_error(curve.of(score), right))


def calibration_error(score: np.ndarray, right: np.ndarray) -> float:
    """Mean distance of score and precision over equally filled bins, weighted by bin size."""
    order = np.argsort(score, kind="stable")
    parts = np.array_split(order, min(BINS, max(1, len(order))))
    gaps = [abs(score[p].mean() - right[p].mean()) * len(p) for p in parts if len(p)]
    return float(sum(gaps) / max(1, len(order)))


def _logit(score: np.ndarray) -> np.ndarray:
    score = np.clip(score.astype(np.float64), 1e-6, 1 - 1e-6)
    return np.log(score / (1 - score))
