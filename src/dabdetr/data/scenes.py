"""Generated scenes of real handwritten digits: endless, seeded, nothing to download.

The digits are the 1,797 of scikit-learn's ``load_digits`` (8x8, UCI optdigits). They are split
once, before scenes are drawn: no digit of ``val`` or ``test`` is in a ``train`` scene.
"""

from __future__ import annotations

import math
from functools import cache

import numpy as np
from PIL import Image, ImageDraw

from dabdetr.data.dataset import DetectionDataset, ImageRecord
from dabdetr.text import counted

SPLITS = ("train", "val", "test")

_COUNTS = {"train": 2000, "val": 200, "test": 200}
_HELD_OUT = 250  # digits kept for val, and as many for test
_EMPTY = 0.05  # share of scenes without a digit
_LARGEST = 0.45  # side of a digit, as a share of the canvas
_SMALLEST = 0.1
_TILT = math.radians(20)
_COVERED = 0.3  # share of the smaller box that another may cover at most
_CONTRAST = 75  # least difference in brightness between digit and background, of 255
_INK = 96  # alpha from which a pixel belongs to the digit, of 255
_LEVELS = (24, 48, 96)  # sides in pixels at which the outline of a digit is cached
_LUMA = np.array([0.299, 0.587, 0.114])


class Scenes(DetectionDataset):
    """Scenes as a function of (seed, split, index): the same bytes in every process.

    size     side of the square canvas in pixels
    objects  most digits in a scene; about one scene in twenty has none
    count    scenes of an epoch; ``train`` continues beyond it without end
    """

    def __init__(
        self,
        split: str = "train",
        size: int = 160,
        objects: int = 10,
        count: int | None = None,
        seed: int = 0,
    ) -> None:
        if split not in SPLITS:
            raise ValueError(f"scenes have no split {split!r}; they have: {', '.join(SPLITS)}")
        count = _COUNTS[split] if count is None else count
        for what, value, least in (
            ("size", size, 32),
            ("objects", objects, 1),
            ("count", count, 1),
        ):
            if value < least:
                raise ValueError(f"scenes: {what} must be at least {least}; got {value}")
        self.name, self.split = "scenes", split
        self.names = tuple("0123456789")
        self.category_ids = tuple(range(1, 11))
        self.endless = split == "train"
        self.mirrors = False  # a mirrored digit is not a digit
        self.size, self.objects, self.count, self.seed = size, objects, count, seed
        self._last: tuple[int, np.ndarray, ImageRecord] | None = None

    def __len__(self) -> int:
        return self.count

    def record(self, index: int) -> ImageRecord:
        """The digits of scene ``index`` as an annotated record."""
        return self._scene(index)[1]

    def image(self, index: int) -> np.ndarray:
        """RGB uint8 [size, size, 3]."""
        return self._scene(index)[0].copy()

    def shape(self, index: int) -> tuple[int, int]:
        """(size, size) for every scene."""
        return self.size, self.size

    def _scene(self, index: int) -> tuple[np.ndarray, ImageRecord]:
        """Image and record of a scene; the last one is cached, as both are requested in turn."""
        last = self._last
        if last is None or last[0] != index:
            if index < 0 or (not self.endless and index >= self.count):
                raise IndexError(
                    f"scenes {self.split} has {counted(self.count, 'scene')}; asked for {index}"
                )
            self._last = last = (index, *self._draw(index))
        return last[1], last[2]

    def _draw(self, index: int) -> tuple[np.ndarray, ImageRecord]:
        rng = np.random.default_rng([self.seed, SPLITS.index(self.split), index])
        canvas, brightness = _ground(rng, self.size)
        wanted = 0 if rng.random() < _EMPTY else int(rng.integers(1, self.objects + 1))
        largest = min(_LARGEST, math.sqrt(0.55 / max(wanted, 1)))
        boxes: list[tuple[int, int, int, int]] = []
        labels: list[int] = []
        for _ in range(wanted):
            glyph, label = _random_glyph(rng, self.split)
            smallest = max(12.0, _SMALLEST * self.size)
            top = max(smallest, largest * self.size)
            ink, (left, upper, right, lower) = _warp(rng, glyph, rng.uniform(smallest, top))
            corner = _free_corner(rng, self.size, right - left, lower - upper, boxes)
            if corner is None:
                continue
            _paint(canvas, ink, corner[0] - left, corner[1] - upper, _colour(rng, brightness))
            boxes.append((*corner, corner[0] + right - left, corner[1] + lower - upper))
            labels.append(label)
        image = canvas.clip(0, 255).astype(np.uint8)
        return image, self._record(index, boxes, labels)

    def _record(self, index: int, boxes: list[tuple[int, int, int, int]], labels: list[int]):
        corners = np.array(boxes, dtype=np.float64).reshape(-1, 4)
        sides = corners[:, 2:] - corners[:, :2]
        return ImageRecord(
            image_id=index + 1,
            file=f"scenes/{self.split}/{index:06d}",
            width=self.size,
            height=self.size,
            boxes=corners.astype(np.float32),
            labels=np.array(labels, dtype=np.int64),
            crowd=np.zeros(len(labels), dtype=bool),
            areas=sides.prod(1),
            annotated=np.concatenate((corners[:, :2], sides), 1),
        )


