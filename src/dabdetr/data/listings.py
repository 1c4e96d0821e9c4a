"""Files that list boxes with the image's name and the class's name in each: tables.

Tables (csv) are known by their head: those of TensorFlow, Open Images, VoTT and others; or, without
one, those of keras-retinanet, Vertex AI and makesense.ai. ``forms`` has the other files.
"""

from __future__ import annotations

import csv
import io
import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from dabdetr.data.box_formats import Asked, BoxFormat
from dabdetr.data.findings import Findings
from dabdetr.data.images import IMAGE_SUFFIXES
from dabdetr.data.locate import USUAL, ImageFolders, canonical, child, paths_of, usual_word
from dabdetr.data.records import Open, RecordTable, Rows, named_table
from dabdetr.data.textfiles import head_of, read_text
from dabdetr.text import shown

Numbers = Sequence[float]


@dataclass
class Entry:
    """One box as a file lists it; without numbers only the image.

    class_  "" where it has none
    told    where it stands, for messages
    split   of the image, where the file says it
    odd     a kind of finding to count it as, or why it cannot be read
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
    name: str,
    split: str,
    box_format: BoxFormat,
    asked: Asked | None,
    findings: Findings,
) -> RecordTable:
    """The data set of entries, whose images lie below ``folders``."""
    rows, names, places = Rows(findings, box_format), dict[str, int](), list[str]()
    finder = ImageFolders(
        [folder for folder in dict.fromkeys(folders) if folder.is_dir()], findings
    )
    images: dict[str, int | None] = {}
    missing: list[str] = []
    given = list(entries)
    nameless = not any(each.class_ for each in given if each.numbers is not None)
    for each in given:
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
        class_ = each.class_ or ("object" if nameless else "")
        if not class_:
            findings.add("class-unknown", f"{each.told} has no class")
            continue
        rows.add_box(index, names.setdefault(class_, len(names)), each.numbers, each.crowd)
        places.append(each.told)
    findings.add("image-missing", missing)
    if nameless and places:
        findings.add("class-names-missing", f"{places[0]}: no box has a class, all are 'object'")
    if not rows.files:
        raise FileNotFoundError(
            f"{missing[0] if missing else name}: no image that is named is in "
            f"{', '.join(finder.folders[:3])}; add the images"
        )
    rows.place = places.__getitem__
    return named_table(rows, names, name, split, asked)


def image_folders(file: Path, root: Path, split: str) -> list[Path]:
    """Where the images of a file may lie, the likeliest place first."""
    bases = (file.parent, root, root.parent if root == file.parent else root)
    own = [child(child(base, "images"), split) for base in bases] + [
        child(base, split) for base in bases
    ]
    shared = [
        child(base, name) for base in bases[:2] for name in ("images", "data", "imgs", "upload")
    ]
    return [*own, *shared, file.parent, root, child(root.parent, "images")]


def _split_of(file: Path) -> str:
    """The split that a file's name has in it: train_labels, annotations-val; else "default"."""
    return usual_word(file.stem) or "default"


def _by_split(files: Sequence[Path], opener: Any) -> dict[str, Open]:
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
        *("category_name", "name", "annotation_tag", "object", "type", "class_id", "category_id"),
    ),
    "x0": ("xmin", "x_min", "x1", "left", "xtl", "bbox_x1", "bbox_xmin", "upper_left_corner_x"),
    "y0": ("ymin", "y_min", "y1", "top", "ytl", "bbox_y1", "bbox_ymin", "upper_left_corner_y"),
    "x1": ("xmax", "x_max", "x2", "right", "xbr", "bbox_x2", "bbox_xmax", "lower_right_corner_x"),
    "y1": ("ymax", "y_max", "y2", "bottom", "ybr", "bbox_y2", "bbox_ymax", "lower_right_corner_y"),
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
"""What a table's column holds → what it is called, in any case, with _ for blanks and hyphens."""
ORDERS: dict[tuple[str, ...], BoxFormat] = {
    ("x0", "y0", "x1", "y1"): "xyxy",
    ("cx", "cy", "w", "h"): "cxcywh",
    ("x", "y", "w", "h"): "xywh",
    ("box",): "xywh",
}
SETS = ("train", "training", "validation", "test", "unassigned")


@dataclass(frozen=True)
class _Form:
    """How a table is read: its separator, the place of each column, whether it has a head."""

    separator: str
    at: dict[str, int]
    order: BoxFormat
    head: bool = True


def find_table(root: Path) -> dict[str, Open]:
    """Splits by the tables of ``root`` or in its folders of annotations, or by a column of one."""
    places = [root, *(child(root, name) for name in ("annotations", "labels", "csv"))]
    files = [root] if root.is_file() else []
    for place in places:
        some = (*paths_of(place, ".csv", ".tsv")[:50], *paths_of(place, ".txt")[:50])
        files = files or [file for file in some if _form(file)]
    files = [file for file in files if _form(file)]
    base = root.parent if root.is_file() else root
    if len(files) == 1 and (splits := _listed_splits(files[0])):
        return {name: partial(_open_table, files[0], base, name) for name in splits}
    return _by_split(files, lambda file: partial(_open_table, file, base, ""))


