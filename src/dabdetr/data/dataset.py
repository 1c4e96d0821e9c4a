"""Annotated images on disk as records: boxes in pixels, labels 0 … n−1, class names.

Class names are the identity of the classes; a file's class ids stay here (``category_ids``).
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from bisect import bisect_right
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import accumulate

import numpy as np

from dabdetr.data.findings import Findings


@dataclass(frozen=True)
class ImageRecord:
    """Path, size and objects of one image, available without decoding it.

    file            path, or another name for messages
    width, height   pixels of the image as ``DetectionDataset.image`` returns it
    boxes           [n, 4] float32, x0 y0 x1 y1 in pixels, inside the image
    labels          [n] int64, index into the data's ``names``
    crowd           [n] bool: region of uncounted objects; not trained on, ignored in AP
    areas           [n] float64, square pixels: ``area`` in the file, or width · height
    annotated       [n, 4] float64, x y width height in pixels, not cut to the image
    known           labels of the classes whose objects are all annotated in this image; None: all
                    classes (a data set where these are not all is called federated in LVIS)
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

    ``category_ids[label]`` is the data set's own id of ``names[label]``. If ``endless`` is true,
    ``record`` and ``image`` accept any index from 0, and ``len`` is the length of an epoch.
    If ``mirrors`` is false, images are never flipped: a mirrored image would be wrong.
    ``findings`` counts the faults of the files (see ``findings``). ``bits`` is the number of bits
    that 16-bit images use; ``image`` scales their values by it.
    """

    name: str
    split: str
    names: tuple[str, ...]
    category_ids: tuple[int, ...]
    endless: bool = False
    mirrors: bool = True
    findings: Findings = Findings()
    bits: int | None = None

    @abstractmethod
    def __len__(self) -> int: ...

    @abstractmethod
    def record(self, index: int) -> ImageRecord:
        """Objects of image ``index``, without reading it."""

    @abstractmethod
    def image(self, index: int) -> np.ndarray:
        """RGB uint8 [height, width, 3] of image ``index``; the record's boxes are in its pixels."""

    def shape(self, index: int) -> tuple[int, int]:
        """(height, width) of image ``index``, without reading it."""
        record = self.record(index)
        return record.height, record.width

    def checked(self, progress: bool = False) -> DetectionDataset:
        """The data set without unreadable images, found by reading the heads of the files."""
        return self


def evenly(total: int, count: int) -> list[int]:
    """``count`` evenly spaced indices out of ``total``, including the first and the last."""
    return np.unique(np.linspace(0, total - 1, min(count, total)).round().astype(int)).tolist()


class Part(DetectionDataset):
    """A data set of images of other data sets."""

    @abstractmethod
    def source(self, index: int) -> tuple[DetectionDataset, int]:
        """The data set of image ``index``, and its index there."""

    def record(self, index: int) -> ImageRecord:
        """As in its data set."""
        data, place = self.source(index)
        return data.record(place)

    def image(self, index: int) -> np.ndarray:
        """As in its data set."""
        data, place = self.source(index)
        data.bits = self.bits
        return data.image(place)

    def shape(self, index: int) -> tuple[int, int]:
        """As in its data set."""
        data, place = self.source(index)
        return data.shape(place)


class Subset(Part):
    """Some images of a data set, in the order of ``indices``."""

    def __init__(self, data: DetectionDataset, indices: Sequence[int]) -> None:
        self.data, self.indices = data, indices
        self.name, self.split = data.name, data.split
        self.names, self.category_ids = data.names, data.category_ids
        self.mirrors, self.findings = data.mirrors, data.findings
        self.bits = data.bits

    def __len__(self) -> int:
        return len(self.indices)

    def source(self, index: int) -> tuple[DetectionDataset, int]:
        """The whole data set, and the index in it."""
        return self.data, self.indices[index]


class Joined(Part):
    """The images of several splits with the same classes, one split after the other."""

    def __init__(self, splits: Sequence[DetectionDataset]) -> None:
        self.splits, first = list(splits), splits[0]
        self.name, self.split = first.name, "+".join(each.split for each in splits)
        self.names, self.category_ids = first.names, first.category_ids
        self.mirrors, self.bits = all(each.mirrors for each in splits), first.bits
        self._starts = [0, *accumulate(len(each) for each in splits)]

    def __len__(self) -> int:
        return self._starts[-1]

    def at(self, index: int) -> tuple[int, int]:
        """The number of the split, and the image's index in it."""
        number = bisect_right(self._starts, index) - 1
        return number, index - self._starts[number]

    def source(self, index: int) -> tuple[DetectionDataset, int]:
        """Its split, and the index in it."""
        number, place = self.at(index)
        return self.splits[number], place
