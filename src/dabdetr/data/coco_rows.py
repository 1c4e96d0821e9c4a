"""Annotation rows of a COCO json as columns, with the variants of values that tools write."""

from __future__ import annotations

import re
from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np

from dabdetr.data.findings import Findings
from dabdetr.data.records import Rows, count_shifted
from dabdetr.data.shapes import around_segmentation, rotation_of, turned
from dabdetr.text import as_number, as_numbers, shown

WORDS = {"true": True, "yes": True, "false": False, "no": False}
"""Values of iscrowd as text."""
NAMED = (
    ("x", "y", "width", "height"),
    ("x", "y", "w", "h"),
    ("xmin", "ymin", "xmax", "ymax"),
    ("x1", "y1", "x2", "y2"),
)
"""Names of the numbers of a box given as a mapping; the last two entries are corners."""


def objects(rows: list[Any], findings: Findings, file: Path) -> list[dict[str, Any]]:
    """The rows that are JSON objects."""
    if all(type(row) is dict for row in rows):
        return rows
    odd = [f"{file}: {shown(row)}" for row in rows if not isinstance(row, dict)]
    findings.add("row-unreadable", odd)
    return [row for row in rows if isinstance(row, dict)]


def whole(value: Any) -> int | None:
    """The integer value of a number or text; None if it has none."""
    if isinstance(value, bool):
        return None
    if isinstance(value, str):
        text = value.strip()
        value = int(text) if re.fullmatch(r"[+-]?\d{1,18}", text) else as_number(text)
    if isinstance(value, float):
        value = int(value) if value.is_integer() and abs(value) < 2**53 else None
    return value if isinstance(value, int) and abs(value) < 2**63 else None


def key(value: Any) -> int | str | None:
    """An id in the form used for comparison: an integer if possible, otherwise its text."""
    if type(value) is int:
        return value if abs(value) < 2**63 else str(value)
    number = whole(value)
    if number is None and isinstance(value, str):
        return value.strip() or None
    return number


