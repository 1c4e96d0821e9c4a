"""Which splits a folder holds, and in which layout: one table of those that are known."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np

from dabdetr.data.coco import YEAR, find_coco, read_coco
from dabdetr.data.dataset import DetectionDataset, Open
from dabdetr.data.scenes import SPLITS, parse_scenes
from dabdetr.data.voc import find_voc
from dabdetr.data.yolo import SETTINGS, find_yolo

Find = Callable[[Path], dict[str, Open]]
"""Splits of a folder or file by their own names; none where it is not in the layout."""

LAYOUTS: dict[str, tuple[Find, str]] = {
    "COCO": (find_coco, "annotations/instances_SPLIT.json"),
    "YOLO": (find_yolo, "data.yaml"),
    "VOC": (find_voc, "Annotations/*.xml"),
}
"""Layout → its reader, and the files it is known by. The first that finds a split is taken."""

USUAL = ("train", "val", "test")
MOST_BOXES = 20_000
"""Boxes that k-means looks at; of more, an even share."""


def open_data(
    data: str | Path | None = None,
    split: str = "train",
    annotations: str | Path | None = None,
    images: str | Path | None = None,
) -> DetectionDataset:
    """The split of a data set: a folder in COCO's, YOLO's or VOC's layout, or ``"scenes"``.

    Which layout it is, its files tell (``layouts``); YOLO's data.yaml may be given itself. A COCO
    json and its image folder can be given apart; ``data`` is then not looked at.
    """
    if annotations is not None or images is not None:
        if annotations is None or images is None:
            raise ValueError(
                "annotations (a COCO json) and images (its image folder) go together; "
                f"only {'images' if annotations is None else 'annotations'} was given"
            )
        return read_coco(Path(annotations), Path(images), Path(annotations).stem, split)
    if data is None:
        raise ValueError("no data: give a folder in COCO's, YOLO's or VOC's layout, or 'scenes'")
    if _is_scenes(data):
        return parse_scenes(str(data), split)
    found = find_splits(Path(data))
    chosen = found.get(split) or found.get(YEAR.sub("", split))
    if chosen is None:
        raise ValueError(f"{data} has no split {split!r}; choose one of: {', '.join(found)}")
    return chosen(split)


def splits(data: str | Path) -> list[str]:
    """Names of the splits that ``open_data`` finds, ``train`` first."""
    if _is_scenes(data):
        return list(SPLITS)
    return list(find_splits(Path(data)))


def is_data(source: str | Path) -> bool:
    """Whether ``open_data`` knows ``source``; else it may be images without boxes."""
    if _is_scenes(source):
        return True
    return bool(look(Path(source)))


def _is_scenes(data: str | Path) -> bool:
    return isinstance(data, str) and data.partition(":")[0] == "scenes"


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
    return next(filter(None, (find(root) for find, _ in LAYOUTS.values())), {})


def anchors(init: str) -> str | np.ndarray:
    """Where anchors start, of ``queries_init``: 'keep', 'grid', or boxes for 'kmeans:DATA'."""
    kind, _, data = init.partition(":")
    if init in ("keep", "grid"):
        return init
    if kind == "kmeans" and data:
        return training_boxes(data)
    raise ValueError(
        f"the anchors of queries come by keep, grid or kmeans:DATA; got {init!r}; DATA is a "
        "data folder, or scenes"
    )


def training_boxes(data: str | Path) -> np.ndarray:
    """[n, 4] float32, cxcywh, 0–1: the boxes of a data set's train split, crowds left out."""
    split, parts = open_data(data, "train"), []
    for index in range(len(split)):
        record = split.record(index)
        corners = record.boxes[~record.crowd] / np.tile((record.width, record.height), 2)
        sides = corners[:, 2:] - corners[:, :2]
        parts.append(np.concatenate((corners[:, :2] + sides / 2, sides), axis=1))
    boxes = np.concatenate(parts)
    return boxes[:: len(boxes) // MOST_BOXES + 1].astype(np.float32)
