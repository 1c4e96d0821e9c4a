"""Reads any image, from a file, bytes or memory, as upright RGB uint8."""

from __future__ import annotations

import ctypes
import io
import logging
import math
import re
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from functools import cache, partial
from importlib.util import find_spec
from pathlib import Path
from typing import BinaryIO

import numpy as np
from PIL import Image

from dabdetr.files import FORMATS, open_regular, refuse_pointer
from dabdetr.text import reason

log = logging.getLogger("dabdetr")

IMAGE_SUFFIXES = frozenset(
    {".jpg", ".jpeg", ".jpe", ".jfif", ".mpo", ".png", ".bmp", ".gif", ".tif", ".tiff", ".webp"}
    | {".avif", ".avifs", ".heic", ".heif", ".hif", ".ppm", ".pgm", ".pbm", ".pnm", ".apng"}
    | {".jp2", ".j2k", ".j2c", ".jpc", ".jpf", ".jpx", ".dib", ".tga"}
)
"""Lower-case endings of the files that are read from an image folder."""
OTHER_SUFFIXES = frozenset(
    {".pcx", ".dcx", ".psd", ".sgi", ".rgb", ".bw", ".dds", ".exr", ".hdr", ".eps", ".ico"}
    | {".icns", ".xbm", ".xpm", ".qoi", ".fits", ".dng", ".cr2", ".nef", ".arw", ".jxl", ".ras"}
    | {".dcm"}
)
"""Lower-case endings of images that cannot be decoded; such files are reported."""

# Operation for each value of the EXIF tag "orientation" (1 is upright).
_ORIENTATION_TAG = 0x0112
_TURNS = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
_SIDEWAYS = (5, 6, 7, 8)
_FROM_THE_END = (3, 4, 6, 7)
"""Orientations whose operation moves the first row to the bottom or to the right."""
_HEIF = re.compile(rb"....ftyp(heic|heix|hevc|hevx|heim|heis|mif1|msf1)", re.DOTALL)
_AVIF = re.compile(rb"....ftypavi[fs]", re.DOTALL)
_PILLOW_FILTER = ("ignore", None, Warning, re.compile(r"PIL\."), 0)
_MEMORY_FACTOR = {"WEBP": 2, "JPEG2000": 3}
"""Formats whose decoders need 17 and 25 bytes a pixel, where others need at most 12: their pixel
limit is lower by this factor."""
STRIP = 1 << 20
"""Pixels converted at a time, which limits the memory of the conversion."""

Source = str | Path | bytes | Image.Image | np.ndarray


def read_image(
    source: Source, size: tuple[int, int] | None = None, bits: int | None = None
) -> np.ndarray:
    """RGB uint8 [height, width, 3], rotated by its EXIF orientation, transparency over white.

    16-bit values are scaled, never clipped; ``bits`` is the number of bits in use, if known (see
    ``used_bits``). An array is [height, width] or [height, width, 1, 3 or 4] of uint8, uint16 or
    floats 0–1. ``size`` is the (width, height) for which boxes were drawn: an image that has it
    only before rotation is not rotated, any other size is an error. Of several pages or frames the
    first is used, and that is logged. ValueError or FileNotFoundError name the file.
    """
    if isinstance(source, np.ndarray):
        return _require_size(_from_array(source, bits), size, "the array given")
    if isinstance(source, Image.Image):
        return _decode(source, "the image given", size, bits)
    with opened_image(source) as (image, name):
        return _decode(image, name, size, bits)


@dataclass(frozen=True)
class Head:
    """Properties of an image file, read without decoding it.

    size    (width, height) after the EXIF rotation
    stored  (width, height) of the pixels as stored in the file
    format  Pillow's name of the format, such as "JPEG"
    deep    whether a channel has more than 8 bits
    frames  pages or frames; only the first is ever read
    error   why the file cannot be read; "" if it can
    """

    size: tuple[int, int] = (0, 0)
    stored: tuple[int, int] = (0, 0)
    format: str = ""
    deep: bool = False
    frames: int = 1
    error: str = ""


def image_head(path: str | Path) -> Head:
    """The head of an image file; ValueError or FileNotFoundError name the file."""
    with opened_image(path) as (image, _):
        deep = image.mode.startswith("I") or image.mode == "F"
        return Head(_turned_size(image), image.size, image.format or "", deep, _frames(image))


def image_size(path: str | Path) -> tuple[int, int]:
    """(width, height) after the EXIF rotation, read from the file's head alone."""
    return image_head(path).size


