"""Writing data sets in the usual layouts, so that reading them back returns the same data.

What a layout cannot represent (crowds in YOLO, classes without a box in VOC) is reported. A new
layout needs a function here and a line in ``WRITERS``.
"""

from __future__ import annotations

import io
import json
import os
import shutil
import tarfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import numpy as np
from PIL import Image

from dabdetr.data.dataset import DetectionDataset, ImageRecord
from dabdetr.data.heads import read_heads
from dabdetr.data.images import Head
from dabdetr.files import UNPORTABLE, new_folder, plain_name
from dabdetr.text import counted, in_any_case, meant

SHARD = 512 << 20
"""Approximate bytes of images in a WebDataset shard."""
SHARD_IMAGES = 10_000
"""Most images in a shard."""


@dataclass(frozen=True)
class Item:
    """One image to be written, and the name of its file in the new data set.

    redraw  whether to write decoded pixels, because the file cannot be copied: its size is not that
            of the record (EXIF rotation), or the image is generated and has no file
    """

    data: DetectionDataset
    index: int
    record: ImageRecord
    name: str
    redraw: bool

    @property
    def stem(self) -> str:
        """Name without extension; unique in the data set."""
        return os.path.splitext(self.name)[0]

    def content(self) -> bytes:
        """The bytes of the image file to be written; PNG for a redrawn image."""
        if not self.redraw:
            return Path(self.record.file).read_bytes()
        buffer = io.BytesIO()
        Image.fromarray(self.data.image(self.index)).save(buffer, "PNG")
        return buffer.getvalue()

    def put(self, folder: Path) -> None:
        """Write the image file into ``folder``."""
        if self.redraw:
            (folder / self.name).write_bytes(self.content())
        else:
            shutil.copyfile(self.record.file, folder / self.name)


Write = Callable[[Path, str, Sequence[Item]], list[str]]
"""Writes a split into a folder; returns a description of each thing that was lost."""


def write_data(data: Sequence[DetectionDataset], out: Path, layout: str) -> list[str]:
    """Write splits as one data set into the new folder ``out``; return descriptions of all losses.

    ``layout`` is one of ``WRITERS``, else ValueError. The folder appears when all is written.
    """
    layout = check_layout(layout)
    with new_folder(out) as folder:
        taken: set[str] = set()
        items = {each.split: _items(each, taken) for each in data}
        write, finish = WRITERS[layout]
        lost = [each for split, rows in items.items() for each in write(folder, split, rows)]
        if finish is not None:
            finish(folder, data)
    return lost


def check_layout(name: str) -> str:
    """The key of ``WRITERS`` that ``name`` means in any letter case; else ValueError."""
    layout = in_any_case(name, WRITERS)
    if layout not in WRITERS:
        raise ValueError(
            f"the layout should be one of {', '.join(WRITERS)}; got {name!r}{meant(name, WRITERS)}"
        )
    return layout


def _items(data: DetectionDataset, taken: set[str]) -> list[Item]:
    """The images of a split under names whose stems are unique in the whole data set.

    ``taken`` collects the stems of all splits.
    """
    records = [data.record(index) for index in range(len(data))]
    files = [record.file for record in records]
    exists = [os.path.isfile(file) for file in files]
    found = iter(read_heads([file for file, has in zip(files, exists, strict=True) if has]))
    heads = [next(found) if has else Head() for has in exists]
    items: list[Item] = []
    for index, (record, head) in enumerate(zip(records, heads, strict=True)):
        redraw = head.size != (record.width, record.height)
        stem, ending = os.path.splitext(os.path.basename(record.file))
        stem, ending = plain_name(stem, UNPORTABLE).strip(), plain_name(ending, UNPORTABLE)
        stem = _unused(stem or f"{data.split}-{index}", taken)
        items.append(Item(data, index, record, stem + (".png" if redraw else ending), redraw))
    return items


def _unused(stem: str, taken: set[str]) -> str:
    name, number = stem, 1
    while name.casefold() in taken:
        number += 1
        name = f"{stem}-{number}"
    taken.add(name.casefold())
    return name