class Annotations:
    """The rows of ``annotations``, converted to columns."""

    def __init__(self, given: list[Any], file: Path, findings: Findings) -> None:
        self.file, self.findings = file, findings
        self.rows = objects(given, findings, file)
        ids = [row.get("id") for row in self.rows]
        kinds = set(map(type, ids))
        repeated = len(ids) - len(set(ids)) if kinds <= {int} else len(ids)
        if kinds - {int} or repeated:
            again = len(ids) - len({str(id_) for id_ in ids if id_ is not None})
            self.findings.add("annotation-id", self.place(0), again)

    def place(self, row: int) -> str:
        """File and annotation id (or position in the list) of a row, for messages."""
        return _place(self.file, row, self.rows[row].get("id"))

    def count(self, kind: str, rows: list[int], column: str, text: str = ": ") -> None:
        """Count the rows as ``kind``, with the value of a column as example."""
        values = ((self.place(row), self.rows[row].get(column)) for row in rows)
        self.findings.add(kind, (f"{place}{text}{shown(v)}" for place, v in values), len(rows))

    def fill(self, rows: Rows, places: dict[int | str, int], labels: dict[Any, int]) -> None:
        """Write the usable rows to ``rows``."""
        image = self._indices("image_id", places)
        label = self._indices("category_id", labels)
        unknown = np.flatnonzero(label < 0).tolist()
        self.count("class-unknown", unknown, "category_id", " has category_id ")
        if unknown:
            used = {whole(row.get("category_id")) for row in self.rows} - {None}
            listed = {id_ for id_ in labels if isinstance(id_, int)}
            count_shifted(used, listed, self.findings, str(self.file))  # pyright: ignore
        unknown = np.flatnonzero((label >= 0) & (image < 0)).tolist()
        self.count("image-unknown", unknown, "image_id", " has image_id ")
        numbers, found = self._boxes()
        self._mend_rotated(numbers)
        keep = np.flatnonzero((image >= 0) & (label >= 0) & found)
        rows.image, rows.label = image[keep], label[keep]
        rows.numbers = numbers[keep]
        rows.crowd, rows.areas = self._crowd()[keep], self._areas()[keep]
        ids = [self.rows[at].get("id") for at in keep.tolist()]  # without the rest of the rows
        file = self.file
        rows.place = lambda row: _place(file, int(keep[row]), ids[row])

    def _indices(self, column: str, known: dict[Any, int]) -> np.ndarray:
        """Index of each row's id in ``known``; −1 if it is not there."""
        values: list[Any] = [row.get(column) for row in self.rows]
        if set(map(type, values)) <= {int} and max(map(abs, values), default=0) < 2**63:
            return np.array([known.get(value, -1) for value in values], np.int64)
        found = np.array([known.get(key(value), -1) for value in values], np.int64)
        pairs = zip(values, found.tolist(), strict=True)
        odd = [row for row, (value, at) in enumerate(pairs) if at >= 0 and type(value) is not int]
        self.count("id-text", odd, column, f", {column} ")
        return found

    def _boxes(self) -> tuple[np.ndarray, np.ndarray]:
        """[n, 4] numbers of the boxes, and [n] bool: whether the row has a readable box."""
        given: list[Any] = [row.get("bbox") for row in self.rows]
        plain = all(type(box) is list and len(box) == 4 for box in given)
        if plain and set(map(type, chain.from_iterable(given))) <= {int, float}:
            try:
                numbers = np.array(given, np.float64).reshape(-1, 4)
                return numbers, np.ones(len(given), bool)
            except OverflowError:
                pass
        numbers = np.full((len(given), 4), np.nan)
        found = np.zeros(len(given), bool)
        kinds = ("box-text", "box-named", "box-from-shape", "box-unreadable")
        odd: dict[str, list[int]] = {kind: [] for kind in kinds}
        for row, box in enumerate(given):
            four = box_of(box)
            if four is None and (edges := around_segmentation(self.rows[row].get("segmentation"))):
                x0, y0, x1, y1 = edges
                four = [x0, y0, x1 - x0, y1 - y0]
                odd["box-from-shape"].append(row)
            elif four is None:
                odd["box-unreadable"].append(row)
                continue
            elif any(isinstance(v, str) for v in (box.values() if type(box) is dict else box)):
                odd["box-text"].append(row)
            elif not (isinstance(box, list) and len(box) == 4):
                odd["box-named"].append(row)
            numbers[row], found[row] = four, True
        for kind, rows in odd.items():
            self.count(kind, rows, "bbox")
        return numbers, found

    def _mend_rotated(self, numbers: np.ndarray) -> None:
        """Replace boxes that CVAT's attribute marks as rotated by upright boxes around them."""
        if not any("attributes" in row for row in self.rows):
            return
        angles = np.array([rotation_of(row) for row in self.rows])
        found = np.flatnonzero(angles)
        for row, angle in zip(found.tolist(), angles[found].tolist(), strict=True):
            x, y, width, height = numbers[row].tolist()
            x0, y0, x1, y1 = turned((x, y, x + width, y + height), angle)
            numbers[row] = x0, y0, x1 - x0, y1 - y0
        self.findings.add("box-rotated", map(self.place, found.tolist()), len(found))

    def _crowd(self) -> np.ndarray:
        given = [row.get("iscrowd", 0) for row in self.rows]
        if set(map(type, given)) <= {int} and set(given) <= {0, 1}:
            return np.array(given, bool)
        worded = [WORDS.get(v.strip().casefold()) if isinstance(v, str) else None for v in given]
        words = [row for row, value in enumerate(worded) if value is not None]
        self.count("crowd-text", words, "iscrowd")
        read = [
            w if w is not None else 0 if v is None else v if isinstance(v, bool) else whole(v)
            for v, w in zip(given, worded, strict=True)
        ]
        odd = [row for row, value in enumerate(read) if value not in (0, 1)]
        self.count("crowd-odd", odd, "iscrowd")
        return np.array([value == 1 for value in read], bool)

    def _areas(self) -> np.ndarray:
        """[n] areas in square pixels; NaN if a row has no usable one."""
        given = [row.get("area") for row in self.rows]
        if set(map(type, given)) <= {int, float}:
            read: list[Any] = given
        else:
            read = [None if isinstance(v, str) else as_number(v) for v in given]
        usable = [v is not None and 0 < v < 1e14 for v in read]
        odd = [
            row
            for row, (value, ok) in enumerate(zip(given, usable, strict=True))
            if not ok and value is not None and value != 0
        ]
        self.count("area-odd", odd, "area")
        pairs = zip(read, usable, strict=True)
        return np.array([v if ok else np.nan for v, ok in pairs], np.float64)


def _place(file: Path, row: int, id_: Any) -> str:
    return f"{file}: annotation " + (f"{row + 1} of the list" if id_ is None else shown(id_))


def box_of(box: Any) -> list[float] | None:
    """x, y, width, height, also from text, two points or named numbers; None for anything else.

    A list around the box is ignored, as is a score after the four numbers.
    """
    if isinstance(box, str):
        box = re.split(r"[\s,;]+", box.strip(" \t\r\n()[]"))
    if isinstance(box, dict):
        given = {str(name).casefold(): value for name, value in box.items()}
        for names in NAMED:
            if all(name in given for name in names):
                box = [given[name] for name in names]
                return box_of([box[:2], box[2:]] if names in NAMED[2:] else box)
        return None
    if not isinstance(box, list | tuple):
        return None
    if len(box) == 1 and isinstance(box[0], list | tuple):
        return box_of(box[0])
    if len(box) == 5 and isinstance(box[4], int | float) and 0 <= box[4] <= 1:
        box = box[:4]
    corners = len(box) == 2 and all(
        isinstance(each, list | tuple) and len(each) == 2 for each in box
    )
    four = as_numbers(chain.from_iterable(box) if corners else box)
    if four is None or len(four) != 4:
        return None
    a, b, c, d = four
    return [a, b, c - a, d - b] if corners else four
