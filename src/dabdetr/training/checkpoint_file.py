"""Checkpoint files: sealed with a checksum, written atomically; the previous one is kept."""

from __future__ import annotations

import hashlib
import os
import shutil
from contextlib import suppress
from pathlib import Path
from typing import Any, BinaryIO, cast
from zipfile import BadZipFile, ZipFile

import torch
from pytorch_lightning.plugins import CheckpointIO

from dabdetr.files import open_regular, replacing

CHECKPOINT = "last.ckpt"
PREVIOUS = "previous.ckpt"
"""The checkpoint before the last one, used if the last one is damaged."""
FILES = (
    *(CHECKPOINT, PREVIOUS, "best.safetensors", "last.safetensors", "results.csv", "curves.png"),
    *("config.yaml", "run.yaml"),
)
"""Files that a run writes into its folder."""
MARK = b"sha256:"
_SEAL = len(MARK) + 64
"""Bytes of the seal. It is the comment of torch's zip archive, which torch ignores."""


class SealedCheckpointIO(CheckpointIO):
    """Lightning's reading and writing of checkpoints, through ``read`` and ``write``."""

    def save_checkpoint(
        self, checkpoint: dict[str, Any], path: Any, storage_options: Any = None
    ) -> None:
        write(Path(path), checkpoint)

    def load_checkpoint(
        self, path: Any, map_location: Any = None, weights_only: bool | None = None
    ) -> dict[str, Any]:
        return read(Path(path))

    def remove_checkpoint(self, path: Any) -> None:
        Path(path).unlink(missing_ok=True)


def write(path: Path, checkpoint: dict[str, Any]) -> None:
    """Write ``path`` atomically and sealed; the file before it becomes ``previous.ckpt``.

    At any moment one of the two is complete on the disk.
    """
    previous = path.with_name(PREVIOUS)
    if path.exists() and not (previous.exists() and previous.samefile(path)):
        with replacing(previous) as beside:
            beside.unlink()
            try:
                os.link(path, beside)
            except OSError:  # a file system without hard links
                shutil.copyfile(path, beside)
    with replacing(path) as beside, beside.open("rb+") as file:
        sink = _Sink(file)
        try:
            torch.save(checkpoint, cast(BinaryIO, sink))
        except RuntimeError:
            if sink.error is not None:  # torch hides the cause
                raise sink.error from None
            raise
        # the checksum of all bytes before it is the comment of the zip archive
        size = file.seek(-2, os.SEEK_END) + 2
        assert file.read(2) == b"\0\0", "torch's archives have no comment"
        file.seek(-2, os.SEEK_END)
        file.write(_SEAL.to_bytes(2, "little"))
        seal = MARK + _digest(file, size)
        file.seek(size)
        file.write(seal)


def read(path: Path) -> dict[str, Any]:
    """Return the checkpoint; ValueError where a byte differs from what was written.

    Files from before the seals are checked by the archive's own checksums, and returned in the
    present form.
    """
    try:
        with open_regular(path) as file:
            _check(file, path)
            file.seek(0)
            state = torch.load(file, map_location="cpu", weights_only=True)
    except OSError as error:
        raise ValueError(
            f"{path} cannot be read ({(error.strerror or str(error)).lower()})"
        ) from None
    except ValueError:
        raise
    except Exception:  # torch raises many kinds
        raise ValueError(f"{path} is not a readable checkpoint") from None
    return _of_today(state)


class _Sink:
    """A file that keeps the error of a failed write."""

    def __init__(self, file: BinaryIO) -> None:
        self.file = file
        self.error: OSError | None = None

    def write(self, content: Any) -> int:
        try:
            return self.file.write(content)
        except OSError as error:
            self.error = error
            raise

    def flush(self) -> None:
        self.file.flush()


def _check(file: BinaryIO, path: Path) -> None:
    """ValueError where the content of an archive differs from what was written."""
    size = file.seek(0, os.SEEK_END)
    file.seek(max(0, size - _SEAL - 2))
    length, seal = file.read(2), file.read()
    if length == _SEAL.to_bytes(2, "little"):
        if seal != MARK + _digest(file, size - _SEAL):
            raise ValueError(f"{path} is damaged: its checksum does not fit")
        return
    file.seek(0)
    try:
        with ZipFile(file) as archive:
            damaged = bool(archive.comment) or archive.testzip() is not None
    except (BadZipFile, NotImplementedError, OSError, ValueError):
        raise ValueError(f"{path} is not a readable checkpoint (cut short?)") from None
    if damaged:
        raise ValueError(f"{path} is damaged: its checksum does not fit")


def _digest(file: BinaryIO, size: int) -> bytes:
    """Hexadecimal SHA-256 of the first ``size`` bytes of an open file."""
    digest = hashlib.sha256()
    file.seek(0)
    while size > 0 and (block := file.read(min(size, 1 << 20))):
        digest.update(block)
        size -= len(block)
    return digest.hexdigest().encode()


def _of_today(state: Any) -> dict[str, Any]:
    """A checkpoint in the present form: older ones stored the record elsewhere."""
    callbacks = state.get("callbacks") if isinstance(state, dict) else None
    if callbacks is None or "run" in state or "RunCheckpointer" not in callbacks:
        return state
    rows = callbacks.pop("RunCheckpointer")["rows"]
    for row in rows:
        if "memory_mb" in row:
            row["memory_mib"] = row.pop("memory_mb")
    if "Averaging" in callbacks:
        callbacks["MovingAverage"] = callbacks.pop("Averaging")
    state["run"] = {"rows": rows, "names": state["names"], "batches": 0}
    return state


def remove_leftovers(folder: Path) -> None:
    """Remove hidden temporary files of a killed process from a run folder."""
    for path in folder.glob(".*"):
        if path.is_file() and path.name.startswith(tuple(f".{name}." for name in FILES)):
            with suppress(OSError):
                path.unlink()
