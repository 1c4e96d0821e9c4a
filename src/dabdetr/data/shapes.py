"""Boxes as labelling tools write them, and boxes around outlines: polygons, run-length masks."""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Sequence
from itertools import chain
from typing import Any

import numpy as np

from dabdetr.data.columns import FARTHEST
from dabdetr.text import as_numbers

NAMED = (
    ("x", "y", "width", "height"),
    ("x", "y", "w", "h"),
    ("xmin", "ymin", "xmax", "ymax"),
    ("x1", "y1", "x2", "y2"),
)
"""Names of the numbers of a box given as a mapping; the last two entries are corners."""


def size_of(width: Any, height: Any) -> tuple[int, int]:
    """(width, height) in pixels, from numbers or text ("640px"); (0, 0) if either is none."""
    given = (side.removesuffix("px") if isinstance(side, str) else side for side in (width, height))
    sides = as_numbers(given) or (0.0, 0.0)
    return (int(sides[0]), int(sides[1])) if all(1 <= side < FARTHEST for side in sides) else (0, 0)


def around(points: Iterable[Sequence[float]]) -> tuple[float, float, float, float] | None:
    """x0, y0, x1, y1 around points (x, y); None without points or if a value is not finite."""
    try:
        array = np.array([point[:2] for point in points], np.float64)
    except (TypeError, ValueError, OverflowError):
        return None
    if array.ndim != 2 or array.shape[1] != 2 or not np.isfinite(array).all():
        return None
    (x0, y0), (x1, y1) = array.min(0).tolist(), array.max(0).tolist()
    return x0, y0, x1, y1


def around_flat(flat: Sequence[Any]) -> tuple[float, float, float, float] | None:
    """The same for x y x y …; an odd last number is left out."""
    return around(zip(flat[::2], flat[1::2], strict=False))


def are_upright(flat: Sequence[Any]) -> bool:
    """Whether corners x y x y … have only two different x and two different y."""
    return len({*flat[::2]}) == 2 == len({*flat[1::2]})


def upright(x: float, y: float, width: float, height: float, angle: float) -> tuple[float, ...]:
    """x0, y0, x1, y1 around a box (centre, size) that is rotated by ``angle`` radians."""
    cos, sin = abs(math.cos(angle)), abs(math.sin(angle))
    half_width, half_height = (width * cos + height * sin) / 2, (width * sin + height * cos) / 2
    return x - half_width, y - half_height, x + half_width, y + half_height


def turned(edges: Sequence[float], degrees: float) -> tuple[float, ...]:
    """x0, y0, x1, y1 around a box that is rotated about its centre; the box itself for 0."""
    x0, y0, x1, y1 = edges
    if not degrees:
        return x0, y0, x1, y1
    return upright((x0 + x1) / 2, (y0 + y1) / 2, x1 - x0, y1 - y0, math.radians(degrees))


def xywh(edges: Sequence[float]) -> tuple[float, ...]:
    """x, y, width, height of x0, y0, x1, y1."""
    x0, y0, x1, y1 = edges
    return x0, y0, x1 - x0, y1 - y0


def turned_xywh(box: Sequence[float], degrees: float) -> tuple[float, ...]:
    """``turned`` for x, y, width, height."""
    x, y, width, height = box
    return xywh(turned((x, y, x + width, y + height), degrees))


def rotation_of(row: dict[str, Any]) -> float:
    """Degrees in CVAT's ``rotation`` attribute, 0 without one; the box is given before rotation."""
    attributes = row.get("attributes")
    angle = attributes.get("rotation") if isinstance(attributes, dict) else None
    return float(angle) if isinstance(angle, int | float) and math.isfinite(angle) else 0.0


def around_segmentation(shape: Any) -> tuple[float, float, float, float] | None:
    """x0, y0, x1, y1 around COCO's ``segmentation`` (polygons or a run-length mask), or None."""
    if isinstance(shape, dict):
        return _around_runs(shape)
    if not isinstance(shape, list) or not shape:
        return None
    polygons = shape if isinstance(shape[0], list) else [shape]
    if any(not isinstance(each, list) or len(each) < 6 or len(each) % 2 for each in polygons):
        return None
    return around_flat([*chain.from_iterable(polygons)])


def _around_runs(mask: dict[str, Any]) -> tuple[float, float, float, float] | None:
    """x0, y0, x1, y1 around a column-major mask: alternating runs of 0 and 1, or COCO's string."""
    counts, size = mask.get("counts"), mask.get("size")
    try:
        height, width = (int(side) for side in size)  # pyright: ignore[reportOptionalIterable]
        runs = _decode_runs(counts) if isinstance(counts, str) else [int(n) for n in counts]  # pyright: ignore[reportOptionalIterable]
    except (TypeError, ValueError, OverflowError):
        return None
    ends = np.cumsum(np.array(runs, np.float64))
    if not len(runs) or min(runs) < 0 or ends[-1] != height * width or height <= 0:
        return None
    ends = ends.astype(np.int64)
    first, last = ends[0:-1:2], ends[1::2] - 1  # first and last pixel of each run of 1
    first, last = first[last >= first], last[last >= first]
    if not len(first):
        return None
    x0, x1 = int(first.min()) // height, int(last.max()) // height + 1
    all_rows = (last // height > first // height).any()  # a run continues in the next column
    y0 = 0 if all_rows else int((first % height).min())
    y1 = height if all_rows else int((last % height).max()) + 1
    return float(x0), float(y0), float(x1), float(y1)


def _decode_runs(text: str) -> list[int]:
    """Run lengths from COCO's string: six bits per character, low bits first, delta-coded."""
    runs: list[int] = []
    value = shift = 0
    for character in text:
        code = ord(character) - 48
        if not 0 <= code < 64:
            raise ValueError(f"not a run length: {character!r}")
        value |= (code & 31) << shift
        shift += 5
        if code & 32:
            continue
        if code & 16:
            value -= 1 << shift
        runs.append(value + (runs[-2] if len(runs) > 2 else 0))
        value = shift = 0
    return runs


def box_of(box: Any) -> list[float] | None:
    """x, y, width, height, also from text, two points or named numbers; None for anything else.

    A list around the box is ignored, as is a score after the four numbers.
    """
    if isinstance(box, str):
        box = re.split(r"[\s,;]+", box.strip(" \t\r\n()[]"))
    if isinstance(box, dict):
        given = {str(name).casefold(): value for name, value in box.items()}
        for names in NAMED:
            if all(name in given for name in names):
                box = [given[name] for name in names]
                return box_of([box[:2], box[2:]] if names in NAMED[2:] else box)
        return None
    if not isinstance(box, list | tuple):
        return None
    if len(box) == 1 and isinstance(box[0], list | tuple):
        return box_of(box[0])
    if len(box) == 5 and isinstance(box[4], int | float) and 0 <= box[4] <= 1:
        box = box[:4]
    corners = len(box) == 2 and all(
        isinstance(each, list | tuple) and len(each) == 2 for each in box
    )
    four = as_numbers(chain.from_iterable(box) if corners else box)
    if four is None or len(four) != 4:
        return None
    a, b, c, d = four
    return [a, b, c - a, d - b] if corners else four
