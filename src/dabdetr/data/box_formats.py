"""What the four numbers of a box are: told over a whole split, and brought to pixels."""

from __future__ import annotations

from typing import Literal, get_args

import numpy as np

BoxFormat = Literal["xywh", "xyxy", "cxcywh", "xywh-relative", "xyxy-relative", "cxcywh-relative"]
"""What the four numbers of a box are; relative ones are 0–1 of the image."""

SLACK = 0.02
"""How far beyond 0–1 of an image a box may reach that was only rounded."""
TELLING = 3
"""Boxes that at least are needed to tell that their numbers stand in another order."""


def changed_kind(said: BoxFormat, found: BoxFormat) -> str:
    """The kind of finding for boxes of another format than the layout's."""
    if said.endswith("relative") != found.endswith("relative"):
        return "box-relative" if found.endswith("relative") else "box-pixels"
    order = found.partition("-")[0]
    return {"xyxy": "box-corners", "cxcywh": "box-centres", "xywh": "box-extents"}[order]


def to_pixels(numbers: np.ndarray, frames: np.ndarray, box_format: BoxFormat) -> np.ndarray:
    """[n, 4] x, y, width, height in pixels; ``frames`` [n, 2] are the widths and heights."""
    order, _, relative = box_format.partition("-")
    numbers = numbers * np.tile(frames, 2) if relative else numbers.copy()
    first, second = numbers[:, :2], numbers[:, 2:]
    if order == "xyxy":
        return np.concatenate((first, second - first), 1)
    if order == "cxcywh":
        return np.concatenate((first - second / 2, second), 1)
    return numbers


def tell_format(numbers: np.ndarray, frames: np.ndarray, said: BoxFormat) -> BoxFormat:
    """What the numbers of a whole split are: as ``said``, unless only another format fits them.

    Units first: numbers none of which exceeds 1, in images of many pixels, are shares of it; shares
    most of which exceed 1 are pixels. Then the order: another one is taken where a good part of
    the boxes reaches out of its image as ``said``, and every box fits as that other.
    """
    if not len(numbers):
        return said
    order, _, relative = said.partition("-")
    reach = numbers.max(1)
    whole = bool((numbers == np.round(numbers)).all())
    if not (relative or whole) and np.quantile(reach, 0.99) <= 1 + SLACK:
        relative = "relative" if np.median(frames) > 16 else ""
    elif (
        relative and (reach > 1 + 2 * SLACK).mean() >= 0.9 and _mostly(numbers <= frames.max() + 1)
    ):
        relative = ""
    suffix = "-relative" if relative else ""
    slack = SLACK * frames if relative else np.ones_like(frames)

    def fitting(order: str, least: float = 0) -> np.ndarray:
        boxes = to_pixels(numbers, frames, order + suffix)  # pyright: ignore[reportArgumentType]
        one, other = boxes[:, :2], boxes[:, :2] + boxes[:, 2:]
        low, high = np.minimum(one, other), np.maximum(one, other)
        return np.all((low >= -slack) & (high <= frames + slack) & (boxes[:, 2:] > least), axis=1)

    # Boxes that are empty or drawn backwards are mended one by one, and tell nothing here.
    # But where many are drawn backwards, the last two numbers may be sizes.
    astray = 1 - fitting(order, -np.inf).mean()
    if order == "xyxy" and len(numbers) >= 10:
        astray = max(astray, np.any(numbers[:, 2:] < numbers[:, :2], axis=1).mean() - 0.2)
    if len(numbers) >= TELLING and astray >= (0.1 if len(numbers) >= 10 else 0.5):
        for other in ("xywh", "xyxy", "cxcywh"):
            if other != order and fitting(other).mean() >= 0.995:
                order = other
                break
    found = order + suffix
    assert found in get_args(BoxFormat)
    return found  # pyright: ignore[reportReturnType]


def _mostly(values: np.ndarray) -> bool:
    return bool(values.mean() >= 0.99)
