"""YOLO's layout: data.yaml, images in images/, and for each a text file of boxes in labels/.

A line of that file is ``class centre-x centre-y width height``, or ``class x y x y …`` with three
or more corners, which becomes the box around them; all numbers but the class are 0–1 of the
image, turned as EXIF says. An image without a file, or with an empty one, shows nothing.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import yaml

from dabdetr.data.coco import CocoData
from dabdetr.data.dataset import Open
from dabdetr.data.images import IMAGE_SUFFIXES, image_size

log = logging.getLogger("dabdetr")

SETTINGS = (".yaml", ".yml")
SLACK = 0.01
"""How far beyond 0–1 a number may lie that was only rounded; a box is cut to its image."""


def find_yolo(root: Path) -> dict[str, Open]:
    """The splits that a data.yaml names, ``root`` itself or in it; none where there is no such."""
    files = [root, *(root / f"data{suffix}" for suffix in SETTINGS)]
    file = next((each for each in files if each.suffix in SETTINGS and each.is_file()), None)
    if file is None:
        return {}
    settings = _settings(file)
    names = _names(settings, file)
    found: dict[str, Open] = {}
    for key in ("train", "val", "valid", "test"):
        if settings.get(key):

            def read(split: str, where: Any = settings[key]) -> CocoData:
                tree = _tree(_images(where, settings, file), names, file)
                return CocoData(tree, file, file.parent, file.resolve().parent.name, split)

            found[key] = read
    if not found:
        raise ValueError(f"{file} names no images; it should have train: and val: with a folder")
    return found


def _settings(file: Path) -> dict[str, Any]:
    try:
        settings = yaml.safe_load(file.read_text())
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        why = " ".join(str(error).split())
        raise ValueError(f"{file} is not readable YAML ({why})") from None
    if not isinstance(settings, dict) or "names" not in settings:
        raise ValueError(f"{file} has no names: YOLO's data.yaml has names, train and val")
    return settings


def _names(settings: dict[str, Any], file: Path) -> dict[int, str]:
    """Class number → name, of a list or a mapping."""
    given = settings["names"]
    pairs = list(enumerate(given) if isinstance(given, list) else getattr(given, "items", list)())
    names = {number: str(name) for number, name in pairs if type(number) is int}
    if not names or len(names) < len(pairs) or len({*names.values()}) < len(names):
        raise ValueError(
            f"{file}: names should be a list of different class names, or number: name; it has "
            f"{given!r:.80}"
        )
    count = settings.get("nc", len(names))
    if count != len(names):
        raise ValueError(f"{file} says nc: {count}, but has {len(names)} names; correct one")
    return names


def _images(where: Any, settings: dict[str, Any], file: Path) -> list[Path]:
    """What a folder, a list of images in a .txt file, or several of these hold."""
    found: list[Path] = []
    for each in where if isinstance(where, list) else [where]:
        place = _place(str(each), settings, file)
        if place.is_dir():
            found += sorted(p for p in place.rglob("*") if p.suffix.lower() in IMAGE_SUFFIXES)
        else:
            lines = map(str.strip, place.read_text().splitlines())
            found += [place.parent / line for line in lines if line]
        if not found:
            raise ValueError(f"{file} names {place}, where there is no image; check it")
    return found


def _place(where: str, settings: dict[str, Any], file: Path) -> Path:
    """From ``path`` or else from the file's own folder; exporters write ../ for that as well."""
    bases = [file.parent / str(settings.get("path") or "."), file.parent]
    for option in (where, where.removeprefix("../")):
        for base in bases:
            if (base / option).exists():
                return base / option
    raise FileNotFoundError(
        f"{file} names {bases[0] / where}, which does not exist; correct its path, train and val"
    )


def _tree(files: list[Path], names: dict[int, str], file: Path) -> dict[str, Any]:
    """What COCO's json would say."""
    images: list[dict[str, Any]] = []
    annotations: list[dict[str, Any]] = []
    labelled = False
    for number, image in enumerate(files):
        width, height = image_size(image)
        path = image.absolute()
        images.append({"id": number, "file_name": str(path), "width": width, "height": height})
        labels = _label_file(path)
        if not labels.is_file():
            continue
        labelled = True
        for category, (x, y, w, h) in _boxes(labels, names):
            box = [(x - w / 2) * width, (y - h / 2) * height, w * width, h * height]
            row = {"id": len(annotations), "image_id": number, "category_id": category, "bbox": box}
            annotations.append(row)
    if not labelled:
        raise ValueError(
            f"{file}: none of {len(files)} images has a file of boxes; the first's should be "
            f"{_label_file(files[0])}"
        )
    categories = [{"id": number, "name": name} for number, name in names.items()]
    return {"images": images, "annotations": annotations, "categories": categories}


def _label_file(image: Path) -> Path:
    """In the last folder called images, put labels; where there is none, beside the image."""
    parts = list(image.parts)
    if "images" in parts[:-1]:
        last = len(parts) - 2 - parts[-2::-1].index("images")
        parts[last] = "labels"
    return Path(*parts).with_suffix(".txt")


def _boxes(file: Path, names: dict[int, str]) -> Iterator[tuple[int, tuple[float, ...]]]:
    """Class number and (cx, cy, w, h) of each line; a line that occurs twice counts once."""
    try:
        lines = [line.split() for line in file.read_text().splitlines()]
    except (OSError, UnicodeDecodeError) as error:
        raise ValueError(f"{file} cannot be read as text ({error}); check it") from None
    seen: set[tuple[str, ...]] = set()
    for number, words in enumerate(lines, 1):
        if words and tuple(words) not in seen:
            seen.add(tuple(words))
            yield _box(words, names, f"{file}, line {number}")
    again = sum(map(bool, lines)) - len(seen)
    if again:
        log.warning("%s: %d lines occur twice and count once", file, again)


def _box(words: list[str], names: dict[int, str], place: str) -> tuple[int, tuple[float, ...]]:
    try:
        category, *numbers = map(float, words)
    except ValueError:
        raise ValueError(f"{place} should hold numbers only; it has {' '.join(words)!r}") from None
    if category not in names:
        raise ValueError(
            f"{place} has class {words[0]}, but data.yaml names {len(names)} classes, "
            f"{min(names)} to {max(names)}"
        )
    if len(numbers) != 4 and (len(numbers) < 6 or len(numbers) % 2):
        raise ValueError(
            f"{place} should be a class and cx cy width height (or corners x y x y x y …); it has "
            f"{len(words)} numbers"
        )
    if not all(math.isfinite(n) and -SLACK <= n <= 1 + SLACK for n in numbers):
        raise ValueError(f"{place} should have numbers 0–1 of the image; it has {words[1:5]}")
    if len(numbers) > 4:
        (x0, x1), (y0, y1) = ((min(v), max(v)) for v in (numbers[::2], numbers[1::2]))
        numbers = [(x0 + x1) / 2, (y0 + y1) / 2, x1 - x0, y1 - y0]
    if min(numbers[2:]) <= 0:
        raise ValueError(f"{place} has a box without width or height; correct or remove it")
    return int(category), tuple(numbers)
