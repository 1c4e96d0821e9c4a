"""Annotated pictures on disk as records: boxes in pixels, labels 0 … n−1, class names.

The names are the identity of the classes; the ids of the file stay here (``category_ids``).
"""

from __future__ import annotations

import json
import os
import re
from abc import ABC, abstractmethod
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from dabdetr.data.pictures import picture_size, read_picture

_YEAR = re.compile(r"20\d\d$")  # COCO's own splits are called train2017, val2017


@dataclass(frozen=True)
class Record:
    """What is known of one picture without reading it.

    file            path, or another name for messages
    width, height   pixels of the picture as ``DetectionData.picture`` returns it
    boxes           [n, 4] float32, x0 y0 x1 y1 in pixels, inside the picture
    labels          [n] int64, index into the data's ``names``
    crowd           [n] bool: a region of uncounted objects; not for training, ignored in AP
    areas           [n] float64, pixels: the file's own ``area`` where it has one
    annotated       [n, 4] float64, x y width height exactly as the file has them
    """

    image_id: int
    file: str
    width: int
    height: int
    boxes: np.ndarray
    labels: np.ndarray
    crowd: np.ndarray
    areas: np.ndarray
    annotated: np.ndarray


class DetectionData(ABC):
    """A split of annotated pictures.

    ``category_ids[label]`` is the data set's own id of ``names[label]``. Where ``endless`` is true,
    ``record`` and ``picture`` take any index from 0 on, and ``len`` is what one epoch sees.
    """

    name: str
    split: str
    names: tuple[str, ...]
    category_ids: tuple[int, ...]
    endless: bool = False

    @abstractmethod
    def __len__(self) -> int: ...

    @abstractmethod
    def record(self, index: int) -> Record:
        """Objects of picture ``index``, without reading it."""

    @abstractmethod
    def picture(self, index: int) -> np.ndarray:
        """RGB uint8 [height, width, 3] in which the record's boxes lie."""

    def shape(self, index: int) -> tuple[int, int]:
        """(height, width) of picture ``index``, without reading it."""
        record = self.record(index)
        return record.height, record.width


def open_data(
    data: str | Path | None = None,
    split: str = "train",
    annotations: str | Path | None = None,
    images: str | Path | None = None,
) -> DetectionData:
    """The split of a data set: a folder in COCO's layout, or ``"scenes"`` (see ``Scenes``).

    A COCO json and its picture folder can be given apart; ``data`` is then not looked at.
    """
    if annotations is not None or images is not None:
        if annotations is None or images is None:
            raise ValueError(
                "annotations (a COCO json) and images (its picture folder) go together; "
                f"only {'images' if annotations is None else 'annotations'} was given"
            )
        return read_coco(Path(annotations), Path(images), Path(annotations).stem, split)
    if data is None:
        raise ValueError("no data: give a folder in COCO's layout, or 'scenes'")
    if _is_scenes(data):
        from dabdetr.data.scenes import parse_scenes

        return parse_scenes(str(data), split)
    root = _folder(Path(data))
    files = _split_files(root)
    chosen = files.get(split) or files.get(_YEAR.sub("", split))
    if chosen is None:
        found = f"it has: {', '.join(files)}" if files else "it has none"
        raise ValueError(
            f"{root} has no split {split!r} (annotations/instances_{split}.json); {found}"
        )
    return read_coco(chosen, _picture_folder(root, chosen), root.resolve().name, split)


def splits(data: str | Path) -> list[str]:
    """Names of the splits that ``open_data`` finds, ``train`` first."""
    if _is_scenes(data):
        from dabdetr.data.scenes import SPLITS

        return list(SPLITS)
    return list(_split_files(_folder(Path(data))))


def read_coco(
    annotations: Path, images: Path, name: str | None = None, split: str = "train"
) -> CocoData:
    """Read and check a COCO json; the first fault found is a ValueError that names its place."""
    tree = _load(annotations)
    if not images.is_dir():
        raise FileNotFoundError(f"there is no picture folder {images} for {annotations}")
    return CocoData(tree, annotations, images, name or annotations.stem, split)


