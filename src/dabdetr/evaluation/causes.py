"""Errors with their causes, and the boxes and scores of each layer that the causes follow from."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np

from dabdetr.structures import Detections

CAUSES = {
    "no_query": "no query came near",
    "left": "a query came and left",
    "not_found": "not found (the cause is known for weights only, not for exported files)",
    "wrong_class": "right box, wrong class",
    "under_threshold": "right but under the threshold",
    "loose": "right place, loose box",
    "duplicate": "duplicate of another detection",
    "background": "nothing is there",
    "label": "the label looks wrong or is missing",
}
"""Cause → its description, in the order of tables."""


@dataclass(frozen=True, eq=False)
class Decoded:
    """Boxes and scores of an image's queries after each layer.

    boxes    [layers, queries, 4] float32, corners in pixels of the image
    scores   [layers, queries, classes], 0–1, in the data set's classes
    slots    [queries] the decoder slot of each query
    start    [queries, 4] corners or [queries, 2] points in pixels: the first anchors; None for
             members without anchors
    whole    True: every query of every layer is included; False: made from detections
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
    """The last layer as far as detections contain it; a score that is unknown is 0."""
    slots, first, row = np.unique(found.queries, return_index=True, return_inverse=True)
    scores = np.zeros((len(slots), len(found.names)), np.float32)
    scores[row, found.labels] = found.scores
    return Decoded(found.boxes[first][None], scores[None], slots, whole=False)


@dataclass(frozen=True)
class Error:
    """A missed object or a false detection, and its cause.

    side      whether an object was missed or a detection is false
    cause     a key of ``CAUSES``
    image     index of the image
    object    row among the image's objects, without crowds: the missed one, or the one that the
              false detection belongs to; None: it belongs to none
    detection  row of a false detection among the image's shown detections
    label     class of that object
    box       corners in pixels, of the missed object or of the false detection
    query     decoder slot that shows the cause best; None without a decoder
    layer     decoder layer that shows the cause, counted from 1; 0: the anchor
    found     the class that the object was taken for
    score     of ``found``, or of ``label`` if ``found`` is None
    shown     that query's box after ``layer``, corners in pixels
    overlap   IoU of the query with the object after each layer
    other     the query whose detection this one duplicates
    other_box  that detection's box, corners in pixels
    attention  share of the query's attention that falls on ``other`` in the last layer's
              self-attention, mean over heads
    why       a sentence
    otherwise  the error to report instead if the label is found to be right
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
    other_box: tuple[float, ...] | None = None
    attention: float | None = None
    otherwise: Error | None = None

    def to_dict(self, names: Sequence[str]) -> dict[str, Any]:
        """Plain values with the classes' names."""
        name = lambda label: None if label is None else names[label]  # noqa: E731
        rounded = lambda value: None if value is None else round(float(value), 4)  # noqa: E731
        return {
            "side": self.side,
            "cause": self.cause,
            "image": self.image,
            "object": self.object,
            "name": name(self.label),
            "found_as": name(self.found),
            "score": rounded(self.score),
            "box": [round(float(edge), 1) for edge in self.box],
            "query": self.query,
            "layer": self.layer,
            "overlap": [rounded(value) for value in self.overlap],
            "other_query": self.other,
            "attention": rounded(self.attention),
            "why": self.why,
        }
