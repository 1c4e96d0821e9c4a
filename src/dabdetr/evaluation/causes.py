"""Errors with their causes, and the boxes and scores of layers from which they are read."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np

from dabdetr.structures import Detections

CAUSES = {
    "no_query": "no query came near",
    "left": "a query came and left",
    "not_found": "not found (exported files and saved detections do not tell more)",
    "wrong_class": "right box, wrong class",
    "under_threshold": "right but under the threshold",
    "loose": "right place, loose box",
    "double": "double of another detection",
    "background": "nothing is there",
    "label": "the label looks wrong or is missing",
}
"""Cause → what it says; the order of tables."""


@dataclass(frozen=True, eq=False)
class Decoded:
    """Boxes and scores of an image's queries after each layer.

    boxes    [layers, queries, 4] float32, corners in pixels of the image
    scores   [layers, queries, classes], 0–1, in the data's classes
    slots    [queries] the decoder's number of each query
    start    [queries, 4] corners or [queries, 2] points in pixels: the first anchors; None: there
             are none
    whole    every query of every layer is there; False: made of detections
    """

    boxes: np.ndarray
    scores: np.ndarray
    slots: np.ndarray
    start: np.ndarray | None = None
    whole: bool = True

    @property
    def layers(self) -> int:
        """Decoder layers."""
        return len(self.boxes)


def of_detections(found: Detections) -> Decoded:
    """The last layer, as far as detections tell of it; a score that is not known is 0."""
    slots, first, of = np.unique(found.queries, return_index=True, return_inverse=True)
    scores = np.zeros((len(slots), len(found.names)), np.float32)
    scores[of, found.labels] = found.scores
    return Decoded(found.boxes[first][None], scores[None], slots, whole=False)


@dataclass(frozen=True)
class Doubt:
    """A label that the model contradicts: ``kind`` is "class", "phantom" or "double"."""

    kind: str
    suspicion: float


@dataclass(frozen=True)
class Error:
    """A missed object or a false detection, and why.

    side      what is wrong
    cause     of ``CAUSES``
    image     index of the image
    object    row among the image's objects, crowds left out: the one missed, or the one that the
              detection would be; None: there is none
    detection  row among the image's shown detections, of a false one
    label     class of that object
    box       corners in pixels, of the object missed or of the detection
    query     decoder slot that tells most; None where no decoder is known
    layer     where to look at it, counted from 1; 0: its anchor
    found     the class it was taken for
    score     of that class, or where it was the right one, of the label
    shown     that query's box after ``layer``, corners in pixels
    overlap   IoU of the query with the object after each layer
    other     the query whose detection it doubles
    doubles   that detection's box, corners in pixels
    attention  share of the query's attention in the last layer's self-attention that goes to
              ``other``, mean of heads
    why       a sentence
    otherwise  what it is where labels are not to blame
    """

    side: Literal["missed", "false"]
    cause: str
    image: int
    box: tuple[float, ...]
    why: str
    object: int | None = None
    detection: int | None = None
    label: int | None = None
    query: int | None = None
    layer: int | None = None
    found: int | None = None
    score: float | None = None
    shown: tuple[float, ...] | None = None
    overlap: tuple[float, ...] = ()
    other: int | None = None
    doubles: tuple[float, ...] | None = None
    attention: float | None = None
    otherwise: Error | None = None

    def to_dict(self, names: Sequence[str]) -> dict[str, Any]:
        """Plain values with the classes' names."""
        called = lambda label: None if label is None else names[label]  # noqa: E731
        rounded = lambda value: None if value is None else round(float(value), 4)  # noqa: E731
        return {
            "side": self.side,
            "cause": self.cause,
            "image": self.image,
            "object": self.object,
            "name": called(self.label),
            "found_as": called(self.found),
            "score": rounded(self.score),
            "box": [round(float(edge), 1) for edge in self.box],
            "query": self.query,
            "layer": self.layer,
            "overlap": [rounded(value) for value in self.overlap],
            "other_query": self.other,
            "attention": rounded(self.attention),
            "why": self.why,
        }
