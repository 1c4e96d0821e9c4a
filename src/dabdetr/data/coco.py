"""Reader of COCO jsons, in the folder structures that common tools write."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Sequence
from functools import lru_cache, partial
from pathlib import Path
from typing import Any

import numpy as np

from dabdetr.data.archive import unpacked
from dabdetr.data.box_formats import Asked
from dabdetr.data.class_lists import name_list, names_beside
from dabdetr.data.coco_rows import Annotations, key, objects, whole
from dabdetr.data.columns import FARTHEST
from dabdetr.data.findings import Findings
from dabdetr.data.images import IMAGE_SUFFIXES
from dabdetr.data.locate import (
    USUAL,
    YEAR,
    ImageFolders,
    canonical,
    clean,
    files_in,
    folders_in,
    paths_of,
    split_in_path,
    usual_word,
    without_ending,
)
from dabdetr.data.records import Open, RecordTable, Rows, class_table
from dabdetr.data.textfiles import HEAD, MOST_TEXT, guess, head_of, note_encoding, read_bytes
from dabdetr.text import counted, parse_json, shown

MANY = 50  # most jsons in a folder that are inspected one by one
DEFAULT = "default"
"""Name of a split whose file names give none."""
FEDERATED = {"neg_category_ids", "not_exhaustive_category_ids"}
"""Keys of an LVIS image: classes known to be absent; classes of which not all are labelled."""
LISTS = ("images", "annotations", "categories")
FILE_NAMES = ("file_name", "filename", "path", "file", "coco_url", "url")
"""Keys of an image that may contain its file name, the usual one first."""
CLASS_NAMES = ("label", "title", "class", "class_name", "category", "supercategory")
"""Keys of a category that may contain its name if it has no ``name``."""
SPLIT_KEYS = ("split", "subset", "set", "phase", "usage")
"""Keys of an image that may contain its split."""
SPLIT_KEY = re.compile(
    rf'"({"|".join(SPLIT_KEYS)})"\s*:\s*"|"file_name"\s*:\s*"[^"]*(tr|val|dev|te?st)[^"]*[/\\]'.encode(),
    re.IGNORECASE,
)
AFFIXES = re.compile(
    r"^(instances_|person_keypoints_|image_info_|panoptic_|_?annotations?[._-]?)"
    r"|([._-]?(annotations?|coco|labels))+$",
    re.IGNORECASE,
)
PART = re.compile(r"([-_. ]?(part|shard|batch|chunk|task|job))?[-_. ]?\d+$", re.IGNORECASE)
"""The end of the name of a json that has a part of a split."""
PLACES = ("annotations", "Annotations", ".", "*", "annotations/*", "Annotations/*")
BESIDE = ("images", "data", "JPEGImages", "imgs")
"""Names of image folders next to a json, used if no folder has the split's name."""


def find_coco(root: Path) -> dict[str, Open]:
    """Split → its opener, for jsons in annotations/, in ``root``, or in a folder for each split."""
    if root.is_file():
        name, folder = _split_of(root) or DEFAULT, root.parent
        folder = folder.parent if folder.name.casefold() == "annotations" else folder
        named = _listed_splits(root) if is_coco(root) else []
        if named:
            return {each: partial(_open, [root], folder, each, each) for each in named}
        return {name: partial(_open, [root], folder, name, None)} if is_coco(root) else {}
    if not root.is_dir():
        return {}
    jsons = next(filter(None, (_jsons(root, place) for place in PLACES)), [])
    groups: dict[str, list[Path]] = {}
    if len(jsons) == 1 and (named := _listed_splits(jsons[0])):
        return {name: partial(_open, jsons, root, name, name) for name in named}
    for file in jsons:
        nested = file.parent != root and file.parent.name.lower() != "annotations"
        split = _split_of(file)
        if nested and (not split or split in groups):
            split = _split_of(file.parent)
        split = split or DEFAULT
        groups[file.stem if split in groups else split] = [file]
    joined = _joined_parts(groups).items()
    return {name: partial(_open, files, root, name, None) for name, files in joined}


def _joined_parts(groups: dict[str, list[Path]]) -> dict[str, list[Path]]:
    """The groups with parts of one split (train_1, train_2) and jsons of one image each joined."""
    joined: dict[str, list[Path]] = {}
    if len({files[0].parent for files in groups.values()}) > 1:  # images may share names then
        return groups
    parts = Counter(PART.sub("", name) for name in groups)
    for name, files in groups.items():
        if (split := PART.sub("", name)) != name and parts[split] > 1:
            name = name if "fold" in split.casefold() else split or DEFAULT
        elif canonical(name) not in USUAL and _is_of_one_image(files[0]):
            name = DEFAULT
        joined.setdefault(name, []).extend(files)
    return joined


def _is_of_one_image(file: Path) -> bool:
    """Whether a json is called like its first image."""
    first = re.search(rb'"file_name"\s*:\s*"([^"]*)"', head_of(file))
    name = clean(first.group(1).decode("utf-8", "replace")) if first else []
    return bool(name) and without_ending(name[-1]) in (file.stem, without_ending(file.stem))


