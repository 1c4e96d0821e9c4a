"""Boxes of a split while they are mended: units, orders, image sizes and edges."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np

from dabdetr.data.box_formats import (
    SMALLEST,
    TELLING,
    Asked,
    BoxFormat,
    Expected,
    changed_kind,
    doubtful,
    is_transposed,
    mixed,
    other_units,
    percents,
    tell_format,
    to_pixels,
)
from dabdetr.data.findings import Findings
from dabdetr.data.heads import read_heads
from dabdetr.data.images import Head

FARTHEST = 1e7
"""Largest plausible coordinate in pixels."""
SAME_SHAPE = 0.02
"""Relative difference of the x and y scales of an image up to which they count as equal."""


class Columns:
    """Images and boxes of a split as arrays, and how they are mended.

    files      path of each image; ``image_ids``, ``sizes`` (width, height as annotated) and
               ``known`` (see ``ImageRecord``) are per image too
    image_of   index into ``files`` of each box; ``labels``, ``crowd``, ``areas`` are per box too
    annotated  [boxes, 4] in ``box_format``; x, y, width, height in pixels after ``settle``
    first      coordinate of the first pixel in ``annotated``
    boxes      [boxes, 4] x0 y0 x1 y1 in pixels, after ``settle``
    row        row of each box in its files
    place      row → location of the box in the files, for messages; None: the image's path
    doubtful   whether the boxes fit another format as well
    findings   counts all that is mended and left out
    """

    findings: Findings
    box_format: BoxFormat
    files: list[str]
    image_ids: np.ndarray
    sizes: np.ndarray
    known: list[tuple[int, ...] | None]
    image_of: np.ndarray
    labels: np.ndarray
    crowd: np.ndarray
    areas: np.ndarray
    annotated: np.ndarray
    boxes: np.ndarray
    row: np.ndarray
    first: float
    place: Callable[[int], str] | None
    doubtful = False

    def take(self, rows: np.ndarray) -> None:
        """Keep the boxes of ``rows``, a mask or indices, in that order."""
        for name in ("image_of", "labels", "crowd", "areas", "annotated", "boxes", "row"):
            setattr(self, name, getattr(self, name)[rows])

    def keep(self, rows: np.ndarray, kind: str = "") -> None:
        """Keep the boxes where ``rows`` is true; count the others as ``kind``."""
        if not rows.all():
            if kind:
                self.count(kind, ~rows)
            self.take(rows)

    def count(self, kind: str, rows: np.ndarray) -> None:
        """Count the boxes where ``rows`` is true as ``kind``, the first ones as examples."""
        found = np.flatnonzero(rows)
        self.findings.add(kind, map(self._example, found.tolist()), len(found))

    def _example(self, at: int) -> str:
        numbers = ", ".join(f"{value:g}" for value in self.annotated[at])
        place = self.place(int(self.row[at])) if self.place else self.files[self.image_of[at]]
        return f"{place}: [{numbers}]"

    def keep_images(self, keep: np.ndarray) -> None:
        """Keep the images where ``keep`` is true, and their boxes."""
        if keep.all():
            return
        self.keep(keep[self.image_of])
        self.image_of = (np.cumsum(keep) - 1)[self.image_of]
        kept = np.flatnonzero(keep)
        self.files = [self.files[index] for index in kept]
        self.known = [self.known[index] for index in kept]
        self.image_ids, self.sizes = self.image_ids[keep], self.sizes[keep]

    def complete_sizes(self) -> None:
        """Read missing sizes from the image files; damaged images are dropped and counted."""
        missing = np.flatnonzero((self.sizes <= 0).any(1) | (self.sizes > FARTHEST).any(1))
        if not len(missing):
            return
        heads = read_heads([self.files[index] for index in missing])
        keep = np.ones(len(self.files), bool)
        for index, head in zip(missing.tolist(), heads, strict=True):
            self.sizes[index] = head.size
            keep[index] = not head.error
        self.findings.add("image-damaged", [head.error for head in heads if head.error])
        self.keep_images(keep)

    def settle(self, asked: Asked | None) -> None:
        """Convert boxes to pixels and cut them; ``annotated`` becomes x, y, width, height."""
        finite = np.all(np.abs(self.annotated) <= FARTHEST, axis=1)  # NaN is not
        self.keep(finite, "box-infinite")
        said = self.box_format
        if isinstance(asked, Expected):
            likely, certain = asked.box_format, asked.certain
        else:
            likely, certain = asked, asked is not None
        if certain and likely:
            self.box_format = likely
        else:
            self._find_format(likely or said)
        unit = self.box_format.partition("-")[2]
        other = self._of_other_unit(unit, certain)
        if unit:
            reach = np.abs(self.annotated / (100 if unit == "percent" else 1) - 0.5).max(
                1, initial=0
            )
            longest = 1.0 if unit != "swapped" else self._frames().max(1) / self._frames().min(1)
            keep = (reach <= 1.5 * longest) | other
            self.keep(keep, "box-beyond")
            other = other[keep]
        converted = to_pixels(self._from_first(unit), self._frames(), self.box_format)
        order = self.box_format.partition("-")[0]
        changed: BoxFormat = order if unit else f"{order}-relative"  # pyright: ignore
        self.annotated = np.where(
            other[:, None], to_pixels(self.annotated, self._frames(), changed), converted
        )
        self.areas = np.where(other | (self.box_format != said), np.nan, self.areas)
        self._order_corners()
        self.cut()
        if not unit:
            large = self._frames().min(1) > SMALLEST
            self.count("box-first-pixel", np.all(self.boxes <= 1, axis=1) & large)

    def _find_format(self, said: BoxFormat) -> None:
        """Recognise the box format over all boxes; count a certain or likely other format."""
        layout, frames = self.box_format, self._frames()
        self.box_format = tell_format(self.annotated, frames, said)
        order = self.box_format.partition("-")[0] != said.partition("-")[0]
        if (order or is_transposed(self.box_format)) and self._swap_sizes():
            frames = self._frames()
            self.box_format = tell_format(self.annotated, frames, said)
        self.doubtful = doubtful(self.annotated, frames, self.box_format)
        every = np.ones(len(self.image_of), bool)
        if self.box_format != layout:
            self.count(changed_kind(layout, self.box_format), every)
        if "-" not in self.box_format and percents(self.annotated, frames, layout) == "likely":
            self.count("box-percent-perhaps", every)
        self.count("box-mixed", mixed(self.annotated, frames, self.box_format))

    def _swap_sizes(self) -> bool:
        """Mend annotated sizes with swapped sides if most are so; return whether they are."""
        heads = read_heads(self.files)
        actual, stored = _sizes_of(heads)
        other = np.any(self.sizes != actual, axis=1) & np.any(self.sizes != stored, axis=1)
        turned = other & np.all(self.sizes == actual[:, ::-1], axis=1)
        if turned.mean() <= 0.5:
            return False
        self._count_sizes("size-taken", turned, actual)
        self.sizes[turned] = actual[turned]
        return True

    def _of_other_unit(self, unit: str, certain: bool) -> np.ndarray:
        """[boxes] bool: boxes to mend, in images whose boxes all have another unit."""
        other = other_units(self.annotated, self._frames(), unit)
        count = np.bincount(self.image_of, minlength=len(self.files))
        alone = (np.bincount(self.image_of, other, len(self.files)) == count)[self.image_of]
        mended = other & alone & (not certain)
        self.count("box-pixels" if unit else "box-relative", mended)
        return mended

    def _from_first(self, unit: str) -> np.ndarray:
        """``annotated`` with pixel coordinates counted from 0 instead of from ``first``.

        ``first`` is subtracted from the smaller corner only, in whichever order the two are given:
        the larger one names the last pixel, whose far edge has that coordinate.
        """
        numbers = self.annotated.copy()
        if unit:
            return numbers
        corner, opposite = numbers[:, :2], numbers[:, 2:]
        near = (
            corner <= opposite
            if self.box_format in ("xyxy", "yxyx")
            else np.ones_like(corner, bool)
        )
        corner -= self.first * near
        opposite -= self.first * ~near
        return numbers

    def _frames(self) -> np.ndarray:
        """[boxes, 2] width and height of each box's image."""
        return self.sizes[self.image_of].astype(np.float64)

    def _order_corners(self) -> None:
        wrong = np.any(self.annotated[:, 2:] < 0, axis=1)
        if wrong.any():
            self.count("box-swapped", wrong)
            sides = self.annotated[:, 2:]
            self.annotated[:, :2] += np.minimum(sides, 0)
            self.annotated[:, 2:] = np.abs(sides)

    def cut(self, again: bool = False) -> None:
        """Cut boxes to their images; drop those without area, or without area inside.

        A box that lies outside by at most one pixel (coordinates counted from 1) is moved inside.
        ``again``: the boxes were cut before; moved and cut boxes are not counted twice.
        """
        if not again:
            low = self.annotated[:, :2].astype(np.float32)
            high = (self.annotated[:, :2] + self.annotated[:, 2:]).astype(np.float32)
            self.keep(np.all(high > low, axis=1), "box-empty")
            self._check_sizes()
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
        full_areas = self.annotated[:, 2:].prod(1)
        self.areas = np.where(self.areas > 0, self.areas, full_areas)

    def _check_sizes(self) -> None:
        """Compare the annotated sizes of images with boxes outside to those of the image files.

        If boxes only reach past the edge, the size is mended only if width and height are swapped.
        """
        low, high = self.annotated[:, :2], self.annotated[:, :2] + self.annotated[:, 2:]
        sizes = self._frames()
        outside = np.unique(
            self.image_of[np.any((low >= sizes + 1) | (high <= -1), axis=1)]
        ).tolist()
        past = np.unique(self.image_of[np.any(high > sizes + 1, axis=1)]).tolist()
        images = sorted({*outside, *past})
        if not images:
            return
        heads, far = [Head() for _ in self.files], {*outside}
        for index, head in zip(images, read_heads([self.files[i] for i in images]), strict=True):
            turned = head.size[::-1] == tuple(self.sizes[index])
            if turned or index in far:
                heads[index] = head
        self.fit_sizes(heads)

    def fit_sizes(self, heads: Sequence[Head]) -> np.ndarray:
        """Adapt sizes and boxes to the image files; [images] bool: images that can be kept.

        Heads without a size are skipped. An image that has the annotated size only before its EXIF
        rotation is read unrotated. If an image has another size but the same aspect ratio, its
        boxes are scaled; they are not if the boxes of all these images fit unscaled.
        """
        actual, stored = _sizes_of(heads)
        known = np.all(actual > 0, axis=1)
        wrong = known & np.any(self.sizes != actual, axis=1) & np.any(self.sizes != stored, axis=1)
        if not wrong.any():
            return np.ones(len(known), bool)
        scale = actual / np.maximum(self.sizes, 1)
        alike = np.abs(scale[:, 0] / np.maximum(scale[:, 1], 1e-9) - 1) <= SAME_SHAPE
        alike &= np.all(self.sizes > 0, axis=1)
        fits = self._fitting(actual)
        scaled = wrong & alike
        rows = scaled[self.image_of]
        if fits[scaled].all() and rows.sum() >= 4 * TELLING:
            scaled[:] = False  # the boxes belong to the images; only the sizes are wrong
        taken = wrong & ~scaled & fits
        lost = wrong & ~scaled & ~fits
        for kind, images in (
            ("size-scaled", scaled),
            ("size-taken", taken),
            ("image-size-other", lost),
        ):
            self._count_sizes(kind, images, actual)
        factor = np.where(scaled[:, None], scale, 1.0)[self.image_of]
        self.annotated = self.annotated * np.tile(factor, 2)
        self.areas = self.areas * factor.prod(1)
        right = scaled | taken
        self.sizes[right] = actual[right]
        return ~lost

    def _count_sizes(self, kind: str, images: np.ndarray, actual: np.ndarray) -> None:
        """Count the images where ``images`` is true, whose files have the ``actual`` sizes."""
        found = [
            f"{self.files[i]} is {actual[i, 0]}x{actual[i, 1]}, said to be "
            f"{self.sizes[i, 0]}x{self.sizes[i, 1]}"
            for i in np.flatnonzero(images)
        ]
        self.findings.add(kind, found)

    def _fitting(self, actual: np.ndarray) -> np.ndarray:
        """[images] bool: whether all boxes of an image lie inside its ``actual`` size."""
        high = self.annotated[:, :2] + self.annotated[:, 2:]
        past = np.any((high > actual[self.image_of] + 1) | (self.annotated[:, :2] < -1), axis=1)
        return np.bincount(self.image_of, past, minlength=len(actual)) == 0


def _sizes_of(heads: Sequence[Head]) -> tuple[np.ndarray, np.ndarray]:
    """[images, 2] width and height of the files, after and before their EXIF rotation."""
    sizes = np.array([(head.size, head.stored) for head in heads], np.int64).reshape(-1, 2, 2)
    return sizes[:, 0], sizes[:, 1]
