"""Boxes of a split as columns: the rows that every reader fills, and the data set made of them.

``Rows`` accepts whatever a file contains; ``RecordTable`` is strict: each of its boxes has an area
inside its image. Rows that were changed or skipped are counted in ``findings``.
"""

from __future__ import annotations

from array import array
from collections.abc import Callable, Iterable, Sequence
from copy import copy
from pathlib import Path

import numpy as np

from dabdetr.data.box_formats import Asked, BoxFormat
from dabdetr.data.class_lists import Numbers, class_table
from dabdetr.data.columns import Columns
from dabdetr.data.dataset import DetectionDataset, ImageRecord
from dabdetr.data.findings import Findings
from dabdetr.data.heads import deep_bits, read_heads
from dabdetr.data.images import read_image
from dabdetr.text import counted

Open = Callable[[str, Asked | None], "RecordTable"]
"""Opens a split; takes its name, and the format of its boxes (None: infer it)."""


def named_table(
    rows: Rows,
    names: dict[str, int],
    root: Path,
    split: str,
    box_format: Asked | None,
    more: Iterable[str] = (),
) -> RecordTable:
    """The checked data set of ``rows``, with its classes sorted by name.

    names  class name → label in ``rows``
    more   names of classes in other splits
    """
    ordered = sorted({*names, *more})
    category_ids, class_names, labels = class_table(enumerate(ordered), rows.findings, root)
    new_label = {names.get(each, -1): labels[number] for number, each in enumerate(ordered)}
    rows.label = [new_label[int(label)] for label in rows.label]
    return RecordTable(
        rows, root.resolve().name, split, class_names, category_ids, box_format
    ).checked()


class Rows:
    """Images and boxes of one split as a reader finds them.

    Of each image:
    files     path
    ids       image id
    sizes     (width, height) in the annotations; (0, 0) where they have none
    known     labels whose presence was annotated; None: all
    left_out  paths of other images, which are counted as left out

    Of each box:
    image     index into ``files``
    label     index into the classes
    numbers   four in ``box_format``, flat
    crowd     whether the box is of a crowd
    areas     area in the file; NaN where it has none

    first     number of the first pixel in ``numbers``: 0, or 1 as in VOC
    classes   class numbers in the files; empty where classes are names
    place     row → location of the box in the files, for messages
    """

    def __init__(self, findings: Findings, box_format: BoxFormat) -> None:
        self.findings = findings
        self.box_format: BoxFormat = box_format
        self.first = 0.0
        self.classes = Numbers()
        self.files: list[str] = []
        self.ids: list[int] = []
        self.sizes: list[tuple[int, int]] = []
        self.known: list[tuple[int, ...] | None] = []
        self.left_out: list[str] = []
        self.image: Sequence[int] | np.ndarray = array("q")
        self.label: Sequence[int] | np.ndarray = array("q")
        self.numbers: Sequence[float] | np.ndarray = array("d")
        self.crowd: Sequence[int] | np.ndarray = array("b")
        self.areas: Sequence[float] | np.ndarray = array("d")
        self._places: list[str] = []
        self.place: Callable[[int], str] = self._places.__getitem__

    def add_image(self, file: str, size: tuple[int, int] = (0, 0), id_: int | None = None) -> int:
        """Append an image and return its index."""
        self.files.append(file)
        self.sizes.append(size)
        self.ids.append(len(self.ids) if id_ is None else id_)
        self.known.append(None)
        return len(self.files) - 1

    def add_box(
        self,
        image: int,
        label: int,
        numbers: Sequence[float],
        crowd: bool = False,
        place: str = "",
    ) -> None:
        """Append a box of the image at index ``image``; its four ``numbers`` in ``box_format``."""
        self._places.append(place or str(len(self._places)))
        self.image.append(image)  # pyright: ignore
        self.label.append(label)  # pyright: ignore
        self.numbers.extend(numbers)  # pyright: ignore
        self.crowd.append(crowd)  # pyright: ignore
        self.areas.append(float("nan"))  # pyright: ignore


