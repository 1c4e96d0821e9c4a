"""Jsons of tools whose boxes are under fixed keys: the paths of each tool (see ``forms``).

A path is keys separated by dots; ``*`` matches each value of a mapping or list, ``?`` the first
value in which the rest of the path exists. Of several paths the first that exists is used.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache, partial
from itertools import chain
from pathlib import Path
from typing import Any

from dabdetr.data.box_formats import BoxFormat
from dabdetr.data.entries import Entry
from dabdetr.data.findings import Findings
from dabdetr.data.shapes import around, size_of
from dabdetr.data.textfiles import read_json
from dabdetr.text import as_numbers, shown

Where = str | tuple[str, ...]
POINTLESS = re.compile(r".*point|.*line|keypoints?|skeleton|tag|class|text|cuboid", re.IGNORECASE)
"""Kinds of annotations without area."""


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


XYWH, LTWH = ("x", "y", "w", "h"), ("left", "top", "width", "height")
LONG = ("x", "y", "width", "height")
CORNERS = ("x1", "y1", "x2", "y2")
V7 = Keys(
    "xywh", ("item.name", "image.original_filename", "image.filename"), "annotations.*", "name",
    "bounding_box", XYWH, outline=("polygon.path", "polygon.paths"),
    size=(("item.slots.*.width", "image.width"), ("item.slots.*.height", "image.height")),
)  # fmt: skip
SCALE = Keys(
    "xywh", ("params.attachment", "metadata.filename"), "response.annotations.*", "label", "",
    LTWH, images="*",
)  # fmt: skip
ENCORD = Keys(
    "xywh-relative", "data_title", "labels.objects.*", ("name", "value"), "boundingBox", XYWH,
    images=("*.data_units.*", "data_units.*"),
)  # fmt: skip
KILI = Keys(
    "xyxy-relative", ("externalId", "external_id"),
    ("labels.-1.jsonResponse.*.annotations.*", "latestLabel.jsonResponse.*.annotations.*"),
    "categories.*.name", "boundingPoly.*.normalizedVertices", images="*",
)  # fmt: skip
HASTY = Keys("xyxy", "image_name", "labels.*", "class_name", "bbox", images="images.*")
DATALOOP = Keys(
    "xyxy", ("filename", "name"), "annotations.*", "label", "coordinates",
    size=("metadata.system.width", "metadata.system.height"),
)  # fmt: skip
AZURE = Keys(
    "xywh-relative", ("originalImageUri", "id"), "regions.*", "tagName", "", LTWH, images="*"
)
AZURE_LINES = Keys(
    "xyxy-relative", "image_url", "label.*", "label", "", ("topX", "topY", "bottomX", "bottomY"),
    images="*",
)  # fmt: skip
VERTEX = Keys(
    "xyxy-relative", "imageGcsUri", "boundingBoxAnnotations.*", "displayName", "",
    ("xMin", "yMin", "xMax", "yMax"), images="*",
    split="dataItemResourceLabels.aiplatform\\.googleapis\\.com/ml_use",
)  # fmt: skip
PRODIGY = Keys(
    "xywh", ("path", "meta.file", "image"), "spans.*", "label", "", LONG, images="*"
)  # fmt: skip
CROWDHUMAN = Keys(
    "xywh", "ID", "gtboxes.*", "tag", "fbox", images="*", unlike=("extra.ignore", "1")
)
CITYPERSONS = Keys(
    "xywh", "", "objects.*", "label", "bbox", size=("imgWidth", "imgHeight"),
    unlike=("label", "ignore"),
)  # fmt: skip
CITYSCAPES = Keys(
    "xyxy", "", "objects.*", "label", "polygon", size=("imgWidth", "imgHeight"),
)  # fmt: skip
XVIEW = Keys(
    "xyxy", "properties.image_id", "", "properties.type_id", "properties.bounds_imcoords",
    images="features.*", kind="properties.none",
)  # fmt: skip
FIFTYONE = Keys(
    "xywh-relative", "filepath", ("ground_truth.detections.*", "?.detections.*"), "label",
    "bounding_box", images="samples.*", split="tags.*", kind="none", sets="*.detections",
    size=("metadata.width", "metadata.height"),
)  # fmt: skip
CREATEML = Keys(
    "cxcywh", ("image", "imagefilename", "filename"), ("annotations.*", "annotation.*"), "label",
    "coordinates", LONG, images="*",
)  # fmt: skip
VOTT = Keys(
    "xywh", ("asset.name", "asset.path"), "regions.*", "tags.*", "boundingBox", LTWH,
    images=("assets.*", ""), size=("asset.size.width", "asset.size.height"),
)  # fmt: skip
LABELBOX = Keys(
    "xywh", ("data_row.external_id", "External ID", "data_row.row_data", "Labeled Data"),
    ("projects.?.labels.-1.annotations.objects.*", "Label.objects.*"), ("name", "title", "value"),
    ("bounding_box", "bbox"), LTWH, images="*", kind="annotation_kind", sets="projects.*.labels.*",
    size=("media_attributes.width", "media_attributes.height"),
)  # fmt: skip
SLOTH = Keys("xywh", "filename", "annotations.*", "class", "", LONG, images="*")
SUPERANNOTATE = Keys(
    "xyxy", "metadata.name", "instances.*", "className", "points", CORNERS,
    size=("metadata.width", "metadata.height"),
)  # fmt: skip
DATATURKS = Keys("xyxy-relative", "content", "annotation.*", "label.*", "points", images="*")
SIGNS = Keys("xyxy", "", "objects.*", "label", "bbox", ("xmin", "ymin", "xmax", "ymax"))
CITY_FILE = re.compile(r"_(gtBboxCityPersons|gtFine_polygons|gtCoarse_polygons)$")
"""Suffix of Cityscapes' annotation files, in place of ``_leftImg8bit`` of the images."""


