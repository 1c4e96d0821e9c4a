"""train(): data and a choice of model → a run folder with weights, curves and numbers."""

from __future__ import annotations

import logging
import math
import time
import warnings
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any, Unpack

import torch
from pytorch_lightning import Callback, Trainer
from pytorch_lightning.loggers import Logger
from rich.console import Console

from dabdetr.checkpoints.native import load_model, save_model
from dabdetr.checkpoints.reading import read
from dabdetr.checkpoints.resize import with_queries
from dabdetr.checkpoints.transfer import initialise
from dabdetr.config import Config, Training, load
from dabdetr.config.root import parse_section
from dabdetr.data.box_formats import BoxFormat
from dabdetr.data.dataset import DetectionDataset
from dabdetr.data.layouts import anchors
from dabdetr.data.loader import training_loader
from dabdetr.evaluation.evaluate import evaluate
from dabdetr.evaluation.operating_point import with_operating_point
from dabdetr.evaluation.result import Evaluation
from dabdetr.model.detector import Detector, build
from dabdetr.report.page import PAGE
from dabdetr.runs import RunFolder, locked
from dabdetr.training.accumulation import AccumulatedBatches
from dabdetr.training.checkpoint_file import (
    CHECKPOINT,
    PREVIOUS,
    SealedCheckpointIO,
    remove_leftovers,
)
from dabdetr.training.checkpointing import RunCheckpointer, abandoned
from dabdetr.training.class_start import start_classes
from dabdetr.training.diagnosis import Diagnosis
from dabdetr.training.distributed import World, init_distributed
from dabdetr.training.ema import MovingAverage
from dabdetr.training.fingerprint import fingerprint
from dabdetr.training.history import Row, best_row, final_table, stops_early
from dabdetr.training.loggers import check_loggers, make_loggers
from dabdetr.training.module import TrainingModule
from dabdetr.training.nonfinite import NonFiniteLoss
from dabdetr.training.options import (
    ConfigOptions,
    Sources,
    choose_config,
    epochs_between_validations,
)
from dabdetr.training.planning import fit_to_data, fit_to_time, measure_pace, tell_plan
from dabdetr.training.precision import choose_precision
from dabdetr.training.progress import ProgressBar, announce, describe, say, tell_next
from dabdetr.training.resume import Checkpoint, check_config, check_data, find_checkpoint
from dabdetr.training.signals import Stop, stop_signals

SETTINGS = "config.yaml"
SOURCES = "run.yaml"
PLAIN = ("none", "imagenet")
"""Starts that are no weights of a detector."""
ENGINE_PRECISION: dict[str, Any] = {"fp32": "32-true", "bf16": "bf16-mixed", "fp16": "16-mixed"}


NOISE = (
    ".*treespec, LeafSpec.*",
    ".*GPU available but not used.*",
    r"Found \d+ module\(s\) in eval mode",  # frozen stages rest, as they should
    "Grad strides do not match bucket view strides",  # of 1×1 convolutions in channels_last
)
"""Warnings of Lightning, or about it, that mean nothing here."""


@contextmanager
def quiet_engine() -> Iterator[None]:
    """Without pytorch-lightning's banners and the warnings in ``NOISE``."""
    loggers = [logging.getLogger(n) for n in ("pytorch_lightning", "lightning_fabric")]
    before = [logger.level for logger in loggers]
    with warnings.catch_warnings():
        for message in NOISE:
            warnings.filterwarnings("ignore", message)
        for logger in loggers:
            logger.setLevel(logging.ERROR)
        try:
            yield
        finally:
            for logger, level in zip(loggers, before, strict=True):
                logger.setLevel(level)


@dataclass(frozen=True)
class Run:
    """A finished training.

    rows  one for each epoch, as in results.csv; a value that was not measured is None
    data  counts of each split that was read from files, and what was odd in it
    """

    folder: Path
    config: Config
    rows: tuple[Row, ...]
    data: tuple[dict[str, Any], ...] = ()

    @property
    def ap(self) -> float | None:
        """AP of the best epoch; None where there was no validation split."""
        return self._best("AP")

    @property
    def ap50(self) -> float | None:
        """AP50 of the best epoch."""
        return self._best("AP50")

    @property
    def weights(self) -> Path:
        """The best weights, or the last ones of a run without validation."""
        best = self.folder / "best.safetensors"
        return best if best.exists() else self.folder / "last.safetensors"

    @property
    def report(self) -> Path | None:
        """The page of its report, where there is one."""
        page = self.folder / PAGE
        return page if page.exists() else None

    def to_dict(self) -> dict[str, Any]:
        """Plain values, ready for JSON."""
        best = best_row(self.rows)
        return {
            "folder": str(self.folder),
            "weights": str(self.weights),
            "report": None if self.report is None else str(self.report),
            "best": best,
            "last": self.rows[-1],
            "data": list(self.data),
        }

    def _best(self, name: str) -> float | None:
        best = best_row(self.rows)
        return None if best is None else best[name]


