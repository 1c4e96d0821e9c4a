"""`dabdetr predict`: pictures in; a table, drawn pictures, JSON or a COCO results file out."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator
from contextlib import nullcontext
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from dabdetr.cli.options import (
    Coco,
    Device,
    ImageSize,
    Json,
    MaxDet,
    Model,
    Name,
    Queries,
    QueriesInit,
    Quiet,
    class_names,
    open_model,
)
from dabdetr.cli.output import (
    RunFolder,
    console,
    counted,
    file_name,
    print_json,
    refuse_to_overwrite,
    say,
)

if TYPE_CHECKING:
    from dabdetr.structures import Detections

MOST_ROWS = 200
"""Detections that the table shows."""


def predict(
    model: Model,
    pictures: Annotated[
        list[str] | None, typer.Argument(help="Pictures, folders, patterns or addresses.")
    ] = None,
    source: Annotated[list[str] | None, typer.Option(help="The same, as an option.")] = None,
    conf: Annotated[
        float | None, typer.Option(help="Lowest score shown; the model's own if not given.")
    ] = None,
    max_det: MaxDet = None,
    classes: Annotated[
        list[str] | None, typer.Option(help="Only these classes: repeat, or part with commas.")
    ] = None,
    imgsz: ImageSize = None,
    queries: Queries = None,
    queries_init: QueriesInit = "keep",
    batch: Annotated[int, typer.Option(help="Pictures at a time.")] = 1,
    device: Device = "auto",
    save: Annotated[bool, typer.Option(help="Write pictures with the boxes drawn in.")] = True,
    coco: Coco = None,
    name: Name = None,
    project: Annotated[Path, typer.Option(help="Where run folders go.")] = Path("runs/predict"),
    skip_unreadable: Annotated[
        bool, typer.Option("--skip-unreadable", help="Pass over unreadable pictures; exit code 1.")
    ] = False,
    as_json: Json = False,
    quiet: Quiet = False,
) -> None:
    """Detect objects in pictures.

    Boxes are x0 y0 x1 y1 in pixels of the original picture.

    Image ids in the COCO results file are the numbers that files are named after, or else 1, 2, 3 …
    """
    from dabdetr.inference.predictor import Predictor

    sources = [*(pictures or []), *(source or [])]
    if not sources:
        raise ValueError("no picture was given: dabdetr predict --model MODEL PICTURE …")
    refuse_to_overwrite(coco)
    folder = RunFolder(project, name, "predict") if save else None
    predictor = Predictor(open_model(model, device, imgsz, queries, queries_init), device, batch)
    skipped: list[str] = []
    stream = predictor(
        sources,
        conf,
        max_det,
        class_names(classes or [], predictor.names),
        keep_images=save,
        on_error=(lambda label, error: skipped.append(str(error))) if skip_unreadable else "raise",
    )
    with folder or nullcontext():
        found = list(_saved(counted(stream, "pictures", quiet), folder))
        if coco:
            _write_coco(coco, found)
    for reason in skipped:
        say(f"skipped: {reason}")
    if as_json:
        where = str(folder.path) if folder else None
        results = [each.to_dict() for each in found]
        print_json({"model": model, "folder": where, "skipped": skipped, "pictures": results})
    elif not quiet:
        _print_table(found)
    if folder and found:
        say(f"pictures with boxes: {folder.path}", quiet)
    if skipped:
        raise typer.Exit(1)


def _saved(stream: Iterable[Detections], folder: RunFolder | None) -> Iterator[Detections]:
    """Detections without their picture, which is drawn into ``folder`` where there is one."""
    from dataclasses import replace

    taken: set[str] = set()
    for found in stream:
        if folder:
            found.plot().save(folder.path / file_name(found.source, taken), quality=95)
        yield replace(found, image=None)


def _write_coco(path: Path, found: list[Detections]) -> None:
    from dabdetr.config import write_atomically

    stems = [Path(each.source).stem for each in found]
    numbered = all(stem.isdecimal() for stem in stems) and len(set(map(int, stems))) == len(stems)
    ids = [int(stem) for stem in stems] if numbered else range(1, len(found) + 1)
    rows: list[dict[str, Any]] = []
    for image_id, each in zip(ids, found, strict=True):
        rows += each.to_coco(image_id)
    write_atomically(path, json.dumps(rows).encode())


def _print_table(found: list[Detections]) -> None:
    from rich.table import Table
    from rich.text import Text

    table = Table("picture", "object")
    for column in ("score", "x0", "y0", "x1", "y1"):
        table.add_column(column, justify="right")
    rows = [(each.source, row) for each in found for row in each.to_dict()["detections"]]
    for place, row in rows[:MOST_ROWS]:
        numbers = (f"{row['score']:.2f}", *(f"{side:.0f}" for side in row["box"]))
        table.add_row(Text(Path(place).name, overflow="fold"), Text(row["name"]), *numbers)
    if rows:
        console().print(table)
    more = f"; the table shows {MOST_ROWS}, --json gives all" if len(rows) > MOST_ROWS else ""
    print(f"{len(rows)} objects in {len(found)} pictures{more}")
