"""What the four numbers of a box are: told over a whole split, and brought to pixels."""

from __future__ import annotations

from typing import Literal, NamedTuple, get_args

import numpy as np

BoxFormat = Literal[
    "xywh",
    "xyxy",
    "cxcywh",
    "xywh-relative",
    "xyxy-relative",
    "cxcywh-relative",
    "xywh-percent",
    "xyxy-percent",
    "cxcywh-percent",
    "yxhw",
    "yxyx",
    "cycxhw",
    "xyhw",
    "cxcyhw",
    "yxhw-relative",
    "yxyx-relative",
    "cycxhw-relative",
    "xyhw-relative",
    "cxcyhw-relative",
    "xywh-swapped",
    "xyxy-swapped",
    "cxcywh-swapped",
]
"""What the four numbers of a box are; relative ones are 0–1 of the image, percent 0–100.

Swapped ones are x as a share of the height, and y as one of the width.
"""
PLAIN = ("xywh", "xyxy", "cxcywh")
TRANSPOSED: dict[str, tuple[str, list[int]]] = {
    "yxhw": ("xywh", [1, 0, 3, 2]),
    "yxyx": ("xyxy", [1, 0, 3, 2]),
    "cycxhw": ("cxcywh", [1, 0, 3, 2]),
    "xyhw": ("xywh", [0, 1, 3, 2]),
    "cxcyhw": ("cxcywh", [0, 1, 3, 2]),
}
"""Orders with x and y, or width and height, in each other's place → the plain one, and where its
numbers stand."""


class Expected(NamedTuple):
    """The format of another split, which the boxes of this one have unless they show otherwise."""

    box_format: BoxFormat


Asked = BoxFormat | Expected
"""A format that a person gave, which is not doubted, or one that is likely."""

SLACK = 0.02
"""How far beyond 0–1 of an image a box may reach that was only rounded."""
TELLING = 3
"""Boxes that at least are needed to tell that their numbers stand in another order."""
MANY = 1000
"""Boxes of which some show it if their numbers stand in another order."""
FEW = 10
"""Boxes below which another split with more of them tells better."""
SMALLEST = 16
"""Pixels of an image's side, above which a box of one pixel is no object."""
PERCENT = 100 * (1 + SLACK)
FULL, SPREAD = 75.0, 12.0
"""Percents fill 0–100: how far boxes reach then, and how their centres are spread, in x and y."""


def changed_kind(said: BoxFormat, found: BoxFormat) -> str:
    """The kind of finding for boxes of another format than the layout's."""
    order, _, unit = found.partition("-")
    if is_transposed(found):
        return "box-transposed"
    if said.partition("-")[2] != unit:
        return f"box-{unit or 'pixels'}"
    return {"xyxy": "box-corners", "cxcywh": "box-centres", "xywh": "box-extents"}[order]


def is_transposed(found: BoxFormat) -> bool:
    """Whether x and y, or width and height, stand in each other's place."""
    order, _, unit = found.partition("-")
    return order in TRANSPOSED or unit == "swapped"


def to_pixels(numbers: np.ndarray, frames: np.ndarray, box_format: BoxFormat) -> np.ndarray:
    """[n, 4] x, y, width, height in pixels; ``frames`` [n, 2] are the widths and heights."""
    order, _, unit = box_format.partition("-")
    if order in TRANSPOSED:
        order, places = TRANSPOSED[order]
        numbers = numbers[:, places]
    scale = {"": 1.0, "relative": frames, "percent": frames / 100, "swapped": frames[:, ::-1]}[unit]
    first, second = numbers[:, :2] * scale, numbers[:, 2:] * scale
    if order == "xyxy":
        return np.concatenate((first, second - first), 1)
    if order == "cxcywh":
        return np.concatenate((first - second / 2, second), 1)
    return np.concatenate((first, second), 1)


def tell_format(numbers: np.ndarray, frames: np.ndarray, said: BoxFormat) -> BoxFormat:
    """What the numbers of a whole split are: as ``said``, unless only another format fits them.

    Units first: numbers none of which exceeds 1, in images of many pixels, are shares of it; shares
    most of which exceed 1 are pixels; percents see ``percents``. Then the order: another one is
    taken where a good part of the boxes reaches out of its image as ``said``, and every box fits as
    that other; last come those of ``TRANSPOSED`` and shares of the other side.
    """
    if not len(numbers):
        return said
    order, _, unit = said.partition("-")
    unit = _tell_unit(numbers, frames, said)
    suffix = f"-{unit}" if unit else ""

    def fitting(order: str, least: float = 0, suffix: str = suffix) -> np.ndarray:
        return _fitting(numbers, frames, order + suffix, least)

    # Boxes that are empty or drawn backwards are mended one by one, and tell nothing here.
    # But where many are drawn backwards, the last two numbers may be sizes.
    astray = 1 - fitting(order, -np.inf).mean()
    if order == "xyxy" and len(numbers) >= FEW:
        astray = max(astray, np.any(numbers[:, 2:] < numbers[:, :2], axis=1).mean() - 0.2)
    if len(numbers) >= TELLING and astray >= (0.1 if len(numbers) >= FEW else 0.5):
        many = len(numbers) >= FEW and unit != "percent"
        others = [(other, suffix) for other in (*PLAIN, *(TRANSPOSED if many else ()))]
        others += [(order, "-swapped")] * (many and unit == "relative")
        for other in others:
            if other != (order, suffix) and fitting(other[0], 0, other[1]).mean() >= 0.995:
                order, suffix = other
                break
    found = order + suffix
    assert found in get_args(BoxFormat)
    return found  # pyright: ignore[reportReturnType]


