"""Settings derived from the data and the machine: input size, queries, epochs."""

from __future__ import annotations

import math
import time
from contextlib import suppress
from copy import deepcopy
from dataclasses import dataclass, replace
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
from dabdetr.text import counted, duration
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

FINDABLE = 8
"""Pixels of an object in the input below which most are missed: one cell of stride 8."""

MOST_QUERIES = 300
"""Limit of the number of queries for crowded images."""


EXPLAINED = 300
"""Images whose errors the report explains; `val --errors` explains those of all images."""

PATIENCE = 20.0
"""Most seconds in which steps are timed to estimate the time of a training."""

TIMED = 5
"""Most steps that are timed."""

REPORT = 8.0
"""Seconds to draw the report's figures and pages on one core."""

WARMUP = 200
"""Most updates of a warm-up that training chooses."""

MISSED = 0.1
"""Deviation from a given time that is reported."""

SHORT = 600
"""Seconds of a plan from which ``--time`` is mentioned."""

RESERVE = 0.97
"""Share of a given time that is planned."""

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
            line = f"{count} queries: the fullest image has {counted(most, 'object')}"
            if count < queries.per_object * most:
                line += "; that is the most training chooses, --queries sets more"
            lines.append(line)
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
                f"smaller than {counted(round(small), 'pixel')}"
            )
            if (still := round(small * size / before)) < FINDABLE:
                lines.append(
                    f"at {size} pixels they are smaller than {counted(still, 'pixel')}, too small "
                    "to find most: dabdetr data stats recommends a size and tiles"
                )
    return config.override(["image.object_size=null"]), lines


@dataclass(frozen=True)
class TimeGiven:
    """The seconds that a training may take, from ``started``, a ``time.monotonic``."""

    started: float
    seconds: float

    def spent(self) -> float:
        """Seconds since the start."""
        return time.monotonic() - self.started

    def missed(self) -> str:
        """A sentence if the training, which ends now, took much more or less time; else empty."""
        spent = self.spent()
        if abs(spent - self.seconds) <= MISSED * self.seconds:
            return ""
        speed = "slower" if spent > self.seconds else "faster"
        return (
            f"the training took {duration(spent)} for {duration(self.seconds)} given: this machine "
            f"was {speed} than in the steps that were timed for the plan"
        )


@dataclass(frozen=True)
class Pace:
    """Seconds on this machine: per image in training and in validation, per epoch for files, and
    for a report at the end."""

    train: float
    val: float
    files: float = 0.0
    report: float = 0.0

    def seconds(self, config: Config, train: int, val: int, every: int) -> float:
        """Seconds of a run with ``train`` images an epoch, validated on ``val`` images."""
        epochs = config.training.epochs
        images = min(train, config.training.epoch_images or train)
        each = images * self.train + self.files
        validations = math.ceil(epochs / every) * val * self.val
        return epochs * each + validations + self.at_the_end(val)

    def at_the_end(self, val: int) -> float:
        """Seconds after the last epoch: thresholds, causes of errors, and the report."""
        return (val + min(val, EXPLAINED)) * self.val + (self.report if val else 0.0)


def measure_pace(
    detector: Detector,
    train: DetectionDataset,
    val: DetectionDataset | None,
    world: World,
    folder: Path | None = None,
    patience: float = PATIENCE,
) -> Pace:
    """Time a few steps of training and validation on a copy, without touching random states.

    The first step is slower and not counted; after the second, none begins after ``patience``
    seconds. Files written into ``folder`` to time the disk are removed.
    """
    training, loss, device = detector.config.training, detector.config.loss, world.device
    precision = NUMBER_TYPES.get(training.precision)
    with torch.random.fork_rng(devices=[device] if device.type == "cuda" else []):
        module = TrainingModule(deepcopy(detector).to(device), lambda _: ())
        module.detector.train()
        groups = [group | {"lr": 0.0} for group in parameter_groups(module.detector, training)]
        optimizer = torch.optim.AdamW(groups, fused=device.type in ("cpu", "cuda"))
        loader = _typical(training_loader(train, detector.config, training.seed, 0))
        batches, seconds = iter(loader), []
        while len(seconds) < 2 or sum(seconds) < patience:
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
    per_image = sum(seconds[1:]) / len(seconds[1:]) / len(loader.batches[0])
    return Pace(per_image, of_val, _files(detector, folder))


