"""Problems of a data set: the readers' findings, and checks over all images and splits.

A check is a function that yields ``Found``s of a kind in kinds.toml. The readers leave out and mend
faulty rows (see ``findings``); the checks examine the data that remain, as used for training.
"""

from __future__ import annotations

import re
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np

from dabdetr.config import Config
from dabdetr.data.dataset import DetectionDataset, ImageRecord
from dabdetr.data.findings import CHECKS, EXAMPLES, KINDS, LONGEST, Kind
from dabdetr.data.heads import each_file, read_heads
from dabdetr.data.images import Head, opened_image
from dabdetr.data.preprocessing import input_size
from dabdetr.data.similar import SIDE, near_duplicates, thumbnails
from dabdetr.structures.boxes import iou
from dabdetr.text import counted, printable, shortened

SAME_BOX = 0.95
"""IoU above which two boxes are taken for one object."""
THIN_BOX, THIN_IMAGE = 25.0, 8.0
"""Ratio of the longer side to the shorter one."""
TINY, TINY_SHARE = 6.0, 0.1
"""Square root of an object's area in pixels of the model's input; share of objects below it."""
OFTEN = 0.1
"""Share of a split's boxes that do not fit, above which another convention is likely."""
TEMPLATE = 0.5
"""Share of a split's images that contain the same box."""
FEW_BOXES, FEW_IMAGES = 10, 10
SECONDS = 2.0
"""Longest time between two photos of the same moment."""
SEQUENCE = 0.9
"""Least correlation of the grey thumbnails of neighbouring frames."""
FEW_FRAMES = 3
"""Fewest pairs of such frames that indicate a video divided between splits."""
DARK = 12.0
CROWDED = 100
"""Most objects of a class in an image that COCO's AP counts."""


Row = tuple[int, int, np.ndarray | None]
"""Split, image, and the boxes concerned (None: all)."""


@dataclass(frozen=True)
class Problem:
    """The result of one check in a split, or in "all" splits.

    ``kept`` has all examples that the reader kept (see ``findings.keeping_all``).
    """

    kind: Kind
    split: str
    count: int
    examples: tuple[str, ...]
    rows: tuple[Row, ...] = field(default=(), repr=False)
    kept: tuple[str, ...] = field(default=(), repr=False)

    @property
    def hint(self) -> bool:
        """Whether the problem is only a hint, not a fault."""
        return self.kind.hint

    def to_dict(self) -> dict[str, Any]:
        """Plain values, ready for JSON."""
        kind = self.kind
        return {
            "check": kind.name,
            "severity": "hint" if self.hint else "finding",
            "split": self.split,
            "count": self.count,
            "what": kind.what,
            "done": kind.done,
            "effect": kind.effect,
            "remedy": kind.remedy,
            "examples": list(self.examples),
        }


@dataclass(frozen=True)
class Found:
    """One fault: name of its kind, an example as text, and the rows. ``split`` None: all splits."""

    name: str
    split: int | None
    example: str
    row: Row | None = None
    twin: Row | None = None


