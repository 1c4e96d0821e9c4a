"""Fingerprints of a run's data, to detect changes on resuming."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from dabdetr.data.dataset import DetectionDataset
from dabdetr.data.scenes import Scenes
from dabdetr.text import counted

KINDS = ("id", "size", "boxes")
"""Hashed values of each image: id and file name; width and height; boxes with labels."""


def fingerprint(data: DetectionDataset) -> dict[str, Any]:
    """Plain values and a tensor [images, 3] of hashes, one for each of ``KINDS``.

    Generated scenes are identified by their parameters.
    """
    about: dict[str, Any] = {"names": list(data.names)}
    if isinstance(data, Scenes):
        return about | {"scenes": [data.size, data.objects, data.count, data.seed]}
    hashes = np.empty((len(data), len(KINDS)), np.int64)
    for row in range(len(data)):
        record = data.record(row)
        hashes[row] = [
            _hash(f"{record.image_id} {Path(record.file).name}".encode(errors="surrogatepass")),
            _hash(f"{record.width} {record.height}".encode()),
            _hash(
                record.boxes.astype("<f4").tobytes(),
                record.labels.astype("<i8").tobytes(),
                record.crowd.astype("?").tobytes(),
                repr(record.known).encode(),
            ),
        ]
    return about | {"images": torch.from_numpy(hashes)}


def _hash(*parts: bytes) -> int:
    digest = hashlib.blake2b(digest_size=8)
    for part in parts:
        digest.update(part)
    return int.from_bytes(digest.digest(), "little", signed=True)


def changes(split: str, before: dict[str, Any] | None, data: DetectionDataset | None) -> list[str]:
    """The differences of a split from its fingerprint: a few words for each, or nothing."""
    if before is None or data is None:
        gone, new = f"the {split} split is gone", f"there was no {split} split"
        return [gone] if before is not None else [new] if data is not None else []
    now = fingerprint(data)
    if before["names"] != now["names"]:
        return [f"the classes of {split} changed"]
    if "images" not in before or "images" not in now:
        same = before.get("scenes") == now.get("scenes")
        return [] if same else [f"the scenes of {split} are others"]
    return _of_images(split, before["images"].numpy(), now["images"].numpy(), data)


def _of_images(
    split: str, before: np.ndarray, now: np.ndarray, data: DetectionDataset
) -> list[str]:
    if np.array_equal(before, now):
        return []
    lost = len(set(before[:, 0].tolist()) - set(now[:, 0].tolist()))
    added = [row for row, known in enumerate(np.isin(now[:, 0], before[:, 0])) if not known]
    found = [f"{split} has lost {lost} of {counted(len(before), 'image')}"] if lost else []
    if added:
        found.append(f"{split} has {_counted(added, data)} that were not there")
    if lost or added:
        return found
    if len(before) != len(now) or not np.array_equal(before[:, 0], now[:, 0]):
        return [f"the images of {split} come in another order"]
    for column, what in ((1, "the size"), (2, "the boxes")):
        rows = np.flatnonzero(before[:, column] != now[:, column]).tolist()
        if rows:
            found.append(f"{what} of {_counted(rows, data)} of {split} changed")
    return found


def _counted(rows: Sequence[int], data: DetectionDataset, most: int = 2) -> str:
    """The number of images, and the first few names."""
    names = ", ".join(Path(data.record(row).file).name for row in rows[:most])
    more = ", …" if len(rows) > most else ""
    return f"{counted(len(rows), 'image')} ({names}{more})"
