"""Overlapping tiles of large images, and the merging of their detections into the image's own."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from dabdetr.structures import Detections
from dabdetr.structures.boxes import area, iou, shared_area

AT_ONCE = 8
"""Least batch size for tiles."""
SAME = 0.5
"""IoU from which two boxes of one class from two views count as the same object."""
PART = 0.5
"""Share of a cut box inside another box from which it counts as a part of that object."""

View = tuple[int, int, int, int]
"""x0 y0 x1 y1 in pixels of the image."""


@dataclass(frozen=True)
class Tiling:
    """Square tiles of ``size`` pixels; neighbours share at least the fraction ``overlap`` of it.

    An object no larger than the overlap is complete in some tile. Larger ones are detected in the
    whole image, which is a view as well.
    """

    size: int
    overlap: float = 0.25

    def __post_init__(self) -> None:
        if self.size < 32:
            raise ValueError(f"tiles should be at least 32 pixels wide; got {self.size}")
        if not 0 <= self.overlap < 0.9:
            raise ValueError(f"the overlap of tiles should be from 0 to 0.9; got {self.overlap}")

    def views(self, height: int, width: int) -> list[View]:
        """The tiles row by row, of one size and evenly spaced, and last the whole image."""
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
    """The detections of all views of an image as those of the image, each object once; best first.

    ``found`` has boxes in pixels of its view; the last view is the whole image. Detections of the
    same view are not merged. A box that ends at an inner border of its view is cut. It is dropped
    where an uncut box covers it, of any class, as a part often looks like something else; where no
    view has the object uncut, its parts are joined.
    """
    if len(views) == 1:
        return found[0]
    parts = [
        replace(each, boxes=each.boxes + np.array((*view[:2], *view[:2]), np.float32))
        for each, view in zip(found, views, strict=True)
    ]
    sides = parts[-1].boxes[:, 2:] - parts[-1].boxes[:, :2]
    # of the whole image only what may be cut in every tile
    parts[-1] = parts[-1][sides.max(1, initial=0) > tiling.overlap * tiling.size]
    extents = np.repeat(np.array(views, np.float32), [len(part) for part in parts], axis=0)
    every = replace(
        parts[-1],
        boxes=np.concatenate([part.boxes for part in parts]),
        scores=np.concatenate([part.scores for part in parts]),
        labels=np.concatenate([part.labels for part in parts]),
        queries=np.concatenate([part.queries for part in parts]),
    )
    # cut: a box that ends at a border of its view that is not a border of the image
    near = max(3.0, 0.03 * tiling.size)
    inner = np.concatenate((extents[:, :2] > 0, extents[:, 2:] < every.size[::-1]), axis=1)
    cut = np.any(inner & (np.abs(every.boxes - extents) <= near), axis=1)
    order = np.lexsort((-every.scores, cut))  # uncut boxes first, then by score
    merger = _Merger(every[order], extents[order], cut[order])
    for index in range(len(order)):
        merger.consider(index)
    while merger.reconsider_cut():
        pass
    return merger.result()


class _Merger:
    """Decides which detections to keep; they are considered uncut ones first, then by score.

    found    n detections
    extents  [n, 4], the view of each; of joined detections, the extent of their views
    cut      [n], whether each was cut by its view
    """

    def __init__(self, found: Detections, extents: np.ndarray, cut: np.ndarray) -> None:
        self.found, self.extents, self.cut = found, extents.copy(), cut
        self.boxes = found.boxes.copy()
        self.kept = np.zeros(len(found), bool)

    def consider(self, index: int) -> None:
        """Keep a detection, join it with a kept one, or drop it."""
        box, extent, label = self.boxes[index], self.extents[index], self.found.labels[index]
        other = self.kept & (self.extents != extent).any(1)
        same_class = other & (self.found.labels == label)
        if not self.cut[index]:
            self.kept[index] = not (same_class & (iou(self.boxes, box) >= SAME)).any()
            return
        share = _share_inside(self.boxes, box)
        covers = other & (self.found.scores >= self.found.scores[index] / 2) & (share >= PART)
        if (covers & ~self.cut).any():
            return
        low = np.maximum(self.extents[:, :2], extent[:2])
        high = np.minimum(self.extents[:, 2:], extent[2:])
        shared = np.concatenate((low, high), axis=1)
        match = np.maximum(iou(_clipped(self.boxes, shared), _clipped(box, shared)), share)
        match[~(same_class & self.cut)] = 0
        best = int(match.argmax())
        if match[best] < SAME:
            self.kept[index] = not covers.any()
            return
        for rows, part in ((self.boxes, box), (self.extents, extent)):
            rows[best] = (
                *np.minimum(rows[best, :2], part[:2]),
                *np.maximum(rows[best, 2:], part[2:]),
            )

    def reconsider_cut(self) -> bool:
        """Consider the kept cut boxes again, as joined ones have grown; whether one was dropped."""
        before = self.kept.sum()
        for index in np.flatnonzero(self.kept & self.cut):
            self.kept[index] = False
            self.consider(int(index))
        return bool(self.kept.sum() < before)

    def result(self) -> Detections:
        """The kept detections, best first."""
        found = replace(self.found, boxes=self.boxes)[self.kept]
        return found[np.argsort(-found.scores, kind="stable")]


def _clipped(boxes: np.ndarray, limits: np.ndarray) -> np.ndarray:
    """Boxes [n, 4] or [4] clipped to limits [n, 4]; empty where they do not overlap."""
    low, high = limits[:, :2], limits[:, 2:]
    boxes = np.broadcast_to(boxes, limits.shape)
    return np.concatenate((boxes[:, :2].clip(low, high), boxes[:, 2:].clip(low, high)), axis=1)


def _share_inside(boxes: np.ndarray, part: np.ndarray) -> np.ndarray:
    """The share of the area of ``part`` that is inside each box."""
    return shared_area(boxes, part) / np.maximum(area(part), 1e-6)
