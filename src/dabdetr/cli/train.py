"""`dabdetr train`: training on labelled images; a run folder with weights, curves and results."""

from __future__ import annotations

import json
import re
from pathlib import Path
from time import monotonic
from typing import TYPE_CHECKING, Annotated

import typer

from dabdetr.cli import options
from dabdetr.cli.output import print_json
from dabdetr.files import check_writable

if TYPE_CHECKING:
    from dabdetr.config import Config

PRESET = "dab-lite"
WITH_RESUME = {"resume", "device", "epochs", "patience", "workers", "log", "as_json", "quiet"}
"""Parameters that may be given with --resume; the others are those of the run."""


def train(
    context: typer.Context,
    dataset: options.Data = None,
    data: options.DataOption = None,
    model: Annotated[
        str | None,
        typer.Option(help=f"A preset (see `dabdetr models`) or weights; {PRESET} if not given."),
    ] = None,
    config: Annotated[
        Path | None, typer.Option(help="A YAML config, instead of a preset's name.")
    ] = None,
    epochs: Annotated[int | None, typer.Option(min=1, help="Passes over the images.")] = None,
    batch: Annotated[
        int | None,
        typer.Option(
            min=1, help="Images per step; gradients of several steps are accumulated for an update."
        ),
    ] = None,
    imgsz: Annotated[
        int | None, typer.Option(min=16, help="Shorter side of images in pixels.")
    ] = None,
    lr: Annotated[
        float | None,
        typer.Option(help="Learning rate; the backbone's is scaled by the same factor."),
    ] = None,
    start: Annotated[
        str | None,
        typer.Option(
            "--start",
            "--from",
            help="imagenet, none, or weights; dab-lite starts from dab-lite-base if not given.",
        ),
    ] = None,
    queries: options.Queries = None,
    queries_init: options.QueriesInit = "keep",
    only: Annotated[
        list[str] | None,
        typer.Option(
            help="Train only parameters whose names start with this: queries, decoder.heads …"
        ),
    ] = None,
    seed: Annotated[int | None, typer.Option(min=0, help="Seed of all random numbers.")] = None,
    workers: options.WorkersOrNone = None,
    patience: Annotated[
        int | None, typer.Option(min=1, help="Stop when AP has not risen for N epochs.")
    ] = None,
    time: Annotated[
        str | None,
        typer.Option(help="Plan the epochs so that training takes this long, such as 30m or 2h."),
    ] = None,
    log: Annotated[
        list[str] | None,
        typer.Option(help="tensorboard, mlflow, trackio or wandb, beside results.csv (csv)."),
    ] = None,
    assignments: Annotated[
        list[str] | None,
        typer.Option("--set", help="path=value of the config, such as training.warmup=100."),
    ] = None,
    annotations: options.Annotations = None,
    images: options.Images = None,
    val_annotations: Annotated[
        Path | None, typer.Option(help="A COCO json to validate on.")
    ] = None,
    val_images: Annotated[
        Path | None, typer.Option(help="The image folder of --val-annotations.")
    ] = None,
    split: options.TrainShare = None,
    box_format: options.BoxFormats = None,
    strict: options.Strict = False,
    val_every: Annotated[
        int | None,
        typer.Option(min=1, help="Epochs between validations; about 20 in all if not given."),
    ] = None,
    against: Annotated[
        Path | None,
        typer.Option(
            help="Compare the run's report with that of another run, or a COCO results file."
        ),
    ] = None,
    resume: Annotated[
        Path | None,
        typer.Option(
            help="Continue the interrupted run in this folder with its own settings; only "
            "--epochs, --patience, --workers, --device, --log, --json and --quiet may be added."
        ),
    ] = None,
    name: options.Name = None,
    project: options.Project = Path("runs/train"),
    output: options.RunOutput = None,
    device: options.Device = "auto",
    as_json: options.Json = False,
    quiet: options.Quiet = False,
) -> None:
    """Train a detector on your own boxes.

    Settings that are not given come from the preset; the complete config is saved with the run.

    After Ctrl-C, --resume continues the run.
    """
    started = monotonic()
    data = options.one_of(dataset, data, "data")
    project, name = options.run_place(project, name, output)
    minutes = None if time is None else read_minutes(time)
    if minutes is not None and (epochs is not None or resume is not None):
        other = "--resume" if resume is not None else "--epochs"
        raise ValueError(f"--time chooses the epochs; leave out {other} or --time")
    if model is not None and config is not None:
        raise ValueError(f"--model {model} and --config {config} were given; give one of them")
    if resume is None:
        check_writable(project)
        options.check_data(data, annotations, images)
    else:
        _check_resume(context, resume)
    # a wrong name raises before torch is imported, which takes seconds
    from dabdetr.training.options import ConfigOptions, choose_config

    chosen: str | Config = PRESET
    changes = {name: context.params[name] for name in ConfigOptions.__annotations__}
    if resume is None:
        overrides = list(assignments or [])
        if only:
            overrides.insert(0, f"training.train_only={json.dumps(only)}")
        chosen = choose_config(str(config or model or PRESET), overrides, **changes)
    from dabdetr.training.distributed import silent
    from dabdetr.training.train import train as run_training

    options.tell_choices(quiet or silent())
    run = run_training(
        data,
        chosen,
        device=device,
        name=name,
        project=project,
        resume=resume,
        annotations=annotations,
        images=images,
        val_annotations=val_annotations,
        val_images=val_images,
        val_every=val_every,
        queries=queries,
        queries_init=queries_init,
        split=split,
        box_format=options.read_box_format(box_format),
        strict=strict,
        minutes=minutes,
        started=started,
        against=against,
        log=log or (),
        quiet=quiet,
        **({"epochs": epochs, "patience": patience, "workers": workers} if resume else {}),
    )
    if as_json and not silent():
        print_json(run.to_dict())


def read_minutes(text: str) -> float:
    """Minutes of '90s', '30m', '1.5h', or of a plain number of minutes."""
    match = re.fullmatch(r"(\d+(?:\.\d+)?) *(s|m|min|h|)", text.strip())
    if match is None or not float(match[1]):
        raise ValueError(f"--time should be a number and s, m or h, such as 30m; got {text!r}")
    return float(match[1]) * {"s": 1 / 60, "h": 60.0}.get(match[2], 1.0)


def _check_resume(context: typer.Context, folder: Path) -> None:
    """ValueError for options that a resumed run ignores, FileNotFoundError for a missing run."""
    given = options.given_options(context).keys() - WITH_RESUME
    ignored = [each.opts[0] for each in context.command.params if each.name in given]
    if ignored:
        raise ValueError(
            f"--resume goes on with the run's own settings; leave out {', '.join(ignored)}; "
            "to train with others: dabdetr train --model RUN …"
        )
    if not folder.exists():
        raise FileNotFoundError(f"there is no run to resume in {folder}; check the path")
