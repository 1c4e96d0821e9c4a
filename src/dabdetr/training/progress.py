"""Progress of a training for people, on stderr."""

from __future__ import annotations

import time
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from pytorch_lightning import Callback, LightningModule, Trainer
from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)

from dabdetr.data.dataset import DetectionDataset
from dabdetr.data.scenes import Scenes
from dabdetr.data.statistics import summarise
from dabdetr.model.detector import Detector
from dabdetr.text import counted, duration
from dabdetr.training.accumulation import accumulated, updates
from dabdetr.training.history import Row

ESTIMATED = 20
"""Updates after which the time left is printed."""


class ProgressBar(Callback):
    """One bar over the whole run with loss, AP and time left; without a terminal a line per epoch.

    ``rows`` is the run's record, filled by callbacks that run before this one.
    """

    def __init__(self, console: Console, rows: list[Row]) -> None:
        self.console, self.rows = console, rows
        self.bar = Progress(
            TextColumn("{task.description}"),
            BarColumn(bar_width=None),
            MofNCompleteColumn(),
            TextColumn("loss {task.fields[loss]} · AP {task.fields[ap]}"),
            TimeElapsedColumn(),
            TextColumn("left"),
            TimeRemainingColumn(),
            console=console,
            speed_estimate_period=300,
            disable=not console.is_terminal or console.quiet,
        )
        self.task = self.bar.add_task("training", total=None, loss="–", ap="–")

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Start, perhaps within an epoch."""
        self.first = trainer.global_step
        self.began = 0.0
        self.on_train_epoch_start(trainer, pl_module)

    def on_train_epoch_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        epochs = trainer.max_epochs or 0
        self.bar.update(
            self.task,
            total=int(trainer.num_training_batches) * epochs,
            description=f"epoch {trainer.current_epoch + 1}/{epochs}",
        )
        self.bar.start()

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: Any, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        done = int(trainer.num_training_batches) * trainer.current_epoch + batch_idx + 1
        if not self.bar.disable:
            loss = pl_module.meter.means()["loss"]
            self.bar.update(self.task, completed=done, loss=f"{loss:.3f}")
        updates = trainer.global_step - self.first
        if updates == 1 and not self.began:  # the first ones are slower
            self.began, self.done = time.monotonic(), done
        elif updates == ESTIMATED and self.began:
            pace = (time.monotonic() - self.began) / (done - self.done)
            left = int(trainer.num_training_batches) * (trainer.max_epochs or 0) - done
            self.began = 0.0
            self.first = -1  # once
            if left:
                self.console.print(time_left(pace * left), soft_wrap=True)

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        row = self.rows[-1]
        if row["AP"] is not None:
            self.bar.update(self.task, ap=f"{row['AP']:.3f}")
        if self.bar.disable:
            self.console.print(epoch_line(row, trainer.max_epochs or 0), soft_wrap=True)

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self.bar.stop()

    def on_exception(
        self, trainer: Trainer, pl_module: LightningModule, exception: BaseException
    ) -> None:
        self.bar.stop()


def time_left(seconds: float) -> str:
    """One plain line about the time left."""
    return f"about {duration(seconds)} of training left, validation not counted"


def epoch_line(row: Row, epochs: int) -> str:
    """One plain line about an epoch."""
    parts = [
        f"epoch {row['epoch']:.0f}/{epochs}",
        f"loss {row['loss']:.4f}",
        f"{row['images_per_second']:.1f} images/s",
    ]
    if row["AP"] is not None:
        parts += [f"AP {row['AP']:.4f}", f"AP50 {row['AP50'] or 0:.4f}"]
    return "  ".join(parts)


def say(console: Console, text: str) -> None:
    """Print a line unchanged: no markup, no wrapping."""
    console.print(text, markup=False, soft_wrap=True)


def describe(
    console: Console, data: Iterable[DetectionDataset | None]
) -> tuple[dict[str, Any], ...]:
    """Print the counts of each split, and return them as plain values; scenes have no files."""
    files = (each for each in data if each is not None and not isinstance(each, Scenes))
    summaries = [summarise(each) for each in files]
    for summary in summaries:
        for line in summary.lines():
            say(console, line)
    return tuple(summary.to_dict() for summary in summaries)


def announce(
    console: Console,
    detector: Detector,
    train: DetectionDataset,
    val: DetectionDataset | None,
    ranks: int,
) -> None:
    """Print the sizes of data and model, and the images per update of all processes."""
    training = detector.config.training
    learning = sum(p.numel() for p in detector.parameters() if p.requires_grad) / 1e6
    say(
        console,
        f"{train.name}: {counted(len(train), 'image')} to train on, {len(val) if val else 0} to "
        f"validate, {counted(len(train.names), 'class', 'classes')}; {detector.config.name}, "
        f"{learning:.2f} M trained parameters",
    )
    update = training.batch * ranks * accumulated(training, ranks)
    if update >= len(train):
        say(console, f"every optimizer step uses all {counted(len(train), 'image')}")
    else:
        wanted = (
            ""
            if update == training.effective_batch
            else f" ({training.effective_batch} were asked for)"
        )
        say(
            console,
            f"{counted(update, 'image')} per optimizer step, {training.batch} at a time{wanted}",
        )
    steps = updates(training, len(train), ranks)
    if (training.warmup or 0) > steps:
        say(
            console,
            f"warm-up takes {training.warmup} optimizer steps and the run has {steps}: the "
            "learning rate stays low; give more --epochs, or --set training.warmup=N",
        )


def tell_next(console: Console, run: Path, data: str | None, validated: bool) -> None:
    """Print the next commands for the folder of a finished run.

    ``validated`` is False where the data have no val split of their own, which ``val`` needs.
    """
    labelled = data or "--annotations JSON --images FOLDER"
    say(console, "next:")
    for words in (
        "predict --model {} IMAGES",
        *(["val {} {} --errors"] if validated else []),
        "explain --model {} IMAGE",
        "export --model {}",
    ):
        say(console, "  dabdetr " + words.format(run, labelled))
