"""The size of the network's input, and the resizing of images to it without torch."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from PIL import Image as PillowImage

from dabdetr.config import Image

SHORTEST = 32
"""Least side of an input in pixels; thin strips are stretched to it (boxes are relative)."""


def input_size(
    height: int, width: int, image: Image, shorter: int | None = None
) -> tuple[int, int]:
    """(height, width) of the input for an image of this size.

    The shorter side becomes ``shorter`` (default ``image.size``), or less where the longer side
    would exceed ``image.max_size``; that bound grows in proportion where ``shorter`` is above
    ``image.size``. The shorter side is never below ``SHORTEST``: more extreme images are stretched.
    """
    side = image.size if shorter is None else shorter
    longest = max(image.max_size, round(image.max_size * side / image.size))
    least, most = min(height, width), max(height, width)
    shortest = min(SHORTEST, image.size, side)
    if most / least * side > longest:
        side = round(longest * least / most)
    long_side = min(int(side * most / least), longest)
    if side < shortest:
        side, long_side = shortest, longest
    return (long_side, side) if height > width else (side, long_side)


def fitted_size(height: int, width: int, frame: tuple[int, int]) -> tuple[int, int]:
    """The largest (height, width) of the same aspect ratio that fits ``frame`` (height, width)."""
    scale = min(frame[0] / height, frame[1] / width)
    sides = (round(side * scale) for side in (height, width))
    return tuple(min(max(side, 1), most) for side, most in zip(sides, frame, strict=True))  # pyright: ignore[reportReturnType]


def prepare_array(array: np.ndarray, size: tuple[int, int], image: Image) -> np.ndarray:
    """RGB uint8 [height, width, 3] resized, then normalised: float32 [3, height, width].

    Resizes with Pillow; ``augmentation.prepare`` rounds its weights to fewer bits and differs by
    one grey level at most.
    """
    if array.shape[:2] != size:
        large = PillowImage.fromarray(array)
        resized = large.resize((size[1], size[0]), PillowImage.Resampling.BILINEAR)
        array = np.asarray(resized)
    mean, std = (np.array(values, np.float32) * 255 for values in (image.mean, image.std))
    pixels = (array.astype(np.float32) - mean) / std
    return np.ascontiguousarray(pixels.transpose(2, 0, 1))


def padded(
    prepared: Sequence[np.ndarray], frame: tuple[int, int] | None = None
) -> tuple[np.ndarray, np.ndarray]:
    """One batch of images [n, 3, height, width], and its padding mask [n, height, width] (True).

    Images are padded at the bottom and right to ``frame`` (height, width), or else to the largest
    height and width among them.
    """
    height, width = frame or (max(each.shape[axis] for each in prepared) for axis in (1, 2))
    pixels = np.zeros((len(prepared), 3, height, width), np.float32)
    padding = np.ones((len(prepared), height, width), bool)
    for row, each in enumerate(prepared):
        _, h, w = each.shape
        pixels[row, :, :h, :w] = each
        padding[row, :h, :w] = False
    return pixels, padding
