"""One rule for the file names in annotations, and one for the names of splits.

A name is taken as given; then with / for \\, without URL escapes and without leading folders, as
few as it takes; then by its base name, and by its stem, where only one image below the folder has
it. How names were found is counted.
"""

from __future__ import annotations

import os
import re
import unicodedata
from collections.abc import Container, Iterable, Iterator, Sequence
from pathlib import Path
from urllib.parse import unquote

from dabdetr.data.findings import Findings
from dabdetr.data.images import IMAGE_SUFFIXES, OTHER_SUFFIXES

MOST_FILES = 2_000_000
"""Files below a folder of images that are looked at."""


YEAR = re.compile(r"20\d\d$")  # COCO's own splits are called train2017, val2017
USUAL = ("train", "val", "test")
SPLIT_AFFIXES = re.compile(r"[ _-]?(data)?(set|split|subset|data|images|imgs|list)$")
"""What stands behind the name of a split in the names of folders: train_set, val-images."""
SPELLINGS = {
    "train": ("train", "training", "trn", "tr"),
    "val": ("val", "valid", "validation", "dev", "eval"),
    "test": ("test", "testing", "tst"),
}
"""What splits are called elsewhere, in any case."""


def canonical(split: str) -> str:
    """``train``, ``val`` or ``test`` for any spelling of them; others as they are."""
    bare = YEAR.sub("", split)
    folded = bare.casefold().strip()
    names = folded, SPLIT_AFFIXES.sub("", folded)
    return next(
        (usual for name in names for usual, known in SPELLINGS.items() if name in known), bare
    )


def usual_word(name: str) -> str:
    """The usual split that one word of a name means (my_train_v2, Annotations-Val); else ""."""
    words = {canonical(word) for word in re.split(r"[^A-Za-z]+", name) if word}
    usual = [word for word in USUAL if word in words]
    return usual[0] if len(usual) == 1 else ""


def names_split(name: str) -> bool:
    """Whether a name is that of a usual split, or has one in it: VisDrone2019-DET-train."""
    return canonical(name) in USUAL or bool(usual_word(name))


def folders_in(root: Path) -> list[Path]:
    """The folders directly in ``root``, by name; no hidden ones."""
    if not root.is_dir():
        return []
    return sorted(each for each in root.iterdir() if each.is_dir() and each.name[0] != ".")


UPLOADED = re.compile(r"^[0-9a-f]{8}-")
"""What Label Studio puts before the name of a file that is uploaded."""


class ImageFolders:
    """Finds images by what annotations call them, in ``folders`` in their order.

    Nothing outside of the folders is ever found, unless ``anywhere`` allows an absolute path that
    exists: for lists of paths that a user keeps, not for files that came from elsewhere.
    """

    def __init__(self, folders: Iterable[Path], findings: Findings, anywhere: bool = False) -> None:
        self.folders = [os.path.abspath(folder) for folder in folders]
        self.findings, self.anywhere = findings, anywhere
        self._listings: dict[str, dict[str, bool]] = {}
        self._indexed = False
        self._names: dict[str, str | None] = {}
        self._stemmed: dict[str, dict[str, str]] = {}

    def find(self, name: str) -> str | None:
        """The path of an image, or None where there is none, or more than one could be meant."""
        return self._direct(name) or self._by_name(name)

    def find_named(self, names: Sequence[str], below: str, stem: str) -> str | None:
        """An image by one of ``names``, or the one called ``stem`` in the folder ``below``.

        Where these are two images the second is taken: names stay as they were when files are
        renamed.
        """
        named = next(filter(None, map(self._direct, names)), None)
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

    def _direct(self, name: str) -> str | None:
        """As given, or by as much of the path as there is."""
        name = name.strip()
        if not name or "\0" in name:
            return None
        for folder in self.folders:
            for form in _forms(name):
                if self._is_file(folder, form):
                    return os.path.normpath(os.path.join(folder, form))
        if self.anywhere and os.path.isabs(name) and os.path.isfile(name):
            return name
        parts = clean(name)
        for start in range(len(parts)):
            for folder in self.folders:
                for rest in _forms(os.path.join(*parts[start:])):
                    if self._is_file(folder, rest):
                        path = os.path.join(folder, rest)
                        self.findings.add("name-cleaned", f"{name} is {path}")
                        return path
        return None

    def _by_name(self, name: str) -> str | None:
        """By base name, or by base name or stem in any case, where one image has it."""
        base = next(reversed(clean(name)), "")
        self._index()
        for key in (*_spellings(base), *_spellings(UPLOADED.sub("", base))):
            if key in self._names:
                path = self._names[key]
                if path is not None:
                    kind = "name-base" if os.path.basename(path) == base else "name-case"
                    self.findings.add(kind, f"{name} is {path}")
                return path
        return None

    def _stems_in(self, folder: str) -> dict[str, str]:
        """Folded stem → name of the image in one folder; "" for several."""
        if folder not in self._listings:
            self._listings[folder] = _listing(folder)
        if folder not in self._stemmed:
            stems = self._stemmed[folder] = {}
            for name in self._listings[folder]:
                stem, ending = os.path.splitext(name)
                if ending.lower() in IMAGE_SUFFIXES:  # of several images none is meant
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

    def _index(self) -> None:
        """Fill the table of names: None where several images have one."""
        if self._indexed:
            return
        self._indexed = True
        for path in (
            path for folder in dict.fromkeys(self.folders) for path in images_below(folder)
        ):
            for key in _spellings(os.path.basename(path)):
                self._names[key] = path if self._names.get(key, path) == path else None


