"""Finding COCO's jsons and their splits, in the folder structures that common tools write."""

from __future__ import annotations

import re
from functools import lru_cache, partial
from pathlib import Path

from dabdetr.data.box_formats import Asked
from dabdetr.data.coco_json import LISTS, SPLIT_KEYS, read_coco, split_in
from dabdetr.data.images import IMAGE_SUFFIXES
from dabdetr.data.locate import clean, files_in, folders_in, paths_of, without_ending
from dabdetr.data.records import Open, RecordTable
from dabdetr.data.split_names import (
    DEFAULT,
    USUAL,
    YEAR,
    canonical,
    names_of_wholes,
    usual_word,
)
from dabdetr.data.textfiles import HEAD, MOST_TEXT, head_of, read_bytes
from dabdetr.text import parse_json

MANY = 50  # most jsons in a folder that are inspected one by one
SPLIT_KEY = re.compile(
    rf'"({"|".join(SPLIT_KEYS)})"\s*:\s*"|"file_name"\s*:\s*"[^"]*(tr|val|dev|te?st)[^"]*[/\\]'.encode(),
    re.IGNORECASE,
)
AFFIXES = re.compile(
    r"^(instances_|person_keypoints_|image_info_|panoptic_|_?annotations?[._-]?)"
    r"|([._-]?(annotations?|coco|labels))+$",
    re.IGNORECASE,
)
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
    wholes = names_of_wholes(groups)
    for name, files in groups.items():
        if wholes[name] != name:
            name = wholes[name]
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
    """The splits of a json's images (see ``split_in``), if every image has a usual one."""
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
    named = list(dict.fromkeys(map(split_in, rows)))
    return named if len(named) > 1 and {canonical(name) for name in named} <= {*USUAL} else []


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
