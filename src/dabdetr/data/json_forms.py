"""Readers of the jsons and JSON lines of tools, which yield ``Entry``s (see ``forms``)."""

from __future__ import annotations

import base64
import binascii
import io
import math
import os
import re
import zlib
from collections.abc import Iterable, Iterator, Sequence
from contextlib import suppress
from itertools import zip_longest
from pathlib import Path
from typing import Any

from PIL import Image, UnidentifiedImageError

from dabdetr.data.class_lists import find_step, name_list, names_beside
from dabdetr.data.entries import Entry
from dabdetr.data.findings import Findings
from dabdetr.data.locate import is_image
from dabdetr.data.shapes import around, around_flat, box_of, size_of, xywh
from dabdetr.data.textfiles import mapping, read_json, read_text
from dabdetr.text import as_number, as_numbers, parse_json, parse_yaml, shown

MOST_MASK = 64 << 20
"""Most bytes of a compressed mask after decompression."""
CORNERS = ("x1", "y1", "x2", "y2")
SIDES = ("left", "top", "width", "height")


def _rows(file: Path, findings: Findings) -> Iterator[dict[str, Any]]:
    """The mappings in the list of a file; other rows are counted."""
    tree = read_json(file, findings)
    for number, row in enumerate(tree if isinstance(tree, list) else [tree], 1):
        if isinstance(row, dict):
            yield row
        else:
            findings.add("row-unreadable", f"{file}: row {number}: {shown(row)}")


def _objects(given: Any) -> Iterator[dict[str, Any]]:
    """The mappings in a list."""
    yield from (each for each in given if isinstance(each, dict)) if isinstance(given, list) else ()


def _size(given: Any) -> tuple[int, int]:
    """(width, height) of a mapping; (0, 0) if it has none."""
    return size_of(*map(mapping(given).get, ("width", "height")))


def _four(given: dict[Any, Any], keys: Sequence[Any]) -> list[float] | None:
    return as_numbers(given.get(key) for key in keys)


def label_studio(file: Path, findings: Findings) -> Iterator[Entry]:
    """Label Studio's list of tasks, as JSON or JSON-MIN."""
    for row in _rows(file, findings):
        place = f"{file}: task {shown(row.get('id'))}"
        data = row["data"] if isinstance(row.get("data"), dict) else row
        named = _named_images(data)
        if not named:
            findings.add("image-unnamed", place)
            continue
        for image in named.values():
            yield Entry(image, place, listing=True)
        drawn = row.get("annotations") or row.get("completions")
        drawn = [
            each for each in drawn or [] if isinstance(each, dict) and not each.get("was_cancelled")
        ]
        if not drawn and row.get("predictions"):
            findings.add("predictions", place)
        if len(drawn) > 1:
            findings.add("annotators", f"{place} has {len(drawn)}")
        results = drawn[-1].get("result") if drawn else None
        if results is None:  # JSON-MIN: the values of a control are under its name
            lists = [value for value in row.values() if isinstance(value, list)]
            results = [{"value": each} for some in lists for each in some]
        for number, result in enumerate(results if isinstance(results, list) else [], 1):
            value = result.get("value") if isinstance(result, dict) else None
            if not isinstance(value, dict):
                continue
            keys = (result.get("item_index"), result.get("to_name"))
            image = next((named[key] for key in keys if key in named), "")
            if not image and len(named) > 1:
                findings.add("image-unknown", f"{place}, region {number} of {shown(keys[1])}")
                continue
            image = image or next(iter(named.values()))
            yield from _region(image, f"{place}, region {number}", value, findings)


def _named_images(data: dict[str, Any]) -> dict[Any, str]:
    """Key or position → name of each image in the data of a Label Studio task."""
    lists = (value for value in data.values() if isinstance(value, list))
    given = {**dict(enumerate(next(lists, ()))), **data}
    return {
        key: name
        for key, name in given.items()
        if isinstance(name, str) and is_image(name.partition("?d=")[2] or name)
    }