class Case:
    """The splits of a data set, and the input of the checks, each computed once."""

    def __init__(
        self, data: Sequence[DetectionDataset], config: Config, progress: bool = False
    ) -> None:
        self.data, self.config, self.progress = data, config, progress
        self.records: list[list[ImageRecord]] = [
            [each.record(index) for index in range(len(each))] for each in data
        ]
        self.images = [(s, i) for s, group in enumerate(self.records) for i in range(len(group))]
        self.names = data[0].names

    def record(self, place: tuple[int, int]) -> ImageRecord:
        """The record at ``place``: number of the split, and index in it."""
        return self.records[place[0]][place[1]]

    def split(self, name: str) -> int | None:
        """The number of the split called ``name``; None if there is none."""
        return next((n for n, each in enumerate(self.data) if each.split == name), None)

    @cached_property
    def files(self) -> list[str]:
        """Paths of all images, in the order of ``images``."""
        return [self.record(place).file for place in self.images]

    @cached_property
    def heads(self) -> list[Head]:
        """The heads of all image files, in the order of ``images``."""
        return read_heads(self.files)

    @cached_property
    def thumbs(self) -> np.ndarray:
        """Small grey copies of all images (see ``similar``)."""
        return thumbnails(self.files, self.progress)

    @cached_property
    def counts(self) -> np.ndarray:
        """[splits, classes] number of boxes, without crowds."""
        table = np.zeros((len(self.data), len(self.names)), np.int64)
        for split, _, record in self.every():
            labels = record.labels[~record.crowd]
            table[split] += np.bincount(labels, minlength=len(self.names))
        return table

    def every(self) -> Iterator[tuple[int, int, ImageRecord]]:
        """Split, index and record of all images."""
        for split, index in self.images:
            yield split, index, self.records[split][index]


def examine(
    data: Sequence[DetectionDataset], config: Config, progress: bool = False
) -> list[Problem]:
    """The problems of the splits of a data set, for a model of ``config``; faults before hints."""
    case = Case(data, config, progress)
    problems = _reading_problems(data)
    grouped: dict[tuple[str, int | None], list[Found]] = defaultdict(list)
    for check in _CHECKS:
        for found in check(case):
            grouped[found.name, found.split].append(found)
    for (name, split), group in grouped.items():
        texts = (shortened(printable(each.example), LONGEST) for each in group[:EXAMPLES])
        rows = tuple(row for each in group for row in (each.row, each.twin) if row is not None)
        where = "all" if split is None else data[split].split
        problems.append(Problem(all_kinds()[name], where, len(group), tuple(texts), rows))
    return sorted(problems, key=lambda each: each.hint)


def _reading_problems(data: Sequence[DetectionDataset]) -> list[Problem]:
    """The readers' findings; a finding that is equal in all splits is one problem."""
    found_by_split = [(each.split, found) for each in data for found in each.findings]
    times = Counter((found.kind.name, found.count, *found.examples) for _, found in found_by_split)
    problems: dict[Problem, None] = {}
    for split, found in found_by_split:
        shared = times[found.kind.name, found.count, *found.examples] == len(data) > 1
        where = "all" if shared and found.examples else split
        examples, kept = tuple(found.examples), tuple(found.kept)
        problems[Problem(found.kind, where, found.count, examples, (), kept)] = None
    return [*problems]


def all_kinds() -> dict[str, Kind]:
    """All kinds of findings and checks, by name."""
    return KINDS | CHECKS


def _similar(case: Case) -> Iterator[Found]:
    for one, other in near_duplicates(case.thumbs).tolist():
        yield from _pair(case, "similar-splits", "similar-within", one, other)


def _pair(case: Case, across: str, within: str | None, one: int, other: int) -> Iterator[Found]:
    """A finding on the later of two images that are related.

    ``across`` is its kind if they are in two splits, ``within`` if in one (None: no finding).
    """
    one, other = sorted((one, other))
    first, second = case.images[one], case.images[other]
    example = f"{case.files[other]} and {case.files[one]}"
    if first[0] != second[0]:
        yield Found(across, None, example, (*first, None), (*second, None))
    elif within is not None:
        yield Found(within, second[0], example, (*second, None), (*first, None))


_COPY = re.compile(r"(?i)([._-](jpe?g|png))?\.rf\.[\w]{6,}$")


def source_name(file: str) -> str:
    """Name of the image that a file was made from: without exporters' hashes, "copy" etc."""
    stem = Path(file).stem
    bare = _COPY.sub("", stem)
    for word in ("copy", "kopie", "aug", "augmented", "flip", "hflip", "flipped", "rotated"):
        bare = re.sub(rf"(?i)(?<![ _-])[ _-]+{word}([ _-]?\(?\d+\)?)?$", "", bare)
    return re.sub(r" \(\d+\)$", "", bare).casefold()


