"""Any image, from a file, bytes or memory, as RGB bytes the way a person would see it."""

from __future__ import annotations

import ctypes
import io
import logging
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

from dabdetr.files import FORMATS, open_regular
from dabdetr.text import reason

log = logging.getLogger("dabdetr")

IMAGE_SUFFIXES = frozenset(
    {".jpg", ".jpeg", ".jpe", ".jfif", ".mpo", ".png", ".bmp", ".gif", ".tif", ".tiff", ".webp"}
    | {".avif", ".avifs", ".heic", ".heif", ".hif", ".ppm", ".pgm", ".pbm", ".pnm", ".apng"}
    | {".jp2", ".j2k", ".j2c", ".jpc", ".jpf", ".jpx", ".dib", ".tga"}
)
"""Lower-case endings that a folder of images is searched for."""
OTHER_SUFFIXES = frozenset(
    {".pcx", ".dcx", ".psd", ".sgi", ".rgb", ".bw", ".dds", ".exr", ".hdr", ".eps", ".ico"}
    | {".icns", ".xbm", ".xpm", ".qoi", ".fits", ".dng", ".cr2", ".nef", ".arw", ".jxl", ".ras"}
)
"""Lower-case endings of images that are not decoded: where one lies in a folder, that is said."""

# What a value 1–8 of the EXIF tag "orientation" asks for.
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
"""Turns that bring the first row to the bottom or to the right."""
_HEIF = re.compile(rb"....ftyp(heic|heix|hevc|hevx|heim|heis|mif1|msf1)", re.DOTALL)
_AVIF = re.compile(rb"....ftypavi[fs]", re.DOTALL)
_QUIET = ("ignore", None, Warning, re.compile(r"PIL\."), 0)
_HUNGRY = {"WEBP": 2, "JPEG2000": 3}
"""Formats whose decoders hold 17 and 25 bytes a pixel, where others hold at most 12: so much fewer
pixels are taken of them."""
STRIP = 1 << 20
"""Pixels that are converted at a time, so that conversion takes little memory of its own."""

Source = str | Path | bytes | Image.Image | np.ndarray


def read_image(
    source: Source, size: tuple[int, int] | None = None, bits: int | None = None
) -> np.ndarray:
    """RGB uint8 [height, width, 3], turned as its EXIF says; transparency laid over white.

    16-bit values are scaled, never clipped; ``bits`` says how many of the 16 are used where that
    is known (see ``used_bits``). An array is [height, width] or [height, width, 1, 3 or 4] of
    uint8, uint16 or floats 0–1. ``size`` is the (width, height) for which boxes were drawn: an
    image that only has it before turning stays unturned, any other size is an error. Of several
    pages or frames the first is taken, and that is logged. ValueError or FileNotFoundError name
    the file.
    """
    if isinstance(source, np.ndarray):
        return _require_size(_from_array(source, bits), size, "the array given")
    if isinstance(source, Image.Image):
        return _decode(source, "the image given", size, bits)
    with opened_image(source) as (image, name):
        return _decode(image, name, size, bits)


@dataclass(frozen=True)
class Head:
    """What is known of an image file without decoding it.

    size    (width, height) once turned as EXIF says
    stored  (width, height) of the pixels as they lie in the file
    format  Pillow's name of it, such as "JPEG"
    deep    whether a channel has more than 8 bits
    frames  pages or frames; only the first is ever read
    """

    size: tuple[int, int]
    stored: tuple[int, int]
    format: str
    deep: bool
    frames: int


def image_head(path: str | Path) -> Head:
    """What the head of an image file says; ValueError or FileNotFoundError name the file."""
    with opened_image(path) as (image, _):
        deep = image.mode.startswith("I") or image.mode == "F"
        return Head(_turned_size(image), image.size, image.format or "", deep, _frames(image))


def image_size(path: str | Path) -> tuple[int, int]:
    """(width, height) once turned as EXIF says, read from the file's head alone."""
    return image_head(path).size


def used_bits(source: str | Path | bytes) -> int | None:
    """How many bits the highest value of a 16-bit image takes, 8 at least; None for other images.

    Cameras and scanners store 10, 12 or 14 bits in 16. One image may be dark: the highest number
    among those of a data set is what its camera has.
    """
    with opened_image(source) as (image, name):
        if not image.mode.startswith("I"):
            return None
        _load(image, name)
        highest = max(int(np.max(strip)) for strip in _strips(image))
        return min(max(highest.bit_length(), 8), 16) if highest < 1 << 16 else None


@contextmanager
def opened_image(source: str | Path | bytes) -> Iterator[tuple[Image.Image, str]]:
    """An image whose head has been read, and its name in messages."""
    if isinstance(source, bytes | bytearray | memoryview):
        with io.BytesIO(source) as stream:
            yield _open(stream, "the content"), "the content"
    elif isinstance(source, str | Path):
        with _readable(Path(source)) as stream:
            yield _open(stream, str(source)), str(source)
    else:
        raise ValueError(
            "an image is expected as a path, bytes, a PIL image or a numpy array; "
            f"got {type(source).__name__}"
        )


@contextmanager
def _readable(path: Path) -> Iterator[BinaryIO]:
    try:
        stream = open_regular(path)
    except FileNotFoundError:
        raise FileNotFoundError(f"there is no image {path}; check the path") from None
    except IsADirectoryError:
        raise ValueError(f"{path} is a folder; an image file is expected") from None
    except OSError as error:
        raise ValueError(f"{path} cannot be read: {error.strerror}; check it") from None
    with stream:
        yield stream


