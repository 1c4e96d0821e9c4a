"""`dabdetr predict`: detection in images and videos, with tables, drawings and files of results."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import closing, contextmanager
from dataclasses import replace
from itertools import chain, islice
from pathlib import Path
from typing import TYPE_CHECKING, Any

import typer

from dabdetr.cli import options
from dabdetr.cli.output import console, print_json, refuse_to_overwrite, say
from dabdetr.cli.saving import Saver, write_coco, write_label_studio
from dabdetr.runs import RunFolder, interruptible, locked
from dabdetr.steps import tracked
from dabdetr.text import counted, json_text, printable

if TYPE_CHECKING:
    from dabdetr.cli.unfinished import Journal
    from dabdetr.structures import Detections

MOST_ROWS = 200
"""Most detections in the printed table."""


def predict(
    ctx: typer.Context,
    model: options.ModelOrNone = None,
    images: options.PredictedImages = None,
    source: options.Source = None,
    conf: options.Conf = None,
    max_det: options.MaxDet = None,
    nms: options.Nms = None,
    multi_label: options.MultiLabel = False,
    classes: options.Classes = None,
    imgsz: options.ImageSize = None,
    tiles: options.Tiles = False,
    tile_size: options.TileSize = None,
    stride: options.Stride = 1,
    track: options.Track = False,
    patience: options.Patience = 15,
    queries: options.Queries = None,
    queries_init: options.QueriesInit = "keep",
    layers: options.Layers = None,
    batch: options.Batch = 1,
    device: options.Device = "auto",
    precision: options.SetPrecision = "fp32",
    compile: options.Compile = False,
    save: options.Save = True,
    save_crops: options.SaveCrops = False,
    coco: options.Coco = None,
    save_txt: options.SaveTxt = False,
    as_csv: options.Csv = False,
    label_studio: options.LabelStudio = None,
    fiftyone: options.FiftyOne = False,
    name: options.Name = None,
    project: options.Project = Path("runs/predict"),
    output: options.RunOutput = None,
    allow_private: options.AllowPrivate = False,
    skip_unreadable: options.SkipUnreadable = False,
    as_json: options.Json = False,
    as_lines: options.JsonLines = False,
    go_on: options.Continue = False,
    quiet: options.Quiet = False,
) -> None:
    """Detect objects in images, videos and cameras.

    Boxes are x0 y0 x1 y1 in pixels of the original image. Videos keep their time stamps; damaged
    frames are skipped and listed, and the exit code is then 1. Ctrl-C ends the recording of a
    camera.

    A stopped run keeps its results. --continue processes the remaining images; the files are then
    those of one uninterrupted run.

    Image ids in the COCO results file are the numbers in the file names if all names are numbers,
    else 1, 2, 3 …
    """
    from dabdetr.cli import unfinished

    project, name = options.run_place(project, name, output)
    if go_on:
        return _continue(ctx, project, name)
    before: Journal | None = ctx.obj  # of the run that is continued
    if model is None:
        raise ValueError("no model was given: dabdetr predict --model MODEL IMAGE …")
    if as_json and as_lines:
        raise ValueError("--json and --jsonl were given; give one of them")
    if track and any((tiles, tile_size, nms, multi_label, classes, max_det, batch > 1)):
        raise ValueError(
            "--track asks about the last frame's boxes, one frame after the other; leave out "
            "--tiles, --nms, --multi-label, --classes, --max-det and --batch"
        )
    if track and before:
        raise ValueError("a run with --track cannot be continued; predict the video again")
    refuse_to_overwrite(coco)
    refuse_to_overwrite(label_studio)
    from dabdetr.inference.sources import attempts, expand

    sources = _sources([*(images or []), *(source or [])], tiles)
    items = before.rest(sources) if before else expand(sources)
    attempts(items, stride)  # a missing file raises before the model is loaded
    from dabdetr.inference.opening import open_model
    from dabdetr.predictor import Predictor

    options.tell_choices(quiet)
    files = {"draw": save, "crops": save_crops, "txt": save_txt, "table": as_csv}
    files["fiftyone"] = fiftyone
    files["tracks"] = track
    needed = any(files.values())
    if before:
        folder = RunFolder.existing(project / str(name))
    else:
        folder = RunFolder(project, name if needed else None, "predict")
    journal = before or unfinished.new_journal(items, ctx.params)
    skipped = _Skipped(skip_unreadable, journal)
    summary = _Summary(keep=as_json or bool(coco or label_studio), lines=as_lines)
    with interruptible():
        runtime = open_model(model, **options.opening(ctx.params))
        predictor = Predictor(runtime, batch=batch)
        reading: dict[str, Any] = {"stride": stride, "on_error": skipped}
        reading["keep_images"] = save or save_crops
        if track:
            from dabdetr.asking.track import track as follow

            stream = follow(predictor, items, conf=conf, patience=patience, **reading)
        else:
            stream = predictor(
                items,
                conf=conf,
                max_det=max_det,
                classes=options.class_names(classes or [], predictor.names),
                tiles=tiles if tile_size is None else tile_size,
                nms=nms,
                multi_label=multi_label,
                allow_private=allow_private,
                **reading,
            )
        with unfinished.run_folder(folder, needed, journal, summary, model) as opened:
            results = tracked(
                stream, "images", shown=not (quiet or (as_lines and sys.stdout.isatty()))
            )
            first = [*islice(results, 1)]  # an error before the first result leaves no folder
            if opened:
                opened.publish()
            saver = Saver(folder.path, **files)
            with closing(saver), _ended_by_ctrl_c(sources):
                earlier = before.again(folder.path, predictor.names) if before else ()
                for result in earlier:  # detections, or the reason why an image was skipped
                    if isinstance(result, str):
                        skipped.reasons.append(result)
                    else:
                        saver.add(result)
                        summary.add(result)
                for found in chain(first, results):
                    saver.add(found)
                    if journal:
                        journal.add(found)
                    summary.add(found)
            saver.finish(predictor.names)
            if coco:
                write_coco(coco, summary.kept)
            if label_studio:
                write_label_studio(label_studio, summary.kept, model)
            _report(summary, skipped, model, folder if needed else None, as_json, quiet)
            sys.stdout.flush()
    if skipped.reasons:
        raise typer.Exit(1)


def _continue(ctx: typer.Context, project: Path, name: str | None) -> None:
    """Predict the remaining images of a stopped run with the run's own options."""
    from dabdetr.cli import unfinished

    stopped = unfinished.find(project, name)
    with locked(stopped):
        ctx.obj = unfinished.Journal.read(stopped)
        given = options.given_options(ctx)
        ctx.params = ctx.obj.options_for(stopped, given, ctx.params.keys())
        predict(ctx, **ctx.params)


