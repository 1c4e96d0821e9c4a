"""Detections from a saved results file, to be evaluated without a model and without torch."""

from __future__ import annotations

import math
from collections import Counter, defaultdict
from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from dabdetr.data.box_formats import changed_kind, tell_format, to_pixels
from dabdetr.data.dataset import DetectionDataset
from dabdetr.data.findings import KINDS
from dabdetr.data.ids import key, whole
from dabdetr.data.textfiles import read_bytes
from dabdetr.structures import Detections
from dabdetr.structures.boxes import iou
from dabdetr.text import counted, parse_json

LISTS = ("annotations", "predictions", "detections", "results")
"""Keys of the list of detections in the files of other tools that write an object."""


@dataclass(frozen=True)
class Claim:
    """A detection as in the file: its image and class by id, and by name if the file has names."""

    image: Any
    file: str | None
    category: Any
    name: str | None
    box: list[float]
    score: float


def read_results(path: str | Path, data: DetectionDataset) -> tuple[list[Detections], list[str]]:
    """Detections for every image of ``data``, and notes of what was left out or converted.

    ``path`` is a COCO results file (a list of image_id, category_id, bbox, score) with the data
    set's ids, or a file that ``dabdetr predict`` wrote with ``--coco`` or printed with ``--json``,
    whose images and classes are matched by name. Image ids may also be file names, or the numbers
    in them. ValueError if the file is neither, or no row belongs to an image of the data set.
    """
    tree = parse_json(read_bytes(path), str(path))
    printed = isinstance(tree, dict) and any(map(_is_printed, _list(tree.get("images"))))
    odd: Counter[str] = Counter()
    claims = _printed(tree["images"], odd) if printed else _coco(tree, path, odd)
    notes = [f"left out: {counted(count, 'row')} {why}" for why, count in odd.items()]
    if odd and not claims:
        raise ValueError(f"{path} has no row that is a detection: all are rows {next(iter(odd))}")
    image, note = _images(claims, data)
    notes += note
    label, note = _labels(claims, data)
    notes += note
    keep = np.flatnonzero((image >= 0) & (label >= 0))
    lost = {"images": int((image < 0).sum()), "classes": int(((image >= 0) & (label < 0)).sum())}
    if claims and not len(keep):
        kind = "images" if lost["images"] else "classes"
        raise ValueError(
            f"{path} does not belong to {data.name} {data.split}: it has "
            f"{counted(len(claims), 'detection')}, of {kind} that the data set lacks; give the "
            "data and the split that it was made for"
        )
    notes += [
        f"left out: {counted(count, 'detection')} of {kind} that the data set lacks"
        for kind, count in lost.items()
        if count
    ]
    kept = [claims[row] for row in keep.tolist()]
    corners, note = _corners(kept, image[keep], data, printed)
    rows: dict[int, list[tuple[float, int, np.ndarray]]] = defaultdict(list)
    for claim, index, number, box in zip(kept, image[keep], label[keep], corners, strict=True):
        rows[int(index)].append((claim.score, int(number), box))
    if claims and (empty := len(data) - len(rows)):
        note.append(f"{empty} of {counted(len(data), 'image')} have no detection")
    return [_detections(data, index, rows[index]) for index in range(len(data))], notes + note


def _list(value: Any) -> list[Any]:
    return value if isinstance(value, list) else []


def _is_printed(image: Any) -> bool:
    return isinstance(image, dict) and isinstance(image.get("detections"), list)


def _printed(images: list[Any], odd: Counter[str]) -> list[Claim]:
    """Detections as printed by ``predict --json``, with corner boxes; ``odd`` counts bad rows."""
    claims: list[Claim] = []
    for image in images:
        if not _is_printed(image) or not isinstance(source := image.get("source"), str):
            odd["of images without source and detections"] += 1
            continue
        for row in image["detections"]:
            values = row if isinstance(row, dict) else {}
            _add(claims, odd, values, values.get("box"), file=source, name=values.get("name"))
    return claims