@dataclass(frozen=True)
class _Here:
    """This process: its rank and device, where it prints, what signals asked for, and callbacks."""

    world: World
    console: Console
    stop: Stop
    callbacks: tuple[Callback, ...] = ()


def train(
    data: str | Path | None = None,
    model: str | Path | Config = "dab-lite",
    *,
    device: str | torch.device = "auto",
    name: str | None = None,
    project: str | Path = "runs/train",
    resume: str | Path | None = None,
    overrides: Iterable[str] = (),
    annotations: str | Path | None = None,
    images: str | Path | None = None,
    val_annotations: str | Path | None = None,
    val_images: str | Path | None = None,
    val_every: int | None = None,
    queries: int | None = None,
    queries_init: str = "keep",
    split: float | None = None,
    box_format: BoxFormat | None = None,
    strict: bool = False,
    minutes: float | None = None,
    log: Sequence[str] = (),
    callbacks: Sequence[Callback] = (),
    report: bool = True,
    against: str | Path | None = None,
    quiet: bool = False,
    **options: Unpack[ConfigOptions],
) -> Run:
    """Train a detector on ``data`` and leave a run folder ``project/name``.

    ``data``       a folder (COCO, YOLO or VOC), or "scenes"; or COCO files given apart
    ``model``      a preset's name, a config or its file, or weights (their config, and start from
                   them)
    ``options``    changes of the config by name, such as ``epochs`` (see ``ConfigOptions``)
    ``val_every``  epochs between validations; if not given, about twenty in the whole training
    ``resume``     a run folder that was interrupted: goes on exactly as if it had not been; only
                   ``device``, ``epochs``, ``patience``, ``workers``, ``log``, ``callbacks`` and
                   ``quiet`` are looked at beside it, and a ValueError names what was changed in
                   its config or its data
    ``queries``    number of queries, and ``queries_init`` how the anchors of weights that had
                   another number become so many: see ``with_queries``
    ``split``      a share of the images to train on, where the data have no split to validate on
    ``box_format`` what the four numbers of a box are, where that is not to be found out
    ``strict``     refuse data in which anything has to be left out or mended
    ``minutes``    how long the training may take on this machine: its epochs are planned so
    ``log``        loggers by name, see ``loggers.LOGGERS``; one that fails is reported and left out
    ``callbacks``  of pytorch-lightning, called after the run's own
    ``report``     leave report.html and its parts, made of the last validation, and say what can
                   be done with the weights
    ``against``    a run folder, report or COCO results file that the report compares with
    ``overrides``  ``path=value`` assignments to the config, applied last

    Ctrl-C leaves a run that can be resumed, and raises KeyboardInterrupt. A loss that is not finite
    raises NonFiniteLoss, a ValueError. Processes that torchrun started train together: each calls
    this, and gets the same run.

    >>> from dabdetr import train
    >>> run = train("demo/data", "dab-detr-nano", epochs=1, imgsz=96, name="help", quiet=True)
    >>> run.weights.name
    'best.safetensors'
    """
    started = time.monotonic()
    with stop_signals() as stop, init_distributed(device) as world:
        console = Console(stderr=True, quiet=quiet or not world.is_main, highlight=False)
        check_loggers(log)
        if against is not None:
            from dabdetr.report.earlier import check_earlier

            check_earlier(against)  # what is not there, or no JSON, is an error before all else
        here = _Here(world, console, stop, tuple(callbacks))
        if resume is not None:
            return _resume(Path(resume), here, log, options)
        config = choose_config(model, overrides, **options)
        run: RunFolder | None = None
        if world.is_main:
            remedy = "choose another name, or resume it"
            run = RunFolder(project, name, config.name, remedy, abandoned)
        chosen = choose_precision(config.training.precision, world.device)
        precision, reason = world.broadcast(chosen)  # measured, it may differ
        config = config.override([f"training.precision={precision}"])
        if queries is not None and config.training.start in PLAIN:
            config = config.override([f"model.queries.count={queries}"])
        given = {
            "data": _text(data),
            "annotations": _text(annotations),
            "images": _text(images),
            "val_annotations": _text(val_annotations),
            "val_images": _text(val_images),
            "split": split,
            "box_format": box_format,
            "queries": queries,
            "queries_init": queries_init,
            "report": report,
            "against": _text(against),
        }
        sources = parse_section(Sources, given, "train")
        splits_open = sources.open(strict, progress=not console.quiet)
        if against is not None:
            if splits_open[1] is None:
                raise ValueError(
                    "--against compares on a val split, which the data do not have; add --split"
                )
            from dabdetr.report.earlier import read_earlier

            read_earlier(against, splits_open[1])  # of other images: an error before the training
        described = describe(console, splits_open)
        if config.image.bits is None and splits_open[0].bits:
            config = config.override([f"image.bits={splits_open[0].bits}"])
        config, sources = _choose_by_data(config, sources, splits_open[0], console)
        with run or nullcontext(), locked(run.path) if run else nullcontext():
            detector = _begin(config, sources, splits_open[0], here)
            ends = None if minutes is None else started + 60 * minutes
            place = run.path if run else None
            detector.config, every = _choose_by_time(
                detector, splits_open, place, ends, val_every, here
            )
            sources = sources.model_copy(update={"val_every": every, "log": tuple(log)})
            if run is not None:
                detector.config.save(run.path / SETTINGS)
                sources.save(run.path / SOURCES)
                run.publish()
            folder = world.broadcast(run.path if run else Path())
            say(console, f"{world.device.type} in {precision} ({reason}); run folder {folder}")
            try:
                found = _fit(detector, splits_open, folder, sources, here)
                return replace(found, data=described)
            except BaseException as error:
                if run is not None and _in_vain(folder, error):
                    run.discard()
                raise