def _files(detector: Detector, folder: Path | None) -> float:
    """Seconds to write an epoch's weights and checkpoint: six times those of the weights alone."""
    if folder is None:
        return 0.0
    place, seconds = folder / ".pace", []
    try:
        for _ in range(2):  # the first time is slower
            started = time.perf_counter()
            save_model(place, detector)
            seconds.append(time.perf_counter() - started)
    finally:
        place.unlink(missing_ok=True)
    # last.safetensors, and in the checkpoint weights, average and two moments
    return 6 * seconds[-1]


def _typical(loader: Loader) -> Loader:
    """``TIMED`` full batches of the loader with the most typical input size; few are repeated."""
    full = len(loader.batches[0])
    batches = sorted((b for b in loader.batches if len(b) == full), key=lambda b: b[0].side)
    middle = max(0, (len(batches) - TIMED) // 2)
    chosen = batches[middle : middle + TIMED]
    repeated = chosen * math.ceil(TIMED / len(chosen))
    return Loader(loader.source, repeated[:TIMED], loader.collate, 0)


def fit_to_time(
    config: Config, pace: Pace, seconds: float, train: int, val: int, spent: float = 0.0
) -> tuple[Config, int]:
    """The epochs that fit into ``seconds``, and the epochs between validations.

    ``training.epoch_images`` shortens the epoch until a whole number fits. ``spent`` seconds of the
    time are over. ValueError if not even one update fits.
    """
    validation, left = val * pace.val, RESERVE * (seconds - spent)
    most = min(20, max(1, int(0.15 * left / validation))) if validation else 1
    validated = most * validation + pace.at_the_end(val)
    images = int((left - validated) / (pace.train + pace.files / train))
    update = config.training.effective_batch
    if images < min(update, train):
        needed = spent + (validated + update * pace.train + pace.files) / RESERVE
        raise ValueError(
            f"a training that ends in {duration(seconds)} sees no {counted(update, 'image')} on "
            f"this machine; give it at least {counted(math.ceil(needed / 60), 'minute')}, or a "
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
    given: TimeGiven | None,
    val_every: int | None,
    report: bool,
    world: World,
) -> tuple[Config, int, str]:
    """The config with the planned epochs, the epochs between validations, and a line for it.

    Files written into ``folder`` to time the disk are removed; ``report`` is whether the run ends
    with one.
    """
    (train_data, val_data), config = data, detector.config
    sizes = len(train_data), len(val_data) if val_data else 0
    patience = PATIENCE if given is None else min(PATIENCE, 0.1 * given.seconds)
    pace = measure_pace(detector, train_data, val_data, world, folder, patience)
    pace = world.broadcast(replace(pace, report=REPORT if report else 0.0))
    if given is not None:
        spent = world.broadcast(given.spent())
        config, every = fit_to_time(config, pace, given.seconds, *sizes, spent)
    else:
        every = epochs_between_validations(config.training.epochs)
    every = val_every or every
    config = choose_warmup(config, sizes[0], world.size)
    needed = pace.seconds(config, *sizes, every)
    plan = tell_plan(config, needed, len(train_data))
    if given is not None:
        plan += f"; {duration(given.spent())} of the {duration(given.seconds)} given are over"
    return config, every, plan


def choose_warmup(config: Config, images: int, ranks: int) -> Config:
    """The config with a warm-up of a tenth of all updates, if the training should choose it."""
    if config.training.warmup is not None:
        return config
    warmup = min(WARMUP, updates(config.training, images, ranks) // 10)
    return config.override([f"training.warmup={warmup}"])


def tell_plan(config: Config, seconds: float, train: int) -> str:
    """One line: the plan of the training, and its estimated time here."""
    training = config.training
    images = min(train, training.epoch_images or train)
    chosen = training.images is not None
    return (
        f"plan: {counted(training.epochs, 'epoch')} of {counted(images, 'image')}"
        + (f" out of {train}" if images < train else "")
        + f", input of up to {config.image.size}×{config.image.max_size} pixels, about "
        f"{duration(seconds)} on this machine, validation included"
        + ("; --time 10m would plan for 10 minutes" if chosen and seconds > SHORT else "")
    )
