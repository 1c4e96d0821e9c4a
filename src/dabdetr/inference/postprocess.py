"""From logits and boxes of a decoder layer to ranked detections in pixels; numpy only."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal, NamedTuple

import numpy as np

from dabdetr.config import Inference
from dabdetr.inference.runtime import Sizes
from dabdetr.structures import Detections
from dabdetr.text import shown

Classifier = Literal["sigmoid", "softmax"]


class Ranked(NamedTuple):
    """The ranked detections of one image, best first; ``queries`` are the indices of the queries.

    boxes [found, 4] float32, scores [found] float32, labels and queries [found] int64
    """

    boxes: np.ndarray
    scores: np.ndarray
    labels: np.ndarray
    queries: np.ndarray


def postprocess(
    logits: Any,
    boxes: Any,
    sizes: Sizes,
    max_det: int = 300,
    classifier: Classifier = "sigmoid",
) -> list[Ranked]:
    """The ``max_det`` best pairs of query and class of each image (Deformable DETR's top-k).

    With a softmax classifier (DETR) only the best class of each query counts, and the last logit is
    "no object".

    ``logits`` [batch, queries, classes] and ``boxes`` [batch, queries, 4], cxcywh, 0–1, are arrays
    or convertible by numpy; ``sizes`` are (height, width) of the original images. Boxes are
    returned as x0 y0 x1 y1 in pixels of these images, neither thresholded nor clipped. With fewer
    pairs than ``max_det`` all are returned.
    """
    logits, boxes = np.asarray(logits, np.float32), np.asarray(boxes, np.float32)
    rank = _softmax if classifier == "softmax" else _sigmoid
    found = []
    for of_image, normalised, (height, width) in zip(logits, boxes, sizes, strict=True):
        scores, labels, queries = rank(of_image, max_det)
        centre, half = normalised[queries, :2], normalised[queries, 2:] / 2
        corners = np.concatenate((centre - half, centre + half), axis=1)
        scale = np.array((width, height, width, height), np.float32)
        found.append(Ranked(corners * scale, scores, labels, queries))
    return found


def ranked(
    logits: np.ndarray,
    boxes: np.ndarray,
    sizes: Sizes,
    max_det: int,
    classifier: Classifier,
    calibration: tuple[float, float] | None = None,
) -> list[Ranked]:
    """``postprocess`` with scores calibrated by ``inference.calibration``, in the same order."""
    found = postprocess(logits, boxes, sizes, max_det, classifier)
    if calibration is None:
        return found
    return [each._replace(scores=_calibrated(each.scores, *calibration)) for each in found]


def refuse_nonfinite(outputs: Sequence[np.ndarray], sources: Sequence[str]) -> None:
    """ValueError, with the image's source, where an output [batch, ...] is not finite."""
    for n in range(len(outputs[0])):
        if not all(np.isfinite(each[n]).all() for each in outputs):
            source = sources[n] if n < len(sources) else ""
            raise ValueError(
                f"the model's answer for {source or 'an image'} is not finite; its weights are "
                "broken (did the training diverge?): take another checkpoint"
            )


def detections(
    logits: np.ndarray,
    boxes: np.ndarray,
    sizes: Sizes,
    max_det: int,
    names: tuple[str, ...],
    classifier: Classifier,
    sources: Sequence[str] = (),
    calibration: tuple[float, float] | None = None,
) -> list[Detections]:
    """``ranked`` as ``Detections``; ValueError where an output is not finite."""
    refuse_nonfinite((logits, boxes), sources)
    found = ranked(logits, boxes, sizes, max_det, classifier, calibration)
    return named(found, names, sizes, sources)


def named(
    found: Sequence[Ranked],
    names: tuple[str, ...],
    sizes: Sizes,
    sources: Sequence[str] = (),
) -> list[Detections]:
    """Ranked boxes as ``Detections``, with class names, image sizes and sources."""
    sources = sources or [""] * len(sizes)
    return [
        Detections(*each, names, size, source)
        for each, size, source in zip(found, sizes, sources, strict=True)
    ]


def class_scores(
    logits: np.ndarray, classifier: Classifier, calibration: tuple[float, float] | None = None
) -> np.ndarray:
    """Scores [.., classes] float32 of logits [.., classes (+ "no object" with softmax)]."""
    logits = np.asarray(logits, np.float32)
    if classifier == "softmax":
        exponentials = np.exp(logits - logits.max(-1, keepdims=True))
        scores = (exponentials / exponentials.sum(-1, keepdims=True))[..., :-1]
    else:
        scores = np.exp(-np.logaddexp(0, -logits))
    return scores if calibration is None else _calibrated(scores, *calibration)


def class_thresholds(inference: Inference, names: Sequence[str]) -> np.ndarray:
    """The config's score thresholds [classes]."""
    return np.array([inference.class_conf.get(name, inference.conf) for name in names], np.float32)


def thresholds(inference: Inference, conf: float | None, max_det: int | None) -> tuple[float, int]:
    """``conf`` and ``max_det``, or the config's where they are None; ValueError out of range."""
    conf = inference.conf if conf is None else conf
    max_det = inference.max_det if max_det is None else max_det
    number = isinstance(conf, int | float | np.number) and not isinstance(conf, bool)
    if not (number and 0 <= conf <= 1):
        raise ValueError(f"conf should be a number between 0 and 1; got {shown(conf)}")
    if not (isinstance(max_det, int | np.integer) and max_det >= 1):
        raise ValueError(f"max_det should be an integer of at least 1; got {shown(max_det)}")
    return conf, max_det


def _calibrated(scores: np.ndarray, scale: float, shift: float) -> np.ndarray:
    """σ(scale · logit(score) + shift); scores 0 and 1 are unchanged."""
    with np.errstate(divide="ignore"):
        logits = np.log(scores) - np.log1p(-scores)
    return np.exp(-np.logaddexp(0, -(scale * logits + shift))).astype(scores.dtype)


def _sigmoid(logits: np.ndarray, most: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Scores, labels and queries of the best pairs of query and class.

    They are ranked by logits: large ones differ where their scores round to 1.
    """
    flat = logits.ravel()
    indices = _largest(flat, most)
    queries, labels = np.divmod(indices, logits.shape[1])
    return np.exp(-np.logaddexp(0, -flat[indices])), labels, queries


def _softmax(logits: np.ndarray, most: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Scores, labels and queries of the best queries."""
    of_classes = class_scores(logits, "softmax")
    labels = of_classes.argmax(1)
    scores = of_classes[np.arange(len(of_classes)), labels]
    queries = _largest(scores, most)
    return scores[queries], labels[queries], queries


def _largest(values: np.ndarray, most: int) -> np.ndarray:
    """Indices of the ``most`` largest values, the largest first; equal values in their order."""
    if most < len(values):
        indices = np.sort(np.argpartition(values, -most)[-most:])
    else:
        indices = np.arange(len(values))
    return indices[np.argsort(-values[indices], kind="stable")]
