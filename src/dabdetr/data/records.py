"""Boxes of a split as columns: what every reader fills, what is mended in it, and the data set.

``Rows`` takes what a file says, ``RecordTable`` is strict: every box of it has an area inside its
image. What could not be taken over as it was is in ``findings``.
"""

from __future__ import annotations

from array import array
from collections.abc import Callable, Iterable, Sequence
from copy import copy
from typing import Any

import numpy as np

from dabdetr.data.box_formats import (
    SMALLEST,
    TELLING,
    Asked,
    BoxFormat,
    Expected,
    changed_kind,
    other_units,
    percents,
    tell_format,
    to_pixels,
)
from dabdetr.data.dataset import DetectionDataset, ImageRecord
from dabdetr.data.findings import Findings
from dabdetr.data.heads import ImageFile, deep_bits, read_heads
from dabdetr.data.images import read_image
from dabdetr.text import check_name, printable

Open = Callable[[str, Asked | None], "RecordTable"]
"""Opens a split: what to call it, and the format of its boxes where it is not to be found out."""

FARTHEST = 1e7
"""Pixels from the corner of an image beyond which a number is nonsense."""
SAME_SHAPE = 0.02
"""Relative difference of the two scales of an image that is only rounding."""


def class_table(
    pairs: Iterable[tuple[int, Any]], findings: Findings
) -> tuple[tuple[int, ...], tuple[str, ...], dict[int, int]]:
    """Ids and names by label, and id → label; classes of one name become one."""
    labels: dict[int, int] = {}
    names: dict[str, int] = {}
    for id_, given in pairs:
        try:
            name = check_name(given, "a class name")
        except ValueError:
            name = printable(given).strip() if isinstance(given, str) else ""
            name = name or f"class {id_}"
            findings.add("class-name-odd", f"class {id_} is called {name!r}")
        if id_ in labels:
            findings.add("class-id-repeated", f"{id_} is {list(names)[labels[id_]]!r} and {name!r}")
            continue
        if name in names:
            findings.add("class-name-repeated", f"{name!r}, also class {id_}")
        labels[id_] = names.setdefault(name, len(names))
    first = {label: id_ for id_, label in reversed(labels.items())}
    return tuple(first[label] for label in range(len(names))), tuple(names), labels


def named_table(
    rows: Rows,
    names: dict[str, int],
    name: str,
    split: str,
    box_format: Asked | None,
    more: Iterable[str] = (),
) -> RecordTable:
    """The data set of rows whose labels are ``names``' values; classes go by their names' order.

    ``more`` are classes of other splits. The images' heads are looked at.
    """
    ordered = sorted({*names, *more})
    category_ids, known, labels = class_table(enumerate(ordered), rows.findings)
    place = {names.get(each, -1): labels[number] for number, each in enumerate(ordered)}
    rows.label = [place[int(label)] for label in rows.label]
    return RecordTable(rows, name, split, known, category_ids, box_format).checked()


class Rows:
    """Images and boxes of one split as a reader finds them.

    files     path of each image
    ids       its id
    sizes     (width, height) that the annotations say; (0, 0) where they do not
    known     labels that were judged in it; None: all
    numbers   four for each box, of ``box_format``
    first     what the first pixel is called in them; VOC counts from 1
    image     index into ``files`` of each box; ``label`` into the classes
    areas     its area as the file says; NaN where it does not
    place     row → where the box stands, for messages
    """

    def __init__(self, findings: Findings, box_format: BoxFormat) -> None:
        self.findings = findings
        self.box_format: BoxFormat = box_format
        self.first = 0.0
        self.files: list[str] = []
        self.ids: list[int] = []
        self.sizes: list[tuple[int, int]] = []
        self.known: list[tuple[int, ...] | None] = []
        self.image: Sequence[int] | np.ndarray = array("q")
        self.label: Sequence[int] | np.ndarray = array("q")
        self.numbers: Sequence[float] | np.ndarray = array("d")
        self.crowd: Sequence[int] | np.ndarray = array("b")
        self.areas: Sequence[float] | np.ndarray = array("d")
        self.place: Callable[[int], str] = str

    def add_image(self, file: str, size: tuple[int, int] = (0, 0), id_: int | None = None) -> int:
        """One image more; its index."""
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
        area: float = float("nan"),
    ) -> None:
        """One box more."""
        self.image.append(image)  # pyright: ignore
        self.label.append(label)  # pyright: ignore
        self.numbers.extend(numbers)  # pyright: ignore
        self.crowd.append(crowd)  # pyright: ignore
        self.areas.append(area)  # pyright: ignore


