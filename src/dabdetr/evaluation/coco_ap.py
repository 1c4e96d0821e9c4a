"""COCO's matching and averaging, of all images at once; the same numbers as pycocotools.

pycocotools goes through images, classes, areas, thresholds and pairs of boxes one by one. Here a
step of the matching takes the next best detection of *every* image and class, for all areas and
thresholds together, and only pairs that overlap enough for the lowest threshold are looked at.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np

THRESHOLDS = np.linspace(0.5, 0.95, 10)
RECALLS = np.linspace(0.0, 1.0, 101)
AREAS = np.array([(0, 1e10), (0, 32**2), (32**2, 96**2), (96**2, 1e10)])
"""All, small, medium, large: px², both ends included."""
MOST = (1, 10, 100)
"""Detections of a class in an image that count, best first; the last for AP."""


@dataclass(frozen=True)
class Boxes:
    """Annotations or detections as columns, image after image.

    image  [n] int64, in the order of the images' ids
    label  [n] int64
    boxes  [n, 4] float64, x, y, width, height in pixels
    area   [n] float64, px²
    crowd  [n] bool, of annotations
    score  [n] float, of detections
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
    mosts: tuple[int, ...] = MOST,
    outside: tuple[np.ndarray, np.ndarray] | None = None,
    thresholds: np.ndarray = THRESHOLDS,
) -> tuple[np.ndarray, np.ndarray]:
    """Precision [threshold, recall, class, area] with ``mosts[-1]`` detections, and recall
    [threshold, class, area, most]; −1 where there are no such objects.

    A crowd, and an object outside the area, counts neither way, nor does what is matched to it;
    nor does an unmatched detection outside the area. ``outside`` are other bins in place of areas:
    which objects and which detections do not belong to each, [n, bins] bool.
    """
    of_truth, of_found = outside or (_outside(truth.area), _outside(found.area))
    order = np.argsort(truth.image * classes + truth.label, kind="stable")
    truth, of_truth = truth[order], of_truth[order]
    order = np.lexsort((-found.score, found.image * classes + found.label))
    own = (found.image * classes + found.label)[order]
    rank = np.arange(len(own)) - np.searchsorted(own, own)
    order, rank = order[rank < mosts[-1]], rank[rank < mosts[-1]]
    found, of_found = found[order], of_found[order]
    ignored = of_truth | truth.crowd[:, None]
    right, dropped = _match(truth, found, ignored, of_found, classes, thresholds)
    shape = (len(thresholds), classes, of_truth.shape[1])
    precision = np.full((shape[0], len(RECALLS), *shape[1:]), -1.0)
    recall = np.full((*shape, len(mosts)), -1.0)
    for label in range(classes):
        objects = (~ignored[truth.label == label]).sum(0)
        rows = np.flatnonzero(found.label == label)
        rows = rows[np.argsort(-found.score[rows], kind="stable")]
        hits = right[rows]
        counted = (~dropped[rows]).cumsum(0, dtype=np.int32)
        for place, most in enumerate(mosts):
            caught = hits[rank[rows] < most].sum(0)
            recall[:, label, :, place] = np.where(objects, caught / np.maximum(objects, 1), -1)
        for area in np.flatnonzero(objects):
            for limit in range(len(thresholds)):
                at = np.flatnonzero(hits[:, limit, area])
                curve = _curve(counted[at, limit, area], objects[area])
                precision[limit, :, label, area] = curve
    return precision, recall


def _curve(counted: np.ndarray, objects: int) -> np.ndarray:
    """Precision at ``RECALLS``; ``counted`` detections lie up to each right one, itself included.

    Precision falls with every wrong detection: its highest values lie at right ones.
    """
    number = np.arange(1, len(counted) + 1)
    precision = number / counted
    highest = np.maximum.accumulate(precision[::-1])[::-1]
    return np.append(highest, 0.0)[np.searchsorted(number / objects, RECALLS)]


def right_at(truth: Boxes, found: Boxes, classes: int) -> tuple[np.ndarray, np.ndarray]:
    """Which detections are right at IoU 0.5, and which count (not those on crowds); [found] bool.

    Matched as for AP, but without a limit of detections. The rows are those of ``found``.
    """
    right, dropped = right_at_every(truth, found, classes)
    return right[:, 0], ~dropped[:, 0]


