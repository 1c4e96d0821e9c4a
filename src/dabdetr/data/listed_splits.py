"""Files that list the split of each image, and so divide a data set that has only one split.

In split.csv, splits.json or split.txt a row names an image and a split, in any order and among
other columns; or the columns, or the keys of a JSON object, are the splits. Or each split has a
list of its own: train.txt and val.txt beside the data, in splits/, ImageSets/ or ImageSets/Main/;
or a folder of its own in labels/. If val or test alone has a list, the other images are train.
"""

from __future__ import annotations

import csv
import os
import re
from collections.abc import Iterable
from functools import partial
from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np

from dabdetr.data.box_formats import Asked
from dabdetr.data.findings import Findings
from dabdetr.data.locate import child, clean, images_below, is_image, paths_of, without_ending
from dabdetr.data.records import Open, RecordTable
from dabdetr.data.split_names import USUAL, canonical, named_as_split, split_folders
from dabdetr.data.textfiles import read_text
from dabdetr.text import parse_json

LIST = re.compile(
    r"([a-z]+_)?(data_?)?splits?(_list|_info)?|train_(val|test|valid)(_test)?_split|partitions?"
    r"|subsets?",
    re.IGNORECASE,
)
ENDINGS = (".csv", ".tsv", ".txt", ".json")
PLACES = (("ImageSets", "Main"), ("ImageSets",), ("splits",), ("annotations",), ())
"""Folders with a list of images for each split."""
IMAGE_HEADERS = ("image", "file", "name", "id", "path", "stem")
"""Words in the header of the column of images."""


Listed = dict[str, frozenset[str]]
"""Image name without extension and case → its splits: several if several lists name the image."""


def divided(root: Path, found: dict[str, Open]) -> dict[str, Open]:
    """The splits by the lists in ``root``, if the layout has only one; else ``found``."""
    if len(found) != 1 or not root.is_dir():
        return found
    only, whole = next(iter(found.items()))
    for file in paths_of(root, *ENDINGS):
        if LIST.fullmatch(file.stem) and (listed := _read(file)):
            return _parts(whole, file, listed)
    lists: dict[str, list[str]] = {}
    if canonical(only) not in USUAL:
        labels = split_folders(child(root, "labels"))  # of images in one folder
        lists = split_lists(root) or {
            name: [file.stem for file in paths_of(folder, ".txt", below=True)]
            for name, folder in labels.items()
        }
    wanted = {*USUAL} if "train" in lists else {*USUAL, "trainval"}
    usual = {name: listed for name, listed in lists.items() if canonical(name) in wanted}
    names = [name for listed in usual.values() for name in listed]
    several = len(usual) > 1 and sum(" " in name for name in names) * 2 < len(names)
    if several or (len(usual) == 1 and _any_image(root, names)):
        return _parts(whole, root, _by_name((n, split) for split in usual for n in usual[split]))
    return found


def _any_image(root: Path, names: Iterable[str]) -> bool:
    """Whether an image below ``root`` has one of the names."""
    bases = {name.rpartition("/")[2].casefold() for name in names}
    images = map(os.path.basename, images_below(root))
    return any(os.path.splitext(image)[0].casefold() in bases for image in images)


def rest_is_train(splits: Iterable[str]) -> bool:
    """Whether images that no list names are to train on, as the lists are of val and test only."""
    return {*splits} <= {"val", "test"}


def _parts(whole: Open, place: Path, listed: Listed) -> dict[str, Open]:
    names = dict.fromkeys(name for splits in listed.values() for name in sorted(splits))
    if rest_is_train(names):
        names["train"] = None
    return {name: partial(_open_part, whole, place, listed, name) for name in names}


def _open_part(
    whole: Open,
    place: Path,
    listed: Listed,
    part_name: str,
    split: str,
    box_format: Asked | None = None,
) -> RecordTable:
    """The images of ``whole`` that the lists in ``place`` have in the split ``part_name``.

    Of lists without it (see ``rest_is_train``), the images that none names.
    """
    table = whole(split, box_format)
    bases: dict[str, str] = {}  # "" where several listed names have the base name
    for key in listed:
        base = key.rpartition("/")[2]
        bases[base] = "" if base in bases else key
    keys = [_listed_names(path, listed, bases) for path in table.files]
    has_rest = rest_is_train(chain.from_iterable(listed.values()))
    is_rest = has_rest and part_name == "train"
    named = [any(part_name in listed[key] for key in each) for each in keys]
    keep = np.array([not each for each in keys] if is_rest else named, bool)
    if not keep.any():
        raise ValueError(f"{place} names no image of {part_name!r} that is there; check the names")
    part = table.selected(keep, np.ones(len(table.labels), bool))
    part.findings = table.findings
    said = f"{place}: {part_name}" + ", as no list names it" * is_rest
    part.findings.add("split-listed", said, int(keep.sum()))
    pairs = zip(table.files, keys, strict=True)
    part.findings.add("split-unlisted", [path for path, each in pairs if not (each or has_rest)])
    wanted = [key for key, splits in listed.items() if part_name in splits]
    found = {*chain.from_iterable(keys)}
    part.findings.add("image-missing", [f"{place}: {key}" for key in wanted if key not in found])
    return part


