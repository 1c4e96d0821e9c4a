"""Reader of VGG Image Annotator: a project or exported json, or its csv (see ``forms``)."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from dabdetr.data.entries import Entry
from dabdetr.data.findings import Findings
from dabdetr.data.shapes import around
from dabdetr.data.textfiles import HEAD, mapping, parse_cell, parse_counting, read_text
from dabdetr.text import as_numbers, parse_json, shown

CLASS_KEYS = ("class", "label", "name", "type", "category", "object")
"""Attributes that can hold the class where a region has several; letter case is ignored."""
OUTLINES = (7, 8)
KINDS = {1: "point", 2: "rect", 3: "circle", 4: "ellipse", 5: "line", 6: "polyline", 7: "polygon"}
KINDS |= {8: "polygon"}  # four points at the extremes of a box
"""VIA 3's numbers of shapes."""
SHAPES = {2: ("x", "y", "width", "height"), 3: ("cx", "cy", "r"), 4: ("cx", "cy", "rx", "ry")}
FOUR = {
    "rect": ("x", "y", "width", "height"),
    "circle": ("cx", "cy", "r", "r"),
    "ellipse": ("cx", "cy", "rx", "ry"),
}
"""Numbers of a shape: a corner and its size, or centre and radii."""
KEYS = ("shape_attributes", "region_attributes")
VIA3_CSV = b"# CSV_HEADER = metadata_id"
"""The line above the rows of VIA 3's csv."""
Region = tuple[str, dict[str, Any], dict[str, Any]]
"""File name, shape and attributes; an empty shape only lists the image."""


def via(file: Path, findings: Findings) -> Iterator[Entry]:
    """The regions of a project, of an exported json or csv, or of VIA 3's."""
    for number, (named, shape, attributes) in enumerate(_regions(file, findings), 1):
        location = f"{file}: region {number} of {shown(named)}"
        edges, odd, location = _edges(shape, location) if shape else (None, "", location)
        classes = _classes(attributes)
        findings.add("class-several", [f"{location}: {shown(classes)}"] * (len(classes) > 1))
        yield Entry(named, location, next(iter(classes), ""), edges, odd=odd)


def _regions(file: Path, findings: Findings) -> Iterator[Region]:
    """All regions, and an empty shape for each image, so that images without regions are listed."""
    text = read_text(file, findings)
    if VIA3_CSV.decode() in text[:HEAD]:
        yield from _via3_rows(text, file, findings)
        return
    if file.suffix.lower() == ".csv":
        header = text.rfind("\n", 0, text.index("region_shape_attributes")) + 1
        for row in csv.DictReader(io.StringIO(text[header:].removeprefix("#"))):
            shape, attributes = (
                parse_cell(row.get(key)) for key in ("region_shape_attributes", KEYS[1])
            )
            if not isinstance(shape, dict) and shape:
                findings.add("box-unreadable", f"{file}: {shown(shape)}")
            yield row.get("filename") or "", mapping(shape), mapping(attributes)
        return
    tree = parse_counting(text, str(file), findings)
    if isinstance(tree, dict) and isinstance(tree.get("metadata"), dict):
        yield from _via3_regions(tree, file, findings)
        return
    options: dict[str, dict[str, Any]] = {}
    if isinstance(tree, dict) and isinstance(tree.get("_via_img_metadata"), dict):
        declared = _mappings_of(mapping(tree.get("_via_attributes")).get("region"))
        options = {name: mapping(each.get("options")) for name, each in declared.items()}
        tree = tree["_via_img_metadata"]
    for image in tree.values() if isinstance(tree, dict) else []:
        if not isinstance(image, dict) or not isinstance(image.get("filename"), str):
            findings.add("row-unreadable", f"{file}: {shown(image)}")
            continue
        regions = image.get("regions") or []
        regions = list(regions.values()) if isinstance(regions, dict) else regions
        yield image["filename"], {}, {}
        for region in regions if isinstance(regions, list) else []:
            shape, attributes = (mapping(region).get(key) for key in KEYS)
            if not isinstance(shape, dict):
                findings.add("box-unreadable", f"{file}: {shown(image['filename'])}")
                continue
            chosen = mapping(attributes).items()
            named = {key: _described(value, options.get(key, {})) for key, value in chosen}
            yield image["filename"], shape, named


def _described(value: Any, options: dict[str, Any]) -> Any:
    """An attribute's value, with the descriptions of chosen ``options`` whose ids are numbers."""
    if isinstance(value, dict):
        return {_described(each, options): chosen for each, chosen in value.items()}
    numbered = isinstance(value, str) and value.isdecimal()
    return str(options.get(value) or value) if numbered else value