def parse_scenes(text: str, split: str) -> Scenes:
    """Scenes from ``scenes`` or ``scenes:size=160,objects=6,count=500,seed=1``.

    Raises ValueError for an unknown option or a value that is not a whole number.
    """
    options: dict[str, int] = {}
    for part in filter(None, text.partition(":")[2].split(",")):
        key, _, value = part.partition("=")
        if key not in ("size", "objects", "count", "seed") or not value.isdecimal():
            raise ValueError(
                f"{text!r}: {part!r} is not understood; give whole numbers for size, objects, "
                "count or seed, like scenes:size=160,objects=6"
            )
        options[key] = int(value)
    return Scenes(split, **options)


@cache
def _digits() -> tuple[np.ndarray, np.ndarray, dict[str, np.ndarray]]:
    """Images [1797, 8, 8] 0–255, their digits [1797], and split → rows that it may use."""
    from sklearn.datasets import load_digits

    images, digits = (np.asarray(each) for each in load_digits(return_X_y=True))
    images = (images.reshape(-1, 8, 8) * (255 / 16)).round().astype(np.uint8)
    order = np.random.default_rng(20220128).permutation(len(digits))
    held = {"val": order[:_HELD_OUT], "test": order[_HELD_OUT : 2 * _HELD_OUT]}
    return images, digits.astype(int), {**held, "train": order[2 * _HELD_OUT :]}


def _random_glyph(rng: np.random.Generator, split: str) -> tuple[int, int]:
    """Row and digit of a random image of the split."""
    _, digits, rows = _digits()
    row = int(rng.choice(rows[split]))
    return row, int(digits[row])


@cache
def _outline(row: int, level: int) -> Image.Image:
    """The strokes of a digit as smooth alpha, ``_LEVELS[level]`` pixels wide, 1/10 of it margin."""
    side = _LEVELS[level]
    margin = side // 10
    full = (side - 2 * margin) * 10 // 8
    padded = np.pad(_digits()[0][row], 1)
    large = Image.fromarray(padded).resize((full, full), Image.Resampling.BICUBIC)
    values = np.asarray(large, dtype=np.float32) / 255
    crisp = ((values - 0.3) / 0.35).clip(0, 1)  # 8x8 pixels are blurred strokes: sharpen the edge
    crisp = crisp * crisp * (3 - 2 * crisp)
    return Image.fromarray((crisp * 255).astype(np.uint8))


def _warp(
    rng: np.random.Generator, row: int, size: float
) -> tuple[np.ndarray, tuple[int, int, int, int]]:
    """Alpha of a digit about ``size`` pixels tall, tilted and stretched; its tight box (xyxy)."""
    level = next((i for i, side in enumerate(_LEVELS) if side >= size), len(_LEVELS) - 1)
    outline = _outline(row, level)
    angle, stretch = rng.uniform(-_TILT, _TILT), rng.uniform(0.8, 1.25)
    scale = outline.width * 0.8 / size  # the strokes of most digits span 8 of 10 cells
    side = math.ceil(size * 1.7)
    cos, sin, middle = math.cos(angle) * scale, math.sin(angle) * scale, outline.width / 2
    a, b, d, e = cos / stretch, sin / stretch, -sin, cos
    shift = (middle - (a + b) * side / 2, middle - (d + e) * side / 2)
    warped = outline.transform(
        (side, side),
        Image.Transform.AFFINE,
        (a, b, shift[0], d, e, shift[1]),
        Image.Resampling.BILINEAR,
    )
    ink = np.asarray(warped)
    rows, columns = (np.flatnonzero((ink >= _INK).any(axis)) for axis in (1, 0))
    return ink, (int(columns[0]), int(rows[0]), int(columns[-1]) + 1, int(rows[-1]) + 1)


