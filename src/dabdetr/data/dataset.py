"""Annotated images on disk as records: boxes in pixels, labels 0 … n−1, class names.

The names are the identity of the classes; the ids of the file stay here (``category_ids``).
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np


@dataclass(frozen=True)
class ImageRecord:
    """What is known of one image without reading it.

    file            path, or another name for messages
    width, height   pixels of the image as ``DetectionDataset.image`` returns it
    boxes           [n, 4] float32, x0 y0 x1 y1 in pixels, inside the image
    labels          [n] int64, index into the data's ``names``
    crowd           [n] bool: a region of uncounted objects; not for training, ignored in AP
    areas           [n] float64, pixels: the file's own ``area`` where it has one
    annotated       [n, 4] float64, x y width height exactly as the file has them
    known           labels of the classes whose objects are all annotated in this image; None: all
                    classes (LVIS calls data federated where it is not so)
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
    known: tuple[int, ...] | None = None


class DetectionDataset(ABC):
    """A split of annotated images.

    ``category_ids[label]`` is the data set's own id of ``names[label]``. Where ``endless`` is true,
    ``record`` and ``image`` take any index from 0 on, and ``len`` is what one epoch sees.
    Where ``mirrors`` is false, images are never flipped: a mirrored one would be wrong.
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
    def record(self, index: int) -> ImageRecord:
        """Objects of image ``index``, without reading it."""

    @abstractmethod
    def image(self, index: int) -> np.ndarray:
        """RGB uint8 [height, width, 3] in which the record's boxes lie."""

    def shape(self, index: int) -> tuple[int, int]:
        """(height, width) of image ``index``, without reading it."""
        record = self.record(index)
        return record.height, record.width


Open = Callable[[str], DetectionDataset]
"""Opens a split; the argument is what to call it."""


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
    from dabdetr.data.coco import read_coco

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
        from dabdetr.data.scenes import parse_scenes

        return parse_scenes(str(data), split)
    from dabdetr.data.layouts import YEAR, find_splits

    found = find_splits(Path(data))
    chosen = found.get(split) or found.get(YEAR.sub("", split))
    if chosen is None:
        raise ValueError(f"{data} has no split {split!r}; choose one of: {', '.join(found)}")
    return chosen(split)


def splits(data: str | Path) -> list[str]:
    """Names of the splits that ``open_data`` finds, ``train`` first."""
    if _is_scenes(data):
        from dabdetr.data.scenes import SPLITS

        return list(SPLITS)
    from dabdetr.data.layouts import find_splits

    return list(find_splits(Path(data)))


def is_data(source: str | Path) -> bool:
    """Whether ``open_data`` knows ``source``; else it may be images without boxes."""
    if _is_scenes(source):
        return True
    from dabdetr.data.layouts import look

    return bool(look(Path(source)))


def _is_scenes(data: str | Path) -> bool:
    return isinstance(data, str) and data.partition(":")[0] == "scenes"