def _spellings(base: str) -> tuple[str, str, str]:
    """What an image may be called: as it is, in any case, and without its ending."""
    return base, folded(base), folded(without_ending(base))


def without_ending(name: str) -> str:
    """A name without the ending of an image or annotation file; "img.v2" has none."""
    stem, ending = os.path.splitext(name)
    known = ending.lower() in IMAGE_SUFFIXES | OTHER_SUFFIXES | {".txt", ".xml", ".json"}
    return stem if known else name


def folded(name: str) -> str:
    """A name without its case, with one form of accents, and _ for blanks, as uploads have it."""
    name = name if name.isascii() else unicodedata.normalize("NFC", name)
    return name.casefold().replace(" ", "_")


def _forms(name: str) -> tuple[str, ...]:
    """A name as given, and with its accents written as Linux and Windows do, and as macOS does."""
    if name.isascii():
        return (name,)
    both = (unicodedata.normalize("NFC", name), unicodedata.normalize("NFD", name))
    return tuple(dict.fromkeys((name, *both)))


def clean(name: str) -> list[str]:
    """The parts of a path that was written elsewhere: no drive, scheme, ``.`` or ``..``."""
    text = unquote(name.replace("\\", "/"))
    text = text.split("://", 1)[-1]
    text, _, query = text.partition("?")
    served = re.search(r"(?:^|&)d=([^&]+)", query)  # Label Studio: /data/local-files/?d=a/b.jpg
    text = served.group(1) if served and text.endswith("/") else text
    parts = [part for part in text.split("/") if part not in ("", ".", "..")]
    return parts[1:] if len(parts) > 1 and parts[0].endswith(":") else parts


def child(folder: Path, name: str) -> Path:
    """A folder in a folder by its name, in another case where there is none in this."""
    path = folder / name
    if path.is_dir() or not folder.is_dir():
        return path
    alike = (each for each in folders_in(folder) if each.name.casefold() == name.casefold())
    return next(alike, path)


def images_below(folder: str | Path) -> Iterator[str]:
    """Paths of the images in a folder and the folders in it, by name; hidden ones are left out."""
    return files_below(folder, IMAGE_SUFFIXES)


def paths_of(folder: Path, *endings: str, below: bool = False) -> list[Path]:
    """Files in a folder, or also ``below`` it, by lower-case ending; no hidden ones.

    Hidden are copies that systems and editors make: ``._name``, ``.ipynb_checkpoints``.
    """
    return sorted(map(Path, (files_below if below else files_in)(folder, endings)))


def files_below(folder: str | Path, endings: Container[str]) -> Iterator[str]:
    """Paths of the files in a folder and the folders in it, by name; hidden ones are left out."""
    seen = 0
    for parent, folders, files in os.walk(folder):
        folders[:] = sorted(each for each in folders if not each.startswith("."))
        for file in sorted(files):
            seen += 1
            if seen > MOST_FILES:
                raise ValueError(f"{folder} has more than {MOST_FILES:,} files; name a smaller one")
            if os.path.splitext(file)[1].lower() in endings and not file.startswith("."):
                yield os.path.join(parent, file)


def files_in(folder: str | Path, endings: Container[str]) -> list[str]:
    """Paths of the files in a folder itself by lower-case ending, by name; no hidden ones."""
    names = sorted(name for name, is_file in _listing(str(folder)).items() if is_file)
    return [
        os.path.join(folder, name)
        for name in names
        if os.path.splitext(name)[1].lower() in endings and not name.startswith(".")
    ]


def _listing(folder: str) -> dict[str, bool]:
    """Name → whether it is a regular file, of what lies in a folder."""
    try:
        with os.scandir(folder) as entries:
            return {entry.name: entry.is_file() for entry in entries}
    except (OSError, ValueError):
        return {}
