"""Files that list the split of each image: split.csv, splits.json, split.txt.

A row names an image and a split, in any order and among other columns; or the columns, or the keys
of a JSON object, are the splits. Such a file divides a data set that has only one split.
"""

from __future__ import annotations

import csv
import os
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from dabdetr.data.box_formats import Asked
from dabdetr.data.findings import Findings
from dabdetr.data.images import IMAGE_SUFFIXES
from dabdetr.data.locate import USUAL, canonical, clean, paths_of, without_ending
from dabdetr.data.records import Open, RecordTable
from dabdetr.data.textfiles import read_text
from dabdetr.text import parse_json

LIST = re.compile(
    r"([a-z]+_)?(data_?)?splits?(_list|_info)?|train_(val|test|valid)(_test)?_split|partitions?"
    r"|subsets?",
    re.IGNORECASE,
)
ENDINGS = (".csv", ".tsv", ".txt", ".json")
IMAGE_HEADERS = ("image", "file", "name", "id", "path", "stem")
"""Words in the header of the column of images."""


def divided(root: Path, found: dict[str, Open]) -> dict[str, Open]:
    """The splits by a list in ``root``, if the layout has only one; else ``found``."""
    if len(found) != 1 or not root.is_dir():
        return found
    whole = next(iter(found.values()))
    for file in paths_of(root, *ENDINGS):
        if LIST.fullmatch(file.stem):
            listed = _read(file)
            if listed:
                names = dict.fromkeys(listed.values())
                return {name: _part_opener(whole, file, listed, name) for name in names}
    return found


def _part_opener(whole: Open, file: Path, listed: dict[str, str], part_name: str) -> Open:
    """Opens the images of ``whole`` that ``file`` lists in the split ``part_name``."""

    def read(split: str, box_format: Asked | None = None) -> RecordTable:
        table = whole(split, box_format)
        bases = _unique_bases(listed)
        matches = [_split_of(path, listed, bases) for path in table.files]
        keep = np.array([name == part_name for name, _ in matches], bool)
        if not keep.any():
            raise ValueError(
                f"{file} names no image of {part_name!r} that is there; check the names"
            )
        part = table.selected(keep, np.ones(len(table.labels), bool))
        part.findings = table.findings
        part.findings.add("split-listed", f"{file}: {part_name}", int(keep.sum()))
        pairs = zip(table.files, matches, strict=True)
        part.findings.add("split-unlisted", [path for path, (name, _) in pairs if not name])
        matched = {key for _, key in matches}
        missing = [key for key, name in listed.items() if name == part_name and key not in matched]
        part.findings.add("image-missing", [f"{file}: {key}" for key in missing])
        return part

    return read


def _unique_bases(listed: dict[str, str]) -> dict[str, str]:
    """Base name → the listed name; "" where several listed names have it."""
    bases: dict[str, str] = {}
    for key in listed:
        base = key.rpartition("/")[2]
        bases[base] = "" if base in bases else key
    return bases


def _split_of(path: str, listed: dict[str, str], bases: dict[str, str]) -> tuple[str, str]:
    """Split and listed name of an image: the longest listed end of its path, else its base name."""
    parts = os.path.splitext(path.replace("\\", "/"))[0].casefold().split("/")
    keys = ("/".join(parts[start:]) for start in range(len(parts)))
    key = next((each for each in keys if each in listed), bases.get(parts[-1], ""))
    return listed.get(key, ""), key


def _key(name: str) -> str:
    """A listed name in the form that is compared: without extension and case."""
    return without_ending("/".join(clean(name))).casefold()


def _read(file: Path) -> dict[str, str]:
    """Image name (see ``_key``) → split; empty if the file lists fewer than two splits."""
    try:
        text = read_text(file, Findings())
        pairs = (
            _pairs_of_json(parse_json(text, str(file))) if file.suffix.lower() == ".json" else None
        )
    except (ValueError, OSError):
        return {}
    pairs = _pairs_of_table(text) if pairs is None else pairs
    listed = {_key(name): split for name, split in pairs if name}
    return listed if len({canonical(split) for split in listed.values()}) > 1 else {}


def _pairs_of_json(tree: Any) -> list[tuple[str, str]]:
    if isinstance(tree, list):
        rows = [[*map(str, row.values())] for row in tree if isinstance(row, dict)]
        return list(_pairs_of_columns(rows))
    mapping = tree if isinstance(tree, dict) else {}
    if mapping and all(
        _is_split(key) and isinstance(names, list) for key, names in mapping.items()
    ):
        return [(str(name), key) for key, names in mapping.items() for name in names]
    return [(name, str(split)) for name, split in mapping.items() if _is_split(split)]


def _pairs_of_table(text: str) -> list[tuple[str, str]]:
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    separator = max(",;\t ", key=lambda sign: sum(sign in line for line in lines))
    rows = [[cell.strip() for cell in row] for row in csv.reader(lines, delimiter=separator)]
    if rows and len(rows[0]) > 1 and all(map(_is_split, rows[0])):
        return [(cell, key) for row in rows[1:] for cell, key in zip(row, rows[0], strict=False)]
    return list(_pairs_of_columns(rows))


def _pairs_of_columns(rows: list[list[str]]) -> Iterator[tuple[str, str]]:
    """Image and split of each row, if a column has splits in all rows except a header."""
    width = max(map(len, rows), default=0)
    rows = [row for row in rows if len(row) == width]
    for column in range(width):
        body = rows if rows and _is_split(rows[0][column]) else rows[1:]
        if width > 1 and body and all(_is_split(row[column]) for row in body):
            others = [n for n in range(width) if n != column]
            image_column = _image_column(rows, body, others)
            yield from ((row[image_column], row[column]) for row in body)
            return


def _image_column(rows: list[list[str]], body: list[list[str]], columns: list[int]) -> int:
    """The column of the images: of file names, else by ``IMAGE_HEADERS``, else the first."""
    for n in columns:
        if all(os.path.splitext(row[n])[1].lower() in IMAGE_SUFFIXES for row in body):
            return n
    header = rows[0] if rows is not body else []
    named = (
        n for n in columns if header and any(word in header[n].casefold() for word in IMAGE_HEADERS)
    )
    return next(named, columns[0])


def _is_split(value: Any) -> bool:
    return isinstance(value, str) and canonical(value) in USUAL
