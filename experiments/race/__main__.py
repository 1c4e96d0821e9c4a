"""``python -m experiments.race``: the family trained side by side, and its claims judged."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from dabdetr.cli.options import Device, Json, Name, Quiet
from dabdetr.cli.output import print_json, say

if TYPE_CHECKING:
    from experiments.race.plan import Settings

    from dabdetr.compare.plan import Task

UNTRACKED = "*.safetensors\n*.ckpt\n*.part\nrun.yaml\nrace/*/curves.png\nlogs/\n.*.*\n"
"""What version control should leave: with this file in it, a race's folder can be added whole."""


def race(
    data: Annotated[
        str | None, typer.Option(help="scenes, or a folder (COCO, YOLO or VOC).")
    ] = None,
    rungs: Annotated[
        str | None, typer.Option(help="Names with commas between; all, if not given.")
    ] = None,
    sizes: Annotated[
        str | None, typer.Option(help="Longer sides in pixels: 96,160,224 if not given.")
    ] = None,
    seeds: Annotated[
        int | None, typer.Option(min=1, help="Seeds for each rung; 3 if not given.")
    ] = None,
    epochs: Annotated[
        int | None, typer.Option(min=1, help="Epochs of every rung but DETR; 30 if not given.")
    ] = None,
    detr_epochs: Annotated[
        int | None, typer.Option(min=1, help="Epochs of DETR; 90 if not given.")
    ] = None,
    val_every: Annotated[
        int | None, typer.Option(min=1, help="Epochs between validations; 1 if not given.")
    ] = None,
    start: Annotated[
        str | None,
        typer.Option("--start", "--from", help="taught (a body by us), imagenet, none, weights."),
    ] = None,
    body_steps: Annotated[
        int | None,
        typer.Option(min=1, help="Steps in which that body is taught; 800 if not given."),
    ] = None,
    assignments: Annotated[
        list[str] | None, typer.Option("--set", help="path=value of every rung's config.")
    ] = None,
    jobs: Annotated[
        int | None,
        typer.Option(
            min=1,
            help="Runs at a time, each a process of one thread; 1 if not given, 2 with --short.",
        ),
    ] = None,
    short: Annotated[
        bool, typer.Option("--short", help="The first four rungs and their order: minutes.")
    ] = False,
    resume: Annotated[
        Path | None,
        typer.Option(help="A race's folder: go on; --rungs, --sizes, --seeds may add runs."),
    ] = None,
    report: Annotated[
        Path | None, typer.Option(help="A race's folder: make its report again, train nothing.")
    ] = None,
    name: Name = None,
    project: Annotated[Path, typer.Option(help="Where races go.")] = Path("runs/ladder"),
    device: Device = "auto",
    as_json: Json = False,
    quiet: Quiet = False,
) -> None:
    """Race the family, alike but for each member's own part, and judge its claims.

    Ctrl-C leaves a race that --resume continues. Every run is a folder like those of train.
    """
    given = {
        "data": data,
        "epochs": epochs,
        "detr_epochs": detr_epochs,
        "val_every": val_every,
        "start": start,
        "body_steps": body_steps,
        "overrides": tuple(assignments) if assignments else None,
    }
    common = {key: value for key, value in given.items() if value is not None}
    which = (_listed(rungs), [_number(size) for size in _listed(sizes)], seeds)
    if short and (rungs or sizes):
        raise ValueError("--short has rungs and a size of its own; leave --rungs and --sizes out")
    if report is not None and (common or any(which) or short or resume is not None):
        raise ValueError("--report trains nothing; give it a race's folder and no other choice")
    failed: list[str] = []
    workers = jobs or (2 if short else 1)
    if report is None:
        folder, failed = _run(common, which, short, resume, (project, name), workers, device, quiet)
    else:
        folder = report
    from experiments.race.report import write_report

    document = write_report(folder) | {"failed": failed}
    if as_json:
        print_json(document)
    elif not quiet:
        _print(document)
    if failed or (short and not _short_order(document, quiet)):
        raise typer.Exit(1)