def _coco(tree: Any, path: str | Path, odd: Counter[str]) -> list[Claim]:
    """COCO's results; in an object, its images and categories give file and class names."""
    files: dict[Any, Any] = {}
    names: dict[Any, Any] = {}
    if isinstance(tree, dict):
        for table, lists, value in ((files, "images", "file_name"), (names, "categories", "name")):
            for row in _list(tree.get(lists)):
                if isinstance(row, dict) and (id_ := key(row.get("id"))) is not None:
                    table[id_] = row.get(value)
        tree = next((tree[name] for name in LISTS if isinstance(tree.get(name), list)), None)
    if not isinstance(tree, list):
        raise ValueError(
            f"{path} holds no detections: a list of image_id, category_id, bbox and score is "
            "expected (COCO's results), or what predict --json prints"
        )
    claims: list[Claim] = []
    for row in tree:
        values = row if isinstance(row, dict) else {}
        file = values.get("file_name", files.get(key(values.get("image_id"))))
        name = values.get("category_name", names.get(key(values.get("category_id"))))
        _add(claims, odd, values, values.get("bbox"), file=file, name=name)
    return claims


def _add(
    claims: list[Claim], odd: Counter[str], row: Mapping[str, Any], box: Any, file: Any, name: Any
) -> None:
    """Append the row's claim, or count in ``odd`` why it has none."""
    numbers = [_number(value) for value in box] if isinstance(box, list) else []
    score = _number(row.get("score"))
    if not row:
        odd["(no JSON objects)"] += 1
    elif len(numbers) != 4 or None in numbers:
        odd["without a box of four numbers"] += 1
    elif score is None:
        odd["without a score"] += 1
    else:
        image, category = row.get("image_id"), row.get("category_id")
        file, name = (each if isinstance(each, str) else None for each in (file, name))
        claims.append(Claim(image, file, category, name, numbers, score))  # pyright: ignore


def _number(value: Any) -> float | None:
    """A number, or the number in a text; None for any other value."""
    if isinstance(value, str):
        try:
            value = float(value)
        except ValueError:
            return None
    return float(value) if is_number(value) else None


def is_number(value: Any) -> bool:
    """Whether a JSON value is a finite number small enough for pixels and scores."""
    plain = isinstance(value, int | float) and not isinstance(value, bool)
    return plain and abs(value) < 1e12 and math.isfinite(value)


def _images(claims: Sequence[Claim], data: DetectionDataset) -> tuple[np.ndarray, list[str]]:
    """[n] the index of the image of each claim, −1 for none; and a note on how ids were read.

    File names take precedence. Ids are read as the data set's, as the numbers in file names, or as
    file names, whichever matches most claims.
    """
    records = [data.record(index) for index in range(len(data))]
    files = [record.file for record in records]
    exact = {str(Path(file).resolve()): index for index, file in enumerate(files)}
    base = _unique([Path(file).name for file in files])
    found = np.full(len(claims), -1, np.int64)
    rest: list[int] = []
    for row, claim in enumerate(claims):
        if claim.file is None:
            rest.append(row)
        elif (index := exact.get(str(Path(claim.file).resolve()))) is not None:
            found[row] = index
        else:
            found[row] = base.get(Path(claim.file.replace("\\", "/")).name, -1)
    stems = [Path(file).stem for file in files]
    numbers = [whole(stem) if stem.isdecimal() else None for stem in stems]
    readings: list[tuple[str, dict[Any, int]]] = [
        ("", {record.image_id: index for index, record in enumerate(records)}),
        ("the numbers that files are named after", _unique(numbers)),
        ("names of files", _unique(stems) | base),
    ]
    best, note = np.full(len(rest), -1, np.int64), ""
    for reading, table in readings:
        by_text = reading.startswith("names")
        ids = (claims[row].image if by_text else key(claims[row].image) for row in rest)
        index = np.array(
            [table.get(id_, -1) if isinstance(id_, int | str) else -1 for id_ in ids], np.int64
        )
        if (index >= 0).sum() > (best >= 0).sum():
            best, note = index, reading
    found[rest] = best
    return found, [f"image ids are read as {note}"] if note else []


def _unique(keys: Sequence[Hashable]) -> dict[Any, int]:
    """Key → place, for keys that occur once."""
    times = Counter(keys)
    return {each: place for place, each in enumerate(keys) if times[each] == 1 and each is not None}


