"""Reader of COCO's jsons, with the variants of keys and values that tools write."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from dabdetr.data.archive import unpacked
from dabdetr.data.box_formats import Asked, expected_step
from dabdetr.data.class_lists import class_table, name_list, names_beside
from dabdetr.data.coco_rows import Annotations, objects
from dabdetr.data.columns import FARTHEST
from dabdetr.data.findings import Findings
from dabdetr.data.ids import key, whole
from dabdetr.data.locate import ImageFolders, paths_of
from dabdetr.data.records import RecordTable, Rows
from dabdetr.data.split_names import split_in_path
from dabdetr.data.textfiles import guess, note_encoding, read_bytes
from dabdetr.text import counted, parse_json, shown

LISTS = ("images", "annotations", "categories")
FEDERATED = {"neg_category_ids", "not_exhaustive_category_ids"}
"""Keys of an LVIS image: classes known to be absent; classes of which not all are labelled."""
FILE_NAMES = ("file_name", "filename", "path", "file", "coco_url", "url")
"""Keys of an image that may contain its file name, the usual one first."""
CLASS_NAMES = ("label", "title", "class", "class_name", "category", "supercategory")
"""Keys of a category that may contain its name if it has no ``name``."""
SPLIT_KEYS = ("split", "subset", "set", "phase", "usage")
"""Keys of an image that may contain its split."""
LEFT_OUT = -2
"""Index of an image that is listed and left out with its boxes."""


def read_coco(
    annotations: Path | Sequence[Path],
    images: Path | Sequence[Path],
    name: str | None = None,
    split: str = "train",
    box_format: Asked | None = None,
    only: str | None = None,
) -> RecordTable:
    """Read a COCO json, or several of one split, whose images are in or below folders ``images``.

    ``only`` selects the images whose rows name that split (``SPLIT_KEYS``).
    ValueError or FileNotFoundError if nothing can be read; faults of single rows are counted in the
    data set's ``findings``.
    """
    folders = [images] if isinstance(images, Path) else list(images)
    findings = Findings()
    files = [annotations] if isinstance(annotations, Path) else list(annotations)
    annotations = files[0]
    tree = _load(annotations, findings) if len(files) == 1 else _joined(files, findings)
    if only is not None:
        _keep_split(tree, only)
        findings.add("split-listed", f"{annotations}: {only}", len(tree["images"]))
    if not any(folder.is_dir() for folder in folders):
        raise FileNotFoundError(f"there is no image folder {folders[0]} for {annotations}")
    categories = objects(tree["categories"], findings, annotations)
    if not categories and tree["annotations"]:
        raise ValueError(f"{annotations} lists no categories; give each class an id and a name")
    rows = Rows(findings, "xywh")
    places = _images(tree["images"], rows, folders, annotations)
    category_ids, names, labels = _classes(categories, tree["annotations"], findings, annotations)
    listed = Annotations(tree["annotations"], annotations, findings)
    rows.classes = listed.class_numbers(labels, expected_step(box_format))
    step = rows.classes.step
    labels = {id_ + step if isinstance(id_, int) else id_: each for id_, each in labels.items()}
    listed.fill(rows, places, labels)
    _set_known_classes(tree["images"], rows, places, labels)
    del tree
    return RecordTable(rows, name or annotations.stem, split, names, category_ids, box_format)


def _load(file: Path, findings: Findings) -> dict[str, Any]:
    content: bytes | str = read_bytes(file)
    repeated: list[str] = []
    try:
        tree = parse_json(content, str(file), repeated)
    except ValueError as error:
        if "UTF-8" not in str(error):
            raise ValueError(f"{error}; is it cut short?") from None
        content, encoding = guess(bytes(content))
        tree = parse_json(content, str(file), repeated)
        note_encoding(findings, file, content, encoding)
    if lists := [name for name in LISTS if name in repeated]:
        raise ValueError(
            f"{file} has {' and '.join(lists)} more than once, so that only the last would count; "
            "make a file of each part: train_1.json and train_2.json are read as one"
        )
    findings.add("key-repeated", [f"{file}: {shown(key)}" for key in repeated])
    if isinstance(tree, dict) and isinstance(tree.get("annotations"), list):
        tree["annotations"] = _segments(tree["annotations"])
        tree["categories"] = _categories(
            tree.get("categories"), tree["annotations"], findings, file
        )
    for name in LISTS:
        if not isinstance(tree, dict) or not isinstance(tree.get(name), list):
            raise ValueError(
                f"{file} has no list {name!r}; a COCO json has images, annotations and categories"
            )
    return tree


def _joined(files: Sequence[Path], findings: Findings) -> dict[str, Any]:
    """The content of several jsons, with new ids; classes of one name are one class.

    Rows with the same id in their file get the same new one, and so do rows of several files with
    the same file name. An id that a file does not list becomes a text, which is not listed either.
    """
    whole_tree: dict[str, list[Any]] = {name: [] for name in LISTS}
    numbers: dict[str, int] = {}
    places: dict[str, int] = {}
    boxes, again = set[tuple[Any, ...]](), set[int]()
    count = 0
    for file in files:
        try:
            tree = _load(file, findings)
        except (ValueError, OSError) as error:
            findings.add("file-unreadable", str(error))
            continue
        classes: dict[Any, int] = {}
        by_name: dict[Any, int] = {}
        for given in objects(tree["categories"], findings, file):
            row = _with_name(given, findings, file)
            id_ = key(row.get("id"))
            name = str(row["name"] if isinstance(row.get("name"), str) else f"class {id_}")
            if id_ in classes:
                findings.add("class-id-repeated", f"{file}: {shown(row.get('id'))} is also {name}")
                continue
            if name not in numbers:
                numbers[name] = len(numbers) + 1
                whole_tree["categories"].append({**row, "id": numbers[name]})
            classes[id_] = by_name[name] = numbers[name]
        ids: dict[Any, int] = {}
        by_file: dict[Any, int] = {}
        for row in objects(tree["images"], findings, file):
            count += 1
            id_, name = key(row.get("id")), file_name(row)
            number = places.get(name, count)
            number = number if id_ is None else ids.setdefault(id_, number)
            by_file.setdefault(name, number)
            if name in places:
                findings.add("image-listings", f"{file}: {name}")
                again.add(number)
            else:
                whole_tree["images"].append({**row, "id": number})
        places |= {name: number for name, number in by_file.items() if name}
        images, labels = by_file | ids, by_name | classes
        for row in objects(tree["annotations"], findings, file):
            image, class_ = row.get("image_id"), row.get("category_id")
            new = {
                "id": f"{shown(row.get('id'))} of {file.name}",
                "image_id": images.get(key(image), f"{image} of {file.name}"),
                "category_id": labels.get(key(class_), f"{class_} of {file.name}"),
            }
            box = (new["image_id"], new["category_id"], str(row.get("bbox")))
            if box in boxes and new["image_id"] in again:
                findings.add("line-twice", f"{file}: annotation {shown(row.get('id'))}")
                continue
            boxes.add(box)
            whole_tree["annotations"].append({**row, **new})
    findings.add("files-joined", map(str, files), len(files))
    return whole_tree


def _segments(given: list[Any]) -> list[Any]:
    """The annotation rows; a row of a COCO panoptic json contains those of an image."""
    if not any(isinstance(row, dict) and "segments_info" in row for row in given[:1]):
        return given
    return [
        {**each, "image_id": row.get("image_id"), "id": None}
        for row in given
        for each in (isinstance(row, dict) and row.get("segments_info")) or []
        if isinstance(each, dict)
    ]


def _categories(given: Any, annotations: list[Any], findings: Findings, file: Path) -> Any:
    """The categories as a list of ids and names, also from a list of names or a mapping.

    A list of names is numbered from 0; from 1 if an annotation has the last number and none has 0.
    """
    if given in ([], None, {}):
        pairs = name_list(names_beside(file.parent), findings)
        if not pairs:  # the ids are also used as names
            used = {whole(row.get("category_id")) for row in annotations if isinstance(row, dict)}
            ids = sorted(used - {None})  # pyright: ignore
            findings.add("class-names-missing", f"{file} lists no categories", len(ids))
            return [{"id": id_, "name": str(id_)} for id_ in ids]
        counted_from_0 = [number for number, _ in pairs] == list(range(len(pairs)))
        given = [name for _, name in pairs] if counted_from_0 else dict(pairs)
    if isinstance(given, dict) and "id" not in given:
        pairs = [
            (id_, name) if isinstance(name, str) else (name, id_) for id_, name in given.items()
        ]
    elif isinstance(given, list) and all(isinstance(each, str) for each in given):
        used = {whole(row.get("category_id")) for row in annotations if isinstance(row, dict)}
        pairs = list(enumerate(given, int(len(given) in used and 0 not in used)))
    else:
        return given
    findings.add("class-list", f"{file}: {shown(given)}", len(pairs))
    return [{"id": id_, "name": name} for id_, name in pairs]


def _images(
    given: list[Any], rows: Rows, folders: Sequence[Path], file: Path
) -> dict[int | str, int]:
    """Add the images to ``rows``; id → index, or ``LEFT_OUT`` for images that are counted so."""
    findings = rows.findings
    listed = objects(given, findings, file)
    if not listed:
        raise ValueError(f"{file} lists no images; there is nothing to read")
    folders = _with_zips(folders, listed, file, findings)
    finder = ImageFolders(folders, findings)
    keys = [key(row.get("id")) for row in listed]
    if all(each is None for each in keys):  # annotations then refer to file names
        keys = [file_name(row) or None for row in listed]
    odd = [f"{file}: {row.get('id')!r:.40}" for row in listed if type(row.get("id")) is not int]
    findings.add("id-text", odd)
    numbered = not all(isinstance(each, int) for each in keys)
    if numbered:
        findings.add("id-numbered", f"{file}: {keys[0]!r} is 1", len(keys))
    names = [file_name(row) for row in listed]
    different = Counter(id_ for id_, _ in {*zip(keys, names, strict=True)})
    places: dict[int | str, int] = {id_: LEFT_OUT for id_ in keys if id_ is not None}
    first_rows: dict[str, str] = {}
    missing: list[str] = []
    for number, (id_, name, row) in enumerate(zip(keys, names, listed, strict=True), 1):
        place = f"{file}: image {shown(row.get('id'))}"
        if not name:
            findings.add("image-unnamed", place)
            continue
        if id_ is not None and different[id_] > 1:
            findings.add("image-id-repeated", f"{place}, {shown(name)}")
            rows.left_out += filter(None, [finder.find(name)])
            continue
        if places.get(id_, LEFT_OUT) != LEFT_OUT:  # pyright: ignore
            findings.add("line-twice", place)
            continue
        path = finder.find(name)
        if path is None:
            missing.append(f"{place} names {shown(name)}")
            continue
        if path in first_rows:
            findings.add("image-twice", f"{path}, {place} and {first_rows[path]}")
        first_rows[path] = f"image {shown(row.get('id'))}"
        size = _size(row, findings, place)
        index = rows.add_image(path, size, number if numbered else id_)  # pyright: ignore
        if id_ is not None:
            places[id_] = index
        places.setdefault(name, index)  # some tools write names as image_id
    findings.add("image-missing", missing)
    if not rows.files and not missing:
        raise ValueError(
            f"none of {counted(len(listed), 'image')} of {file} can be used: "
            f"{next(iter(findings.of('skipped')))}"
        )
    if not rows.files:
        searched = ", ".join(str(folder) for folder in folders[:3])
        several = findings.count("name-several")
        raise FileNotFoundError(
            f"none of {counted(len(listed), 'image')} of {file} is there: {missing[0]}, which "
            f"{'several images are called' if several else 'does not exist'} in "
            f"{searched}; give their folder with --annotations {file} --images FOLDER"
        )
    return places


def _with_zips(
    folders: Sequence[Path], listed: Sequence[dict[str, Any]], file: Path, findings: Findings
) -> list[Path]:
    """``folders``, plus the unpacked zips next to them or the json if they contain no images."""
    finder = ImageFolders(folders, Findings())
    if any(finder.find(file_name(row)) for row in listed[:8]):
        return [*folders]
    places = dict.fromkeys((*folders, file.parent, file.parent.parent))
    zips = [path for place in places for path in paths_of(place, ".zip")]
    opened = {path: unpacked(path) for path in dict.fromkeys(zips)}
    findings.add("place", [f"{path}: {folder}" for path, folder in opened.items()])
    return [*folders, *opened.values()]


def file_name(row: dict[str, Any]) -> str:
    """The file name of an image, under the first of ``FILE_NAMES`` that has one; "" if none has."""
    for name in FILE_NAMES:
        value = row.get(name)
        if isinstance(value, str | int) and not isinstance(value, bool) and str(value).strip():
            return str(value)
    return ""


def _size(row: dict[str, Any], findings: Findings, place: str) -> tuple[int, int]:
    """(width, height); (0, 0) if it has to be read from the image file."""
    sides = row.get("width"), row.get("height")
    if None in sides:
        return 0, 0
    width, height = (whole(side) for side in sides)
    if width is None or height is None or not (0 < width < FARTHEST and 0 < height < FARTHEST):
        findings.add("size-odd", f"{place} has {shown(sides[0])} and {shown(sides[1])}")
        return 0, 0
    return width, height


def _classes(
    categories: list[dict[str, Any]], annotations: list[Any], findings: Findings, file: Path
) -> tuple[tuple[int, ...], tuple[str, ...], dict[Any, int]]:
    """Category ids and names in the order of the ids, and id (as ``key``) or name → label.

    A category without boxes that only groups the others (as Roboflow writes) is left out.
    """
    used = {key(row.get("category_id")) for row in annotations if isinstance(row, dict)}
    groups = {group for row in categories if isinstance(group := row.get("supercategory"), str)}
    ids: list[tuple[int | str, dict[str, Any]]] = []
    for row in categories:
        id_ = key(row.get("id"))
        if id_ is None:
            findings.add("row-unreadable", f"{file}: category {shown(row.get('id'))}")
            continue
        row = _with_name(row, findings, file)
        name = row.get("name") if isinstance(row.get("name"), str) else None
        is_root = row.get("supercategory") in (None, "", "none", "None")
        if name in groups and not {id_, name} & used and is_root:
            findings.add("class-grouping", f"{name!r} in {file}")
        else:
            ids.append((id_, row))
    if not all(isinstance(id_, int) for id_, _ in ids):  # text ids are numbered from 1
        numbers = {id_: number for number, (id_, _) in enumerate(ids, 1)}
        findings.add("id-text", f"{file}: category {ids[0][0]!r} is 1", len(ids))
    else:
        numbers = {id_: id_ for id_, _ in ids}
    pairs = [(int(numbers[id_]), row.get("name")) for id_, row in ids]
    pairs.sort(key=lambda pair: pair[0])
    category_ids, names, labels = class_table(pairs, findings, file.parent)
    # Some tools write names as category_id.
    by_name = {name: label for label, name in enumerate(names)}
    return category_ids, names, by_name | {id_: labels[int(numbers[id_])] for id_, _ in ids}


def _with_name(row: dict[str, Any], findings: Findings, file: Path) -> dict[str, Any]:
    """A category with a ``name``, taken from another of its keys if it has none."""
    if isinstance(row.get("name"), str) and row["name"]:
        return row
    for other in CLASS_NAMES:
        if isinstance(row.get(other), str) and row[other].strip():
            findings.add("class-name-key", f"{file}: {other} {shown(row[other])}")
            return {**row, "name": row[other]}
    return row


def _set_known_classes(
    given: list[Any], rows: Rows, places: dict[int | str, int], labels: dict[Any, int]
) -> None:
    """LVIS: set the classes that are labelled exhaustively in each image; others are unknown.

    These are the classes with an annotation in the image and those known to be absent, minus those
    labelled in part.
    """
    annotated: dict[int, set[int]] = {}
    for row in given:
        if not isinstance(row, dict) or not row.keys() & FEDERATED:
            continue
        index = places.get(key(row.get("id")))  # pyright: ignore[reportArgumentType]
        if index is None or index == LEFT_OUT:
            continue
        if not annotated:
            for at, label in zip(np.asarray(rows.image), np.asarray(rows.label), strict=True):
                annotated.setdefault(int(at), set()).add(int(label))
            annotated[-1] = set()
        known = annotated.get(index, set()) | _labels(row.get("neg_category_ids"), labels)
        partial = _labels(row.get("not_exhaustive_category_ids"), labels)
        rows.known[index] = tuple(sorted(known - partial))


def _labels(ids: Any, labels: dict[Any, int]) -> set[int]:
    found: Iterable[Any] = ids if isinstance(ids, list) else ()
    return {labels[key(id_)] for id_ in found if key(id_) in labels}


def split_in(row: dict[str, Any]) -> str:
    """The split under ``SPLIT_KEYS`` of an image row, else that of its folder; or ""."""
    named = next((row[key] for key in SPLIT_KEYS if isinstance(row.get(key), str)), "")
    return named or split_in_path(file_name(row))


def _keep_split(tree: dict[str, Any], wanted: str) -> None:
    """Remove the images of other splits, and their annotations, from ``tree``."""
    rows = [row for row in tree["images"] if isinstance(row, dict)]
    tree["images"] = [row for row in rows if split_in(row) == wanted]
    removed = {key(row.get("id")) for row in rows} - {key(row.get("id")) for row in tree["images"]}
    annotations = tree["annotations"]
    tree["annotations"] = [
        row
        for row in annotations
        if not (isinstance(row, dict) and key(row.get("image_id")) in removed)
    ]
