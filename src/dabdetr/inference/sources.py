"""Reading of images from paths, folders, patterns, addresses, videos, cameras and memory."""

from __future__ import annotations

import glob
import logging
import os
import re
import sys
from collections.abc import Iterable, Iterator
from importlib.util import find_spec
from io import IOBase
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from dabdetr.data.images import IMAGE_SUFFIXES, OTHER_SUFFIXES, needs_package, read_image
from dabdetr.inference.downloads import SCHEMES, Limits, fetch, without_password
from dabdetr.inference.stream import OnError, SourceImage, Unreadable, check_on_error, readable
from dabdetr.inference.video import STREAMS, VIDEO_SUFFIXES, Camera, frames, is_video, require_av
from dabdetr.text import counted

log = logging.getLogger("dabdetr")


def read_sources(
    source: Any,
    on_error: OnError = "raise",
    stride: int = 1,
    allow_private: bool = False,
    bits: int | None = None,
    bgr: bool = False,
) -> Iterator[SourceImage]:
    """The images of ``source``, each read when it is requested.

    A source is a path; a folder (its images and videos in the order of their names, 2 before 10,
    without subfolders; other files are skipped, and those that need a further package are logged);
    a pattern such as ``"day*/*.jpg"`` or ``"all/**/*.png"``; an http(s) address; a video (every
    ``stride``-th frame), or a camera by its number (0 is the first); a PIL image; the bytes of a
    file, an open file or an upload; "-" for standard input; an array as for ``read_image`` (RGB, or
    with ``bgr`` BGR as in OpenCV); a tensor [channels, height, width] of uint8 or floats 0–1; or a
    list, tuple or generator of these.

    The paths in a list are checked at once: a wrong one raises before any work. Addresses of this
    machine and of private networks are refused without ``allow_private``. ``bits`` is the number of
    bits that 16-bit images use (see ``read_image``).
    """
    check_on_error(on_error)
    return readable(attempts(expand(source), stride, allow_private, bits, bgr), on_error)


def attempts(
    items: Iterable[tuple[Any, str]],
    stride: int = 1,
    allow_private: bool = False,
    bits: int | None = None,
    bgr: bool = False,
) -> Iterator[SourceImage | Unreadable]:
    """The images of ``items``, which are made by ``expand``, and those of ``read_sources``.

    In the place of every image that cannot be read is an ``Unreadable``.
    """
    if stride < 1:
        raise ValueError(f"stride should be at least 1; got {stride}")
    if isinstance(items, list) and any(is_video(item) for item, _ in items):
        require_av()  # raises now if the package is missing
    return _read(items, stride, Limits(private=allow_private), bits, bgr)


def _read(
    items: Iterable[tuple[Any, str]], stride: int, limits: Limits, bits: int | None, bgr: bool
) -> Iterator[SourceImage | Unreadable]:
    for number, (item, name) in enumerate(items, start=1):
        if is_video(item):
            yield from frames(item, stride, limits)
            continue
        try:
            image = SourceImage(_array(item, limits, bits, bgr), name)
        except (ValueError, OSError) as error:
            label = name or f"image {number}"
            if not (name and name in str(error)):
                missing = isinstance(error, FileNotFoundError)
                error = (FileNotFoundError if missing else ValueError)(f"{label}: {error}")
            yield Unreadable(label, error)
            continue
        yield image
        del image  # it may be large and should not stay in memory until the next one is read


class Expanded(list[tuple[Any, str]]):
    """The result of ``expand``: single images and videos, not yet read, with their names."""


def expand(source: Any) -> Iterable[tuple[Any, str]]:
    """Single images and videos, not yet read: ``Expanded``, or an iterator for a generator."""
    if isinstance(source, Expanded):
        return source
    if isinstance(source, str) and source == "-":
        return Expanded([(_content(sys.stdin.buffer), "")])
    if isinstance(source, str | Path):
        return Expanded((path, _name(path)) for path in _paths(source))
    if isinstance(source, int) and not isinstance(source, bool) and source >= 0:
        return Expanded([(Camera(source), str(Camera(source)))])
    if isinstance(source, memoryview):  # of an array, or of a file's bytes
        return Expanded([(np.asarray(source) if source.ndim > 1 else bytes(source), "")])
    if isinstance(source, bytes | bytearray | Image.Image | np.ndarray) or _is_tensor(source):
        return Expanded([(source, "")])
    if isinstance(source, IOBase) or (hasattr(source, "read") and not hasattr(source, "__array__")):
        return Expanded([(_content(source), str(getattr(source, "name", "") or ""))])
    if isinstance(source, list | tuple):
        items = Expanded(item for part in source for item in expand(part))
        if not items:
            raise ValueError("an empty list was given; give at least one image")
        return items
    if isinstance(source, Iterable) and not isinstance(source, dict):
        return (item for part in source for item in expand(part))
    raise ValueError(
        "an image is expected as a path, folder, pattern, address, camera's number, PIL image, "
        f"array, tensor, bytes or open file, or a list of these; got {type(source).__name__}"
    )


def is_single(items: Iterable[tuple[Any, str]]) -> bool:
    """Whether ``items``, made by ``expand``, are one image."""
    return isinstance(items, Expanded) and len(items) == 1 and not is_video(items[0][0])


def _name(path: str | Path | Camera) -> str:
    """The path itself, by which its image is found again; an address without user and password."""
    return str(path) if isinstance(path, Path) else without_password(str(path))