def _labels(claims: Sequence[Claim], data: DetectionDataset) -> tuple[np.ndarray, list[str]]:
    """[n] the label of each claim, −1 for none; and a note on how ids were read.

    Class names take precedence. Ids are the data set's; if some are not, and all are places in the
    list of classes, counted from 0 or 1, they are read as such.
    """
    named = {name: label for label, name in enumerate(data.names)}
    ids = [whole(claim.category) if claim.name is None else None for claim in claims]
    used = {*ids} - {None}
    table: dict[Any, int] = {id_: label for label, id_ in enumerate(data.category_ids)}
    note: list[str] = []
    for first in (0, 1):
        places = {label + first: label for label in range(len(data.names))}
        if used - table.keys() and used <= places.keys():
            note = [f"class ids are read as places in the list of classes, counted from {first}"]
            table = places
    found = [
        table.get(id_, -1) if claim.name is None else named.get(claim.name, -1)
        for id_, claim in zip(ids, claims, strict=True)
    ]
    return np.array(found, np.int64), note


def _corners(
    claims: Sequence[Claim], image: np.ndarray, data: DetectionDataset, printed: bool
) -> tuple[np.ndarray, list[str]]:
    """[n, 4] corners in pixels, whatever the file's box format; and a note on a conversion.

    A format other than xywh is assumed if it puts far more of the boxes on objects.
    """
    numbers = np.array([claim.box for claim in claims], np.float64).reshape(-1, 4)
    if printed:
        return numbers, []
    sizes = np.array([data.shape(index)[::-1] for index in range(len(data))], np.float64)
    frames = sizes.reshape(-1, 2)[image]
    unit = tell_format(numbers, frames, "xywh").partition("-")[2]
    suffix = f"-{unit}" if unit else ""
    best, format = 0.0, f"xywh{suffix}"
    best_of_image = _best(claims, image, data)
    for order in ("xywh", "xyxy", "cxcywh"):
        boxes = _edges(numbers, frames, f"{order}{suffix}")
        share = _agreement(boxes[best_of_image], image[best_of_image], data)
        if share > (best if order == "xywh" else 2 * best + 0.1):
            best, format = share, f"{order}{suffix}"
    boxes = _edges(numbers, frames, format)
    if format == "xywh":
        return boxes, []
    kind = KINDS[changed_kind("xywh", format)]  # pyright: ignore[reportArgumentType]
    return boxes, [f"{kind.what}: {len(boxes):,}, {kind.done}"]


def _edges(numbers: np.ndarray, frames: np.ndarray, format: str) -> np.ndarray:
    """[n, 4] corners in pixels of boxes in ``format``."""
    boxes = to_pixels(numbers, frames, format)  # pyright: ignore[reportArgumentType]
    boxes[:, 2:] += boxes[:, :2]
    return boxes


def _best(claims: Sequence[Claim], image: np.ndarray, data: DetectionDataset) -> np.ndarray:
    """Rows of the best detections: as many of each image as it has objects."""
    order = np.lexsort((-np.array([claim.score for claim in claims]), image))
    starts = np.searchsorted(image[order], np.arange(len(data)))
    objects = np.array([len(data.record(index).labels) for index in range(len(data))])
    rank = np.arange(len(order)) - starts[image[order]]
    return order[rank < objects[image[order]]]


def _agreement(boxes: np.ndarray, image: np.ndarray, data: DetectionDataset) -> float:
    """Share of boxes that overlap an object of their image with IoU 0.5 or more."""
    order = np.argsort(image, kind="stable")
    hits = 0
    for rows in np.split(order, np.flatnonzero(np.diff(image[order])) + 1) if len(order) else []:
        objects = data.record(int(image[rows[0]])).boxes.astype(np.float64)
        hits += int((iou(boxes[rows, None], objects[None]).max(1) >= 0.5).sum())
    return hits / max(len(boxes), 1)


def _detections(
    data: DetectionDataset, index: int, rows: list[tuple[float, int, np.ndarray]]
) -> Detections:
    rows = sorted(rows, key=lambda row: -row[0])
    record = data.record(index)
    return Detections(
        boxes=np.array([box for _, _, box in rows], np.float32).reshape(-1, 4),
        scores=np.array([score for score, _, _ in rows], np.float32),
        labels=np.array([label for _, label, _ in rows], np.int64),
        queries=np.arange(len(rows)),
        names=tuple(data.names),
        size=(record.height, record.width),
        source=record.file,
    )
