"""Questions, that is boxes or clicks of a caller that become queries, and their answers; no torch.

These queries attend to the matching queries but not to one another: a question gets the same answer
alone or among hundreds.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from dabdetr.config import Config
from dabdetr.inference.postprocess import class_scores, detections
from dabdetr.inference.runtime import Outputs, Runtime, Sizes
from dabdetr.structures import Answers
from dabdetr.structures.boxes import centres, corners, iou
from dabdetr.structures.detections import class_labels
from dabdetr.text import counted, shortened

MOST = 500
"""Most questions in one forward pass; more questions take several passes."""

SIDES = (0.06, 0.12, 0.24, 0.48)
"""Sides of the anchors tried at a click, as shares of the image's geometric mean side."""

SAME = 0.5
"""IoU from which an answer and a detection count as the same object."""


@dataclass(frozen=True)
class Asked:
    """The questions about one image.

    boxes      [n, 4] float32, x0 y0 x1 y1 in pixels, inside the image
    labels     [n] int64, supposed class of the object; −1 where unknown
    questions  [n] int64, number of the caller's box or click
    clicks     [clicks, 2] float32, x y in pixels; None for questions that are boxes
    """

    boxes: np.ndarray
    labels: np.ndarray
    questions: np.ndarray
    clicks: np.ndarray | None = None

    def __len__(self) -> int:
        return len(self.boxes)


def can_be_asked(config: Config) -> bool:
    """Whether a model can answer questions: its anchors are boxes, and it learned denoising."""
    return config.model.queries.anchor == "box" and config.model.denoising is not None


def refuse_unable(config: Config) -> None:
    """ValueError for a model that cannot be asked."""
    model = config.model
    if model.queries.anchor != "box":
        raise ValueError(
            f"{config.name} cannot be asked about boxes: its anchors are not boxes; take a member "
            "with box anchors and denoising, such as dab-lite"
        )
    if model.denoising is None:
        raise ValueError(
            f"{config.name} cannot be asked about boxes: it was trained without denoising, which "
            "teaches a decoder to correct rough boxes; take a member with denoising, such as "
            "dab-lite"
        )


def questions(
    boxes: Any,
    labels: Sequence[str | int | None] | None,
    size: tuple[int, int],
    names: Sequence[str],
    sizes: Any = None,
) -> Asked:
    """Checked questions: boxes [n, 4] (x0 y0 x1 y1) or clicks [n, 2] (x y) in pixels of an image.

    ``size`` is the (height, width) of the image. ``labels`` are the supposed classes by name or
    label, None where unknown. ``sizes`` [k, 2] are widths and heights in pixels of the anchors
    tried at each click. Boxes are clipped to the image. ValueError for wrong shapes, unknown
    classes, and boxes or clicks outside the image.
    """
    expected = "questions should be boxes [n, 4] (x0 y0 x1 y1) or clicks [n, 2] (x y) in pixels"
    try:
        places = np.asarray(boxes, np.float64)
    except (ValueError, TypeError):
        raise ValueError(f"{expected}, all of one kind; got {shortened(str(boxes), 80)}") from None
    if places.size == 0:
        places = np.zeros((0, 4))
    if places.ndim != 2 or places.shape[1] not in (2, 4):
        raise ValueError(f"{expected}; got an array of {list(places.shape)}")
    classes = _classes(labels, len(places), names)
    number = np.arange(len(places))
    if places.shape[1] == 4:
        return Asked(_clipped(places, size), classes, number)
    outside = ~((places >= 0) & (places <= size[::-1])).all(1)
    _refuse_wrong(places, size, outside, "click", "lies outside")
    tried = _anchor_sizes(sizes, size)
    of_click = np.repeat(number, len(tried))
    anchors = np.concatenate((places[of_click], np.tile(tried, (len(places), 1))), axis=1)
    clipped = corners(anchors).clip(0, np.tile(size[::-1], 2)).astype(np.float32)
    return Asked(clipped, classes[of_click], of_click, places.astype(np.float32))


def _classes(
    labels: Sequence[str | int | None] | None, count: int, names: Sequence[str]
) -> np.ndarray:
    """[count] int64 labels of classes given by name or label; −1 for None."""
    supposed = [None] * count if labels is None else list(labels)
    if isinstance(labels, str) or len(supposed) != count:
        got = f"the text {labels!r}" if isinstance(labels, str) else str(len(supposed))
        raise ValueError(
            f"labels should be a list with a class or None for each of "
            f"{counted(count, 'box', 'boxes')}; got {got}"
        )
    known = iter(class_labels([each for each in supposed if each is not None], names))
    return np.array([-1 if each is None else next(known) for each in supposed], np.int64)


