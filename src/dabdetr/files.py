"""Atomic writing of files and folders, reading of regular files only, and checks of names."""

from __future__ import annotations

import csv
import errno
import io
import os
import secrets
import shutil
import stat
import tempfile
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO, TypeVar

from dabdetr.text import cells, printable, reason, shown

if TYPE_CHECKING:
    from typing_extensions import Buffer

T = TypeVar("T")

FORMATS = ("JPEG", "PNG", "BMP", "DIB", "GIF", "TIFF", "WEBP", "AVIF", "JPEG2000", "PPM")
"""Image formats that are decoded, in Pillow's names, recognised by content whatever the ending.

TGA has no signature and is recognised by its ending; HEIF needs pillow-heif. Pillow's other formats
are left out: some of them start other programs.
"""


def write_atomically(path: str | Path, content: bytes) -> None:
    """Write a temporary file next to ``path`` and rename it: readers see the old or the new file.

    OSError with a full sentence where ``path`` cannot be written.
    """
    with replacing(path) as temporary:
        temporary.write_bytes(content)


def csv_text(rows: Iterable[Iterable[Any]]) -> str:
    """Rows as CSV; texts are made safe for terminals and spreadsheets."""
    text = io.StringIO()
    csv.writer(text, lineterminator="\n").writerows(map(cells, rows))
    return text.getvalue()


def write_csv(path: str | Path, rows: Iterable[Iterable[Any]]) -> None:
    """Write rows as CSV, atomically."""
    write_atomically(path, csv_text(rows).encode())


@contextmanager
def replacing(path: str | Path) -> Iterator[Path]:
    """A temporary file ``.NAME.…`` next to ``path`` to write into; it is then renamed to ``path``.

    It is flushed to the disk (fsync) before it is renamed, and removed after an error. OSError with
    a full sentence where ``path`` cannot be written.
    """
    path = Path(path)
    # named before it is made, so that an interrupt at any moment finds it
    temporary = path.with_name(f".{path.name}.{secrets.token_hex(4)}")
    try:
        try:
            os.close(os.open(temporary, os.O_CREAT | os.O_EXCL | os.O_RDWR, 0o600))
            yield temporary
            with open(temporary, "rb+") as file:
                os.fsync(file.fileno())
            set_default_mode(temporary, 0o666)
            os.replace(temporary, path)
        except BaseException:
            temporary.unlink(missing_ok=True)
            raise
    except OSError as error:
        raise unwritable(path, error) from None
    sync_folder(path.parent)


@contextmanager
def new_folder(path: Path) -> Iterator[Path]:
    """A hidden folder next to ``path`` to write into; it is then renamed to ``path``.

    It is removed after an error. FileExistsError where ``path`` exists already.
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
        set_default_mode(temporary, 0o777)
        temporary.rename(path)
    except BaseException:
        shutil.rmtree(temporary, ignore_errors=True)
        raise
    sync_folder(path.parent)


def set_default_mode(path: str | Path, mode: int) -> None:
    """Set the permissions that a file or folder made with ``mode`` has under the umask.

    Temporary files and folders are made readable for their owner only.
    """
    umask = os.umask(0)  # there is no way to read the umask without setting it
    os.umask(umask)
    os.chmod(path, mode & ~umask)


def unwritable(path: str | Path, error: OSError) -> OSError:
    """An error of the same type that names ``path``, which the user gave, not a temporary file."""
    return type(error)(f"{path} cannot be written ({reason(error)}); choose another place")


def open_regular(path: str | Path) -> BinaryIO:
    """A file opened for reading; ValueError for a pipe, a socket or a device, which may never end.

    Folders and missing files raise as ``open`` does. Symbolic links are followed.
    """
    # Opening a pipe without a writer would block for ever.
    handle = os.open(path, os.O_RDONLY | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_BINARY", 0))
    mode = os.fstat(handle).st_mode
    if stat.S_ISREG(mode):
        return io.BufferedReader(RegularFile(handle, path))
    os.close(handle)
    if stat.S_ISDIR(mode):
        raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR), str(path))
    raise ValueError(f"{path} is no regular file but a pipe, socket or device; give a file")


class RegularFile(io.FileIO):
    """A file whose reads raise ValueError where they would block, as for /proc/kmsg."""

    def __init__(self, handle: int, path: str | Path) -> None:
        super().__init__(handle, "rb")
        self.path = path

    def readinto(self, buffer: Buffer) -> int:
        return self._check_data(super().readinto(buffer))

    def readall(self) -> bytes:
        return self._check_data(super().readall())

    def _check_data(self, read: T | None) -> T:
        if read is None:
            raise ValueError(f"{self.path} has no end yet; give a finished file")
        return read


def read_regular(path: str | Path) -> bytes:
    """The content of a regular file (see ``open_regular``)."""
    with open_regular(path) as file:
        return file.read()


def refuse_pointer(head: bytes, name: str | Path) -> None:
    """ValueError where ``head`` begins the small file that Git LFS leaves in place of a large."""
    if head.startswith(b"version https://git-lfs"):
        raise ValueError(
            f"{name} is only Git LFS's pointer to the file; fetch the file with: git lfs pull"
        )


def sync_folder(folder: Path) -> None:
    """Flush a folder's entries to the disk (fsync), on systems that can."""
    with suppress(OSError):
        handle = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)


