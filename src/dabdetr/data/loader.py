"""Batches: grouping of images, padding, targets, and the loaders.

Everything random is a pure function of (seed, epoch, index), so any number of workers and any
resumed run give the same bits.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from dabdetr.config import Config
from dabdetr.data.augmentation import Augmentation, CropShape, Example, Transform, transformed
from dabdetr.data.dataset import DetectionDataset
from dabdetr.geometry import to_centres
from dabdetr.measure import processors
from dabdetr.structures import Images, Targets
from dabdetr.text import printable

_POOL = 32  # number of batches whose images are sorted by shape together
_FAILURES = (ValueError, OSError)


def pad(images: Sequence[Tensor]) -> Images:
    """One tensor of all [3, h, w] images, padded with zeros at the bottom and right."""
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
    """The images, padded further until both sides of the batch are multiples of ``multiple``."""
    height, width = images.pixels.shape[2:]
    more = (0, -width % multiple, 0, -height % multiple)  # left, right, top, bottom
    if not any(more):
        return images
    padding = images.padding
    if padding is None:
        padding = torch.zeros_like(images.pixels[:, 0], dtype=torch.bool)
    return Images(F.pad(images.pixels, more), F.pad(padding, more, value=True))


def unpad(images: Images) -> list[tuple[list[int], Images]]:
    """The images of a batch without padding, by size: rows in the batch, and their images."""
    rows = list(range(len(images.pixels)))
    if images.padding is None:
        return [(rows, images)]
    visible = ~images.padding | images.padding.all(2).all(1)[:, None, None]
    sizes = zip(visible.any(2).sum(1).tolist(), visible.any(1).sum(1).tolist(), strict=True)
    by_size: dict[tuple[int, int], list[int]] = {}
    for row, size in enumerate(sizes):
        by_size.setdefault(size, []).append(row)
    return [(rows, Images(images.pixels[rows, :, :h, :w])) for (h, w), rows in by_size.items()]


@dataclass(frozen=True)
class Job:
    """The crop and shorter side (pixels) of image ``index``, drawn before workers read the image.

    ``copy`` is the number of earlier jobs of this image in the epoch, whose augmentation differs.
    """

    index: int
    crop: CropShape
    side: int
    copy: int = 0


def plan_epoch(data: DetectionDataset, config: Config, seed: int, epoch: int) -> list[list[Job]]:
    """The batches of an epoch: each image once, similar shapes in a batch, in random order.

    Images are shuffled, and the first ``training.epoch_images`` used; within pools of ``_POOL``
    batches they are sorted by the aspect ratio of their crop and split into batches, which are
    shuffled. An incomplete batch is last. The shorter side is drawn for each batch, not each image,
    which saves most of the padding. With ``training.balance``, as many images as the data set has
    are drawn by their ``repeat_factors``.
    """
    augmentation = _augmentation(data, config)
    rng = np.random.default_rng([seed, epoch])
    size, first = config.training.batch, epoch * len(data) if data.endless else 0
    places = rng.permutation(len(data))
    if config.training.balance is not None:
        places = _draw(repeat_factors(data, config.training.balance, first), rng)
    jobs: list[Job] = []
    drawn: Counter[int] = Counter()
    for index in (places + first).tolist()[: config.training.epoch_images]:
        copy = drawn[index]
        drawn[index] += 1
        crop = augmentation.draw_crop(_rng(seed, epoch, index, 0, copy=copy))
        jobs.append(Job(index, crop, 0, copy))

    def aspect(job: Job) -> float:
        height, width = data.shape(job.index)
        return (height * job.crop.height) / (width * job.crop.width)

    batches: list[list[Job]] = []
    rest = jobs[len(jobs) - len(jobs) % size :]
    jobs = jobs[: len(jobs) - len(rest)]
    for start in range(0, len(jobs), size * _POOL):
        pool = sorted(jobs[start : start + size * _POOL], key=aspect)
        batches += [pool[i : i + size] for i in range(0, len(pool), size)]
    mixed = [batches[i] for i in rng.permutation(len(batches))] + ([rest] if rest else [])
    sides = [augmentation.draw_side(rng) for _ in mixed]
    return [
        [replace(job, side=side) for job in batch] for batch, side in zip(mixed, sides, strict=True)
    ]


def repeat_factors(data: DetectionDataset, threshold: float, first: int = 0) -> np.ndarray:
    """[images] relative frequency with which each image is drawn (Gupta et al. 2019, LVIS).

    A class in a share f of the images, below ``threshold``, has the factor √(threshold / f), other
    classes 1; an image has the largest factor of its classes. Crowds do not count.
    """
    records = (data.record(first + place) for place in range(len(data)))
    present = [np.unique(record.labels[~record.crowd]) for record in records]
    images = np.bincount(np.concatenate([*present, np.zeros(0, int)]), minlength=len(data.names))
    shares = np.maximum(images, 1) / len(data)
    of_classes = np.maximum(1.0, np.sqrt(threshold / shares))
    return np.array([of_classes[labels].max(initial=1.0) for labels in present])


def _draw(factors: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """As many indices as there are ``factors``, in random order, drawn in proportion to them.

    Systematic sampling: the factors, scaled to a mean of 1, are laid end to end in random order,
    and sampled at distances of 1. An index with the scaled factor 1.3 is drawn once or twice.
    """
    order = rng.permutation(len(factors))
    ends = np.cumsum(factors[order]) * (len(factors) / factors.sum())
    drawn = np.searchsorted(ends, np.arange(len(factors)) + rng.random(), side="right")
    return rng.permutation(order[drawn.clip(max=len(factors) - 1)])


def training_loader(
    data: DetectionDataset,
    config: Config,
    seed: int,
    epoch: int,
    turn: int = 0,
    turns: int = 1,
    transform: Transform | None = None,
) -> Loader:
    """Batches (``Images``, ``Targets``) of one epoch; crowds are left out.

    ``transform`` is applied to an image before the config's augmentation. Endless data have new
    images in each epoch. ``turns`` is the world size and ``turn`` the rank: a process loads every
    ``turns``-th batch; if it would have one fewer than others, the first batch of all is added.
    """
    whole = plan_epoch(data, config, seed, epoch)
    batches = whole[turn::turns]
    batches += whole[:1] * (math.ceil(len(whole) / turns) - len(batches))
    source = _Training(data, config, epoch, seed, transform)
    return Loader(source, batches, _collate_training, config.training.workers)


def _augmentation(data: DetectionDataset, config: Config) -> Augmentation:
    """The config's augmentation, without flips if mirrored images of the data set are wrong."""
    augment = config.augment
    if augment is not None and not data.mirrors:
        augment = augment.model_copy(update={"flip": 0.0})
    return Augmentation(augment, config.image)


