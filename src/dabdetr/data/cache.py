"""Results computed from files, cached between runs by path, size and time; lost ones are remade."""

from __future__ import annotations

import os
import sqlite3
from collections.abc import Callable, Iterable, Sequence
from contextlib import closing, suppress
from pathlib import Path

CACHE = "DABDETR_CACHE"
"""Environment variable with the cache folder; ``~/.cache/dabdetr`` if not set."""
_FAILURES = (sqlite3.Error, OSError, RuntimeError)  # without a usable cache nothing is cached

Key = tuple[str, int, int]


def cache_folder() -> Path:
    """The folder of the cache; everything in it can be made again."""
    home = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(os.environ.get(CACHE) or Path(home) / "dabdetr")


def _file_key(path: str) -> Key:
    """Absolute path, size in bytes and modification time of a file.

    Size and time are 0 if the file does not exist, or if its name is not valid Unicode, which
    SQLite refuses.
    """
    try:
        path.encode()
        state = os.stat(path)
    except (OSError, ValueError):
        return os.path.abspath(path), 0, 0
    return os.path.abspath(path), state.st_size, state.st_mtime_ns


def _recall(kind: str, keys: Iterable[Key]) -> dict[Key, bytes]:
    """The cached contents of ``kind`` for files that have not changed since."""
    requested = {key[0]: key for key in keys if key[1]}
    found: dict[Key, bytes] = {}
    with suppress(*_FAILURES), closing(_database(kind)) as database:
        paths = list(requested)
        for start in range(0, len(paths), 500):
            chunk = paths[start : start + 500]
            marks = ",".join("?" * len(chunk))
            query = f"SELECT path, size, time, content FROM files WHERE path IN ({marks})"
            for path, size, time, content in database.execute(query, chunk):
                if requested[path] == (path, size, time):
                    found[path, size, time] = content
    return found


def cached(
    kind: str, paths: Sequence[str], make: Callable[[Sequence[str]], Sequence[bytes]]
) -> list[bytes]:
    """The content of ``kind`` for each path; ``make`` returns those that are not cached."""
    keys = [_file_key(path) for path in paths]
    known = _recall(kind, keys)
    unknown = {key: path for key, path in zip(keys, paths, strict=True) if key not in known}
    fresh = dict(zip(unknown, make([*unknown.values()]), strict=True))
    if rows := [(*key, content) for key, content in fresh.items() if key[1]]:
        with suppress(*_FAILURES), closing(_database(kind)) as database:
            database.executemany("INSERT OR REPLACE INTO files VALUES (?, ?, ?, ?)", rows)
            database.commit()
    known |= fresh
    return [known[key] for key in keys]


def _database(kind: str) -> sqlite3.Connection:
    folder = cache_folder()
    folder.mkdir(parents=True, exist_ok=True)
    database = sqlite3.connect(folder / f"{kind}.sqlite", timeout=5)
    database.execute(
        "CREATE TABLE IF NOT EXISTS files (path TEXT PRIMARY KEY, size INT, time INT, content BLOB)"
    )
    return database
