"""Annotated images on disk as records: boxes in pixels, labels 0 … n−1, class names.

The names are the identity of the classes; the ids of the file stay here (``category_ids``).
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
    """What is known of one image without reading it.

    file            path, or another name for messages
    width, height   pixels of the image as ``DetectionDataset.image`` returns it
    boxes           [n, 4] float32, x0 y0 x1 y1 in pixels, inside the image
    labels          [n] int64, index into the data's ``names``
    crowd           [n] bool: a region of uncounted objects; not for training, ignored in AP
    areas           [n] float64, pixels: the file's own ``area`` where it has one
    annotated       [n, 4] float64, x y width height as the file has them, not cut to the image
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
    ``findings`` counts what was odd in the files (see ``findings``). ``bits`` is how many of the 16
    of deep images are used; what ``image`` gives is scaled by that.
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
        """RGB uint8 [height, width, 3] in which the record's boxes lie."""

    def shape(self, index: int) -> tuple[int, int]:
        """(height, width) of image ``index``, without reading it."""
        record = self.record(index)
        return record.height, record.width

    def checked(self, progress: bool = False) -> DetectionDataset:
        """The data set without images that cannot be read; their heads are looked at."""
        return self


class Subset(DetectionDataset):
    """Some images of a data set, in the order of ``indices``."""

    def __init__(self, data: DetectionDataset, indices: Sequence[int]) -> None:
        self.data, self.indices = data, indices
        self.name, self.split = data.name, data.split
        self.names, self.category_ids = data.names, data.category_ids
        self.mirrors, self.findings = data.mirrors, data.findings
        self.bits = data.bits

    def __len__(self) -> int:
        return len(self.indices)

    def record(self, index: int) -> ImageRecord:
        """As of the whole."""
        return self.data.record(self.indices[index])

    def image(self, index: int) -> np.ndarray:
        """As of the whole."""
        self.data.bits = self.bits
        return self.data.image(self.indices[index])

    def shape(self, index: int) -> tuple[int, int]:
        """As of the whole."""
        return self.data.shape(self.indices[index])


class Joined(DetectionDataset):
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

    def record(self, index: int) -> ImageRecord:
        """As of its split."""
        number, index = self.at(index)
        return self.splits[number].record(index)

    def image(self, index: int) -> np.ndarray:
        """As of its split."""
        number, index = self.at(index)
        self.splits[number].bits = self.bits
        return self.splits[number].image(index)

    def shape(self, index: int) -> tuple[int, int]:
        """As of its split."""
        number, index = self.at(index)
        return self.splits[number].shape(index)