def used_bits(source: str | Path | bytes) -> int | None:
    """Number of bits of the highest value of a 16-bit image, at least 8; None for other images.

    Cameras and scanners store 10, 12 or 14 bits in 16. A single image may be dark: the largest
    number over a data set is that of its camera.
    """
    with opened_image(source) as (image, name):
        if not image.mode.startswith("I"):
            return None
        _load(image, name)
        highest = max(int(np.max(strip)) for strip in _strips(image))
        return min(max(highest.bit_length(), 8), 16) if highest < 1 << 16 else None


@contextmanager
def opened_image(source: str | Path | bytes) -> Iterator[tuple[Image.Image, str]]:
    """Context with the opened image, of which only the head is read, and its name for messages."""
    if isinstance(source, bytes | bytearray | memoryview):
        stream, name = io.BytesIO(source), "the content"
    elif isinstance(source, str | Path):
        stream, name = _stream(Path(source)), str(source)
    else:
        raise ValueError(
            "an image is expected as a path, bytes, a PIL image or a numpy array; "
            f"got {type(source).__name__}"
        )
    with stream:
        yield _open(stream, name), name


def _stream(path: Path) -> BinaryIO:
    try:
        return open_regular(path)
    except FileNotFoundError:
        raise FileNotFoundError(f"there is no image {path}; check the path") from None
    except IsADirectoryError:
        raise ValueError(f"{path} is a folder; an image file is expected") from None
    except OSError as error:
        raise ValueError(f"{path} cannot be read: {error.strerror}; check it") from None


def _open(content: BinaryIO, name: str) -> Image.Image:
    head = content.read(64)
    content.seek(0)
    if not head:
        raise ValueError(f"{name} is empty (0 bytes); replace or remove it")
    refuse_pointer(head, name)
    formats = _formats(head, name)
    _hush()
    try:
        image = Image.open(content, formats=formats)
    except Image.DecompressionBombError:
        raise _bomb(name, Image.MAX_IMAGE_PIXELS) from None
    except Exception:  # decoders raise many kinds for broken files
        raise ValueError(
            f"{name} is not an image that can be read (its head is broken, or it is none of "
            f"{', '.join(FORMATS)}); replace or remove it"
        ) from None
    if Image.MAX_IMAGE_PIXELS is not None:
        most = Image.MAX_IMAGE_PIXELS // _MEMORY_FACTOR.get(image.format or "", 1)
        if image.width * image.height > most:
            raise _bomb(name, most)
    return image


def _formats(head: bytes, name: str) -> list[str]:
    """Pillow's formats that may be decoded; ValueError if this file needs a missing package."""
    Image.init()
    formats = [each for each in FORMATS if each in Image.OPEN]
    if _HEIF.match(head):
        try:
            from pillow_heif import register_heif_opener  # pyright: ignore[reportMissingImports]
        except ImportError:
            raise ValueError(
                f"{name} is a HEIC image, which needs a package: pip install pillow-heif"
            ) from None
        register_heif_opener()
        formats.append("HEIF")
    if name.lower().endswith(".tga"):
        formats.append("TGA")
    if _AVIF.match(head) and "AVIF" not in formats:
        raise ValueError(f"{name} is an AVIF image, which needs: pip install -U 'pillow>=11.3'")
    return formats


def needs_package(path: str | Path) -> bool:
    """Whether a file is HEIC, and the package that decodes it is missing."""
    try:
        with open_regular(Path(path)) as stream:
            return bool(_HEIF.match(stream.read(64))) and find_spec("pillow_heif") is None
    except (OSError, ValueError):
        return False


def _bomb(name: str, most: int | None) -> ValueError:
    return ValueError(
        f"{name} has more than {most} pixels, which may be a decompression "
        "bomb; make it smaller, or raise PIL.Image.MAX_IMAGE_PIXELS if you trust it"
    )


def _hush() -> None:
    """Silence warnings and messages of Pillow (mostly about metadata) and libtiff on stderr.

    The warning filter is permanent, because ``warnings.catch_warnings`` is not thread-safe.
    """
    if _PILLOW_FILTER not in warnings.filters:
        warnings.filterwarnings("ignore", module=r"PIL\.")
    _hush_once()