class Loader:
    """Iterates over batches; an error while a worker reads an image is raised here unchanged."""

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
            generator=torch.Generator().manual_seed(0),  # leaves the global random state unchanged
        )

    def __len__(self) -> int:
        return len(self.batches)

    def __getitem__(self, part: slice) -> Loader:
        """A loader of a slice of the batches; images of the others are not read."""
        return Loader(self.source, self.batches[part], self.collate, self.workers)

    def __iter__(self) -> Iterator[Any]:
        for batch in self._loader:
            if isinstance(batch, Exception):
                raise batch
            yield batch


class _Training(Dataset[Any]):
    def __init__(
        self,
        data: DetectionDataset,
        config: Config,
        epoch: int,
        seed: int,
        transform: Transform | None = None,
    ) -> None:
        self.data, self.augmentation = data, _augmentation(data, config)
        self.epoch, self.seed, self.transform = epoch, seed, transform
        self.weights = _class_weights(config.loss.class_weights, data.names)

    def __getitem__(self, job: Job) -> _Item | Exception:
        try:
            record, image = self.data.record(job.index), self.data.image(job.index)
        except _FAILURES as error:
            return error
        boxes, labels = record.boxes[~record.crowd], record.labels[~record.crowd]
        if self.transform is not None:
            rng = _rng(self.seed, self.epoch, job.index, 2, copy=job.copy)
            arguments = (image, boxes, labels, rng, record.file, len(self.data.names))
            image, boxes, labels = transformed(self.transform, *arguments)
        rng = _rng(self.seed, self.epoch, job.index, 1, copy=job.copy)
        example = self.augmentation(image, boxes, labels, rng, job.crop, job.side)
        weights = None if self.weights is None else self.weights[example.labels]
        known = np.full(len(self.data.names), record.known is None)
        known[list(record.known or ())] = True
        return _Item(example, record.file, known, weights)


class _Item(NamedTuple):
    """An example, its file, [classes] bool of known classes, and [objects] class weights."""

    example: Example
    file: str
    known: np.ndarray
    weights: Tensor | None


def _class_weights(given: Mapping[str, float], names: Sequence[str]) -> Tensor | None:
    """[classes] ``loss.class_weights``; None if there are none; ValueError for an unknown class."""
    if not given:
        return None
    for name in given:
        if name not in names:
            few = ", ".join(printable(each) for each in names[:10])
            raise ValueError(
                f"loss.class_weights: there is no class {printable(name)!r}; the data's classes "
                f"are {few}{', …' if len(names) > 10 else ''}"
            )
    return torch.tensor([given.get(name, 1.0) for name in names])


def training_examples(
    data: DetectionDataset,
    config: Config,
    seed: int,
    indices: Sequence[int],
    transform: Transform | None = None,
) -> Iterator[Example]:
    """The augmented examples of some images in the first epoch of a training.

    Images that this epoch would not contain are augmented as without ``training.balance``.
    """
    plans = [config]
    if config.training.balance is not None:  # a balanced epoch may leave an image out
        plans.insert(0, config.override(["training.balance=null"]))
    batches = (batch for plan in plans for batch in plan_epoch(data, plan, seed, 0))
    jobs = {job.index: job for batch in batches for job in batch if not job.copy}
    source = _Training(data, config, 0, seed, transform)
    for index in indices:
        made = source[jobs[index]]
        if isinstance(made, Exception):
            raise made
        yield made.example


def _collate_training(items: list[Any]) -> tuple[Images, Targets] | Exception:
    failed = next((item for item in items if isinstance(item, Exception)), None)
    if failed is not None:
        return failed
    examples, names, known, weights = zip(*items, strict=True)
    known = torch.from_numpy(np.stack(known))
    boxes: list[Tensor] = []
    for example in examples:
        height, width = example.pixels.shape[1:]
        frame = example.boxes.new_tensor([width, height, width, height])
        boxes.append(to_centres(example.boxes / frame))  # cxcywh, 0–1 of the unpadded image
    targets = Targets(
        labels=torch.cat([example.labels for example in examples]),
        boxes=torch.cat(boxes),
        counts=tuple(len(rows) for rows in boxes),
        names=tuple(names),
        known=None if known.all() else known,
        weights=None if weights[0] is None else torch.cat(weights),
    )
    return pad([example.pixels for example in examples]), targets


def _rng(*key: int, copy: int) -> np.random.Generator:
    return np.random.default_rng([*key, copy] if copy else list(key))
