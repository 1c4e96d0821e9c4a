"""What the splits of one data set agree on: classes, the format of boxes, and who has an image."""

from __future__ import annotations

import os
from collections.abc import Callable, Container, Iterable, Sequence

from dabdetr.data.box_formats import FEW, BoxFormat, Expected
from dabdetr.data.dataset import DetectionDataset
from dabdetr.data.images import IMAGE_SUFFIXES
from dabdetr.data.locate import files_in
from dabdetr.data.records import RecordTable


def unite(splits: Sequence[DetectionDataset]) -> None:
    """Give all splits the classes of all, in the order of the first; what one lacks is counted.

    Each keeps its own ids of the classes that it has.
    """
    tables = [each for each in splits if isinstance(each, RecordTable)]
    names = list(dict.fromkeys(name for each in tables for name in each.names))
    if all(list(each.names) == names for each in tables):
        return
    every = {id_ for each in tables for id_ in each.category_ids}
    ids: dict[str, int] = {}
    for each in tables:  # the first id of a class is its id in splits without it, where it is free
        for name, id_ in zip(each.names, each.category_ids, strict=True):
            ids.setdefault(name, id_)
    for each in tables:
        own = dict(zip(each.names, each.category_ids, strict=True))
        lacking = sorted(set(names) - set(own))
        where = f"{each.name} {each.split}"
        each.findings.add("class-split", [f"{name!r} is not in {where}" for name in lacking])
        free = (number for number in range(max(every) + 1, 1 << 62))
        used = set(own.values())
        for name in lacking:
            own[name] = ids[name] if ids[name] not in used else next(free)
            used.add(own[name])
        each.with_names(names, [own[name] for name in names])


def alike(
    splits: Sequence[DetectionDataset], again: Callable[[str, Expected], DetectionDataset]
) -> list[DetectionDataset]:
    """The splits; opened ``again`` where only another one shows that boxes are of another format.

    Of two formats that other splits show none is likelier, unless only one has more than a few
    boxes.
    """
    tables = [each for each in splits if isinstance(each, RecordTable)]
    showing = [each for each in tables if each.box_format != each.layout_format]
    large = [each for each in showing if len(each.labels) >= FEW]
    told: set[BoxFormat] = {each.box_format for each in large or showing}
    if len(told) != 1:
        return list(splits)
    likely = Expected(told.pop())
    small = [each for each in showing if each not in large and each.box_format != likely.box_format]
    plain = [each for each in tables if each not in showing or each in small]
    return [again(each.split, likely) if each in plain else each for each in splits]


def count_shared(splits: Sequence[DetectionDataset]) -> None:
    """Count in each split the images that one before it has as well."""
    first: dict[str, str] = {}
    for data in splits:
        if isinstance(data, RecordTable):
            twice = [
                file for file in data.files if first.setdefault(file, data.split) != data.split
            ]
            data.findings.add("split-shared", [f"{file}, in {first[file]}" for file in twice])


def count_unlisted(
    splits: Sequence[DetectionDataset], others: Callable[[], Iterable[RecordTable]] = tuple
) -> None:
    """Count images beside those of the splits that no split has.

    ``others`` opens the rest of the splits; it is called only where some image may be theirs.
    """
    tables = [each for each in splits if isinstance(each, RecordTable)]
    listed = {file for each in tables for file in each.files}
    alone = {
        id(each): [file for file in beside(each, IMAGE_SUFFIXES) if file not in listed]
        for each in tables
    }
    if not any(alone.values()):
        return
    real = {os.path.realpath(file) for each in (*tables, *others()) for file in each.files}
    for data in tables:
        unlisted = [file for file in alone[id(data)] if os.path.realpath(file) not in real]
        real.update(map(os.path.realpath, unlisted))  # once, not for every split
        if not data.findings.count("image-unlisted"):  # else its reader has counted them
            data.findings.add("image-unlisted", unlisted)


def beside(data: RecordTable, endings: Container[str]) -> list[str]:
    """Files with such an ending in the folders that hold images of a split."""
    folders = dict.fromkeys(os.path.dirname(file) for file in data.files)
    return [file for folder in folders for file in files_in(folder, endings)]
