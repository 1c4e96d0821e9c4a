"""Resuming an interrupted run: finding its checkpoint, and checking that nothing else changed."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from dabdetr.checkpoints.native import name_difference
from dabdetr.config import Config
from dabdetr.config.root import differences, parse
from dabdetr.data.dataset import DetectionDataset
from dabdetr.files import sync_folder
from dabdetr.text import counted, printable, shortened, shown
from dabdetr.training.checkpoint_file import CHECKPOINT, PREVIOUS, read
from dabdetr.training.fingerprint import changes
from dabdetr.training.history import Row, stops_early
from dabdetr.training.nonfinite import nonfinite_values

MAY_CHANGE = (
    *("training.epochs", "training.images", "training.workers", "training.checkpoint_minutes"),
    *("training.patience", "name", "source", "published_ap"),
)
"""Config fields that may change between; all others must be equal."""


VALUES = ("state_dict", "current_model_state", "optimizer_states")
"""Parts of a checkpoint that training computes with."""


@dataclass(frozen=True)
class Checkpoint:
    """A checkpoint that was read, and what it says of its run.

    config     the run's, and ``data`` the fingerprints of its splits; None: written before they
               were kept
    names      its classes
    ranks      processes that wrote it
    mid_epoch  whether it was written within an epoch, which only as many processes can go on with
    fault      why it is not the last one; "": it is
    """

    path: Path
    names: tuple[str, ...]
    rows: list[Row]
    config: Config | None
    data: dict[str, Any] | None
    ranks: int
    mid_epoch: bool
    fault: str = ""

    def restore(self) -> Path:
        """Put this checkpoint in the place of a damaged last one; return its path."""
        last = self.path.with_name(CHECKPOINT)
        if self.path != last:
            os.replace(self.path, last)
            sync_folder(last.parent)
        return last


def find_checkpoint(folder: Path) -> Checkpoint | None:
    """The last intact checkpoint of a run; None where it has none yet.

    ValueError where checkpoints exist and none is intact.
    """
    last, previous = folder / CHECKPOINT, folder / PREVIOUS
    faults = [] if last.exists() else [f"{last} is gone"]
    for path in filter(Path.exists, (last, previous)):
        try:
            return _described(path, "; ".join(faults))
        except ValueError as error:
            faults.append(str(error))
    if not last.exists() and not previous.exists():
        return None
    raise ValueError(
        f"{'; '.join(faults)}; start a new run, from the run's last.safetensors if it has one"
    )


def _described(path: Path, fault: str) -> Checkpoint:
    state = read(path)
    if not isinstance(state, dict):
        raise ValueError(f"{path} is not a readable checkpoint")
    for part in VALUES:
        if place := nonfinite_values(state.get(part), part):
            raise ValueError(
                f"{path} holds values that are not finite ({shortened(printable(place), 80)})"
            )
    try:
        run = state["run"]
        config = run.get("config")
        return Checkpoint(
            path=path,
            names=tuple(run["names"]),
            rows=run["rows"],
            config=None if config is None else parse(config, str(path)),
            data=run.get("data"),
            ranks=len(state.get("ranks", [None])),
            mid_epoch=run["batches"] > 0,
            fault=fault,
        )
    except (AttributeError, KeyError, TypeError):
        raise ValueError(f"{path} is not a readable checkpoint") from None


def check_config(checkpoint: Checkpoint, config: Config, folder: Path) -> list[str]:
    """ValueError where a fixed field of the folder's config changed; lines about other changes."""
    if checkpoint.config is None:
        return []
    changed = differences(checkpoint.config, config)
    kept = {path: values for path, values in changed.items() if path not in MAY_CHANGE}
    if kept:
        said = "; ".join(
            f"{path} is {shown(now)} and was {shown(before)}"
            for path, (before, now) in list(kept.items())[:4]
        )
        more = f"; and {len(kept) - 4} more" if len(kept) > 4 else ""
        raise ValueError(
            f"config.yaml in {folder} was changed after the run began: {said}{more}; set it back, "
            f"or start a new training from it: dabdetr train --config {folder / 'config.yaml'} …"
        )
    return [f"{path} {shown(now)} (was {shown(before)})" for path, (before, now) in changed.items()]


def check_data(
    checkpoint: Checkpoint,
    train: DetectionDataset,
    val: DetectionDataset | None,
    folder: Path,
) -> None:
    """ValueError where the data differ from those that the run began with."""
    if checkpoint.names != train.names:
        raise ValueError(f"{folder}: {name_difference(checkpoint.names, train.names)}")
    if checkpoint.data is None:
        return
    found = [
        each
        for name, data in (("train", train), ("val", val))
        for each in changes(name, checkpoint.data[name], data)
    ]
    if found:
        raise ValueError(
            f"the data of the run {folder} changed after it began: {'; '.join(found)}; restore "
            "them, or start a new training: "
            f"dabdetr train --model {folder / 'last.safetensors'} --data …"
        )


def check_resumable(
    checkpoint: Checkpoint,
    config: Config,
    data: tuple[DetectionDataset, DetectionDataset | None],
    folder: Path,
    ranks: int,
) -> list[str]:
    """ValueError where the run could not continue exactly; lines about permitted changes.

    ``ranks`` is the number of processes that would continue it.
    """
    allowed = check_config(checkpoint, config, folder)
    check_data(checkpoint, *data, folder)
    done = len(checkpoint.rows)
    if done >= config.training.epochs:
        raise ValueError(
            f"the run {folder} has finished its {counted(done, 'epoch')}; more of them: --epochs "
            f"{2 * done} beside --resume; a new training from it: "
            f"dabdetr train --model {folder / 'last.safetensors'} --data …"
        )
    if stops_early(checkpoint.rows, patience := config.training.patience):
        raise ValueError(
            f"the run {folder} ended as AP had not risen in "
            f"{counted(patience or 0, 'epoch')}; to go on: --patience {2 * (patience or 1)} "
            "beside --resume"
        )
    if checkpoint.mid_epoch and checkpoint.ranks != ranks:
        raise ValueError(
            f"{checkpoint.path} was written within an epoch by "
            f"{counted(checkpoint.ranks, 'process', 'processes')}, and this run has {ranks}; "
            "start as many"
        )
    lines = []
    if checkpoint.fault:
        after = f"the one after epoch {done}" + (" and some steps" if checkpoint.mid_epoch else "")
        lines.append(f"{checkpoint.fault}; going on from {after}, {checkpoint.path.name}")
    return [*lines, *(f"counts from here on: {change}" for change in allowed)]
