"""Tables that list one box per row, with the names of its image and its class.

Tables (CSV) are recognised by their header (TensorFlow, Open Images, VoTT and others), or without
a header by their cells (keras-retinanet, Vertex AI, makesense.ai). ``forms`` reads other files.
"""

from __future__ import annotations

import csv
import io
import os
import re
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import islice, takewhile
from pathlib import Path
from typing import Any

from dabdetr.data.box_formats import Asked, BoxFormat
from dabdetr.data.class_lists import name_list, names_beside
from dabdetr.data.coco_rows import box_of
from dabdetr.data.findings import Findings
from dabdetr.data.locate import (
    USUAL,
    ImageFolders,
    canonical,
    child,
    is_image,
    paths_of,
    split_in_path,
    usual_word,
)
from dabdetr.data.records import Open, RecordTable, Rows, named_table
from dabdetr.data.shapes import are_upright, around_flat, size_of
from dabdetr.data.textfiles import head_of, parse_cell, read_text
from dabdetr.text import as_flag, as_number, as_numbers, shown

Numbers = Sequence[float]


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
    """

    image: str
    told: str
    class_: str = ""
    numbers: Numbers | None = None
    crowd: bool = False
    size: tuple[int, int] = (0, 0)
    split: str = ""
    odd: str = ""


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
    rows, names, places = Rows(findings, box_format), dict[str, int](), list[str]()
    finder = ImageFolders(
        [folder for folder in dict.fromkeys(folders) if folder.is_dir()], findings
    )
    images: dict[str, int | None] = {}
    missing: list[str] = []
    boxes = set[tuple[Any, ...]]()
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
        if each.numbers is None:
            continue
        class_ = each.class_ or ("object" if without_classes else "")
        if not class_:
            findings.add("class-unknown", f"{each.told} has no class")
            continue
        box = (index, class_, *each.numbers)
        if box in boxes:
            findings.add("line-twice", each.told)
            continue
        boxes.add(box)
        rows.add_box(index, names.setdefault(class_, len(names)), each.numbers, each.crowd)
        places.append(each.told)
    findings.add("image-missing", missing)
    if without_classes and places:
        findings.add("class-names-missing", f"{places[0]}: no box has a class, all are 'object'")
    if not rows.files:
        several = findings.count("name-several")
        raise FileNotFoundError(
            f"{missing[0] if missing else root}: "
            f"{'several images are called so' if several else 'no image that is named is'} in "
            f"{', '.join(finder.folders[:3])}; {'write paths' if several else 'add the images'}"
        )
    rows.place = places.__getitem__
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


def entry_split(entry: Entry, base: Path) -> str:
    """The split of an entry, else that among the folders of its image's name; "" without one."""
    if entry.split:
        return entry.split
    inside = os.path.isabs(entry.image) and Path(entry.image).is_relative_to(base.absolute())
    return split_in_path(os.path.relpath(entry.image, base) if inside else entry.image)


def divides(named: Iterable[str]) -> list[str]:
    """The splits in ``named``, one for each entry; empty unless each is a usual one."""
    found: dict[str, None] = {}
    for name in named:
        if canonical(name).casefold() not in (*USUAL, "unassigned"):
            return []
        found[name] = None
    return list(found)


def _split_of(file: Path) -> str:
    """The split in a file's name (train_labels, annotations-val); else "default"."""
    return usual_word(file.stem) or "default"


def _by_split(files: Sequence[Path], opener: Any) -> dict[str, Open]:
    """Split in the file's name (its stem if that split is already in use) → ``opener(file)``."""
    found: dict[str, Open] = {}
    for file in files:
        split = _split_of(file) if len(files) > 1 or _split_of(file) != "default" else "default"
        found[file.stem if split in found else split] = opener(file)
    return found


# Tables

