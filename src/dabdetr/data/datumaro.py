"""Datumaro's layout: annotations/SPLIT.json with items, and images in images/."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Any

from dabdetr.data.box_formats import Asked
from dabdetr.data.class_lists import class_table
from dabdetr.data.findings import Findings
from dabdetr.data.locate import ImageFolders, child, paths_of
from dabdetr.data.records import Open, RecordTable, Rows
from dabdetr.data.shapes import (
    around_flat,
    around_segmentation,
    rotation_of,
    size_of,
    turned_xywh,
    xywh,
)
from dabdetr.data.textfiles import head_of, mapping, parse_counting, read_text
from dabdetr.text import as_numbers, counted, shown


def find_datumaro(root: Path) -> dict[str, Open]:
    """Split → its opener, one for each json in annotations/."""
    single = root.is_file()
    files = [root] if single else paths_of(child(root, "annotations"), ".json")
    return {file.stem: partial(_open, file) for file in files if _is_datumaro(file)}


def _is_datumaro(file: Path) -> bool:
    if file.suffix.lower() != ".json":
        return False
    head = head_of(file)
    return (b'"items"' in head and b'"categories"' in head) or b'"dm_format_version"' in head


def _open(file: Path, split: str, box_format: Asked | None = None) -> RecordTable:
    root, findings = file.parent.parent, Findings()
    tree = mapping(parse_counting(read_text(file, findings), str(file), findings))
    items = tree.get("items")
    if not isinstance(items, list):
        raise ValueError(f"{file} has no list of items; datumaro's json has categories and items")
    pairs = list(enumerate(_names(tree)))
    if not pairs:
        raise ValueError(f"{file} names no labels; categories.label.labels should hold them")
    category_ids, names, labels = class_table(pairs, findings, root)
    rows = Rows(findings, "xywh")
    missing: list[str] = []
    folders = (root / "images" / file.stem, root / "images", root / "image" / file.stem, root)
    finder = ImageFolders([folder for folder in folders if folder.is_dir()], findings)
    for item in items:
        if not isinstance(item, dict):
            findings.add("row-unreadable", f"{file}: {shown(item)}")
            continue
        image = mapping(item.get("image"))
        id_ = str(item.get("id", ""))
        image_paths = [path] if isinstance(path := image.get("path"), str) and path else []
        below, _, stem = id_.rpartition("/")
        found = finder.find_named(image_paths, below, stem)
        if found is None:
            missing.append(
                f"{file}: item {shown(id_)} has no image {shown((image_paths or [id_])[0])}"
            )
            continue
        size = image.get("size")  # height, width
        size = size_of(*size[::-1]) if isinstance(size, list) and len(size) == 2 else (0, 0)
        index = rows.add_image(found, size)
        annotations = item.get("annotations")
        for number, each in enumerate(annotations if isinstance(annotations, list) else [], 1):
            place = f"{file}: item {shown(id_)}, annotation {number}"
            box = _box(each, place, findings)
            if box is None:
                continue
            label = labels.get(each.get("label_id"))  # pyright: ignore[reportArgumentType]
            if label is None:
                findings.add("class-unknown", f"{place} has label_id {shown(each.get('label_id'))}")
                continue
            crowd = bool(mapping(each.get("attributes")).get("is_crowd"))
            rows.add_box(index, label, box, crowd, place)
    findings.add("image-missing", missing)
    if not rows.files:
        raise FileNotFoundError(
            f"{missing[0] if missing else file}: no image of its {counted(len(items), 'item')} "
            f"is in {root / 'images'}"
        )
    data = RecordTable(rows, root.resolve().name, split, names, category_ids, box_format)
    return data.checked()


def _names(tree: dict[str, Any]) -> list[str]:
    rows = mapping(mapping(tree.get("categories")).get("label")).get("labels")
    rows = rows if isinstance(rows, list) else []
    return [row.get("name", "") if isinstance(row, dict) else str(row) for row in rows]


def _box(each: Any, place: str, findings: Findings) -> tuple[float, ...] | None:
    """x, y, width, height; None for captions, labels and shapes without area."""
    kind = mapping(each).get("type")
    if kind in ("label", "caption", "cuboid_3d", None):
        return None
    edges = None
    if kind == "bbox":
        box = each.get("bbox")
        if isinstance(box, list) and len(box) == 4 and (four := as_numbers(box)):
            angle = rotation_of(each)
            findings.add("box-rotated", [place] * bool(angle))
            return turned_xywh(four, angle)
    elif kind == "polygon":
        flat = each.get("points")
        if isinstance(flat, list) and len(flat) > 5:
            edges = around_flat(flat)
    elif kind == "mask":
        edges = around_segmentation(each.get("rle"))
    elif kind in ("points", "polyline"):
        findings.add("shape-without-area", f"{place}, {kind}")
        return None
    if edges is None:
        findings.add("box-unreadable", place)
        return None
    findings.add("box-from-shape", place)
    return xywh(edges)
