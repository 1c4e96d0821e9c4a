"""Boxes drawn into an image; images as arrays and data URLs; new figures and their files."""

from __future__ import annotations

import base64
from collections.abc import Mapping, Sequence
from functools import lru_cache
from importlib.util import find_spec
from io import BytesIO
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

import numpy as np
from PIL import Image, ImageDraw, ImageFont, ImageOps

from dabdetr.files import FORMATS, write_atomically

if TYPE_CHECKING:
    from matplotlib.figure import Figure

# Wong's hues (Nature Methods 2011), distinct under every common colour blindness; paler and deeper
# shades of them follow for data sets of many classes.
_HUES = (
    *((0, 114, 178), (230, 159, 0), (0, 158, 115), (204, 121, 167)),
    *((86, 180, 233), (213, 94, 0), (240, 228, 66)),
)
HUES = len(_HUES)
_SHADES = (1.0, 0.6, 1.45)


class _Label(NamedTuple):
    text: str
    place: np.ndarray  # x0 y0 x1 y1
    colour: tuple[int, int, int]


def draw(
    image: np.ndarray,
    boxes: np.ndarray,
    scores: np.ndarray,
    labels: np.ndarray,
    names: Sequence[str] | Mapping[int, str],
    scored: bool = True,
) -> Image.Image:
    """A copy of ``image`` (RGB uint8 [height, width, 3]) with every box [n, 4] drawn in.

    Boxes are x0 y0 x1 y1 in pixels; ``labels`` index ``names``. Line width and letter size grow
    with the image. The best boxes are drawn on top, and their labels are placed first: above the
    box if there is room, otherwise at another corner, always within the image. With ``scored``
    False, scores give the order only and are not written.
    """
    canvas = Image.fromarray(image)
    pen = ImageDraw.Draw(canvas)
    width = max(min(canvas.size) // 60, 1)
    width = min(width, max(2, round(max(canvas.size) / 400)))
    font = _font(_letter_size(*canvas.size))
    order = np.argsort(scores, kind="stable")
    for index in order:
        _outline(pen, boxes[index], colour(int(labels[index])), width)
    placed: list[_Label] = []
    for index in order[::-1]:
        score = float(scores[index]) if scored else None
        text = _text(names[int(labels[index])], score, font, canvas.size)
        if text is not None:
            # the place with the least overlap with labels and small boxes
            extent, box = _extent(text, font), np.rint(boxes[index]).astype(int)
            places = _places(box, extent, canvas.size, width)
            taken = np.array([label.place for label in placed]).reshape(-1, 4)
            others = np.delete(boxes, index, axis=0)
            small = others[(others[:, 2:] - others[:, :2]).prod(1) < 4 * extent[0] * extent[1]]
            cost = _overlap(places, taken) + _overlap(places, small) / 2
            place = places[(cost + np.arange(len(places))).argmin()]
            placed.append(_Label(text, place, colour(int(labels[index]))))
    for label in placed[::-1]:
        _write(pen, label, font)
    return canvas


def data_url(
    image: np.ndarray,
    longest: int | None = None,
    kind: Literal["jpeg", "png"] = "jpeg",
    room: int = 1 << 20,
) -> str:
    """A data URL of the image [height, width, 3], reduced to sides of at most ``longest`` pixels.

    A JPEG has the best quality that fits into ``room`` characters.
    """
    reduced, text = Image.fromarray(image), ""
    if longest is not None:
        reduced.thumbnail((longest, longest))
    for quality in (80, 60, 40, 20, 5):
        stream = BytesIO()
        reduced.save(stream, kind, quality=quality)  # a PNG has none
        text = base64.b64encode(stream.getvalue()).decode()
        if kind == "png" or len(text) <= room:
            break
    return f"data:image/{kind};base64,{text}"


def reduced(image: np.ndarray, longest: int) -> tuple[np.ndarray, np.ndarray]:
    """The image reduced to sides of at most ``longest``, and [4] the factors for its boxes."""
    height, width = image.shape[:2]
    scale = min(1.0, longest / max(height, width))
    size = (max(1, round(width * scale)), max(1, round(height * scale)))
    small = np.asarray(Image.fromarray(image).resize(size, Image.Resampling.BILINEAR))
    return small, np.tile((size[0] / width, size[1] / height), 2)


def new_figure(width: float, height: float) -> Figure:
    """An empty figure of the given size in inches, which pyplot does not keep alive."""
    from matplotlib.figure import Figure

    return Figure(figsize=(width, height), layout="constrained")


def plain_text(text: str, most: int = 18) -> str:
    """The text shortened for a figure, with $ escaped, which matplotlib reads as a formula."""
    return _shortened(text, most).replace("$", r"\$")


def save_figure(figure: Figure, path: str | Path, dpi: int = 120) -> None:
    """Write the figure as PNG, SVG or PDF, by the suffix of ``path``; ValueError for others."""
    path, content = Path(path), BytesIO()
    kind = path.suffix.lower().removeprefix(".")
    if kind not in ("png", "svg", "pdf"):
        raise ValueError(f"a figure's name should end in .png, .svg or .pdf; got {path}")
    figure.savefig(content, format=kind, dpi=dpi)
    write_atomically(path, content.getvalue())


def as_array(image: Any) -> np.ndarray:
    """RGB uint8 [height, width, 3] of an array, a PIL image, a path or the bytes of a file.

    Arrays are [height, width] or [height, width, 1, 3 or 4], uint8 or floats 0–1.
    """
    if isinstance(image, str | Path | bytes):
        Image.init()
        decoded = [each for each in (*FORMATS, "HEIF") if each in Image.OPEN]
        file = BytesIO(image) if isinstance(image, bytes) else image
        with Image.open(file, formats=decoded) as opened:
            return np.asarray(ImageOps.exif_transpose(opened).convert("RGB"))
    if not isinstance(image, np.ndarray):
        return np.asarray(image.convert("RGB"))
    if np.issubdtype(image.dtype, np.floating):
        image = (image.clip(0, 1) * 255 + 0.5).astype(np.uint8)
    one = image.ndim == 3 and image.shape[2] == 1
    return np.asarray(Image.fromarray(image[:, :, 0] if one else image).convert("RGB"))


def colour(label: int) -> tuple[int, int, int]:
    """RGB of a class; the same class has the same colour in every image."""
    hue = _HUES[label % len(_HUES)]
    shade = _SHADES[label // len(_HUES) % len(_SHADES)]
    if shade <= 1:
        return tuple(int(v * shade) for v in hue)  # pyright: ignore[reportReturnType]
    return tuple(int(255 - (255 - v) / shade) for v in hue)  # pyright: ignore[reportReturnType]


def _outline(
    pen: ImageDraw.ImageDraw, box: np.ndarray, ink: tuple[int, int, int], width: int
) -> None:
    """A frame of ``width``, with a thin inner line for contrast on a background of its colour."""
    x0, y0, x1, y1 = (int(v) for v in np.rint(box))
    x1, y1 = max(x1 - 1, x0), max(y1 - 1, y0)
    edge = _contrast(ink)
    if width > 1 and min(x1 - x0, y1 - y0) > 12 * width:
        pen.rectangle((x0 + width, y0 + width, x1 - width, y1 - width), outline=edge)
    pen.rectangle((x0, y0, x1, y1), outline=ink, width=width)


def _text(
    name: str, score: float | None, font: ImageFont.FreeTypeFont, size: tuple[int, int]
) -> str | None:
    """Name and score, shortened for a small image; None if nothing fits."""
    name = "".join(c if c.isprintable() else " " for c in name)
    number = "" if score is None else f" {score:.2f}"
    for text in (name + number, _shortened(name) + number, _shortened(name, 3)):
        width, height = _extent(text, font)
        if width <= size[0] and height <= size[1]:
            return text
    return None


def _places(
    box: np.ndarray, extent: tuple[int, int], size: tuple[int, int], width: int
) -> np.ndarray:
    """Possible places of a label [places, 4], the best first; each is moved into the image."""
    (x0, y0, x1, y1), (w, h) = box.tolist(), extent
    outside = [(x0, y0 - h), (x1 - w, y0 - h), (x0, y1), (x1 - w, y1), (x1, y0), (x0 - w, y0)]
    left, right, top, bottom = x0 + width, x1 - w - width, y0 + width, y1 - h - width
    inside = [(left, top), (left, bottom), (right, top), (right, bottom)]
    room_above = y0 >= h
    corners = np.array([*outside, *inside] if room_above else [*inside, *outside])
    corners = corners.clip(0, (size[0] - w, size[1] - h))
    return np.concatenate((corners, corners + np.array((w, h))), axis=1)


def _overlap(places: np.ndarray, others: np.ndarray) -> np.ndarray:
    """Overlap in px² of each place [places, 4] with ``others`` [others, 4], summed over others."""
    low = np.maximum(places[:, None, :2], others[None, :, :2])
    high = np.minimum(places[:, None, 2:], others[None, :, 2:])
    return (high - low).clip(min=0).prod(-1).sum(-1)


def _write(pen: ImageDraw.ImageDraw, label: _Label, font: ImageFont.FreeTypeFont) -> None:
    x0, y0, x1, y1 = label.place.tolist()
    pen.rectangle((x0, y0, x1 - 1, y1 - 1), fill=label.colour)
    pad = _padding(font)
    pen.text((x0 + pad, y0 + pad), label.text, fill=_contrast(label.colour), font=font, anchor="la")


def _extent(text: str, font: ImageFont.FreeTypeFont) -> tuple[int, int]:
    """Width and height of a label; the height is that of the tallest letters."""
    ascent, descent = font.getmetrics()
    pad = _padding(font)
    return round(font.getlength(text)) + 2 * pad, ascent + descent + 2 * pad


def _padding(font: ImageFont.FreeTypeFont) -> int:
    return max(1, round(font.size / 8))


def _shortened(name: str, most: int = 10) -> str:
    return name if len(name) <= most else name[: most - 1] + "…"


def _contrast(ink: tuple[int, int, int]) -> tuple[int, int, int]:
    """Black on light colours, white on dark ones (by relative luminance)."""
    red, green, blue = ((v / 255) ** 2.2 for v in ink)
    light = 0.2126 * red + 0.7152 * green + 0.0722 * blue > 0.18
    return (0, 0, 0) if light else (255, 255, 255)


def _letter_size(width: int, height: int) -> int:
    """A size that is readable when the image fills a screen; at most a third of a tiny image."""
    return max(4, min(round(0.008 * (width + height) + 5), min(width, height) // 3))


@lru_cache(maxsize=16)
def _font(size: int) -> ImageFont.FreeTypeFont:
    """DejaVu Sans, part of matplotlib, with Greek, Cyrillic and Arabic letters among others.

    Without matplotlib, Pillow's default font, which has Latin letters only.
    """
    if find_spec("matplotlib") is None:
        found = ImageFont.load_default(size)
        assert isinstance(found, ImageFont.FreeTypeFont)
        return found
    import matplotlib

    file = Path(matplotlib.get_data_path(), "fonts", "ttf", "DejaVuSans.ttf")
    return ImageFont.truetype(str(file), size)
