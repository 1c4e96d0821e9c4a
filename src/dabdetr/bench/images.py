"""The images of a bench: files that every contender reads, and what is true of them, if known."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import islice
from pathlib import Path

import numpy as np
from PIL import Image

from dabdetr.data.dataset import DetectionDataset, Subset
from dabdetr.inference.sources import read_sources
from dabdetr.structures import Detections

PARTS = ("boxes", "scores", "labels", "queries")
"""Arrays of detections that a worker writes, of all images in one."""


def of_data(data: DetectionDataset, most: int, folder: Path) -> tuple[list[str], Subset]:
    """Files of ``most`` images from all over the data, and the part of the data they are.

    Images that are no files, as generated ones, are written into the ``folder``.
    """
    part = Subset(data, spread(range(len(data)), most))
    files = []
    for index in range(len(part)):
        file = part.record(index).file
        files.append(file if Path(file).is_file() else _write(part.image(index), folder, index))
    return files, part


def of_source(source: str | Path, most: int, folder: Path) -> list[str]:
    """Files of the first ``most`` images of a source; frames are written into the ``folder``."""
    files = []
    for number, each in enumerate(islice(read_sources(source), most)):
        whole = each.frame is None and Path(each.name).is_file()
        files.append(each.name if whole else _write(each.array, folder, number))
    if not files:
        raise ValueError(f"there is no image in {source}; give some to time and to compare on")
    return files


def spread(items: Sequence, count: int) -> list:
    """At most ``count`` of the items, from all over them, in their order."""
    places = np.linspace(0, len(items) - 1, min(count, len(items))).round().astype(int)
    return [items[place] for place in places]


def read_found(path: Path, files: Sequence[str]) -> list[Detections]:
    """The detections that a worker wrote, one for each of the files."""
    with np.load(path) as told:
        names = tuple(told["names"].tolist())
        ends = np.cumsum(told["counts"])[:-1]
        boxes, scores, labels, queries = (np.split(told[part], ends) for part in PARTS)
        sizes = [(int(height), int(width)) for height, width in told["sizes"]]
    return [
        Detections(*(boxes[n], scores[n], labels[n], queries[n]), names, sizes[n], file)
        for n, file in enumerate(files)
    ]


def _write(image: np.ndarray, folder: Path, number: int) -> str:
    path = folder / f"{number:05d}.png"
    Image.fromarray(image).save(path)
    return str(path)