def _content(file: Any) -> bytes:
    """The rest of an open file or of an upload, whose attribute ``file`` is the open file."""
    content = getattr(file, "file", file).read()
    if not isinstance(content, bytes | bytearray):
        raise ValueError("an open file is expected in binary mode; open it with 'rb'")
    return bytes(content)


def _paths(source: str | Path) -> list[str | Path | Camera]:
    text = str(source)
    if text.startswith((*SCHEMES, *STREAMS)):
        return [text]
    if "://" in text:
        raise ValueError(
            f"{without_password(text)} is an address of an unknown kind; give one that begins with "
            f"{', '.join((*SCHEMES, *STREAMS))}, or download the file and give its path"
        )
    path = Path(source)
    if text.isdecimal() and not path.exists():
        return [Camera(text)]
    if path.is_dir():
        found = _images_in(path)
        if not found:
            below = _in_subfolders(path)
            hint = f"; its folders have: give {below[0].parent} or '{path}/**/*'" if below else ""
            raise ValueError(f"the folder {path} has no images or videos directly in it{hint}")
        return [*found]
    if path.exists():
        return [path]
    if glob.has_magic(text):
        base = next(parent for parent in path.parents if parent.exists())  # perhaps with brackets
        pattern = str(path.relative_to(base))
        matches = [base / each for each in glob.glob(pattern, root_dir=base, recursive=True)]
        suffixes = IMAGE_SUFFIXES | VIDEO_SUFFIXES
        found = [match for match in sorted(matches, key=_counting) if _is_visible(match, suffixes)]
        if not found:
            raise FileNotFoundError(
                f"no image or video matches the pattern {without_password(text)}; check the folder "
                "and the ending"
            )
        return [*found]
    raise FileNotFoundError(f"there is no file or folder {without_password(text)}; check the path")


def _images_in(folder: Path) -> list[Path]:
    """The images and videos directly in a folder; what is left out is logged."""
    suffixes = IMAGE_SUFFIXES | VIDEO_SUFFIXES
    children = sorted(folder.iterdir(), key=_counting)
    found = [child for child in children if _is_visible(child, suffixes)]
    videos = [path for path in found if is_video(path)]
    images = [path for path in found if not is_video(path)]
    for kind, package, lacking in (
        ("HEIC image", "pillow-heif", [path for path in images if needs_package(path)]),
        ("video", "av", [] if find_spec("av") else videos),
    ):
        if lacking and len(lacking) < len(found):
            log.warning(
                "%s: left out %s (%s), which need a package: pip install %s",
                *(folder, counted(len(lacking), kind), _first(lacking), package),
            )
            found = [path for path in found if path not in lacking]
    others = [child for child in children if _is_visible(child, OTHER_SUFFIXES)]
    if others and found:
        log.warning(
            "%s: left out %s (%s) in formats that are not decoded; convert to PNG or JPEG",
            *(folder, counted(len(others), "image"), _first(others)),
        )
    below = _in_subfolders(folder) if found else []
    if below:
        log.warning(
            "%s: %s in its folders left out (%s); '%s/**/*' reads them",
            *(folder, counted(len(below), "image or video", "images and videos")),
            *(below[0].relative_to(folder), folder),
        )
    return found


def _counting(path: Path) -> list[list[str | int]]:
    """The order in which people count: frame 2 before frame 10."""
    pieces = (re.split(r"(\d+)", part) for part in path.parts)
    return [[int(each) if each.isdecimal() else each for each in piece] for piece in pieces]


def _in_subfolders(folder: Path) -> list[Path]:
    """The images and videos in the subfolders of a folder that are not hidden."""
    suffixes = IMAGE_SUFFIXES | VIDEO_SUFFIXES
    found: list[Path] = []
    for parent, folders, files in os.walk(folder):
        folders[:] = sorted(each for each in folders if not each.startswith("."))
        if Path(parent) != folder:
            paths = (Path(parent, name) for name in sorted(files))
            found += [path for path in paths if _is_visible(path, suffixes)]
    return found


def _first(paths: list[Path]) -> str:
    return ", ".join(path.name for path in paths[:3]) + ", …" * (len(paths) > 3)


def _is_visible(path: Path, suffixes: frozenset[str]) -> bool:
    """Whether to read a path; links that lead nowhere are read as well, and so reported."""
    hidden = path.name.startswith(".")
    return path.suffix.lower() in suffixes and not hidden and not path.is_dir()


def _array(item: Any, limits: Limits, bits: int | None, bgr: bool) -> np.ndarray:
    if bgr and isinstance(item, np.ndarray) and item.ndim == 3 and item.shape[2] in (3, 4):
        item = item[:, :, [2, 1, 0, 3][: item.shape[2]]]
    if isinstance(item, str) and item.startswith(SCHEMES):
        return read_image(fetch(item, limits), bits=bits)
    if _is_tensor(item):
        return read_image(_tensor_array(item))
    return read_image(item, bits=bits)


def _is_tensor(item: Any) -> bool:
    """Whether ``item`` is a torch tensor, found out without importing torch."""
    return hasattr(item, "detach") and hasattr(item, "permute")


def _tensor_array(tensor: Any) -> np.ndarray:
    if tensor.ndim != 3 or tensor.shape[0] not in (1, 3, 4):
        raise ValueError(
            "a tensor should be [1, 3 or 4 channels, height, width]; got "
            f"{list(tensor.shape)}; give a batch as list(tensor)"
        )
    tensor = tensor.detach().cpu()
    if tensor.is_floating_point():
        tensor = tensor.float()
    return tensor.permute(1, 2, 0).numpy()
