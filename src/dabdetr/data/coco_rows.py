"""The rows of ``annotations`` in a COCO json."""

from __future__ import annotations

from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np

from dabdetr.data.class_lists import Numbers, find_step
from dabdetr.data.findings import Findings
from dabdetr.data.ids import key, whole
from dabdetr.data.records import Rows
from dabdetr.data.shapes import around_segmentation, box_of, rotation_of, turned_xywh, xywh
from dabdetr.text import as_number, shown

WORDS = {"true": True, "yes": True, "false": False, "no": False}
"""Values of iscrowd as text."""


def objects(rows: list[Any], findings: Findings, file: Path) -> list[dict[str, Any]]:
    """The rows that are JSON objects."""
    if all(type(row) is dict for row in rows):
        return rows
    odd = [f"{file}: {shown(row)}" for row in rows if not isinstance(row, dict)]
    findings.add("row-unreadable", odd)
    return [row for row in rows if isinstance(row, dict)]


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

    def class_numbers(self, labels: dict[Any, int], expected: int | None) -> Numbers:
        """The class ids of the rows and of ``labels``, and the step between them."""
        given = (row.get("category_id") for row in self.rows)
        used = map(whole, {id_ for id_ in given if isinstance(id_, int | float | str)})
        numbers = (id_ for id_ in used if id_ is not None)
        listed = (id_ for id_ in labels if isinstance(id_, int))
        return find_step(numbers, listed, expected, self.findings, str(self.file))

    def fill(self, rows: Rows, places: dict[int | str, int], labels: dict[Any, int]) -> None:
        """Write the usable rows to ``rows``."""
        image = self._indices("image_id", places)
        label = self._indices("category_id", labels)
        unknown = np.flatnonzero(label < 0).tolist()
        self.count("class-unknown", unknown, "category_id", " has category_id ")
        unknown = np.flatnonzero((label >= 0) & (image == -1)).tolist()
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
        """The value of each row's id in ``known``; −1 if it is not there."""
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
                four = xywh(edges)
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
            numbers[row] = turned_xywh(numbers[row].tolist(), angle)
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
