"""Boxes as annotation files list them, each with its image and its class (see ``forms``)."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

from dabdetr.data.box_formats import Asked, BoxFormat
from dabdetr.data.findings import Findings
from dabdetr.data.locate import ImageFolders, child
from dabdetr.data.records import RecordTable, Rows, named_table
from dabdetr.data.split_names import USUAL, canonical, names_of_wholes, split_in_path
from dabdetr.text import shown


@dataclass
class Entry:
    """One box as a file lists it; without ``numbers``, only an image.

    image    name of the image as written in the file
    told     location in the file, for messages
    class_   class name; "" without one
    numbers  four numbers of the box
    size     (width, height) of the image; (0, 0) if not in the file
    split    split of the image; "" if not in the file
    odd      kind of finding to count the entry as; "" for none
    listing  whether the entry stands for an image with all its boxes
    """

    image: str
    told: str
    class_: str = ""
    numbers: Sequence[float] | None = None
    crowd: bool = False
    size: tuple[int, int] = (0, 0)
    split: str = ""
    odd: str = ""
    listing: bool = False


Read = Callable[[Path, Findings], Iterable[Entry]]
"""Reads one annotation file."""


def table_of(
    entries: Iterable[Entry],
    folders: Iterable[Path],
    root: Path,
    split: str,
    box_format: BoxFormat,
    asked: Asked | None,
    findings: Findings,
) -> RecordTable:
    """The data set ``root`` of ``entries``; images are searched for in ``folders``.

    If no entry has a class, all boxes have the class "object". Raises FileNotFoundError if no image
    is found.
    """
    rows, names = Rows(findings, box_format), dict[str, int]()
    finder = ImageFolders(
        [folder for folder in dict.fromkeys(folders) if folder.is_dir()], findings
    )
    images: dict[str, int | None] = {}
    missing: list[str] = []
    boxes, seen = set[tuple[Any, ...]](), set[int]()
    listed = list(entries)
    without_classes = not any(each.class_ for each in listed if each.numbers is not None)
    for each in listed:
        if each.image not in images:
            path = finder.find(each.image)
            images[each.image] = None if path is None else rows.add_image(path, each.size)
            missing += [f"{each.told} names {shown(each.image)}"] if path is None else []
        index = images[each.image]
        if index is None:
            continue
        if each.odd:
            findings.add(each.odd, each.told)
        if each.listing:
            findings.add("image-listings", [f"{each.told}: {each.image}"] * (index in seen))
            seen.add(index)
        if each.numbers is None:
            continue
        class_ = each.class_ or ("object" if without_classes else "")
        box = (index, class_, *each.numbers)
        if not class_:
            findings.add("class-unknown", f"{each.told} has no class")
        elif box in boxes:
            findings.add("line-twice", each.told)
        else:
            boxes.add(box)
            label = names.setdefault(class_, len(names))
            rows.add_box(index, label, each.numbers, each.crowd, place=each.told)
    findings.add("image-missing", missing)
    if without_classes and boxes:
        first = rows.place(0)
        findings.add("class-names-missing", f"{first}: no box has a class, all are 'object'")
    if not rows.files:
        several = findings.count("name-several")
        raise FileNotFoundError(
            f"{missing[0] if missing else root}: "
            f"{'several images are called so' if several else 'no image that is named is'} in "
            f"{', '.join(finder.folders[:3])}; {'write paths' if several else 'add the images'}"
        )
    return named_table(rows, names, root, split, asked)


def image_folders(file: Path, root: Path, split: str) -> list[Path]:
    """Folders that may contain the images of a file, the likeliest first."""
    bases = (file.parent, root, root.parent if root == file.parent else root)
    of_split = [child(child(base, "images"), split) for base in bases] + [
        child(base, split) for base in bases
    ]
    shared = [
        child(base, name) for base in bases[:2] for name in ("images", "data", "imgs", "upload")
    ]
    return [*of_split, *shared, file.parent, root, child(root.parent, "images")]


def open_files(
    read: Read,
    box_format: BoxFormat,
    root: Path,
    files: list[Path],
    listed_split: str,
    folder: str,
    split: str,
    asked: Asked | None = None,
    *,
    joined: bool = False,
) -> RecordTable:
    """The split of all entries of ``files``, or of those that name ``listed_split``.

    An unreadable file is counted, or raises if it is the only one. ``folder`` is the name of the
    split in the names of image folders, if that is not the name of the opened ``split``. Of files
    ``joined`` as parts of the split, images that several list are counted.
    """
    findings = Findings()
    findings.add("files-joined", map(str, files), len(files) * joined)
    first: dict[str, Path] = {}

    def entries() -> Iterator[Entry]:
        for file in files:
            try:
                for each in read(file, findings):
                    if listed_split and _entry_split(each, root) != listed_split:
                        continue
                    before = first.setdefault(each.image, file) if joined else file
                    if before != file:
                        again = f"{file}: {each.image}, also in {before}"
                        findings.add("image-listings", [again] * (not each.listing))
                        first[each.image] = file
                    yield each
            except (ValueError, OSError) as error:
                if len(files) == 1:
                    raise
                findings.add("file-unreadable", str(error))

    folders = image_folders(files[0], root, folder or split)
    return table_of(entries(), folders, root, split, box_format, asked, findings)


def by_whole(files: Sequence[Path]) -> dict[str, list[Path]]:
    """Files by the whole that they are part of (train_1.csv, train_2.csv), if in one folder.

    Files of several folders are by their own names, as their images may share names.
    """
    if len({file.parent for file in files}) > 1:
        stems = Counter(file.stem for file in files)
        return {
            file.stem if stems[file.stem] == 1 else f"{file.parent.name}-{file.stem}": [file]
            for file in files
        }
    wholes = names_of_wholes(dict.fromkeys(file.stem for file in files))
    found: dict[str, list[Path]] = {}
    for file in files:
        found.setdefault(wholes[file.stem], []).append(file)
    return found


def entry_splits(read: Read, root: Path, file: Path) -> list[str]:
    """The splits of the entries of a file; empty unless every entry has a usual one."""
    state = file.stat()
    return _entry_splits(read, root, file, state.st_size, state.st_mtime_ns)


@lru_cache(maxsize=8)
def _entry_splits(read: Read, root: Path, file: Path, size: int, time: int) -> list[str]:
    found: dict[str, None] = {}
    with suppress(ValueError, OSError):
        for entry in read(file, Findings()):
            split = _entry_split(entry, root)
            if canonical(split).casefold() not in (*USUAL, "unassigned"):
                return []
            found[split] = None
        return list(found)
    return []


def _entry_split(entry: Entry, root: Path) -> str:
    """The split of an entry, else that among the folders of its image's name; "" without one."""
    if entry.split:
        return entry.split
    inside = os.path.isabs(entry.image) and Path(entry.image).is_relative_to(root.absolute())
    return split_in_path(os.path.relpath(entry.image, root) if inside else entry.image)
