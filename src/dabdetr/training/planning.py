"""Settings derived from the data and the machine: input size, queries, epochs."""

from __future__ import annotations

import math
import time
from contextlib import suppress
from copy import deepcopy
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from dabdetr.checkpoints.native import save_model
from dabdetr.config import Config
from dabdetr.data.dataset import DetectionDataset, Subset
from dabdetr.data.loader import Loader, training_loader
from dabdetr.evaluation.evaluate import evaluate
from dabdetr.inference.acceleration import NUMBER_TYPES
from dabdetr.model.detector import Detector
from dabdetr.text import counted
from dabdetr.training.accumulation import updates
from dabdetr.training.distributed import World
from dabdetr.training.losses import detection_loss
from dabdetr.training.matching import assign
from dabdetr.training.module import TrainingModule
from dabdetr.training.optim import parameter_groups
from dabdetr.training.options import Sources, epochs_between_validations, resized

PLAIN = ("none", "imagenet")
"""Starts that are not weights of a detector."""

MOST_EPOCHS = 300
"""Limit of the epochs that ``training.images`` sets on small data sets."""

LARGEST = 2.0
"""Limit of the input size for small objects, relative to the preset's."""

MOST_QUERIES = 300
"""Limit of the number of queries for crowded images."""


EXPLAINED = 300
"""Images whose errors the report explains; `val --errors` explains those of all images."""

PATIENCE = 20.0
"""Seconds in which steps are timed to estimate the time of a training."""

WARMUP = 200
"""Most updates of a warm-up that training chooses."""

LOOKED_AT = 2000
"""Images whose boxes are examined, evenly spaced."""


def choose_by_data(
    config: Config, sources: Sources, data: DetectionDataset
) -> tuple[Config, Sources, list[str]]:
    """The settings of ``fit_to_data``, and a line for each.

    A start from weights is built with the number of queries of the weights; it changes after they
    are loaded.
    """
    before = config.model.queries.count
    if sources.queries is not None and config.model.queries.kind == "from_encoder":
        config = config.override(["model.queries.per_object=null"])
    config, lines = fit_to_data(config, data)
    count = config.model.queries.count
    if count == before or config.training.start in PLAIN:
        return config, sources.model_copy(update={"initial_queries": count}), lines
    config = config.override([f"model.queries.count={before}"])
    return config, sources.model_copy(update={"initial_queries": before, "queries": count}), lines


def fit_to_data(config: Config, data: DetectionDataset) -> tuple[Config, list[str]]:
    """The config with settings derived from the training images, and a line for each change.

    ``image.object_size`` raises ``image.size``, ``model.queries.per_object`` raises
    ``model.queries.count``, and ``training.images`` sets ``training.epochs``; rules that are null
    change nothing. The returned config has null for the first two.
    """
    chosen = np.linspace(0, len(data) - 1, min(len(data), LOOKED_AT)).astype(int)
    records = [data.record(int(index)) for index in np.unique(chosen)]
    lines: list[str] = []
    image = config.image
    if (wanted := image.object_size) is not None:
        sides = [
            np.sqrt(np.prod(r.boxes[~r.crowd, 2:] - r.boxes[~r.crowd, :2], axis=1))
            * min(image.size / min(r.height, r.width), image.max_size / max(r.height, r.width))
            for r in records
        ]
        config, line = _fit_size(config, np.concatenate(sides), wanted)
        lines += line
    queries = config.model.queries
    if queries.kind == "from_encoder" and queries.per_object is not None:
        most = max(int((~record.crowd).sum()) for record in records)
        count = min(MOST_QUERIES, 50 * math.ceil(queries.per_object * most / 50))
        changes = ["model.queries.per_object=null"]
        if count > queries.count:
            changes.append(f"model.queries.count={count}")
            lines.append(f"{count} queries: the fullest image has {counted(most, 'object')}")
        config = config.override(changes)
    if (budget := config.training.images) is not None:
        epochs = min(MOST_EPOCHS, max(1, math.ceil(budget / len(data))))
        config = config.override([f"training.epochs={epochs}"])
    return config, lines


