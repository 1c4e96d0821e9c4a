"""train(): data and a choice of model → a run folder with weights, curves and numbers."""

from __future__ import annotations

import math
import time
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any, Unpack

import torch
from pytorch_lightning import Callback
from rich.console import Console

from dabdetr.checkpoints.resize import with_queries
from dabdetr.checkpoints.transfer import initialise
from dabdetr.config import Config, load
from dabdetr.config.root import parse_section
from dabdetr.data.augmentation import Transform
from dabdetr.data.box_formats import BoxFormat
from dabdetr.data.dataset import DetectionDataset
from dabdetr.data.layouts import anchors
from dabdetr.data.loader import training_loader
from dabdetr.evaluation.evaluate import evaluate
from dabdetr.evaluation.result import Evaluation
from dabdetr.model.detector import Detector, build
from dabdetr.runs import RunFolder, locked
from dabdetr.text import counted
from dabdetr.training.accumulation import AccumulatedBatches, accumulated
from dabdetr.training.checkpoint_file import CHECKPOINT, PREVIOUS, remove_leftovers
from dabdetr.training.checkpointing import RunCheckpointer, abandoned
from dabdetr.training.class_start import start_classes
from dabdetr.training.diagnosis import Diagnosis
from dabdetr.training.distributed import World, init_distributed
from dabdetr.training.ema import MovingAverage
from dabdetr.training.engine import make_engine, quiet_engine
from dabdetr.training.fingerprint import fingerprint
from dabdetr.training.history import best_row, final_table, stops_early
from dabdetr.training.loggers import check_loggers, make_loggers
from dabdetr.training.module import TrainingModule
from dabdetr.training.nonfinite import NonFiniteLoss
from dabdetr.training.options import ConfigOptions, Sources, choose_config
from dabdetr.training.planning import PLAIN, TimeGiven, choose_by_data, choose_by_time
from dabdetr.training.precision import choose_precision
from dabdetr.training.progress import ProgressBar, announce, describe, say, tell_next
from dabdetr.training.resume import check_resumable, find_checkpoint
from dabdetr.training.run import Run
from dabdetr.training.signals import Stop, stop_signals
from dabdetr.training.thresholds import choose_thresholds

Splits = tuple[DetectionDataset, DetectionDataset | None]
"""The data to train on, and to validate on if there are any."""
SETTINGS = "config.yaml"
SOURCES = "run.yaml"


