"""Options that several verbs share and those of val and predict; functions that check them."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from dabdetr.files import check_folder_name, check_place

if TYPE_CHECKING:
    from dabdetr.data.dataset import DetectionDataset
    from dabdetr.data.statistics import Summary
    from dabdetr.inference.runtime import Opening


def check_model(source: str | None) -> str | None:
    """``source``, if it names weights; else raises, before anything heavy is imported."""
    from dabdetr.checkpoints.locate import locate

    if source is not None:
        locate(source)
    return source


Json = Annotated[
    bool, typer.Option("--json", help="Print one JSON document on stdout and nothing else.")
]
Quiet = Annotated[bool, typer.Option("--quiet", "-q", help="Print no tables and no progress.")]
Device = Annotated[str, typer.Option(help="auto, cpu, cuda, cuda:1 or mps.")]
_WEIGHTS = "Weights: a file, a run folder, an included model or a name on the hub."
Model = Annotated[str, typer.Option(help=_WEIGHTS, callback=check_model)]
ModelOrNone = Annotated[str | None, typer.Option(help=_WEIGHTS, callback=check_model)]
ModelArgument = Annotated[
    str | None, typer.Argument(help=_WEIGHTS, show_default=False, callback=check_model)
]
ModelOrData = Annotated[
    str | None,
    typer.Argument(help=f"{_WEIGHTS} With --predictions: the data.", show_default=False),
]
"""The first argument of val: weights, or the data where saved detections are evaluated."""
_DATA = "A folder, file or zip in any layout that is read; or scenes, generated images."
Data = Annotated[str | None, typer.Argument(help=_DATA, show_default=False)]
DataOption = Annotated[str | None, typer.Option("--data", help=_DATA)]
Annotations = Annotated[Path | None, typer.Option(help="A COCO json, instead of --data.")]
Images = Annotated[Path | None, typer.Option(help="The image folder of --annotations.")]
Split = Annotated[str, typer.Option(help="Split of the data.")]
TrainShare = Annotated[
    float | None,
    typer.Option(
        help="Share of the images to train on if the data have no val split, such as 0.8."
    ),
]
BoxFormats = Annotated[
    str | None,
    typer.Option(
        "--box-format",
        help="What the numbers of a box are: xywh, xyxy or cxcywh, with -relative where they are "
        "0–1 of the image, -percent where they are 0–100; found out if not given.",
    ),
]
Strict = Annotated[
    bool, typer.Option("--strict", help="Refuse data with rows that must be skipped or repaired.")
]
Layout = Annotated[str, typer.Option("--to", help="coco, yolo, voc or webdataset.")]
Out = Annotated[Path | None, typer.Argument(help="A new folder.", show_default=False)]
Batch = Annotated[int, typer.Option(min=1, help="Images per batch.")]
WorkersOrNone = Annotated[int | None, typer.Option(min=0, help="Processes that read images.")]
Conf = Annotated[
    float | None, typer.Option(help="Lowest score shown; the model's own if not given.")
]
SkipUnreadable = Annotated[
    bool,
    typer.Option("--skip-unreadable", help="Skip unreadable images; the exit code is then 1."),
]
Output = Annotated[
    Path | None,
    typer.Option("--output", "-o", help="Where to write; the same as the last argument."),
]
ImageSize = Annotated[
    int | None, typer.Option(min=16, help="Shorter side in pixels; the model's own if not given.")
]
MaxDet = Annotated[
    int | None,
    typer.Option(
        min=1, help="Maximum number of detections per image; the model's own if not given."
    ),
]
Nms = Annotated[
    float | None,
    typer.Option(
        min=0.01,
        max=1.0,
        help="Drop the lower-scored of two boxes of a class whose IoU exceeds this.",
    ),
]
Coco = Annotated[Path | None, typer.Option(help="Write a COCO results file (JSON).")]
Queries = Annotated[
    int | None,
    typer.Option(min=1, help="Number of queries; the model's own if not given."),
]
QueriesInit = Annotated[
    str,
    typer.Option(
        help="Anchors after --queries: keep, grid, or kmeans:DATA (clusters of its boxes)."
    ),
]
Layers = Annotated[
    int | None,
    typer.Option(min=1, help="Run only the first N decoder layers; all if not given."),
]
SetPrecision = Annotated[
    str,
    typer.Option(
        "--precision", help="fp32, bf16, fp16, or auto: the faster one on the first images."
    ),
]
Compile = Annotated[
    bool,
    typer.Option(
        "--compile", help="Compile the model for each image size; takes half a minute each."
    ),
]
Project = Annotated[Path, typer.Option(help="Where run folders go.")]
Name = Annotated[str | None, typer.Option(help="Name of the run's folder; numbered if not given.")]
RunOutput = Annotated[
    Path | None,
    typer.Option("--output", "-o", help="The run's folder, instead of --project and --name."),
]

# of val alone

Predictions = Annotated[
    Path | None,
    typer.Option(
        help="Saved detections instead of a model: a COCO results file, or what predict --json "
        "printed."
    ),
]
Calibrate = Annotated[
    Path | None,
    typer.Option(
        help="Write the weights with the thresholds and the calibration of scores that fit this "
        "split best."
    ),
]
PerLayer = Annotated[bool, typer.Option("--per-layer", help="Evaluate after each decoder layer.")]
LayerPlot = Annotated[
    Path | None, typer.Option(help="With --per-layer: write curves (.png or .svg).")
]
Errors = Annotated[
    bool,
    typer.Option(
        "--errors", help="Also find the cause of each missed object and each false detection."
    ),
]
Census = Annotated[
    bool,
    typer.Option(
        "--census", help="Also count what each query finds, and which queries find nothing."
    ),
]
Against = Annotated[
    Path | None,
    typer.Option(
        help="Compare with a run folder of val or train, a report, or a COCO results file: objects "
        "won and lost, and whether the difference is more than chance."
    ),
]
Workers = Annotated[int, typer.Option(min=0, help="Processes that read images.")]

# of predict alone

PredictedImages = Annotated[
    list[str] | None,
    typer.Argument(
        help="Images, folders, patterns, addresses, videos, a camera's number, - for stdin."
    ),
]
Source = Annotated[list[str] | None, typer.Option(help="The images, as an option.")]
MultiLabel = Annotated[
    bool,
    typer.Option(
        "--multi-label", help="Report every class of a query that scores enough, not only the best."
    ),
]
Classes = Annotated[
    list[str] | None,
    typer.Option(help="Only these classes; repeat the option, or separate with commas."),
]
Tiles = Annotated[
    bool, typer.Option("--tiles", help="Also run on overlapping tiles of large images.")
]
TileSize = Annotated[int | None, typer.Option(help="Side of a tile in pixels; implies --tiles.")]
Stride = Annotated[int, typer.Option(help="Take every N-th frame of a video only.", metavar="N")]
Track = Annotated[
    bool,
    typer.Option(
        "--track",
        help="Follow objects through a video, or through images as its frames; writes a MOT file "
        "too.",
    ),
]
Patience = Annotated[int, typer.Option(min=0, help="Frames for which --track keeps a lost object.")]
Save = Annotated[bool, typer.Option(help="Write images and videos with the boxes drawn in.")]
SaveCrops = Annotated[
    bool, typer.Option("--save-crops", help="Also write each object as an image.")
]
SaveTxt = Annotated[
    bool, typer.Option("--save-txt", help="Write a YOLO label file per image, with scores.")
]
Csv = Annotated[bool, typer.Option("--csv", help="Write predictions.csv, one row per object.")]
LabelStudio = Annotated[
    Path | None,
    typer.Option(help="Write the detections as pre-annotated tasks for Label Studio (JSON)."),
]
FiftyOne = Annotated[bool, typer.Option("--fiftyone", help="Write a data set for FiftyOne.")]
AllowPrivate = Annotated[
    bool,
    typer.Option(
        "--allow-private", help="Allow addresses of this machine and of private networks."
    ),
]
JsonLines = Annotated[
    bool, typer.Option("--jsonl", help="Print one JSON line per image as soon as it is done.")
]
Continue = Annotated[
    bool,
    typer.Option("--continue", help="Continue the stopped run called --name, or the newest one."),
]


def opening(parameters: Mapping[str, Any]) -> Opening:
    """The options of ``open_model`` among the parameters of val, predict or serve."""
    names = ("device", "precision", "queries", "queries_init", "layers", "compile")
    options: Any = {name: parameters[name] for name in names}
    return options | {"image_size": parameters["imgsz"]}


def one_of(argument: Any, option: Any, name: str) -> Any:
    """The value given as an argument or as the option ``--name``; ValueError if both are given."""
    if argument is not None and option is not None:
        raise ValueError(f"{argument} and --{name} {option} were given; give one of them")
    return option if argument is None else argument


def place_of(target: Path | None, output: Path | None, example: str) -> Path:
    """The output path, given as an argument or with -o; ValueError unless exactly one is given."""
    place = one_of(target, output, "output")
    if place is None:
        raise ValueError(f"no place to write was given: dabdetr {example}")
    return place


def run_place(project: Path, name: str | None, output: Path | None) -> tuple[Path, str | None]:
    """The project and the name of a run's folder.

    ValueError where they are not valid names of folders, or if -o and --name are both given.
    """
    what, remedy = "--name", "use --project for folders"
    if output is not None:
        if name is not None:
            raise ValueError(f"-o {output} and --name {name} were given; give one of them")
        if output.name in ("", ".."):  # of ".", "/"
            raise ValueError(f"-o should be a new folder; got {output}")
        project, name = output.parent, output.name
        what, remedy = "-o", "choose another folder"
    check_place(project)
    if name is not None:
        check_folder_name(name, what, remedy)
    return project, name


def read_box_format(given: str | None) -> Any:
    """The box format; ValueError lists the known ones for any other name."""
    from typing import get_args

    from dabdetr.data.box_formats import BoxFormat

    if given not in (None, *get_args(BoxFormat)):
        known = ", ".join(get_args(BoxFormat))
        raise ValueError(f"--box-format should be one of {known}; got {given!r}")
    return given


def check_data(data: str | None, annotations: Path | None, images: Path | None) -> None:
    """Raise where no data were given, or two sources of data, or the folder does not exist."""
    separate = given({"annotations": annotations, "images": images})
    if data is None and not separate:
        raise ValueError("no data was given; give --data FOLDER or --data scenes")
    if data is not None and separate:
        raise ValueError(
            f"--data and {' and '.join(separate)} were given; give --data, or --annotations with "
            "--images"
        )
    check_folder(data)


def given(values: Mapping[str, object]) -> list[str]:
    """The options among ``values``, by name without dashes, that were given: --coco, --imgsz …"""
    return [f"--{name}" for name, value in values.items() if value]


def check_figure(plot: Path | None) -> None:
    """ValueError unless the name of a figure ends in .png or .svg."""
    if plot and plot.suffix.lower() not in (".png", ".svg"):
        raise ValueError(f"--plot should end in .png or .svg; got {plot}")


def check_folder(data: str | None) -> None:
    """FileNotFoundError where ``data`` does not exist, before anything heavy is imported."""
    if data is not None and data.partition(":")[0] != "scenes" and not Path(data).exists():
        raise FileNotFoundError(f"there is no data folder {data}; check the path")


def open_splits(
    data: str | None,
    annotations: Path | None,
    images: Path | None,
    box_format: str | None,
    *,
    strict: bool,
    quiet: bool,
) -> list[DetectionDataset]:
    """All splits of the data of a command line."""
    check_data(data, annotations, images)
    from dabdetr.data.findings import refuse
    from dabdetr.data.layouts import open_every

    known = read_box_format(box_format)
    found = open_every(data, annotations, images, box_format=known, progress=not quiet)
    if strict:
        refuse({each.split: each.findings for each in found})
    return found


def tell_counts(found: Iterable[DetectionDataset], quiet: bool) -> list[Summary]:
    """Print and return what each split contains, and what of it was skipped or repaired."""
    from dabdetr.cli.output import say
    from dabdetr.data.statistics import summarise

    summaries = [summarise(each) for each in found]
    for line in (line for summary in summaries for line in summary.lines()):
        say(line, quiet)
    return summaries


def open_split(
    data: str | None,
    split: str,
    annotations: Path | None,
    images: Path | None,
    box_format: str | None,
    *,
    strict: bool,
    quiet: bool,
) -> DetectionDataset:
    """One split of the data of a command line, with checked images."""
    check_data(data, annotations, images)
    from dabdetr.data.findings import refuse
    from dabdetr.data.layouts import open_data

    found = open_data(data, split, annotations, images, read_box_format(box_format))
    found = found.checked(progress=not quiet)
    if strict:
        refuse({found.split: found.findings})
    return found


def tell_choices(quiet: bool) -> None:
    """Print what dabdetr logs, such as choices made by measuring, on stderr unless ``quiet``."""
    import logging
    import os

    from dabdetr.cli.output import say

    class Printer(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            say(record.getMessage(), quiet)

    if quiet:
        os.environ["HF_HUB_DISABLE_PROGRESS_BARS"] = "1"
    logger = logging.getLogger("dabdetr")
    logger.setLevel(logging.INFO)
    logger.handlers = [Printer()]


def given_options(context: typer.Context) -> dict[str, Any]:
    """The parameters that were given on the command line, without defaults."""
    return {
        key: value
        for key, value in context.params.items()
        if getattr(context.get_parameter_source(key), "name", "") == "COMMANDLINE"
    }


def class_names(values: Iterable[str], known: Sequence[str]) -> list[str] | None:
    """Names given one by one or separated by commas; a known name with a comma is not split."""
    names = [
        name.strip()
        for value in values
        for name in ([value] if value in known else value.split(","))
    ]
    return names or None