def reader(keys: Keys) -> Callable[[Path, Findings], Iterator[Entry]]:
    """The reader of a form whose boxes are under ``keys``."""
    return partial(_read, keys)


def _read(keys: Keys, file: Path, findings: Findings) -> Iterator[Entry]:
    for number, row in enumerate(_values(read_json(file, findings), keys.images), 1):
        name = _value(row, keys.image) if keys.image else CITY_FILE.sub("_leftImg8bit", file.stem)
        if not isinstance(row, dict) or not isinstance(name, str) or not name.strip():
            kind = "image-unnamed" if isinstance(row, dict) else "row-unreadable"
            findings.add(kind, f"{file}: row {number}")
            continue
        name, split = (
            name.partition("?")[0],
            str(_value(row, keys.split) or "" if keys.split else ""),
        )
        size = size_of(*(_value(row, side) for side in keys.size))
        yield Entry(name, str(file), size=size, split=split)
        if (many := len(_values(row, keys.sets))) > 1:
            findings.add("annotators", f"{file}: {shown(name)} has {many}")
        for count, each in enumerate(_values(row, keys.boxes), 1):
            place = f"box {count} of {shown(name)}" if keys.boxes else f"row {number}"
            if len(classes := {*map(str, _values(each, keys.class_))}) > 1:
                findings.add("class-several", f"{file}: {place}: {shown(sorted(classes))}")
            yield _entry(keys, each, name, f"{file}: {place}", split)


def _entry(keys: Keys, row: Any, name: str, place: str, split: str) -> Entry:
    class_ = _value(row, keys.class_)
    label = "" if class_ is None else str(class_).strip()
    path, value = keys.unlike
    if path and str(_value(row, path)) == value:
        return Entry(name, place, split=split, odd="region-uncared")
    box = _numbers(_value(row, keys.box), keys.sides)
    odd = ""
    if box is None:
        outline = _outline([_value(row, keys.box), _value(row, keys.outline)])
        box = _in_order(outline, keys.order) if outline else None
        odd = "box-from-shape" if box and not _is_upright(_value(row, keys.box)) else ""
    if box is None:
        kind = str(_value(row, keys.kind) or "")
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


def _outline(given: Any) -> tuple[float, float, float, float] | None:
    """x0, y0, x1, y1 around all points in lists and mappings; None for fewer than two."""
    points = list(_points(given))
    return around(points) if len(points) > 1 else None


def _points(given: Any) -> Iterator[Sequence[Any]]:
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


def _in_order(edges: Sequence[float], order: BoxFormat) -> Sequence[float]:
    x0, y0, x1, y1 = edges
    return edges if order.startswith("xyxy") else (x0, y0, x1 - x0, y1 - y0)


def _is_upright(given: Any) -> bool:
    """Whether points are the corners of an upright box: two of them, or all four."""
    points = list(_points(given))
    around_ = len({point[0] for point in points}) == 2 == len({point[1] for point in points})
    return len(points) in (2, 4) and around_
