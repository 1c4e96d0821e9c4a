"""`dabdetr data …`: statistics, views, conversion and splitting of annotated images."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from dabdetr.cli import options
from dabdetr.cli.app import add_verb
from dabdetr.cli.output import console, print_json, refuse_to_overwrite, say
from dabdetr.files import check_writable
from dabdetr.runs import RunFolder

if TYPE_CHECKING:
    from dabdetr.data.dataset import DetectionDataset

data = typer.Typer(
    no_args_is_help=True,
    help="Count, view, convert and split labelled images.",
)


def stats(
    data: options.Data = None,
    annotations: options.Annotations = None,
    images: options.Images = None,
    box_format: options.BoxFormats = None,
    strict: options.Strict = False,
    plot: Annotated[
        Path | None, typer.Option(help="Write a figure of all distributions (.png or .svg).")
    ] = None,
    as_json: options.Json = False,
    quiet: options.Quiet = False,
) -> None:
    """Count images and objects, and recommend settings.

    Counts are of images, boxes and classes, and of rows that were skipped or repaired. Then follow
    sizes, shapes, objects per image and brightness. Recommended are an input size, a number of
    queries, and tiles if objects are small in large images.
    """
    refuse_to_overwrite(plot)
    options.check_figure(plot)
    found = options.open_splits(data, annotations, images, box_format, strict=strict, quiet=quiet)
    from dabdetr.data.statistics import describe, recommend

    described = [describe(each, progress=not quiet) for each in found]
    advice = recommend(described)
    summaries = options.tell_counts(found, quiet or as_json)
    if as_json:
        splits = [
            {**one.to_dict(), **other.to_dict()}
            for one, other in zip(summaries, described, strict=True)
        ]
        print_json({"data": found[0].name, "splits": splits, "recommended": advice.to_dict()})
    else:
        if not quiet:
            from dabdetr.data.plots import table

            console().print(table(described))
        for line in advice.lines():
            say(line, quiet)
    if plot:
        from dabdetr.data.plots import plot as draw_plot

        draw_plot(described, plot)
        say(f"figure: {plot}", quiet)


def view(
    data: options.Data = None,
    split: options.Split = "train",
    annotations: options.Annotations = None,
    images: options.Images = None,
    box_format: options.BoxFormats = None,
    count: Annotated[
        int, typer.Option(min=1, help="Number of images, spread evenly over the data.")
    ] = 24,
    augment: Annotated[
        bool,
        typer.Option(
            "--augment", help="Show the images as training sees them: cropped, flipped, recoloured."
        ),
    ] = False,
    model: Annotated[
        str, typer.Option(help="With --augment: the preset or config whose augmentation is shown.")
    ] = "dab-lite",
    seed: Annotated[
        int, typer.Option(min=0, help="With --augment: seed of the random changes.")
    ] = 0,
    name: options.Name = None,
    project: options.Project = Path("runs/view"),
    output: options.RunOutput = None,
    as_json: options.Json = False,
    quiet: options.Quiet = False,
) -> None:
    """Draw images with their boxes: a page (index.html) and a contact sheet."""
    project, name = options.run_place(project, name, output)
    check_writable(project)
    opened = options.open_split(
        data, split, annotations, images, box_format, strict=False, quiet=quiet
    )
    from dabdetr.data.views import augmented, contact_sheet, page, views

    if augment:
        from dabdetr.training.options import choose_config

        shown = augmented(opened, count, choose_config(model), seed)
    else:
        shown = views(opened, count)
    title = f"{opened.name} {opened.split}" + (", augmented" if augment else "")
    with RunFolder(project, name, "view") as folder:
        contact_sheet(shown).save(folder.path / "contact.png")
        text = page(title, shown, len(opened))
        (folder.path / "index.html").write_text(text, encoding="utf-8")
    if as_json:
        print_json({"folder": str(folder.path), "images": [each.name for each in shown]})
    say(f"page: {folder.path}/index.html; contact sheet: {folder.path}/contact.png", quiet)


def convert(
    data: Annotated[str, typer.Argument(help="A folder, file or zip in any layout that is read.")],
    out: options.Out = None,
    output: options.Output = None,
    to: options.Layout = "coco",
    box_format: options.BoxFormats = None,
    strict: options.Strict = False,
    as_json: options.Json = False,
    quiet: options.Quiet = False,
) -> None:
    """Write the data in another layout: COCO, YOLO, VOC or WebDataset.

    Boxes are bit for bit the same when COCO, YOLO or VOC are read back; WebDataset is only written.
    Images are copied unchanged.
    """
    out = options.place_of(out, output, "data convert DATA -o FOLDER")
    found = options.open_splits(data, None, None, box_format, strict=strict, quiet=quiet)
    _write(found, out, to, as_json, quiet)


def split(
    data: Annotated[str, typer.Argument(help="A data set that has one split.")],
    out: options.Out = None,
    output: options.Output = None,
    share: Annotated[float, typer.Option("--split", help="Share of the images to train on.")] = 0.8,
    test: Annotated[float, typer.Option(help="Share of the images for a test split.")] = 0.0,
    seed: Annotated[int, typer.Option(min=0, help="Seed of the random split.")] = 0,
    to: options.Layout = "coco",
    box_format: options.BoxFormats = None,
    strict: options.Strict = False,
    as_json: options.Json = False,
    quiet: options.Quiet = False,
) -> None:
    """Divide a data set into train and val, and with --test into test.

    Classes are divided in proportion, near-duplicate images stay together, and the same seed gives
    the same split.
    """
    out = options.place_of(out, output, "data split DATA -o FOLDER")
    found = options.open_splits(data, None, None, box_format, strict=strict, quiet=quiet)
    if len(found) > 1:
        names = ", ".join(each.split for each in found)
        raise ValueError(f"{data} has splits already: {names}; data convert writes them elsewhere")
    if not 0 <= test < 1 or not 0 < share < 1 or share + test >= 1:
        raise ValueError(
            f"--split {share:g} and --test {test:g} should be shares that leave some for val"
        )
    from dabdetr.data.splitting import divide

    whole: DetectionDataset = found[0]
    if test:
        whole, held = divide(whole, 1 - test, seed, progress=not quiet)
        held.split = "test"
        parts = [*divide(whole, share / (1 - test), seed, progress=False), held]
    else:
        parts = [*divide(whole, share, seed, progress=not quiet)]
    _write(parts, out, to, as_json, quiet)


for _verb in (stats, view, convert, split):
    add_verb(data, _verb)


def _write(found: list[Any], out: Path, layout: str, as_json: bool, quiet: bool) -> None:
    """Write the splits in a layout, and print their counts."""
    from dabdetr.data.writing import write_data

    lost = write_data(found, out, layout)
    summaries = options.tell_counts(found, quiet)
    for each in lost:
        say(f"left out: {each}", quiet)
    if as_json:
        rows = [each.to_dict() for each in summaries]
        print_json({"folder": str(out), "layout": layout, "splits": rows, "lost": lost})
    say(f"{layout} data set: {out}", quiet)
