"""Batches: which images go together, padding, targets, and the loaders.

Everything random is a pure function of (seed, epoch, index), so any number of workers and any
resumed run give the same bits.
"""

from __future__ import annotations

import math
import os
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from dabdetr.config import Config
from dabdetr.data.augmentation import Augmentation, CropShape, Example
from dabdetr.data.dataset import DetectionDataset
from dabdetr.geometry import to_centres
from dabdetr.structures import Images, Targets

_POOL = 32  # batches' worth of images among which like shapes are sought
_FAILURES = (ValueError, OSError)


def pad(images: Sequence[Tensor]) -> Images:
    """One tensor of all [3, h, w] images, filled at the bottom and right with zeros."""
    if len({image.shape for image in images}) == 1:
        return Images(torch.stack(list(images)))
    height = max(image.shape[1] for image in images)
    width = max(image.shape[2] for image in images)
    pixels = images[0].new_zeros(len(images), 3, height, width)
    padding = torch.ones(len(images), height, width, dtype=torch.bool)
    for row, image in enumerate(images):
        _, h, w = image.shape
        pixels[row, :, :h, :w] = image
        padding[row, :h, :w] = False
    return Images(pixels, padding)


def pad_to_multiple(images: Images, multiple: int) -> Images:
    """The same images, with more padding: both sides of the batch become multiples of a number."""
    height, width = images.pixels.shape[2:]
    more = (0, -width % multiple, 0, -height % multiple)  # left, right, top, bottom
    if not any(more):
        return images
    padding = images.padding
    if padding is None:
        padding = torch.zeros_like(images.pixels[:, 0], dtype=torch.bool)
    return Images(F.pad(images.pixels, more), F.pad(padding, more, value=True))


def unpad(images: Images) -> list[tuple[list[int], Images]]:
    """What ``pad`` put together, without padding: rows of one size each, and their images."""
    rows = list(range(len(images.pixels)))
    if images.padding is None:
        return [(rows, images)]
    seen = ~images.padding | images.padding.all(2).all(1)[:, None, None]
    sizes = zip(seen.any(2).sum(1).tolist(), seen.any(1).sum(1).tolist(), strict=True)
    alike: dict[tuple[int, int], list[int]] = {}
    for row, size in enumerate(sizes):
        alike.setdefault(size, []).append(row)
    return [(rows, Images(images.pixels[rows, :, :h, :w])) for (h, w), rows in alike.items()]


@dataclass(frozen=True)
class Job:
    """What to make of image ``index``: settled before any worker sees it."""

    index: int
    crop: CropShape
    side: int


def plan_epoch(data: DetectionDataset, config: Config, seed: int, epoch: int) -> list[list[Job]]:
    """The batches of an epoch: each image once, batch mates alike in shape, in random order.

    Images are shuffled, and the first ``training.epoch_images`` taken; within pools of ``_POOL``
    batches they are sorted by the shape of their crop and dealt out, and the batches shuffled. A
    batch that is not full comes last. The shorter side is drawn for the batch, not the image, which
    saves most of the padding.
    """
    augmentation = _augmentation(data, config)
    rng = np.random.default_rng([seed, epoch])
    size, first = config.training.batch, epoch * len(data) if data.endless else 0
    order = (rng.permutation(len(data)) + first).tolist()[: config.training.epoch_images]
    crops = {index: augmentation.draw_crop(_rng(seed, epoch, index, 0)) for index in order}

    def aspect(index: int) -> float:
        height, width = data.shape(index)
        return (height * crops[index].height) / (width * crops[index].width)

    batches: list[list[int]] = []
    rest = order[len(order) - len(order) % size :]
    order = order[: len(order) - len(rest)]
    for start in range(0, len(order), size * _POOL):
        pool = sorted(order[start : start + size * _POOL], key=aspect)
        batches += [pool[i : i + size] for i in range(0, len(pool), size)]
    mixed = [batches[i] for i in rng.permutation(len(batches))] + ([rest] if rest else [])
    sides = [augmentation.draw_side(rng) for _ in mixed]
    return [
        [Job(index, crops[index], side) for index in batch]
        for batch, side in zip(mixed, sides, strict=True)
    ]


