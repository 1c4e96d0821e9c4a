"""What a run writes at the end of each epoch, and how it is found again."""

from __future__ import annotations

import os
import shutil
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from pytorch_lightning import Callback, LightningModule, Trainer

from dabdetr.checkpoints.native import save_model
from dabdetr.evaluation.result import Evaluation
from dabdetr.files import check_folder_name
from dabdetr.model.detector import Detector
from dabdetr.training.ema import MovingAverage
from dabdetr.training.history import Row, best_row, draw_curves, peak_memory_mb, write_csv
from dabdetr.training.module import TrainingModule
from dabdetr.training.nonfinite import NonFiniteLoss

CHECKPOINT = "last.ckpt"
REDRAW = 60.0
"""Seconds between drawings of the curves; where epochs are short it would cost too much."""
MEASURED = ("AP", "AP50", "AP75", "APS", "APM", "APL")
"""What a row holds of an evaluation: overall, then of small, medium and large objects."""


class RunCheckpointer(Callback):
    """Evaluates after an epoch and writes weights, record, curves, and then the checkpoint.

    Each file is written beside its place and moved; the checkpoint, which holds the whole record,
    comes last: a stop at any moment loses at most the epoch that was running.
    """

    def __init__(
        self,
        folder: Path,
        rows: list[Row],
        measure: Callable[[Detector], Evaluation] | None,
        ema: MovingAverage | None,
        every: int = 1,
    ) -> None:
        self.folder, self.rows = folder, rows
        self.measure, self.ema, self.every = measure, ema, every
        self.drawn = 0.0

    @property
    def path(self) -> Path:
        """The checkpoint."""
        return self.folder / CHECKPOINT

    def state_dict(self) -> dict[str, Any]:
        return {"rows": [dict(row) for row in self.rows]}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self.rows[:] = state_dict["rows"]

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if trainer.is_global_zero:
            write_csv(self.folder / "results.csv", self.rows)
        if not self.rows:
            self.save_checkpoint(trainer)

    def on_train_epoch_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self.started, self.started_cpu = time.perf_counter(), time.process_time()

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        assert isinstance(pl_module, TrainingModule)
        seconds = time.perf_counter() - self.started
        cpu_seconds = time.process_time() - self.started_cpu
        broken = [n for n, p in pl_module.detector.named_parameters() if not p.isfinite().all()]
        if broken:
            raise NonFiniteLoss(
                f"{broken[0]} and {len(broken) - 1} more weights are no longer finite after epoch "
                f"{trainer.current_epoch + 1}; lower training.lr or set training.precision=fp32"
            )
        pl_module.meter.gather(pl_module.world)
        detector = self.ema.detector if self.ema else pl_module.detector
        row = self._row(trainer, pl_module, seconds, cpu_seconds)
        if pl_module.world.is_main:
            self._measure(detector, row)
        self.rows.append(pl_module.world.broadcast(row))
        if pl_module.world.is_main:
            self._write(trainer, detector)
        self.save_checkpoint(trainer)

    def _write(self, trainer: Trainer, detector: Detector) -> None:
        """Weights, record and curves as they are after the epoch of the last row."""
        row = self.rows[-1]
        about = {"epoch": f"{row['epoch']:.0f}"}
        if row["AP"] is not None:
            about["AP"] = f"{row['AP']:.5f}"
        if best_row(self.rows) is row:
            save_model(self.folder / "best.safetensors", detector, metadata=about)
        save_model(self.folder / "last.safetensors", detector, metadata=about)
        write_csv(self.folder / "results.csv", self.rows)
        if row["epoch"] == trainer.max_epochs or time.perf_counter() - self.drawn > REDRAW:
            self._draw()

    def on_exception(
        self, trainer: Trainer, pl_module: LightningModule, exception: BaseException
    ) -> None:
        if self.rows and trainer.is_global_zero:
            self._draw()

    def _draw(self) -> None:
        draw_curves(self.folder / "curves.png", self.rows)
        self.drawn = time.perf_counter()

    def _row(
        self, trainer: Trainer, module: TrainingModule, seconds: float, cpu_seconds: float
    ) -> Row:
        return {
            "epoch": trainer.current_epoch + 1,
            "updates": trainer.global_step,
            "seconds": seconds,
            "images_per_second": module.meter.images / seconds,
            "lr": module.lr,
            **module.meter.means(),
            **dict.fromkeys(MEASURED),
            "val_seconds": None,
            "memory_mb": peak_memory_mb(module.device),
            "cpu_seconds": cpu_seconds,
        }

    def _measure(self, detector: Detector, row: Row) -> None:
        """Fill in what evaluation says, where it is this epoch's turn (the last always is)."""
        epoch, epochs = int(row["epoch"] or 0), detector.config.training.epochs
        if self.measure is None or (epoch % self.every and epoch != epochs):
            return
        started = time.perf_counter()
        result = self.measure(detector)
        row["val_seconds"] = time.perf_counter() - started
        if result.ap >= 0:  # −1: the split has no objects
            numbers = {name: result.numbers[name] for name in MEASURED}
            row |= {name: None if value < 0 else value for name, value in numbers.items()}
        row["memory_mb"] = max(
            row["memory_mb"] or 0.0, peak_memory_mb(next(detector.parameters()).device)
        )

    def save_checkpoint(self, trainer: Trainer) -> None:
        """Write last.ckpt: beside its place first, then moved."""
        path = self.folder / CHECKPOINT
        temporary = path.with_name(f".{path.name}.part")
        try:
            trainer.save_checkpoint(temporary)  # the first process writes, the others wait
            if trainer.is_global_zero:
                os.replace(temporary, path)
        except BaseException:
            temporary.unlink(missing_ok=True)
            raise