def _via3_regions(tree: dict[str, Any], file: Path, findings: Findings) -> Iterator[Region]:
    """VIA 3: regions refer to views of files; a shape is the number of its kind and coordinates."""
    files, views, declared = (_mappings_of(tree.get(key)) for key in ("file", "view", "attribute"))
    names: dict[str, str] = {}
    for number, view in views.items():
        ids = view.get("fid_list") or [None]
        names[number] = str(files.get(str(ids[0]), {}).get("fname") or "")
        if names[number]:
            yield names[number], {}, {}
    for row in _mappings_of(tree.get("metadata")).values():
        named = names.get(str(row.get("vid")), "")
        yield from _via3_region(named, row.get("xy"), row.get("av"), declared, file, findings)


def _via3_rows(text: str, file: Path, findings: Findings) -> Iterator[Region]:
    """VIA 3's csv: rows of JSON cells, below comments with the attributes and the header."""
    lines = text.splitlines()
    comments = [line for line in lines if line.startswith("#")]
    found = next((line for line in comments if line.startswith("# ATTRIBUTE = ")), "= {}")
    declared = _mappings_of(parse_json(found.partition("= ")[2], str(file)))
    header = next(line for line in comments if line.startswith(VIA3_CSV.decode()))
    columns = [name.strip() for name in header.partition("= ")[2].split(",")]
    for cells in csv.reader(line for line in lines if line and not line.startswith("#")):
        row = dict(zip(columns, cells, strict=False))
        try:
            named, xy, chosen = (
                parse_json(row.get(column) or "null", column)
                for column in ("file_list", "spatial_coordinates", "metadata")
            )
        except ValueError as error:
            findings.add("row-unreadable", f"{file}: {error}")
            continue
        name = str(named[0]) if isinstance(named, list) and named else ""
        yield from _via3_region(name, xy, chosen, declared, file, findings)


def _via3_region(
    named: str,
    numbers: Any,
    chosen: Any,
    declared: dict[str, dict[str, Any]],
    file: Path,
    findings: Findings,
) -> Iterator[Region]:
    """The region of a shape's numbers and the values chosen for the ``declared`` attributes."""
    if not named or not isinstance(numbers, list) or not numbers:
        findings.add("row-unreadable", f"{file}: {shown(named)} {shown(numbers)}")
        return
    kind, *points = numbers
    keys = SHAPES.get(kind, ())
    shape = {"name": KINDS.get(kind, kind), **dict(zip(keys, points, strict=False))}
    if kind in OUTLINES:
        shape |= {"all_points_x": points[::2], "all_points_y": points[1::2]}
    attributes: dict[str, Any] = {}
    for id_, value in mapping(chosen).items():  # the number of an option, or a value
        attribute = declared.get(id_, {})
        text = mapping(attribute.get("options")).get(str(value), value)
        attributes[str(attribute.get("aname") or id_)] = text
    yield named, shape, attributes


def _mappings_of(value: Any) -> dict[str, dict[str, Any]]:
    """The entries of a mapping whose values are mappings; empty for anything else."""
    return {str(key): each for key, each in mapping(value).items() if isinstance(each, dict)}


def _classes(attributes: dict[str, Any]) -> list[str]:
    """The classes in a region's attributes: of the first of ``CLASS_KEYS``, or else of all."""
    by_key = {key.casefold(): value for key, value in attributes.items()}
    key = next((key for key in CLASS_KEYS if key in by_key), None)
    found: list[str] = []
    for value in by_key.values() if key is None else [by_key[key]]:
        boxes = mapping(value)  # checkboxes: {"red": true}
        found += [name for name, is_chosen in boxes.items() if is_chosen]
        found += [] if isinstance(value, dict) else [str(value).strip()]
    return [name for name in found if name]


def _edges(
    shape: dict[str, Any], location: str
) -> tuple[tuple[float, float, float, float] | None, str, str]:
    """x0, y0, x1, y1 of a region, the kind of finding to count it as, and the finding's text.

    None instead of edges if the shape has no area or lacks numbers.
    """
    kind, edges = str(shape.get("name")), None
    four = as_numbers(map(shape.get, FOUR[kind])) if kind in FOUR else None
    if four:
        a, b, c, d = four
        edges = (a, b, a + c, b + d) if kind == "rect" else (a - c, b - d, a + c, b + d)
    elif kind == "polygon":
        xs, ys = shape.get("all_points_x"), shape.get("all_points_y")
        if isinstance(xs, list) and isinstance(ys, list) and len(xs) == len(ys):
            edges = around(zip(xs, ys, strict=True))
    if edges:
        return edges, "" if kind == "rect" else "box-from-shape", location
    if kind in (*FOUR, "polygon"):
        return None, "box-unreadable", f"{location}: {shown(shape)}"
    return None, "shape-without-area", f"{location}, a {shown(shape.get('name'))}"
