"""What a run writes at the end of each epoch, and how it is found again."""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from pytorch_lightning import Callback, LightningModule, Trainer

from dabdetr.checkpoints.native import save_model
from dabdetr.evaluation.result import Evaluation
from dabdetr.model.detector import Detector
from dabdetr.training.ema import MovingAverage
from dabdetr.training.history import Row, best_row, draw_curves, peak_training_memory_mib, write_csv
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
            "memory_mib": peak_training_memory_mib(module.device),
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
        row["memory_mib"] = peak_training_memory_mib(next(detector.parameters()).device)

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


def abandoned(folder: Path) -> bool:
    """Whether a run was killed before its first checkpoint, and ``folder`` holds nothing else."""
    made = {"config.yaml", "run.yaml", "results.csv"}
    names = {path.name for path in folder.iterdir()} if folder.is_dir() else {folder.name}
    return all(name in made or name.startswith(".") for name in names)
