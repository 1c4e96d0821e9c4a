"""Reads the heads of many image files in parallel: sizes and damage.

A truncated file is recognised by its end without decoding; if the end is unusual, the file is
decoded to be sure. Results are cached between runs (see ``cache``).
"""

from __future__ import annotations

import json
import os
import struct
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import astuple
from typing import TypeVar

from dabdetr.data.cache import cached
from dabdetr.data.images import Head, image_head, read_image, used_bits
from dabdetr.steps import tracked

KIND, BITS = "heads-2", "bits-1"
AT_ONCE = 8
FEW = 64  # below this number, files are read without threads
LAST = 1 << 16  # last bytes of a JPEG in which the end marker is searched

Seen = TypeVar("Seen")


def read_heads(paths: Sequence[str], progress: bool = False) -> list[Head]:
    """The head of each file; damage is reported in ``error``, not raised.

    ``progress`` shows a bar on stderr if that is a terminal and there are at least ``FEW`` files.
    """
    contents = cached(KIND, paths, lambda unknown: each_file(_head, unknown, progress))
    found = map(json.loads, contents)
    return [Head(tuple(size), tuple(stored), *rest) for size, stored, *rest in found]


def deep_bits(paths: Sequence[str], progress: bool = False) -> int | None:
    """Number of bits that 16-bit images of one camera use: the largest of all; None if unknown.

    Decodes the images.
    """
    contents = cached(BITS, paths, lambda unknown: each_file(_bits, unknown, progress))
    return max(filter(None, map(json.loads, contents)), default=None)


def _bits(path: str) -> bytes:
    """The bits in use, as JSON; null if the file cannot be read."""
    bits = None
    with suppress(ValueError, OSError):
        bits = used_bits(path)
    return json.dumps(bits).encode()


def each_file(see: Callable[[str], Seen], paths: Sequence[str], progress: bool) -> list[Seen]:
    """``see(path)`` for each path, in threads; ``progress`` shows a bar if stderr is a terminal."""
    if len(paths) < FEW:
        return [see(path) for path in paths]
    with ThreadPoolExecutor(AT_ONCE) as pool:
        return list(tracked(pool.map(see, paths), "images", len(paths), shown=progress))


def _head(path: str) -> bytes:
    """The fields of a ``Head``, as JSON."""
    try:
        head = image_head(path)
        if not _ends_well(path, head.format):
            read_image(path, head.size)
    except (ValueError, OSError) as error:
        head = Head(error=str(error))
    return json.dumps(astuple(head)).encode()


def _ends_well(path: str, format: str) -> bool:
    """Whether a file has the end that its format requires; False for other formats."""
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