@cache
def _hush_once() -> None:
    """Handle Pillow's messages, which would be printed otherwise, and libtiff's errors.

    libtiff's errors are raised as exceptions as well.
    """
    logging.getLogger("PIL").addHandler(logging.NullHandler())
    maps = Path("/proc/self/maps")
    with suppress(OSError, AttributeError):
        if maps.exists():  # none, if libtiff is built into Pillow
            lines = maps.read_text().splitlines()
            loaded = {line.split(maxsplit=5)[5] for line in lines if "/libtiff" in line}
        else:
            loaded = {str(path) for path in Path(Image.__file__).parent.glob(".dylibs/libtiff*")}
        for libtiff in map(ctypes.CDLL, loaded):
            for name in ("TIFFSetErrorHandler", "TIFFSetWarningHandler"):
                setter = getattr(libtiff, name)
                setter.argtypes, setter.restype = [ctypes.c_void_p], ctypes.c_void_p
                setter(None)


def _load(image: Image.Image, name: str) -> None:
    """Decode all pixels; ValueError for a damaged file, whatever its decoder raises."""
    _hush()
    try:
        image.load()
    except Exception as error:  # many kinds, including AssertionError and MemoryError
        raise _damaged(name, error) from None


def _damaged(name: str, error: Exception) -> ValueError:
    return ValueError(
        f"{name} is damaged or cut short and cannot be decoded ({reason(error)}); replace or "
        "remove it"
    )


def _decode(
    image: Image.Image, name: str, size: tuple[int, int] | None, bits: int | None
) -> np.ndarray:
    _load(image, name)
    if size is None:  # else it is of a data set, which counts them
        _log_pages(image, name)
    turned = size is None or _turned_size(image) == size or image.size != size
    try:
        array = _to_rgb(image, _orientation(image) if turned else 1, bits)
    except Exception as error:  # a palette or profile that does not fit the pixels
        raise _damaged(name, error) from None
    return _require_size(array, size, name)


_logged: set[str] = set()
MOST_LOGGED = 20
"""Most files with several pages that are named in the log; more would hide other messages."""


def _frames(image: Image.Image) -> int:
    """Number of pages or frames; 1 if later ones are damaged, as they are never read."""
    try:
        return int(getattr(image, "n_frames", 1))
    except Exception:  # decoders raise many kinds
        return 1


def _log_pages(image: Image.Image, name: str) -> None:
    """Log that only the first page is used; the extra images of a phone's JPEG are not pages."""
    animated = False
    with suppress(Exception):  # many kinds, if later frames are damaged
        new = image.format != "MPO" and name not in _logged
        animated = new and getattr(image, "is_animated", False)
    if animated and len(_logged) < MOST_LOGGED:
        log.warning("%s has several pages or frames; the first is used", name)
        _logged.add(name)
        if len(_logged) == MOST_LOGGED:
            log.warning("further images of several pages are not named; their first is used")


def _orientation(image: Image.Image) -> int:
    """The EXIF orientation; 1 (upright) if the EXIF block is missing or broken."""
    _hush()
    try:
        return int(image.getexif().get(_ORIENTATION_TAG, 1))
    except Exception:  # decoders raise many kinds
        return 1


def _turned_size(image: Image.Image) -> tuple[int, int]:
    width, height = image.size
    return (height, width) if _orientation(image) in _SIDEWAYS else (width, height)


def _require_size(image: np.ndarray, size: tuple[int, int] | None, name: str) -> np.ndarray:
    height, width = image.shape[:2]
    if size is not None and (width, height) != size:
        raise ValueError(
            f"{name} is {width}x{height} pixels, but its annotations were made for "
            f"{size[0]}x{size[1]}; put the right image there, or correct the json"
        )
    return image


