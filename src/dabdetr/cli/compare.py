"""`dabdetr compare`: training of several models on the same data and seeds, in one table."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated, Any

import typer

from dabdetr.cli import options
from dabdetr.cli.output import print_json, say
from dabdetr.files import check_writable


def compare(
    models: Annotated[
        list[str] | None, typer.Argument(help="Presets, config files or weights, two or more.")
    ] = None,
    data: options.DataOption = None,
    seeds: Annotated[
        int | None, typer.Option(min=1, max=1000, help="Number of seeds per model; 3 if not given.")
    ] = None,
    epochs: Annotated[
        int | None, typer.Option(min=1, help="Passes over the images; each model's own if not.")
    ] = None,
    batch: Annotated[int | None, typer.Option(min=1, help="Images per step.")] = None,
    imgsz: Annotated[
        int | None, typer.Option(min=16, help="Shorter side of images in pixels, for all.")
    ] = None,
    start: Annotated[
        str | None,
        typer.Option("--start", "--from", help="imagenet, none, or weights; each model's own."),
    ] = None,
    workers: options.WorkersOrNone = None,
    assignments: Annotated[
        list[str] | None,
        typer.Option("--set", help="path=value of every config, such as training.lr=1e-4."),
    ] = None,
    val_every: Annotated[
        int | None,
        typer.Option(min=1, help="Epochs between validations; about 20 validations if not given."),
    ] = None,
    split: options.TrainShare = None,
    jobs: Annotated[
        int, typer.Option(min=1, help="Number of trainings at a time, each in its own process.")
    ] = 1,
    resume: Annotated[
        Path | None,
        typer.Option(help="Continue the comparison in this folder; models and seeds may be added."),
    ] = None,
    report: Annotated[
        Path | None, typer.Option(help="Write the report of the comparison in this folder again.")
    ] = None,
    name: options.Name = None,
    project: options.Project = Path("runs/compare"),
    output: options.RunOutput = None,
    device: options.Device = "auto",
    as_json: options.Json = False,
    quiet: options.Quiet = False,
) -> None:
    """Train several models on your data alike, and compare them.

    Seeds and options are the same for all. Each training has a run folder like those of
    `train`. After Ctrl-C, --resume continues the comparison. Its folder gets report.md, table.csv
    and curves.png.
    """
    project, name = options.run_place(project, name, output)
    given = {
        "epochs": epochs,
        "batch": batch,
        "imgsz": imgsz,
        "start": start,
        "workers": workers,
        "overrides": tuple(assignments) if assignments else None,
        "val_every": val_every,
        "split": split,
    }
    given = {key: value for key, value in given.items() if value is not None}
    begun = resume or report
    if begun is None and (len(models or []) < 2 or data is None):
        raise ValueError("compare needs two models or more, and --data")
    if begun is not None and (data is not None or given):
        named = ", ".join([*(["data"] if data else []), *given])
        raise ValueError(
            f"a comparison that was begun keeps its {named}; --resume takes models and --seeds, "
            "and --report takes no other option"
        )
    options.check_folder(data)
    if begun is None:
        check_writable(project)
    if report is not None:
        folder, failed = report, []
    else:
        if resume is None:
            folder = _begin(str(data), given, device, project, name, models or [], seeds)
        else:
            from dabdetr.compare.plan import Settings
            from dabdetr.compare.run import extend

            folder, settings = resume, Settings.load(resume)
            configs = settings.configs(models or [])
            extend(folder, settings.extended(configs, seeds), configs)
        failed = _train(folder, jobs, device, quiet)
    from dabdetr.compare.report import write_report

    document = write_report(folder) | {"failed": failed}
    if as_json:
        print_json(document)
    elif not quiet:
        _print(document)
    if failed:
        raise typer.Exit(1)


def _begin(
    data: str,
    given: dict[str, Any],
    device: str,
    project: Path,
    name: str | None,
    models: list[str],
    seeds: int | None,
) -> Path:
    """The folder of a new comparison, made after its models and data were checked."""
    from dabdetr.compare.plan import Settings

    configs = Settings(data=data, **given).configs(models)  # a wrong name raises before torch loads
    from dabdetr.compare.run import begin, check
    from dabdetr.inference.device import choose_device
    from dabdetr.training.precision import choose_precision

    precision, _ = choose_precision("auto", choose_device(device))
    settings = Settings(data=data, precision=precision, **given)
    check(data, settings.split)
    configs = settings.configs(models)
    return begin(project, name, settings.extended(configs, seeds), configs)


def _train(folder: Path, jobs: int, device: str, quiet: bool) -> list[str]:
    """Run the unfinished trainings of a comparison; returns the names of runs that failed."""
    from dabdetr.compare.plan import Settings, plan
    from dabdetr.compare.run import train_all

    tasks = plan(Settings.load(folder), folder)
    try:
        return train_all(tasks, folder, jobs, device, lambda text: say(text, quiet))
    except KeyboardInterrupt:
        say(f"go on with: dabdetr compare --resume {folder}", quiet)
        raise


def _print(document: dict[str, Any]) -> None:
    from rich.table import Table
    from rich.text import Text

    from dabdetr.cli.output import console

    rows = document["table"]
    name, *columns = rows[0]
    table = Table()
    table.add_column(name, no_wrap=True, overflow="fold")
    for column in columns:
        table.add_column(column)
    for row in rows:
        table.add_row(*map(Text, row.values()))
    console().print(table)
    say(f"report: {document['report']}")


def ladder(context: typer.Context) -> None:
    """The race of the family; it is now `python -m experiments.race` of the repository."""
    import dabdetr

    root = Path(dabdetr.__file__).parents[2]
    say(
        "note: `dabdetr ladder` is `python -m experiments.race` of the repository now; for models "
        "on your own data there is `dabdetr compare`"
    )
    if not (root / "experiments" / "race").is_dir():
        raise ModuleNotFoundError(
            "the race of the family is not installed; clone the repository, or use `dabdetr "
            "compare A B --data …`"
        )
    sys.path.insert(0, str(root))
    from experiments.race.__main__ import main  # pyright: ignore[reportMissingImports]

    main(context.args)