@dataclass(frozen=True)
class _Here:
    """This process: rank and device, console, stop signals, arguments that only Python has, and
    the time that the training may take.
    """

    world: World
    console: Console
    stop: Stop
    callbacks: tuple[Callback, ...] = ()
    transform: Transform | None = None
    given: TimeGiven | None = None


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
    started: float | None = None,
    log: Sequence[str] = (),
    callbacks: Sequence[Callback] = (),
    transform: Transform | None = None,
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
    ``resume``     an interrupted run's folder: continues as if it had not been interrupted; only
                   ``device``, ``epochs``, ``patience``, ``workers``, ``log``, ``callbacks`` and
                   ``quiet`` may be given as well, and the run's ``transform`` must be. A ValueError
                   names changes of the config or the data
    ``queries``    number of queries, and ``queries_init`` how the anchors of weights that had
                   another number become so many: see ``with_queries``
    ``split``      a share of the images to train on, where the data have no split to validate on
    ``box_format`` what the four numbers of a box are, where that is not to be found out
    ``strict``     refuse data in which anything has to be left out or repaired
    ``minutes``    how long the training may take on this machine: its epochs are planned so.
                   They count from ``started``, a ``time.monotonic``, or from now
    ``log``        loggers by name, see ``loggers.LOGGERS``; one that fails is reported and left out
    ``callbacks``  of pytorch-lightning, called after the run's own
    ``transform``  your own augmentation, before the config's: a function of image (RGB uint8
                   [height, width, 3]), boxes ([objects, 4] x0 y0 x1 y1 in pixels), labels and a
                   numpy random generator, which returns image, boxes and labels. Only the random
                   generator makes a resumed run repeat a straight one
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
    started = time.monotonic() if started is None else started
    given = None if minutes is None else TimeGiven(started, 60 * minutes)
    with stop_signals() as stop, init_distributed(device) as world:
        console = Console(stderr=True, quiet=quiet or not world.is_main, highlight=False)
        check_loggers(log)
        if against is not None:
            from dabdetr.report.earlier import check_earlier

            check_earlier(against)  # a missing or damaged file: an error before the training
        here = _Here(world, console, stop, tuple(callbacks), transform, given)
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
        fields = {
            "data": _text(data),
            "annotations": _text(annotations),
            "images": _text(images),
            "val_annotations": _text(val_annotations),
            "val_images": _text(val_images),
            "split": split,
            "box_format": box_format,
            "queries": queries,
            "queries_init": queries_init,
            "transform": _name(transform),
            "report": report,
            "against": _text(against),
        }
        sources = parse_section(Sources, fields, "train")
        splits = _open(sources, strict, console)
        described = describe(console, splits)
        if config.image.bits is None and splits[0].bits:
            config = config.override([f"image.bits={splits[0].bits}"])
        config, sources, lines = choose_by_data(config, sources, splits[0])
        for line in lines:
            say(console, line)
        with run or nullcontext(), locked(run.path) if run else nullcontext():
            detector = _begin(config, sources, splits[0], here)
            place = run.path if run else None
            detector.config, every, plan = choose_by_time(
                detector, splits, place, given, val_every, report, world
            )
            say(console, plan)
            sources = sources.model_copy(update={"val_every": every, "log": tuple(log)})
            if run is not None:
                detector.config.save(run.path / SETTINGS)
                sources.save(run.path / SOURCES)
                run.publish()
            folder = world.broadcast(run.path if run else Path())
            say(console, f"{world.device.type} in {precision} ({reason}); run folder {folder}")
            try:
                with _named_if_removed(folder):
                    return replace(_fit(detector, splits, folder, sources, here), data=described)
            except BaseException as error:
                bad_input = isinstance(error, ValueError | OSError)
                bad_input = bad_input and not isinstance(error, NonFiniteLoss)
                trained = (folder / PREVIOUS).exists()  # the first checkpoint is that of the start
                begun = (folder / CHECKPOINT).exists()
                if run is not None and (not begun or (bad_input and not trained)):
                    run.discard()  # it ended before anything worth keeping
                raise


def _open(sources: Sources, strict: bool, console: Console) -> Splits:
    """The data, and an error before the training where ``against`` was run on other images."""
    splits = sources.open(strict, progress=not console.quiet)
    if sources.against is not None:
        if splits[1] is None:
            raise ValueError(
                "--against compares on a val split, which the data do not have; add --split"
            )
        from dabdetr.report.earlier import read_earlier

        read_earlier(sources.against, splits[1])
    return splits


def _text(place: str | Path | None) -> str | None:
    return None if place is None else str(place)


def _name(transform: Transform | None) -> str | None:
    """The name of a function, as stored in a run's folder."""
    return (
        None if transform is None else getattr(transform, "__qualname__", type(transform).__name__)
    )


def _begin(config: Config, sources: Sources, data: DetectionDataset, here: _Here) -> Detector:
    """The detector at the start of the training: a function of config, seed and data."""
    if sources.initial_queries is not None:
        config = config.override([f"model.queries.count={sources.initial_queries}"])
    torch.manual_seed(config.training.seed)
    detector = build(config, data.names)
    report = initialise(detector, config.training.start)
    say(here.console, str(report))
    if report.new_classes and config.training.class_start == "data":
        say(here.console, start_classes(detector, data, report.new_classes, here.world.device))
    return with_queries(detector, sources.queries, anchors(sources.queries_init))


def _resume(resume: Path, here: _Here, log: Sequence[str], options: ConfigOptions) -> Run:
    """Resume a run; changes of its config or its data are refused."""
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
        choose_precision(config.training.precision, world.device)  # raises if unusable here
        sources = Sources.load(folder / SOURCES)
        sources = sources.model_copy(update={"log": tuple(log) or sources.log})
        check_loggers(sources.log)
        if (name := _name(here.transform)) != sources.transform:
            raise ValueError(
                f"the run {folder} was trained with transform={sources.transform}; got {name}; to "
                f"go on, in Python: train(resume={str(folder)!r}, transform={sources.transform})"
            )
        data, place = sources.open(), f"{world.device.type} in {config.training.precision}"
        checkpoint = world.broadcast(find_checkpoint(folder) if world.is_main else None)
        if checkpoint is None:
            say(console, f"{folder} has no checkpoint yet: beginning it on {place}")
            detector = _begin(config, sources, data[0], here)
            with _named_if_removed(folder):
                return _fit(detector, data, folder, sources, here)
        for line in check_resumable(checkpoint, config, data, folder, world.size):
            say(console, line)
        if world.is_main:
            config.save(folder / SETTINGS)
            sources.save(folder / SOURCES)
            path = checkpoint.restore()
        else:
            path = folder / CHECKPOINT
        world.broadcast(None)  # no rank reads before it is restored
        say(console, f"resuming {folder} on {place}")
        with _named_if_removed(folder):
            return _fit(build(config, data[0].names), data, folder, sources, here, path)


