"""`dabdetr audit`: a ranking of probably wrong labels with a page, and a corrected copy."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from dabdetr.cli import options
from dabdetr.cli.output import print_json, refuse_to_overwrite, say
from dabdetr.files import check_writable
from dabdetr.packages import static
from dabdetr.runs import RunFolder, interruptible
from dabdetr.steps import tracked
from dabdetr.text import counted, embedded_json, json_text, shortened

if TYPE_CHECKING:
    from dabdetr.evaluation.suspicions import Suspicion

SHOWN = 200
"""Most suspicions on the page."""
WEAK = 0.5
"""Suspicion below which most of the labels are right."""


def audit(
    data: options.Data = None,
    model: options.ModelOrNone = None,
    annotations: options.Annotations = None,
    images: options.Images = None,
    split: Annotated[
        str | None, typer.Option(help="Check this split only; all splits if not given.")
    ] = None,
    folds: Annotated[
        int | None,
        typer.Option(
            min=2,
            help="Train as many models, each on all images but its fold, and judge the fold with "
            "it. --model is then what to train; default dab-lite.",
        ),
    ] = None,
    epochs: Annotated[
        int | None,
        typer.Option(
            min=1,
            help="Epochs of each training of --folds; if not given 10, or more on few images.",
        ),
    ] = None,
    fix: Annotated[
        Path | None,
        typer.Option(
            help="Decisions (JSON) of an audit of these data: write a corrected copy to -o."
        ),
    ] = None,
    output: Annotated[
        Path | None,
        typer.Option(
            "--output",
            "-o",
            help="With --fix the corrected copy; else the run's folder, instead of --project and "
            "--name.",
        ),
    ] = None,
    to: options.Layout = "coco",
    name: options.Name = None,
    project: options.Project = Path("runs/audit"),
    box_format: options.BoxFormats = None,
    strict: options.Strict = False,
    device: options.Device = "auto",
    as_json: options.Json = False,
    quiet: options.Quiet = False,
) -> None:
    """Rank labels that are probably wrong, and correct them.

    A label may have a wrong class or a bad box, be missing or duplicate, or on no object. The model
    is asked about each labelled box, and its own detections are compared with the labels. The run's
    folder gets index.html, a page to view and accept suspicions, and decisions.json with all of
    them, the most suspicious first. A model hardly doubts labels that it was trained on:
    with --folds, each image is judged by a model that was not trained on it.
    """
    if fix is not None:
        if output is None:
            raise ValueError("no place for the corrected copy was given; add -o FOLDER")
        refuse_to_overwrite(output)
        from dabdetr.asking.decisions import read_decisions
        from dabdetr.data.writing import check_layout

        to = check_layout(to)
        decisions = read_decisions(fix)  # before the data are read, so that errors come at once
        found = options.open_splits(
            data, annotations, images, box_format, strict=strict, quiet=quiet
        )
        _write_fixed(found, decisions, output, to, as_json, quiet)
        return
    project, name = options.run_place(project, name, output)
    check_writable(project)
    if epochs is not None and folds is None:
        raise ValueError("--epochs is for the trainings of --folds; add --folds 3, or leave it out")
    found = options.open_splits(data, annotations, images, box_format, strict=strict, quiet=quiet)
    if model is None and folds is None:
        raise ValueError(
            "no model was given: dabdetr audit DATA --model MODEL, or --folds 3 to train models "
            "for it"
        )
    chosen = [each for each in found if split in (None, each.split)]
    if not chosen:
        splits = shortened(", ".join(each.split for each in found), 200)
        raise ValueError(
            f"there is no split {shortened(str(split), 80)!r}; choose one of: {splits}"
        )
    options.tell_counts(chosen, quiet)
    from dabdetr.asking.audit import audit as suspect
    from dabdetr.asking.audit import ranked
    from dabdetr.predictor import Predictor

    with interruptible(), RunFolder(project, name, "audit") as folder:
        every: list[Suspicion] = []
        if folds is not None:
            from dabdetr.asking.folds import audit_out_of_fold

            trained = str(model or "dab-lite")
            training = {"epochs": epochs, "device": device, "quiet": quiet}
            training["tell"] = lambda line: say(line, quiet)
            for some in audit_out_of_fold(chosen, folds, folder.path, trained, **training):
                every += some
        else:
            predictor = Predictor(str(model), device=device)
            for each in chosen:
                for some in tracked(suspect(each, predictor), "images", shown=not quiet):
                    every += some
        every = ranked(every)
        rows = [{"accept": False, **each.to_dict()} for each in every]
        (folder.path / "decisions.json").write_text(json_text(rows, indent=1), encoding="utf-8")
        by_split = {each.split: each for each in chosen}
        (folder.path / "index.html").write_text(_page(by_split, every, rows), encoding="utf-8")
        folder.publish()
    if as_json:
        print_json({"folder": str(folder.path), "suspicions": rows})
    say(_strength(every), quiet)
    say(f"see and accept: {folder.path / 'index.html'}", quiet)


def _strength(every: list[Suspicion]) -> str:
    """A sentence with the numbers of strong and weak suspicions."""
    strong = sum(each.suspicion >= WEAK for each in every)
    weak = len(every) - strong
    sentence = f"{counted(strong, 'suspicion')} of {WEAK} or more"
    rest = counted(weak, "other is weak", "others are weak")
    return f"{sentence}; {rest}: most such labels are right" if weak else sentence


def _write_fixed(
    found: list[Any],
    decisions: list[dict[str, Any]],
    out: Path,
    to: str,
    as_json: bool,
    quiet: bool,
) -> None:
    """Write a copy of the data that is corrected by the accepted decisions."""
    from dabdetr.asking.decisions import mended
    from dabdetr.data.writing import write_data

    accepted = sum(each.get("accept") is True for each in decisions)
    lost = write_data(mended(found, decisions), out, to)
    for line in lost:
        say(f"left out: {line}", quiet)
    if as_json:
        print_json({"folder": str(out), "accepted": accepted, "decisions": len(decisions)})
    say(f"{counted(accepted, 'decision')} of {len(decisions)} accepted; copy: {out}", quiet)
    if not accepted:
        say("nothing was corrected: tick suspicions in index.html, and save decisions.json", quiet)


def _page(splits: dict[str, Any], every: list[Suspicion], rows: list[dict[str, Any]]) -> str:
    """The page with the most suspicious labels, a checkbox for each, and a button to save them."""
    from dabdetr.asking.page import Card, page
    from dabdetr.evaluation.suspicions import KINDS
    from dabdetr.report.crops import around

    cards, key, image = [], None, None
    for number, each in enumerate(every[:SHOWN]):
        if key != (each.split, each.image):
            key, image = (each.split, each.image), splits[each.split].image(each.image)
        assert image is not None
        before = [] if each.box is None else [each.box]
        after = [] if each.mend in ("remove", "class") else [each.answer]
        change = {
            "class": f"{each.name} → {each.answer_name}",
            "box": f"move {each.name}",
            "remove": f"remove {each.name}",
            "add": f"add {each.answer_name}",
        }[each.mend]
        cards.append(
            Card(
                image,
                around([*before, each.answer], image),
                before,
                after,
                f"{number + 1}. {KINDS[each.kind]}: {change}"
                + (" (weak)" if each.suspicion < WEAK else ""),
                f"{each.split}/{Path(each.file).name}; suspicion {each.suspicion:.2f}, the "
                f"model's answer is {each.answer_name} {each.score:.2f}",
                f'<input type="checkbox" class="accept" data-row="{number}"> ',
            )
        )
    lead = (
        f"{counted(len(cards), 'suspicion')} of {len(every)}, the most suspicious first. "
        f"{_strength(every)}. Tick "
        "the suspicions that you agree with, save the decisions, and write a corrected copy: "
        "`dabdetr audit DATA --fix decisions.json -o COPY`"
    )
    controls = (
        '<button id="save">Save decisions.json</button> <span id="count">0 accepted</span>'
        f'<script type="application/json" id="rows">{embedded_json(rows)}</script>'
    )
    script = static("dabdetr.asking", "audit.js")
    return page("Labels that the model doubts", lead, cards, 260, controls, script)
