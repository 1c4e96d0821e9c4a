"""Detections from a saved results file: back to numbers without a model, and without torch."""

from __future__ import annotations

import math
from collections import defaultdict
from pathlib import Path
from typing import Any

import numpy as np

from dabdetr.data.dataset import DetectionDataset
from dabdetr.data.textfiles import read_bytes
from dabdetr.structures import Detections
from dabdetr.text import counted, parse_json, shown

Rows = dict[int, list[tuple[int, float, list[float]]]]
"""Index of an image → label, score and corners of each detection."""


def read_results(path: str | Path, data: DetectionDataset) -> tuple[list[Detections], list[str]]:
    """Detections for every image of ``data``, and notes of what was left out.

    ``path`` is a COCO results file (a list of image_id, category_id, bbox, score) in the data's own
    ids, or what ``dabdetr predict`` wrote with ``--coco`` or printed with ``--json``: its images
    and classes are known by their names, as its ids are not the data's.
    ValueError where it is neither, or no row belongs to an image of the data.
    """
    tree = parse_json(read_bytes(path), str(path))
    if isinstance(tree, dict) and isinstance(tree.get("images"), list):
        rows, notes = _printed(tree["images"], path, data)
    elif isinstance(tree, list):
        rows, notes = _coco_rows(tree, path, data)
    else:
        raise ValueError(
            f"{path} holds no detections: a list of image_id, category_id, bbox and score is "
            "expected (COCO's results), or what predict --json prints"
        )
    return [_detections(data, index, rows[index]) for index in range(len(data))], notes


def _coco_rows(tree: list[Any], path: str | Path, data: DetectionDataset) -> tuple[Rows, list[str]]:
    places = {data.record(index).image_id: index for index in range(len(data))}
    labels = {id_: label for label, id_ in enumerate(data.category_ids)}
    names, named = _Names(data), {name: label for label, name in enumerate(data.names)}
    rows: Rows = defaultdict(list)
    other: dict[str, int] = defaultdict(int)
    for number, row in enumerate(tree, 1):
        origin = f"{path}: result {number}"
        if not isinstance(row, dict):
            raise ValueError(f"{origin} is no object but {shown(row)}")
        box, score = _four(row.get("bbox"), origin), _score(row.get("score"), origin)
        x, y, width, height = box
        if isinstance(file := row.get("file_name"), str):
            index = names.find(file)
        else:
            index = places.get(row.get("image_id"))  # pyright: ignore[reportArgumentType]
        if isinstance(name := row.get("category_name"), str):
            label = named.get(name)
        else:
            label = labels.get(row.get("category_id"))  # pyright: ignore[reportArgumentType]
        if index is None:
            other["of images that the data do not have"] += 1
        elif label is None:
            other["of classes that the data do not have"] += 1
        else:
            rows[index].append((label, score, [x, y, x + width, y + height]))
    return _settled(rows, other, len(tree), path, data)


class _Names:
    """Images of a data set by their names."""

    def __init__(self, data: DetectionDataset) -> None:
        files = [data.record(index).file for index in range(len(data))]
        self.exact = {str(Path(file).resolve()): index for index, file in enumerate(files)}
        self.places: dict[str, int | None] = {}
        for index, file in enumerate(files):
            name = Path(file).name
            self.places[name] = None if name in self.places else index

    def find(self, source: str) -> int | None:
        """By the whole path, or by the file's own name where one image has it."""
        index = self.exact.get(str(Path(source).resolve()))
        return self.places.get(Path(source.replace("\\", "/")).name) if index is None else index


def _printed(tree: list[Any], path: str | Path, data: DetectionDataset) -> tuple[Rows, list[str]]:
    names = _Names(data)
    labels = {name: label for label, name in enumerate(data.names)}
    rows: Rows = defaultdict(list)
    other: dict[str, int] = defaultdict(int)
    total = 0
    for image in tree:
        found = image.get("detections") if isinstance(image, dict) else None
        source = image.get("source") if isinstance(image, dict) else None
        if not isinstance(found, list) or not isinstance(source, str):
            raise ValueError(f"{path}: each image should have source and detections")
        index = names.find(source)
        for row in found:
            total += 1
            origin = f"{path}: a detection of {shown(source)}"
            if not isinstance(row, dict):
                raise ValueError(f"{origin} is no object")
            box, score = _four(row.get("box"), origin), _score(row.get("score"), origin)
            label = labels.get(row.get("name"))  # pyright: ignore[reportArgumentType]
            if index is None:
                other["of images that the data do not have"] += 1
            elif label is None:
                other["of classes that the data do not have"] += 1
            else:
                rows[index].append((label, score, box))
    return _settled(rows, other, total, path, data)


def _settled(
    rows: Rows, other: dict[str, int], total: int, path: str | Path, data: DetectionDataset
) -> tuple[Rows, list[str]]:
    if total and not rows:
        why = next(iter(other))
        raise ValueError(
            f"none of the {total} detections in {path} belongs to {data.name} {data.split}: all "
            f"are {why}; give the data and the split that they were made for"
        )
    return rows, [f"left out: {counted(count, 'detection')} {why}" for why, count in other.items()]


def _four(box: Any, origin: str) -> list[float]:
    numbers = box if isinstance(box, list) else []
    fine = len(numbers) == 4 and all(map(is_number, numbers))
    if not fine:
        raise ValueError(f"{origin} should have a box of four numbers; it has {shown(box)}")
    return [float(value) for value in numbers]


def _score(value: Any, origin: str) -> float:
    if not is_number(value):
        raise ValueError(f"{origin} should have a score; it has {shown(value)}")
    return float(value)


def is_number(value: Any) -> bool:
    """Whether a value of a JSON document is a number that pixels and scores can be."""
    plain = isinstance(value, int | float) and not isinstance(value, bool)
    return plain and abs(value) < 1e12 and math.isfinite(value)


def _detections(
    data: DetectionDataset, index: int, rows: list[tuple[int, float, list[float]]]
) -> Detections:
    rows = sorted(rows, key=lambda row: -row[1])
    record = data.record(index)
    return Detections(
        boxes=np.array([box for _, _, box in rows], np.float32).reshape(-1, 4),
        scores=np.array([score for _, score, _ in rows], np.float32),
        labels=np.array([label for label, _, _ in rows], np.int64),
        queries=np.arange(len(rows)),
        names=tuple(data.names),
        size=(record.height, record.width),
        source=record.file,
    )