class CocoData(DetectionData):
    """Pictures annotated in COCO's json; checked whole when made, kept as flat arrays."""

    def __init__(
        self, tree: dict[str, Any], annotations: Path, images: Path, name: str, split: str
    ) -> None:
        self.name, self.split, self.folder = name, split, images
        self.category_ids, self.names = _categories(tree["categories"], annotations)
        self.files, self.image_ids, self.sizes = _images(tree["images"], annotations, images)
        table = _Annotations(tree["annotations"], annotations)
        image, label = self._places(table, annotations)
        boxes = _clip(table, self.sizes[image], annotations)
        order = np.argsort(image, kind="stable")
        self.boxes, self.annotated = boxes[order], table.boxes[order]
        self.labels, self.crowd, self.areas = label[order], table.crowd[order], table.areas[order]
        self.starts = np.searchsorted(image[order], np.arange(len(self.files) + 1))

    def _places(self, table: _Annotations, file: Path) -> tuple[np.ndarray, np.ndarray]:
        """Index of the picture, and label, of each annotation."""
        places = {int(id_): i for i, id_ in enumerate(self.image_ids)}
        labels = {id_: i for i, id_ in enumerate(self.category_ids)}
        for kind, known, asked in (
            ("image", places, table.images),
            ("category", labels, table.categories),
        ):
            for row, id_ in enumerate(asked.tolist()):
                if id_ not in known:
                    raise ValueError(
                        f"{file}: annotation {table.ids[row]} has {kind}_id {id_}, which is not "
                        f"in the list of {'images' if kind == 'image' else 'categories'}; "
                        "correct or remove it"
                    )
        image = np.array([places[i] for i in table.images.tolist()], dtype=np.int64)
        label = np.array([labels[i] for i in table.categories.tolist()], dtype=np.int64)
        return image, label

    def __len__(self) -> int:
        return len(self.files)

    def record(self, index: int) -> Record:
        """Objects of picture ``index``, without reading it."""
        index = range(len(self))[index]
        rows = slice(self.starts[index], self.starts[index + 1])
        width, height = self.sizes[index].tolist()
        return Record(
            image_id=int(self.image_ids[index]),
            file=str(self.folder / self.files[index]),
            width=width,
            height=height,
            boxes=self.boxes[rows],
            labels=self.labels[rows],
            crowd=self.crowd[rows],
            areas=self.areas[rows],
            annotated=self.annotated[rows],
        )

    def shape(self, index: int) -> tuple[int, int]:
        """(height, width) of picture ``index``."""
        width, height = self.sizes[index].tolist()
        return height, width

    def picture(self, index: int) -> np.ndarray:
        """RGB uint8 [height, width, 3]; turned as EXIF says where the json's size says so too."""
        index = range(len(self))[index]
        width, height = self.sizes[index].tolist()
        return read_picture(self.folder / self.files[index], size=(width, height))


class _Annotations:
    """The columns of ``annotations``, each checked for itself."""

    def __init__(self, rows: list[dict[str, Any]], file: Path) -> None:
        if not rows:
            raise ValueError(f"{file} has no annotation at all; there is nothing to learn or score")
        self.ids = _integers(rows, "id", file, "annotation")
        _no_duplicates(self.ids, file, "annotation")
        self.images = _integers(rows, "image_id", file, "annotation")
        self.categories = _integers(rows, "category_id", file, "annotation")
        self.boxes = _boxes(rows, self.ids, file)
        self.crowd = np.array([bool(row.get("iscrowd", 0)) for row in rows])
        sides = self.boxes[:, 2] * self.boxes[:, 3]
        given = [row.get("area") for row in rows]
        usable = [isinstance(a, int | float) and 0 < a < float("inf") for a in given]
        self.areas = np.array(
            [a if ok else s for a, ok, s in zip(given, usable, sides.tolist(), strict=True)]
        )