class RecordTable(DetectionDataset):
    """A split as flat arrays; see ``DetectionDataset``.

    box_format     what the numbers in the files were found to be
    layout_format  what they should be in the layout
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
        self.findings = rows.findings
        self._checked = False
        self.layout_format: BoxFormat = rows.box_format
        draft = _Draft(rows)
        draft.complete_sizes()
        draft.settle(box_format)
        self.box_format: BoxFormat = draft.box_format
        self._take(draft)

    def _take(self, draft: _Draft) -> None:
        order = np.argsort(draft.image, kind="stable")
        self.files, self.sizes = draft.files, draft.sizes
        self.image_ids, self.known = draft.ids, draft.known
        self.boxes, self.annotated = draft.boxes[order], draft.annotated[order]
        self.labels, self.crowd = draft.label[order], draft.crowd[order]
        self.areas = draft.areas[order]
        self.starts = np.searchsorted(draft.image[order], np.arange(len(self.files) + 1))

    def __len__(self) -> int:
        return len(self.files)

    def record(self, index: int) -> ImageRecord:
        """Objects of image ``index``, without reading it."""
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
        """RGB uint8 [height, width, 3]; turned as EXIF says where the annotations' size is so."""
        index = range(len(self))[index]
        width, height = self.sizes[index].tolist()
        return read_image(self.files[index], size=(width, height), bits=self.bits)

    def counts(self) -> np.ndarray:
        """[n] boxes of each image, crowds among them."""
        return np.diff(self.starts)

    def checked(self, progress: bool = False) -> RecordTable:
        """Without the images that cannot be read, and with the sizes that the others really have.

        Reads heads only, in parallel (see ``heads``); what differs is in ``findings``.
        """
        if self._checked:
            return self
        self._checked = True
        heads = read_heads(self.files, progress)
        damaged = np.array([bool(head.error) for head in heads], bool)
        self.findings.add("image-damaged", [head.error for head in heads if head.error])
        self._note(heads, progress)
        image = np.repeat(np.arange(len(self)), self.counts())
        draft = _Draft.of(self, image)
        keep = ~damaged & draft.fit_sizes(heads)
        if not keep.any():
            raise ValueError(
                f"none of the {len(self)} images of {self.name} {self.split} can be used: "
                f"{next(iter(self.findings.of('skipped')))}"
            )
        draft.keep_images(keep)
        draft.cut(again=True)
        self._take(draft)
        return self

    def _note(self, heads: Sequence[ImageFile], progress: bool) -> None:
        """What is no fault, and yet to be known, of the images; the range of deep ones."""
        pages = [f for f, head in zip(self.files, heads, strict=True) if head.frames > 1]
        self.findings.add("frames", pages)
        deep = [f for f, head in zip(self.files, heads, strict=True) if head.deep]
        if not deep:
            return
        self.bits = deep_bits(deep, progress)
        told = f", {self.bits} of 16 bits used" if self.bits else ""
        self.findings.add("deep", [f"{file}{told}" for file in deep])

    def selected(self, images: np.ndarray, boxes: np.ndarray) -> RecordTable:
        """A copy with some images [n] bool and some boxes [rows] bool; its findings are empty."""
        table, image = copy(self), np.repeat(np.arange(len(self)), self.counts())
        table.findings = Findings()
        draft = _Draft.of(table, image)
        draft.keep(boxes)
        draft.keep_images(images)
        table._take(draft)
        return table

    def moved(self, place: np.ndarray) -> RecordTable:
        """A copy with the boxes of each image at the image that ``place`` [n] says."""
        table = copy(self)
        draft = _Draft.of(table, place[np.repeat(np.arange(len(self)), self.counts())])
        table._take(draft)
        return table

    def with_names(self, names: Sequence[str], category_ids: Sequence[int]) -> RecordTable:
        """With labels that count in ``names``, which has all of its own."""
        places = np.array([names.index(name) for name in self.names], np.int64)
        self.labels = places[self.labels] if len(places) else self.labels
        self.known = [
            None if labels is None else tuple(int(places[label]) for label in labels)
            for labels in self.known
        ]
        self.names, self.category_ids = tuple(names), tuple(category_ids)
        return self


