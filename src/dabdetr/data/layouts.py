"""Which splits a folder holds, and in which of the usual layouts: COCO's, YOLO's or VOC's."""

from __future__ import annotations

import re
from pathlib import Path

from dabdetr.data.coco import read_coco
from dabdetr.data.dataset import DetectionDataset, Open
from dabdetr.data.voc import find_voc
from dabdetr.data.yolo import SETTINGS, find_yolo

YEAR = re.compile(r"20\d\d$")  # COCO's own splits are called train2017, val2017
USUAL = ("train", "val", "test")
PACKED = "_annotations.coco.json"


def find_splits(root: Path) -> dict[str, Open]:
    """Split → how it is opened: train, val and test come first; at least one, or ValueError."""
    if not root.exists():
        raise FileNotFoundError(f"there is no data folder {root}; check the path")
    if root.is_file() and root.suffix not in SETTINGS:
        raise ValueError(
            f"{root} is a file; give a folder, YOLO's data.yaml, or annotations and images apart"
        )
    found = look(root)
    if not found:
        raise ValueError(
            f"{root} has no annotations/instances_SPLIT.json (COCO's layout), no data.yaml "
            "(YOLO's) and no Annotations/*.xml (VOC's); give such a folder, or annotations (a COCO "
            "json) and images apart"
        )
    named = {"val" if name == "valid" else name: split for name, split in found.items()}
    first = [name for name in USUAL if name in named]
    return {name: named[name] for name in (*first, *sorted(named.keys() - USUAL))}


def look(root: Path) -> dict[str, Open]:
    """Split → how it is opened, by its own name; none where ``root`` is in no layout."""
    if not root.is_dir():
        return find_yolo(root)
    return _coco(root) or _packed_coco(root) or find_yolo(root) or find_voc(root)


def _coco(root: Path) -> dict[str, Open]:
    """``annotations/instances_SPLIT.json`` and folders of images."""
    found: dict[str, Open] = {}
    for file in sorted((root / "annotations").glob("instances_*.json")):

        def read(split: str, file: Path = file) -> DetectionDataset:
            return read_coco(file, _image_folder(root, file), root.resolve().name, split)

        found[YEAR.sub("", file.stem.removeprefix("instances_"))] = read
    return found


def _packed_coco(root: Path) -> dict[str, Open]:
    """A folder for each split, with the images and their json in it."""
    found: dict[str, Open] = {}
    for file in sorted(root.glob(f"*/{PACKED}")):

        def read(split: str, file: Path = file) -> DetectionDataset:
            return read_coco(file, file.parent, root.resolve().name, split)

        found[file.parent.name] = read
    return found


def _image_folder(root: Path, annotations: Path) -> Path:
    full = annotations.stem.removeprefix("instances_")
    short = YEAR.sub("", full)
    options = [root / full, root / "images" / full, root / short, root / "images" / short]
    options += [root / f"{full}2017", root / "images" / f"{full}2017", root / "images"]
    for option in options:
        if option.is_dir():
            return option
    raise FileNotFoundError(
        f"{root} has no folder {full} (nor images/{full}) with the images of {annotations.name}"
    )
