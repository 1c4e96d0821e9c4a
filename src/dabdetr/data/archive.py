"""Packed data sets: unpacked once into the cache, within limits on size and number of files."""

from __future__ import annotations

import errno
import hashlib
import os
import shutil
import stat
import tempfile
import zipfile
import zlib
from collections.abc import Callable, Sequence
from pathlib import Path

from dabdetr.data.cache import cache_folder
from dabdetr.files import open_regular, plain_name, refuse_pointer
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

    with open_regular(path) as file:
        refuse_pointer(file.read(64), path)

    def unpack(folder: Path) -> None:
        with zipfile.ZipFile(path) as archive:
            members = _checked(archive, path, path.stat().st_size)
            check_room(folder, path, sum(member.file_size for member in members))
            for member in members:  # some Windows tools write \\ as the separator
                member.filename = member.filename.replace("\\", "/")
            archive.extractall(folder, members)

    try:
        return unpacked_once("zips", [path], path.stem, unpack)
    except (zipfile.BadZipFile, zlib.error, EOFError, RuntimeError, OSError) as error:
        if isinstance(error, OSError) and error.errno != errno.EINVAL:  # of a place before the file
            raise
        raise ValueError(
            f"{path} is not a readable zip ({reason(error)}); is it cut short?"
        ) from None


def unpacked_once(
    kind: str, files: Sequence[Path], name: str, unpack: Callable[[Path], object]
) -> Path:
    """The folder ``name`` in the cache that ``unpack`` fills, once for the same ``files``."""
    states = [(file.resolve(), file.stat()) for file in files]
    key = "|".join(f"{path}|{state.st_size}|{state.st_mtime_ns}" for path, state in states)
    folder = cache_folder() / kind / hashlib.sha256(os.fsencode(key)).hexdigest()[:16]
    target = folder / (plain_name(name).strip(".") or "data")  # "...zip" has the stem ".."
    if target.is_dir():
        return target
    folder.parent.mkdir(parents=True, exist_ok=True)
    temporary = Path(tempfile.mkdtemp(dir=folder.parent, prefix=".unpacking-"))
    try:
        (temporary / target.name).mkdir()
        unpack(temporary / target.name)
        os.replace(temporary, folder)
    except BaseException:
        shutil.rmtree(temporary, ignore_errors=True)
        if not target.is_dir():  # another process may have unpacked it first
            raise
    return target


def check_room(folder: Path, source: Path, needed: int) -> None:
    """ValueError if the disk of ``folder`` has no room for the ``needed`` bytes of ``source``."""
    room = shutil.disk_usage(folder).free
    if needed > room:
        raise ValueError(
            f"{source} needs {needed >> 20:,} MiB unpacked, and {folder.parent.parent} has "
            f"{room >> 20:,} MiB left; set DABDETR_CACHE to a folder with more room"
        )


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