COLUMNS: dict[str, tuple[str, ...]] = {
    "image": (
        *("filename", "file_name", "image", "image_path", "imagepath", "path", "filepath", "file"),
        *("image_id", "imageid", "image_name", "imagename", "img", "img_path", "frame", "img_name"),
        *("patientid", "patient_id"),
    ),
    "class": (
        *("class", "label", "labelname", "class_name", "classname", "category", "label_name"),
        *("category_name", "name", "annotation_tag", "object", "type", "class_id", "classid"),
        *("category_id", "categoryid", "class_label"),
    ),
    "x0": ("xmin", "x_min", "x1", "left", "xtl", "bbox_x1", "bbox_xmin", "upper_left_corner_x"),
    "y0": ("ymin", "y_min", "y1", "top", "ytl", "bbox_y1", "bbox_ymin", "upper_left_corner_y"),
    "x1": ("xmax", "x_max", "x2", "right", "xbr", "bbox_x2", "bbox_xmax", "lower_right_corner_x"),
    "y1": ("ymax", "y_max", "y2", "bottom", "ybr", "bbox_y2", "bbox_ymax", "lower_right_corner_y"),
    "x2": ("x3",),
    "y2": ("y3",),
    "x3": ("x4",),
    "y3": ("y4",),
    "x": ("x", "bbox_x", "x0", "left", "box_x"),
    "y": ("y", "bbox_y", "y0", "top", "box_y"),
    "cx": ("x_center", "xcenter", "cx", "x_centre", "center_x", "xc"),
    "cy": ("y_center", "ycenter", "cy", "y_centre", "center_y", "yc"),
    "w": ("w", "bbox_w", "bbox_width", "box_width", "width"),
    "h": ("h", "bbox_h", "bbox_height", "box_height", "height"),
    "box": ("bbox", "box", "bounding_box"),
    "split": ("split", "set", "subset"),
    "crowd": ("isgroupof", "iscrowd"),
}
"""Content of a column → its names in headers, in lower case, with _ for blanks and hyphens."""
ORDERS: dict[tuple[str, ...], BoxFormat] = {
    ("x0", "y0", "x1", "y1", "x2", "y2", "x3", "y3"): "xyxy",
    ("x0", "y0", "x1", "y1"): "xyxy",
    ("cx", "cy", "w", "h"): "cxcywh",
    ("x", "y", "w", "h"): "xywh",
    ("box",): "xywh",
}
"""Columns of a box → their box format."""
CLASS_LIST = re.compile(r"class[-_]descriptions|^class(es|_list|_names|_mapping)?$", re.IGNORECASE)
"""Names of tables that name the classes of another."""
MISSING = ("", "nan", "NaN", "<NA>", "null")
"""What programs write for a cell without a value."""
PREAMBLE = re.compile(r"\s*(#|sep=|$)", re.IGNORECASE)
"""The beginning of a line that may stand before the header: a comment, a separator, or blank."""
MOST_BEFORE = 100
MOSTLY = 0.8
"""Least share of the rows that fit the form of a table without a header."""
CODE = re.compile(r"\d+|/m/\w+")
"""A class that is no name."""
VERTEX_SPLITS = ("train", "training", "validation", "test", "unassigned")


@dataclass(frozen=True)
class _TableForm:
    """How a table is read: separator, indices of its columns, box format, and first row."""

    separator: str
    columns: dict[str, int]
    box_format: BoxFormat
    first: int


def find_table(root: Path) -> dict[str, Open]:
    """Splits by the tables in ``root`` or its folders of annotations, or by a column of splits."""
    places = [root, *(child(root, name) for name in ("annotations", "labels", "csv"))]
    files = [root] if root.is_file() else []
    for place in places:
        candidates = (*paths_of(place, ".csv", ".tsv")[:50], *paths_of(place, ".txt")[:50])
        files = files or [file for file in candidates if _table_form(file)]
    files = [file for file in files if _table_form(file)]
    base = root.parent if root.is_file() else root
    if len(files) == 1 and (splits := _listed_splits(files[0])):
        return {name: partial(_open_table, files[0], base, name) for name in splits}
    return _by_split(files, lambda file: partial(_open_table, file, base, ""))


