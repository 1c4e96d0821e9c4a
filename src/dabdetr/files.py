"""Files are written whole or not at all; where they cannot be, a sentence says so."""

from __future__ import annotations

import os
import tempfile
from pathlib import Path


def write_atomically(path: str | Path, content: bytes) -> None:
    """Write beside ``path`` and move: a reader sees the old file or the whole new one.

    An OSError says in a sentence that ``path`` cannot be written.
    """
    path = Path(path)
    try:
        _write_beside(path, content)
    except OSError as error:
        raise unwritable(path, error) from None


def unwritable(path: str | Path, error: OSError) -> OSError:
    """The error in words for the one who gave ``path``, not of what is written beside it."""
    reason = (error.strerror or str(error)).lower()
    return type(error)(f"{path} cannot be written ({reason}); choose another place")


def _write_beside(path: Path, content: bytes) -> None:
    handle, temporary = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    try:
        with os.fdopen(handle, "wb") as file:
            file.write(content)
        umask = os.umask(0)
        os.umask(umask)
        os.chmod(temporary, 0o666 & ~umask)
        os.replace(temporary, path)
    except BaseException:
        Path(temporary).unlink(missing_ok=True)
        raise


def check_folder_name(name: str) -> None:
    """Raise where a run's ``name`` would lead out of the folder that runs are kept in."""
    if Path(name).name != name or name == "..":
        raise ValueError(f"--name should be one folder name; got {name!r}; use --project too")
