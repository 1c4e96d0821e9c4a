"""Dividing one split into several: seeded, stratified by class, near-duplicates kept together."""

from __future__ import annotations

import numpy as np

from dabdetr.data.dataset import DetectionDataset, Subset
from dabdetr.data.findings import Findings
from dabdetr.data.similar import groups, near_duplicates, thumbnails
from dabdetr.text import counted


def divide(
    data: DetectionDataset, share: float, seed: int = 0, progress: bool = False
) -> tuple[Subset, Subset]:
    """Train and val splits: ``share`` (0–1) of the images, and the rest; each in the data's order.

    Stratified: rare classes are distributed first, so that each class, and the images without
    boxes, have about the same share on both sides. Near-duplicates stay together (see
    ``similar``). The same seed gives the same split of the same images. Raises ValueError for a
    share outside 0–1 and for fewer than two different images.
    """
    if not 0 < share < 1:
        raise ValueError(f"a split is a share of images to train on, 0–1, such as 0.8; got {share}")
    rows, counts = _count_groups(data, progress)
    held = _held_out(counts, 1 - share, seed)
    val = sorted(i for row, indices in enumerate(rows) if held[row] for i in indices)
    in_val = set(val)
    train = [index for index in range(len(data)) if index not in in_val]
    first, second = Subset(data, train), Subset(data, val)
    first.split, second.split, second.findings = "train", "val", Findings()
    return first, second


def fold(
    data: DetectionDataset, count: int, seed: int = 0, progress: bool = False
) -> list[list[int]]:
    """Indices of the images in ``count`` folds of about equal size; each image is in one fold.

    Stratified and with near-duplicates together, as in ``divide``. Raises ValueError for fewer
    than two folds and for fewer different images than folds.
    """
    if count < 2:
        raise ValueError(f"images are divided into at least 2 folds; got {count}")
    rows, counts = _count_groups(data, progress)
    if len(rows) < count:
        raise ValueError(f"{count} folds need as many images that differ; there are {len(rows)}")
    remaining, parts = np.arange(len(rows)), []
    for folds_left in range(count, 1, -1):
        held = _held_out(counts[remaining], 1 / folds_left, seed)
        parts.append(remaining[held])
        remaining = remaining[~held]
    return [sorted(i for row in part for i in rows[row]) for part in (*parts, remaining)]


def _count_groups(data: DetectionDataset, progress: bool) -> tuple[list[list[int]], np.ndarray]:
    """Groups of near-duplicates as image indices, and [groups, kinds] counts of their contents.

    Kinds: objects of each class, images without an object, images.
    """
    if len(data) < 2:
        raise ValueError(
            f"{data.name} {data.split} has {counted(len(data), 'image')}; a split needs two"
        )
    records = [data.record(index) for index in range(len(data))]
    pairs = near_duplicates(thumbnails([record.file for record in records], progress))
    members: dict[int, list[int]] = {}
    for index, first in enumerate(groups(pairs, len(data)).tolist()):
        members.setdefault(first, []).append(index)
    if len(members) < 2:
        raise ValueError(
            f"all {len(data)} images of {data.name} {data.split} show the same; a split needs more"
        )
    counts = np.zeros((len(members), len(data.names) + 2))
    for row, indices in enumerate(members.values()):
        for index in indices:
            labels = records[index].labels[~records[index].crowd]
            counts[row, :-2] += np.bincount(labels, minlength=len(data.names))
            counts[row, -2] += not len(labels)
        counts[row, -1] = len(indices)
    return list(members.values()), counts


def _held_out(counts: np.ndarray, share: float, seed: int) -> np.ndarray:
    """[groups] bool: which groups are held out, by their ``counts`` [groups, kinds].

    Iterative stratification: starting with the rarest kind, its groups are assigned one by one to
    the side that lacks most of that kind, or in a tie to the one that lacks more images. A side
    that has its share of images is assigned no more.
    """
    rng = np.random.default_rng(seed)
    wanted = np.stack((counts.sum(0) * (1 - share), counts.sum(0) * share))
    side = np.full(len(counts), -1)
    order = rng.permutation(len(counts))
    kinds = sorted(range(counts.shape[1] - 1), key=lambda kind: (counts[:, kind].sum(), kind))
    for kind in [*kinds, counts.shape[1] - 1]:
        rows = [row for row in order if side[row] < 0 and counts[row, kind] > 0]
        for row in rows:
            full = wanted[:, -1] < counts[row, -1] / 2
            if full.any() and not full.all():
                best = int(full[0])
            else:
                best = int(np.lexsort((-wanted[:, -1], -wanted[:, kind].round(6)))[0])
            side[row] = best
            wanted[best] -= counts[row]
    held = side == 1
    if not held.any() or held.all():  # with few images, rounding can leave one side empty
        held[:] = False
        held[order[0]] = True
    return held
