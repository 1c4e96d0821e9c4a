"""The heads of many image files: sizes and damage, in parallel, remembered between runs.

A file that is cut short is known by its end, without decoding it; where the end is odd, the file is
decoded to be sure. What was seen is kept (see ``cache``).
"""

from __future__ import annotations

import json
import os
import struct
import sys
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import astuple, dataclass
from typing import TypeVar

from dabdetr.data.cache import file_key, keep, recall
from dabdetr.data.images import image_head, read_image, used_bits

KIND, BITS = "heads-1", "bits-1"
AT_ONCE = 8
FEW = 64  # files that are read without threads
LAST = 1 << 16  # bytes of a JPEG among which its end is sought

Seen = TypeVar("Seen")


@dataclass(frozen=True)
class ImageFile:
    """What is known of a file without decoding it: see ``images.Head``.

    error  why it cannot be read, "" where it can
    """

    width: int = 0
    height: int = 0
    stored_width: int = 0
    stored_height: int = 0
    deep: bool = False
    frames: int = 1
    error: str = ""


def read_heads(paths: Sequence[str], progress: bool = False) -> list[ImageFile]:
    """Of each file what its head says; damage is in ``error``, nothing is raised.

    ``progress`` shows a bar on stderr where that is a terminal and it takes longer than a moment.
    """
    keys = [file_key(path) for path in paths]
    known = {key: ImageFile(*json.loads(content)) for key, content in recall(KIND, keys).items()}
    unknown = [index for index, key in enumerate(keys) if key not in known]
    made = each_file(_head, [paths[index] for index in unknown], progress)
    fresh = {keys[index]: head for index, head in zip(unknown, made, strict=True)}
    keep(KIND, {key: json.dumps(astuple(head)).encode() for key, head in fresh.items()})
    return [known[key] if key in known else fresh[key] for key in keys]


def deep_bits(paths: Sequence[str], progress: bool = False) -> int | None:
    """How many of 16 bits images of one camera use: the most that any does; None: not told.

    The images are decoded.
    """
    keys = [file_key(path) for path in paths]
    known = {key: json.loads(content) for key, content in recall(BITS, keys).items()}
    unknown = [index for index, key in enumerate(keys) if key not in known]
    made = each_file(_bits, [paths[index] for index in unknown], progress)
    fresh = {keys[index]: bits for index, bits in zip(unknown, made, strict=True)}
    keep(BITS, {key: json.dumps(bits).encode() for key, bits in fresh.items()})
    return max((bits for bits in [*known.values(), *fresh.values()] if bits), default=None)


def _bits(path: str) -> int | None:
    try:
        return used_bits(path)
    except (ValueError, OSError):
        return None


def each_file(see: Callable[[str], Seen], paths: Sequence[str], progress: bool) -> list[Seen]:
    """What ``see`` gives of each path, several at once; a bar on stderr where it is a terminal."""
    if len(paths) < FEW:
        return [see(path) for path in paths]
    with ThreadPoolExecutor(AT_ONCE) as pool:
        found = pool.map(see, paths)
        if not (progress and sys.stderr.isatty()):
            return list(found)
        from rich.console import Console
        from rich.progress import track

        console = Console(stderr=True)
        return list(track(found, "images", len(paths), console=console, transient=True))


def _head(path: str) -> ImageFile:
    try:
        head = image_head(path)
        if not _ends_well(path, head.format):
            read_image(path)
    except (ValueError, OSError) as error:
        return ImageFile(error=str(error))
    return ImageFile(*head.size, *head.stored, head.deep, head.frames)


def _ends_well(path: str, format: str) -> bool:
    """Whether a file has the end that its format asks for; False where nothing is known of it."""
    with open(path, "rb") as file:
        size = file.seek(0, os.SEEK_END)
        if format in ("JPEG", "MPO"):
            file.seek(max(0, size - LAST))
            return b"\xff\xd9" in file.read()
        if format == "PNG":
            file.seek(max(0, size - 64))
            return b"IEND\xaeB`\x82" in file.read()
        if format == "GIF":
            file.seek(max(0, size - 1))
            return file.read() == b";"
        file.seek(0)
        head = file.read(26)
        if format == "WEBP":
            return size >= struct.unpack_from("<I", head, 4)[0] + 8
        if format == "BMP":
            return 0 < struct.unpack_from("<I", head, 2)[0] <= size
    return False