def _clipped(boxes: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """Boxes clipped to the image; ValueError for the first that is not a box inside the image."""
    _refuse_wrong(boxes, size, ~np.isfinite(boxes).all(1), "box", "is not finite")
    wrong = (boxes[:, 2:] <= boxes[:, :2]).any(1)
    _refuse_wrong(boxes, size, wrong, "box", "should be x0 y0 x1 y1 with x0 < x1 and y0 < y1")
    clipped = boxes.clip(0, np.tile(size[::-1], 2)).astype(np.float32)
    outside = (clipped[:, 2:] <= clipped[:, :2]).any(1)
    _refuse_wrong(boxes, size, outside, "box", "lies outside")
    return clipped


def _refuse_wrong(
    rows: np.ndarray, size: tuple[int, int], wrong: Any, kind: str, fault: str
) -> None:
    """ValueError for the first row that is ``wrong``."""
    if wrong.any():
        first = int(wrong.argmax())
        raise ValueError(
            f"{kind} {first} is {rows[first].tolist()} and {fault}; the image is "
            f"{size[1]}×{size[0]} pixels"
        )


def _anchor_sizes(sizes: Any, size: tuple[int, int]) -> np.ndarray:
    """[k, 2] float64, widths and heights in pixels of the anchors tried at a click."""
    if sizes is None:
        sides = np.array(SIDES) * np.sqrt(float(size[0]) * size[1])
        return np.stack((sides, sides), axis=1)
    given = np.asarray(sizes, np.float64)
    if given.ndim != 2 or given.shape[1:] != (2,) or not len(given) or not (given > 0).all():
        raise ValueError(
            "sizes should be at least one width and height above 0 in pixels, [k, 2]; got "
            f"{shortened(str(sizes), 80)}"
        )
    return given


def batched(asked: Sequence[Asked], sizes: Sizes) -> tuple[Any, Any]:
    """Boxes [b, most, 4] cxcywh 0–1 float32 and labels [b, most] int64 of a batch of images.

    ``most`` is the largest number of questions of an image; the rows of the other images are filled
    up with questions about the whole image.
    """
    most = max(map(len, asked))
    boxes = np.tile(np.array((0.5, 0.5, 1, 1), np.float32), (len(asked), most, 1))
    labels = np.full((len(asked), most), -1, np.int64)
    for row, (each, (height, width)) in enumerate(zip(asked, sizes, strict=True)):
        extent = np.array((width, height, width, height), np.float32)
        boxes[row, : len(each)] = centres(each.boxes) / extent
        labels[row, : len(each)] = each.labels
    return boxes, labels


def answers(
    outputs: Outputs,
    asked: Sequence[Asked],
    sizes: Sizes,
    config: Config,
    names: tuple[str, ...],
    sources: Sequence[str],
    max_det: int,
    conf: float | np.ndarray,
) -> list[Answers]:
    """The answers for each image of a batch, with its detections that score at least ``conf``."""
    classifier, calibration = config.classifier, config.inference.calibration
    every = detections(
        outputs.logits, outputs.boxes, sizes, max_det, names, classifier, sources, calibration
    )
    results = []
    for row, (of_image, (height, width), found) in enumerate(zip(asked, sizes, every, strict=True)):
        found = found.clipped().best_of_query().above(conf)
        extent = np.array((width, height, width, height), np.float32)
        layers = corners(outputs.layers[:, row, : len(of_image)]) * extent
        boxes = layers[-1].clip(0, extent)
        scores = class_scores(outputs.answers[row, : len(of_image)], classifier, calibration)
        same = np.full(len(boxes), -1, np.int64)
        if len(found):
            overlap = iou(boxes[:, None], found.boxes)
            same = np.where(overlap.max(1) >= SAME, overlap.argmax(1), -1)
        result = Answers(of_image.boxes, boxes, scores, layers, of_image.questions, same, found)
        if of_image.clicks is not None:  # best first: boxes that contain the click, then by score
            points, low, high = of_image.clicks[result.questions], boxes[:, :2], boxes[:, 2:]
            contains = ((low <= points) & (points <= high)).all(1)
            result = result[np.lexsort((-result.scores, ~contains, result.questions))]
        results.append(result)
    return results


def ask(
    runtime: Runtime,
    prepared: Sequence[Any],
    sizes: Sizes,
    sources: Sequence[str],
    asked: Sequence[Asked],
    max_det: int,
    conf: float | np.ndarray,
) -> list[Answers]:
    """The answers for a batch of prepared images, in passes of at most ``MOST`` questions."""
    boxes, labels = batched(asked, sizes)
    starts = range(0, max(boxes.shape[1], 1), MOST)
    passes = [
        runtime.answer(prepared, boxes[:, start : start + MOST], labels[:, start : start + MOST])
        for start in starts
    ]
    outputs = passes[0]._replace(
        answers=np.concatenate([each.answers for each in passes], axis=1),
        layers=np.concatenate([each.layers for each in passes], axis=2),
    )
    return answers(outputs, asked, sizes, runtime.config, runtime.names, sources, max_det, conf)
