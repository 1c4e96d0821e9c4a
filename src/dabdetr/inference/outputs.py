"""What the graph of an exported file takes and gives, and how its answer is read; numpy alone."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from dabdetr.inference.postprocess import Ranked, ranked
from dabdetr.text import counted, in_any_case, shown

if TYPE_CHECKING:
    from dabdetr.inference.metadata import Metadata

Shapes = Sequence[tuple[int, ...]]
Frames = Sequence[tuple[int, int]]
"""(height, width) of original images."""
DUMMIES = 50
"""Classes that stand for no object, together, where a client takes the largest of a softmax."""
LEAST = 1 / (DUMMIES + 1)
"""Score up to which a dummy class is the largest."""


@dataclass(frozen=True)
class Post:
    """One kind of answer; the graph that gives it is made in ``dabdetr.export.tracing``.

    inputs   names of what goes in, in this order, in ``dabdetr``'s words → name in the file
    outputs  name → what it is, in words
    fits     metadata, images and the outputs' shapes → whether they are of one model
    read     metadata, outputs, sizes of the images and ``max_det`` → what each image holds
    single   whether a query gives its best class only, and none below ``LEAST``
    """

    inputs: dict[str, str]
    outputs: dict[str, str]
    fits: Callable[[Metadata, int, Shapes], bool]
    read: Callable[[Metadata, Sequence[np.ndarray], Frames, int], list[Ranked]]
    single: bool = False


def _every_query(
    metadata: Metadata, outputs: Sequence[np.ndarray], sizes: Frames, max_det: int
) -> list[Ranked]:
    logits, boxes = outputs
    calibration = metadata.config.inference.calibration
    return ranked(logits, boxes, sizes, max_det, metadata.classifier, calibration)


def _is_every_query(metadata: Metadata, images: int, shapes: Shapes) -> bool:
    logits, boxes = shapes
    classes = len(metadata.names) + (metadata.classifier == "softmax")
    return len(logits) == 3 and logits[::2] == (images, classes) and boxes == (*logits[:2], 4)


def _best(
    metadata: Metadata, outputs: Sequence[np.ndarray], sizes: Frames, max_det: int
) -> list[Ranked]:
    boxes, scores, labels, queries = (each[:, :max_det] for each in outputs)
    if labels.size and not (labels.min() >= 0 and labels.max() < len(metadata.names)):
        raise ValueError(
            f"the file gives labels from {labels.min()} to {labels.max()} for "
            f"{counted(len(metadata.names), 'class name')}; export it again"
        )
    rows = zip(
        boxes.astype(np.float32, copy=False),
        scores.astype(np.float32, copy=False),
        labels.astype(np.int64, copy=False),
        queries.astype(np.int64, copy=False),
        strict=True,
    )
    return [Ranked(*row) for row in rows]


def _is_best(metadata: Metadata, images: int, shapes: Shapes) -> bool:
    boxes, *others = shapes
    return len(boxes) == 3 and boxes[::2] == (images, 4) and set(others) == {boxes[:2]}


def _largest(
    metadata: Metadata, outputs: Sequence[np.ndarray], sizes: Frames, max_det: int
) -> list[Ranked]:
    """As transformers.js reads it: the largest logit's class and its share, if it is no dummy."""
    calculated = []
    for logits, boxes, size in zip(*outputs, sizes, strict=True):
        labels = logits.argmax(1)
        own = labels < len(metadata.names)
        (found,) = ranked(logits[None], boxes[None], [size], len(logits), "softmax")
        rows = [row for row in range(len(found.queries)) if own[found.queries[row]]]
        calculated.append(Ranked(*(each[rows][:max_det] for each in found)))
    return calculated


def _is_largest(metadata: Metadata, images: int, shapes: Shapes) -> bool:
    logits, boxes = shapes
    classes = len(metadata.names) + DUMMIES
    return len(logits) == 3 and logits[::2] == (images, classes) and boxes == (*logits[:2], 4)


QUESTIONS = {
    "questions": "questions",
    "question_labels": "question_labels",
}
"""What else goes into a graph that takes questions, as ``Post.inputs``."""
ANSWERS = {
    "answers": "[batch, questions, classes] float32, logits of the last layer",
    "answer_boxes": "[batch, layers, questions, 4] float32: each question's box after every "
    "decoder layer, in the form of boxes; the last one is the answer",
}
"""What else comes out of it, as ``Post.outputs``."""


def fits_questions(metadata: Metadata, asked: tuple[int, int], shapes: Shapes) -> bool:
    """Whether ``ANSWERS`` of these shapes are to (images, questions), and of one model."""
    logits, boxes = shapes
    layers = metadata.config.model.decoder.layers
    classes = len(metadata.names) + (metadata.classifier == "softmax")
    images, questions = asked
    return logits == (*asked, classes) and boxes == (images, layers, questions, 4)


CHOICES = ("none", "boxes")
"""Kinds of answers that users choose from; the others are of a format."""
POSTS = {
    "none": Post(
        inputs={"pixels": "pixels", "padding": "padding"},
        outputs={
            "logits": "[batch, queries, classes] float32",
            "boxes": "[batch, queries, 4] float32: centre x, centre y, width, height as shares "
            "(0-1) of the resized image without its padding",
        },
        fits=_is_every_query,
        read=_every_query,
    ),
    "boxes": Post(
        inputs={"pixels": "pixels", "padding": "padding", "sizes": "sizes"},
        outputs={
            "boxes": "[batch, detections, 4] float32: left, top, right, bottom (x0 y0 x1 y1) in "
            "pixels, best score first, neither thresholded nor cut to the image",
            "scores": "[batch, detections] float32, 0-1",
            "labels": "[batch, detections] int64, index into names",
            "queries": "[batch, detections] int64, the decoder's query that found it",
        },
        fits=_is_best,
        read=_best,
    ),
    "pipeline": Post(
        inputs={"pixels": "pixel_values"},
        outputs={
            "logits": f"[batch, queries, classes + {DUMMIES}] float32; softmax gives the score of "
            "each query's best class, and the others stand for no object",
            "pred_boxes": "[batch, queries, 4] float32: centre x, centre y, width, height as "
            "shares (0-1) of the image",
        },
        fits=_is_largest,
        read=_largest,
        single=True,
    ),
}
"""Name, as of ``export --post`` → the kind of answer."""


def check_post(post: str) -> str:
    """The name of a kind of answer, in any case; ValueError lists what there is."""
    name = in_any_case(post, CHOICES)
    if name not in CHOICES:
        raise ValueError(f"post should be one of {', '.join(CHOICES)}; got {shown(post)}")
    return name
