"""How far AP varies between samples of similar images: the bootstrap over images.

A resample draws as many images as there are, with replacement. Detections are matched once; an
image that is drawn twice counts twice, so a resample is a weight for each image.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from dabdetr.evaluation.coco_ap import RECALLS, THRESHOLDS, Boxes, right_at_every

RESAMPLES = 200
LEVEL = 0.95
CELLS = 4_000_000
"""The most cells (detections times resamples) computed at a time."""


@dataclass(frozen=True)
class Matched:
    """Detections of all images in falling order of score, matched at each threshold.

    image, label  [found] int64
    right, dropped  [found, threshold] bool; dropped: counts neither way
    objects  [images, classes] number of objects, without crowds
    """

    image: np.ndarray
    label: np.ndarray
    right: np.ndarray
    dropped: np.ndarray
    objects: np.ndarray


def match(truth: Boxes, found: Boxes, images: int, classes: int, most: int = 100) -> Matched:
    """Detections matched as for AP: the ``most`` best of a class in an image."""
    # by image and class first, as in coco_ap, so that equal scores keep COCO's order
    found = found[np.lexsort((-found.score, found.image * classes + found.label))]
    group = found.image * classes + found.label
    found = found[np.arange(len(group)) - np.searchsorted(group, group) < most]
    found = found[np.argsort(-found.score, kind="stable")]
    right, dropped = right_at_every(truth, found, classes)
    objects = np.zeros((images, classes), np.int64)
    kept = ~truth.crowd
    np.add.at(objects, (truth.image[kept], truth.label[kept]), 1)
    return Matched(found.image, found.label, right, dropped, objects)


def resamples(images: int, count: int = RESAMPLES, seed: int = 0) -> np.ndarray:
    """[count, images] the number of times that each image is drawn."""
    shares = np.full(images, 1 / images)
    return np.random.default_rng(seed).multinomial(images, shares, size=count)


def average_precision(matched: Matched, weights: np.ndarray) -> np.ndarray:
    """AP [resamples, classes, threshold] with weighted images; NaN without objects."""
    classes = matched.objects.shape[1]
    precision = np.full((len(weights), classes, len(THRESHOLDS)), np.nan, np.float32)
    order = np.argsort(matched.label, kind="stable")
    starts = np.searchsorted(matched.label[order], np.arange(classes + 1))
    for label in range(classes):
        rows = order[starts[label] : starts[label + 1]]
        chunk = max(1, CELLS // max(len(rows), 1))
        for at in range(0, len(weights), chunk):
            part = weights[at : at + chunk]
            precision[at : at + chunk, label] = _of_class(matched, rows, part, label)
    return precision


def _of_class(matched: Matched, rows: np.ndarray, weights: np.ndarray, label: int) -> np.ndarray:
    """AP [resamples, threshold] of a class, whose detections are ``rows``."""
    objects = weights @ matched.objects[:, label]
    found = np.zeros((len(weights), len(THRESHOLDS)), np.float32)
    times = weights[:, matched.image[rows]].astype(np.int32)
    counted = times.cumsum(1, dtype=np.int32)
    right, dropped = matched.right[rows], matched.dropped[rows]
    # the number of right detections for each recall, rounded as in COCO
    total = np.maximum(objects, 1)[:, None]
    needed = np.ceil(RECALLS * total).astype(np.int64)
    needed -= (needed - 1) / total >= RECALLS
    needed += needed / total < RECALLS
    for limit in range(len(THRESHOLDS)):
        hits = np.flatnonzero(right[:, limit])
        if not len(hits):
            continue
        shown, dropped_rows = counted[:, hits], np.flatnonzero(dropped[:, limit])
        if len(dropped_rows):
            left_out = np.concatenate(
                (np.zeros((len(weights), 1), np.int32), times[:, dropped_rows].cumsum(1)), axis=1
            )
            shown = shown - left_out[:, np.searchsorted(dropped_rows, hits)]
        number = times[:, hits].cumsum(1)
        precision = number / np.maximum(shown, 1)
        highest = np.maximum.accumulate(precision[:, ::-1], axis=1)[:, ::-1]
        # one search for all resamples: their counts are offset into disjoint ranges
        moved = np.arange(len(weights))[:, None] * (int(objects.max()) + 2)
        wanted = np.searchsorted((number + moved).ravel(), (needed + moved).ravel())
        ends = np.arange(1, len(weights) + 1).repeat(len(RECALLS)) * len(hits)
        reached = np.where(wanted < ends, highest.ravel()[np.minimum(wanted, ends - 1)], 0.0)
        found[:, limit] = reached.reshape(len(weights), -1).mean(1)
    found[objects == 0] = np.nan
    return found


def interval(values: np.ndarray) -> list[float] | None:
    """The bounds of the middle ``LEVEL`` of resampled values; None if there are none."""
    values = values[np.isfinite(values)]
    if not len(values):
        return None
    tail = (1 - LEVEL) / 2
    return [float(value) for value in np.quantile(values, (tail, 1 - tail))]


def class_means(values: np.ndarray) -> np.ndarray:
    """The mean [resamples] of AP [resamples, classes, threshold] over classes with objects."""
    known = np.isfinite(values[:, :, 0])
    total = np.where(known[:, :, None], values, 0).mean(2).sum(1)
    counts = known.sum(1)
    return np.where(counts, total / np.maximum(counts, 1), np.nan)