def _same_names(case: Case) -> Iterator[Found]:
    known: dict[str, int] = {}
    for place, file in enumerate(case.files):
        other = known.setdefault(name := source_name(file), place)
        if case.images[other][0] == case.images[place][0]:
            continue
        # Bare numbers restart in every split; but a copy's name and its source's are evidence.
        copies = [Path(each).stem.casefold() != name for each in (file, case.files[other])]
        if re.search(r"[^\W\d_]", name) or copies[0] != copies[1]:
            yield from _pair(case, "name-splits", None, other, place)


def _capture_time(path: str) -> float | None:
    """Capture time of a photo in seconds, with months of 31 days; None if unknown."""
    try:
        with opened_image(path) as (image, _):
            exif = image.getexif()
            inner = exif.get_ifd(0x8769)
            text = str(inner.get(0x9003) or exif.get(0x0132) or "")
            fraction = str(inner.get(0x9291) or "0").strip()
    except Exception:  # decoders raise many kinds
        return None
    numbers = re.fullmatch(r"(\d{4}):(\d\d):(\d\d) (\d\d):(\d\d):(\d\d)\0?", text.strip())
    if numbers is None or not int(numbers[1]):
        return None
    year, month, day, hour, minute, second = (int(each) for each in numbers.groups())
    days = year * 372 + month * 31 + day
    part = float(f"0.{fraction}") if fraction.isdecimal() else 0.0
    return ((days * 24 + hour) * 60 + minute) * 60.0 + second + part


def _same_time(case: Case) -> Iterator[Found]:
    times = each_file(_capture_time, case.files, case.progress)
    timed = sorted((time, place) for place, time in enumerate(times) if time is not None)
    if len({time for time, _ in timed}) < 2:  # the same time for all is that of an export
        return
    for (one, first), (other, second) in pairwise(timed):
        if other - one <= SECONDS:
            yield from _pair(case, "time-splits", None, first, second)


def _frames(case: Case) -> Iterator[Found]:
    """Similar images in two splits whose file names have a common prefix and adjacent numbers."""
    numbered: dict[str, list[tuple[int, int]]] = defaultdict(list)
    for place, file in enumerate(case.files):
        stem = _COPY.sub("", Path(file).stem)
        number = re.search(r"(?<!\d)\d{1,17}$", stem)
        if number:
            numbered[stem[: number.start()].casefold()].append((int(number[0]), place))
    flat = case.thumbs.reshape(len(case.thumbs), -1).astype(np.float32)
    for sequence in numbered.values():
        sequence.sort()
        found: list[tuple[int, int]] = []
        for (one, first), (other, second) in pairwise(sequence):
            if other - one > 1 or case.images[first][0] == case.images[second][0]:
                continue
            a, b = (flat[place] - flat[place].mean() for place in (first, second))
            size = float(np.linalg.norm(a) * np.linalg.norm(b))
            if size > 4 * SIDE * SIDE and float(a @ b) / size >= SEQUENCE:
                found.append((first, second))
        if len(found) >= FEW_FRAMES:  # the end of one video may look like the start of another
            for first, second in found:
                yield from _pair(case, "sequence-splits", None, first, second)


def _class_counts(case: Case) -> Iterator[Found]:
    train, val = case.split("train"), case.split("val")
    if train is None:
        return
    for label, name in enumerate(case.names):
        in_train = int(case.counts[train, label])
        outside = int(case.counts[:, label].sum()) - in_train
        boxes, elsewhere = (counted(number, "box", "boxes") for number in (in_train, outside))
        if not in_train and outside:
            yield Found("class-untrained", None, f"{name!r}, {elsewhere} in other splits")
        elif not in_train:
            yield Found("class-empty", None, f"{name!r}")
        elif in_train < FEW_BOXES:
            yield Found("class-few", train, f"{name!r}, {boxes}")
        if in_train and val is not None and not case.counts[val, label]:
            yield Found("class-unmeasured", None, f"{name!r}, {boxes} in train")