def _run(
    common: dict[str, Any],
    which: tuple[list[str], list[int], int | None],
    short: bool,
    resume: Path | None,
    place: tuple[Path, str | None],
    jobs: int,
    device: str,
    quiet: bool,
) -> tuple[Path, list[str]]:
    """Begin a race or go on with one; its folder, and the runs that failed."""
    from experiments.race.backbone_pretraining import teach
    from experiments.race.plan import BODIES, RACE, SHORT, TAUGHT, Settings, tasks, wanted_precision

    from dabdetr.compare.run import train_all
    from dabdetr.files import check_folder_name
    from dabdetr.inference.device import choose_device
    from dabdetr.training.precision import choose_precision

    choose_device(device)
    if place[1] is not None:
        check_folder_name(place[1])
    if resume is not None:
        if common or short:
            options = ", ".join(sorted(common)) or "short"
            raise ValueError(
                f"{options} cannot change in a race that was begun; only rungs, sizes and seeds "
                "can; begin another with --name"
            )
        folder, settings = resume, Settings.load(resume).extended(*which)
        check(settings)
    else:
        base = SHORT if short else Settings()
        if "epochs" in common:
            common.setdefault("detr_epochs", max(common["epochs"], base.detr_epochs))
        settings = Settings.of(**base.model_dump() | common).extended(*which)
        wanted = wanted_precision(settings)
        precision, reason = choose_precision(wanted, choose_device(device))
        settings = Settings.of(**settings.model_dump() | {"precision": precision})
        check(settings)
        folder = begin(*place, settings)
        say(f"every run in {precision} ({reason})", quiet)
    settings.save(folder)
    (folder / ".gitignore").write_text(UNTRACKED)
    tell = lambda text: say(text, quiet)  # noqa: E731

    def prepare(todo: Sequence[Task]) -> None:
        (folder / BODIES).mkdir(exist_ok=True)
        if settings.start == TAUGHT:
            for size in dict.fromkeys(task.config.image.max_size for task in todo):
                teach(settings, size, folder, tell)

    try:
        failed = train_all(tasks(settings), folder, jobs, device, tell, RACE, prepare)
    except KeyboardInterrupt:
        say(f"go on with: python -m experiments.race --resume {folder}", quiet)
        raise
    return folder, failed


def check(settings: Settings) -> None:
    """Raise, before anything is written, for data or overrides that some run could not use."""
    from experiments.race.plan import data_at, tasks

    from dabdetr.compare.run import check as check_data

    for size in settings.sizes:
        check_data(data_at(settings.data, size))
    tasks(settings)


def begin(project: Path, name: str | None, settings: Settings) -> Path:
    """A new folder for a race; without ``name`` the first free ``ladder-1``, ``ladder-2`` …"""
    from dabdetr.runs import RunFolder

    again = f"python -m experiments.race --resume {project / str(name)}"
    remedy = f"choose another --name, or go on with it: {again}"
    with RunFolder(project, name, "ladder", remedy) as folder:
        settings.save(folder.path)
    return folder.path


def _listed(text: str | None) -> list[str]:
    return [part.strip() for part in (text or "").split(",") if part.strip()]


def _number(text: str) -> int:
    if not text.isdecimal():
        raise ValueError(f"--sizes expects whole numbers like 96,160; got {text!r}")
    return int(text)


def _print(document: dict[str, Any]) -> None:
    from rich.table import Table

    from dabdetr.cli.output import console

    table = Table("claim", "px", "verdict", "numbers", show_lines=True)
    for claim in document["claims"]:
        table.add_row(*(claim["claim"], str(claim["size"]), claim["verdict"], claim["numbers"]))
    console().print(table)
    for size, names in document["order"].items():
        console().print(f"{size} px, low to high: {' < '.join(names)}", soft_wrap=True)
    say(f"report: {document['report']}")


def _short_order(document: dict[str, Any], quiet: bool) -> bool:
    """Whether the first four came in the order that a short training gives."""
    from experiments.race.claims import in_short_order

    (names,) = document["order"].values()
    fine = in_short_order(names)
    say(f"order of the first four: {' < '.join(names)}, {'' if fine else 'not '}as expected", quiet)
    return fine


def main(arguments: list[str]) -> None:
    """Run the race with the words of a command line; errors are the caller's to tell."""
    app = typer.Typer(add_completion=False)
    app.command()(race)
    command = typer.main.get_command(app)
    code = command.main(arguments, prog_name="python -m experiments.race", standalone_mode=False)
    if code:
        raise typer.Exit(int(code))


if __name__ == "__main__":
    from dabdetr.cli.app import app

    app.command("race")(race)
    app(["race", *sys.argv[1:]], prog_name="python -m experiments.race")
