"""Drawings of a report's worst and best images, with labels and detections side by side."""

from __future__ import annotations

import io
import re
import shutil
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from dabdetr.data.dataset import DetectionDataset
from dabdetr.evaluation.judged import Judged
from dabdetr.files import write_atomically
from dabdetr.structures.drawing import draw, reduced

LONGEST = 560
"""Longer side of a drawn image in pixels."""

FOLDER = "pairs"
"""The subfolder of a run's folder for the drawings as PNG."""


@dataclass(frozen=True)
class Pair:
    """An image drawn twice.

    group  "worst" or "best"
    rank   place in the group, counted from 1
    row    the image's row in the report
    truth  drawn with the labelled objects; None if the image can no longer be read
    found  drawn with the detections
    """

    group: str
    rank: int
    row: dict[str, Any]
    truth: Image.Image | None = None
    found: Image.Image | None = None

    @property
    def name(self) -> str:
        """The file name without its folder."""
        return base_name(self.row["file"])

    def save(self, folder: Path) -> None:
        """Write both side by side, as PNG named by group, rank and image."""
        if self.truth is None or self.found is None:
            return
        width, height = self.truth.size
        both = Image.new("RGB", (2 * width + 4, height), "white")
        both.paste(self.truth, (0, 0))
        both.paste(self.found, (width + 4, 0))
        stream = io.BytesIO()
        both.save(stream, "png")
        stem = re.sub(r"[^\w.-]+", "_", Path(self.name).stem)[:60]
        path = folder / f"{self.group}-{self.rank:02d}-{stem}.png"
        write_atomically(path, stream.getvalue())


def pairs(data: DetectionDataset, tree: dict[str, Any], judged: Sequence[Judged]) -> Iterator[Pair]:
    """The worst images of the report's ``tree``, then the best ones."""
    for group in ("worst", "best"):
        for rank, at in enumerate(tree[group], 1):
            pair, each = Pair(group, rank, tree["images"][at]), judged[at]
            try:
                image, scale = reduced(data.image(at), LONGEST)
            except (OSError, ValueError):
                yield pair
                continue
            found, ones, names = each.found, np.ones(len(each.labels)), data.names
            truth = draw(image, each.boxes * scale, ones, each.labels, names, scored=False)
            drawn = draw(image, found.boxes * scale, found.scores, found.labels, found.names)
            yield replace(pair, truth=truth, found=drawn)


def base_name(file: str) -> str:
    """The last part of a path with / or \\."""
    return file.replace("\\", "/").rsplit("/", 1)[-1]


def save_pairs(folder: Path, drawn: Sequence[Pair]) -> None:
    """Write the pairs into ``FOLDER`` of ``folder``, in place of those of an earlier report."""
    shutil.rmtree(folder / FOLDER, ignore_errors=True)
    if drawn:
        (folder / FOLDER).mkdir(parents=True)
    for each in drawn:
        each.save(folder / FOLDER)