def _region(image: str, place: str, value: dict[str, Any], findings: Findings) -> Iterator[Entry]:
    """The entry of a Label Studio region: percent, rotated around the upper left corner."""
    labels = next(
        (v for k, v in value.items() if k.endswith("labels") and isinstance(v, list)), None
    )
    if not labels:
        return
    findings.add("class-several", [f"{place}: {shown(labels)}"] * (len(labels) > 1))
    size = _four(value, ("original_width", "original_height"))
    points = value.get("points")
    edges, odd = None, ""
    if isinstance(points, list):
        edges, odd = around(points), "box-from-shape"
    elif oval := _four(value, ("x", "y", "radiusX", "radiusY")):
        x, y, across, down = oval
        edges, odd = (x - across, y - down, x + across, y + down), "box-from-shape"
    elif box := _four(value, ("x", "y", "width", "height")):
        x, y, width, height = box
        angle = math.radians(as_number(value.get("rotation")) or 0)
        sides = size or (1.0, 1.0)
        w, h = width * sides[0], height * sides[1]  # rotation is defined in pixels, not percent
        corners = [(0.0, 0.0), (w, 0.0), (w, h), (0.0, h)]
        turned = [
            (
                x + (a * math.cos(angle) - b * math.sin(angle)) / sides[0],
                y + (a * math.sin(angle) + b * math.cos(angle)) / sides[1],
            )
            for a, b in corners
        ]
        edges, odd = (
            (around(turned), "box-rotated") if angle else ((x, y, x + width, y + height), "")
        )
    if edges is None:
        is_point = "x" in value and "height" not in value
        yield Entry(image, place, odd="shape-without-area" if is_point else "box-unreadable")
        return
    yield Entry(image, place, str(labels[0]).strip(), xywh(edges), odd=odd)


def bdd(file: Path, findings: Findings) -> Iterator[Entry]:
    """BDD100K's and Scalabel's frames: a list of frames, or one file for each image."""
    tree = read_json(file, findings)
    frames = tree if isinstance(tree, list) else mapping(tree).get("frames")
    if not isinstance(frames, list):
        findings.add("file-unreadable", f"{file} has no frames")
        return
    for row in _objects(frames):
        name = row.get("name") or mapping(tree).get("name") or file.stem
        yield Entry(str(name), str(file), listing=True)
        for number, each in enumerate(_objects(row.get("labels") or row.get("objects")), 1):
            place = f"{file}: label {number} of {shown(name)}"
            box = _four(mapping(each.get("box2d")), CORNERS)
            if box is None and not each.get("box2d"):
                yield Entry(str(name), place, odd="shape-without-area")
                continue
            class_ = str(each.get("category") or "").strip()
            crowd = bool(mapping(each.get("attributes")).get("crowd"))
            yield Entry(str(name), place, class_, box, crowd, odd="" if box else "box-unreadable")


def supervisely(file: Path, findings: Findings) -> Iterator[Entry]:
    """Supervisely's file of an image: ann/NAME.json for img/NAME."""
    tree = mapping(read_json(file, findings))
    if not isinstance(tree.get("objects"), list):
        findings.add("file-unreadable", f"{file} has no list of objects")
        return
    image = os.path.abspath(file.parent.parent / "img" / file.name[: -len(".json")])
    size = _size(tree.get("size"))
    yield Entry(image, str(file), size=size)
    for number, each in enumerate(_objects(tree["objects"]), 1):
        place, kind = f"{file}: object {number}", each.get("geometryType")
        class_ = str(each.get("classTitle") or "").strip()
        points = mapping(each.get("points")).get("exterior")
        if kind == "bitmap":
            edges, odd = _around_bitmap(mapping(each.get("bitmap"))), "box-from-shape"
        elif kind in ("rectangle", "polygon", None):
            edges = around(points) if isinstance(points, list) and len(points) > 1 else None
            odd = "" if kind == "rectangle" else "box-from-shape"
        else:
            yield Entry(image, f"{place}, a {shown(kind)}", odd="shape-without-area")
            continue
        yield Entry(image, place, class_, edges, odd=odd if edges else "box-unreadable")


def _around_bitmap(given: dict[str, Any]) -> tuple[float, float, float, float] | None:
    """x0, y0, x1, y1 of a mask stored as a compressed PNG with an origin."""
    try:
        unpacker = zlib.decompressobj()
        content = unpacker.decompress(base64.b64decode(given["data"]), MOST_MASK)
        x, y = list(as_numbers(given["origin"]) or ())
        width, height = Image.open(io.BytesIO(content), formats=("PNG",)).size
    except (KeyError, TypeError, ValueError, binascii.Error, zlib.error, UnidentifiedImageError):
        return None
    return x, y, x + width, y + height


def fiftyone(file: Path, findings: Findings) -> Iterator[Entry]:
    """FiftyOne's labels.json: image → labels, given as indices into ``classes`` or names."""
    tree = mapping(read_json(file, findings))
    classes = tree.get("classes")
    names = classes if isinstance(classes, list) else []
    for image, labels in mapping(tree.get("labels")).items():
        yield Entry(image, str(file))
        for number, each in enumerate(_objects(labels), 1):
            place, label = f"{file}: label {number} of {shown(image)}", each.get("label")
            if type(label) is int and 0 <= label < len(names):
                label = names[label]
            box = box_of(each.get("bounding_box"))
            class_ = "" if label is None else str(label)
            yield Entry(image, place, class_, box, odd="" if box else "box-unreadable")


