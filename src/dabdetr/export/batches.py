"""Batches of images and questions on which an exported file is compared with torch."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace

import numpy as np

from dabdetr.data.preprocessing import padded
from dabdetr.inference.exported import Exported, prepare_for
from dabdetr.inference.metadata import Metadata

BATCHES = (1, 2, 5)
"""Numbers of images."""
QUESTIONS = (0, 1, 40)
"""Questions about each image of these batches, where the file takes questions."""
SMALLER = 0.75
"""Second image size for files of any size, as a share of the model's size."""
Batch = tuple[np.ndarray, np.ndarray, tuple[np.ndarray, np.ndarray] | None]
"""Pixels, padding, and (boxes, labels) of questions; None without questions."""


def questions(metadata: Metadata, images: int, count: int) -> tuple[np.ndarray, np.ndarray] | None:
    """Random boxes [images, count, 4] and labels [images, count]; None without questions.

    Every second label is −1 (unknown).
    """
    if not metadata.questions:
        return None
    rng = np.random.default_rng(0)
    sides = rng.uniform(0.05, 0.6, (images, count, 2))
    boxes = np.concatenate((rng.uniform(sides / 2, 1 - sides / 2), sides), axis=2)
    labels = rng.integers(len(metadata.names), size=(images, count))
    labels[:, ::2] = -1
    return boxes.astype(np.float32), labels


def batches(exported: Exported, images: Sequence[np.ndarray]) -> Iterator[Batch]:
    """All batches that are compared; they use the images in turn."""
    metadata, settings = exported.metadata, exported.config.image
    size = max(round(settings.size * SMALLER), 16)
    longest = max(round(settings.max_size * SMALLER), size)
    config = exported.config.override([f"image.size={size}", f"image.max_size={longest}"])
    smaller = replace(metadata, config=config)
    used = 0
    for of_size in (metadata, smaller) if metadata.size is None else (metadata,):
        for count, number in zip(BATCHES, QUESTIONS, strict=True):
            chosen = [images[(used + n) % len(images)] for n in range(count)]
            used += count
            prepared = [prepare_for(of_size, image) for image in chosen]
            yield *padded(prepared, metadata.size), questions(metadata, count, number)