def right_at_every(truth: Boxes, found: Boxes, classes: int) -> tuple[np.ndarray, np.ndarray]:
    """Which detections are right, and which count neither way; [found, threshold] bool.

    Objects of all sizes, without a limit of detections; the rows are those of ``found``.
    """
    of_truth = np.argsort(truth.image * classes + truth.label, kind="stable")
    order = np.lexsort((-found.score, found.image * classes + found.label))
    truth = truth[of_truth]
    everywhere = np.zeros((len(found), 1), bool)
    right, dropped = _match(truth, found[order], truth.crowd[:, None], everywhere, classes)
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

    ``ignored`` [truth, area] and ``outside`` [found, area] bool do not belong to an area.

    Every detection, best first, takes the object that overlaps it most of those still free and not
    ``ignored``; else the ignored one that overlaps it most. Crowds are always free. Of objects
    that overlap equally the last one is taken.
    """
    limits = np.minimum(thresholds, 1 - 1e-10)
    thing, box, overlap = _pairs(truth, found, classes, limits[0])
    # Overlap and place in one whole number, so that a pair is known by how good it is.
    order = np.argsort(overlap, kind="stable")
    worth = np.empty(len(order), np.int64)
    worth[order] = np.arange(1, len(order) + 1)
    enough = overlap[:, None] >= limits
    free = np.ones((len(truth), len(limits), ignored.shape[1]), bool)
    matched = np.zeros((len(found), len(limits), ignored.shape[1]), bool)
    dropped = np.repeat(outside[:, None], len(limits), axis=1)
    for pairs in _rounds(found, box, classes):
        of, boxes = thing[pairs], box[pairs]
        able = (free[of] | truth.crowd[of][:, None, None]) & enough[pairs][:, :, None]
        value = worth[pairs][:, None] + len(order) * ~ignored[of]
        first = np.flatnonzero(np.diff(boxes, prepend=-1))
        best = np.maximum.reduceat(np.where(able, value[:, None], 0), first, axis=0)
        row, limit, area = np.nonzero(best)
        taken = thing[order[(best[row, limit, area] - 1) % len(order)]]
        free[taken, limit, area] = False
        row = boxes[first][row]
        matched[row, limit, area] = True
        dropped[row, limit, area] = ignored[taken, area]
    return matched & ~dropped, dropped


def _rounds(found: Boxes, box: np.ndarray, classes: int) -> list[np.ndarray]:
    """Pairs that can be looked at together: of each image and class those of one detection."""
    each, pair = np.unique(box, return_inverse=True)
    own = found.image[each] * classes + found.label[each]
    turn = (np.arange(len(own)) - np.searchsorted(own, own))[pair]
    order = np.argsort(turn, kind="stable")
    return np.split(order, np.flatnonzero(np.diff(turn[order])) + 1) if len(order) else []


def _pairs(
    truth: Boxes, found: Boxes, classes: int, least: float
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Objects and detections of one image and class that overlap by ``least``, and how much.

    Sorted by detection, then by object. The overlap is the IoU; with a crowd it is the share of
    the detection that lies on it.
    """
    there, wanted = (each.image * classes + each.label for each in (truth, found))
    start = np.searchsorted(there, wanted)
    count = np.searchsorted(there, wanted, side="right") - start
    box = np.arange(len(found)).repeat(count)
    thing = np.arange(len(box)) + (start - (count.cumsum() - count)).repeat(count)
    a, b = found.boxes[box], truth.boxes[thing]
    low = np.maximum(a[:, :2], b[:, :2])
    shared = (np.minimum(a[:, :2] + a[:, 2:], b[:, :2] + b[:, 2:]) - low).clip(0).prod(1)
    own, other = a[:, 2:].prod(1), b[:, 2:].prod(1)
    joint = np.where(truth.crowd[thing], own, own + other - shared)
    overlap = np.divide(shared, joint, out=np.zeros_like(shared), where=shared > 0)
    enough = overlap >= least
    return thing[enough], box[enough], overlap[enough]


def _outside(area: np.ndarray) -> np.ndarray:
    """[n, areas] bool."""
    return (area[:, None] < AREAS[:, 0]) | (area[:, None] > AREAS[:, 1])