def split_lists(root: Path) -> dict[str, list[str]]:
    """Split → the names of its images, from SPLIT.txt in the first of ``PLACES`` that has some.

    Lists of single classes (cat_train.txt) are joined to one list for each split.
    """
    for place in PLACES:
        folder = root
        for name in place:
            folder = child(folder, name)
        files = {each.stem: each for each in paths_of(folder, ".txt")}
        files = {canonical(name): file for name, file in files.items()} | files
        usual = [name for name in (*USUAL, "trainval") if name in files]
        named = usual or [name for name in files if named_as_split(name)]
        if named:
            return {name: _listed(files[name]) for name in named}
        if place[:1] != ("ImageSets",):
            continue
        joined: dict[str, dict[str, None]] = {}
        for name in files:
            found = re.search(r"_(train|val|trainval|test)$", name)
            key = found.group(1) if found else name
            joined.setdefault(key, {}).update(dict.fromkeys(_listed(files[name])))
        if joined:
            return {name: list(listed) for name, listed in joined.items()}
    return {}


def _listed(file: Path) -> list[str]:
    """Names without extension; each may be followed by 1, 0 or −1, or by its annotation file."""
    names = []
    for line in read_text(file, Findings()).splitlines():
        name = (
            re.sub(r"(?<!\s)\s+(-?[01]|\d+(\s+\d+){2,})$", "", line.strip())
            .replace("\\", "/")
            .strip('"')
        )
        if name.casefold().endswith(".xml"):
            name = re.sub(r"(?i)^(\S.*\.(?:jpe?g|png|bmp|webp|tiff?))\s+\S.*$", r"\1", name)
        if name:
            names.append(re.sub(r"(?i)\.(xml|jpe?g|png|bmp|webp|tiff?)$", "", name))
    return [re.sub(r"^.*(JPEGImages|Annotations)/", "", name) for name in names]


def _listed_names(path: str, listed: Listed, bases: dict[str, str]) -> list[str]:
    """The listed names of an image: all ends of its path that are listed, or else its base name."""
    parts = os.path.splitext(path.replace("\\", "/"))[0].casefold().split("/")
    ends = ("/".join(parts[start:]) for start in range(len(parts)))
    base = bases.get(parts[-1])
    return [end for end in ends if end in listed] or ([base] if base else [])


def _by_name(pairs: Iterable[tuple[str, str]]) -> Listed:
    """The splits of each image, from pairs of both."""
    listed: Listed = {}
    for name, split in pairs:
        if key := without_ending("/".join(clean(name))).casefold():
            listed[key] = listed.get(key, frozenset()) | {canonical(split)}
    return listed


def _read(file: Path) -> Listed:
    """Image name → its splits; empty if the file lists fewer than two splits."""
    try:
        text = read_text(file, Findings())
        is_json = file.suffix.lower() == ".json"
        pairs = _pairs_of_json(parse_json(text, str(file))) if is_json else _pairs_of_table(text)
    except (ValueError, OSError):
        return {}
    return _by_name(pairs) if len({canonical(split) for _, split in pairs}) > 1 else {}


def _pairs_of_json(tree: Any) -> list[tuple[str, str]]:
    if isinstance(tree, list):
        return _pairs_of_rows([[*map(str, row.values())] for row in tree if isinstance(row, dict)])
    mapping = tree if isinstance(tree, dict) else {}
    if all(_is_split(key) and isinstance(names, list) for key, names in mapping.items()):
        return [(str(name), key) for key, names in mapping.items() for name in names]
    return [(name, str(split)) for name, split in mapping.items() if _is_split(split)]


def _pairs_of_table(text: str) -> list[tuple[str, str]]:
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    separator = max(",;\t ", key=lambda sign: sum(sign in line for line in lines))
    rows = [[cell.strip() for cell in row] for row in csv.reader(lines, delimiter=separator)]
    if rows and len(rows[0]) > 1 and all(map(_is_split, rows[0])):
        return [(cell, key) for row in rows[1:] for cell, key in zip(row, rows[0], strict=False)]
    return _pairs_of_rows(rows)


def _pairs_of_rows(rows: list[list[str]]) -> list[tuple[str, str]]:
    """Image and split of each row, if a column has splits in all rows except a header.

    The column of the images is that of file names, else by ``IMAGE_HEADERS``, else the first.
    """
    width = max(map(len, rows), default=0)
    rows = [row for row in rows if len(row) == width]
    for column in range(width):
        body = rows if rows and _is_split(rows[0][column]) else rows[1:]
        if width > 1 and body and all(_is_split(row[column]) for row in body):
            others = [n for n in range(width) if n != column]
            header = [cell.casefold() if rows is not body else "" for cell in rows[0]]
            images = [n for n in others if all(is_image(row[n]) for row in body)]
            named = [n for n in others if any(word in header[n] for word in IMAGE_HEADERS)]
            image = [*images, *named, *others][0]
            return [(row[image], row[column]) for row in body]
    return []


def _is_split(value: Any) -> bool:
    return isinstance(value, str) and canonical(value) in USUAL