@contextmanager
def _named_if_removed(folder: Path) -> Iterator[None]:
    """Name the run folder, not a file in it, in the error where it was removed meanwhile."""
    try:
        yield
    except FileNotFoundError:
        if folder.is_dir():
            raise
        raise FileNotFoundError(
            f"the run folder {folder} is gone: it was removed or renamed during the training; "
            "rename it back and --resume it, or start a new run"
        ) from None


def _fit(
    detector: Detector,
    data: Splits,
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
    accumulate = accumulated(training, world.size)
    rank, total = (world.rank, world.size), math.ceil(images / training.batch)

    def measure(model: Detector) -> Evaluation:
        assert val_data is not None
        return evaluate(model, val_data, device=world.device, batch=training.batch)

    def loader(epoch: int) -> AccumulatedBatches:
        batches = training_loader(train_data, config, training.seed, epoch, *rank, here.transform)
        return AccumulatedBatches(batches, accumulate, *rank, total)

    module = TrainingModule(detector, loader, world)
    announce(console, detector, train_data, val_data, world.size)
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
    callbacks = (here.stop, ema, checkpointer, ProgressBar(console, rows), diagnosis)
    callbacks = [*(each for each in callbacks if each is not None), *here.callbacks]
    loggers = make_loggers(sources.log if world.is_main else (), folder, partial(say, console))
    with quiet_engine():
        engine = make_engine(training, accumulate, world, callbacks, loggers, folder)
        try:
            engine.fit(module, ckpt_path=checkpoint, weights_only=True)
        except NonFiniteLoss as error:
            raise NonFiniteLoss(
                f"{error} ({checkpointer.path} holds the last good epoch)"
            ) from None
        except BaseException as error:  # after an interrupt the engine raises SystemExit
            if not (here.stop.requested or isinstance(error, KeyboardInterrupt | SystemExit)):
                raise
            if checkpointer.path.exists():
                say(console, f"go on with: dabdetr train --resume {folder}")
            raise KeyboardInterrupt from None
    run = Run(folder, config, tuple(rows))
    _finish(run, data, sources, here, about["data"]["train"])
    return run


def _finish(
    run: Run,
    data: Splits,
    sources: Sources,
    here: _Here,
    train_fingerprint: dict[str, Any],
) -> None:
    """After the last epoch: choose thresholds, write the report, print numbers and what is next."""
    world, console, rows = here.world, here.console, run.rows
    train_data, val_data = data
    patience = run.config.training.patience
    if val_data is None:
        say(console, "no val split: no report, and nothing tells which epoch was the best")
    if stops_early(rows, patience):
        say(console, f"AP has not risen in {counted(patience or 0, 'epoch')}: training ends here")
    if val_data is not None and world.is_main and best_row(rows) is not None:
        batch = run.config.training.batch
        line, chosen, found = choose_thresholds(run.weights, val_data, world.device, batch)
        say(console, line)
        if sources.report:
            from dabdetr.training.report import write_run_report  # matplotlib takes a second

            line = write_run_report(
                replace(run, config=chosen),
                (train_data, val_data),
                train_fingerprint,
                found,
                here.transform,
                world.device,
                sources.against,
            )
            say(console, line)
    world.broadcast(None)  # no rank continues before it is written
    ended_early = rows[-1]["epoch"] != run.config.training.epochs
    if here.given is not None and not ended_early and (line := here.given.missed()):
        say(console, line)
    console.print(final_table(run.folder, rows))
    if sources.report:
        validated = val_data is not None and sources.split is None
        tell_next(console, run.folder, sources.data, validated=validated)
