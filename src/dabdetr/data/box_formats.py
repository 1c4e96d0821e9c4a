"""Box formats: recognised over all boxes of a split, and converted to pixels."""

from __future__ import annotations

from typing import Literal, NamedTuple, get_args

import numpy as np

# fmt: off
BoxFormat = Literal[
    "xywh", "xyxy", "cxcywh",
    "xywh-relative", "xyxy-relative", "cxcywh-relative",
    "xywh-percent", "xyxy-percent", "cxcywh-percent",
    "yxhw", "yxyx", "cycxhw", "xyhw", "cxcyhw",
    "yxhw-relative", "yxyx-relative", "cycxhw-relative", "xyhw-relative", "cxcyhw-relative",
    "xywh-swapped", "xyxy-swapped", "cxcywh-swapped",
]
# fmt: on
"""Meaning of the four numbers of a box; relative: 0–1 of the image; percent: 0–100 of it.

Swapped: x relative to the image's height, and y relative to its width.
"""
PLAIN = ("xywh", "xyxy", "cxcywh")
TRANSPOSED: dict[str, tuple[str, list[int]]] = {
    "yxhw": ("xywh", [1, 0, 3, 2]),
    "yxyx": ("xyxy", [1, 0, 3, 2]),
    "cycxhw": ("cxcywh", [1, 0, 3, 2]),
    "xyhw": ("xywh", [0, 1, 3, 2]),
    "cxcyhw": ("cxcywh", [0, 1, 3, 2]),
}
"""Orders with x and y, or width and height, exchanged → the plain order, and the column of each
of its numbers."""


class Expected(NamedTuple):
    """What other splits show, used as the default when a split is read.

    box_format  format of the boxes; None: the layout's
    step        what class numbers are too high by (see ``class_lists``)
    certain     whether the user set ``box_format``
    """

    box_format: BoxFormat | None
    step: int | None = None
    certain: bool = False


Asked = BoxFormat | Expected
"""A format that the user set, which is used unchecked, or defaults taken from other splits."""


def expected_step(asked: Asked | None) -> int | None:
    """The step of class numbers that other splits show, if any."""
    return asked.step if isinstance(asked, Expected) else None


SLACK = 0.02
"""How far beyond 0–1 of an image a relative box may reach because of rounding."""
TELLING = 3
"""Fewest boxes from which another order of the numbers is recognised."""
MANY = 1000
"""Number of boxes among which some do not fit if the order of the numbers is wrong."""
FEW = 10
"""Number of boxes below which a larger split is the better evidence of the format."""
OFTEN = 0.25
"""Share of boxes past the image in x or y alone from which width and height may be exchanged."""
SMALLEST = 16
"""Side of an image in pixels above which a box of one pixel is not an object."""
PERCENT = 100 * (1 + SLACK)
FULL, SPREAD = 75.0, 12.0
"""Least reach of boxes in percent, and least standard deviation of their centres, in x and y."""


def changed_kind(said: BoxFormat, found: BoxFormat) -> str:
    """The kind of finding for boxes whose format ``found`` differs from ``said``, the layout's."""
    order, _, unit = found.partition("-")
    if is_transposed(found):
        return "box-transposed"
    if said.partition("-")[2] != unit:
        return f"box-{unit or 'pixels'}"
    return {"xyxy": "box-corners", "cxcywh": "box-centres", "xywh": "box-extents"}[order]


def is_transposed(found: BoxFormat) -> bool:
    """Whether x and y, or width and height, are exchanged."""
    order, _, unit = found.partition("-")
    return order in TRANSPOSED or unit == "swapped"


def to_pixels(numbers: np.ndarray, frames: np.ndarray, box_format: BoxFormat) -> np.ndarray:
    """[n, 4] x, y, width, height in pixels; ``frames`` [n, 2] are the widths and heights."""
    order, _, unit = box_format.partition("-")
    if order in TRANSPOSED:
        order, columns = TRANSPOSED[order]
        numbers = numbers[:, columns]
    scale = {"": 1.0, "relative": frames, "percent": frames / 100, "swapped": frames[:, ::-1]}[unit]
    first, second = numbers[:, :2] * scale, numbers[:, 2:] * scale
    if order == "xyxy":
        return np.concatenate((first, second - first), 1)
    if order == "cxcywh":
        return np.concatenate((first - second / 2, second), 1)
    return np.concatenate((first, second), 1)


