"""One rule for finding files by their names in annotations.

A name is tried as given; then with / for \\, without URL escapes, and without as few leading
folders as possible; then by its base name and its stem, if only one image below the folder has it.
Names that were found in another way than as given are counted.
"""

from __future__ import annotations

import os
import re
import unicodedata
from collections.abc import Container, Iterable, Iterator, Sequence
from functools import cached_property
from itertools import chain
from pathlib import Path
from urllib.parse import unquote

from dabdetr.data.findings import Findings
from dabdetr.data.images import IMAGE_SUFFIXES, OTHER_SUFFIXES

MOST_FILES = 2_000_000
"""Most files below a folder of images."""


def folders_in(root: Path) -> list[Path]:
    """The folders directly in ``root``, sorted by name: no hidden ones, none that is unreadable."""
    if not root.is_dir():
        return []
    folders = (each for each in root.iterdir() if each.name[0] != "." and each.is_dir())
    return sorted(each for each in folders if os.access(each, os.R_OK | os.X_OK))


UPLOADED = re.compile(r"^[0-9a-f]{8}-")
"""The prefix that Label Studio adds to the names of uploaded files."""


class ImageFolders:
    """Finds images by their names in annotations, searching ``folders`` in order.

    Only files inside the folders are found, except that ``anywhere`` also allows existing absolute
    paths: for a user's own lists of paths, not for files from untrusted sources.
    """

    def __init__(self, folders: Iterable[Path], findings: Findings, anywhere: bool = False) -> None:
        self.folders = [os.path.abspath(folder) for folder in folders]
        self.findings, self.anywhere = findings, anywhere
        self._listings: dict[str, dict[str, bool]] = {}
        self._stemmed: dict[str, dict[str, str]] = {}

    def find(self, name: str) -> str | None:
        """The path of an image; None without one, or if several match equally well."""
        return self._by_path(name) or self._by_name(name)

    def find_named(self, names: Sequence[str], below: str, stem: str) -> str | None:
        """An image by one of ``names``, or by its ``stem`` in the subfolder ``below``.

        If these are two images, the second is returned, because names in annotations stay the same
        when files are renamed.
        """
        named = next(filter(None, map(self._by_path, names)), None)
        if named and folded(without_ending(os.path.basename(named))) == folded(stem):
            return named
        for folder in self.folders:
            parent = os.path.normpath(os.path.join(folder, below))
            if leaf := self._stems_in(parent).get(folded(stem)):
                path = os.path.join(parent, leaf)
                if names:
                    self.findings.add(
                        "name-other" if named else "name-case", f"{names[-1]} is {path}"
                    )
                return path
        return named or next(filter(None, map(self._by_name, (*names, stem))), None)

    def _by_path(self, name: str) -> str | None:
        """An image by its path as given, or by the longest end of the path that exists."""
        name = name.strip()
        if not name or "\0" in name:
            return None
        for folder in self.folders:
            for form in _unicode_forms(name):
                if self._is_file(folder, form):
                    return os.path.normpath(os.path.join(folder, form))
        if self.anywhere and os.path.isabs(name) and os.path.isfile(name):
            return name
        parts = clean(name)
        for start in range(len(parts)):
            for folder in self.folders:
                for rest in _unicode_forms(os.path.join(*parts[start:])):
                    if self._is_file(folder, rest):
                        path = os.path.join(folder, rest)
                        self.findings.add("name-cleaned", f"{name} is {path}")
                        return path
        return None

    def _by_name(self, name: str) -> str | None:
        """An image by its base name, or by base name or stem in any case, if unique."""
        base = next(reversed(clean(name)), "")
        for key in (*_spellings(base), *_spellings(UPLOADED.sub("", base))):
            if key in self._names:
                path = self._names[key]
                if path is None:
                    self.findings.add("name-several", name)
                else:
                    kind = "name-base" if os.path.basename(path) == base else "name-case"
                    self.findings.add(kind, f"{name} is {path}")
                return path
        return None

    def _stems_in(self, folder: str) -> dict[str, str]:
        """Folded stem → name of the image in a folder; "" where several images have the stem."""
        if folder not in self._listings:
            self._listings[folder] = _listing(folder)
        if folder not in self._stemmed:
            stems = self._stemmed[folder] = {}
            for name in self._listings[folder]:
                stem, ending = os.path.splitext(name)
                if ending.lower() in IMAGE_SUFFIXES:
                    stems[folded(stem)] = "" if folded(stem) in stems else name
        return self._stemmed[folder]

    def _is_file(self, folder: str, name: str) -> bool:
        parent, leaf = os.path.split(os.path.join(folder, name))
        if parent not in self._listings:
            inside = os.path.normpath(parent)
            if inside != folder and not inside.startswith(folder.rstrip(os.sep) + os.sep):
                return False
            self._listings[parent] = _listing(parent)
        return self._listings[parent].get(leaf, False)

    @cached_property
    def _names(self) -> dict[str, str | None]:
        """Name → image below the folders; None for a name that several images have."""
        names: dict[str, str | None] = {}
        for path in chain.from_iterable(map(images_below, dict.fromkeys(self.folders))):
            for key in _spellings(os.path.basename(path)):
                names[key] = path if names.get(key, path) == path else None
        return names


