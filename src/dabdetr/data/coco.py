"""COCO's json, checked whole when it is opened: each fault is one sentence that names its place."""

from __future__ import annotations

import json
import logging
import os
import re
from pathlib import Path
from typing import Any

import numpy as np

from dabdetr.data.dataset import DetectionDataset, ImageRecord, Open
from dabdetr.data.images import image_size, read_image

log = logging.getLogger("dabdetr")

YEAR = re.compile(r"20\d\d$")  # COCO's own splits are called train2017, val2017
PACKED = "_annotations.coco.json"


def find_coco(root: Path) -> dict[str, Open]:
    """Split → how it is opened: jsons in annotations/, or one in each folder of images."""
    if not root.is_dir():
        return {}
    return _apart(root) or _packed(root)


def _apart(root: Path) -> dict[str, Open]:
    """``annotations/instances_SPLIT.json`` and folders of images."""
    found: dict[str, Open] = {}
    for file in sorted((root / "annotations").glob("instances_*.json")):

        def read(split: str, file: Path = file) -> DetectionDataset:
            return read_coco(file, _image_folder(root, file), root.resolve().name, split)

        found[YEAR.sub("", file.stem.removeprefix("instances_"))] = read
    return found


def _packed(root: Path) -> dict[str, Open]:
    """A folder for each split, with the images and their json in it."""
    found: dict[str, Open] = {}
    for file in sorted(root.glob(f"*/{PACKED}")):

        def read(split: str, file: Path = file) -> DetectionDataset:
            return read_coco(file, file.parent, root.resolve().name, split)

        found[file.parent.name] = read
    return found


def _image_folder(root: Path, annotations: Path) -> Path:
    full = annotations.stem.removeprefix("instances_")
    short = YEAR.sub("", full)
    options = [root / full, root / "images" / full, root / short, root / "images" / short]
    options += [root / f"{full}2017", root / "images" / f"{full}2017", root / "images"]
    for option in options:
        if option.is_dir():
            return option
    raise FileNotFoundError(
        f"{root} has no folder {full} (nor images/{full}) with the images of {annotations.name}"
    )


def read_coco(
    annotations: Path, images: Path, name: str | None = None, split: str = "train"
) -> CocoData:
    """Read and check a COCO json; the first fault found is a ValueError that names its place."""
    tree = _load(annotations)
    if not images.is_dir():
        raise FileNotFoundError(f"there is no image folder {images} for {annotations}")
    return CocoData(tree, annotations, images, name or annotations.stem, split)


