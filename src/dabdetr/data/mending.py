"""A mended copy of a data set: what a doctor's checks found and can be mended without a person.

Reading has mended rows already. Here go: copies across splits (out of train), boxes that lie on
one another, boxes of the wrong unit, images that show nothing, images listed twice, class names
that are spelt in two ways, classes without a box.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from dabdetr.data.dataset import DetectionDataset
from dabdetr.data.doctor import Problem, plain_name, same_boxes
from dabdetr.data.records import RecordTable

LEAKS = ("similar-splits", "name-splits", "time-splits", "sequence-splits")
"""Checks whose images leave train."""
CUT = 1e-3
"""Pixels by which a box was cut or moved that is written as it is used."""


def mended(
    data: Sequence[DetectionDataset], problems: Sequence[Problem]
) -> tuple[list[RecordTable], list[str]]:
    """The splits without what can be mended, and a log: a line for each thing done.

    Splits in which nothing would be left stay as they are.
    """
    log: list[str] = []
    for problem in problems:
        if problem.kind.action in ("skipped", "mended"):
            done = f"{problem.kind.what}: {problem.count:,}, {problem.kind.done} while reading"
            log += [f"{problem.split}: {done}", *(f"  {each}" for each in problem.kept)]
    tables: list[RecordTable] = []
    for each in data:
        if not isinstance(each, RecordTable):
            raise ValueError(f"{each.name} is drawn, not read from files; there is nothing to mend")
        tables.append(each.selected(np.ones(len(each), bool), np.ones(len(each.labels), bool)))
    _merge_names(tables, log)  # first: it makes two boxes of two spellings duplicates
    return [_mended_split(each, n, problems, log) for n, each in enumerate(tables)], log


def _mended_split(
    table: RecordTable, number: int, problems: Sequence[Problem], log: list[str]
) -> RecordTable:
    images = np.ones(len(table), bool)
    for name in (*LEAKS, "image-plain"):
        rows = (row for problem in problems if problem.kind.name == name for row in problem.rows)
        leaving = {index for split, index, _ in rows if split == number}
        if name in LEAKS and table.split != "train":
            leaving = set()
        if images.sum() - len(leaving) < 1:
            continue
        for index in sorted(leaving):
            log.append(f"{table.split}: {table.files[index]} left out ({name})")
            images[index] = False
    merged = _merged(table, images, log)
    boxes = np.ones(len(merged.labels), bool)
    for index in range(len(merged)):
        record, start = merged.record(index), int(merged.starts[index])
        gone: dict[int, str] = {}
        for one, other in same_boxes(record):
            if record.labels[one] == record.labels[other] and one not in gone:
                gone[other] = "box-duplicate"
        small = (record.boxes <= 1).all(1) & (min(record.width, record.height) > 16)
        gone |= dict.fromkeys(np.flatnonzero(small).tolist(), "box-first-pixel")
        for row, name in sorted(gone.items()):
            box = ", ".join(f"{value:g}" for value in record.boxes[row])
            log.append(f"{table.split}: {record.file}: box [{box}] left out ({name})")
            boxes[start + row] = False
    result = merged.selected(images, boxes)
    own = result.boxes.astype(np.float64)
    own[:, 2:] -= own[:, :2]
    cut = np.abs(own - result.annotated).max(1, initial=0) > CUT
    result.annotated = np.where(cut[:, None], own, result.annotated)
    return result


def _merged(table: RecordTable, images: np.ndarray, log: list[str]) -> RecordTable:
    """With the boxes of images that are listed twice at the first of them."""
    first: dict[str, int] = {}
    place = np.arange(len(table))
    for index, file in enumerate(table.files):
        place[index] = first.setdefault(file, index)
        if place[index] != index:
            log.append(f"{table.split}: {file} is listed twice; its boxes are together now")
            images[index] = False
    return table if (place == np.arange(len(table))).all() else table.moved(place)


def _merge_names(tables: list[RecordTable], log: list[str]) -> None:
    """One spelling for each class, the commonest; without classes that no split has a box of."""
    names = tables[0].names
    counts = np.zeros(len(names), np.int64)
    for table in tables:
        counts += np.bincount(table.labels, minlength=len(names))
    groups: dict[str, list[int]] = {}
    for label, name in enumerate(names):
        groups.setdefault(plain_name(name) or name, []).append(label)
    chosen = {max(labels, key=lambda label: counts[label]): labels for labels in groups.values()}
    kept = sorted(best for best, labels in chosen.items() if counts[labels].sum())
    for best, labels in chosen.items():
        log += [f"class {names[n]!r} is {names[best]!r} now" for n in labels if n != best]
        if best not in kept:
            log.append(f"class {names[best]!r} left out, as it has no box")
    if not kept or len(kept) == len(names):
        return
    target = {label: kept.index(best) for best in kept for label in chosen[best]}
    for table in tables:
        table.labels = np.array([target[label] for label in table.labels.tolist()], np.int64)
        table.known = [
            None if known is None else tuple(sorted({target[n] for n in known if n in target}))
            for known in table.known
        ]
        table.category_ids = tuple(table.category_ids[best] for best in kept)
        table.names = tuple(names[best] for best in kept)