def _jsons(root: Path, place: str) -> list[Path]:
    """COCO jsons in a folder below ``root``; only those named instances_… if there are any."""
    files: list[Path] = []
    for folder in [root] if place == "." else sorted(root.glob(place)):
        here = [] if folder.name.startswith(".") else paths_of(folder, ".json")
        if len(here) > MANY and not _is_of_one_image(here[0]):  # keep those with a COCO name
            here = [file for file in here if re.search("annotations|instances|coco", file.name)]
        files += here
    named = [file for file in files if file.name.startswith("instances_")]
    return named or [file for file in files if is_coco(file)]


def other_jsons(root: Path) -> list[Path]:
    """COCO's jsons in ``root`` that are not read, as there are some in annotations/."""
    read = next(filter(None, (_jsons(root, place) for place in PLACES)), [])
    return [] if read[0].parent == root else _jsons(root, ".")


def is_coco(file: Path) -> bool:
    """Whether a json looks like COCO's; only its head is read."""
    if file.suffix.lower() != ".json" or not file.is_file():
        return False
    head = head_of(file).lstrip()
    if b'"items"' in head or b'"dm_format_version"' in head or not head.startswith(b"{"):
        return False
    keys = {key for key in LISTS if f'"{key}"'.encode() in head}
    if len(head) < HEAD:
        return "images" in keys and len(keys) > 1
    return bool(keys & {"images", "annotations"})


def _split_of(file: Path) -> str:
    """The split in the name of a json or folder; "" for a name without a split."""
    if file.suffix.lower() != ".json":
        return file.name
    previous, name = None, file.stem
    while previous != name:
        previous, name = name, AFFIXES.sub("", name)
    return "" if name in ("result", "results", "export", "coco") else YEAR.sub("", name)


def _listed_splits(file: Path) -> list[str]:
    """The splits of a json's images (see ``_split_in``), if every image has a usual one."""
    state = file.stat()
    return _splits_in(file, state.st_size, state.st_mtime_ns)


@lru_cache(maxsize=8)
def _splits_in(file: Path, size: int, time: int) -> list[str]:
    if size > MOST_TEXT or not SPLIT_KEY.search(read_bytes(file)):
        return []
    try:
        images = parse_json(read_bytes(file), str(file)).get("images")
    except (ValueError, AttributeError):
        return []
    rows = [row for row in images if isinstance(row, dict)] if isinstance(images, list) else []
    named = list(dict.fromkeys(map(_split_in, rows)))
    return named if len(named) > 1 and {canonical(name) for name in named} <= {*USUAL} else []


def _split_in(row: dict[str, Any]) -> str:
    """The split under ``SPLIT_KEYS`` of an image row, else that of its folder; or ""."""
    named = next((row[key] for key in SPLIT_KEYS if isinstance(row.get(key), str)), "")
    return named or split_in_path(_file_name(row))


def _keep_split(tree: dict[str, Any], wanted: str) -> None:
    """Remove the images of other splits, and their annotations, from ``tree``."""
    rows = [row for row in tree["images"] if isinstance(row, dict)]
    tree["images"] = [row for row in rows if _split_in(row) == wanted]
    removed = {key(row.get("id")) for row in rows} - {key(row.get("id")) for row in tree["images"]}
    annotations = tree["annotations"]
    tree["annotations"] = [
        row
        for row in annotations
        if not (isinstance(row, dict) and key(row.get("image_id")) in removed)
    ]


def _open(
    files: list[Path],
    root: Path,
    name: str,
    only: str | None,
    split: str,
    box_format: Asked | None = None,
) -> RecordTable:
    folders = _image_folders(root, files[0], name)
    return read_coco(files, folders, root.resolve().name, split, box_format, only)


def _image_folders(root: Path, file: Path, name: str) -> list[Path]:
    """Folders that may contain the images of a json of the split ``name``, likeliest first."""
    full, bases = AFFIXES.sub("", file.stem) or file.stem, (root, root / "images")
    names = (full, YEAR.sub("", full), f"{full}2017")
    options = [base / each for each in names for base in bases]
    if usual := canonical(name) if canonical(name) in USUAL else usual_word(name):
        inside = (each for base in bases for each in folders_in(base))
        options += [f for f in inside if usual in (canonical(f.name), usual_word(f.name))]
    options += [folder / each for folder in (file.parent, root) for each in BESIDE]
    split = [option for option in options if full and option.is_dir()]
    if file.parent != root and files_in(file.parent, IMAGE_SUFFIXES):
        split.insert(0, file.parent)
    return list(dict.fromkeys([*split, file.parent, root]))


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
    Annotations(tree["annotations"], annotations, findings).fill(rows, places, labels)
    _set_known_classes(tree["images"], rows, places, labels)
    del tree
    return RecordTable(rows, name or annotations.stem, split, names, category_ids, box_format)


