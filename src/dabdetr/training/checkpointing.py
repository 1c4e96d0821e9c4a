"""The files of a run in training: weights, record, curves and checkpoints."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from pytorch_lightning import Callback, LightningModule, Trainer

from dabdetr.checkpoints.native import save_model
from dabdetr.config.root import leaves
from dabdetr.evaluation.result import Evaluation
from dabdetr.model.detector import Detector
from dabdetr.training.checkpoint_file import CHECKPOINT
from dabdetr.training.ema import MovingAverage
from dabdetr.training.history import (
    Row,
    best_row,
    draw_curves,
    peak_training_memory_mib,
    stops_early,
    write_record,
)
from dabdetr.training.module import TrainingModule
from dabdetr.training.nonfinite import NonFiniteLoss, nonfinite_weights

REDRAW = 60.0
"""Least seconds between drawings of the curves, which would dominate short epochs."""
MEASURED = ("AP", "AP50", "AP75", "APS", "APM", "APL")
"""Columns of an evaluation: overall, then small, medium and large objects."""


class RunCheckpointer(Callback):
    """Evaluates after an epoch; writes weights, record and curves, then the checkpoint.

    Each file is written beside its place and moved. The checkpoint, which contains the whole
    record, comes last. Within an epoch another one is written every
    ``training.checkpoint_minutes``: a stop at any moment loses no more than that. ``loading``
    returns the share of the epoch's time spent waiting for images. ``about`` is stored in every
    checkpoint: the run's config, its classes, and the data fingerprints.
    """

    def __init__(
        self,
        folder: Path,
        rows: list[Row],
        measure: Callable[[Detector], Evaluation] | None,
        ema: MovingAverage | None,
        every: int = 1,
        about: dict[str, Any] | None = None,
        loading: Callable[[], float | None] = lambda: None,
    ) -> None:
        self.folder, self.rows = folder, rows
        self.measure, self.ema, self.every = measure, ema, every
        self.about, self.loading = about or {}, loading
        self.drawn = 0.0
        self.batches = 0
        self.elapsed: tuple[float, ...] = ()

    @property
    def path(self) -> Path:
        """The checkpoint."""
        return self.folder / CHECKPOINT

    def on_save_checkpoint(
        self, trainer: Trainer, pl_module: LightningModule, checkpoint: dict[str, Any]
    ) -> None:
        checkpoint["run"] = {
            **self.about,
            "rows": [dict(row) for row in self.rows],
            "batches": self.batches,
            "seconds": [time.perf_counter() - self.started, time.process_time() - self.started_cpu],
        }

    def on_load_checkpoint(
        self, trainer: Trainer, pl_module: LightningModule, checkpoint: dict[str, Any]
    ) -> None:
        run = checkpoint["run"]
        self.rows[:] = run["rows"]
        if run["batches"]:
            self.elapsed = tuple(run["seconds"])

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._start_clocks(*self.elapsed)
        if trainer.is_global_zero:
            write_record(self.folder / "results.csv", self.rows)
            for logger in trainer.loggers:
                logger.log_hyperparams(dict(leaves(self.about.get("config", {}))))
        self.saved = time.monotonic()
        if not trainer.global_step:
            self.save_checkpoint(trainer)

    def on_train_epoch_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self.batches = 0
        self._start_clocks()

    def _start_clocks(self, seconds: float = 0.0, cpu_seconds: float = 0.0) -> None:
        self.started = time.perf_counter() - seconds
        self.started_cpu = time.process_time() - cpu_seconds

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Write a checkpoint within the epoch, between optimizer steps, when it is due."""
        assert isinstance(pl_module, TrainingModule)
        self.batches = batch_idx + 1
        if self.batches == trainer.num_training_batches:
            self.batches = 0  # the epoch's own checkpoint follows
        elif self.batches % trainer.accumulate_grad_batches == 0:
            minutes = pl_module.settings.training.checkpoint_minutes
            due = time.monotonic() - self.saved >= 60 * minutes
            if pl_module.world.broadcast(due):
                self.save_checkpoint(trainer)

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        assert isinstance(pl_module, TrainingModule)
        seconds = time.perf_counter() - self.started
        cpu_seconds = time.process_time() - self.started_cpu
        if broken := nonfinite_weights(pl_module.detector):
            raise NonFiniteLoss(
                f"{broken} after epoch {trainer.current_epoch + 1}; lower training.lr or set "
                "training.precision=fp32"
            )
        pl_module.meter.gather(pl_module.world)
        detector = self.ema.detector if self.ema else pl_module.detector
        row = self._row(trainer, pl_module, seconds, cpu_seconds)
        if pl_module.world.is_main:
            self._measure(detector, row)
        self.rows.append(pl_module.world.broadcast(row))
        patience = pl_module.settings.training.patience
        trainer.should_stop = trainer.should_stop or stops_early(self.rows, patience)
        if pl_module.world.is_main:
            self._write(trainer, detector)
        self.save_checkpoint(trainer)

    def _write(self, trainer: Trainer, detector: Detector) -> None:
        """Write weights, record and curves of the epoch in the last row."""
        row = self.rows[-1]
        about = {"epoch": f"{row['epoch']:.0f}"}
        if row["AP"] is not None:
            about["AP"] = f"{row['AP']:.5f}"
        if best_row(self.rows) is row:
            save_model(self.folder / "best.safetensors", detector, metadata=about)
        save_model(self.folder / "last.safetensors", detector, metadata=about)
        write_record(self.folder / "results.csv", self.rows)
        ends = row["epoch"] == trainer.max_epochs or trainer.should_stop
        if ends or time.perf_counter() - self.drawn > REDRAW:
            self._draw()
        for logger in trainer.loggers:
            metrics = {name: value for name, value in row.items() if value is not None}
            logger.log_metrics(metrics, step=int(row["updates"] or 0))

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
            "loading": self.loading(),
            **module.watch.row(),
        }

    def _measure(self, detector: Detector, row: Row) -> None:
        """Fill in the evaluation if this epoch has one (the last epoch always has)."""
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
        """Write last.ckpt; the main rank writes, the others wait."""
        trainer.save_checkpoint(self.path)
        self.saved = time.monotonic()


def abandoned(folder: Path) -> bool:
    """Whether a run was killed before its first checkpoint, and ``folder`` has no other files."""
    if not folder.is_dir():
        return False
    names = {path.name for path in folder.iterdir() if not path.name.startswith(".")}
    return {"config.yaml", "run.yaml"} <= names <= {"config.yaml", "run.yaml", "results.csv"}