def _choose_by_data(
    config: Config, sources: Sources, data: DetectionDataset, console: Console
) -> tuple[Config, Sources]:
    """What ``fit_to_data`` chooses. A start from weights is built with the weights' queries: the
    number changes once they are loaded."""
    before = config.model.queries.count
    if sources.queries is not None and config.model.queries.kind == "from_encoder":
        config = config.override(["model.queries.per_object=null"])
    config, lines = fit_to_data(config, data)
    for line in lines:
        say(console, line)
    count = config.model.queries.count
    if count == before or config.training.start in PLAIN:
        return config, sources.model_copy(update={"initial_queries": count})
    config = config.override([f"model.queries.count={before}"])
    return config, sources.model_copy(update={"initial_queries": before, "queries": count})


def _choose_by_time(
    detector: Detector,
    data: tuple[DetectionDataset, DetectionDataset | None],
    folder: Path | None,
    ends: float | None,
    val_every: int | None,
    here: _Here,
) -> tuple[Config, int]:
    """The config with epochs that end when they should, and the epochs between validations.

    ``ends`` is a time of ``time.monotonic``. Says what is planned, and how long it takes here.
    """
    (train_data, val_data), config = data, detector.config
    sizes = len(train_data), len(val_data) if val_data else 0
    pace = here.world.broadcast(measure_pace(detector, train_data, val_data, here.world, folder))
    if ends is not None:
        left = here.world.broadcast(0.97 * (ends - time.monotonic()))
        config, every = fit_to_time(config, pace, left, *sizes)
    else:
        every = epochs_between_validations(config.training.epochs)
    every = val_every or every
    needed = pace.minutes(config, *sizes, every)
    say(here.console, tell_plan(config, needed, len(train_data)))
    return config, every


def _text(place: str | Path | None) -> str | None:
    return None if place is None else str(place)


def _begin(config: Config, sources: Sources, data: DetectionDataset, here: _Here) -> Detector:
    """The detector as the training starts from it: a function of config, seed and data."""
    if sources.initial_queries is not None:
        config = config.override([f"model.queries.count={sources.initial_queries}"])
    torch.manual_seed(config.training.seed)
    detector = build(config, data.names)
    report = initialise(detector, config.training.start)
    say(here.console, str(report))
    if report.new_classes and config.training.class_start == "data":
        say(here.console, start_classes(detector, data, report.new_classes, here.world.device))
    return with_queries(detector, sources.queries, anchors(sources.queries_init))


def _in_vain(folder: Path, error: BaseException) -> bool:
    """Whether a run ended so early, or with such data, that nothing in it is worth keeping."""
    bad_input = isinstance(error, ValueError | OSError) and not isinstance(error, NonFiniteLoss)
    trained = (folder / PREVIOUS).exists()  # the first checkpoint is of the start
    return not (folder / CHECKPOINT).exists() or (bad_input and not trained)


