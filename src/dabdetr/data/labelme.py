"""labelme's layout: a json with shapes next to each image."""

from __future__ import annotations

import base64
import math
from contextlib import suppress
from functools import partial
from itertools import chain
from pathlib import Path
from typing import Any

from dabdetr.data.archive import unpacked_once
from dabdetr.data.box_formats import Asked
from dabdetr.data.findings import Findings
from dabdetr.data.images import IMAGE_SUFFIXES
from dabdetr.data.locate import ImageFolders, folders_in, images_below, paths_of
from dabdetr.data.records import Open, RecordTable, Rows, named_table
from dabdetr.data.shapes import around, size_of
from dabdetr.data.split_names import split_folders
from dabdetr.data.textfiles import head_of, parse_counting, read_text
from dabdetr.files import plain_name
from dabdetr.text import shown

LABELS = ("labels", "annotations", "jsons", "json")
"""Names of folders that contain only the jsons, separate from the images."""
POINTLESS = ("point", "points", "line", "linestrip")


def find_labelme(root: Path) -> dict[str, Open]:
    """Split → its opener: one split, or one for each split folder; empty for other jsons."""
    if not root.is_dir():
        return {}
    found: dict[str, Open] = {}
    splits = _split_files(root)
    for name, files in splits.items():
        others = {each.stem for each in chain(*splits.values())} - {each.stem for each in files}
        if any(map(_is_labelme, files[:3])):
            found[name] = partial(_open, root, files, others)
    return found


def _split_files(root: Path) -> dict[str, list[Path]]:
    """Jsons of ``root`` or of the folders in it; by split if all folders are named after splits."""
    files = paths_of(root, ".json")
    if files:
        return {"default": files}
    folders = folders_in(root)
    apart = [each for each in folders if each.name.casefold() in LABELS]
    if apart:
        return _split_files(apart[0])
    if divided := split_folders(root):
        return {name: paths_of(each, ".json") for name, each in divided.items()}
    if all(map(_has_only_labelme, folders)):
        return {"default": [file for folder in folders for file in paths_of(folder, ".json")]}
    return {}


def _has_only_labelme(folder: Path) -> bool:
    """Whether a folder contains only images and labelme's files."""
    files = [file for file in folder.iterdir() if not file.name.startswith(".")]
    endings = {file.suffix.lower() for file in files} - IMAGE_SUFFIXES - {".json"}
    return not endings and all(map(_is_labelme, paths_of(folder, ".json")[:3]))


def _is_labelme(file: Path) -> bool:
    head = head_of(file)
    if b'"imageData"' in head and b'"images"' not in head:  # image data may fill the head
        return True
    return b'"shapes"' in head and (b'"imagePath"' in head or b'"points"' in head)


def _open(
    root: Path, files: list[Path], others: set[str], split: str, box_format: Asked | None = None
) -> RecordTable:
    """The images of ``files``, and unlabelled images next to them with a stem not in ``others``."""
    findings = Findings()
    rows = Rows(findings, "xyxy")
    names: dict[str, int] = {}
    missing: list[str] = []
    unread: set[str] = set()
    finders: dict[Path, ImageFolders] = {}
    for file in files:
        try:
            tree = parse_counting(read_text(file, findings), str(file), findings)
            if not isinstance(tree, dict) or not isinstance(tree.get("shapes"), list):
                raise ValueError(f"{file} has no list of shapes")
        except (ValueError, OSError) as error:
            findings.add("file-unreadable", str(error))
            unread.add(file.stem)
            continue
        folders = dict.fromkeys(
            [file.parent, root / "images" / file.parent.name, root, root / "images"]
        )
        finder = finders.setdefault(file.parent, ImageFolders(folders, findings))
        named = tree.get("imagePath")
        image_paths = [named] if isinstance(named, str) and named else []
        path = finder.find_named(image_paths, "", file.stem) or _embedded(file, tree, findings)
        if path is None:
            missing.append(f"{file} has no image {shown(named or file.stem)}")
            continue
        index = rows.add_image(path, size_of(tree.get("imageWidth"), tree.get("imageHeight")))
        for class_, edges, place in _objects(tree["shapes"], file, findings):
            rows.add_box(index, names.setdefault(class_, len(names)), edges, place=place)
    findings.add("image-missing", missing)
    if not rows.files:
        raise FileNotFoundError(
            f"{missing[0] if missing else root}: no image of these files is there"
        )
    parents = {root.absolute()} if not others else {Path(file).parent for file in rows.files}
    every = {path for folder in parents for path in images_below(folder)}
    rest = sorted(p for p in every - {*rows.files} if Path(p).stem not in others)
    rows.left_out = [path for path in rest if Path(path).stem in unread]
    unlabelled = [path for path in rest if Path(path).stem not in unread]
    for path in unlabelled:
        rows.add_image(path)
    findings.add("label-missing", unlabelled)
    return named_table(rows, names, root, split, box_format)