def plain_name(name: str) -> str:
    """A class name without case, blanks, hyphens and underscores, which are easily confused.

    The difference between "x-" and "x", "a" and "A", "1-2" and "12" is kept.
    """
    bare = re.sub(r"(?<=[^\W_])[\s_\-]+(?=[^\W\d_])|(?<=[^\W\d_])[\s_\-]+(?=\d)", "", name.strip())
    return bare.casefold() if len(bare) > 1 else bare


def _class_names(case: Case) -> Iterator[Found]:
    known: dict[str, str] = {}
    for name in case.names:
        other = known.setdefault(plain_name(name), name)
        if other != name:
            yield Found("class-names-alike", None, f"{name!r} and {other!r}")


def _objects(case: Case) -> Iterator[Found]:
    queries = case.config.model.queries.count
    tiny: dict[int, list[Found]] = defaultdict(list)
    for split, index, record in case.every():
        objects = ~record.crowd
        many = int(objects.sum())
        if many > queries:
            slots = counted(queries, "query", "queries")
            note = f"{record.file} has {many} objects, the model {slots}"
            yield Found("objects-over-queries", split, note, (split, index, None))
        if many > CROWDED and (most := int(np.bincount(record.labels[objects]).max())) > CROWDED:
            note = f"{record.file} has {most} of a class"
            yield Found("objects-uncounted", split, note, (split, index, None))
        height, _ = input_size(record.height, record.width, case.config.image)
        sides = np.sqrt((record.boxes[:, 2:] - record.boxes[:, :2]).prod(1))
        sides = sides * height / record.height
        for row in np.flatnonzero(objects & (sides < TINY)).tolist():
            note = f"{record.file}: {_box(record, row)} is {sides[row]:.1f} pixels there"
            rows = (split, index, np.array([row]))
            tiny[split].append(Found("objects-tiny", split, note, rows))
    for split, small in tiny.items():
        if len(small) >= TINY_SHARE * case.counts[split].sum():
            yield from small


def _box(record: ImageRecord, row: int) -> str:
    return "[" + ", ".join(f"{value:g}" for value in record.boxes[row].round(2)) + "]"


def same_boxes(record: ImageRecord) -> Iterator[tuple[int, int]]:
    """Pairs of boxes of an image that coincide (``SAME_BOX``); crowds are left out."""
    rows = np.flatnonzero(~record.crowd)
    boxes = record.boxes[rows].astype(np.float64)
    if len(rows) < 2:
        return
    order = np.argsort(boxes[:, 0], kind="stable")
    boxes, rows = boxes[order], rows[order]
    for at in range(len(rows) - 1):
        widest = boxes[at, 0] + (1 - SAME_BOX) * (boxes[at, 2] - boxes[at, 0]) * 1.1 + 1e-6
        end = int(np.searchsorted(boxes[:, 0], widest, "right"))
        if end > at + 1:
            close = iou(boxes[at][None], boxes[at + 1 : end])
            for other in np.flatnonzero(close.reshape(-1) > SAME_BOX).tolist():
                one, two = sorted((int(rows[at]), int(rows[at + 1 + other])))
                yield one, two