def _resume(resume: Path, here: _Here, log: Sequence[str], options: ConfigOptions) -> Run:
    """Go on with a run; what was changed in its config or its data meanwhile is refused."""
    folder = resume.parent if resume.name == CHECKPOINT else resume
    if not folder.is_dir():
        raise FileNotFoundError(f"there is no run folder {folder}; was it removed or renamed?")
    for needed in (SETTINGS, SOURCES):
        if not (folder / needed).is_file():
            raise FileNotFoundError(
                f"there is no run to resume in {folder}: it has no {needed}; give a run's folder"
            )
    world, console = here.world, here.console
    with locked(folder) if world.is_main else nullcontext():
        if world.is_main:
            remove_leftovers(folder)
        config = load(folder / SETTINGS)
        given = {name: options.get(name) for name in ("epochs", "patience", "workers")}
        config = config.override([f"training.{k}={v}" for k, v in given.items() if v is not None])
        choose_precision(config.training.precision, world.device)  # raises where it cannot
        sources = Sources.load(folder / SOURCES)
        sources = sources.model_copy(update={"log": tuple(log) or sources.log})
        check_loggers(sources.log)
        data, place = sources.open(), f"{world.device.type} in {config.training.precision}"
        checkpoint = world.broadcast(find_checkpoint(folder) if world.is_main else None)
        if checkpoint is None:
            say(console, f"{folder} has no checkpoint yet: beginning it on {place}")
            detector = _begin(config, sources, data[0], here)
            return _fit(detector, data, folder, sources, here)
        _check_resumable(checkpoint, config, data, folder, here)
        if world.is_main:
            config.save(folder / SETTINGS)
            sources.save(folder / SOURCES)
            path = checkpoint.restore()
        else:
            path = folder / CHECKPOINT
        world.broadcast(None)  # nobody reads before it is restored
        say(console, f"resuming {folder} on {place}")
        return _fit(build(config, data[0].names), data, folder, sources, here, path)


def _check_resumable(
    checkpoint: Checkpoint,
    config: Config,
    data: tuple[DetectionDataset, DetectionDataset | None],
    folder: Path,
    here: _Here,
) -> None:
    """Raise where the run could not go on exactly; tell what is not as it was and may be so."""
    counted = check_config(checkpoint, config, folder)
    check_data(checkpoint, *data, folder)
    done, ranks = len(checkpoint.rows), here.world.size
    if done >= config.training.epochs:
        raise ValueError(
            f"the run {folder} has finished its {done} epochs; more of them: --epochs {2 * done} "
            "beside --resume; a new training from it: "
            f"dabdetr train --model {folder / 'last.safetensors'} --data …"
        )
    if stops_early(checkpoint.rows, patience := config.training.patience):
        raise ValueError(
            f"the run {folder} ended as AP had not risen in {patience} epochs; to go on: "
            f"--patience {2 * (patience or 1)} beside --resume"
        )
    if checkpoint.mid_epoch and checkpoint.ranks != ranks:
        raise ValueError(
            f"{checkpoint.path} was written within an epoch by {checkpoint.ranks} processes, and "
            f"this run has {ranks}; start as many"
        )
    if checkpoint.fault:
        after = f"the one after epoch {done}" + (" and some steps" if checkpoint.mid_epoch else "")
        say(here.console, f"{checkpoint.fault}; going on from {after}, {checkpoint.path.name}")
    for change in counted:
        say(here.console, f"counts from here on: {change}")


