"""Questions: boxes or clicks that a caller gives become queries; and their answers; no torch.

The queries see the matching queries, but not one another: a question has the same answer alone or
among hundreds.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from dabdetr.config import Config
from dabdetr.inference.postprocess import class_scores, detections
from dabdetr.inference.runtime import Outputs, Runtime
from dabdetr.structures import Answers, Detections
from dabdetr.structures.boxes import centres, corners, iou
from dabdetr.structures.detections import class_labels
from dabdetr.text import counted, shortened

MOST = 500
"""Questions in one pass of the model; more of them take several."""

SIDES = (0.06, 0.12, 0.24, 0.48)
"""Sides of the anchors tried at a click, of the image's geometric mean side."""

SAME = 0.5
"""IoU from which an answer and a detection are of one object."""


@dataclass(frozen=True)
class Asked:
    """The questions about one image.

    boxes      [n, 4] float32, x0 y0 x1 y1 in pixels, inside the image
    labels     [n] int64: the class each is thought to hold; −1: it is not known
    questions  [n] int64: the number of the caller's box or click
    clicks     [clicks, 2] float32, x y in pixels; None where boxes were asked
    """

    boxes: np.ndarray
    labels: np.ndarray
    questions: np.ndarray
    clicks: np.ndarray | None = None

    def __len__(self) -> int:
        return len(self.boxes)


def can_be_asked(config: Config) -> bool:
    """Whether a model answers questions: its anchors are boxes, and denoising taught it to."""
    return config.model.queries.anchor == "box" and config.model.denoising is not None


def refuse_unable(config: Config) -> None:
    """ValueError for a model that cannot be asked."""
    model = config.model
    if model.queries.anchor != "box":
        raise ValueError(
            f"{config.name} cannot be asked about boxes: its anchors are no boxes; take a member "
            "with box anchors and denoising, such as dab-lite"
        )
    if model.denoising is None:
        raise ValueError(
            f"{config.name} cannot be asked about boxes: it was trained without denoising, which "
            "teaches a decoder what to do with a box that is not quite right; take a member with "
            "it, such as dab-lite"
        )


def questions(
    boxes: Any,
    labels: Sequence[str | int | None] | None,
    size: tuple[int, int],
    names: Sequence[str],
    sizes: Any = None,
) -> Asked:
    """Boxes [n, 4] (x0 y0 x1 y1) or clicks [n, 2] (x y) in pixels of an image of ``size``, checked.

    ``labels`` are classes by name or label, None where one is not known. ``sizes`` [k, 2] are
    widths and heights in pixels of the anchors tried at each click. Boxes are cut to the image;
    ValueError for what cannot be asked.
    """
    expected = "questions should be boxes [n, 4] (x0 y0 x1 y1) or clicks [n, 2] (x y) in pixels"
    try:
        where = np.asarray(boxes, np.float64)
    except (ValueError, TypeError):
        raise ValueError(f"{expected}, all of one kind; got {shortened(str(boxes), 80)}") from None
    if where.size == 0:
        where = np.zeros((0, 4))
    if where.ndim != 2 or where.shape[1] not in (2, 4):
        raise ValueError(f"{expected}; got an array of {list(where.shape)}")
    given = [None] * len(where) if labels is None else list(labels)
    if len(given) != len(where):
        raise ValueError(
            f"labels should be one for each of {counted(len(where), 'box', 'boxes')}; got "
            f"{len(given)}"
        )
    known = [each for each in given if each is not None]
    rows = iter(class_labels(known, names))
    classes = np.array([-1 if each is None else next(rows) for each in given], np.int64)
    number = np.arange(len(where))
    if where.shape[1] == 4:
        return Asked(_inside(where, size), classes, number)
    _check(where, size, ~((where >= 0) & (where <= size[::-1])).all(1), "click", "lies outside")
    tried = _sizes(sizes, size)
    each = np.repeat(number, len(tried))
    placed = np.concatenate((where[each], np.tile(tried, (len(where), 1))), axis=1)
    inside = corners(placed).clip(0, np.tile(size[::-1], 2))
    return Asked(inside.astype(np.float32), classes[each], each, where.astype(np.float32))