def _open(content: BinaryIO, name: str) -> Image.Image:
    head = content.read(64)
    content.seek(0)
    if not head:
        raise ValueError(f"{name} is empty (0 bytes); replace or remove it")
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
        most = Image.MAX_IMAGE_PIXELS // _HUNGRY.get(image.format or "", 1)
        if image.width * image.height > most:
            raise _bomb(name, most)
    return image


def _formats(head: bytes, name: str) -> list[str]:
    """Those that may be decoded; ValueError where a package for this file is missing."""
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
    """No warnings or messages of Pillow's (of odd metadata, mostly) or of libtiff's on stderr.

    A filter that stays, as ``warnings.catch_warnings`` is not for threads.
    """
    if _QUIET not in warnings.filters:
        warnings.filterwarnings("ignore", module=r"PIL\.")
    _hush_messages()
    _hush_libtiff()


@cache
def _hush_messages() -> None:
    """Pillow's log goes to those who listen to it; it would go to stderr where nobody does."""
    logging.getLogger("PIL").addHandler(logging.NullHandler())


@cache
def _hush_libtiff() -> None:
    """libtiff prints what it finds wrong; the same comes back as an exception."""
    with suppress(OSError, AttributeError):
        for library in _loaded_libtiff():
            libtiff = ctypes.CDLL(library)
            for name in ("TIFFSetErrorHandler", "TIFFSetWarningHandler"):
                setter = getattr(libtiff, name)
                setter.argtypes, setter.restype = [ctypes.c_void_p], ctypes.c_void_p
                setter(None)


def _loaded_libtiff() -> set[str]:
    """Paths of the library that Pillow has loaded; none where it is built into Pillow."""
    maps = Path("/proc/self/maps")
    if maps.exists():
        lines = maps.read_text().splitlines()
        return {line.split(maxsplit=5)[5] for line in lines if "/libtiff" in line}
    return {str(path) for path in Path(Image.__file__).parent.glob(".dylibs/libtiff*")}


def _load(image: Image.Image, name: str) -> None:
    """Decode all pixels; ValueError for a damaged file, whatever its decoder raises."""
    _hush()
    try:
        image.load()
    except Exception as error:  # of many kinds, AssertionError and MemoryError among them
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
    _tell_pages(image, name)
    turned = size is None or _turned_size(image) == size or image.size != size
    try:
        array = _to_rgb(image, _orientation(image) if turned else 1, bits)
    except Exception as error:  # a palette or profile that does not fit the pixels
        raise _damaged(name, error) from None
    return _require_size(array, size, name)


_told: set[str] = set()
MOST_TOLD = 20
"""Files of several pages that are named in the log; the others would drown what else is there."""


def _frames(image: Image.Image) -> int:
    """How many pages or frames; 1 where the later ones are damaged, as they are never read."""
    try:
        return int(getattr(image, "n_frames", 1))
    except Exception:  # of many kinds
        return 1


def _is_animated(image: Image.Image) -> bool:
    try:
        return bool(getattr(image, "is_animated", False))
    except Exception:  # of many kinds, where what follows the first frame is damaged
        return False


def _tell_pages(image: Image.Image, name: str) -> None:
    """Log that there is more than is used; the further images of a phone's JPEG are no pages."""
    if image.format == "MPO" or name in _told or not _is_animated(image):
        return
    if len(_told) < MOST_TOLD:
        log.warning("%s has several pages or frames; the first is used", name)
        _told.add(name)
        if len(_told) == MOST_TOLD:
            log.warning("further images of several pages are not named; their first is used")


def _orientation(image: Image.Image) -> int:
    """1 (upright) where the EXIF block is absent or broken."""
    _hush()
    try:
        return int(image.getexif().get(_ORIENTATION_TAG, 1))
    except Exception:  # of many kinds, as of decoders
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
    """Neighbouring rows of about ``STRIP`` pixels, from the top to the bottom."""
    count = max(1, STRIP // width)
    for first in range(0, height, count):
        yield slice(first, min(first + count, height))


def _strips(image: Image.Image) -> Iterator[np.ndarray]:
    """The values of an image, some rows at a time."""
    for rows in _rows(image.height, image.width):
        yield np.asarray(image.crop((0, rows.start, image.width, rows.stop)))


def _to_rgb(image: Image.Image, orientation: int, bits: int | None) -> np.ndarray:
    """The turned image, some rows at a time: all at once would take several times the memory."""
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
    """What makes RGB [rows, width, 3] of a part of the image; grey stays [rows, width, 1]."""
    if image.mode.startswith("I") or image.mode == "F":
        top = _top(image, bits)
        return lambda strip: _scaled(np.asarray(strip), top)[:, :, None]
    if image.has_transparency_data:
        return lambda strip: _over_white(np.asarray(strip.convert("RGBA")))
    if image.mode == "RGB":
        return np.asarray
    return lambda strip: np.asarray(strip.convert("RGB"))


def _top(image: Image.Image, bits: int | None) -> float:
    """The value that is white, of one channel of 16 or 32 bits: from its type and range."""
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
    """Bytes of values from 0 to ``top``; what is not finite is black."""
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
    """What makes bytes of a part of the array."""
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
    raise ValueError(
        "an array should be uint8, uint16, or floats from 0 to 1; "
        f"got {array.dtype} from {lowest:g} to {highest:g}"
    )