def _boxes(case: Case) -> Iterator[Found]:
    for split, index, record in case.every():
        sides = record.boxes[:, 2:] - record.boxes[:, :2]
        objects = ~record.crowd
        for one, other in same_boxes(record):
            alike = record.labels[one] == record.labels[other]
            names = [case.names[record.labels[row]] for row in (one, other)]
            note = f"{record.file}: {names[1]!r} {_box(record, other)} on {names[0]!r}"
            name = "box-duplicate" if alike else "box-two-classes"
            yield Found(name, split, note, (split, index, np.array([one, other])))
        frame = np.array([record.width, record.height])
        at_edge = (record.boxes[:, :2] <= 1) | (record.boxes[:, 2:] >= frame - 1)
        cut_off = np.take_along_axis(at_edge, sides.argmin(1, keepdims=True), 1)[:, 0]
        thin = objects & (sides.max(1) >= THIN_BOX * sides.min(1)) & ~cut_off
        whole = objects & (sides >= 0.99 * frame).all(1)
        for name, rows in (("box-thin", thin), ("box-whole", whole)):
            for row in np.flatnonzero(rows).tolist():
                note = f"{record.file}: {_box(record, row)}"
                yield Found(name, split, note, (split, index, np.array([row])))


def _templates(case: Case) -> Iterator[Found]:
    """The same box in most images of a split; boxes that fill the image are not counted."""
    for split, records in enumerate(case.records):
        found: dict[tuple[float, ...], list[tuple[int, int]]] = defaultdict(list)
        for index, record in enumerate(records):
            for row, box in enumerate(record.boxes.round(2).tolist()):
                whole = box[2] - box[0] >= 0.99 * record.width
                if not (whole and box[3] - box[1] >= 0.99 * record.height):
                    found[tuple(box)].append((index, row))
        for box, places in found.items():
            if len(places) >= max(TEMPLATE * len(records), FEW_IMAGES // 2):
                numbers = ", ".join(f"{value:g}" for value in box)
                for index, row in places:
                    note = f"{records[index].file}: [{numbers}]"
                    yield Found("box-template", split, note, (split, index, np.array([row])))


def _convention(case: Case) -> Iterator[Found]:
    for split, each in enumerate(case.data):
        count = each.findings.count
        dropped = sum(map(count, ("box-empty", "box-outside", "box-beyond")))
        odd = dropped + count("box-cut") + count("box-swapped")
        every = dropped + sum(len(record.labels) for record in case.records[split])
        if odd >= FEW_BOXES // 2 and odd >= OFTEN * every:
            yield Found("convention", split, f"{odd} of {every} boxes")


def _images(case: Case) -> Iterator[Found]:
    grey = case.thumbs.reshape(len(case.thumbs), -1).astype(np.float32)
    level, contrast = grey.mean(1), grey.std(1)
    for place, (split, index) in enumerate(case.images):
        record, head = case.record((split, index)), case.heads[place]
        row = (split, index, None)
        height, width = input_size(record.height, record.width, case.config.image)
        sides = sorted((record.width, record.height))
        note = f"{record.file}, {record.width}x{record.height}"
        if sides[1] >= THIN_IMAGE * sides[0]:
            yield Found("image-thin", split, note, row)
        if min(height / record.height, width / record.width) > 4:
            yield Found("image-small", split, note, row)
        if head.error:
            continue
        if head.size != (record.width, record.height) == head.stored:
            yield Found("image-unturned", split, note, row)
        if contrast[place] < 1:
            yield Found("image-plain", split, f"{record.file}, grey {level[place]:.0f}", row)
        elif level[place] < DARK:
            yield Found("image-dark", split, f"{record.file}, grey {level[place]:.0f}", row)


def _splits(case: Case) -> Iterator[Found]:
    for split, records in enumerate(case.records):
        empty = sum(not len(record.labels) for record in records)
        if empty * 2 > len(records):
            note = f"{case.data[split].split}: {empty} of {counted(len(records), 'image')}"
            yield Found("images-empty", split, note)
        if case.data[split].split == "val" and len(records) < FEW_IMAGES:
            yield Found("val-small", split, counted(len(records), "image"))
    if len(case.data) == 1:
        yield Found("split-only", 0, f"{case.data[0].name}: {case.data[0].split}")


_CHECKS: tuple[Callable[[Case], Iterator[Found]], ...] = (
    *(_similar, _same_names, _same_time, _frames, _class_counts, _class_names, _objects),
    *(_boxes, _templates, _convention, _images, _splits),
)