def _form(file: Path) -> _Form | None:
    """What the head of a table, or else its first row, shows it to be; None: no list of boxes."""
    if file.suffix.lower() not in (".csv", ".tsv", ".txt"):
        return None
    lines = head_of(file).decode("utf-8", "replace").splitlines()[:20]
    lines = [line for line in lines if line.strip()]
    if not lines:
        return None
    separator = max(",;\t", key=lines[0].count)
    separator = separator if separator in lines[0] else " "
    rows = [[cell.strip() for cell in row] for row in csv.reader(lines, delimiter=separator)]
    names = [re.sub(r"[\s-]+", "_", cell.lstrip("#").casefold()) for cell in rows[0]]
    at = {
        column: next(names.index(known) for known in options if known in names)
        for column, options in COLUMNS.items()
        if set(options) & set(names)
    }
    order = next((box for box in ORDERS if at.keys() >= {*box}), None)
    if "image" in at and order and not any(map(_is_image, rows[0])):
        return _Form(separator, at, ORDERS[order])
    return _headless(separator, rows[:-1] or rows)


def _headless(separator: str, rows: list[list[str]]) -> _Form | None:
    """The columns of a table without a head, by what stands in them.

    An image's name and four numbers: corners behind it, corner and size before it (makesense.ai).
    The class is the first other column of words, else the number beyond the four. Vertex AI begins
    with a split, and leaves two corners of four empty.
    """
    width, columns = len(rows[0]), list(zip(*rows, strict=False))
    image = next((at for at, cells in enumerate(columns) if all(map(_is_image, cells))), None)
    if image is None or any(len(row) != width for row in rows):
        return None
    if width >= 9 and image == 1 and {cell.casefold() for cell in columns[0]} <= {*SETS}:
        at = {"split": 0, "image": 1, "class": 2, "x0": 3, "y0": 4, "x1": 7, "y1": 8}
        return _Form(separator, at, "xyxy", head=False)
    numeric = [at for at in range(width) if any(columns[at]) and all(map(_is_number, columns[at]))]
    runs = [at for at in numeric if {*range(at, at + 4)} <= {*numeric}]
    before = image - 4 in runs
    start = image - 4 if before else next((at for at in runs if at > image), None)
    if start is None:
        return None
    words = (at for at in range(width) if at not in (image, *numeric) and any(columns[at]))
    class_ = next(words, start - 1 if before else start + 4)
    keys = ("x", "y", "w", "h") if before else ("x0", "y0", "x1", "y1")
    at = {"image": image, **{key: start + n for n, key in enumerate(keys)}}
    at |= {"class": class_} if 0 <= class_ < width else {}
    return _Form(separator, at, ORDERS[keys], head=False)


def _is_image(cell: str) -> bool:
    return Path(cell.strip()).suffix.lower() in IMAGE_SUFFIXES


def _is_number(cell: str) -> bool:
    return not cell.strip() or _number(cell) is not None


def _number(cell: str) -> float | None:
    try:
        return float(cell.strip().replace(",", "."))
    except ValueError:
        return None


def _listed_splits(file: Path) -> list[str]:
    """Splits that a column of a table names, where every row has one of the usual."""
    form = _form(file)
    if form is None or "split" not in form.at:
        return []
    named = dict.fromkeys(each.split for each in _entries(file, form, Findings()))
    usual = {canonical(name) for name in named}
    return list(named) if usual <= {*USUAL, "unassigned"} else []


def _open_table(
    file: Path, root: Path, own: str, split: str, box_format: Asked | None = None
) -> RecordTable:
    findings = Findings()
    form = _form(file)
    if form is None:
        raise ValueError(f"{file} has changed: it lists no boxes any more")
    entries = (each for each in _entries(file, form, findings) if not own or each.split == own)
    folders = image_folders(file, root, own or _split_of(file))
    return table_of(entries, folders, root.resolve().name, split, form.order, box_format, findings)


def _entries(file: Path, form: _Form, findings: Findings) -> Iterator[Entry]:
    names = _class_names(file)
    rows = csv.reader(io.StringIO(read_text(file, findings)), delimiter=form.separator)
    columns = next(box for box in ORDERS if form.at.keys() >= {*box} and ORDERS[box] == form.order)
    own_size = form.order == "xyxy" and {"w", "h"} <= form.at.keys()
    for number, row in enumerate(rows, 1):
        if not any(cell.strip() for cell in row) or (number == 1 and form.head):
            continue
        told = f"{file}, line {number}"
        cells = {column: row[at].strip() if at < len(row) else "" for column, at in form.at.items()}
        if not cells["image"]:
            findings.add("line-unreadable", told)
            continue
        given = [cells[column] for column in columns]
        if columns == ("box",):
            given = re.findall(r"[^\s,\[\]()]+", cells["box"])
        numbers = [_number(cell) for cell in given]
        sizes = [_number(cells[side]) or 0 for side in "wh"] if own_size else [0, 0]
        entry = Entry(cells["image"], told, split=cells.get("split", ""))
        entry.size = (int(sizes[0]), int(sizes[1])) if min(sizes) >= 1 else (0, 0)
        class_ = cells.get("class", "")
        entry.class_ = names.get(class_, class_)
        entry.crowd = cells.get("crowd") == "1"
        if len(numbers) == 4 and None not in numbers:
            entry.numbers = numbers  # pyright: ignore[reportAttributeAccessIssue]
        elif any(given):
            entry.odd, entry.told = "box-unreadable", f"{told}: {shown(given)}"
        yield entry


def _class_names(file: Path) -> dict[str, str]:
    """Open Images: /m/… → the class's name, where its list lies beside the table."""
    lists = sorted(file.parent.glob("*class-descriptions*.csv"))
    text = read_text(lists[0], Findings()) if lists else ""
    return {row[0]: row[1] for row in csv.reader(io.StringIO(text)) if len(row) == 2}