def _fit_size(config: Config, sides: np.ndarray, wanted: float) -> tuple[Config, list[str]]:
    """The config with an input size at which the smaller quarter of objects measures ``wanted``."""
    before, lines = config.image.size, []
    if len(sides):
        small = float(np.quantile(sides, 0.25))
        size = 32 * round(before * min(LARGEST, wanted / max(small, 1e-6)) / 32)
        if size > before:
            config = config.override(resized(config, size))
            if (images := config.training.images) is not None:  # larger inputs cost more time
                config = config.override([f"training.images={round(images * before / size)}"])
            lines.append(
                f"shorter side {size} pixels, not {before}: a quarter of the objects would be "
                f"smaller than {small:.0f} pixels"
            )
    return config.override(["image.object_size=null"]), lines


@dataclass(frozen=True)
class Pace:
    """Seconds on this machine: per image in training and in validation, and per epoch for files."""

    train: float
    val: float
    files: float = 0.0

    def minutes(self, config: Config, train: int, val: int, every: int) -> float:
        """Minutes of a run with ``train`` images an epoch, validated on ``val`` images."""
        epochs = config.training.epochs
        images = min(train, config.training.epoch_images or train)
        each = images * self.train + self.files
        validated = math.ceil(epochs / every) * val + at_the_end(val)
        return (epochs * each + validated * self.val) / 60


def at_the_end(val: int) -> int:
    """Images detected after the last epoch: all for thresholds, some for causes of errors."""
    return val + min(val, EXPLAINED)


def measure_pace(
    detector: Detector,
    train: DetectionDataset,
    val: DetectionDataset | None,
    world: World,
    folder: Path | None = None,
) -> Pace:
    """Time a few steps of training and validation on a copy, without touching random states.

    No step begins after ``PATIENCE`` seconds. Files written into ``folder`` to time the disk are
    removed.
    """
    training, loss, device = detector.config.training, detector.config.loss, world.device
    precision = NUMBER_TYPES.get(training.precision)
    with torch.random.fork_rng(devices=[device] if device.type == "cuda" else []):
        module = TrainingModule(deepcopy(detector).to(device), lambda _: ())
        module.detector.train()
        groups = [group | {"lr": 0.0} for group in parameter_groups(module.detector, training)]
        optimizer = torch.optim.AdamW(groups, fused=device.type in ("cpu", "cuda"))
        batches = iter(_typical(training_loader(train, detector.config, training.seed, 0)))
        seconds: list[float] = []
        while sum(seconds) < PATIENCE:
            started = time.perf_counter()
            if (batch := next(batches, None)) is None:
                break
            images, targets = (part.to(device) for part in batch)
            with torch.autocast(device.type, precision, enabled=precision is not None):
                predictions = module.detector(images, targets)
                objects = torch.tensor(float(max(1, sum(targets.counts))), device=device)
                pairs = assign(predictions, targets, loss)
                total, _ = detection_loss(predictions, targets, loss, pairs, objects)
            total.backward()
            if device.type == "cuda":
                torch.cuda.synchronize(device)
            optimizer.step()
            optimizer.zero_grad()
            seconds.append(time.perf_counter() - started)
        of_val = 0.0
        if val is not None:
            few = Subset(val, range(min(len(val), 2 * training.batch)))
            started = time.perf_counter()
            with suppress(ValueError):  # of broken weights: the first step reports which
                evaluate(module.detector, few, device=device, batch=training.batch)
            of_val = (time.perf_counter() - started) / len(few)
    warm = seconds[1:] or seconds
    return Pace(sum(warm) / len(warm) / training.batch, of_val, _files(detector, folder))