UNPORTABLE = ':*?"<>|'
"""Characters that Windows and some archives do not allow in file names."""
MOST_NAME = 200
"""Most bytes of a file name; systems allow 255, which leaves room for a number and an ending."""


MOST_PART = 255
"""Most bytes of one name that systems allow."""
MOST_PATH = 4000
"""Most bytes of a whole path that systems allow, about."""


def plain_name(text: str, without: str = "") -> str:
    """``text`` as part of a file name: path separators and unprintable characters become ``_``.

    So do the characters in ``without``. A name longer than ``MOST_NAME`` bytes is cut.
    """
    odd = f"/\\{without}"
    name = "".join("_" if c in odd or not c.isprintable() else c for c in text)
    return name.encode()[:MOST_NAME].decode(errors="ignore")


def check_folder_name(
    name: str, what: str = "--name", remedy: str = "use --project for folders"
) -> None:
    """ValueError where ``name`` is not a folder name, or leads out of its parent folder."""
    if Path(name).name != name or name == ".." or printable(name) != name or not name.strip():
        raise ValueError(f"{what} should be one folder name; got {shown(name)}; {remedy}")
    if len(name.encode()) > MOST_NAME:
        raise ValueError(f"{what} is longer than {MOST_NAME} bytes: {shown(name)}; shorten it")


def check_place(path: str | Path) -> None:
    """ValueError where an output path has control characters, for terminals, or is too long."""
    if printable(str(path)) != str(path):
        raise ValueError(
            f"control characters cannot be part of a name to write: {shown(str(path))}; "
            "choose another name"
        )
    long = next((part for part in Path(path).parts if len(part.encode()) > MOST_PART), None)
    if long is not None or len(str(path).encode()) > MOST_PATH:
        raise ValueError(
            f"a place to write may have {MOST_PATH} bytes and each name in it {MOST_PART}; got "
            f"{shown(long or str(path))}; shorten it"
        )


def check_writable(folder: Path) -> None:
    """OSError where ``folder`` cannot be created or written in; called before any work is done."""
    folder = folder.absolute()
    nearest = next(each for each in (folder, *folder.parents) if each.exists())
    if not nearest.is_dir():
        raise unwritable(folder, OSError(errno.ENOTDIR, os.strerror(errno.ENOTDIR)))
    effective = os.access in os.supports_effective_ids
    if not os.access(nearest, os.W_OK | os.X_OK, effective_ids=effective):
        raise unwritable(folder, OSError(errno.EACCES, os.strerror(errno.EACCES)))