def tell_format(numbers: np.ndarray, frames: np.ndarray, said: BoxFormat) -> BoxFormat:
    """The box format of a whole split: ``said``, unless only another format fits the numbers.

    The unit is decided first: numbers up to 1 in images of many pixels are relative; relative
    numbers of which most exceed 1 are pixels; for percent see ``percents``. Then the order: another
    order is used if many boxes reach out of their images in the order of ``said`` and (almost) all
    boxes fit in the other. The orders of ``TRANSPOSED`` and the unit "swapped" are tried last.
    """
    if not len(numbers):
        return said
    order, _, unit = said.partition("-")
    unit = _tell_unit(numbers, frames, said)
    suffix = f"-{unit}" if unit else ""

    def fitting(order: str, least: float = 0, suffix: str = suffix) -> np.ndarray:
        return _fitting(numbers, frames, order + suffix, least)

    # Boxes that are empty or have swapped corners are mended one by one and are no evidence here.
    # But if many corners are swapped, the last two numbers may be sizes.
    astray = 1 - fitting(order, -np.inf).mean()
    if order == "xyxy":
        swapped = np.any(numbers[:, 2:] < numbers[:, :2], axis=1).mean()
        astray = max(astray, swapped - 0.2 if len(numbers) >= FEW else swapped)
    if len(numbers) >= TELLING and astray >= (0.1 if len(numbers) >= FEW else 0.5):
        many = len(numbers) >= FEW and unit != "percent"
        past, centres = _past_edges(numbers, frames, order + suffix)
        exchanged = many and (past.any(0).all() or past.any(1).mean() >= OFTEN)
        swapped = many and unit == "relative" and centres.mean() >= 0.05
        others = [(other, suffix) for other in (*PLAIN, *(TRANSPOSED if exchanged else ()))]
        others += [(order, "-swapped")] * bool(swapped)
        for other in others:
            if other != (order, suffix) and fitting(other[0], 0, other[1]).mean() >= 0.995:
                order, suffix = other
                break
    found = order + suffix
    assert found in get_args(BoxFormat)
    return found  # pyright: ignore[reportReturnType]


def _past_edges(
    numbers: np.ndarray, frames: np.ndarray, box_format: str
) -> tuple[np.ndarray, np.ndarray]:
    """[n, 2] bool: boxes past the image in x and in y; [n] bool: boxes whose centre is past it.

    Boxes that are not cut at the edges of their images are past one of them, but not their centres.
    """
    boxes = to_pixels(numbers, frames, box_format)  # pyright: ignore[reportArgumentType]
    low, high, slack = boxes[:, :2], boxes[:, :2] + boxes[:, 2:], SLACK * frames
    past = (low < -slack) | (high > frames + slack)
    return past, np.any((low + high) / 2 > frames + slack, axis=1)


def _fitting(
    numbers: np.ndarray, frames: np.ndarray, box_format: str, least: float = 0
) -> np.ndarray:
    """[n] bool: boxes inside their images whose sides exceed ``least``."""
    boxes = to_pixels(numbers, frames, box_format)  # pyright: ignore[reportArgumentType]
    slack = SLACK * frames if "-" in box_format else np.ones_like(frames)
    first, second = boxes[:, :2], boxes[:, :2] + boxes[:, 2:]
    low, high = np.minimum(first, second), np.maximum(first, second)
    return np.all((low >= -slack) & (high <= frames + slack) & (boxes[:, 2:] > least), axis=1)


def mixed(numbers: np.ndarray, frames: np.ndarray, found: BoxFormat) -> np.ndarray:
    """[n] bool: boxes that fit only as two corners, in a split where others fit only as xywh."""
    none = np.zeros(len(numbers), bool)
    if found not in ("xywh", "xywh-relative") or not len(numbers):
        return none
    sizes = _fitting(numbers, frames, found)
    corners = _fitting(numbers, frames, found.replace("xywh", "xyxy"))
    only_corners, only_sizes = corners & ~sizes, sizes & ~corners
    many = only_corners.sum() >= max(TELLING, 0.05 * len(numbers))
    return only_corners if many and only_sizes.sum() >= TELLING else none


def doubtful(numbers: np.ndarray, frames: np.ndarray, found: BoxFormat) -> bool:
    """Whether the boxes fit another format as well as the one ``found``.

    More than ``MANY`` boxes are never doubtful: another format would have shown.
    """
    if len(numbers) > MANY:
        return False
    others = (each for each in get_args(BoxFormat) if each != found)
    return any(tell_format(numbers, frames, other) == other for other in others)