def _fitting(
    numbers: np.ndarray, frames: np.ndarray, box_format: str, least: float = 0
) -> np.ndarray:
    """[n] bool: boxes that lie in their images, with sides above ``least``."""
    boxes = to_pixels(numbers, frames, box_format)  # pyright: ignore[reportArgumentType]
    slack = SLACK * frames if "-" in box_format else np.ones_like(frames)
    one, other = boxes[:, :2], boxes[:, :2] + boxes[:, 2:]
    low, high = np.minimum(one, other), np.maximum(one, other)
    return np.all((low >= -slack) & (high <= frames + slack) & (boxes[:, 2:] > least), axis=1)


def mixed(numbers: np.ndarray, frames: np.ndarray, found: BoxFormat) -> np.ndarray:
    """[n] bool: boxes that fit only as two corners, where as many fit only as corner and size."""
    none = np.zeros(len(numbers), bool)
    if found not in ("xywh", "xywh-relative") or not len(numbers):
        return none
    sizes = _fitting(numbers, frames, found)
    corners = _fitting(numbers, frames, found.replace("xywh", "xyxy"))
    odd, own = corners & ~sizes, sizes & ~corners
    return odd if odd.sum() >= max(TELLING, 0.05 * len(numbers)) and own.sum() >= TELLING else none


def doubtful(numbers: np.ndarray, frames: np.ndarray, found: BoxFormat) -> bool:
    """Whether the boxes fit another format as well as the one ``found``.

    Many boxes are never in doubt: they would show another format.
    """
    if len(numbers) > MANY:
        return False
    others = (each for each in get_args(BoxFormat) if each != found)
    return any(tell_format(numbers, frames, other) == other for other in others)


def _tell_unit(numbers: np.ndarray, frames: np.ndarray, said: BoxFormat) -> str:
    """ "relative", "percent" or, for pixels, ""."""
    unit = said.partition("-")[2]
    if unit == "swapped":
        return unit
    reach = numbers.max(1)
    whole = bool((numbers == np.round(numbers)).all())
    if unit != "relative" and not whole and np.quantile(reach, 0.99) <= 1 + SLACK:
        return "relative" if np.median(frames) > SMALLEST else unit
    past = {"": np.inf, "relative": 1 + 2 * SLACK, "percent": PERCENT}[unit]
    often = 0.9 if unit == "relative" else 0.1
    if (reach > past).mean() >= often and _mostly(numbers <= frames.max() + 1):
        unit = ""
    if not unit and not is_transposed(said) and percents(numbers, frames, said) == "sure":
        return "percent"
    return unit


def percents(
    numbers: np.ndarray, frames: np.ndarray, said: BoxFormat
) -> Literal["no", "likely", "sure"]:
    """Whether numbers, all of them up to 100 in larger images, are percents of the image.

    They are where boxes fill 0–100 and it were a great chance that no box in pixels reached
    further: the product over boxes of 100 / width and 100 / height. Fractions, and a layout that
    has no pixels, make it likelier.
    """
    few = len(numbers) < TELLING
    corners = None if few else _of_percents(numbers, said.partition("-")[0])
    if corners is None:
        return "no"
    _, rows = np.unique(numbers.round(3), axis=0, return_index=True)
    low, high = corners[rows, :2], corners[rows, 2:]
    own = to_pixels(numbers[rows], frames[rows], said.partition("-")[0])  # pyright: ignore[reportArgumentType]
    reach = max(100.0, float((own[:, :2] + own[:, 2:]).max()))  # of pixels in the order as said
    chance = float(np.log10(np.minimum(1, reach / frames[rows])).sum())
    full = bool((high.max(0) >= FULL).all())
    spread = bool((((low + high) / 2).std(0) >= SPREAD).all())
    fractions = float((numbers != np.round(numbers)).mean()) > 0.5
    other = said.endswith("-relative")  # pixels would be as wrong
    least = -3 if other or fractions else -9
    if chance <= least and full and spread and (other or fractions or len(rows) >= 10):
        return "sure"
    perhaps = -1 if other or (fractions and full) else -1.5
    return "likely" if chance <= perhaps and (full or fractions) else "no"


def _of_percents(numbers: np.ndarray, said: str) -> np.ndarray | None:
    """[n, 4] corners 0–100 in the order as ``said``, or another that fits; None where none does."""
    hundred = np.full((len(numbers), 2), 100.0)
    for order in (said, *(each for each in PLAIN if each != said)):
        boxes = to_pixels(numbers, hundred, f"{order}-percent")  # pyright: ignore[reportArgumentType]
        corners = np.concatenate((boxes[:, :2], boxes[:, :2] + boxes[:, 2:]), 1)
        fits = np.all((corners >= 100 - PERCENT) & (corners <= PERCENT), 1)
        if fits.mean() >= 0.995 and (boxes[:, 2:] >= 0).all(1).mean() >= 0.9:
            return corners
    return None


def other_units(numbers: np.ndarray, frames: np.ndarray, unit: str) -> np.ndarray:
    """[n] bool: boxes that cannot be of the split's ``unit``, and can be of another.

    Among pixels those within the first pixel of a larger image, which are 0–1 of it; among 0–1 of
    the image those that reach far beyond it, and are pixels in it.
    """
    if unit == "":
        small = np.all((numbers >= -SLACK) & (numbers <= 1 + SLACK), axis=1)
        return small & (frames.min(1) > SMALLEST) & np.any(numbers != np.round(numbers), axis=1)
    if unit == "relative":
        inside = np.all((numbers >= -1) & (numbers <= np.tile(frames, 2) + 1), axis=1)
        return inside & (numbers.max(1) >= 10) & np.all(numbers[:, 2:] >= 2, axis=1)
    return np.zeros(len(numbers), bool)


def _mostly(values: np.ndarray) -> bool:
    return bool(values.mean() >= 0.99)
