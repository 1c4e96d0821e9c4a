"""Inputs and outputs of the graph of an exported file, and reading of the outputs; numpy only."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from dabdetr.inference.postprocess import Ranked, ranked
from dabdetr.inference.runtime import Sizes
from dabdetr.text import counted, in_any_case, shown

if TYPE_CHECKING:
    from dabdetr.inference.metadata import Metadata

Shapes = Sequence[tuple[int, ...]]
DUMMIES = 50
"""Number of classes that together mean "no object", for clients that use the best softmax class."""
LEAST = 1 / (DUMMIES + 1)
"""Score up to which such a dummy class is the best."""


@dataclass(frozen=True)
class Post:
    """A kind of outputs; its graph is made in ``dabdetr.export.tracing``.

    inputs   in the graph's order, name in ``dabdetr`` → name in the file
    outputs  in the graph's order, name → description
    fits     metadata, number of images and the outputs' shapes → whether they agree
    read     metadata, outputs, sizes of the images and ``max_det`` → detections of each image
    single   whether a query yields its best class only, and only above ``LEAST``
    """

    inputs: dict[str, str]
    outputs: dict[str, str]
    fits: Callable[[Metadata, int, Shapes], bool]
    read: Callable[[Metadata, Sequence[np.ndarray], Sizes, int], list[Ranked]]
    single: bool = False


def _read_queries(
    metadata: Metadata, outputs: Sequence[np.ndarray], sizes: Sizes, max_det: int
) -> list[Ranked]:
    logits, boxes = outputs
    calibration = metadata.config.inference.calibration
    return ranked(logits, boxes, sizes, max_det, metadata.classifier, calibration)


def _fit(shapes: Shapes, images: int, classes: int) -> bool:
    """Whether these are shapes of logits of so many classes, and of boxes."""
    logits, boxes = shapes
    return len(logits) == 3 and logits[::2] == (images, classes) and boxes == (*logits[:2], 4)


def _read_boxes(
    metadata: Metadata, outputs: Sequence[np.ndarray], sizes: Sizes, max_det: int
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


def _fits_boxes(metadata: Metadata, images: int, shapes: Shapes) -> bool:
    boxes, *others = shapes
    return len(boxes) == 3 and boxes[::2] == (images, 4) and set(others) == {boxes[:2]}


def _read_softmax(
    metadata: Metadata, outputs: Sequence[np.ndarray], sizes: Sizes, max_det: int
) -> list[Ranked]:
    """The class of the largest logit and its softmax score, unless it is a dummy class.

    transformers.js reads outputs in the same way.
    """
    of_images = []
    for logits, boxes, size in zip(*outputs, sizes, strict=True):
        is_class = logits.argmax(1) < len(metadata.names)
        (found,) = ranked(logits[None], boxes[None], [size], len(logits), "softmax")
        rows = np.flatnonzero(is_class[found.queries])
        of_images.append(Ranked(*(each[rows][:max_det] for each in found)))
    return of_images


QUESTIONS = {
    "questions": "questions",
    "question_labels": "question_labels",
}
"""Further inputs of a graph with questions, in the form of ``Post.inputs``."""
ANSWERS = {
    "answers": "[batch, questions, classes] float32, logits of the last layer",
    "answer_boxes": "[batch, layers, questions, 4] float32: each question's box after every "
    "decoder layer, in the form of boxes; the last one is the answer",
}
"""Its further outputs, in the form of ``Post.outputs``."""


def fits_questions(metadata: Metadata, asked: tuple[int, int], shapes: Shapes) -> bool:
    """Whether ``ANSWERS`` of these shapes agree with (images, questions) and the metadata."""
    logits, boxes = shapes
    layers = metadata.config.model.decoder.layers
    classes = len(metadata.names) + (metadata.classifier == "softmax")
    images, questions = asked
    return logits == (*asked, classes) and boxes == (images, layers, questions, 4)


CHOICES = ("none", "boxes")
"""Kinds of outputs that users can choose; the others belong to a format."""
POSTS = {
    "none": Post(
        inputs={"pixels": "pixels", "padding": "padding"},
        outputs={
            "logits": "[batch, queries, classes] float32",
            "boxes": "[batch, queries, 4] float32: centre x, centre y, width, height as shares "
            "(0-1) of the resized image without its padding",
        },
        fits=lambda metadata, images, shapes: _fit(
            shapes, images, len(metadata.names) + (metadata.classifier == "softmax")
        ),
        read=_read_queries,
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
        fits=_fits_boxes,
        read=_read_boxes,
    ),
    "pipeline": Post(
        inputs={"pixels": "pixel_values"},
        outputs={
            "logits": f"[batch, queries, classes + {DUMMIES}] float32; softmax gives the score of "
            "each query's best class, and the others stand for no object",
            "pred_boxes": "[batch, queries, 4] float32: centre x, centre y, width, height as "
            "shares (0-1) of the image",
        },
        fits=lambda metadata, images, shapes: _fit(shapes, images, len(metadata.names) + DUMMIES),
        read=_read_softmax,
        single=True,
    ),
}
"""Name, as for ``export --post`` → kind of outputs."""


def check_post(post: str) -> str:
    """The name of a kind of outputs, from a name in any case; ValueError lists the kinds."""
    name = in_any_case(post, CHOICES)
    if name not in CHOICES:
        raise ValueError(f"post should be one of {', '.join(CHOICES)}; got {shown(post)}")
    return name
