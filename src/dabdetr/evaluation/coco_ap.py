"""COCO's matching and averaging, for all images at once; the same numbers as pycocotools.

pycocotools loops over images, classes, areas, thresholds and pairs of boxes one by one. Here a
step of the matching takes the next best detection of *every* image and class, for all areas and
thresholds together, and considers only pairs that overlap enough for the lowest threshold.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np

THRESHOLDS = np.linspace(0.5, 0.95, 10)
RECALLS = np.linspace(0.0, 1.0, 101)
AREAS = np.array([(0, 1e10), (0, 32**2), (32**2, 96**2), (96**2, 1e10)])
"""Bounds of all, small, medium and large objects in px², both ends included."""
MOST = (1, 10, 100)
"""The numbers of best detections of a class in an image that count; the last one is for AP."""


@dataclass(frozen=True)
class Boxes:
    """Annotations or detections of all images as columns.

    image  [n] int64, the image's place in the order of image ids
    label  [n] int64
    boxes  [n, 4] float64, x, y, width, height in pixels
    area   [n] float64, px²
    crowd  [n] bool, for annotations only
    score  [n] float, for detections only
    """

    image: np.ndarray
    label: np.ndarray
    boxes: np.ndarray
    area: np.ndarray
    crowd: np.ndarray = field(default_factory=lambda: np.zeros(0, bool))
    score: np.ndarray = field(default_factory=lambda: np.zeros(0))

    def __len__(self) -> int:
        return len(self.image)

    def __getitem__(self, index: np.ndarray) -> Boxes:
        columns = (self.image, self.label, self.boxes, self.area, self.crowd, self.score)
        return Boxes(*(column[index] if len(column) else column for column in columns))


def precision_and_recall(
    truth: Boxes,
    found: Boxes,
    classes: int,
    max_dets: tuple[int, ...] = MOST,
    outside: tuple[np.ndarray, np.ndarray] | None = None,
    thresholds: np.ndarray = THRESHOLDS,
) -> tuple[np.ndarray, np.ndarray]:
    """Precision [threshold, recall, class, area] with ``max_dets[-1]`` detections of a class in an
    image, and recall [threshold, class, area, limit]; −1 where no objects apply.

    Crowds and objects outside the area count neither way, nor do detections matched to them, nor
    unmatched detections outside the area. ``outside`` replaces the areas with other bins: it holds
    for the objects and for the detections which are outside each bin, [n, bins] bool.
    """
    truth_outside, found_outside = outside or (_outside(truth.area), _outside(found.area))
    order = np.argsort(truth.image * classes + truth.label, kind="stable")
    truth, truth_outside = truth[order], truth_outside[order]
    order = np.lexsort((-found.score, found.image * classes + found.label))
    group = (found.image * classes + found.label)[order]
    rank = np.arange(len(group)) - np.searchsorted(group, group)
    order, rank = order[rank < max_dets[-1]], rank[rank < max_dets[-1]]
    found, found_outside = found[order], found_outside[order]
    ignored = truth_outside | truth.crowd[:, None]
    right, dropped = _match(truth, found, ignored, found_outside, classes, thresholds)
    shape = (len(thresholds), classes, truth_outside.shape[1])
    precision = np.full((shape[0], len(RECALLS), *shape[1:]), -1.0)
    recall = np.full((*shape, len(max_dets)), -1.0)
    for label in range(classes):
        objects = (~ignored[truth.label == label]).sum(0)
        rows = np.flatnonzero(found.label == label)
        rows = rows[np.argsort(-found.score[rows], kind="stable")]
        hits = right[rows]
        counted = (~dropped[rows]).cumsum(0, dtype=np.int32)
        for place, limit in enumerate(max_dets):
            caught = hits[rank[rows] < limit].sum(0)
            recall[:, label, :, place] = np.where(objects, caught / np.maximum(objects, 1), -1)
        for area in np.flatnonzero(objects):
            for threshold in range(len(thresholds)):
                hit_rows = np.flatnonzero(hits[:, threshold, area])
                curve = _curve(counted[hit_rows, threshold, area], objects[area])
                precision[threshold, :, label, area] = curve
    return precision, recall


def _curve(counted: np.ndarray, objects: int) -> np.ndarray:
    """Precision at ``RECALLS``; ``counted`` is the rank, from 1, of each right detection.

    Precision falls with every wrong detection, so its peaks are at right ones.
    """
    number = np.arange(1, len(counted) + 1)
    precision = number / counted
    highest = np.maximum.accumulate(precision[::-1])[::-1]
    return np.append(highest, 0.0)[np.searchsorted(number / objects, RECALLS)]


def right_at(truth: Boxes, found: Boxes, classes: int) -> tuple[np.ndarray, np.ndarray]:
    """Which detections are right at IoU 0.5, and which count (all but those on crowds).

    Two [found] bool arrays, in the order of ``found``. Matched as for AP, but without a limit on
    the number of detections.
    """
    right, dropped = right_at_every(truth, found, classes)
    return right[:, 0], ~dropped[:, 0]


def right_at_every(truth: Boxes, found: Boxes, classes: int) -> tuple[np.ndarray, np.ndarray]:
    """Which detections are right, and which count neither way; [found, threshold] bool.

    For objects of all sizes, without a limit on the number of detections; rows are in the order of
    ``found``.
    """
    truth = truth[np.argsort(truth.image * classes + truth.label, kind="stable")]
    order = np.lexsort((-found.score, found.image * classes + found.label))
    outside = np.zeros((len(found), 1), bool)
    right, dropped = _match(truth, found[order], truth.crowd[:, None], outside, classes)
    back = np.argsort(order, kind="stable")
    return right[back, :, 0], dropped[back, :, 0]


def _match(
    truth: Boxes,
    found: Boxes,
    ignored: np.ndarray,
    outside: np.ndarray,
    classes: int,
    thresholds: np.ndarray = THRESHOLDS,
) -> tuple[np.ndarray, np.ndarray]:
    """Which detections are right, and which count neither way; both [found, threshold, area].

    ``ignored`` [truth, area] and ``outside`` [found, area] bool mark what is outside each area.

    Every detection, best first, takes the free object that overlaps it most among those not
    ``ignored``; if there is none, the ignored one that overlaps it most. Crowds are always free. Of
    objects that overlap equally the last one is taken.
    """
    limits = np.minimum(thresholds, 1 - 1e-10)
    object_row, found_row, overlap = _pairs(truth, found, classes, limits[0])
    # The rank of a pair (by overlap, then by place) also identifies the pair: order[rank - 1].
    order = np.argsort(overlap, kind="stable")
    rank = np.empty(len(order), np.int64)
    rank[order] = np.arange(1, len(order) + 1)
    enough = overlap[:, None] >= limits
    free = np.ones((len(truth), len(limits), ignored.shape[1]), bool)
    matched = np.zeros((len(found), len(limits), ignored.shape[1]), bool)
    dropped = np.repeat(outside[:, None], len(limits), axis=1)
    # groups of pairs that are matched together: one detection of each image and class
    rows, pair = np.unique(found_row, return_inverse=True)
    group = found.image[rows] * classes + found.label[rows]
    turn = (np.arange(len(group)) - np.searchsorted(group, group))[pair]
    by_turn = np.argsort(turn, kind="stable")
    ends = np.flatnonzero(np.diff(turn[by_turn])) + 1
    for pairs in np.split(by_turn, ends) if len(by_turn) else []:
        objects, detections = object_row[pairs], found_row[pairs]
        allowed = (free[objects] | truth.crowd[objects][:, None, None]) & enough[pairs][:, :, None]
        value = rank[pairs][:, None] + len(order) * ~ignored[objects]
        first = np.flatnonzero(np.diff(detections, prepend=-1))
        best = np.maximum.reduceat(np.where(allowed, value[:, None], 0), first, axis=0)
        row, limit, area = np.nonzero(best)
        taken = object_row[order[(best[row, limit, area] - 1) % len(order)]]
        free[taken, limit, area] = False
        row = detections[first][row]
        matched[row, limit, area] = True
        dropped[row, limit, area] = ignored[taken, area]
    return matched & ~dropped, dropped


def _pairs(
    truth: Boxes, found: Boxes, classes: int, least: float
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Rows of object and detection of one image and class that overlap by ``least``, and how much.

    Sorted by detection, then by object. The overlap is the IoU; for a crowd it is the share of
    the detection that lies on it.
    """
    truth_group, found_group = (each.image * classes + each.label for each in (truth, found))
    start = np.searchsorted(truth_group, found_group)
    count = np.searchsorted(truth_group, found_group, side="right") - start
    found_row = np.arange(len(found)).repeat(count)
    object_row = np.arange(len(found_row)) + (start - (count.cumsum() - count)).repeat(count)
    a, b = found.boxes[found_row], truth.boxes[object_row]
    low = np.maximum(a[:, :2], b[:, :2])
    shared = (np.minimum(a[:, :2] + a[:, 2:], b[:, :2] + b[:, 2:]) - low).clip(0).prod(1)
    found_area, object_area = a[:, 2:].prod(1), b[:, 2:].prod(1)
    joint = np.where(truth.crowd[object_row], found_area, found_area + object_area - shared)
    overlap = np.divide(shared, joint, out=np.zeros_like(shared), where=shared > 0)
    enough = overlap >= least
    return object_row[enough], found_row[enough], overlap[enough]


def _outside(area: np.ndarray) -> np.ndarray:
    """[n, areas] bool: outside the bounds of ``AREAS``."""
    return (area[:, None] < AREAS[:, 0]) | (area[:, None] > AREAS[:, 1])