def _inside(boxes: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """Boxes cut to the image; ValueError for the first that is none."""
    _check(boxes, size, ~np.isfinite(boxes).all(1), "box", "is not finite")
    wrong = (boxes[:, 2:] <= boxes[:, :2]).any(1)
    _check(boxes, size, wrong, "box", "should be x0 y0 x1 y1 with x0 < x1 and y0 < y1")
    cut = boxes.clip(0, np.tile(size[::-1], 2)).astype(np.float32)
    _check(boxes, size, (cut[:, 2:] <= cut[:, :2]).any(1), "box", "lies outside")
    return cut


def _check(rows: np.ndarray, size: tuple[int, int], wrong: Any, kind: str, what: str) -> None:
    if wrong.any():
        at = int(wrong.argmax())
        raise ValueError(
            f"{kind} {at} is {rows[at].tolist()} and {what}; the image is {size[1]}×{size[0]} "
            "pixels"
        )


def _sizes(sizes: Any, size: tuple[int, int]) -> np.ndarray:
    """[k, 2] float64, widths and heights in pixels of the anchors at a click."""
    if sizes is None:
        sides = np.array(SIDES) * np.sqrt(float(size[0]) * size[1])
        return np.stack((sides, sides), axis=1)
    given = np.asarray(sizes, np.float64)
    if given.ndim != 2 or given.shape[1:] != (2,) or not len(given) or not (given > 0).all():
        raise ValueError(
            "sizes should be at least one width and height in pixels, [k, 2]; got "
            f"{np.shape(sizes)}"
        )
    return given


def batched(asked: Sequence[Asked], sizes: Sequence[tuple[int, ...]]) -> tuple[Any, Any]:
    """Boxes [b, most, 4] cxcywh 0–1 float32 and labels [b, most] int64 of a batch of images.

    An image with fewer questions than the most is filled up with the whole image.
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
    sizes: Sequence[tuple[int, int]],
    config: Config,
    names: tuple[str, ...],
    sources: Sequence[str],
    max_det: int,
    conf: float | np.ndarray,
) -> list[Answers]:
    """What each image of a batch answers, with its detections that score at least ``conf``."""
    classifier, calibration = config.classifier, config.inference.calibration
    plain = (outputs.logits, outputs.boxes)
    every = detections(*plain, sizes, max_det, names, classifier, sources, calibration)
    results = []
    for row, (own, (height, width), found) in enumerate(zip(asked, sizes, every, strict=True)):
        found = found.clipped().best_of_query().above(conf)
        extent = np.array((width, height, width, height), np.float32)
        layers = corners(outputs.layers[:, row, : len(own)]) * extent
        boxes = layers[-1].clip(0, extent)
        scores = class_scores(outputs.answers[row, : len(own)], classifier, calibration)
        result = Answers(
            own.boxes, boxes, scores, layers, own.questions, _coincides(boxes, found), found
        )
        results.append(result if own.clicks is None else _best_first(result, own.clicks))
    return results


def _coincides(boxes: np.ndarray, found: Detections) -> np.ndarray:
    """[n] int64: the detection that overlaps each box most if it is the same object; else −1."""
    if not len(found):
        return np.full(len(boxes), -1, np.int64)
    overlap = iou(boxes[:, None], found.boxes)
    return np.where(overlap.max(1) >= SAME, overlap.argmax(1), -1)


def _best_first(answers: Answers, clicks: np.ndarray) -> Answers:
    """The rows of each click, the best first: those that hold it, then by score."""
    at = clicks[answers.questions]
    holds = ((answers.boxes[:, :2] <= at) & (at <= answers.boxes[:, 2:])).all(1)
    return answers[np.lexsort((-answers.scores, ~holds, answers.questions))]


def ask(
    runtime: Runtime,
    prepared: Sequence[Any],
    sizes: Sequence[tuple[int, int]],
    sources: Sequence[str],
    asked: Sequence[Asked],
    max_det: int,
    conf: float | np.ndarray,
) -> list[Answers]:
    """What a batch of prepared images answers; more than ``MOST`` questions take several passes."""
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