def _rows(height: int, width: int) -> Iterator[slice]:
    """Slices of adjacent rows of about ``STRIP`` pixels, from top to bottom."""
    count = max(1, STRIP // width)
    for first in range(0, height, count):
        yield slice(first, min(first + count, height))


def _strips(image: Image.Image) -> Iterator[np.ndarray]:
    """The values of an image, some rows at a time."""
    for rows in _rows(image.height, image.width):
        yield np.asarray(image.crop((0, rows.start, image.width, rows.stop)))


def _to_rgb(image: Image.Image, orientation: int, bits: int | None) -> np.ndarray:
    """The rotated image, converted in strips: all at once would take several times the memory."""
    width, height = image.size
    convert = _conversion(image, bits)
    turn, sideways = _TURNS.get(orientation), orientation in _SIDEWAYS
    array = np.empty((width, height, 3) if sideways else (height, width, 3), np.uint8)
    for rows in _rows(height, width):
        strip = image.crop((0, rows.start, width, rows.stop))
        place = rows
        if orientation in _FROM_THE_END:
            place = slice(height - rows.stop, height - rows.start)
        strip = strip if turn is None else strip.transpose(turn)
        array[(slice(None), place) if sideways else place] = convert(strip)
    return array


def _conversion(image: Image.Image, bits: int | None) -> Callable[[Image.Image], np.ndarray]:
    """The function strip → uint8 [rows, width, 3], or [rows, width, 1] for one deep channel."""
    if image.mode.startswith("I") or image.mode == "F":
        top = _top(image, bits)
        return lambda strip: _scaled(np.asarray(strip), top)[:, :, None]
    if image.has_transparency_data:
        return lambda strip: _over_white(np.asarray(strip.convert("RGBA")))
    if image.mode == "RGB":
        return np.asarray
    return lambda strip: np.asarray(strip.convert("RGB"))


def _top(image: Image.Image, bits: int | None) -> float:
    """The value of white in a channel of 16 or 32 bits, derived from its type and range."""
    sixteen = 65535 if bits is None else 2**bits - 1
    if ";16" in image.mode:
        return sixteen
    finite = (strip[np.isfinite(strip)] for strip in _strips(image))
    highest = max(float(strip.max(initial=0)) for strip in finite)
    whole = image.mode.startswith("I")
    scales = (65535, 2**31 - 1, 2**32 - 1) if whole else (1, 255, 65535, 2**31 - 1)
    top = next((scale for scale in scales if highest <= scale), highest)
    return sixteen if whole and top == 65535 else top


def _scaled(values: np.ndarray, top: float) -> np.ndarray:
    """Values from 0 to ``top`` scaled to uint8; values that are not finite become black."""
    values = values.astype(np.float32)
    np.nan_to_num(values, copy=False, posinf=0, neginf=0)
    return (values.clip(0, top) * (255 / top) + 0.5).astype(np.uint8)


def _over_white(rgba: np.ndarray) -> np.ndarray:
    alpha = rgba[:, :, 3:].astype(np.uint16)
    return ((rgba[:, :, :3] * alpha + 255 * (255 - alpha) + 127) // 255).astype(np.uint8)


def _from_array(array: np.ndarray, bits: int | None) -> np.ndarray:
    shape = array.shape
    if len(shape) == 2:
        array = array[:, :, None]
    if array.ndim != 3 or array.shape[2] not in (1, 3, 4):
        channels_first = len(shape) == 3 and shape[0] in (1, 3, 4)
        raise ValueError(
            "an array should be [height, width] or [height, width, 1, 3 or 4]; got "
            f"{list(shape)}" + ("; move the channels last" if channels_first else "")
        )
    if not array.size:
        raise ValueError(f"the array given holds no pixels: its shape is {list(shape)}")
    height, width, channels = array.shape
    convert = _array_conversion(array, bits)
    if channels == 3 and array.dtype == np.uint8:
        return np.ascontiguousarray(array)
    rgb = np.empty((height, width, 3), np.uint8)
    for rows in _rows(height, width):
        part = convert(array[rows])
        rgb[rows] = _over_white(part) if channels == 4 else part
    return rgb


def _array_conversion(array: np.ndarray, bits: int | None) -> Callable[[np.ndarray], np.ndarray]:
    """The function that converts a part of the array to uint8."""
    if array.dtype == np.uint8:
        return np.asarray
    if array.dtype == np.bool_:
        return lambda part: part.astype(np.uint8) * np.uint8(255)
    if array.dtype.kind == "u" and array.dtype.itemsize == 2:  # of either byte order
        return partial(_scaled, top=65535 if bits is None else 2**bits - 1)
    lowest, highest = float(array.min()), float(array.max())
    if np.issubdtype(array.dtype, np.floating) and lowest >= -1e-3 and highest <= 1 + 1e-3:
        return partial(_scaled, top=1)
    if np.issubdtype(array.dtype, np.integer) and lowest >= 0 and highest <= 255:
        return lambda part: part.astype(np.uint8)
    found = f"{array.dtype} from {lowest:g} to {highest:g}"
    if not (math.isfinite(lowest) and math.isfinite(highest)):
        found = f"{array.dtype} with values that are not finite"
    elif lowest >= 0 and highest <= 255:
        found += "; convert it: array.astype(numpy.uint8)"
    raise ValueError(f"an array should be uint8, uint16, or floats from 0 to 1; got {found}")