def image_rows(file: Path, findings: Findings) -> Iterator[Entry]:
    """Rows that name an image and have its boxes, as Detectron2, MMDetection and others write them.

    Raises ValueError if the first row is another one.
    """
    first = next(_rows(file, Findings()), {})
    if not _key(first, IMAGE_KEYS) or not any(map(_has_boxes, (*first.values(), first))):
        raise ValueError(
            f"{file} has rows of another kind than an image's name and its boxes, and lacks one of "
            "COCO's lists images, annotations and categories; export it as COCO, YOLO or VOC"
        )
    yield from hugging_face(file, findings)


def image_mapping(file: Path, findings: Findings) -> Iterator[Entry]:
    """A mapping from image names to a list of objects, or to lists of boxes and classes."""
    tree = mapping(read_json(file, findings))
    yield from _boxes_of_rows(
        file, findings, ({"file_name": name, "objects": given} for name, given in tree.items())
    )


def hugging_face(file: Path, findings: Findings) -> Iterator[Entry]:
    """metadata.jsonl of a folder of images: file_name, and objects with bbox and categories.

    Class numbers are named by the features of the data set, in dataset_info.json or README.md, or
    by a list of classes.
    """
    yield from _boxes_of_rows(file, findings, _rows(file, findings))


def _boxes_of_rows(
    file: Path, findings: Findings, rows: Iterable[dict[str, Any]]
) -> Iterator[Entry]:
    names = _label_names([file.parent, *file.absolute().parents[1:3]])
    rows = list(rows)
    if listed := names.get(""):
        used = {each for row in rows for _, each, _ in _hugging_face_boxes(row)
                if type(each) is int}  # fmt: skip
        step = find_step(used, map(int, listed), None, findings, str(file)).step
        names[""] = {str(int(number) + step): name for number, name in listed.items()}
    for row in rows:
        name = row.get(_key(row, IMAGE_KEYS))
        if not isinstance(name, str) or not name:
            findings.add("image-unnamed", f"{file}: {shown(row)}")
            continue
        image = os.path.abspath(file.parent / name)
        image = image if os.path.isfile(image) else name
        boxes = list(_hugging_face_boxes(row))
        yield Entry(image, str(file), size=_size(row), listing=len(boxes) > 1)
        unread = (cell for cell in row.values() if isinstance(cell, str) and cell[:1] in ("[", "{"))
        findings.add("box-unreadable", [f"{file}: {shown(name)}: {shown(cell)}" for cell in unread])
        for number, (box, class_, column) in enumerate(boxes, 1):
            place = f"{file}: object {number} of {shown(name)}"
            four = box_of(box)
            label, odd = "" if class_ is None else str(class_), "" if four else "box-unreadable"
            if known := names.get(column, names.get("")):
                label = known.get(label, label if isinstance(class_, str) else "")
            elif isinstance(class_, int):
                odd = odd or "class-names-missing"
            yield Entry(image, place, label, four, odd=odd)


IMAGE_KEYS = ("file_name", "filename", "image", "image_path", "img_path", "img", "path", "name")
BOX_KEYS = ("bbox", "bboxes", "box", "boxes")
CATEGORIES = (
    *("categories", "category", "labels", "label", "category_id", "category_ids", "classes"),
    *("class", "class_id", "class_ids", "name", "names", "category_name", "class_name"),
)


def _hugging_face_boxes(row: dict[str, Any]) -> Iterator[tuple[Any, Any, str]]:
    """(box, class, column of the class) of a row: a list of objects, or lists of boxes and classes.

    They are under ``objects``, under another key, or in the row itself.
    """
    given = next(filter(_has_boxes, (row.get("objects"), *row.values(), row)), None)
    if isinstance(given, list):
        for each in _objects(given):
            column = _key(each, CATEGORIES)
            box = each.get(_key(each, BOX_KEYS))
            if each.get("bbox_mode") == 0 and (corners := box_of(box)):  # Detectron2's XYXY_ABS
                box = [*corners[:2], corners[2] - corners[0], corners[3] - corners[1]]
            yield box, each.get(column), column
        return
    given = mapping(given)
    column = _key(given, CATEGORIES)
    boxes, classes = given.get(_key(given, BOX_KEYS)), given.get(column)
    boxes = boxes if isinstance(boxes, list) else []
    classes = classes if isinstance(classes, list) else [classes] * len(boxes)
    yield from ((box, class_, column) for box, class_ in zip_longest(boxes, classes))


def _has_boxes(given: Any) -> bool:
    first = given[0] if isinstance(given, list) and given else given
    return isinstance(first, dict) and bool(_key(first, BOX_KEYS))