def _write_coco(root: Path, split: str, items: Sequence[Item]) -> list[str]:
    """Write annotations/instances_SPLIT.json, and the images into the folder SPLIT."""
    (root / split).mkdir()
    (root / "annotations").mkdir(exist_ok=True)
    data = items[0].data
    images: list[dict[str, Any]] = []
    annotations: list[dict[str, Any]] = []
    for item in items:
        item.put(root / split)
        record = item.record
        size = {"width": record.width, "height": record.height}
        images.append({"id": record.image_id, "file_name": item.name, **size})
        if record.known is not None:
            judged, present = set(record.known), set(record.labels.tolist())
            ids = [data.category_ids[label] for label in sorted(judged - present)]
            partial = [data.category_ids[label] for label in sorted(present - judged)]
            images[-1] |= {"neg_category_ids": ids, "not_exhaustive_category_ids": partial}
        for box, label, crowd, area in zip(
            record.annotated.tolist(),
            record.labels.tolist(),
            record.crowd.tolist(),
            record.areas.tolist(),
            strict=True,
        ):
            row = {"id": len(annotations) + 1, "image_id": record.image_id}
            row |= {"category_id": data.category_ids[label], "bbox": box}
            annotations.append(row | {"area": area, "iscrowd": int(crowd)})
    categories = [
        {"id": id_, "name": name} for id_, name in zip(data.category_ids, data.names, strict=True)
    ]
    tree = {"images": images, "annotations": annotations, "categories": categories}
    text = json.dumps(tree, ensure_ascii=False, allow_nan=False)
    (root / "annotations" / f"instances_{split}.json").write_text(text, encoding="utf-8")
    return []


def _write_yolo(root: Path, split: str, items: Sequence[Item]) -> list[str]:
    """Write images/SPLIT and labels/SPLIT; ``_finish_yolo`` writes the classes to data.yaml."""
    images, labels = root / "images" / split, root / "labels" / split
    for folder in (images, labels):
        folder.mkdir(parents=True)
    crowds = duplicates = 0
    for item in items:
        item.put(images)
        record = item.record
        extent = np.tile(np.array([record.width, record.height], np.float64), 2)
        low, high = np.split(record.boxes[~record.crowd].astype(np.float64) / extent, 2, axis=1)
        rows = np.concatenate(((low + high) / 2, high - low), axis=1)
        pairs = zip(record.labels[~record.crowd].tolist(), rows.tolist(), strict=True)
        lines = [" ".join(map(repr, (label, *row))) for label, row in pairs]
        crowds += int(record.crowd.sum())
        duplicates += len(lines) - len(set(lines))
        text = "".join(f"{line}\n" for line in dict.fromkeys(lines))
        (labels / f"{item.stem}.txt").write_text(text)
    lost = [f"{counted(crowds, 'crowd')}, which YOLO's layout has no place for"] if crowds else []
    if duplicates:
        lost.append(f"{counted(duplicates, 'box', 'boxes')} a second time in an image")
    return lost


def _finish_yolo(root: Path, data: Sequence[DetectionDataset]) -> None:
    lines = [f"{each.split}: images/{each.split}\n" for each in data]
    names = json.dumps(list(data[0].names), ensure_ascii=False)
    text = f"path: .\n{''.join(lines)}nc: {len(data[0].names)}\nnames: {names}\n"
    (root / "data.yaml").write_text(text, encoding="utf-8")