def _fit(
    detector: Detector,
    data: tuple[DetectionDataset, DetectionDataset | None],
    folder: Path,
    sources: Sources,
    here: _Here,
    checkpoint: Path | None = None,
) -> Run:
    """Train until the last epoch, an interrupt or a loss that is not finite."""
    world, console = here.world, here.console
    config, (train_data, val_data) = detector.config, data
    training, rows = config.training, []
    train_data.bits = config.image.bits
    images = min(len(train_data), training.epoch_images or len(train_data))
    accumulate = max(1, round(training.effective_batch / (training.batch * world.size)))
    rank, total = (world.rank, world.size), math.ceil(images / training.batch)

    def measure(model: Detector) -> Evaluation:
        assert val_data is not None
        return evaluate(model, val_data, device=world.device, batch=training.batch)

    def loader(epoch: int) -> AccumulatedBatches:
        batches = training_loader(train_data, config, training.seed, epoch, *rank)
        return AccumulatedBatches(batches, accumulate, *rank, total)

    module = TrainingModule(detector, loader, world)
    announce(console, detector, train_data, val_data, accumulate * world.size)
    ema = None if training.ema is None else MovingAverage(training.ema)
    about = {
        "config": config.model_dump(mode="json"),
        "names": list(detector.names),
        "data": {
            "train": fingerprint(train_data),
            "val": None if val_data is None else fingerprint(val_data),
        },
    }
    diagnosis = Diagnosis(rows, partial(say, console))
    checkpointer = RunCheckpointer(
        folder,
        rows,
        measure if val_data else None,
        ema,
        sources.val_every,
        about,
        lambda: diagnosis.loading,
    )
    own = [c for c in (here.stop, ema, checkpointer, ProgressBar(console, rows), diagnosis) if c]
    loggers = make_loggers(sources.log if world.is_main else (), folder, partial(say, console))
    with quiet_engine():
        engine = _engine(training, accumulate, world, [*own, *here.callbacks], loggers, folder)
        try:
            engine.fit(module, ckpt_path=checkpoint, weights_only=True)
        except NonFiniteLoss as error:
            raise NonFiniteLoss(
                f"{error} ({checkpointer.path} holds the last good epoch)"
            ) from None
        except BaseException as error:  # interrupted, the engine exits with SystemExit
            if not (here.stop.requested or isinstance(error, KeyboardInterrupt | SystemExit)):
                raise
            if checkpointer.path.exists():
                say(console, f"go on with: dabdetr train --resume {folder}")
            raise KeyboardInterrupt from None
    if val_data is None:
        say(console, "no val split: no report, and nothing tells which epoch was the best")
    if stops_early(rows, training.patience):
        say(console, f"AP has not risen in {training.patience} epochs: training ends here")
    run = Run(folder, config, tuple(rows))
    if val_data is not None and world.is_main and best_row(rows) is not None:
        place = (world.device, training.batch)
        line, chosen, found = _choose_thresholds(run.weights, val_data, *place)
        say(console, line)
        if sources.report:
            from dabdetr.training.report import write_run_report  # draws: takes a second

            splits = (train_data, val_data)
            prints = about["data"]["train"]
            say(
                console,
                write_run_report(folder, chosen, splits, found, rows, prints, sources.against),
            )
    world.broadcast(None)  # nobody goes on before it is written
    console.print(final_table(folder, rows))
    if sources.report:
        own = val_data is not None and sources.split is None
        tell_next(console, run.weights, sources.data, validated=own)
    return run


def _choose_thresholds(
    weights: Path, data: DetectionDataset, device: torch.device, batch: int
) -> tuple[str, Config, Evaluation]:
    """Write the thresholds and calibration that fit ``data`` best into the weights; name them.

    The weights' config comes back, and what they find with it.
    """
    detector, about = load_model(weights).model, read(weights).metadata
    detector.config = detector.config.override(["inference.calibration=null"])
    found = evaluate(detector, data, device=device, batch=batch)
    try:
        chosen = with_operating_point(detector.config, data, found)
    except ValueError as error:
        line = f"the threshold stays at {detector.config.inference.conf}: {error}"
        return line, detector.config, found
    detector.config = chosen.config
    save_model(weights, detector, metadata={k: about[k] for k in ("epoch", "AP") if k in about})
    return str(chosen), chosen.config, chosen.calibrated(found)


def _engine(
    training: Training,
    accumulate: int,
    world: World,
    callbacks: Sequence[Callback],
    loggers: Sequence[Logger],
    folder: Path,
) -> Trainer:
    """pytorch-lightning's Trainer; what it would write or print is done here."""
    place, many = world.device, world.size > 1
    gpu = place.type == "cuda"
    return Trainer(
        accelerator="gpu" if gpu else place.type,
        devices=[place.index or 0] if gpu and not many else world.local_size,
        num_nodes=world.size // world.local_size,
        strategy="ddp" if many else "auto",
        precision=ENGINE_PRECISION[training.precision],
        max_epochs=training.epochs,
        accumulate_grad_batches=accumulate,
        callbacks=list(callbacks),
        reload_dataloaders_every_n_epochs=1,
        limit_val_batches=0,
        num_sanity_val_steps=0,
        logger=list(loggers) or False,
        log_every_n_steps=1,
        plugins=[SealedCheckpointIO()],
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        use_distributed_sampler=False,
        default_root_dir=folder,
    )