def _key(given: dict[str, Any], keys: Sequence[str]) -> str:
    return next((key for key in keys if key in given), "")


def _label_names(folders: Sequence[Path]) -> dict[str, dict[str, str]]:
    """Column → number → name of its class, from the first folder whose features name classes.

    A list of classes is that of the column "".
    """
    for folder in folders:
        for name in ("dataset_info.json", "dataset_infos.json", "README.md"):
            file = folder / name
            if not file.is_file():
                continue
            with suppress(ValueError, OSError):
                text = read_text(file, Findings())
                card = re.match(r"---\s*\n(.*?)\n---\s*(\n|$)", text, re.DOTALL)
                if file.suffix == ".json":
                    tree = parse_json(text, name)
                else:
                    tree = parse_yaml(card.group(1), name, as_text=True) if card else None
                if names := dict(_named_columns(tree)):
                    return names
    numbered = name_list(names_beside(folders[0]), Findings())
    return {"": {str(number): name for number, name in numbered}} if numbered else {}


WRAPPERS = ("feature", "dtype", "class_label", "sequence", "list", "struct")
"""Keys of a feature that lead to its parts and are no columns."""


def _named_columns(tree: Any, column: str = "") -> Iterator[tuple[str, dict[str, str]]]:
    """(column, number → name) of each feature with class names."""
    if isinstance(tree, list):
        for each in tree:
            yield from _named_columns(each, column)
    elif isinstance(tree, dict):
        column = tree["name"] if isinstance(tree.get("name"), str) else column
        names = tree.get("names")
        pairs = mapping(names).items() or enumerate(names if isinstance(names, list) else ())
        if named := {str(number): str(name) for number, name in pairs}:
            yield column, named
        for key, value in tree.items():
            yield from _named_columns(value, column if key in WRAPPERS else key)


def ultralytics(file: Path, findings: Findings) -> Iterator[Entry]:
    """Ultralytics' NDJSON: class names in the first line, then an image a line."""
    names: dict[str, Any] = {}
    for row in _rows(file, findings):
        if row.get("type") == "dataset" or "class_names" in row:
            names = {str(n): name for n, name in mapping(row.get("class_names")).items()}
            continue
        image, split = row.get("file"), str(row.get("split") or "")
        if not isinstance(image, str) or not image:
            findings.add("image-unnamed", f"{file}: {shown(row)}")
            continue
        yield Entry(image, str(file), size=_size(row), split=split, listing=True)
        number = 0
        for form, rows in mapping(row.get("annotations")).items():
            for each in rows if isinstance(rows, list) else []:
                number += 1
                place = f"{file}: annotation {number} of {shown(image)}"
                class_, box, odd = _numbered(each, form)
                label = str(names.get(class_, class_))
                yield Entry(image, place, label, box, split=split, odd=odd)


def _numbered(row: Any, form: str) -> tuple[str, Sequence[float] | None, str]:
    """Class number, centre and size, and kind of finding, from a row of numbers."""
    given = as_numbers(row) if isinstance(row, list) else None
    if not given:
        return "", None, "box-unreadable"
    class_, *numbers = given
    if form in ("boxes", "pose") and len(numbers) > 3:
        return f"{class_:g}", numbers[:4], ""
    edges = around_flat(numbers) if len(numbers) > 5 else None
    if edges is None:
        return f"{class_:g}", None, "box-unreadable"
    x0, y0, x1, y1 = edges
    odd = "box-rotated" if form == "obb" else "box-from-shape"
    return f"{class_:g}", ((x0 + x1) / 2, (y0 + y1) / 2, x1 - x0, y1 - y0), odd


def sagemaker(file: Path, findings: Findings) -> Iterator[Entry]:
    """SageMaker Ground Truth's manifest: source-ref, and a key for each job with annotations."""
    for row in _rows(file, findings):
        name = row.get("source-ref")
        if not isinstance(name, str):
            findings.add("image-unnamed", f"{file}: {shown(row)}")
            continue
        jobs = [key for key, value in row.items() if "annotations" in mapping(value)]
        sizes = [each for key in jobs for each in _objects(row[key].get("image_size"))]
        yield Entry(name, str(file), size=_size(sizes[0] if sizes else None), listing=True)
        for job in jobs:
            known = mapping(mapping(row.get(f"{job}-metadata")).get("class-map"))
            for number, each in enumerate(_objects(row[job]["annotations"]), 1):
                place, id_ = f"{file}: annotation {number} of {shown(name)}", each.get("class_id")
                box = _four(each, SIDES)
                class_ = "" if id_ is None else str(known.get(str(id_), id_))
                yield Entry(name, place, class_, box, odd="" if box else "box-unreadable")