class _Draft:
    """Columns while they are mended."""

    box_format: BoxFormat
    files: list[str]
    ids: np.ndarray
    sizes: np.ndarray
    known: list[tuple[int, ...] | None]
    image: np.ndarray
    label: np.ndarray
    crowd: np.ndarray
    areas: np.ndarray
    annotated: np.ndarray
    boxes: np.ndarray

    def __init__(self, rows: Rows | None) -> None:
        if rows is None:
            return
        self.findings, self.place = rows.findings, rows.place
        self.box_format, self.first = rows.box_format, rows.first
        self.files, self.known = rows.files, rows.known
        self.ids = np.array(rows.ids, np.int64)
        self.sizes = np.array(rows.sizes, np.int64).reshape(-1, 2)
        self.image, self.label = (np.array(v, np.int64) for v in (rows.image, rows.label))
        self.crowd = np.array(rows.crowd, bool)
        self.areas = np.array(rows.areas, np.float64)
        self.annotated = np.array(rows.numbers, np.float64).reshape(-1, 4)
        self.row = np.arange(len(self.image))

    @classmethod
    def of(cls, table: RecordTable, image: np.ndarray) -> _Draft:
        draft = cls(None)
        draft.findings, draft.box_format = table.findings, table.box_format
        draft.files, draft.ids, draft.sizes = table.files, table.image_ids, table.sizes.copy()
        draft.known, draft.image, draft.label = table.known, image, table.labels
        draft.crowd, draft.areas = table.crowd, table.areas
        draft.annotated, draft.boxes = table.annotated, table.boxes
        draft.row = np.arange(len(image))
        draft.place = lambda row: table.files[int(image[row])]
        return draft

    def keep(self, rows: np.ndarray, kind: str = "") -> None:
        """Only those boxes; the others are counted as ``kind``."""
        if rows.all():
            return
        if kind:
            self.count(kind, ~rows)
        for name in ("image", "label", "crowd", "areas", "annotated", "row"):
            setattr(self, name, getattr(self, name)[rows])
        if hasattr(self, "boxes"):
            self.boxes = self.boxes[rows]

    def count(self, kind: str, rows: np.ndarray) -> None:
        """Count boxes as ``kind``, the first of them as examples."""
        found = np.flatnonzero(rows)
        self.findings.add(kind, [self._example(at) for at in found[:3]], len(found))

    def _example(self, at: int) -> str:
        numbers = ", ".join(f"{value:g}" for value in self.annotated[at])
        return f"{self.place(int(self.row[at]))}: [{numbers}]"

    def keep_images(self, keep: np.ndarray) -> None:
        """Only those images, and their boxes."""
        if keep.all():
            return
        self.keep(keep[self.image])
        self.image = (np.cumsum(keep) - 1)[self.image]
        kept = np.flatnonzero(keep)
        self.files = [self.files[index] for index in kept]
        self.known = [self.known[index] for index in kept]
        self.ids, self.sizes = self.ids[keep], self.sizes[keep]

    def complete_sizes(self) -> None:
        """Take from the images what sizes the annotations do not have."""
        lacking = np.flatnonzero((self.sizes <= 0).any(1) | (self.sizes > FARTHEST).any(1))
        if not len(lacking):
            return
        heads = read_heads([self.files[index] for index in lacking])
        keep = np.ones(len(self.files), bool)
        for index, head in zip(lacking.tolist(), heads, strict=True):
            self.sizes[index] = head.width, head.height
            keep[index] = not head.error
        self.findings.add("image-damaged", [head.error for head in heads if head.error])
        self.keep_images(keep)

    def settle(self, asked: Asked | None) -> None:
        """Boxes in pixels with an area inside their images; ``annotated`` is x, y, w, h."""
        finite = np.all(np.abs(self.annotated) <= FARTHEST, axis=1)  # NaN is not
        self.keep(finite, "box-infinite")
        said = self.box_format
        if asked is None or isinstance(asked, Expected):
            self._tell(asked.box_format if asked else said)
        else:
            self.box_format = asked
        unit = self.box_format.partition("-")[2]
        other = self._unlike(unit, isinstance(asked, str))
        if unit:
            reach = np.abs(self.annotated / (100 if unit == "percent" else 1) - 0.5).max(
                1, initial=0
            )
            keep = (reach <= 1.5) | other
            self.keep(keep, "box-beyond")
            other = other[keep]
        own = to_pixels(self._from_first(unit), self._frames(), self.box_format)
        order = self.box_format.partition("-")[0]
        changed: BoxFormat = order if unit else f"{order}-relative"  # pyright: ignore
        self.annotated = np.where(
            other[:, None], to_pixels(self.annotated, self._frames(), changed), own
        )
        self.areas = np.where(other | (self.box_format != said), np.nan, self.areas)
        self._order_corners()
        self.cut()
        if not unit:
            large = self._frames().min(1) > SMALLEST
            self.count("box-first-pixel", np.all(self.boxes <= 1, axis=1) & large)

    def _tell(self, said: BoxFormat) -> None:
        """Find the format over all boxes; count what is another than the layout's, or may be."""
        layout, frames = self.box_format, self._frames()
        self.box_format = tell_format(self.annotated, frames, said)
        every = np.ones(len(self.image), bool)
        if self.box_format != layout:
            self.count(changed_kind(layout, self.box_format), every)
        if "-" not in self.box_format and percents(self.annotated, frames, layout) == "likely":
            self.count("box-percent-perhaps", every)

    def _unlike(self, unit: str, certain: bool) -> np.ndarray:
        """[boxes] bool: those of images all of whose boxes are of another unit, to be mended."""
        other = other_units(self.annotated, self._frames(), unit)
        count = np.bincount(self.image, minlength=len(self.files))
        alone = (np.bincount(self.image, other, len(self.files)) == count)[self.image]
        mended = other & alone & (not certain)
        self.count("box-pixels" if unit else "box-relative", mended)
        return mended

    def _from_first(self, unit: str) -> np.ndarray:
        """Numbers counted from 0, of pixels that are counted from ``first``.

        Of corners the smaller one is a pixel's near edge, of whichever was drawn first.
        """
        numbers = self.annotated.copy()
        if unit:
            return numbers
        one, other = numbers[:, :2], numbers[:, 2:]
        near = one <= other if self.box_format == "xyxy" else np.ones_like(one, bool)
        one -= self.first * near
        other -= self.first * ~near
        return numbers

    def _frames(self) -> np.ndarray:
        """[boxes, 2] width and height of each box's image."""
        return self.sizes[self.image].astype(np.float64)

    def _order_corners(self) -> None:
        wrong = np.any(self.annotated[:, 2:] < 0, axis=1)
        if wrong.any():
            self.count("box-swapped", wrong)
            sides = self.annotated[:, 2:]
            self.annotated[:, :2] += np.minimum(sides, 0)
            self.annotated[:, 2:] = np.abs(sides)

    def cut(self, again: bool = False) -> None:
        """Corners cut to the image; without what has no area, or none inside.

        A box within one pixel beside the image (coordinates that count from 1) is moved in.
        """
        if not again:
            low = self.annotated[:, :2].astype(np.float32)
            high = (self.annotated[:, :2] + self.annotated[:, 2:]).astype(np.float32)
            self.keep(np.all(high > low, axis=1), "box-empty")
            self._mistrust_sizes()
        sizes = self._frames()
        low, high = self.annotated[:, :2], self.annotated[:, :2] + self.annotated[:, 2:]
        shift = np.where(low >= sizes, -1.0, np.where(high <= 0, 1.0, 0.0))
        cut_low, cut_high = np.maximum(low + shift, 0), np.minimum(high + shift, sizes)
        self.boxes = np.concatenate((cut_low, cut_high), 1).astype(np.float32)
        inside = np.all(self.boxes[:, 2:] > self.boxes[:, :2], axis=1)
        if not again:
            self.count("box-moved", inside & np.any(shift != 0, axis=1))
            past = np.any((low < -1) | (high > sizes + 1), axis=1)
            self.count("box-cut", inside & past)
        self.keep(inside, "box-outside")
        own = self.annotated[:, 2:].prod(1)
        self.areas = np.where(self.areas > 0, self.areas, own)

    def _mistrust_sizes(self) -> None:
        """Read the sizes of the images whose boxes lie outside the size in the annotations."""
        low, high = self.annotated[:, :2], self.annotated[:, :2] + self.annotated[:, 2:]
        sizes = self._frames()
        outside = np.any((low >= sizes + 1) | (high <= -1), axis=1)
        images = np.unique(self.image[outside])
        if not len(images):
            return
        heads = [ImageFile() for _ in self.files]
        for index, head in zip(
            images.tolist(), read_heads([self.files[i] for i in images]), strict=True
        ):
            heads[index] = head
        self.fit_sizes(heads)

    def fit_sizes(self, heads: Sequence[ImageFile]) -> np.ndarray:
        """Bring sizes and boxes to what the images are; [images] bool, which can be kept.

        Heads without a size are skipped. An image that has the size only before it is turned
        is read unturned. Boxes of an image of the same shape are scaled with it, unless all boxes
        of such images fit them as they are.
        """
        own = np.array([(h.width, h.height) for h in heads], np.int64).reshape(-1, 2)
        stored = np.array([(h.stored_width, h.stored_height) for h in heads], np.int64)
        stored = stored.reshape(-1, 2)
        known = np.all(own > 0, axis=1)
        wrong = known & np.any(self.sizes != own, axis=1) & np.any(self.sizes != stored, axis=1)
        if not wrong.any():
            return np.ones(len(known), bool)
        scale = own / np.maximum(self.sizes, 1)
        alike = np.abs(scale[:, 0] / np.maximum(scale[:, 1], 1e-9) - 1) <= SAME_SHAPE
        alike &= np.all(self.sizes > 0, axis=1)
        fits = self._fitting(own)
        scaled = wrong & alike
        rows = scaled[self.image]
        if fits[scaled].all() and rows.sum() >= 4 * TELLING:
            scaled[:] = False  # the numbers are of the images; only the sizes are not
        taken = wrong & ~scaled & fits
        lost = wrong & ~scaled & ~fits

        def told(images: np.ndarray) -> list[str]:
            return [
                f"{self.files[i]} is {own[i, 0]}x{own[i, 1]}, said to be "
                f"{self.sizes[i, 0]}x{self.sizes[i, 1]}"
                for i in np.flatnonzero(images)
            ]

        self.findings.add("size-scaled", told(scaled))
        self.findings.add("size-taken", told(taken))
        self.findings.add("image-size-other", told(lost))
        factor = np.where(scaled[:, None], scale, 1.0)[self.image]
        self.annotated = self.annotated * np.tile(factor, 2)
        self.areas = self.areas * factor.prod(1)
        right = scaled | taken
        self.sizes[right] = own[right]
        return ~lost

    def _fitting(self, own: np.ndarray) -> np.ndarray:
        """[images] bool: whether all boxes of an image lie in it, if it has its ``own`` size."""
        high = self.annotated[:, :2] + self.annotated[:, 2:]
        past = np.any((high > own[self.image] + 1) | (self.annotated[:, :2] < -1), axis=1)
        return np.bincount(self.image, past, minlength=len(own)) == 0
