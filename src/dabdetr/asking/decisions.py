"""Decisions on suspicions: read from decisions.json, and applied to a copy of the data."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from dabdetr.asking.changed import Changed, Edit
from dabdetr.data.dataset import DetectionDataset, ImageRecord
from dabdetr.evaluation.saved import is_number
from dabdetr.evaluation.suspicions import REPAIRS, rounded
from dabdetr.files import read_regular
from dabdetr.text import counted, parse_json, shown


def read_decisions(path: str | Path) -> list[dict[str, Any]]:
    """The rows of a decisions.json; ValueError if it does not have the form that audit writes."""
    tree = parse_json(read_regular(path), str(path))
    if not isinstance(tree, list) or not tree:
        raise ValueError(
            f"{path} should be a list of decisions, the decisions.json that audit writes; it holds "
            f"{shown(tree)}"
        )
    for number, row in enumerate(tree, 1):
        wrong = _wrong(row)
        if wrong is not None:
            raise ValueError(
                f"{path} is not a decisions.json of audit: {wrong} of row {number} does not have "
                "the form that audit writes"
            )
    return tree


def _wrong(row: Any) -> str | None:
    """The name of the first entry that is missing or invalid; None if there is none."""
    if not isinstance(row, dict):
        return "all"
    return next((name for name, fits in _ENTRIES.items() if not fits(row.get(name, row))), None)


def _is_box(value: Any) -> bool:
    return isinstance(value, list) and len(value) == 4 and all(map(is_number, value))


def _is_count(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value >= 0


def _is_text(value: Any) -> bool:
    return isinstance(value, str)


_ENTRIES: dict[str, Callable[[Any], bool]] = {
    "accept": lambda value: isinstance(value, bool),
    "kind": _is_text,
    "suspicion": is_number,
    "split": _is_text,
    "file": _is_text,
    "image": _is_count,
    "row": lambda value: value is None or _is_count(value),
    "box": lambda value: value is None or _is_box(value),
    "name": lambda value: value is None or _is_text(value),
    "answer": _is_box,
    "answer_name": _is_text,
    "score": is_number,
    "mend": lambda value: value in REPAIRS.values(),
}
"""Entry of a row → whether a value is valid for it."""


def mended(
    splits: Sequence[DetectionDataset], decisions: Sequence[Mapping[str, Any]]
) -> list[DetectionDataset]:
    """The splits with the accepted ``decisions``, rows of ``read_decisions``.

    ValueError for one that does not fit them.
    """
    edits: dict[str, dict[int, list[Edit]]] = {each.split: {} for each in splits}
    by_name = {each.split: each for each in splits}
    for each in decisions:
        if not each["accept"]:
            continue
        if each["split"] not in by_name:
            raise ValueError(
                f"a decision is about the split {each['split']!r}; the data has "
                f"{', '.join(sorted(by_name))}: give the data that was audited"
            )
        edit = _edit(by_name[each["split"]], each)
        edits[each["split"]].setdefault(each["image"], []).append(edit)
    return [Changed(each, edits[each.split]) for each in splits]


def _edit(data: DetectionDataset, decision: Mapping[str, Any]) -> Edit:
    """The edit of a decision; ValueError if the data have changed since the audit."""
    index, row, mend = decision["image"], decision["row"], decision["mend"]
    if index >= len(data):
        raise ValueError(
            f"a decision is about image {index} of {data.split}, which has "
            f"{counted(len(data), 'image')}: give the data that was audited"
        )
    record, name = data.record(index), decision["answer_name"]
    if Path(decision["file"]).name != Path(record.file).name:
        raise ValueError(
            f"image {index} of {data.split} is {record.file}, and was {decision['file']} at the "
            "audit: the data set has changed; audit it again"
        )
    if mend in ("class", "add") and name not in data.names:
        raise ValueError(
            f"a decision gives the class {shown(name)}, which the data do not have; set its accept "
            "to false"
        )
    if mend in ("box", "add"):
        _check_answer(decision["answer"], record)
    if mend == "add":
        return Edit(None, decision["answer"], data.names.index(name))
    if row is None or row >= len(record.boxes):
        raise ValueError(
            f"a decision is about box {row} of {record.file}, which has "
            f"{counted(len(record.boxes), 'box', 'boxes')}: give the data that was audited"
        )
    if decision["box"] is None or not np.allclose(record.boxes[row], decision["box"], atol=0.01):
        raise ValueError(
            f"box {row} of {record.file} is {list(rounded(record.boxes[row]))}, and was "
            f"{decision['box']} at the audit: the data set has changed; audit it again"
        )
    if mend == "class":
        return Edit(row, record.boxes[row].tolist(), data.names.index(name))
    return Edit(row, None if mend == "remove" else decision["answer"])


def _check_answer(box: Sequence[float], record: ImageRecord) -> None:
    """ValueError unless the box, perhaps edited by hand, has an area in its image."""
    x0, y0, x1, y1 = box
    if max(x0, 0) >= min(x1, record.width) or max(y0, 0) >= min(y1, record.height):
        raise ValueError(
            f"a decision about {record.file} has the answer {list(box)}; it should be x0 y0 x1 y1 "
            f"with x0 < x1 and y0 < y1, in an image of {record.width}×{record.height} pixels"
        )
