"""`dabdetr ladder`: the family trained side by side, and what its race says of the claims."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from dabdetr.cli.options import Device, Json, Name, Quiet
from dabdetr.cli.output import print_json, say


def ladder(
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
        typer.Option(help="A ladder's folder: go on; --rungs, --sizes, --seeds may add runs."),
    ] = None,
    report: Annotated[
        Path | None, typer.Option(help="A ladder's folder: make its report anew, train nothing.")
    ] = None,
    name: Name = None,
    project: Annotated[Path, typer.Option(help="Where ladders go.")] = Path("runs/ladder"),
    device: Device = "auto",
    as_json: Json = False,
    quiet: Quiet = False,
) -> None:
    """Race the family, alike but for each member's own part, and judge its claims.

    Ctrl-C leaves a ladder that --resume continues. Every run is a folder like those of train.
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
        raise ValueError("--report trains nothing; give it a ladder's folder and no other choice")
    failed: list[str] = []
    workers = jobs or (2 if short else 1)
    if report is None:
        folder, failed = _race(
            common, which, short, resume, (project, name), workers, device, quiet
        )
    else:
        folder = report
    from dabdetr.compare.report import write_report

    document = write_report(folder) | {"failed": failed}
    if as_json:
        print_json(document)
    elif not quiet:
        _print(document)
    if failed or (short and not _short_order(document, quiet)):
        raise typer.Exit(1)


def _race(
    common: dict[str, Any],
    which: tuple[list[str], list[int], int | None],
    short: bool,
    resume: Path | None,
    place: tuple[Path, str | None],
    jobs: int,
    device: str,
    quiet: bool,
) -> tuple[Path, list[str]]:
    """Begin a ladder or go on with one; its folder, and the runs that failed."""
    from dabdetr.compare.plan import SHORT, Settings, plan, wanted_precision
    from dabdetr.compare.run import begin, check, race
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
                f"{options} cannot change in a ladder that was begun; only rungs, sizes and seeds "
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
    tell = lambda text: say(text, quiet)  # noqa: E731
    try:
        return folder, race(plan(settings), settings, folder, jobs, device, tell)
    except KeyboardInterrupt:
        say(f"go on with: dabdetr ladder --resume {folder}", quiet)
        raise


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
    from dabdetr.compare.claims import in_short_order

    (names,) = document["order"].values()
    fine = in_short_order(names)
    say(f"order of the first four: {' < '.join(names)}, {'' if fine else 'not '}as expected", quiet)
    return fine
