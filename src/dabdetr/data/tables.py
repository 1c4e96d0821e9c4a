"""Tables that list one box per row, with the names of its image and its class.

Tables (CSV) are recognised by their header (TensorFlow, Open Images, VoTT and others), or without
a header by their cells (keras-retinanet, Vertex AI, makesense.ai). ``forms`` reads other files.
"""

from __future__ import annotations

import csv
import io
import re
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import islice, takewhile
from pathlib import Path
from typing import Any

from dabdetr.data.box_formats import BoxFormat
from dabdetr.data.class_lists import find_step, name_list, names_beside
from dabdetr.data.entries import Entry, by_whole, entry_splits, open_files
from dabdetr.data.findings import Findings
from dabdetr.data.locate import child, is_image, paths_of
from dabdetr.data.records import Open
from dabdetr.data.shapes import are_upright, around_flat, box_of, size_of
from dabdetr.data.split_names import DEFAULT, usual_word
from dabdetr.data.textfiles import head_of, parse_cell, read_text
from dabdetr.text import as_flag, as_number, as_numbers, shown

COLUMNS: dict[str, tuple[str, ...]] = {
    "image": (
        *("filename", "file_name", "image", "image_path", "imagepath", "path", "filepath", "file"),
        *("image_id", "imageid", "image_name", "imagename", "img", "img_path", "frame", "img_name"),
        *("patientid", "patient_id"),
    ),
    "class": (
        *("class", "label", "labelname", "class_name", "classname", "category", "label_name"),
        *("category_name", "name", "annotation_tag", "object", "type", "class_id", "classid"),
        *("category_id", "categoryid", "class_label", "cls"),
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


@dataclass(frozen=True, eq=False)
class _TableForm:
    """How a table is read: separator, indices of its columns, box format, and first row."""

    separator: str
    columns: dict[str, int]
    box_format: BoxFormat
    first: int


def find_table(root: Path) -> dict[str, Open]:
    """Splits by the tables in ``root`` or its folders of annotations, or by a column of splits."""
    places = [root, *(child(root, name) for name in ("annotations", "labels", "csv"))]
    forms = {root: form} if root.is_file() and (form := _table_form(root)) else {}
    for place in places:
        files = (*paths_of(place, ".csv", ".tsv")[:50], *paths_of(place, ".txt")[:50])
        forms = forms or {file: form for file in files if (form := _table_form(file))}
    base = root.parent if root.is_file() else root
    reader = partial(_entries, forms)
    if len(forms) == 1:
        ((file, form),) = forms.items()
        named = entry_splits(reader, base, file)
        if named:
            opener = partial(open_files, reader, form.box_format, base, [file])
            return {split: partial(opener, split, split) for split in named}
    found: dict[str, Open] = {}
    orders: dict[BoxFormat, None] = {form.box_format: None for form in forms.values()}
    for order in orders:
        alike = [file for file, form in forms.items() if form.box_format == order]
        for name, files in by_whole(alike).items():
            split = usual_word(name) or DEFAULT
            opener = partial(open_files, reader, order, base, files, "", split)
            found[name if split in found else split] = partial(opener, joined=len(files) > 1)
    return found


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
    """The form of a table without a known header, by the contents of its columns.

    A row has an image name and four numbers: two corners after the name, or corner and size before
    it (makesense.ai). The class is the first other column of words, else the number next to the
    four. Vertex AI begins with a split, and leaves two of four corners empty.
    """
    separator, rows = _rows(lines)
    if rows and not any(is_image(cell) or as_number(cell) is not None for cell in rows[0]):
        rows, first = rows[1:], first + 1  # a header of unknown names
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


def _entries(forms: Mapping[Path, _TableForm], file: Path, findings: Findings) -> Iterator[Entry]:
    form, names = forms[file], _class_names(file)
    rows = _rows_of(form, read_text(file, findings))
    names = _in_order(names, forms, file, findings)
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


def _rows_of(form: _TableForm, text: str) -> Any:
    """The csv reader of a table's rows below its header."""
    lines = islice(io.StringIO(text, newline=""), form.first, None)
    return csv.reader(lines, delimiter=form.separator, skipinitialspace=True)


def _in_order(
    names: dict[str, str], forms: Mapping[Path, _TableForm], file: Path, findings: Findings
) -> dict[str, str]:
    """``names`` by the numbers in all tables, if these count from 1 and the list from 0."""
    listed = {int(code): name for code, name in names.items() if code.isdecimal()}
    if not listed:
        return names
    used = set[str]()
    for table, form in forms.items():
        if (column := form.columns.get("class")) is not None:
            rows = _rows_of(form, read_text(table, Findings()))
            used |= {row[column].strip() for row in rows if column < len(row)}
    numbers = (int(code) for code in used if code.isdecimal())
    step = find_step(numbers, listed, None, findings, str(file)).step
    return {str(number + step): name for number, name in listed.items()} if step else names


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
