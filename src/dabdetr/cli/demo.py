"""`dabdetr demo`: detection with the shipped model in scenes that it has never seen."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from dabdetr.cli import options
from dabdetr.cli.output import console, print_json, refuse_to_overwrite, say
from dabdetr.files import check_writable
from dabdetr.runs import RunFolder
from dabdetr.text import counted

if TYPE_CHECKING:
    from PIL.Image import Image

    from dabdetr.data.dataset import DetectionDataset
    from dabdetr.evaluation.result import Evaluation
    from dabdetr.structures import Detections

SEED = 2022
"""Seed of the demo's scenes; their digits are of the test split, which no training uses."""

ENLARGED = 3
"""Scale of a drawn scene relative to the model's image."""

LABELLED = {"train": 8, "val": 4}
"""Images in each split of the labelled data that the demo writes."""


def demo(
    count: Annotated[int, typer.Option(min=1, help="Number of scenes to evaluate.")] = 200,
    images: Annotated[int, typer.Option(min=1, help="Number of scenes to draw and list.")] = 8,
    seed: Annotated[int, typer.Option(help="Another seed gives other scenes.")] = SEED,
    conf: Annotated[float, typer.Option(help="Lowest score of objects drawn and listed.")] = 0.5,
    output: Annotated[
        Path,
        typer.Option("--output", "-o", help="Folder for images and labelled data to try."),
    ] = Path("demo"),
    to: Annotated[
        str, typer.Option(help="Layout of the labelled data: coco, yolo, voc or webdataset.")
    ] = "coco",
    device: options.Device = "auto",
    name: options.Name = None,
    project: options.Project = Path("runs/demo"),
    as_json: options.Json = False,
    quiet: options.Quiet = False,
) -> None:
    """Detect digits with an included model; leave images to try.

    Nothing is downloaded. The folder demo is written for further commands: images, three
    photographs (images/photos), a large image, a video if PyAV is installed, and twelve labelled
    images (data). An existing folder is left unchanged.
    """
    from dabdetr.data.layouts import open_data
    from dabdetr.data.writing import check_layout
    from dabdetr.evaluation.evaluate import evaluate

    check_layout(to)
    check_writable(project)
    folder = RunFolder(project, name, "demo")
    new = not output.exists()
    if new:
        refuse_to_overwrite(output)
    scenes = open_data(f"scenes:seed={seed},count={count}", "test")
    with folder:
        say(f"detecting digits in {counted(count, 'scene')} that the model has never seen …", quiet)
        found = evaluate("scenes", scenes, batch=16, device=device, progress=not quiet)
        shown = [each.best_of_query().above(conf) for each in found.detections[:images]]
        drawn = [_with_boxes(scenes.image(index), each) for index, each in enumerate(shown)]
        for index, image in enumerate(drawn):
            image.save(folder.path / f"scene-{index + 1}.png")
        _contact_sheet(drawn).save(folder.path / "overview.png")
    if new:
        _write_samples(output, scenes, to, seed)
    if as_json:
        document = {"model": "scenes", "folder": str(folder.path), **found.to_dict()}
        document["scenes"] = [
            each.to_dict() | {"truth": _truth(scenes, index)} for index, each in enumerate(shown)
        ]
        print_json(document | {"samples": str(output)})
    elif not quiet:
        _print_tables(found, shown, scenes)
    say(f"images with boxes: {folder.path}/overview.png and scene-1.png …", quiet)
    total = counted(sum(LABELLED.values()), "labelled image")
    say(
        f"to try: {output}/images and {output}/data ({total})"
        if new
        else f"{output} exists and is left as it is; remove it to make it again",
        quiet,
    )
    say(f"next: dabdetr predict --model scenes {output}/images", quiet)


def _write_samples(folder: Path, scenes: DetectionDataset, layout: str, seed: int) -> None:
    """Write images, photographs, a large image, a video and labelled data into a new folder."""
    import shutil
    from importlib import resources

    from PIL import Image

    from dabdetr.data.layouts import open_data
    from dabdetr.data.writing import write_data
    from dabdetr.files import new_folder

    with new_folder(folder) as samples:
        (samples / "images" / "photos").mkdir(parents=True)
        images = [Image.fromarray(scenes.image(index)) for index in range(min(8, len(scenes)))]
        for index, image in enumerate(images):
            image.save(samples / "images" / f"{index:03}.png")
        for photo in sorted(Path(str(resources.files("dabdetr") / "photos")).iterdir()):
            shutil.copy(photo, samples / "images" / "photos")
        _contact_sheet(images).save(samples / "large.png")
        _write_clip(samples / "clip.mp4", images[0])
        parts = {split: f"scenes:seed={seed},count={count}" for split, count in LABELLED.items()}
        labelled = [open_data(text, split) for split, text in parts.items()]
        write_data(labelled, samples / "data", layout)


def _write_clip(path: Path, image: Image) -> None:
    """Write a video of 1.3 seconds in which the scene moves to the left, if PyAV is installed."""
    import numpy as np

    from dabdetr.inference.video import VideoWriter

    try:
        writer = VideoWriter(path, "")
    except ImportError:
        return
    pixels = np.asarray(image)
    with writer:
        for number in range(20):
            writer.add(np.roll(pixels, -2 * number, axis=1), number / 15)


def _with_boxes(image: Any, found: Detections) -> Image:
    """The enlarged scene with its detections."""
    from dataclasses import replace

    from PIL import Image

    height, width = image.shape[:2]
    large = Image.fromarray(image).resize((width * ENLARGED, height * ENLARGED))
    return replace(found, boxes=found.boxes * ENLARGED, size=large.size[::-1]).plot(large)


def _contact_sheet(drawn: list[Image]) -> Image:
    """One image of all images, which have the same size, in rows."""
    from PIL import Image

    (width, height), columns = drawn[0].size, 4
    rows = -(-len(drawn) // columns)
    sheet = Image.new("RGB", (min(columns, len(drawn)) * width, rows * height), "white")
    for index, image in enumerate(drawn):
        sheet.paste(image, (index % columns * width, index // columns * height))
    return sheet


def _truth(scenes: DetectionDataset, index: int) -> list[str]:
    return sorted(scenes.names[label] for label in scenes.record(index).labels)


def _print_tables(found: Evaluation, shown: list[Detections], scenes: DetectionDataset) -> None:
    from rich.table import Table

    table = Table("scene", "digits in it", "digits found (score)")
    for index, each in enumerate(shown):
        rows = sorted(each.to_dict()["detections"], key=lambda row: row["name"])
        listed = "  ".join(f"{row['name']} ({row['score']:.2f})" for row in rows)
        table.add_row(str(index + 1), " ".join(_truth(scenes, index)) or "none", listed or "none")
    console().print(table)
    console().print(found.table())
    scenes_seen = counted(found.images, "scene")
    print(
        f"AP {found.ap:.3f}, AP50 {found.ap50:.3f} on {scenes_seen} that the model has never seen"
    )
