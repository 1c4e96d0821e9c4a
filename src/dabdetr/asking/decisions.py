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
    """The splits with the accepted decisions applied; ValueError for one that does not fit them."""
    changed: list[DetectionDataset] = []
    accepted = [each for each in decisions if each.get("accept") is True]
    known = {each.split for each in splits}
    for each in accepted:
        if each.get("split") not in known:
            raise ValueError(
                f"a decision is about the split {each.get('split')!r}; the data has "
                f"{', '.join(sorted(known))}: give the data that was audited"
            )
    for data in splits:
        edits: dict[int, list[Edit]] = {}
        for each in accepted:
            if each["split"] == data.split:
                index, edit = _edit(data, each)
                edits.setdefault(index, []).append(edit)
        changed.append(Changed(data, edits))
    return changed


def _edit(data: DetectionDataset, decision: Mapping[str, Any]) -> tuple[int, Edit]:
    """The image's index and the edit of a decision."""
    try:
        index, row, mend = decision["image"], decision["row"], decision["mend"]
        if not 0 <= index < len(data):
            raise ValueError(
                f"a decision is about image {index} of {data.split}, which has "
                f"{counted(len(data), 'image')}: give the data that was audited"
            )
        record = data.record(index)
        if row is not None:
            _check(record, row, decision["box"])
        name = decision["answer_name"]
        label = data.names.index(name) if mend in ("class", "add") else None
        answer = [float(value) for value in decision["answer"]]
        edits: dict[str, Callable[[], Edit]] = {
            "box": lambda: Edit(row, answer),
            "class": lambda: Edit(row, record.boxes[row].tolist(), label),
            "remove": lambda: Edit(row, None),
            "add": lambda: Edit(None, answer, label),
        }
        return index, edits[mend]()
    except (KeyError, TypeError, IndexError) as error:
        raise ValueError(
            f"a decision does not have the form that audit writes ({type(error).__name__}: "
            f"{error}); it needs split, image, row, box, answer, answer_name and mend"
        ) from None


def _check(record: ImageRecord, row: int, box: Sequence[float]) -> None:
    """ValueError if the box has changed since the audit."""
    if not np.allclose(record.boxes[row], box, atol=0.01):
        raise ValueError(
            f"box {row} of {record.file} is {rounded(record.boxes[row])}, and was {list(box)} at "
            "the audit: the data set has changed; audit it again"
        )
