"""The size of the network's input, and an image brought to it without torch."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from PIL import Image as PillowImage

from dabdetr.config import Image

SHORTEST = 32
"""Least side of an input; a thin strip is stretched to it, as boxes are relative anyway."""


def input_size(
    height: int, width: int, image: Image, shorter: int | None = None
) -> tuple[int, int]:
    """(height, width) of the input for an image of this size.

    The shorter side becomes ``shorter`` (``image.size`` if not given) unless the longer one would
    pass ``image.max_size``, which grows in proportion where ``shorter`` is above ``image.size``.
    That bound leaves ``SHORTEST`` to the shorter side: a more extreme image is stretched.
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
    """(height, width) of an image as large as ``frame`` (height, width) holds it whole."""
    scale = min(frame[0] / height, frame[1] / width)
    sides = (round(side * scale) for side in (height, width))
    return tuple(min(max(side, 1), most) for side, most in zip(sides, frame, strict=True))  # pyright: ignore[reportReturnType]


def prepare_array(array: np.ndarray, size: tuple[int, int], image: Image) -> np.ndarray:
    """[3, height, width] float32 of RGB uint8 [height, width, 3]: resized, then normalised.

    The resize is Pillow's; that of ``augment.prepare`` rounds its weights to fewer bits and differs
    by one grey level at most.
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
    """One array of all images and their padding (True), at the bottom and right.

    As large as ``frame`` (height, width), or as the largest of them needs.
    """
    height, width = frame or (max(each.shape[axis] for each in prepared) for axis in (1, 2))
    pixels = np.zeros((len(prepared), 3, height, width), np.float32)
    padding = np.ones((len(prepared), height, width), bool)
    for row, each in enumerate(prepared):
        _, h, w = each.shape
        pixels[row, :, :h, :w] = each
        padding[row, :h, :w] = False
    return pixels, padding
