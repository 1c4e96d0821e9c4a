"""Data sets in a zip: unpacked once into the cache, within limits on size and number of files."""

from __future__ import annotations

import errno
import hashlib
import os
import shutil
import stat
import tempfile
import zipfile
import zlib
from pathlib import Path

from dabdetr.data.cache import cache_folder
from dabdetr.files import plain_name
from dabdetr.text import counted, reason

MOST_FILES = 2_000_000
MOST_BYTES = 100 << 30
MOST_RATIO = 200
"""Largest ratio of unpacked to packed bytes of a whole zip; images are hardly compressible."""


def is_archive(path: Path) -> bool:
    """Whether a path is a zip that may hold a data set."""
    return path.suffix.lower() == ".zip" and path.is_file()


def unpacked(path: Path) -> Path:
    """The folder with the content of a zip; the zip is unpacked if the cache does not have it yet.

    ValueError for members that lead out of the folder, links, encrypted members, and a zip that is
    far larger unpacked than packed.
    """
    state = path.stat()
    key = f"{path.resolve()}|{state.st_size}|{state.st_mtime_ns}"
    folder = cache_folder() / "zips" / hashlib.sha256(key.encode()).hexdigest()[:16]
    name = plain_name(path.stem).strip(".") or "data"  # "...zip" has the stem ".."
    target = folder / name
    if target.is_dir():
        return target
    try:
        with zipfile.ZipFile(path) as archive:
            members = _checked(archive, path, state.st_size)
            folder.parent.mkdir(parents=True, exist_ok=True)
            room = shutil.disk_usage(folder.parent).free
            needed = sum(member.file_size for member in members)
            if needed > room:
                raise ValueError(
                    f"{path} needs {needed >> 20:,} MiB unpacked, and {folder.parent} has "
                    f"{room >> 20:,} MiB left; unpack it elsewhere and give the folder"
                )
            temporary = Path(tempfile.mkdtemp(dir=folder.parent, prefix=".unpacking-"))
            try:
                for member in members:  # some Windows tools write \\ as the separator
                    member.filename = member.filename.replace("\\", "/")
                archive.extractall(temporary / name, members)
                os.replace(temporary, folder)
            except BaseException:
                shutil.rmtree(temporary, ignore_errors=True)
                if not target.is_dir():  # another process may have unpacked it first
                    raise
    except (zipfile.BadZipFile, zlib.error, EOFError, RuntimeError, OSError) as error:
        if isinstance(error, OSError) and error.errno != errno.EINVAL:  # of a place before the file
            raise
        raise ValueError(
            f"{path} is not a readable zip ({reason(error)}); is it cut short?"
        ) from None
    return target


def _checked(archive: zipfile.ZipFile, path: Path, packed: int) -> list[zipfile.ZipInfo]:
    """The members to unpack; ValueError for a member or a size that is not safe."""
    members = [each for each in archive.infolist() if not each.filename.endswith("/")]
    size = sum(each.file_size for each in members)
    if len(members) > MOST_FILES or size > MOST_BYTES or size > MOST_RATIO * max(packed, 1 << 20):
        raise ValueError(
            f"{path} would unpack to {counted(len(members), 'file')} and {size >> 20:,} MiB, "
            "which is more than a data set of its size needs; unpack it yourself if you trust it"
        )
    for each in members:
        parts = each.filename.replace("\\", "/").split("/")
        outside = ".." in parts or parts[0] == "" or ":" in parts[0] or "\0" in each.filename
        link = stat.S_ISLNK(each.external_attr >> 16)
        if outside or link or each.flag_bits & 1:
            why = "leads out of its folder" if outside else "is a link" if link else "is encrypted"
            raise ValueError(f"{path}: the member {each.filename!r:.80} {why}; pack it again")
    return members
