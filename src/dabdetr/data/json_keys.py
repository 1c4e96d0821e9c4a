"""Jsons of tools whose boxes are under fixed keys, which ``forms`` lists for each tool.

A path is keys separated by dots; ``*`` matches each value of a mapping or list, ``?`` the first
value in which the rest of the path exists. Of several paths the first that exists is used.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache
from itertools import chain
from pathlib import Path
from typing import Any

from dabdetr.data.box_formats import BoxFormat
from dabdetr.data.entries import Entry
from dabdetr.data.findings import Findings
from dabdetr.data.shapes import around, size_of, xywh
from dabdetr.data.textfiles import read_json
from dabdetr.text import as_numbers, shown

Where = str | tuple[str, ...]
POINTLESS = re.compile(r".*point|.*line|keypoints?|skeleton|tag|class|text|cuboid", re.IGNORECASE)
"""Kinds of annotations without area."""


CITY_FILE = re.compile(r"_(gtBboxCityPersons|gtFine_polygons|gtCoarse_polygons)$")
"""Suffix of Cityscapes' annotation files, in place of ``_leftImg8bit`` of the images."""


@dataclass(frozen=True)
class Keys:
    """The paths in the json of a tool; all except ``images`` are relative to an image's row.

    order    box format of the numbers
    images   the rows of images, of a whole file or of each of its lines
    image    the image's name or URL; "" is the name of the file
    boxes    the rows of boxes of an image; "" is the image's row itself
    class_   the class, relative to a row of boxes
    box      the box, relative to a row of boxes: four numbers as a list or text, or points (with
             ``order`` of corners); with ``sides``, a mapping of these
    sides    keys of the four numbers
    outline  points of a shape without a box, relative to a row of boxes
    kind     the kind of annotation, relative to a row of boxes
    size     width and height of the image
    split    the split of the image
    unlike   path relative to a row of boxes, and its value there for ignored regions
    sets     the sets of boxes of an image by several annotators, of which ``boxes`` uses one
    """

    order: BoxFormat
    image: Where
    boxes: Where
    class_: Where
    box: Where = ""
    sides: Sequence[str] = ()
    images: Where = ""
    outline: Where = ("polygon", "points", "vertices", "path")
    kind: Where = ("type", "shape", "geometryType")
    size: tuple[Where, Where] = ("width", "height")
    split: Where = ""
    unlike: tuple[Where, str] = ("", "")
    sets: Where = ()

    def read(self, file: Path, findings: Findings) -> Iterator[Entry]:
        """The boxes of a file."""
        for number, row in enumerate(_values(read_json(file, findings), self.images), 1):
            name = CITY_FILE.sub("_leftImg8bit", file.stem)
            name = _value(row, self.image) if self.image else name
            if not isinstance(row, dict) or not isinstance(name, str) or not name.strip():
                kind = "image-unnamed" if isinstance(row, dict) else "row-unreadable"
                findings.add(kind, f"{file}: row {number}")
                continue
            name = name.partition("?")[0]
            split = str(_value(row, self.split) or "" if self.split else "")
            size = size_of(*(_value(row, side) for side in self.size))
            yield Entry(name, str(file), size=size, split=split, listing=bool(self.boxes))
            if (many := len(_values(row, self.sets))) > 1:
                findings.add("annotators", f"{file}: {shown(name)} has {many}")
            for count, each in enumerate(_values(row, self.boxes), 1):
                place = f"{file}: row {number}"
                place = f"{file}: box {count} of {shown(name)}" if self.boxes else place
                if len(classes := {*map(str, _values(each, self.class_))}) > 1:
                    findings.add("class-several", f"{place}: {shown(sorted(classes))}")
                yield self._entry(each, name, place, split)

    def _entry(self, row: Any, name: str, place: str, split: str) -> Entry:
        class_, given = _value(row, self.class_), _value(row, self.box)
        label = "" if class_ is None else str(class_).strip()
        path, value = self.unlike
        if path and str(_value(row, path)) == value:
            return Entry(name, place, split=split, odd="region-uncared")
        box, odd = _numbers(given, self.sides), ""
        points = [] if box else [*_points([given, _value(row, self.outline)])]
        if len(points) > 1 and (edges := around(points)):
            box = edges if self.order.startswith("xyxy") else xywh(edges)
            odd = "" if _is_upright(given) else "box-from-shape"
        if box is None:
            kind = str(_value(row, self.kind) or "")
            odd = "shape-without-area" if POINTLESS.fullmatch(kind) else "box-unreadable"
        return Entry(name, place, label, box, split=split, odd=odd)


def _values(tree: Any, path: Where) -> list[Any]:
    """All values under the first of the paths that exists."""
    paths = (path,) if isinstance(path, str) else path
    return next(
        (found for each in paths if (found := _values_under(tree, _keys(each))) is not None), []
    )


@lru_cache
def _keys(path: str) -> list[str]:
    return [key.replace("\\", "") for key in re.split(r"(?<!\\)\.", path)] if path else []


def _values_under(tree: Any, keys: Sequence[str]) -> list[Any] | None:
    """The values under ``keys``; None if the path does not exist, unlike an empty list."""
    if not keys:
        return [tree]
    (key, *rest), values = keys, []
    if key in ("*", "?"):
        values = [*tree.values()] if isinstance(tree, dict) else tree
        values = values if isinstance(values, list) else None
    elif isinstance(tree, dict):
        values = [tree[key]] if tree.get(key) is not None else []
    elif key == "-1" and isinstance(tree, list):
        values = tree[-1:]
    if not rest and key == "*":
        return values
    parts = [part for each in values or () if (part := _values_under(each, rest)) is not None]
    return list(chain.from_iterable(parts[:1] if key == "?" else parts)) if parts else None


def _value(tree: Any, path: Where) -> Any:
    return next(iter(_values(tree, path)), None)


def _numbers(given: Any, sides: Sequence[str]) -> list[float] | None:
    """Four numbers from a mapping with ``sides``, a list or text."""
    if isinstance(given, str):
        given = given.split(",")
    if sides:
        given = map(given.get, sides) if isinstance(given, dict) else ()
    four = as_numbers(given) if isinstance(given, Iterable) else None
    return four if four and len(four) == 4 else None


def _points(given: Any) -> Iterator[Sequence[Any]]:
    """All points in lists and mappings."""
    if isinstance(given, dict):
        if {"x", "y"} <= given.keys():
            yield given["x"], given["y"]
        else:
            for each in given.values():
                yield from _points(each)
    elif isinstance(given, list):
        if len(given) == 2 and all(isinstance(value, int | float) for value in given):
            yield given
        else:
            for each in given:
                yield from _points(each)


def _is_upright(given: Any) -> bool:
    """Whether points are the corners of an upright box: two of them, or all four."""
    points = list(_points(given))
    around_ = len({point[0] for point in points}) == 2 == len({point[1] for point in points})
    return len(points) in (2, 4) and around_