def _tell_unit(numbers: np.ndarray, frames: np.ndarray, said: BoxFormat) -> str:
    """The unit: "relative", "percent", "swapped" or, for pixels, ""."""
    unit = said.partition("-")[2]
    if unit == "swapped":
        return unit
    reach = numbers.max(1)
    whole = bool((numbers == np.round(numbers)).all())
    if unit != "relative" and not whole and np.quantile(reach, 0.99) <= 1 + SLACK:
        return "relative" if np.median(frames) > SMALLEST else unit
    past = {"": np.inf, "relative": 1 + 2 * SLACK, "percent": PERCENT}[unit]
    often = 0.9 if unit == "relative" else 0.1
    if (reach > past).mean() >= often and (numbers <= frames.max() + 1).mean() >= 0.99:
        unit = ""
    if not unit and not is_transposed(said) and percents(numbers, frames, said) == "sure":
        return "percent"
    return unit


def percents(
    numbers: np.ndarray, frames: np.ndarray, said: BoxFormat
) -> Literal["no", "likely", "sure"]:
    """Whether numbers that all are at most 100, in larger images, are percent of the image.

    They are if boxes fill 0–100, and if boxes in pixels would be unlikely to end there: this
    probability is the product over boxes of 100 / width and 100 / height. Fractional numbers, or a
    layout without pixels, require less evidence.
    """
    few = len(numbers) < TELLING
    corners = None if few else _percent_corners(numbers, said.partition("-")[0])
    if corners is None:
        return "no"
    _, rows = np.unique(numbers.round(3), axis=0, return_index=True)
    low, high = corners[rows, :2], corners[rows, 2:]
    boxes = to_pixels(numbers[rows], frames[rows], said.partition("-")[0])  # pyright: ignore[reportArgumentType]
    reach = max(100.0, float((boxes[:, :2] + boxes[:, 2:]).max()))  # pixels, in the order ``said``
    chance = float(np.log10(np.minimum(1, reach / frames[rows])).sum())
    full = bool((high.max(0) >= FULL).all())
    spread = bool((((low + high) / 2).std(0) >= SPREAD).all())
    fractions = float((numbers != np.round(numbers)).mean()) > 0.5
    no_pixels = said.endswith("-relative")  # pixels would differ from the layout as well
    least = -3 if no_pixels or fractions else -9
    if chance <= least and full and spread and (no_pixels or fractions or len(rows) >= 10):
        return "sure"
    perhaps = -1 if no_pixels or (fractions and full) else -1.5
    return "likely" if chance <= perhaps and (full or fractions) else "no"


def _percent_corners(numbers: np.ndarray, said: str) -> np.ndarray | None:
    """[n, 4] corners 0–100 in the order ``said``, or in another that fits; None if none fits."""
    hundred = np.full((len(numbers), 2), 100.0)
    for order in (said, *(each for each in PLAIN if each != said)):
        boxes = to_pixels(numbers, hundred, f"{order}-percent")  # pyright: ignore[reportArgumentType]
        corners = np.concatenate((boxes[:, :2], boxes[:, :2] + boxes[:, 2:]), 1)
        fits = np.all((corners >= 100 - PERCENT) & (corners <= PERCENT), 1)
        if fits.mean() >= 0.995 and (boxes[:, 2:] >= 0).all(1).mean() >= 0.9:
            return corners
    return None


def other_units(numbers: np.ndarray, frames: np.ndarray, unit: str) -> np.ndarray:
    """[n] bool: boxes that cannot have the split's ``unit`` and can have another.

    If the unit is pixels: boxes within the first pixel of a larger image, which are relative. If
    it is relative: boxes that reach far beyond 1 and lie in the image as pixels.
    """
    if unit == "":
        small = np.all((numbers >= -SLACK) & (numbers <= 1 + SLACK), axis=1)
        return small & (frames.min(1) > SMALLEST) & np.any(numbers != np.round(numbers), axis=1)
    if unit == "relative":
        inside = np.all((numbers >= -1) & (numbers <= np.tile(frames, 2) + 1), axis=1)
        return inside & (numbers.max(1) >= 10) & np.all(numbers[:, 2:] >= 2, axis=1)
    return np.zeros(len(numbers), bool)
