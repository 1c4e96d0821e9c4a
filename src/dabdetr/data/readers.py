"""Annotated pictures on disk as records: boxes in pixels, labels 0 … n−1, class names.

The names are the identity of the classes; the ids of the file stay here (``category_ids``).
"""

from __future__ import annotations

import re
from abc import ABC, abstractmethod
from dataclasses import dataclass
from pathlib import Path

import numpy as np

_YEAR = re.compile(r"20\d\d$")  # COCO's own splits are called train2017, val2017


@dataclass(frozen=True)
class Record:
    """What is known of one picture without reading it.

    file            path, or another name for messages
    width, height   pixels of the picture as ``DetectionData.picture`` returns it
    boxes           [n, 4] float32, x0 y0 x1 y1 in pixels, inside the picture
    labels          [n] int64, index into the data's ``names``
    crowd           [n] bool: a region of uncounted objects; not for training, ignored in AP
    areas           [n] float64, pixels: the file's own ``area`` where it has one
    annotated       [n, 4] float64, x y width height exactly as the file has them
    """

    image_id: int
    file: str
    width: int
    height: int
    boxes: np.ndarray
    labels: np.ndarray
    crowd: np.ndarray
    areas: np.ndarray
    annotated: np.ndarray


class DetectionData(ABC):
    """A split of annotated pictures.

    ``category_ids[label]`` is the data set's own id of ``names[label]``. Where ``endless`` is true,
    ``record`` and ``picture`` take any index from 0 on, and ``len`` is what one epoch sees.
    Where ``mirrors`` is false, pictures are never flipped: a mirrored one would be wrong.
    """

    name: str
    split: str
    names: tuple[str, ...]
    category_ids: tuple[int, ...]
    endless: bool = False
    mirrors: bool = True

    @abstractmethod
    def __len__(self) -> int: ...

    @abstractmethod
    def record(self, index: int) -> Record:
        """Objects of picture ``index``, without reading it."""

    @abstractmethod
    def picture(self, index: int) -> np.ndarray:
        """RGB uint8 [height, width, 3] in which the record's boxes lie."""

    def shape(self, index: int) -> tuple[int, int]:
        """(height, width) of picture ``index``, without reading it."""
        record = self.record(index)
        return record.height, record.width


def open_data(
    data: str | Path | None = None,
    split: str = "train",
    annotations: str | Path | None = None,
    images: str | Path | None = None,
) -> DetectionData:
    """The split of a data set: a folder in COCO's layout, or ``"scenes"`` (see ``Scenes``).

    A COCO json and its picture folder can be given apart; ``data`` is then not looked at.
    """
    from dabdetr.data.coco import read_coco

    if annotations is not None or images is not None:
        if annotations is None or images is None:
            raise ValueError(
                "annotations (a COCO json) and images (its picture folder) go together; "
                f"only {'images' if annotations is None else 'annotations'} was given"
            )
        return read_coco(Path(annotations), Path(images), Path(annotations).stem, split)
    if data is None:
        raise ValueError("no data: give a folder in COCO's layout, or 'scenes'")
    if _is_scenes(data):
        from dabdetr.data.scenes import parse_scenes

        return parse_scenes(str(data), split)
    root = _folder(Path(data))
    files = _split_files(root)
    chosen = files.get(split) or files.get(_YEAR.sub("", split))
    if chosen is None:
        raise ValueError(
            f"{root} has no split {split!r} (annotations/instances_{split}.json); choose one of: "
            f"{', '.join(files)}"
        )
    return read_coco(chosen, _picture_folder(root, chosen), root.resolve().name, split)


def splits(data: str | Path) -> list[str]:
    """Names of the splits that ``open_data`` finds, ``train`` first."""
    if _is_scenes(data):
        from dabdetr.data.scenes import SPLITS

        return list(SPLITS)
    return list(_split_files(_folder(Path(data))))


def _is_scenes(data: str | Path) -> bool:
    return isinstance(data, str) and data.partition(":")[0] == "scenes"


def _folder(root: Path) -> Path:
    if not root.exists():
        raise FileNotFoundError(f"there is no data folder {root}; check the path")
    if not root.is_dir():
        if root.suffix in (".yaml", ".yml"):
            raise ValueError(_of_yolo(root))
        raise ValueError(
            f"{root} is a file; give a folder in COCO's layout, or annotations and images apart"
        )
    return root


def _split_files(root: Path) -> dict[str, Path]:
    """Split → json, in reading order: train, val, test, then others."""
    found = {}
    for file in sorted((root / "annotations").glob("instances_*.json")):
        found[_YEAR.sub("", file.stem.removeprefix("instances_"))] = file
    if not found:
        if (root / "data.yaml").is_file():
            raise ValueError(_of_yolo(root / "data.yaml"))
        raise ValueError(
            f"{root} has no annotations/instances_SPLIT.json (COCO's layout); "
            "give such a folder, or annotations and images apart"
        )
    usual = ("train", "val", "test")
    return dict(
        sorted(found.items(), key=lambda item: (item[0] not in usual, *_rank(item[0], usual)))
    )


def _of_yolo(file: Path) -> str:
    return (
        f"{file} looks like YOLO's layout, which is not read; convert its labels to COCO's json, "
        "annotations/instances_SPLIT.json"
    )


def _rank(name: str, usual: tuple[str, ...]) -> tuple[int, str]:
    return (usual.index(name) if name in usual else len(usual), name)


def _picture_folder(root: Path, annotations: Path) -> Path:
    full = annotations.stem.removeprefix("instances_")
    short = _YEAR.sub("", full)
    options = [root / full, root / "images" / full, root / short, root / "images" / short]
    options += [root / f"{full}2017", root / "images" / f"{full}2017", root / "images"]
    for option in options:
        if option.is_dir():
            return option
    raise FileNotFoundError(
        f"{root} has no folder {full} (nor images/{full}) with the pictures of {annotations.name}"
    )
