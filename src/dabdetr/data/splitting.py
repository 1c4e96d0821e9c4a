"""One split into several: by a seed, each class in all, images that show the same together."""

from __future__ import annotations

import numpy as np

from dabdetr.data.dataset import DetectionDataset, Subset
from dabdetr.data.findings import Findings
from dabdetr.data.similar import groups, near_duplicates, thumbnails
from dabdetr.text import counted


def divide(
    data: DetectionDataset, share: float, seed: int = 0, progress: bool = False
) -> tuple[Subset, Subset]:
    """A share of the images to train on, and the others; each in the data's order.

    Stratified: rare classes are dealt out first, so that each has about its share on both sides;
    images without boxes too. Near-duplicates stay together (see ``similar``). The same seed gives
    the same split of the same images.
    """
    if not 0 < share < 1:
        raise ValueError(f"a split is a share of images to train on, 0–1, such as 0.8; got {share}")
    rows, counts = _scenes(data, progress)
    held = _held_out(counts, 1 - share, seed)
    val = sorted(i for row, indices in enumerate(rows) if held[row] for i in indices)
    out = set(val)
    train = [index for index in range(len(data)) if index not in out]
    first, second = Subset(data, train), Subset(data, val)
    first.split, second.split, second.findings = "train", "val", Findings()
    return first, second


def fold(
    data: DetectionDataset, count: int, seed: int = 0, progress: bool = False
) -> list[list[int]]:
    """The images in ``count`` parts of about one size, as indices; each image is in one of them.

    Stratified and with near-duplicates together, as ``divide`` does it.
    """
    if count < 2:
        raise ValueError(f"images are divided into at least 2 folds; got {count}")
    rows, counts = _scenes(data, progress)
    if len(rows) < count:
        raise ValueError(f"{count} folds need as many images that differ; there are {len(rows)}")
    left, parts = np.arange(len(rows)), []
    for folds_left in range(count, 1, -1):
        held = _held_out(counts[left], 1 / folds_left, seed)
        parts.append(left[held])
        left = left[~held]
    return [sorted(i for row in part for i in rows[row]) for part in (*parts, left)]


def _scenes(data: DetectionDataset, progress: bool) -> tuple[list[list[int]], np.ndarray]:
    """Groups of images that show the same, and [groups, kinds] what they hold.

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
    """[groups] bool: which groups are held out; ``counts`` [groups, kinds] is what they hold.

    Iterative stratification: of the kind with the fewest objects left, the groups go one by one to
    the side that lacks most of that kind, and of equals to the one that lacks images. A side that
    has its images gets no more.
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
    if not held.any() or held.all():  # so few images that rounding left one side empty
        held[:] = False
        held[order[0]] = True
    return held
