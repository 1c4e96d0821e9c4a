"""Files are written whole or not at all, and only regular ones are read."""

from __future__ import annotations

import errno
import io
import os
import shutil
import stat
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO, TypeVar

from dabdetr.text import printable, shown

if TYPE_CHECKING:
    from typing_extensions import Buffer

T = TypeVar("T")

FORMATS = ("JPEG", "PNG", "BMP", "DIB", "GIF", "TIFF", "WEBP", "AVIF", "JPEG2000", "PPM")
"""What is decoded, by content and whatever the ending, in Pillow's names; TGA, which has no mark,
by its ending; HEIF where pillow-heif is there. Pillow knows more, some of which start other
programs."""


def write_atomically(path: str | Path, content: bytes) -> None:
    """Write beside ``path`` and move: a reader sees the old file or the whole new one.

    An OSError says in a sentence that ``path`` cannot be written.
    """
    with replacing(path) as beside:
        beside.write_bytes(content)


@contextmanager
def replacing(path: str | Path) -> Iterator[Path]:
    """A file beside ``path`` to write into, ``.NAME.…``, which then becomes ``path``.

    It is on the disk (fsync) before it is moved, and gone after an error. An OSError says in a
    sentence that ``path`` cannot be written.
    """
    path = Path(path)
    try:
        handle, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
        os.close(handle)
        try:
            yield Path(name)
            with open(name, "rb+") as file:
                os.fsync(file.fileno())
            umask = os.umask(0)
            os.umask(umask)
            os.chmod(name, 0o666 & ~umask)
            os.replace(name, path)
        except BaseException:
            Path(name).unlink(missing_ok=True)
            raise
    except OSError as error:
        raise unwritable(path, error) from None
    sync_folder(path.parent)


@contextmanager
def new_folder(path: Path) -> Iterator[Path]:
    """A hidden folder beside ``path`` to write into, which then becomes ``path``.

    It is gone after an error. FileExistsError where there is something at ``path`` already.
    """
    check_place(path)
    if path.exists():
        raise FileExistsError(f"{path} exists and is not overwritten; choose another name")
    if not path.parent.is_dir():
        raise FileNotFoundError(f"there is no folder {path.parent} to write {path.name} in")
    try:
        temporary = Path(tempfile.mkdtemp(dir=path.parent, prefix=f".{path.name}-"))
    except OSError as error:
        raise unwritable(path, error) from None
    try:
        yield temporary
        umask = os.umask(0)
        os.umask(umask)
        temporary.chmod(0o777 & ~umask)
        temporary.rename(path)
    except BaseException:
        shutil.rmtree(temporary, ignore_errors=True)
        raise
    sync_folder(path.parent)


def unwritable(path: str | Path, error: OSError) -> OSError:
    """The error in words for the one who gave ``path``, not of what is written beside it."""
    reason = (error.strerror or str(error)).lower()
    return type(error)(f"{path} cannot be written ({reason}); choose another place")


def open_regular(path: str | Path) -> BinaryIO:
    """A file opened to be read; ValueError for a pipe, a socket or a device, which may never end.

    Folders and files that are absent raise as ``open`` does. Symbolic links are followed.
    """
    # Opening a pipe that nobody writes to would wait for ever.
    handle = os.open(path, os.O_RDONLY | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_BINARY", 0))
    mode = os.fstat(handle).st_mode
    if stat.S_ISREG(mode):
        return io.BufferedReader(RegularFile(handle, path))
    os.close(handle)
    if stat.S_ISDIR(mode):
        raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR), str(path))
    raise ValueError(f"{path} is no regular file but a pipe, socket or device; give a file")


class RegularFile(io.FileIO):
    """A file that ends: one of the kernel's, such as /proc/kmsg, may wait for more instead."""

    def __init__(self, handle: int, path: str | Path) -> None:
        super().__init__(handle, "rb")
        self.path = path

    def readinto(self, buffer: Buffer) -> int:
        return self._there(super().readinto(buffer))

    def readall(self) -> bytes:
        return self._there(super().readall())

    def _there(self, read: T | None) -> T:
        if read is None:
            raise ValueError(f"{self.path} has no end yet; give a finished file")
        return read


def read_regular(path: str | Path) -> bytes:
    """The content of a regular file (see ``open_regular``)."""
    with open_regular(path) as file:
        return file.read()


def sync_folder(folder: Path) -> None:
    """Have the names in a folder on the disk; where a system cannot do that, nothing happens."""
    with suppress(OSError):
        handle = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)


UNPORTABLE = ':*?"<>|'
"""Characters of names that Windows and some archives do not take."""
MOST_NAME = 200
"""Bytes of a name that is made from another; systems take 255, of which numbers and endings are."""


def plain_name(text: str, without: str = "") -> str:
    """``text`` as part of the name of a file: no separators, nothing that is not printable.

    These characters and those in ``without`` become ``_``; a text that is too long is cut.
    """
    odd = f"/\\{without}"
    name = "".join("_" if c in odd or not c.isprintable() else c for c in text)
    return name.encode()[:MOST_NAME].decode(errors="ignore")


def check_folder_name(
    name: str, what: str = "--name", remedy: str = "use --project for folders"
) -> None:
    """Raise where ``name`` is no folder's, or leads out of the folder that it is to be in."""
    if Path(name).name != name or name == ".." or printable(name) != name or not name.strip():
        raise ValueError(f"{what} should be one folder name; got {shown(name)}; {remedy}")
    if len(name.encode()) > MOST_NAME:
        raise ValueError(f"{what} is longer than {MOST_NAME} bytes: {shown(name)}; shorten it")


def check_place(path: str | Path) -> None:
    """Raise where a path to write to has characters that would reach a terminal."""
    if printable(str(path)) != str(path):
        raise ValueError(
            f"control characters cannot be part of a name to write: {shown(str(path))}; "
            "choose another name"
        )


def check_writable(folder: Path) -> None:
    """OSError where ``folder`` cannot be made or written in; asked before any work is done."""
    folder = folder.absolute()
    nearest = next(each for each in (folder, *folder.parents) if each.exists())
    if not nearest.is_dir():
        raise unwritable(folder, OSError(errno.ENOTDIR, os.strerror(errno.ENOTDIR)))
    effective = os.access in os.supports_effective_ids
    if not os.access(nearest, os.W_OK | os.X_OK, effective_ids=effective):
        raise unwritable(folder, OSError(errno.EACCES, os.strerror(errno.EACCES)))
