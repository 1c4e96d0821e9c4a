"""`dabdetr snap`: rough boxes or clicks made tight and given classes, with a list of changes."""

from __future__ import annotations

from itertools import chain
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from dabdetr.cli import options
from dabdetr.cli.output import print_json, refuse_to_overwrite, say
from dabdetr.files import write_csv
from dabdetr.steps import tracked
from dabdetr.text import counted, json_text

if TYPE_CHECKING:
    from dabdetr.asking.snap import Snap
    from dabdetr.data.dataset import DetectionDataset

SHOWN = 60
"""Most images on the page."""


def snap(
    model: options.Model,
    data: options.Data = None,
    out: options.Out = None,
    output: options.Output = None,
    annotations: options.Annotations = None,
    images: options.Images = None,
    to: options.Layout = "coco",
    conf: Annotated[
        float | None,
        typer.Option(
            help="Lowest score at which an answer replaces the box; the model's own if not given."
        ),
    ] = None,
    rename: Annotated[
        bool,
        typer.Option("--rename", help="Also change the class where the model finds another one."),
    ] = False,
    clicks: Annotated[
        bool, typer.Option("--clicks", help="Use only the centre of each box, as a click.")
    ] = False,
    box_format: options.BoxFormats = None,
    strict: options.Strict = False,
    device: options.Device = "auto",
    as_json: options.Json = False,
    quiet: options.Quiet = False,
) -> None:
    """Make rough boxes tight, and name their classes.

    The model is asked about each box. An answer that scores at least --conf replaces the box. If
    the model knows the box's class, the answer must have it; if not, the answer's class is taken.
    The new data set has a folder snap: changes.json and changes.csv list every box with answer and
    score, index.html shows them.
    """
    out = options.place_of(out, output, "snap DATA --model MODEL -o FOLDER")
    refuse_to_overwrite(out)
    from dabdetr.data.writing import check_layout, write_data

    to = check_layout(to)  # before the model answers for an hour
    found = options.open_splits(data, annotations, images, box_format, strict=strict, quiet=quiet)
    from dabdetr.asking.snap import snap as snap_boxes
    from dabdetr.asking.snap import snapped
    from dabdetr.predictor import Predictor

    options.tell_counts(found, quiet)
    predictor = Predictor(model, device=device)
    by_split: list[list[Snap]] = []
    for each in found:
        rows = snap_boxes(each, predictor, conf, rename, clicks)
        by_split.append(list(chain.from_iterable(tracked(rows, "images", shown=not quiet))))
    used = {row.name_after for rows in by_split for row in rows}
    before = found[0].names
    names = (*before, *(name for name in predictor.names if name in used and name not in before))
    pairs = list(zip(found, by_split, strict=True))
    changed: list[DetectionDataset] = [snapped(each, rows, names) for each, rows in pairs]
    for line in write_data(changed, out, to):
        say(f"left out: {line}", quiet)
    every = [row for rows in by_split for row in rows]
    (out / "snap").mkdir()
    plain = [row.to_dict() for row in every]
    (out / "snap" / "changes.json").write_text(json_text(plain, indent=1), encoding="utf-8")
    starts = ("split", "file", "row")
    ends = ("name_before", "name_after", "name", "score", "moved", "taken")
    edges = [f"{edge}_{when}" for when in ("before", "after") for edge in ("x0", "y0", "x1", "y1")]
    table = [
        [*(row[key] for key in starts), *row["before"], *row["after"], *(row[key] for key in ends)]
        for row in plain
    ]
    write_csv(out / "snap" / "changes.csv", [(*starts, *edges, *ends), *table])
    (out / "snap" / "index.html").write_text(_page(pairs, model), encoding="utf-8")
    taken = sum(row.taken for row in every)
    document = {"folder": str(out), "boxes": len(every), "taken": taken, "model": str(model)}
    if as_json:
        print_json({**document, "changes": plain})
    say(f"{counted(taken, 'box', 'boxes')} of {len(every)} changed; the others stay", quiet)
    say(f"data set: {out}; before and after: {out / 'snap' / 'index.html'}", quiet)


def _page(pairs: list[tuple[Any, list[Snap]]], model: str) -> str:
    """The page of images with their boxes before and after, ordered by the amount of change."""
    from dabdetr.asking.page import Card, page, whole

    images: list[tuple[float, Any, int, list[Snap]]] = []
    for data, rows in pairs:
        by_image: dict[int, list[Snap]] = {}
        for row in rows:
            by_image.setdefault(row.image, []).append(row)
        for index, of_image in by_image.items():
            change = sum((1 - row.moved) + (row.name_after != row.name_before) for row in of_image)
            changed = any(row.taken for row in of_image)
            images.append((change if changed else -1, data, index, of_image))
    images.sort(key=lambda each: -each[0])
    cards = []
    for _, data, index, rows in images[:SHOWN]:
        image, taken = data.image(index), [row for row in rows if row.taken]
        names = dict.fromkeys(row.name_after for row in taken)
        title = f"{rows[0].split}/{Path(rows[0].file).name}"
        text = f"{len(taken)} of {counted(len(rows), 'box', 'boxes')} changed"
        text += f": {', '.join(names)}" if taken else ""
        before, after = [row.before for row in rows], [row.after for row in taken]
        cards.append(Card(image, whole(image), before, after, title, text))
    every = [row for _, rows in pairs for row in rows]
    lead = (
        f"{counted(sum(row.taken for row in every), 'box', 'boxes')} of {len(every)} changed by "
        f"{model}; a dashed box alone stays as it is. {counted(len(cards), 'image')} of "
        f"{len(images)} are shown, those that change most first."
    )
    return page("Boxes before and after", lead, cards, width=420, controls="")