def _table_form(file: Path) -> _TableForm | None:
    """The form of a table by its header or its first rows; None if it is not a list of boxes."""
    if file.suffix.lower() not in (".csv", ".tsv", ".txt"):
        return None
    lines = head_of(file).decode("utf-8", "replace").splitlines()
    before = sum(1 for _ in takewhile(PREAMBLE.match, lines[:MOST_BEFORE]))
    forms = (_form_at(n, lines[n : n + 20]) for n in range(before, -1, -1))
    headed = next(filter(None, forms), None)  # a header may itself begin with #
    return headed or _form_without_header(before, lines[before : before + 20])


def _rows(lines: list[str]) -> tuple[str, list[list[str]]]:
    """The separator of a table, and the cells of its lines without blank ones."""
    lines = [line for line in lines if line.strip()]
    head = "".join(lines[:1])
    separator = max(",;\t", key=head.count)
    separator = separator if separator in head else " "
    rows = csv.reader(lines, delimiter=separator, skipinitialspace=True)
    return separator, [[cell.strip() for cell in row] for row in rows]


def _form_at(start: int, lines: list[str]) -> _TableForm | None:
    """The form of a table whose header is the line at index ``start``."""
    separator, rows = _rows(lines)
    header = rows[0] if rows else []
    names = [re.sub(r"[\s.-]+", "_", cell.lstrip("# ").casefold()) for cell in header]
    names = [name.removeprefix("roi_") for name in names]
    columns = {
        column: next(names.index(known) for known in options if known in names)
        for column, options in COLUMNS.items()
        if set(options) & set(names)
    }
    order = next((box for box in ORDERS if columns.keys() >= {*box}), None)
    if "image" in columns and order and not any(map(is_image, header)):
        return _TableForm(separator, columns, ORDERS[order], start + 1)
    return None


def _form_without_header(first: int, lines: list[str]) -> _TableForm | None:
    """The form of a table without a header, by the contents of its columns.

    A row has an image name and four numbers: two corners after the name, or corner and size before
    it (makesense.ai). The class is the first other column of words, else the number next to the
    four. Vertex AI begins with a split, and leaves two of four corners empty.
    """
    separator, rows = _rows(lines)
    rows = rows[:-1] or rows  # the last one may be cut off
    width = Counter(map(len, rows)).most_common(1)[0][0] if rows else 0
    usual = [row for row in rows if len(row) == width]
    cells = list(zip(*usual, strict=True))
    image = next((n for n, column in enumerate(cells) if _mostly(is_image, column)), None)
    if image is None or len(usual) < MOSTLY * len(rows):
        return None
    if width >= 9 and image == 1 and {cell.casefold() for cell in cells[0]} <= {*VERTEX_SPLITS}:
        columns = {"split": 0, "image": 1, "class": 2, "x0": 3, "y0": 4, "x1": 7, "y1": 8}
        return _TableForm(separator, columns, "xyxy", first)
    numeric = [n for n in range(width) if any(cells[n]) and _mostly(_is_number, cells[n])]
    runs = [n for n in numeric if {*range(n, n + 4)} <= {*numeric}]
    before = image - 4 in runs
    start = image - 4 if before else next((n for n in runs if n > image), None)
    if start is None:
        return None
    words = (n for n in range(width) if n not in (image, *numeric) and any(cells[n]))
    class_ = next(words, start - 1 if before else start + 4)
    keys = ("x", "y", "w", "h") if before else ("x0", "y0", "x1", "y1")
    columns = {"image": image, **{key: start + n for n, key in enumerate(keys)}}
    columns |= {"class": class_} if 0 <= class_ < width else {}
    return _TableForm(separator, columns, ORDERS[keys], first)


def _mostly(fits: Callable[[str], bool], column: Sequence[str]) -> bool:
    return sum(map(fits, column)) >= MOSTLY * len(column)


def _is_number(cell: str) -> bool:
    return cell.strip() in MISSING or as_number(cell) is not None


