"""Tricks of other detectors that the package does not have, tried by ``lite.py`` on ``dab-lite``.

Each is a context in which trainings use it. What they are worth stands in ``docs/results.md``.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from typing import Any
from unittest.mock import patch

import numpy as np
import torch
from PIL import Image
from torch import Tensor

import dabdetr.training.matching
import dabdetr.training.module
from dabdetr.config import Loss, Training
from dabdetr.data import loader
from dabdetr.geometry import iou, to_corners
from dabdetr.model.denoising import Denoising, Noise
from dabdetr.model.detector import Detector
from dabdetr.structures import Predictions, Targets

_progress = 0.0
"""Completed share of the training, 0–1."""


@contextmanager
def _followed(shape: Callable[[float], float] | None = None) -> Iterator[None]:
    """Keeps ``_progress``; ``shape`` gives the learning rate's factor in place of the schedule."""
    plain = dabdetr.training.module.rate_factor

    def rate_factor(training: Training, progress: float, step: int) -> float:
        global _progress
        _progress = progress
        if shape is None:
            return plain(training, progress, step)
        return min(1.0, (step + 1) / max(1, training.warmup or 0)) * shape(progress)

    with patch.object(dabdetr.training.module, "rate_factor", rate_factor):
        yield


def flat_then_cosine(flat: float = 0.5) -> AbstractContextManager[None]:
    """The learning rate stays for a share of the training, then falls as a cosine (RTMDet)."""
    return _followed(
        lambda p: 1.0 if p < flat else 0.5 * (1 + math.cos(math.pi * (p - flat) / (1 - flat)))
    )


@contextmanager
def no_decay_of_norms() -> Iterator[None]:
    """No weight decay of norms and biases (ViT, RTMDet)."""
    plain = dabdetr.training.module.parameter_groups

    def parameter_groups(detector: Detector, training: Training) -> list[dict[str, Any]]:
        groups: list[dict[str, Any]] = []
        for group in plain(detector, training):
            matrices = [p for p in group["params"] if p.ndim > 1]
            others = [p for p in group["params"] if p.ndim <= 1]
            groups.append({**group, "params": matrices})
            groups.append({**group, "params": others, "weight_decay": 0.0})
        return [group for group in groups if group["params"]]

    with patch.object(dabdetr.training.module, "parameter_groups", parameter_groups):
        yield


@contextmanager
def high_order_matching(start: float = 0.75) -> Iterator[None]:
    """The cost is −10 · score · IoU⁴ in the last part of the training (Rank-DETR, DEIMv2)."""
    plain = dabdetr.training.matching.pair_costs

    def pair_costs(predictions: Predictions, targets: Targets, loss: Loss) -> Tensor:
        if _progress < start:
            return plain(predictions, targets, loss)
        image = torch.arange(len(targets.counts)).repeat_interleave(torch.tensor(targets.counts))
        scores = predictions.logits.float()[:, image, :, targets.labels].transpose(0, 1).sigmoid()
        boxes, wanted = predictions.boxes[:, image].float(), targets.boxes.float()[None, :, None]
        ious = iou(to_corners(boxes), to_corners(wanted))
        return -10 * scores * ious**4 + 0.01 * (boxes - wanted).abs().sum(-1) - 0.01 * ious

    with _followed(), patch.object(dabdetr.training.matching, "pair_costs", pair_costs):
        yield


@contextmanager
def mosaic(share: float = 0.5, until: float = 0.8) -> Iterator[None]:
    """This share of images becomes four images in one of twice the size, until near the end."""
    source = loader._Training
    plain = source.__getitem__

    def item(self: Any, job: Any) -> Any:
        rng = loader._rng(self.seed, self.epoch, job.index, 7, copy=job.copy)
        if _progress > until or rng.random() >= share:
            return plain(self, job)
        indices = [job.index, *rng.integers(len(self.data), size=3).tolist()]
        image, boxes, labels = _four_in_one([_labelled(self.data, at) for at in indices], rng)
        rng = loader._rng(self.seed, self.epoch, job.index, 1, copy=job.copy)
        example = self.augmentation(image, boxes, labels, rng, job.crop, job.side)
        known = np.full(len(self.data.names), True)
        return loader._Item(example, self.data.record(job.index).file, known, None)

    with _followed(), patch.object(source, "__getitem__", item):
        yield


@contextmanager
def question_row(share: float = 0.25) -> Iterator[None]:
    """This share of noisy copies has no class: its content is the label table's row "unknown"."""
    plain = Denoising._noisy_labels

    def noisy_labels(self: Denoising, labels: Tensor, noise: Noise) -> Tensor:
        chance = torch.rand(noise.chance.shape, device=labels.device)
        return plain(self, labels, noise).masked_fill(chance < share, self.classes)

    with patch.object(Denoising, "_noisy_labels", noisy_labels):
        yield


Labelled = tuple[np.ndarray, np.ndarray, np.ndarray]
"""An image, its boxes in pixels and its labels."""


def _labelled(data: Any, index: int) -> Labelled:
    record = data.record(index)
    return data.image(index), record.boxes[~record.crowd], record.labels[~record.crowd]


def _four_in_one(parts: list[Labelled], rng: np.random.Generator) -> Labelled:
    """Four images around a point near the middle, each as large as its quarter allows."""
    height, width = (2 * side for side in parts[0][0].shape[:2])
    y, x = (int(side * rng.uniform(0.35, 0.65)) for side in (height, width))
    canvas = np.full((height, width, 3), 127, np.uint8)
    boxes: list[np.ndarray] = []
    for at, (image, own, _) in enumerate(parts):
        above, left = at < 2, at % 2 == 0
        room = y if above else height - y, x if left else width - x
        scale = min(room[0] / image.shape[0], room[1] / image.shape[1])
        tall, wide = (max(1, int(side * scale)) for side in image.shape[:2])
        top, start = y - tall if above else y, x - wide if left else x
        small = Image.fromarray(image).resize((wide, tall), Image.Resampling.BILINEAR)
        canvas[top : top + tall, start : start + wide] = np.asarray(small)
        boxes.append(own.reshape(-1, 4).astype(np.float32) * scale + [start, top, start, top])
    labels = np.concatenate([part[2] for part in parts])
    return canvas, np.concatenate(boxes).astype(np.float32), labels


TRICKS: dict[str, Callable[[], AbstractContextManager[None]]] = {
    "mosaic": mosaic,
    "flat-then-cosine rate": flat_then_cosine,
    "high-order matching in the last quarter": high_order_matching,
    "no weight decay of norms and biases": no_decay_of_norms,
    "a question's row in denoising": question_row,
}
