"""Consistency between the splits of one data set: classes, box format, and shared images."""

from __future__ import annotations

import os
from collections.abc import Callable, Container, Iterable, Sequence

from dabdetr.data.box_formats import FEW, BoxFormat, Expected
from dabdetr.data.dataset import DetectionDataset
from dabdetr.data.images import IMAGE_SUFFIXES
from dabdetr.data.locate import files_in
from dabdetr.data.records import RecordTable


def unite(splits: Sequence[DetectionDataset]) -> None:
    """Set the classes of every split to the union of all splits, in the order of the first split.

    Classes that a split lacks are counted in its findings. A split keeps its own category ids.
    """
    tables = [each for each in splits if isinstance(each, RecordTable)]
    names = list(dict.fromkeys(name for each in tables for name in each.names))
    if all(list(each.names) == names for each in tables):
        return
    all_ids = {id_ for each in tables for id_ in each.category_ids}
    ids: dict[str, int] = {}
    for each in tables:  # a split without the class uses its first id, if free
        for name, id_ in zip(each.names, each.category_ids, strict=True):
            ids.setdefault(name, id_)
    for each in tables:
        own_ids = dict(zip(each.names, each.category_ids, strict=True))
        missing = sorted(set(names) - set(own_ids))
        where = f"{each.name} {each.split}"
        each.findings.add("class-split", [f"{name!r} is not in {where}" for name in missing])
        free = (number for number in range(max(all_ids) + 1, 1 << 62))
        used = set(own_ids.values())
        for name in missing:
            own_ids[name] = ids[name] if ids[name] not in used else next(free)
            used.add(own_ids[name])
        each.with_names(names, [own_ids[name] for name in names])


def alike(
    splits: Sequence[DetectionDataset],
    again: Callable[[str, Expected], DetectionDataset],
    box_format: BoxFormat | None = None,
) -> list[DetectionDataset]:
    """The splits, reopened by ``again`` where they differ from what others show.

    These are the format of the boxes, unless the user set ``box_format``, and the step of the class
    numbers.
    """
    tables = [each for each in splits if isinstance(each, RecordTable)]
    likely, uncertain = (None, []) if box_format else _likely_format(tables)
    step = _likely_step(tables)

    def agreeing(each: DetectionDataset) -> DetectionDataset:
        is_other = isinstance(each, RecordTable) and step not in (None, each.classes.step)
        if each not in uncertain and not is_other:
            return each
        found = box_format or (likely if each in uncertain else None)
        return again(each.split, Expected(found, step, box_format is not None))

    return [agreeing(each) for each in splits]


def _likely_format(tables: Sequence[RecordTable]) -> tuple[BoxFormat | None, list[RecordTable]]:
    """The box format that splits show, and the splits to reopen with it; None if they differ.

    A split shows a format if its boxes fit another format than that of the layout. Where splits
    show different formats, those with at least ``FEW`` boxes decide.
    """
    showing = [each for each in tables if each.box_format != each.layout_format]
    large = [each for each in showing if len(each.labels) >= FEW]
    formats: set[BoxFormat] = {each.box_format for each in large or showing}
    if len(formats) != 1:
        return None, []
    likely = formats.pop()
    small = [each for each in showing if each not in large and each.box_format != likely]
    return likely, [each for each in tables if each not in showing or each in small]


def _likely_step(tables: Sequence[RecordTable]) -> int | None:
    """The step of the class numbers of all splits: that of any, if it fits all; None without one.

    Where it does not fit, 0.
    """
    steps = {each.classes.step for each in tables} - {0}
    if not steps:
        return None
    step = steps.pop()
    fits = all(not each.classes.used or each.classes.may_step(step) for each in tables)
    return step if fits and not steps else 0


def count_shared(splits: Sequence[DetectionDataset]) -> None:
    """Count in each split the images that an earlier split also contains."""
    first: dict[str, str] = {}
    for data in splits:
        if isinstance(data, RecordTable):
            shared = [
                file for file in data.files if first.setdefault(file, data.split) != data.split
            ]
            data.findings.add("split-shared", [f"{file}, in {first[file]}" for file in shared])


def count_unlisted(
    splits: Sequence[DetectionDataset], others: Callable[[], Iterable[RecordTable]] = tuple
) -> None:
    """Count images that lie in the image folders of the splits but belong to no split.

    ``others`` opens the remaining splits; it is called only if such images exist.
    """
    tables = [each for each in splits if isinstance(each, RecordTable)]
    listed = {file for each in tables for file in each.listed}
    unclaimed = {
        id(each): [file for file in beside(each, IMAGE_SUFFIXES) if file not in listed]
        for each in tables
    }
    if not any(unclaimed.values()):
        return
    counted = {os.path.realpath(file) for each in (*tables, *others()) for file in each.listed}
    for data in tables:
        unlisted = [file for file in unclaimed[id(data)] if os.path.realpath(file) not in counted]
        counted.update(map(os.path.realpath, unlisted))  # once, not in every split
        if not data.findings.count("image-unlisted"):  # or its reader has counted them
            data.findings.add("image-unlisted", unlisted)


def beside(data: RecordTable, endings: Container[str]) -> list[str]:
    """Files with one of ``endings`` in the folders that contain images of a split."""
    folders = dict.fromkeys(os.path.dirname(file) for file in data.files)
    return [file for folder in folders for file in files_in(folder, endings)]