def _boxes(rows: list[dict[str, Any]], ids: np.ndarray, file: Path) -> np.ndarray:
    """[n, 4] float64, x y width height; each finite and with an extent."""
    given = [row.get("bbox") for row in rows]
    try:
        boxes = np.array(given, dtype=np.float64)
    except (TypeError, ValueError):
        boxes = np.empty(0)
    if boxes.shape != (len(rows), 4):
        row = next(i for i, box in enumerate(given) if not _four_numbers(box))
        raise ValueError(
            f"{file}: annotation {ids[row]} should have a bbox of four numbers, [x, y, width, "
            f"height]; it has {given[row]!r}"
        )
    finite = np.isfinite(boxes).all(1)
    if not finite.all():
        row = int(np.argmin(finite))
        raise ValueError(
            f"{file}: annotation {ids[row]} has a bbox that is not finite, {given[row]}; "
            "correct or remove it"
        )
    corners = (boxes[:, :2] + boxes[:, 2:]).astype(np.float32)
    extended = (corners > boxes[:, :2].astype(np.float32)).all(1) & (boxes[:, 2:] > 0).all(1)
    if not extended.all():
        row = int(np.argmin(extended))
        raise ValueError(
            f"{file}: annotation {ids[row]} has a bbox of width {boxes[row, 2]:g} and height "
            f"{boxes[row, 3]:g}; both must be above zero: correct or remove it"
        )
    return boxes


def _four_numbers(box: Any) -> bool:
    return isinstance(box, list) and len(box) == 4 and all(isinstance(v, int | float) for v in box)


def _clip(table: _Annotations, sizes: np.ndarray, file: Path) -> np.ndarray:
    """Corner boxes [n, 4] float32 cut to their pictures.

    A box beside the picture is an error, unless it is within one pixel of it (coordinates that
    count from 1): that one is moved in.
    """
    low, high = table.boxes[:, :2], table.boxes[:, :2] + table.boxes[:, 2:]
    shift = np.where(low >= sizes, -1.0, np.where(high <= 0, 1.0, 0.0))
    cut_low, cut_high = np.maximum(low + shift, 0), np.minimum(high + shift, sizes)
    boxes = np.concatenate((cut_low, cut_high), 1).astype(np.float32)
    inside = (boxes[:, 2:] > boxes[:, :2]).all(1)
    if not inside.all():
        row = int(np.argmin(inside))
        raise ValueError(
            f"{file}: annotation {table.ids[row]} has the bbox {table.boxes[row].tolist()}, which "
            f"lies outside its picture of {sizes[row, 0]}x{sizes[row, 1]} pixels; "
            "correct or remove it"
        )
    return boxes


def _load(file: Path) -> dict[str, Any]:
    try:
        tree = json.loads(file.read_bytes())
    except FileNotFoundError:
        raise FileNotFoundError(f"there is no annotation file {file}; check the path") from None
    except OSError as error:
        raise ValueError(f"{file} cannot be read: {error.strerror}; check it") from None
    except ValueError as error:
        raise ValueError(f"{file} is not readable JSON ({error}); is it cut short?") from None
    for key in ("images", "annotations", "categories"):
        rows = tree.get(key) if isinstance(tree, dict) else None
        if not isinstance(rows, list) or not all(isinstance(row, dict) for row in rows):
            raise ValueError(
                f"{file} has no list {key!r}; a COCO json has images, annotations and categories"
            )
    return tree


def _categories(rows: list[dict[str, Any]], file: Path) -> tuple[tuple[int, ...], tuple[str, ...]]:
    if not rows:
        raise ValueError(f"{file} lists no categories; give each class an id and a name")
    ids = _integers(rows, "id", file, "category")
    _no_duplicates(ids, file, "category")
    names: dict[int, str] = {}
    for id_, row in sorted(zip(ids.tolist(), rows, strict=True), key=lambda pair: pair[0]):
        name = row.get("name")
        if not isinstance(name, str) or not name.strip():
            raise ValueError(f"{file}: category {id_} has no name; give it one")
        if name in names.values():
            raise ValueError(f"{file}: two categories are called {name!r}; names must differ")
        names[id_] = name
    return tuple(names), tuple(names.values())


