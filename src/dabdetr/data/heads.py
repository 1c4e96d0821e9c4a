"""The heads of many image files: sizes and damage, in parallel, remembered between runs.

A file that is cut short is known by its end, without decoding it; where the end is odd, the file is
decoded to be sure. What was seen is kept by path, size and time in ``CACHE``.
"""

from __future__ import annotations

import os
import sqlite3
import struct
import sys
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing, suppress
from dataclasses import dataclass
from pathlib import Path

from dabdetr.data.images import image_head, read_image

CACHE = "DABDETR_CACHE"
"""Environment variable: the folder for what is remembered; ``~/.cache/dabdetr`` if not set."""
VERSION = 1  # of the table
AT_ONCE = 8
FEW = 64  # files that are read without threads
LAST = 1 << 16  # bytes of a JPEG among which its end is sought


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
    keys = [_key(path) for path in paths]
    known = _remembered(keys)
    unknown = [index for index, key in enumerate(keys) if key not in known]
    made = _read(([paths[index] for index in unknown]), progress)
    fresh = {keys[index]: head for index, head in zip(unknown, made, strict=True)}
    _remember(fresh)
    known |= fresh
    return [known[key] for key in keys]


Key = tuple[str, int, int]


def _key(path: str) -> Key:
    """Path, bytes and time of a file; zeros where there is none."""
    try:
        state = os.stat(path)
    except (OSError, ValueError):
        return os.path.abspath(path), 0, 0
    return os.path.abspath(path), state.st_size, state.st_mtime_ns


def _read(paths: Sequence[str], progress: bool) -> list[ImageFile]:
    if len(paths) < FEW:
        return [_head(path) for path in paths]
    with ThreadPoolExecutor(AT_ONCE) as pool:
        found = pool.map(_head, paths, chunksize=16)
        if not (progress and sys.stderr.isatty()):
            return list(found)
        from rich.console import Console
        from rich.progress import track

        bar = track(found, "images", len(paths), console=Console(stderr=True), transient=True)
        return list(bar)


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


def cache_folder() -> Path:
    """Where things are kept that can be made again."""
    home = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(os.environ.get(CACHE) or Path(home) / "dabdetr")


def _database() -> sqlite3.Connection:
    folder = cache_folder()
    folder.mkdir(parents=True, exist_ok=True)
    database = sqlite3.connect(folder / f"heads-{VERSION}.sqlite", timeout=5)
    database.execute(
        "CREATE TABLE IF NOT EXISTS heads (path TEXT PRIMARY KEY, size INT, time INT, width INT, "
        "height INT, stored_width INT, stored_height INT, deep INT, frames INT, error TEXT)"
    )
    return database


def _remembered(keys: Sequence[Key]) -> dict[Key, ImageFile]:
    """What is known already; nothing where the cache cannot be used."""
    known: dict[Key, ImageFile] = {}
    with suppress(sqlite3.Error, OSError, RuntimeError), closing(_database()) as database:
        for start in range(0, len(keys), 500):
            some = keys[start : start + 500]
            marks = ",".join("?" * len(some))
            rows = database.execute(
                f"SELECT * FROM heads WHERE path IN ({marks})", [key[0] for key in some]
            )
            for path, size, time, w, h, stored_w, stored_h, deep, frames, error in rows:
                head = ImageFile(w, h, stored_w, stored_h, bool(deep), frames, error)
                known[path, size, time] = head
    return {key: known[key] for key in keys if key in known and key[1]}


def _remember(heads: dict[Key, ImageFile]) -> None:
    """Keep what was read; a cache that cannot be written is none."""
    rows = [
        (*key, h.width, h.height, h.stored_width, h.stored_height, h.deep, h.frames, h.error)
        for key, h in heads.items()
        if key[1]
    ]
    if rows:
        with suppress(sqlite3.Error, OSError, RuntimeError), closing(_database()) as database:
            marks = ",".join("?" * 10)
            database.executemany(f"INSERT OR REPLACE INTO heads VALUES ({marks})", rows)
            database.commit()