@dataclass(frozen=True)
class Checkpoint:
    """A checkpoint that was found readable, and what must hold for its run to go on."""

    path: Path
    names: tuple[str, ...]
    epochs_done: int


def check_checkpoint(folder: Path) -> Checkpoint:
    """The run's readable checkpoint; a missing or broken one is told in one sentence."""
    path = folder / CHECKPOINT if folder.name != CHECKPOINT else folder
    if not path.is_file():
        raise FileNotFoundError(
            f"there is no run to resume in {folder}: expected {path.name} in a run's folder"
        )
    try:
        state = torch.load(path, map_location="cpu", weights_only=True)
        rows = state["callbacks"][RunCheckpointer.__name__]["rows"]
        return Checkpoint(path, tuple(state["names"]), len(rows))
    except Exception:  # torch raises many kinds for a bad file
        raise ValueError(
            f"{path} is not a readable checkpoint (cut short?); start a new run, from the run's "
            "last.safetensors if it has one"
        ) from None


@contextmanager
def new_folder(project: str | Path, name: str | None, stem: str) -> Iterator[Path]:
    """A run folder of our own, writable; removed again should the body fail before it trains, or
    come upon an unreadable image before an epoch is done.

    Without ``name`` it is the first free ``stem-1``, ``stem-2`` …; a name that is taken is refused.
    """
    if name is not None:
        check_folder_name(name)
    project = Path(project)
    made = [p for p in (project, *project.parents) if not p.exists()]
    try:
        folder = _claim(project, name, stem)
        (folder / ".writable").touch()
        (folder / ".writable").unlink()
    except FileExistsError as error:
        if name is not None and (project / name).is_dir():
            raise FileExistsError(
                f"the run {project / name} exists and is not overwritten; choose another name, or "
                "resume it"
            ) from None
        raise _unwritable(project, name or stem, error) from None
    except OSError as error:
        raise _unwritable(project, name or stem, error) from None
    try:
        yield folder
    except BaseException as error:
        bad_input = isinstance(error, ValueError | OSError) and not isinstance(error, NonFiniteLoss)
        trained = (folder / "last.safetensors").exists()
        if not (folder / CHECKPOINT).exists() or (bad_input and not trained):
            shutil.rmtree(folder, ignore_errors=True)
            for parent in made:
                _remove_if_empty(parent)
        raise


def _claim(project: Path, name: str | None, stem: str) -> Path:
    project.mkdir(parents=True, exist_ok=True)
    if name is not None:
        (project / name).mkdir()
        return project / name
    number = 1
    while True:
        try:
            (project / f"{stem}-{number}").mkdir()
            return project / f"{stem}-{number}"
        except FileExistsError:
            number += 1


def _unwritable(project: Path, name: str, error: OSError) -> OSError:
    return type(error)(
        f"the run folder {project / name} cannot be written ({error.strerror}); "
        "choose another project folder"
    )


def _remove_if_empty(folder: Path) -> None:
    if folder.is_dir() and not any(folder.iterdir()):
        folder.rmdir()