class RecordTable(Columns, DetectionDataset):
    """A split as flat arrays, sorted by image; see ``DetectionDataset``.

    box_format     box format found in the files
    layout_format  box format that the layout prescribes
    listed         path of each image in the files, also of those that are left out
    starts         [images + 1] first box of each image
    classes        class numbers in the files
    """

    def __init__(
        self,
        rows: Rows,
        name: str,
        split: str,
        names: Sequence[str],
        category_ids: Sequence[int],
        box_format: Asked | None = None,
    ) -> None:
        self.name, self.split = name, split
        self.names, self.category_ids = tuple(names), tuple(category_ids)
        self._checked = False
        self.findings, self.place, self.first = rows.findings, rows.place, rows.first
        self.box_format = self.layout_format = rows.box_format
        self.files, self.known, self.classes = rows.files, rows.known, rows.classes
        self.listed = rows.files + rows.left_out
        self.image_ids = np.array(rows.ids, np.int64)
        self.sizes = np.array(rows.sizes, np.int64).reshape(-1, 2)
        self.image_of = np.array(rows.image, np.int64)
        self.labels = np.array(rows.label, np.int64)
        self.crowd = np.array(rows.crowd, bool)
        self.areas = np.array(rows.areas, np.float64)
        self.annotated = np.array(rows.numbers, np.float64).reshape(-1, 4)
        self.boxes = np.zeros((len(self.annotated), 4), np.float32)
        self.row = np.arange(len(self.annotated))
        self.complete_sizes()
        self.settle(box_format)
        self.place = None
        self._sort()

    def _sort(self) -> None:
        self.take(np.argsort(self.image_of, kind="stable"))
        self.starts = np.searchsorted(self.image_of, np.arange(len(self.files) + 1))

    def __len__(self) -> int:
        return len(self.files)

    def record(self, index: int) -> ImageRecord:
        """Objects of image ``index``; the image file is not read."""
        index = range(len(self))[index]
        rows = slice(self.starts[index], self.starts[index + 1])
        width, height = self.sizes[index].tolist()
        return ImageRecord(
            image_id=int(self.image_ids[index]),
            file=self.files[index],
            width=width,
            height=height,
            boxes=self.boxes[rows],
            labels=self.labels[rows],
            crowd=self.crowd[rows],
            areas=self.areas[rows],
            annotated=self.annotated[rows],
            known=self.known[index],
        )

    def shape(self, index: int) -> tuple[int, int]:
        """(height, width) of image ``index``."""
        width, height = self.sizes[index].tolist()
        return height, width

    def image(self, index: int) -> np.ndarray:
        """RGB uint8 [height, width, 3]; rotated by EXIF where the annotated size includes that."""
        index = range(len(self))[index]
        width, height = self.sizes[index].tolist()
        return read_image(self.files[index], size=(width, height), bits=self.bits)

    def checked(self, progress: bool = False) -> RecordTable:
        """This table without unreadable images, and with the actual sizes of all others.

        Reads only the files' headers, in parallel (see ``heads``); differences are counted in
        ``findings``. Raises ValueError if no image is left. A second call does nothing.
        """
        if self._checked:
            return self
        self._checked = True
        heads = read_heads(self.files, progress)
        damaged = np.array([bool(head.error) for head in heads], bool)
        self.findings.add("image-damaged", [head.error for head in heads if head.error])
        pairs = [*zip(self.files, heads, strict=True)]
        self.findings.add("frames", [file for file, head in pairs if head.frames > 1])
        if deep := [file for file, head in pairs if head.deep]:
            self.bits = deep_bits(deep, progress)
            bits_used = f", {self.bits} of 16 bits used" if self.bits else ""
            self.findings.add("deep", [f"{file}{bits_used}" for file in deep])
        keep = ~damaged & self.fit_sizes(heads)
        if not keep.any():
            raise ValueError(
                f"none of {counted(len(self.listed), 'image')} of {self.name} {self.split} can "
                f"be used: {next(iter(self.findings.of('skipped')))}"
            )
        self.keep_images(keep)
        self.cut(again=True)
        self._sort()
        return self

    def selected(self, images: np.ndarray, boxes: np.ndarray) -> RecordTable:
        """A copy of only the True ``images`` [n] and ``boxes`` [rows]; its findings are empty."""
        table = copy(self)
        table.findings = Findings()
        table.keep(boxes)
        table.keep_images(images)
        table._sort()
        return table

    def moved(self, target: np.ndarray) -> RecordTable:
        """A copy in which the boxes of image i belong to image ``target[i]``, ``target`` [n]."""
        table = copy(self)
        table.image_of = target[self.image_of]
        table._sort()
        return table

    def with_names(self, names: Sequence[str], category_ids: Sequence[int]) -> RecordTable:
        """This table, with labels changed in place to indices into ``names``, a superset of its."""
        new_labels = np.array([names.index(name) for name in self.names], np.int64)
        self.labels = new_labels[self.labels] if len(new_labels) else self.labels
        self.known = [
            None if labels is None else tuple(int(new_labels[label]) for label in labels)
            for labels in self.known
        ]
        self.names, self.category_ids = tuple(names), tuple(category_ids)
        return self