def training_loader(
    data: DetectionDataset, config: Config, seed: int, epoch: int, turn: int = 0, turns: int = 1
) -> Loader:
    """Batches (``Images``, ``Targets``) of one epoch; no image is left out, crowds are.

    Endless data give new images in each epoch. Of ``turns`` processes the one whose ``turn`` it
    is gets every ``turns``-th batch; where it would have one fewer than others, the first of all.
    """
    whole = plan_epoch(data, config, seed, epoch)
    batches = whole[turn::turns]
    batches += whole[:1] * (math.ceil(len(whole) / turns) - len(batches))
    source = _Training(data, _augmentation(data, config), epoch, seed)
    return Loader(source, batches, _collate_training, config.training.workers)


def _augmentation(data: DetectionDataset, config: Config) -> Augmentation:
    """The config's changes, without flips where a mirrored image is none of its kind."""
    augment = config.augment
    if augment is not None and not data.mirrors:
        augment = augment.model_copy(update={"flip": 0.0})
    return Augmentation(augment, config.image)


class Loader:
    """Iterates over batches; what a worker could not read is raised here as it was said there."""

    def __init__(
        self,
        source: Dataset[Any],
        batches: Sequence[Sequence[Any]],
        collate: Callable[[list[Any]], Any],
        workers: int,
    ) -> None:
        self.source, self.batches = source, batches
        self.collate, self.workers = collate, workers
        self._loader = DataLoader(
            source,
            batch_sampler=batches,  # pyright: ignore[reportArgumentType]
            num_workers=min(workers, processors()),
            collate_fn=collate,
            generator=torch.Generator().manual_seed(0),  # keeps the caller's random state as it is
        )

    def __len__(self) -> int:
        return len(self.batches)

    def __getitem__(self, some: slice) -> Loader:
        """Some of the batches; no image of the others is read."""
        return Loader(self.source, self.batches[some], self.collate, self.workers)

    def __iter__(self) -> Iterator[Any]:
        for batch in self._loader:
            if isinstance(batch, Exception):
                raise batch
            yield batch


class _Training(Dataset[Any]):
    def __init__(
        self, data: DetectionDataset, augmentation: Augmentation, epoch: int, seed: int
    ) -> None:
        self.data, self.augmentation, self.epoch, self.seed = data, augmentation, epoch, seed

    def __getitem__(self, job: Job) -> tuple[Example, str, np.ndarray] | Exception:
        try:
            record, image = self.data.record(job.index), self.data.image(job.index)
        except _FAILURES as error:
            return error
        rng = _rng(self.seed, self.epoch, job.index, 1)
        boxes, labels = record.boxes[~record.crowd], record.labels[~record.crowd]
        example = self.augmentation(image, boxes, labels, rng, job.crop, job.side)
        return example, record.file, self._known(record.known)

    def _known(self, known: tuple[int, ...] | None) -> np.ndarray:
        """[classes] bool: whether the image is labelled for each class."""
        row = np.full(len(self.data.names), known is None)
        row[list(known or ())] = True
        return row


def training_examples(
    data: DetectionDataset, config: Config, seed: int, indices: Sequence[int]
) -> Iterator[Example]:
    """What the first epoch of a training sees of some images."""
    jobs = {job.index: job for batch in plan_epoch(data, config, seed, 0) for job in batch}
    source = _Training(data, _augmentation(data, config), 0, seed)
    for index in indices:
        made = source[jobs[index]]
        if isinstance(made, Exception):
            raise made
        yield made[0]


def _collate_training(items: list[Any]) -> tuple[Images, Targets] | Exception:
    failed = next((item for item in items if isinstance(item, Exception)), None)
    if failed is not None:
        return failed
    examples, names, known = zip(*items, strict=True)
    known = torch.from_numpy(np.stack(known))
    boxes = [_relative(example) for example in examples]
    targets = Targets(
        labels=torch.cat([example.labels for example in examples]),
        boxes=torch.cat(boxes),
        counts=tuple(len(rows) for rows in boxes),
        names=tuple(names),
        known=None if known.all() else known,
    )
    return pad([example.pixels for example in examples]), targets


def _relative(example: Example) -> Tensor:
    """Boxes as cxcywh, 0–1 of the unpadded image."""
    height, width = example.pixels.shape[1:]
    return to_centres(example.boxes / example.boxes.new_tensor([width, height, width, height]))


def processors() -> int:
    """Processors that this process may use; torch warns above it."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def _rng(*key: int) -> np.random.Generator:
    return np.random.default_rng(list(key))