def _listed_splits(file: Path) -> list[str]:
    """Splits in the split column of a table or in its image names; empty if some have none."""
    form = _table_form(file)
    entries = _entries(file, form, Findings()) if form else ()
    return divides(entry_split(each, file.parent) for each in entries)


def _open_table(
    file: Path, root: Path, listed_split: str, split: str, box_format: Asked | None = None
) -> RecordTable:
    """The boxes of a table; of ``listed_split`` (see ``entry_split``) only, unless that is ""."""
    findings = Findings()
    form = _table_form(file)
    if form is None:
        raise ValueError(f"{file} has changed: it lists no boxes any more")
    entries = _entries(file, form, findings)
    if listed_split:
        entries = (each for each in entries if entry_split(each, file.parent) == listed_split)
    folders = image_folders(file, root, listed_split or _split_of(file))
    return table_of(entries, folders, root, split, form.box_format, box_format, findings)


def _entries(file: Path, form: _TableForm, findings: Findings) -> Iterator[Entry]:
    names = _class_names(file)
    lines = io.StringIO(read_text(file, findings), newline="")
    lines = islice(lines, form.first, None)
    rows = csv.reader(lines, delimiter=form.separator, skipinitialspace=True)
    orders = (order for order in ORDERS if ORDERS[order] == form.box_format)
    columns = next(order for order in orders if form.columns.keys() >= {*order})
    # In tables with corners, the columns of width and height have the size of the image.
    has_image_size = form.box_format == "xyxy" and {"w", "h"} <= form.columns.keys()
    last = form.first
    for row in rows:
        line, last = last + 1, form.first + rows.line_num
        if not any(cell.strip() for cell in row):
            continue
        location = f"{file}, line {line}"
        cut = len(row) <= max(form.columns[column] for column in columns)
        if cut and sum(map(bool, row)) > 1:  # a quote that is not closed takes more lines
            findings.add("line-unreadable", location, last - line + 1)
            continue
        cells = {
            column: row[n].strip() if n < len(row) else "" for column, n in form.columns.items()
        }
        if not cells["image"]:
            findings.add("line-unreadable", location)
            continue
        given = ["" if cells[column] in MISSING else cells[column] for column in columns]
        values = as_numbers(given) or ()
        if columns == ("box",):
            values = box_of(parse_cell(cells["box"])) or ()
        entry = Entry(cells["image"], location, split=cells.get("split", ""))
        entry.size = size_of(cells["w"], cells["h"]) if has_image_size else (0, 0)
        class_ = "" if cells.get("class", "") in MISSING else cells["class"]
        entry.class_ = names.get(class_, class_)
        if class_ not in names and CODE.fullmatch(class_):
            entry.odd = "class-names-missing"
        entry.crowd = as_flag(cells.get("crowd"))
        if len(values) == 4:
            entry.numbers = values
        elif len(values) == 8:  # four corners
            entry.numbers = around_flat(values)
            entry.odd = entry.odd if are_upright(values) else "box-rotated"
        elif any(given):
            entry.odd, entry.told = "box-unreadable", f"{location}: {shown(given)}"
        yield entry


def _class_names(file: Path) -> dict[str, str]:
    """Code or number → class name, from a list beside the table or above it; empty without one.

    Open Images has /m/… and name in class-descriptions.csv, keras-retinanet name and number in
    classes.csv; others have a name in each line of classes.txt.
    """
    places = [file.parent, file.parent.parent]
    places += [child(place, "metadata") for place in places]
    for place in places:
        for table in (each for each in paths_of(place, ".csv") if CLASS_LIST.search(each.stem)):
            rows = list(csv.reader(io.StringIO(read_text(table, Findings()))))
            pairs = [
                row[::-1] if row[1].strip().isdecimal() else row for row in rows if len(row) == 2
            ]
            if pairs:
                return {code.strip(): name.strip() for code, name in pairs}
    named = name_list(names_beside(file.parent), Findings())
    return {str(number): name for number, name in named}