def _embedded(file: Path, tree: dict[str, Any], findings: Findings) -> str | None:
    """The path of the image in the json itself, unpacked into the cache; None without one."""
    try:
        content = base64.b64decode(tree.get("imageData") or "")
    except (TypeError, ValueError):
        content = b""
    if not content:
        return None
    name = f"{plain_name(file.stem)}.png"  # the content says its format
    folder = unpacked_once(
        "labelme", [file], file.stem, lambda folder: (folder / name).write_bytes(content)
    )
    findings.add("images-packed", f"{file}: {folder}")
    return str(folder / name)


Edges = tuple[float, float, float, float]
"""x0, y0, x1, y1."""
IGNORED = "__ignore__"
"""labelme's own label for regions that do not count."""


def _objects(shapes: list[Any], file: Path, findings: Findings) -> list[tuple[str, Edges, str]]:
    """Class, box and place of each object; shapes of one label and ``group_id`` are one object."""
    found: dict[Any, tuple[str, Edges, str]] = {}
    for number, shape in enumerate(shapes, 1):
        place = f"{file}: shape {number}"
        edges = _edges(shape, place, findings)
        if edges is None:
            continue
        label = shape.get("label")
        plain = isinstance(label, str | int | float) and not isinstance(label, bool)
        if (class_ := str(label).strip() if plain else "") in ("", IGNORED):
            kind = "region-uncared" if class_ else "class-unknown"
            findings.add(kind, f"{place} has {shown(class_) if class_ else 'no label'}")
            continue
        group = shape.get("group_id")
        key = number if group is None else (class_, str(group))
        if key in found:
            findings.add("shapes-grouped", f"{place}, group {shown(group)}")
            corners = (found[key][1][:2], found[key][1][2:], edges[:2], edges[2:])
            edges = around(corners) or edges
        found[key] = (class_, edges, place)
    return list(found.values())


def _edges(shape: Any, place: str, findings: Findings) -> Edges | None:
    """x0, y0, x1, y1 around a shape; None if it has no area."""
    if not isinstance(shape, dict) or not isinstance(shape.get("points"), list):
        findings.add("box-unreadable", place)
        return None
    kind, points = shape.get("shape_type") or "polygon", shape["points"]
    if kind in POINTLESS or len(points) < 2:
        findings.add("shape-without-area", f"{place}, a {shown(kind)}")
        return None
    if kind == "circle":  # given by its centre and a point on it
        with suppress(TypeError, ValueError):
            (x, y), (a, b) = points[:2]
            radius = math.hypot(a - x, b - y)
            points = [(x - radius, y - radius), (x + radius, y + radius)]
    elif kind != "rectangle" and kind != "mask":
        findings.add("box-rotated" if kind == "rotation" else "box-from-shape", place)
    edges = around(points)
    if edges is None:
        findings.add("box-unreadable", place)
    return edges
