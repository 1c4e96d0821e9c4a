"""A mended copy of a data set: repairs the doctor's findings that need no person to decide.

The readers have already mended single rows. This module removes copies of an image in other splits
(from train), duplicate boxes, boxes in the wrong unit, images without contrast, repeated listings
of an image, second spellings of a class name, and classes without a box.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from dabdetr.data.dataset import DetectionDataset
from dabdetr.data.doctor import Problem, plain_name, same_boxes
from dabdetr.data.findings import KINDS
from dabdetr.data.records import RecordTable

LEAKS = ("similar-splits", "name-splits", "time-splits", "sequence-splits")
"""Checks whose images are removed from train."""
REPAIRED = ("box-first-pixel", "image-twice", "split-shared")
"""What the readers keep as it is, and this module mends."""
CUT = 1e-3
"""Pixels that the used box must differ from the annotated one to be written in its place."""


def mended(
    data: Sequence[DetectionDataset], problems: Sequence[Problem]
) -> tuple[list[RecordTable], list[str]]:
    """Mended copies of the splits, and a log with one line for each change.

    No images are removed from a split that would be empty without them. Raises ValueError for
    generated data, which has no files to mend.
    """
    log: list[str] = []
    for problem in problems:
        if problem.kind.action in ("skipped", "mended"):
            done = f"{problem.kind.what}: {problem.count:,}, {problem.kind.done} while reading"
            log += [f"{problem.split}: {done}", *(f"  {each}" for each in problem.kept)]
        elif unrepaired(problem):
            said = f"{problem.kind.what}: {problem.count:,}, {problem.kind.done}"
            log.append(f"{problem.split}: not repaired: {said}")
    tables: list[RecordTable] = []
    for each in data:
        if not isinstance(each, RecordTable):
            raise ValueError(f"{each.name} is drawn, not read from files; there is nothing to mend")
        tables.append(each.selected(np.ones(len(each), bool), np.ones(len(each.labels), bool)))
    _merge_names(tables, log)  # first: boxes of two spellings of a class can become duplicates
    return [_mended_split(each, n, problems, log) for n, each in enumerate(tables)], log


def unrepaired(problem: Problem) -> bool:
    """Whether a reader's finding cannot be seen in the mended copy, although it remains in it."""
    name = problem.kind.name
    return problem.kind.action == "kept" and name in KINDS and name not in REPAIRED


def _mended_split(
    table: RecordTable, number: int, problems: Sequence[Problem], log: list[str]
) -> RecordTable:
    images = np.ones(len(table), bool)
    for name in (*LEAKS, "image-plain"):
        rows = (row for problem in problems if problem.kind.name == name for row in problem.rows)
        removed_images = {index for split, index, _ in rows if split == number}
        if name in LEAKS and table.split != "train":
            removed_images = set()
        if images.sum() - len(removed_images) < 1:
            continue
        for index in sorted(removed_images):
            log.append(f"{table.split}: {table.files[index]} left out ({name})")
            images[index] = False
    merged = _merge_repeated_images(table, images, log)
    boxes = np.ones(len(merged.labels), bool)
    for index in range(len(merged)):
        record, start = merged.record(index), int(merged.starts[index])
        removed_boxes: dict[int, str] = {}
        for one, other in same_boxes(record):
            if record.labels[one] == record.labels[other] and one not in removed_boxes:
                removed_boxes[other] = "box-duplicate"
        small = (record.boxes <= 1).all(1) & (min(record.width, record.height) > 16)
        removed_boxes |= dict.fromkeys(np.flatnonzero(small).tolist(), "box-first-pixel")
        for row, name in sorted(removed_boxes.items()):
            box = ", ".join(f"{value:g}" for value in record.boxes[row])
            log.append(f"{table.split}: {record.file}: box [{box}] left out ({name})")
            boxes[start + row] = False
    result = merged.selected(images, boxes)
    xywh = result.boxes.astype(np.float64)
    xywh[:, 2:] -= xywh[:, :2]
    cut = np.abs(xywh - result.annotated).max(1, initial=0) > CUT
    result.annotated = np.where(cut[:, None], xywh, result.annotated)
    return result


def _merge_repeated_images(table: RecordTable, images: np.ndarray, log: list[str]) -> RecordTable:
    """The table with all boxes of a repeatedly listed file at its first row.

    The other rows of the file are set to False in ``images`` [n].
    """
    first: dict[str, int] = {}
    target = np.arange(len(table))
    for index, file in enumerate(table.files):
        target[index] = first.setdefault(file, index)
        if target[index] != index:
            log.append(f"{table.split}: {file} is listed twice; its boxes are together now")
            images[index] = False
    return table.moved(target)


def _merge_names(tables: list[RecordTable], log: list[str]) -> None:
    """Keep the commonest spelling of each class, and drop classes without a box in any split."""
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