class CocoData(DetectionDataset):
    """Images annotated in COCO's json; checked whole when made, kept as flat arrays."""

    def __init__(
        self, tree: dict[str, Any], annotations: Path, images: Path, name: str, split: str
    ) -> None:
        self.name, self.split, self.folder = name, split, images
        self.category_ids, self.names = _categories(tree["categories"], annotations)
        self.files, self.image_ids, self.sizes = _images(tree["images"], annotations, images)
        table = _Annotations(tree["annotations"], annotations)
        image, label = self._places(table, annotations)
        boxes = self._cut(table, image, annotations)
        order = np.argsort(image, kind="stable")
        self.boxes, self.annotated = boxes[order], table.boxes[order]
        self.labels, self.crowd, self.areas = label[order], table.crowd[order], table.areas[order]
        self.starts = np.searchsorted(image[order], np.arange(len(self.files) + 1))
        self.known = {
            index: self._labelled(index, row)
            for index, row in enumerate(tree["images"])
            if "neg_category_ids" in row or "not_exhaustive_category_ids" in row
        }

    def _labelled(self, index: int, row: dict[str, Any]) -> tuple[int, ...]:
        """Labels of the classes whose objects are all annotated in an image of federated data.

        As in LVIS: those of its objects and of ``neg_category_ids``, but for
        ``not_exhaustive_category_ids``.
        """
        labels = {id_: i for i, id_ in enumerate(self.category_ids)}
        own = set(self.labels[self.starts[index] : self.starts[index + 1]].tolist())
        absent, partly = (
            {labels[id_] for id_ in row.get(key, ()) if id_ in labels}
            for key in ("neg_category_ids", "not_exhaustive_category_ids")
        )
        return tuple(sorted((own | absent) - partly))

    def _places(self, table: _Annotations, file: Path) -> tuple[np.ndarray, np.ndarray]:
        """Index of the image, and label, of each annotation."""
        places = {int(id_): i for i, id_ in enumerate(self.image_ids)}
        labels = {id_: i for i, id_ in enumerate(self.category_ids)}
        for kind, known, asked in (
            ("image", places, table.images),
            ("category", labels, table.categories),
        ):
            for row, id_ in enumerate(asked.tolist()):
                if id_ not in known:
                    more = sum(each not in known for each in asked.tolist()) - 1
                    raise ValueError(
                        f"{file}: annotation {table.ids[row]} has {kind}_id {id_}, which is not "
                        f"in the list of {'images' if kind == 'image' else 'categories'}"
                        f"{_more(more)}; correct or remove it"
                    )
        image = np.array([places[i] for i in table.images.tolist()], dtype=np.int64)
        label = np.array([labels[i] for i in table.categories.tolist()], dtype=np.int64)
        return image, label

    def _cut(self, table: _Annotations, image: np.ndarray, file: Path) -> np.ndarray:
        """Corner boxes [n, 4] float32 cut to their images; it is said where more than a pixel is.

        A box beside the image is an error, unless it is within one pixel of it (coordinates that
        count from 1): that one is moved in.
        """
        sizes = self.sizes[image]
        low, high = table.boxes[:, :2], table.boxes[:, :2] + table.boxes[:, 2:]
        shift = np.where(low >= sizes, -1.0, np.where(high <= 0, 1.0, 0.0))
        cut_low, cut_high = np.maximum(low + shift, 0), np.minimum(high + shift, sizes)
        boxes = np.concatenate((cut_low, cut_high), 1).astype(np.float32)
        inside = (boxes[:, 2:] > boxes[:, :2]).all(1)
        if not inside.all():
            row = int(np.argmin(inside))
            self._check_size(image[row], file)
            width, height = sizes[row]
            raise ValueError(
                f"{file}: annotation {table.ids[row]} has the bbox {table.boxes[row].tolist()}, "
                f"which lies outside its image of {width}x{height} pixels, as the json says"
                f"{_more((~inside).sum() - 1)}; correct or remove it"
            )
        past = (low < -1).any(1) | (high > sizes + 1).any(1)
        if past.any():
            first, count = table.ids[np.argmax(past)], past.sum()
            what = "1 box reaches past its image and was cut to it"
            if count > 1:
                what = f"{count} boxes reach past their images and were cut to them"
            log.warning("%s: %s (first: annotation %d)", file, what, first)
        return boxes

    def _check_size(self, index: int, file: Path) -> None:
        """Raise where the image is not of the size that the json says."""
        path, said = self.folder / self.files[index], tuple(self.sizes[index].tolist())
        own = image_size(path)
        if said not in (own, own[::-1]):
            raise ValueError(
                f"{file}: image {self.image_ids[index]} should be of {said[0]}x{said[1]} pixels, "
                f"but {path} has {own[0]}x{own[1]}; correct the width and height in the json, or "
                "put the right image there"
            )

    def __len__(self) -> int:
        return len(self.files)

    def record(self, index: int) -> ImageRecord:
        """Objects of image ``index``, without reading it."""
        index = range(len(self))[index]
        rows = slice(self.starts[index], self.starts[index + 1])
        width, height = self.sizes[index].tolist()
        return ImageRecord(
            image_id=int(self.image_ids[index]),
            file=str(self.folder / self.files[index]),
            width=width,
            height=height,
            boxes=self.boxes[rows],
            labels=self.labels[rows],
            crowd=self.crowd[rows],
            areas=self.areas[rows],
            annotated=self.annotated[rows],
            known=self.known.get(index),
        )

    def shape(self, index: int) -> tuple[int, int]:
        """(height, width) of image ``index``."""
        width, height = self.sizes[index].tolist()
        return height, width

    def image(self, index: int) -> np.ndarray:
        """RGB uint8 [height, width, 3]; turned as EXIF says where the json's size says so too."""
        index = range(len(self))[index]
        width, height = self.sizes[index].tolist()
        return read_image(self.folder / self.files[index], size=(width, height))


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
        self.crowd = np.array([row.get("iscrowd", 0) == 1 for row in rows])
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
    except (TypeError, ValueError, OverflowError):
        boxes = np.empty(0)
    if boxes.shape != (len(rows), 4):
        bad = [i for i, box in enumerate(given) if not _four_numbers(box)]
        raise ValueError(
            f"{file}: annotation {ids[bad[0]]} should have a bbox of four numbers, [x, y, width, "
            f"height]; it has {given[bad[0]]!r}{_more(len(bad) - 1)}"
        )
    finite = np.isfinite(boxes).all(1)
    if not finite.all():
        row = int(np.argmin(finite))
        raise ValueError(
            f"{file}: annotation {ids[row]} has a bbox that is not finite, {given[row]}"
            f"{_more((~finite).sum() - 1)}; correct or remove it"
        )
    corners = (boxes[:, :2] + boxes[:, 2:]).astype(np.float32)
    extended = (corners > boxes[:, :2].astype(np.float32)).all(1) & (boxes[:, 2:] > 0).all(1)
    if not extended.all():
        row = int(np.argmin(extended))
        raise ValueError(
            f"{file}: annotation {ids[row]} has a bbox of width {boxes[row, 2]:g} and height "
            f"{boxes[row, 3]:g}{_more((~extended).sum() - 1)}; both must be above zero: "
            "correct or remove it"
        )
    return boxes


def _four_numbers(box: Any) -> bool:
    if not isinstance(box, list) or len(box) != 4:
        return False
    return all(isinstance(v, int | float) and not abs(v) > 1e300 for v in box)


def _more(count: int) -> str:
    """How many more annotations have the fault that is told of the first."""
    return f" (and {count} more such)" if count else ""


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
                f"{file}: image {id_} names the image {folder / name}, which does not exist; "
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
        return image_size(folder / row["file_name"])
    if not all(isinstance(v, int | float) and v >= 1 and v == v // 1 for v in (width, height)):
        raise ValueError(
            f"{file}: image {row['id']} should have a width and height in pixels; "
            f"it has {width!r} and {height!r}"
        )
    return int(width), int(height)


def _integers(rows: list[dict[str, Any]], key: str, file: Path, what: str) -> np.ndarray:
    values = [row.get(key) for row in rows]
    bad = next((i for i, v in enumerate(values) if type(v) is not int or abs(v) >= 2**63), None)
    if bad is not None:
        whose = f"{what} {rows[bad].get('id')}" if key != "id" else f"{what} number {bad + 1}"
        raise ValueError(f"{file}: {whose} should have an integer {key}; it has {values[bad]!r}")
    return np.array(values, dtype=np.int64)


def _no_duplicates(ids: np.ndarray, file: Path, what: str) -> None:
    unique, counts = np.unique(ids, return_counts=True)
    if len(unique) < len(ids):
        twice = unique[np.argmax(counts > 1)]
        raise ValueError(f"{file}: the {what} id {twice} occurs twice; ids must differ")
