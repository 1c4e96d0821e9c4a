"""Large images in overlapping tiles, and the detections of all tiles as those of one image."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from dabdetr.structures import Detections
from dabdetr.structures.boxes import area, iou, shared_area

AT_ONCE = 8
"""Tiles that go through the model together, at least."""
SAME = 0.5
"""IoU from which two boxes of one class from two views are of one object."""
PART = 0.5
"""Share of a cut box that lies in a whole one from which it is a part of that object."""

View = tuple[int, int, int, int]
"""x0 y0 x1 y1 in pixels of the image."""


@dataclass(frozen=True)
class Tiling:
    """Square tiles of ``size`` pixels that share at least ``overlap`` of it with their neighbours.

    An object no larger than the overlap lies whole in some tile. Larger ones are found in the whole
    image, which is looked at as well.
    """

    size: int
    overlap: float = 0.25

    def __post_init__(self) -> None:
        if self.size < 32:
            raise ValueError(f"tiles should be at least 32 pixels wide; got {self.size}")
        if not 0 <= self.overlap < 0.9:
            raise ValueError(f"the overlap of tiles should be from 0 to 0.9; got {self.overlap}")

    def views(self, height: int, width: int) -> list[View]:
        """The tiles row by row, all of one size and evenly spread, and then the whole image."""
        whole = (0, 0, width, height)
        if max(height, width) <= self.size:
            return [whole]
        h, w = min(self.size, height), min(self.size, width)
        tops, lefts = self._starts(height, h), self._starts(width, w)
        return [*((x, y, x + w, y + h) for y in tops for x in lefts), whole]

    def _starts(self, length: int, side: int) -> list[int]:
        step = max(self.size - math.ceil(self.overlap * self.size), 1)
        count = 1 + math.ceil((length - side) / step)
        return np.linspace(0, length - side, count).round().astype(int).tolist()


def merge(found: Sequence[Detections], views: Sequence[View], tiling: Tiling) -> Detections:
    """The detections of every view of an image as the image's own, each object once; best first.

    ``found`` has boxes in pixels of its view; the last view is the whole image. Within one view
    nothing is merged. A box that ends at an inner border of its view is cut: it is dropped where a
    whole box covers it, of whatever class, as a part often looks like something else, and joined
    with the other parts of its object where no view shows this whole.
    """
    if len(views) == 1:
        return found[0]
    parts = [_placed(each, view) for each, view in zip(found, views, strict=True)]
    parts[-1] = _large(parts[-1], tiling)
    seen = np.repeat(np.array(views, np.float32), [len(part) for part in parts], axis=0)
    every = replace(
        parts[-1],
        boxes=np.concatenate([part.boxes for part in parts]),
        scores=np.concatenate([part.scores for part in parts]),
        labels=np.concatenate([part.labels for part in parts]),
        queries=np.concatenate([part.queries for part in parts]),
    )
    cut = _cut(every.boxes, seen, every.size, tiling)
    order = np.lexsort((-every.scores, cut))  # whole ones first, and of these the best
    kept = _Kept(every[order], seen[order], cut[order])
    for index in range(len(order)):
        kept.consider(index)
    while kept.settle():
        pass
    return kept.result()


def _placed(found: Detections, view: View) -> Detections:
    """In pixels of the image."""
    x0, y0 = view[:2]
    return replace(found, boxes=found.boxes + np.array((x0, y0, x0, y0), np.float32))


def _large(found: Detections, tiling: Tiling) -> Detections:
    """Of the whole image's detections those that no tile is sure to show whole."""
    sides = found.boxes[:, 2:] - found.boxes[:, :2]
    return found[sides.max(1, initial=0) > tiling.overlap * tiling.size]


def _cut(boxes: np.ndarray, seen: np.ndarray, size: tuple[int, int], tiling: Tiling) -> np.ndarray:
    """Whether each box ends at a border of its view that is none of the image's."""
    near = max(3.0, 0.03 * tiling.size)
    height, width = size
    inner = np.concatenate((seen[:, :2] > 0, seen[:, 2:] < (width, height)), axis=1)
    return np.any(inner & (np.abs(boxes - seen) <= near), axis=1)


class _Kept:
    """What is kept of detections that come whole ones first, best first.

    found  the detections [n …], cut [n] whether each is, seen [n, 4] the part of the image in
           which each was found
    """

    def __init__(self, found: Detections, seen: np.ndarray, cut: np.ndarray) -> None:
        self.found, self.seen, self.cut = found, seen.copy(), cut
        self.boxes = found.boxes.copy()
        self.kept = np.zeros(len(found), bool)

    def consider(self, index: int) -> None:
        """Keep a detection, join it with a kept one, or leave it out."""
        box, seen, label = self.boxes[index], self.seen[index], self.found.labels[index]
        other = self.kept & (self.seen != seen).any(1)
        alike = other & (self.found.labels == label)
        if not self.cut[index]:
            self.kept[index] = not (alike & (iou(self.boxes, box) >= SAME)).any()
            return
        share = _share(self.boxes, box)
        covers = other & (self.found.scores >= self.found.scores[index] / 2) & (share >= PART)
        if (covers & ~self.cut).any():
            return
        low, high = np.maximum(self.seen[:, :2], seen[:2]), np.minimum(self.seen[:, 2:], seen[2:])
        shared = np.concatenate((low, high), axis=1)
        match = np.maximum(iou(_within(self.boxes, shared), _within(box, shared)), share)
        match[~(alike & self.cut)] = 0
        best = int(match.argmax())
        if match[best] < SAME:
            self.kept[index] = not covers.any()
            return
        for rows, one in ((self.boxes, box), (self.seen, seen)):
            rows[best] = (
                *np.minimum(rows[best, :2], one[:2]),
                *np.maximum(rows[best, 2:], one[2:]),
            )

    def settle(self) -> bool:
        """Look at the cut ones again, as others have grown since; whether one more was left out."""
        before = self.kept.sum()
        for index in np.flatnonzero(self.kept & self.cut):
            self.kept[index] = False
            self.consider(int(index))
        return bool(self.kept.sum() < before)

    def result(self) -> Detections:
        """The kept ones, best first."""
        found = replace(self.found, boxes=self.boxes)[self.kept]
        return found[np.argsort(-found.scores, kind="stable")]


def _within(boxes: np.ndarray, limits: np.ndarray) -> np.ndarray:
    """Boxes [n, 4] or one, cut to limits [n, 4]; empty where they do not meet."""
    low, high = limits[:, :2], limits[:, 2:]
    boxes = np.broadcast_to(boxes, limits.shape)
    return np.concatenate((boxes[:, :2].clip(low, high), boxes[:, 2:].clip(low, high)), axis=1)


def _share(boxes: np.ndarray, part: np.ndarray) -> np.ndarray:
    """How much of ``part`` lies in each box."""
    return shared_area(boxes, part) / np.maximum(area(part), 1e-6)