def _sources(sources: list[str], tiles: bool) -> list[str | bytes]:
    """The paths and addresses, with the content of standard input in the place of "-"."""
    if not sources:
        raise ValueError("no image was given: dabdetr predict --model MODEL IMAGE …")
    sizes = [each for each in sources if tiles and each.isdecimal() and not Path(each).exists()]
    if sizes and len(sources) > 1:
        raise ValueError(
            f"--tiles takes no number; for tiles of {sizes[0]} pixels give --tile-size"
        )
    if "-" not in sources:
        return [*sources]
    content = sys.stdin.buffer.read()
    if not content:
        raise ValueError("- reads an image from standard input; nothing came")
    return [content if each == "-" else each for each in sources]


@contextmanager
def _ended_by_ctrl_c(sources: list[str | bytes]) -> Iterator[None]:
    """If a source is a camera, Ctrl-C ends the recording and its results are kept."""
    from dabdetr.inference.video import is_endless

    try:
        yield
    except KeyboardInterrupt:
        if not any(is_endless(each) for each in sources if isinstance(each, str)):
            raise


class _Skipped:
    """Collects the reasons for skipped images and frames.

    Damaged frames of a video are always skipped; unreadable images raise unless ``skip_images``.
    """

    def __init__(self, skip_images: bool, journal: Journal | None) -> None:
        self.skip_images, self.journal = skip_images, journal
        self.reasons: list[str] = []

    def __call__(self, label: str, error: Exception) -> None:
        from dabdetr.inference.stream import DamagedFrame

        if not (self.skip_images or isinstance(error, DamagedFrame)):
            if isinstance(error, ValueError | OSError):
                raise type(error)(f"{error}; --skip-unreadable passes over such images") from None
            raise error
        self.reasons.append(str(error))
        if self.journal:
            self.journal.skip(label, str(error), isinstance(error, DamagedFrame))


class _Summary:
    """The results for the end of the run: counts, the first rows of the table, or all of them.

    keep   whether all detections are kept, in ``kept``
    lines  whether a JSON line is printed for each image
    """

    def __init__(self, keep: bool, lines: bool) -> None:
        self.keep, self.lines = keep, lines
        self.kept: list[Detections] = []
        self.rows: list[tuple[str, dict[str, Any]]] = []
        self.images = self.objects = 0
        self.tracks: set[tuple[str, int]] = set()

    def add(self, found: Detections) -> None:
        """Add the detections of one image, without its pixels."""
        self.images += 1
        self.objects += len(found)
        if found.tracks is not None:
            from dabdetr.asking.track import video_of

            video = video_of(found.source)
            self.tracks.update((video, number) for number in found.tracks.tolist())
        if self.keep:
            self.kept.append(replace(found, image=None))
        if self.lines:
            sys.stdout.write(json_text(found.to_dict()) + "\n")
            sys.stdout.flush()
        if room := MOST_ROWS - len(self.rows):
            name = Path(found.source).name
            name += "" if found.frame is None else f" #{found.frame}"
            self.rows += [(name, row) for row in found[:room].to_dict()["detections"]]


def _report(
    summary: _Summary,
    skipped: _Skipped,
    model: str,
    folder: RunFolder | None,
    as_json: bool,
    quiet: bool,
) -> None:
    for reason in skipped.reasons:
        say(f"skipped: {printable(reason)}")
    if as_json:
        path = str(folder.path) if folder else None
        results = [each.to_dict() for each in summary.kept]
        print_json({"model": model, "folder": path, "skipped": skipped.reasons, "images": results})
    elif not (quiet or summary.lines):
        _print_table(summary)
    if folder and summary.images:
        say(f"results: {folder.path}", quiet)


def _print_table(summary: _Summary) -> None:
    from rich.table import Table
    from rich.text import Text

    followed = [] if not summary.tracks else ["track"]
    table = Table("image", "object", *followed)
    for column in ("score", "x0", "y0", "x1", "y1"):
        table.add_column(column, justify="right")
    for name, row in summary.rows:
        numbers = (f"{row['score']:.2f}", *(f"{side:.0f}" for side in row["box"]))
        number = [str(row["track"])] if followed else []
        table.add_row(Text(printable(name), overflow="fold"), Text(row["name"]), *number, *numbers)
    if summary.rows:
        console().print(table)
    cut = summary.objects > MOST_ROWS
    more = f"; the table shows {MOST_ROWS}, --json gives all" if cut else ""
    what = f"{counted(summary.objects, 'object')} in {counted(summary.images, 'image')}"
    if followed:
        boxes, frames = (counted(summary.objects, "box", "boxes"), counted(summary.images, "frame"))
        what = f"{counted(len(summary.tracks), 'track')}: {boxes} in {frames}"
    print(f"{what}{more}")