def _load(file: Path, findings: Findings) -> dict[str, Any]:
    content: bytes | str = read_bytes(file)
    try:
        tree = parse_json(content, str(file))
    except ValueError as error:
        if "UTF-8" not in str(error):
            raise ValueError(f"{error}; is it cut short?") from None
        content, encoding = guess(bytes(content))
        tree = parse_json(content, str(file))
        note_encoding(findings, file, content, encoding)
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
    """The content of several jsons, with new ids; classes of one name are one class."""
    whole_tree: dict[str, list[Any]] = {name: [] for name in LISTS}
    numbers: dict[str, int] = {}
    for file in files:
        try:
            tree = _load(file, findings)
        except (ValueError, OSError) as error:
            findings.add("file-unreadable", str(error))
            continue
        classes: dict[Any, int] = {}
        for row in objects(tree["categories"], findings, file):
            name = str(row.get("name"))
            if name not in numbers:
                numbers[name] = len(numbers) + 1
                whole_tree["categories"].append({**row, "id": numbers[name]})
            classes[key(row.get("id"))] = numbers[name]
        images: dict[Any, int] = {}
        for row in objects(tree["images"], findings, file):
            images[key(row.get("id"))] = len(whole_tree["images"]) + 1
            whole_tree["images"].append({**row, "id": len(whole_tree["images"]) + 1})
        for row in objects(tree["annotations"], findings, file):
            ids: dict[str, int | None] = {"id": len(whole_tree["annotations"]) + 1}
            ids["image_id"] = images.get(key(row.get("image_id")))
            ids["category_id"] = classes.get(key(row.get("category_id")))
            whole_tree["annotations"].append({**row, **ids})
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
    """Add the images to ``rows``; id → index. Images whose file is missing are left out."""
    findings = rows.findings
    listed = objects(given, findings, file)
    if not listed:
        raise ValueError(f"{file} lists no images; there is nothing to read")
    folders = _with_zips(folders, listed, file, findings)
    finder = ImageFolders(folders, findings)
    keys = [key(row.get("id")) for row in listed]
    if all(each is None for each in keys):  # annotations then refer to file names
        keys = [_file_name(row) or None for row in listed]
    odd = [f"{file}: {row.get('id')!r:.40}" for row in listed if type(row.get("id")) is not int]
    findings.add("id-text", odd)
    numbered = not all(isinstance(each, int) for each in keys)
    if numbered:
        findings.add("id-numbered", f"{file}: {keys[0]!r} is 1", len(keys))
    places: dict[int | str, int] = {}
    first_rows: dict[str, str] = {}
    missing: list[str] = []
    for number, (id_, row) in enumerate(zip(keys, listed, strict=True), 1):
        file_name = _file_name(row)
        place = f"{file}: image {shown(row.get('id'))}"
        if not file_name:
            findings.add("image-unnamed", place)
            continue
        if id_ in places:
            findings.add("image-id-repeated", f"{place}, {shown(file_name)}")
            continue
        path = finder.find(file_name)
        if path is None:
            missing.append(f"{place} names {shown(file_name)}")
            continue
        if path in first_rows:
            findings.add("image-twice", f"{path}, {place} and {first_rows[path]}")
        first_rows[path] = f"image {shown(row.get('id'))}"
        size = _size(row, findings, place)
        index = rows.add_image(path, size, number if numbered else id_)  # pyright: ignore
        if id_ is not None:
            places[id_] = index
    findings.add("image-missing", missing)
    if not rows.files:
        searched = ", ".join(str(folder) for folder in folders[:3])
        several = findings.count("name-several")
        raise FileNotFoundError(
            f"none of {counted(len(listed), 'image')} of {file} is there: "
            f"{missing[0] if missing else 'none has a file name'}, which "
            f"{'several images are called' if several else 'does not exist'} in "
            f"{searched}; give their folder with --annotations {file} --images FOLDER"
        )
    return places


def _with_zips(
    folders: Sequence[Path], listed: Sequence[dict[str, Any]], file: Path, findings: Findings
) -> list[Path]:
    """``folders``, plus the unpacked zips next to them or the json if they contain no images."""
    finder = ImageFolders(folders, Findings())
    if any(finder.find(_file_name(row)) for row in listed[:8]):
        return [*folders]
    places = dict.fromkeys((*folders, file.parent, file.parent.parent))
    zips = [path for place in places for path in paths_of(place, ".zip")]
    opened = {path: unpacked(path) for path in dict.fromkeys(zips)}
    findings.add("place", [f"{path}: {folder}" for path, folder in opened.items()])
    return [*folders, *opened.values()]


def _file_name(row: dict[str, Any]) -> str:
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
        name = row.get("name") if isinstance(row.get("name"), str) else None
        keys = (key for key in CLASS_NAMES if isinstance(row.get(key), str) and row[key].strip())
        if not name and (other := next(keys, None)):
            row = {**row, "name": row[other]}
            findings.add("class-name-key", f"{file}: {other} {shown(row[other])}")
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
        if index is None:
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
