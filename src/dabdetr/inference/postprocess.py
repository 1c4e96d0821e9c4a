"""From logits and boxes of a decoder layer to ranked boxes in pixels; numpy alone."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal, NamedTuple

import numpy as np

from dabdetr.config import Inference
from dabdetr.structures import Detections
from dabdetr.text import shown

Classifier = Literal["sigmoid", "softmax"]


class Ranked(NamedTuple):
    """What one image's queries found, best first; queries are indices of decoder slots.

    boxes [found, 4] float32, scores [found] float32, labels and queries [found] int64
    """

    boxes: np.ndarray
    scores: np.ndarray
    labels: np.ndarray
    queries: np.ndarray


def postprocess(
    logits: Any,
    boxes: Any,
    sizes: Sequence[tuple[int, int]],
    max_det: int = 300,
    classifier: Classifier = "sigmoid",
) -> list[Ranked]:
    """The ``max_det`` best pairs of query and class of each image (Deformable DETR's top-k).

    A softmax classifier (DETR) gives each query its best class only; its last logit, "no object",
    is no class.

    ``logits`` [batch, queries, classes] and ``boxes`` [batch, queries, 4], cxcywh, 0–1, are arrays
    or what numpy makes one of; ``sizes`` are (height, width) of the original images. The result
    is x0 y0 x1 y1 in their pixels, neither thresholded nor clipped. Where there are fewer pairs
    than ``max_det``, all come back.
    """
    logits, boxes = np.asarray(logits, np.float32), np.asarray(boxes, np.float32)
    rank = _softmax if classifier == "softmax" else _sigmoid
    found = []
    for own_logits, placed, (height, width) in zip(logits, boxes, sizes, strict=True):
        scores, labels, queries = rank(own_logits, max_det)
        centre, half = placed[queries, :2], placed[queries, 2:] / 2
        corners = np.concatenate((centre - half, centre + half), axis=1)
        scale = np.array((width, height, width, height), np.float32)
        found.append(Ranked(corners * scale, scores, labels, queries))
    return found


def ranked(
    logits: np.ndarray,
    boxes: np.ndarray,
    sizes: Sequence[tuple[int, int]],
    max_det: int,
    classifier: Classifier,
    calibration: tuple[float, float] | None = None,
) -> list[Ranked]:
    """``postprocess`` with calibrated scores; their order stays.

    ``calibration`` is ``inference.calibration``.
    """
    found = postprocess(logits, boxes, sizes, max_det, classifier)
    if calibration is None:
        return found
    return [each._replace(scores=_calibrated(each.scores, *calibration)) for each in found]


def refuse_nonfinite(outputs: Sequence[np.ndarray], sources: Sequence[str]) -> None:
    """ValueError where an output [batch, ...] is not finite; it names the image's source."""
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
    sizes: Sequence[tuple[int, int]],
    max_det: int,
    names: tuple[str, ...],
    classifier: Classifier,
    sources: Sequence[str] = (),
    calibration: tuple[float, float] | None = None,
) -> list[Detections]:
    """``ranked`` as the structure that users get; ValueError where an answer is not finite."""
    refuse_nonfinite((logits, boxes), sources)
    found = ranked(logits, boxes, sizes, max_det, classifier, calibration)
    return named(found, names, sizes, sources)


def named(
    found: Sequence[Ranked],
    names: tuple[str, ...],
    sizes: Sequence[tuple[int, int]],
    sources: Sequence[str] = (),
) -> list[Detections]:
    """Ranked boxes with class names, image sizes and sources."""
    sources = sources or [""] * len(sizes)
    return [
        Detections(*each, names, size, source)
        for each, size, source in zip(found, sizes, sources, strict=True)
    ]


def class_scores(
    logits: np.ndarray, classifier: Classifier, calibration: tuple[float, float] | None = None
) -> np.ndarray:
    """[.., classes] float32 scores of logits [.., classes] ("no object" not counted)."""
    logits = np.asarray(logits, np.float32)
    if classifier == "softmax":
        shares = np.exp(logits - logits.max(-1, keepdims=True))
        scores = (shares / shares.sum(-1, keepdims=True))[..., :-1]
    else:
        scores = np.exp(-np.logaddexp(0, -logits))
    return scores if calibration is None else _calibrated(scores, *calibration)


def class_thresholds(inference: Inference, names: Sequence[str]) -> np.ndarray:
    """[classes]: the lowest score shown of each class, where nobody asks for another."""
    return np.array([inference.class_conf.get(name, inference.conf) for name in names], np.float32)


def thresholds(inference: Inference, conf: float | None, max_det: int | None) -> tuple[float, int]:
    """``conf`` and ``max_det``, or the config's where they are None; ValueError out of range."""
    conf = inference.conf if conf is None else conf
    max_det = inference.max_det if max_det is None else max_det
    if not (_is_number(conf) and 0 <= conf <= 1):
        raise ValueError(f"conf should be a number between 0 and 1; got {shown(conf)}")
    if not (isinstance(max_det, int | np.integer) and max_det >= 1):
        raise ValueError(f"max_det should be an integer of at least 1; got {shown(max_det)}")
    return conf, max_det


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float | np.number) and not isinstance(value, bool)


def _calibrated(scores: np.ndarray, scale: float, shift: float) -> np.ndarray:
    """σ(scale · logit(score) + shift); 0 and 1 stay."""
    with np.errstate(divide="ignore"):
        logits = np.log(scores) - np.log1p(-scores)
    return np.exp(-np.logaddexp(0, -(scale * logits + shift))).astype(scores.dtype)


def _sigmoid(logits: np.ndarray, most: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Scores, labels and queries of the best pairs; ranked by logits, which never tie at 1."""
    flat = logits.ravel()
    places = _best(flat, most)
    queries, labels = np.divmod(places, logits.shape[1])
    return np.exp(-np.logaddexp(0, -flat[places])), labels, queries


def _softmax(logits: np.ndarray, most: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Scores, labels and queries of the best queries."""
    shares = class_scores(logits, "softmax")
    labels = shares.argmax(1)
    scores = shares[np.arange(len(shares)), labels]
    queries = _best(scores, most)
    return scores[queries], labels[queries], queries


def _best(values: np.ndarray, most: int) -> np.ndarray:
    """Places of the ``most`` largest values, the largest first; of equal ones the first."""
    if most < len(values):
        places = np.sort(np.argpartition(values, -most)[-most:])
    else:
        places = np.arange(len(values))
    return places[np.argsort(-values[places], kind="stable")]
