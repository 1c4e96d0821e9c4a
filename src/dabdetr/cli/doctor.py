"""`dabdetr doctor`: errors in a data set, their effect on training, and their repair."""

from __future__ import annotations

from contextlib import nullcontext
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from dabdetr.cli import options
from dabdetr.cli.output import console, print_json, refuse_to_overwrite, say
from dabdetr.text import counted

if TYPE_CHECKING:
    from collections.abc import Sequence

    from dabdetr.data.doctor import Problem


def doctor(
    data: options.Data = None,
    annotations: options.Annotations = None,
    images: options.Images = None,
    box_format: options.BoxFormats = None,
    model: Annotated[
        str, typer.Option(help="The preset, config or weights that you want to train.")
    ] = "dab-lite",
    imgsz: options.ImageSize = None,
    fix: Annotated[
        Path | None, typer.Option(help="Write a repaired copy into a new folder, with a log.")
    ] = None,
    to: options.Layout = "coco",
    html: Annotated[
        Path | None, typer.Option(help="Write a page that shows the images of all findings.")
    ] = None,
    self_test: Annotated[
        bool,
        typer.Option(
            "--self-test",
            help="Train on 8 of the images, and check that the model then detects their objects.",
        ),
    ] = False,
    seconds: Annotated[
        int, typer.Option(min=1, help="Seconds of training in the self-test; at most four times.")
    ] = 90,
    device: options.Device = "auto",
    as_json: options.Json = False,
    quiet: options.Quiet = False,
) -> None:
    """Find errors in labelled data, and write a repaired copy.

    The exit code is 1 if there are any. Each finding has a count, examples, its effect on training,
    and how to repair it. Hints are not errors. --self-test trains the model on eight images; if
    AP50 on them stays below 0.8, it names the stage that fails.
    """
    refuse_to_overwrite(html)
    refuse_to_overwrite(fix)
    from dabdetr.training.options import choose_config

    config = choose_config(model, imgsz=imgsz)
    from dabdetr.data.findings import keeping_all

    with keeping_all() if fix else nullcontext():  # the log names every row
        found = options.open_splits(
            data, annotations, images, box_format, strict=False, quiet=quiet
        )
    from dabdetr.data.doctor import all_kinds, examine

    problems = examine(found, config, progress=not quiet)
    faults = [each for each in problems if not each.hint]
    document: dict[str, Any] = {
        "data": found[0].name,
        "splits": {each.split: len(each) for each in found},
        "findings": [each.to_dict() for each in faults],
        "hints": [each.to_dict() for each in problems if each.hint],
        "checks": sorted(all_kinds()),
    }
    if not (as_json or quiet):
        _print(problems, len(all_kinds()))
    if html:
        from dabdetr.data.views import problems_page
        from dabdetr.files import write_atomically

        write_atomically(html, problems_page(found, problems, len(all_kinds())).encode())
        say(f"page: {html}", quiet)
    if faults and not (fix or self_test):
        page = "" if html else "; --html PAGE writes a page of the findings"
        say(f"next: --fix COPY writes a repaired copy{page}", quiet)
    if fix:
        document["fixed"] = _fix(found, problems, fix, to, quiet)
    failed = False
    if self_test:
        from dabdetr.training.self_test import self_test as run_self_test

        result = run_self_test(found[0], config, seconds, device, lambda line: say(line, quiet))
        document["self_test"] = result.to_dict()
        say(str(result), quiet)
        failed = not result.passed
    if as_json:
        print_json(document)
    if faults or failed:
        raise typer.Exit(1)


def _fix(
    found: Sequence[Any], problems: Sequence[Problem], out: Path, layout: str, quiet: bool
) -> dict[str, Any]:
    """Write the repaired copy with a log of the changes."""
    from dabdetr.data.mending import mended, unrepaired
    from dabdetr.data.writing import write_data

    tables, log = mended(found, problems)
    lost = write_data(tables, out, layout)
    log += [f"not kept: {each}" for each in lost]
    text = "".join(f"{line}\n" for line in log)
    (out / "doctor-log.txt").write_text(text, encoding="utf-8")
    left = ", ".join(dict.fromkeys(each.kind.name for each in problems if unrepaired(each)))
    left = f"; not repaired: {left}" if left else ""
    say(f"repaired copy: {out}, {counted(len(log), 'line')} in doctor-log.txt{left}", quiet)
    return {"folder": str(out), "log": log}


def _print(problems: Sequence[Problem], checks: int) -> None:
    from rich.padding import Padding
    from rich.text import Text

    screen = console()
    for hints, title in ((False, "findings"), (True, "hints")):
        of_kind = [each for each in problems if each.hint == hints]
        if of_kind:
            screen.print(Text(title, "italic"))
        for each in of_kind:
            kind = each.kind
            head = f"{each.count:,}× {kind.what} ({kind.name}, {each.split})"
            screen.print(Text(head, "bold", overflow="fold"))
            lines = [Text(f"effect on training: {kind.effect}"), Text(f"remedy: {kind.remedy}")]
            lines += [Text(example, "dim", overflow="fold") for example in each.examples]
            for line in lines:
                screen.print(Padding(line, (0, 0, 0, 4), expand=False))
    faults = sum(not each.hint for each in problems)
    result = counted(faults, "finding") if faults else "nothing is wrong"
    print(f"{checks} checks: {result}, {counted(len(problems) - faults, 'hint')}")