def _files(detector: Detector, folder: Path | None) -> float:
    """Seconds to write an epoch's weights and checkpoint: six times those of the weights alone."""
    if folder is None:
        return 0.0
    place, started = folder / ".pace", time.perf_counter()
    try:
        save_model(place, detector)
        # last.safetensors, and in the checkpoint weights, average and two moments
        return 6 * (time.perf_counter() - started)
    finally:
        place.unlink(missing_ok=True)


def _typical(loader: Loader) -> Loader:
    """Five of the loader's batches with the most typical input size."""
    full = len(loader.batches[0])
    batches = sorted((b for b in loader.batches if len(b) == full), key=lambda b: b[0].side)
    middle = max(0, len(batches) // 2 - 2)
    return Loader(loader.source, batches[middle : middle + 5], loader.collate, 0)


def fit_to_time(
    config: Config, pace: Pace, seconds: float, train: int, val: int
) -> tuple[Config, int]:
    """The epochs that fit into ``seconds``, and the epochs between validations.

    ``training.epoch_images`` shortens the epoch until a whole number fits. ValueError if not even
    one update fits.
    """
    validation = val * pace.val
    most = min(20, max(1, int(0.15 * seconds / validation))) if validation else 1
    validated = most * validation + at_the_end(val) * pace.val
    images = int((seconds - validated) / (pace.train + pace.files / train))
    update = config.training.effective_batch
    if images < update:
        needed = (validated + update * pace.train) / 60
        raise ValueError(
            f"a training that ends in {duration(seconds)} sees no {counted(update, 'image')} on "
            f"this machine; give it at least {counted(math.ceil(needed), 'minute')}, or a "
            "smaller --imgsz"
        )
    epochs = math.ceil(images / train)
    part = math.ceil(images / epochs)
    config = config.override(
        [
            f"training.epochs={epochs}",
            "training.images=null",
            f"training.epoch_images={part if part < train else 'null'}",
        ]
    )
    return config, math.ceil(epochs / most)


def choose_by_time(
    detector: Detector,
    data: tuple[DetectionDataset, DetectionDataset | None],
    folder: Path | None,
    ends: float | None,
    val_every: int | None,
    world: World,
) -> tuple[Config, int, str]:
    """The config with the planned epochs, the epochs between validations, and a line for it.

    ``ends`` is a time of ``time.monotonic``.
    """
    (train_data, val_data), config = data, detector.config
    sizes = len(train_data), len(val_data) if val_data else 0
    pace = world.broadcast(measure_pace(detector, train_data, val_data, world, folder))
    if ends is not None:
        left = world.broadcast(0.97 * (ends - time.monotonic()))
        config, every = fit_to_time(config, pace, left, *sizes)
    else:
        every = epochs_between_validations(config.training.epochs)
    every = val_every or every
    config = choose_warmup(config, sizes[0], world.size)
    needed = pace.minutes(config, *sizes, every)
    return config, every, tell_plan(config, needed, len(train_data))


def choose_warmup(config: Config, images: int, ranks: int) -> Config:
    """The config with a warm-up of a tenth of all updates, if the training should choose it."""
    if config.training.warmup is not None:
        return config
    warmup = min(WARMUP, updates(config.training, images, ranks) // 10)
    return config.override([f"training.warmup={warmup}"])


def tell_plan(config: Config, minutes: float, train: int) -> str:
    """One line: the plan of the training, and its estimated time here."""
    training = config.training
    images = min(train, training.epoch_images or train)
    return (
        f"plan: {counted(training.epochs, 'epoch')} of {counted(images, 'image')}"
        + (f" out of {train}" if images < train else "")
        + f", shorter side {config.image.size} pixels, about {duration(60 * minutes)} on this "
        "machine, validation included"
    )


def duration(seconds: float) -> str:
    """Seconds, minutes or hours, in the unit a person would choose."""
    if seconds < 90:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 5400 else f"{seconds / 3600:.1f} h"
