"""One rule for the file names in annotations.

A name is taken as given; then with / for \\, without URL escapes and without leading folders, as
few as it takes; then by its base name, and by its stem, where only one image below the folder has
it. How names were found is counted.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator
from pathlib import Path
from urllib.parse import unquote

from dabdetr.data.findings import Findings
from dabdetr.data.images import IMAGE_SUFFIXES

MOST_FILES = 2_000_000
"""Files below a folder of images that are looked at."""


class ImageFolders:
    """Finds images by what annotations call them, in ``folders`` in their order.

    Nothing outside of the folders is ever found, unless ``anywhere`` allows an absolute path that
    exists: for lists of paths that a user keeps, not for files that came from elsewhere.
    """

    def __init__(
        self, folders: Iterable[Path], findings: Findings, anywhere: bool = False
    ) -> None:
        self.folders = [os.path.abspath(folder) for folder in folders]
        self.findings, self.anywhere = findings, anywhere
        self._listings: dict[str, dict[str, bool]] = {}
        self._bases: dict[str, str | None] | None = None
        self._stems: dict[str, str | None] = {}

    def find(self, name: str) -> str | None:
        """The path of an image, or None where there is none, or more than one could be meant."""
        name = name.strip()
        if not name or "\0" in name:
            return None
        for folder in self.folders:
            if self._is_file(folder, name):
                return os.path.join(folder, name)
        if self.anywhere and os.path.isabs(name) and os.path.isfile(name):
            return name
        parts = clean(name)
        for start in range(len(parts)):
            for folder in self.folders:
                rest = os.path.join(*parts[start:])
                if self._is_file(folder, rest):
                    path = os.path.join(folder, rest)
                    self.findings.add("name-cleaned", f"{name} is {path}")
                    return path
        return self._by_name(parts[-1], name) if parts else None

    def _by_name(self, base: str, name: str) -> str | None:
        bases = self._index()
        path, kind = bases.get(base), "name-base"
        if path is None and base not in bases:
            kind = "name-case"
            path = bases.get(f"\n{base.casefold()}")
            if path is None and f"\n{base.casefold()}" not in bases:
                path = self._stems.get(os.path.splitext(base)[0].casefold())
        if path is not None:
            self.findings.add(kind, f"{name} is {path}")
        return path

    def by_stem(self, stem: str) -> str | None:
        """The only image below the folders whose name without its ending is ``stem``."""
        self._index()
        return self._stems.get(stem.casefold())

    def _is_file(self, folder: str, name: str) -> bool:
        parent, leaf = os.path.split(os.path.join(folder, name))
        if parent not in self._listings:
            inside = os.path.normpath(parent)
            if inside != folder and not inside.startswith(folder.rstrip(os.sep) + os.sep):
                return False
            self._listings[parent] = _listing(parent)
        return self._listings[parent].get(leaf, False)

    def _index(self) -> dict[str, str | None]:
        """Base name → path, and folded base name after a line break; None where several have it."""
        if self._bases is None:
            self._bases = {}
            for path in self._walk():
                base = os.path.basename(path)
                for table, key in (
                    (self._bases, base),
                    (self._bases, f"\n{base.casefold()}"),
                    (self._stems, os.path.splitext(base)[0].casefold()),
                ):
                    table[key] = None if table.get(key, path) != path else path
        return self._bases

    def _walk(self) -> Iterator[str]:
        return (path for folder in dict.fromkeys(self.folders) for path in images_below(folder))


def clean(name: str) -> list[str]:
    """The parts of a path that was written elsewhere: no drive, scheme, ``.`` or ``..``."""
    text = unquote(name.replace("\\", "/"))
    text = text.split("://", 1)[-1].split("?", 1)[0] if "://" in text else text
    parts = [part for part in text.split("/") if part not in ("", ".", "..")]
    return parts[1:] if len(parts) > 1 and parts[0].endswith(":") else parts


def images_below(folder: str | Path) -> Iterator[str]:
    """Paths of the images in a folder and the folders in it, by name; hidden ones are left out."""
    seen = 0
    for parent, folders, files in os.walk(folder):
        folders[:] = sorted(each for each in folders if not each.startswith("."))
        for file in sorted(files):
            seen += 1
            if seen > MOST_FILES:
                raise ValueError(f"{folder} has more than {MOST_FILES:,} files; name a smaller one")
            if os.path.splitext(file)[1].lower() in IMAGE_SUFFIXES and not file.startswith("."):
                yield os.path.join(parent, file)


def _listing(folder: str) -> dict[str, bool]:
    """Name → whether it is a regular file, of what lies in a folder."""
    try:
        with os.scandir(folder) as entries:
            return {entry.name: entry.is_file() for entry in entries}
    except (OSError, ValueError):
        return {}