def _spellings(base: str) -> tuple[str, str, str]:
    """Keys for finding an image: its base name, the folded base name, and the folded stem."""
    return base, folded(base), folded(without_ending(base))


def is_image(name: str) -> bool:
    """Whether a file name has the extension of an image."""
    return os.path.splitext(name.strip())[1].lower() in IMAGE_SUFFIXES


def without_ending(name: str) -> str:
    """A name without the extension of an image or annotation file; "img.v2" stays as it is."""
    stem, ending = os.path.splitext(name)
    known = ending.lower() in IMAGE_SUFFIXES | OTHER_SUFFIXES | {".txt", ".xml", ".json"}
    return stem if known else name


def folded(name: str) -> str:
    """A name in lower case, in Unicode form NFC, with _ for blanks, as upload tools write it."""
    name = name if name.isascii() else unicodedata.normalize("NFC", name)
    return name.casefold().replace(" ", "_")


def _unicode_forms(name: str) -> tuple[str, ...]:
    """A name as given, in Unicode form NFC (Linux, Windows) and in NFD (macOS)."""
    if name.isascii():
        return (name,)
    both = (unicodedata.normalize("NFC", name), unicodedata.normalize("NFD", name))
    return tuple(dict.fromkeys((name, *both)))


def clean(name: str) -> list[str]:
    """The parts of a path from another machine, without drive, URL scheme, ``.`` and ``..``."""
    text = unquote(name).replace("\\", "/")
    text = text.split("://", 1)[-1]
    text, _, query = text.partition("?")
    local_file = re.search(r"(?:^|&)d=([^&]+)", query)  # Label Studio: /data/local-files/?d=a/b.jpg
    text = local_file.group(1) if local_file and text.endswith("/") else text
    parts = [part for part in text.split("/") if part not in ("", ".", "..")]
    return parts[1:] if len(parts) > 1 and parts[0].endswith(":") else parts


def child(folder: Path, name: str) -> Path:
    """The folder ``name`` in ``folder``, or one whose name differs only in letter case.

    Without either, the path that does not exist.
    """
    path = folder / name
    if path.is_dir() or not folder.is_dir():
        return path
    alike = (each for each in folders_in(folder) if each.name.casefold() == name.casefold())
    return next(alike, path)


def images_below(folder: str | Path) -> Iterator[str]:
    """Sorted paths of the images in a folder and its subfolders, without hidden ones."""
    return files_below(folder, IMAGE_SUFFIXES)


def paths_of(folder: Path, *endings: str, below: bool = False) -> list[Path]:
    """Sorted files in a folder, with ``below`` also in its subfolders, by lower-case extension.

    Hidden files are left out: copies by systems and editors such as ``._name`` and
    ``.ipynb_checkpoints``.
    """
    return sorted(map(Path, (files_below if below else files_in)(folder, endings)))


def files_below(folder: str | Path, endings: Container[str]) -> Iterator[str]:
    """Sorted paths of the files in a folder and its subfolders, without hidden ones.

    Links to folders are followed, once. Raises ValueError for the root of the file system, and for
    more than ``MOST_FILES`` files.
    """
    count, walked, top = 0, set[str](), os.path.realpath(folder)
    if top == os.path.dirname(top):
        raise ValueError(f"{folder} is the whole file system; name a folder of images")
    for parent, folders, files in os.walk(folder, followlinks=True):
        real = os.path.realpath(parent)
        above = real != top and Path(top).is_relative_to(real)
        if real in walked or above:  # a link to a folder that was read, or to one above
            folders.clear()
            continue
        walked.add(real)
        folders[:] = sorted(each for each in folders if not each.startswith("."))
        for file in sorted(files):
            count += 1
            if count > MOST_FILES:
                raise ValueError(f"{folder} has more than {MOST_FILES:,} files; name a smaller one")
            if os.path.splitext(file)[1].lower() in endings and not file.startswith("."):
                yield os.path.join(parent, file)


def outside(files: Iterable[str], root: Path) -> list[str]:
    """Those ``files`` that are not below ``root``, links not followed."""
    inside = os.path.join(os.path.abspath(root), "")
    return [each for each in files if not os.path.abspath(each).startswith(inside)]


def unreadable_below(folder: Path) -> list[str]:
    """The folders below ``folder`` that may not be read, without hidden ones."""
    found: list[str] = []
    for _, folders, _ in os.walk(folder, onerror=lambda error: found.append(error.filename)):
        folders[:] = sorted(each for each in folders if not each.startswith("."))
    return found


def files_in(folder: str | Path, endings: Container[str]) -> list[str]:
    """Sorted paths of the files directly in a folder by lower-case extension; no hidden ones."""
    names = sorted(name for name, is_file in _listing(str(folder)).items() if is_file)
    return [
        os.path.join(folder, name)
        for name in names
        if os.path.splitext(name)[1].lower() in endings and not name.startswith(".")
    ]


def _listing(folder: str) -> dict[str, bool]:
    """Name → whether it is a file, for each entry of a folder; empty if it cannot be read."""
    try:
        with os.scandir(folder) as entries:
            return {entry.name: entry.is_file() for entry in entries}
    except (OSError, ValueError):
        return {}