def _free_corner(
    rng: np.random.Generator,
    size: int,
    width: int,
    height: int,
    boxes: list[tuple[int, int, int, int]],
) -> tuple[int, int] | None:
    """Upper left corner of a box that covers no other by over ``_COVERED``; None if not found."""
    if width > size or height > size:
        return None
    for _ in range(20):
        x, y = int(rng.integers(size - width + 1)), int(rng.integers(size - height + 1))
        for x0, y0, x1, y1 in boxes:
            shared = max(0, min(x1, x + width) - max(x0, x)) * max(
                0, min(y1, y + height) - max(y0, y)
            )
            if shared > _COVERED * min(width * height, (x1 - x0) * (y1 - y0)):
                break
        else:
            return x, y
    return None


def _paint(canvas: np.ndarray, ink: np.ndarray, x: int, y: int, colour: np.ndarray) -> None:
    """Blend ``ink`` (alpha) in ``colour`` into the canvas, its corner at (x, y), maybe outside."""
    height, width = canvas.shape[:2]
    top, left = max(0, -y), max(0, -x)
    alpha = ink[top : height - y, left : width - x, None].astype(np.float32) / 255
    y, x = y + top, x + left
    patch = canvas[y : y + alpha.shape[0], x : x + alpha.shape[1]]
    patch += alpha * (colour - patch)


def _colour(rng: np.random.Generator, ground: float) -> np.ndarray:
    """A colour whose brightness differs from the background's by ``_CONTRAST`` or more."""
    below, above = max(0.0, ground - _CONTRAST), max(0.0, 255 - ground - _CONTRAST)
    draw = rng.uniform(0, below + above)
    brightness = draw if draw < below else ground + _CONTRAST + draw - below
    return _tinted(rng, brightness, 60)


def _tinted(rng: np.random.Generator, brightness: float, strength: float) -> np.ndarray:
    """RGB float32 of the given brightness."""
    tint = rng.uniform(-strength, strength, 3)
    return (brightness + tint - tint @ _LUMA).clip(0, 255).astype(np.float32)


def _ground(rng: np.random.Generator, size: int) -> tuple[np.ndarray, float]:
    """Textured background [size, size, 3] float32, and its mean brightness."""
    brightness = rng.uniform(25, 230)
    base = _tinted(rng, brightness, 45)
    cells = int(rng.integers(2, 9))
    coarse = rng.normal(0, rng.uniform(3, 14), (cells, cells, 3)).clip(-40, 40) + base
    smooth = Image.fromarray(coarse.clip(0, 255).astype(np.uint8))
    smooth = smooth.resize((size, size), Image.Resampling.BICUBIC)
    _scribble(rng, smooth, base)
    line = np.arange(size, dtype=np.float32) / size - 0.5
    slope = rng.uniform(-30, 30, 2).astype(np.float32)
    light = (line * slope[0])[:, None] + (line * slope[1])[None, :]
    if rng.random() < 0.4:
        turn, waves = rng.uniform(0, math.pi), rng.uniform(4, 25) * 2 * math.pi
        along = (line * waves * math.sin(turn))[:, None] + line * waves * math.cos(turn)
        light += np.sin(along, dtype=np.float32) * np.float32(rng.uniform(3, 14))
    light += rng.random((size, size), dtype=np.float32) * np.float32(rng.uniform(0, 16))
    canvas = np.asarray(smooth, dtype=np.float32) + light[:, :, None]
    return canvas, float(brightness)


def _scribble(rng: np.random.Generator, image: Image.Image, base: np.ndarray) -> None:
    """Draw distractors: a few faint lines, arcs and blots in colours near the background's."""
    pen, size = ImageDraw.Draw(image), image.width
    for kind in rng.integers(0, 3, rng.integers(0, 6)):
        colour = tuple(int(v) for v in (base + rng.uniform(-32, 32, 3)).clip(0, 255))
        x0, y0, x1, y1 = rng.uniform(-0.1, 1.1, 4) * size
        box = (min(x0, x1), min(y0, y1), max(x0, x1), max(y0, y1))
        if kind == 0:
            pen.line((x0, y0, x1, y1), fill=colour, width=int(rng.integers(1, 6)))
        elif kind == 1:
            start = rng.uniform(0, 360)
            pen.arc(box, start, start + rng.uniform(60, 270), fill=colour, width=3)
        else:
            pen.ellipse(box, fill=colour)