def _images(
    rows: list[dict[str, Any]], file: Path, folder: Path
) -> tuple[list[str], np.ndarray, np.ndarray]:
    """File names, ids [n] and sizes [n, 2] (width, height); every file is known to exist."""
    if not rows:
        raise ValueError(f"{file} lists no images; there is nothing to read")
    ids = _integers(rows, "id", file, "image")
    _no_duplicates(ids, file, "image")
    files: list[str] = []
    present: dict[str, set[str]] = {}
    for id_, row in zip(ids.tolist(), rows, strict=True):
        name = row.get("file_name")
        if not isinstance(name, str) or not name:
            raise ValueError(f"{file}: image {id_} has no file_name; give it one")
        parent, leaf = os.path.split(name)
        if parent not in present:
            present[parent] = _listing(folder / parent)
        if leaf not in present[parent]:
            raise FileNotFoundError(
                f"{file}: image {id_} names the picture {folder / name}, which does not exist; "
                "add it, or remove the image and its annotations"
            )
        files.append(name)
    return files, ids, np.array([_size(row, folder, file) for row in rows], dtype=np.int64)


def _listing(folder: Path) -> set[str]:
    try:
        with os.scandir(folder) as entries:
            return {entry.name for entry in entries}
    except OSError:
        return set()


def _size(row: dict[str, Any], folder: Path, file: Path) -> tuple[int, int]:
    width, height = row.get("width"), row.get("height")
    if width is None or height is None:
        return picture_size(folder / row["file_name"])
    if not (isinstance(width, int) and isinstance(height, int) and min(width, height) > 0):
        raise ValueError(
            f"{file}: image {row['id']} should have a width and height in pixels; "
            f"it has {width!r} and {height!r}"
        )
    return width, height


def _integers(rows: list[dict[str, Any]], key: str, file: Path, what: str) -> np.ndarray:
    values = [row.get(key) for row in rows]
    bad = next((i for i, v in enumerate(values) if type(v) is not int), None)
    if bad is not None:
        whose = f"{what} {rows[bad].get('id')}" if key != "id" else f"{what} number {bad + 1}"
        raise ValueError(f"{file}: {whose} should have an integer {key}; it has {values[bad]!r}")
    return np.array(values, dtype=np.int64)


def _no_duplicates(ids: np.ndarray, file: Path, what: str) -> None:
    unique, counts = np.unique(ids, return_counts=True)
    if len(unique) < len(ids):
        twice = unique[np.argmax(counts > 1)]
        raise ValueError(f"{file}: the {what} id {twice} occurs twice; ids must differ")


def _is_scenes(data: str | Path) -> bool:
    return isinstance(data, str) and data.partition(":")[0] == "scenes"


def _folder(root: Path) -> Path:
    if not root.exists():
        raise FileNotFoundError(f"there is no data folder {root}; check the path")
    if not root.is_dir():
        raise ValueError(
            f"{root} is a file; give a folder in COCO's layout, or annotations and images apart"
        )
    return root


def _split_files(root: Path) -> dict[str, Path]:
    """Split → json, in reading order: train, val, test, then others."""
    found = {}
    for file in sorted((root / "annotations").glob("instances_*.json")):
        found[_YEAR.sub("", file.stem.removeprefix("instances_"))] = file
    if not found:
        raise ValueError(
            f"{root} has no annotations/instances_SPLIT.json (COCO's layout); "
            "give such a folder, or annotations and images apart"
        )
    usual = ("train", "val", "test")
    return dict(
        sorted(found.items(), key=lambda item: (item[0] not in usual, *_rank(item[0], usual)))
    )


def _rank(name: str, usual: tuple[str, ...]) -> tuple[int, str]:
    return (usual.index(name) if name in usual else len(usual), name)


def _picture_folder(root: Path, annotations: Path) -> Path:
    full = annotations.stem.removeprefix("instances_")
    short = _YEAR.sub("", full)
    options = [root / full, root / "images" / full, root / short, root / "images" / short]
    options += [root / f"{full}2017", root / "images" / f"{full}2017", root / "images"]
    for option in options:
        if option.is_dir():
            return option
    raise FileNotFoundError(
        f"{root} has no folder {full} (nor images/{full}) with the pictures of {annotations.name}"
    )
