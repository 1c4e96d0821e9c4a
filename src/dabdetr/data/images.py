"""Any image, from a file, bytes or memory, as RGB bytes the way a person would see it."""

from __future__ import annotations

import io
import struct
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO

import numpy as np
from PIL import Image

IMAGE_SUFFIXES = frozenset(
    {".jpg", ".jpeg", ".png", ".bmp", ".gif", ".tif", ".tiff", ".webp", ".ppm", ".pgm", ".jp2"}
)
"""Lower-case endings that a folder of images is searched for."""

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
# Everything that Pillow's decoders are known to raise on broken files.
_DECODING = (OSError, SyntaxError, ValueError, EOFError, IndexError, KeyError, struct.error)


def read_image(
    source: str | Path | bytes | Image.Image | np.ndarray, size: tuple[int, int] | None = None
) -> np.ndarray:
    """RGB uint8 [height, width, 3], turned as its EXIF says; transparency laid over white.

    16-bit values are scaled, never clipped. An array is [height, width] or [height, width, 1, 3
    or 4] of uint8, uint16 or floats 0–1. ``size`` is the (width, height) for which boxes were
    drawn: an image that only has it before turning stays unturned, any other size is an error.
    ValueError or FileNotFoundError name the file.
    """
    if isinstance(source, np.ndarray):
        image = _from_array(source)
        return _require_size(image, size, "the array given")
    if isinstance(source, Image.Image):
        return _require_size(_decode(source, "the image given", size), size, "the image given")
    if isinstance(source, bytes | bytearray | memoryview):
        content, name = bytes(source), "the bytes given"
    elif isinstance(source, str | Path):
        content, name = _content(Path(source)), str(source)
    else:
        raise ValueError(
            "an image is expected as a path, bytes, a PIL image or a numpy array; "
            f"got {type(source).__name__}"
        )
    if not content:
        raise ValueError(f"{name} is empty (0 bytes); replace or remove it")
    decoded = _open(io.BytesIO(content), name)
    return _require_size(_decode(decoded, name, size), size, name)


def image_size(path: str | Path) -> tuple[int, int]:
    """(width, height) once turned as EXIF says, read from the file's head alone."""
    with _readable(Path(path)) as stream, _strict():
        return _turned_size(_open(stream, str(path)))


@contextmanager
def _readable(path: Path) -> Iterator[BinaryIO]:
    try:
        with path.open("rb") as stream:
            yield stream
    except FileNotFoundError:
        raise FileNotFoundError(f"there is no image {path}; check the path") from None
    except IsADirectoryError:
        raise ValueError(f"{path} is a folder; an image file is expected") from None
    except OSError as error:
        raise ValueError(f"{path} cannot be read: {error.strerror}; check it") from None


def _content(path: Path) -> bytes:
    with _readable(path) as stream:
        return stream.read()


def _open(content: BinaryIO, name: str) -> Image.Image:
    try:
        with _strict():
            return Image.open(content)
    except (Image.DecompressionBombError, Image.DecompressionBombWarning):
        raise ValueError(
            f"{name} has more than {Image.MAX_IMAGE_PIXELS} pixels, which may be a decompression "
            "bomb; make it smaller, or raise PIL.Image.MAX_IMAGE_PIXELS if you trust it"
        ) from None
    except _DECODING:
        raise ValueError(
            f"{name} is not an image that can be read (not an image, or its head is broken); "
            "replace or remove it"
        ) from None


def _decode(image: Image.Image, name: str, size: tuple[int, int] | None) -> np.ndarray:
    try:
        with _strict():
            image.load()
            if size is None or _turned_size(image) == size or image.size != size:
                turn = _TURNS.get(_orientation(image))
                image = image if turn is None else image.transpose(turn)
            return _to_rgb(image)
    except _DECODING as error:
        raise ValueError(
            f"{name} is damaged or cut short and cannot be decoded ({error}); replace or remove it"
        ) from None


@contextmanager
def _strict() -> Iterator[None]:
    """Bombs are errors; what else Pillow warns of (odd metadata, mostly) harms no pixel."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        warnings.simplefilter("error", Image.DecompressionBombWarning)
        yield


def _orientation(image: Image.Image) -> int:
    """1 (upright) where the EXIF block is absent or broken."""
    try:
        return int(image.getexif().get(_ORIENTATION_TAG, 1))
    except (*_DECODING, TypeError):
        return 1


def _turned_size(image: Image.Image) -> tuple[int, int]:
    width, height = image.size
    return (height, width) if _orientation(image) >= 5 else (width, height)


def _require_size(image: np.ndarray, size: tuple[int, int] | None, name: str) -> np.ndarray:
    height, width = image.shape[:2]
    if size is not None and (width, height) != size:
        raise ValueError(
            f"{name} is {width}x{height} pixels, but its annotations were made for "
            f"{size[0]}x{size[1]}; put the right image there, or correct the json"
        )
    return image


def _to_rgb(image: Image.Image) -> np.ndarray:
    if image.mode == "RGB" and not image.has_transparency_data:
        return np.array(image)
    if image.mode.startswith("I") or image.mode == "F":
        return _grey_to_rgb(_to_bytes(np.array(image)))
    if image.has_transparency_data:
        return _over_white(np.array(image.convert("RGBA")))
    return np.array(image.convert("RGB"))


def _to_bytes(values: np.ndarray) -> np.ndarray:
    """8 bits from one channel of 16 or 32 bits; the scale follows from the type and range."""
    if values.dtype.kind == "u" and values.dtype.itemsize == 2:  # of either byte order
        return _scaled(values, 65535)
    whole = np.issubdtype(values.dtype, np.integer)
    values = np.nan_to_num(values.astype(np.float64), posinf=0, neginf=0)
    highest = values.max(initial=0)
    scales = (65535, 2**31 - 1, 2**32 - 1) if whole else (1, 255, 65535, 2**31 - 1)
    return _scaled(values, next((s for s in scales if highest <= s), highest))


def _scaled(values: np.ndarray, top: float) -> np.ndarray:
    return (values.astype(np.float32).clip(0, top) * (255 / top) + 0.5).astype(np.uint8)


def _grey_to_rgb(grey: np.ndarray) -> np.ndarray:
    return np.repeat(grey[:, :, None], 3, axis=2)


def _over_white(rgba: np.ndarray) -> np.ndarray:
    alpha = rgba[:, :, 3:].astype(np.float32) / 255
    return (rgba[:, :, :3] * alpha + 255 * (1 - alpha) + 0.5).astype(np.uint8)


def _from_array(array: np.ndarray) -> np.ndarray:
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
    array = _array_bytes(array)
    if array.shape[2] == 1:
        return _grey_to_rgb(array[:, :, 0])
    if array.shape[2] == 4:
        return _over_white(array)
    return np.ascontiguousarray(array)


def _array_bytes(array: np.ndarray) -> np.ndarray:
    if array.dtype == np.uint8:
        return array
    if array.dtype == np.bool_:
        return array.astype(np.uint8) * np.uint8(255)
    if array.dtype.kind == "u" and array.dtype.itemsize == 2:
        return _scaled(array, 65535)
    lowest, highest = float(array.min()), float(array.max())
    if np.issubdtype(array.dtype, np.floating) and lowest >= -1e-3 and highest <= 1 + 1e-3:
        return _scaled(array, 1)
    if np.issubdtype(array.dtype, np.integer) and lowest >= 0 and highest <= 255:
        return array.astype(np.uint8)
    raise ValueError(
        "an array should be uint8, uint16, or floats from 0 to 1; "
        f"got {array.dtype} from {lowest:g} to {highest:g}"
    )