def _write_voc(root: Path, split: str, items: Sequence[Item]) -> list[str]:
    """Write JPEGImages, Annotations and ImageSets/Main/SPLIT.txt.

    Pixels are counted from 1; decimals are kept.
    """
    for folder in ("JPEGImages", "Annotations", "ImageSets/Main"):
        (root / folder).mkdir(parents=True, exist_ok=True)
    thin = 0
    for item in items:
        item.put(root / "JPEGImages")
        record = item.record
        tree = ElementTree.Element("annotation")
        ElementTree.SubElement(tree, "filename").text = item.name
        size = ElementTree.SubElement(tree, "size")
        for side, value in (("width", record.width), ("height", record.height), ("depth", 3)):
            ElementTree.SubElement(size, side).text = str(value)
        for box, label, crowd in zip(
            record.boxes.astype(np.float64), record.labels.tolist(), record.crowd, strict=True
        ):
            thin += bool((box[2:] - box[:2] < 1).any())
            _add_object(tree, record, item.data.names[label], box, bool(crowd))
        ElementTree.indent(tree)
        text = ElementTree.tostring(tree, encoding="unicode")
        file = root / "Annotations" / f"{item.stem}.xml"
        file.write_text(text + "\n", encoding="utf-8")
    listed = "".join(f"{item.stem}\n" for item in items)
    (root / "ImageSets" / "Main" / f"{split}.txt").write_text(listed, encoding="utf-8")
    return [f"{counted(thin, 'box', 'boxes')} thinner than a pixel, widened to one"] if thin else []


def _add_object(
    tree: Any, record: ImageRecord, name: str, box: np.ndarray, difficult: bool
) -> None:
    object_ = ElementTree.SubElement(tree, "object")
    ElementTree.SubElement(object_, "name").text = name
    ElementTree.SubElement(object_, "difficult").text = str(int(difficult))
    extent = np.array([record.width, record.height], np.float64)
    low = np.minimum(box[:2], extent - 1)
    high = np.where(box[2:] - low < 1, low + 1, box[2:])
    frame = ElementTree.SubElement(object_, "bndbox")
    edges = (*(low + 1).tolist(), *high.tolist())
    for edge, value in zip(("xmin", "ymin", "xmax", "ymax"), edges, strict=True):
        ElementTree.SubElement(frame, edge).text = repr(value)


def _write_shards(root: Path, split: str, items: Sequence[Item]) -> list[str]:
    """Write SPLIT-000000.tar …, with KEY.jpg (or another extension) and KEY.json for each image."""
    shard = number = size = count = 0
    archive: Any = None
    try:
        for number, item in enumerate(items):
            if archive is None or size >= SHARD or count >= SHARD_IMAGES:
                if archive is not None:
                    archive.close()
                archive = tarfile.open(root / f"{split}-{shard:06d}.tar", "w")  # noqa: SIM115
                shard, size, count = shard + 1, 0, 0
            content = item.content()
            key = f"{number:08d}"
            _add_member(archive, key + os.path.splitext(item.name)[1].lower(), content)
            text = json.dumps(sample(item), ensure_ascii=False, allow_nan=False)
            _add_member(archive, f"{key}.json", text.encode())
            size, count = size + len(content), count + 1
    finally:
        if archive is not None:
            archive.close()
    return []


def sample(item: Item) -> dict[str, Any]:
    """The JSON object of an image in a shard; boxes are x0, y0, x1, y1 in pixels."""
    record = item.record
    return {
        "image_id": record.image_id,
        "file_name": item.name,
        "width": record.width,
        "height": record.height,
        "boxes": record.boxes.astype(np.float64).tolist(),
        "labels": record.labels.tolist(),
        "names": [item.data.names[label] for label in record.labels.tolist()],
        "crowd": record.crowd.tolist(),
        "areas": record.areas.tolist(),
    }


def _add_member(archive: tarfile.TarFile, name: str, content: bytes) -> None:
    """Add a member without owner and time, so that the same data give the same bytes."""
    member = tarfile.TarInfo(name)
    member.size = len(content)
    archive.addfile(member, io.BytesIO(content))


def _finish_shards(root: Path, data: Sequence[DetectionDataset]) -> None:
    splits = {each.split: len(each) for each in data}
    tree = {"names": list(data[0].names), "splits": splits}
    (root / "classes.json").write_text(json.dumps(tree, ensure_ascii=False, indent=1))


Finish = Callable[[Path, Sequence[DetectionDataset]], None]
"""Writes the files that all splits share."""
WRITERS: dict[str, tuple[Write, Finish | None]] = {
    "coco": (_write_coco, None),
    "yolo": (_write_yolo, _finish_yolo),
    "voc": (_write_voc, None),
    "webdataset": (_write_shards, _finish_shards),
}
