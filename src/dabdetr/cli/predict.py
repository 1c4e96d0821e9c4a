"""`dabdetr predict`: detection in images and videos, with tables, drawings and files of results."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from contextlib import ExitStack, closing, contextmanager, nullcontext
from dataclasses import replace
from itertools import chain, islice
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from dabdetr.cli.app import Unfinished
from dabdetr.cli.options import (
    Batch,
    Coco,
    Compile,
    Conf,
    Device,
    ImageSize,
    Json,
    Layers,
    MaxDet,
    ModelOrNone,
    Name,
    Nms,
    Project,
    Queries,
    QueriesInit,
    Quiet,
    RunOutput,
    SetPrecision,
    SkipUnreadable,
    class_names,
    given_options,
    run_place,
    tell_choices,
)
from dabdetr.cli.output import (
    console,
    print_json,
    refuse_to_overwrite,
    say,
    tracked,
)
from dabdetr.cli.saving import Saver
from dabdetr.runs import RunFolder, interruptible, locked
from dabdetr.text import counted, json_text, printable

if TYPE_CHECKING:
    from dabdetr.cli.unfinished import Journal
    from dabdetr.predictor import Predictor
    from dabdetr.structures import Detections

MOST_ROWS = 200
"""Most detections in the printed table."""


def predict(
    ctx: typer.Context,
    model: ModelOrNone = None,
    images: Annotated[
        list[str] | None,
        typer.Argument(
            help="Images, folders, patterns, addresses, videos, a camera's number, - for stdin."
        ),
    ] = None,
    source: Annotated[list[str] | None, typer.Option(help="The images, as an option.")] = None,
    conf: Conf = None,
    max_det: MaxDet = None,
    nms: Nms = None,
    multi_label: Annotated[
        bool,
        typer.Option(
            "--multi-label",
            help="Report every class of a query that scores enough, not only the best.",
        ),
    ] = False,
    classes: Annotated[
        list[str] | None,
        typer.Option(help="Only these classes; repeat the option, or separate with commas."),
    ] = None,
    imgsz: ImageSize = None,
    tiles: Annotated[
        bool, typer.Option("--tiles", help="Also run on overlapping tiles of large images.")
    ] = False,
    tile_size: Annotated[
        int | None, typer.Option(help="Side of a tile in pixels; implies --tiles.")
    ] = None,
    stride: Annotated[
        int, typer.Option(help="Take every N-th frame of a video only.", metavar="N")
    ] = 1,
    track: Annotated[
        bool, typer.Option("--track", help="Follow objects through videos; writes MOT files too.")
    ] = False,
    patience: Annotated[
        int, typer.Option(min=0, help="Frames for which --track keeps a lost object.")
    ] = 15,
    queries: Queries = None,
    queries_init: QueriesInit = "keep",
    layers: Layers = None,
    batch: Batch = 1,
    device: Device = "auto",
    precision: SetPrecision = "fp32",
    compile: Compile = False,
    save: Annotated[
        bool, typer.Option(help="Write images and videos with the boxes drawn in.")
    ] = True,
    save_crops: Annotated[
        bool, typer.Option("--save-crops", help="Also write each object as an image.")
    ] = False,
    coco: Coco = None,
    save_txt: Annotated[
        bool,
        typer.Option("--save-txt", help="Write a YOLO label file per image, with scores."),
    ] = False,
    as_csv: Annotated[
        bool, typer.Option("--csv", help="Write predictions.csv, one row per object.")
    ] = False,
    label_studio: Annotated[
        Path | None,
        typer.Option(help="Write the detections as pre-annotated tasks for Label Studio (JSON)."),
    ] = None,
    fiftyone: Annotated[
        bool, typer.Option("--fiftyone", help="Write a data set for FiftyOne.")
    ] = False,
    name: Name = None,
    project: Project = Path("runs/predict"),
    output: RunOutput = None,
    allow_private: Annotated[
        bool,
        typer.Option(
            "--allow-private", help="Allow addresses of this machine and of private networks."
        ),
    ] = False,
    skip_unreadable: SkipUnreadable = False,
    as_json: Json = False,
    as_lines: Annotated[
        bool, typer.Option("--jsonl", help="Print one JSON line per image as soon as it is done.")
    ] = False,
    go_on: Annotated[
        bool,
        typer.Option(
            "--continue", help="Continue the stopped run called --name, or the newest one."
        ),
    ] = False,
    quiet: Quiet = False,
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

    project, name = run_place(project, name, output)
    if go_on:
        stopped = unfinished.find(project, name)
        with locked(stopped):
            ctx.obj = unfinished.Journal.read(stopped)
            given = given_options(ctx)
            return predict(ctx, **ctx.obj.options_for(stopped, given, ctx.params.keys()))
    if model is None:
        raise ValueError("no model was given: dabdetr predict --model MODEL IMAGE …")
    if as_json and as_lines:
        raise ValueError("--json and --jsonl were given; give one of them")
    if track and (tiles or tile_size or nms or multi_label or classes or max_det or batch > 1):
        raise ValueError(
            "--track asks about the last frame's boxes, one frame after the other; leave out "
            "--tiles, --nms, --multi-label, --classes, --max-det and --batch"
        )
    if track and isinstance(ctx.obj, unfinished.Journal):
        raise ValueError("a run with --track cannot be continued; predict the video again")
    refuse_to_overwrite(coco)
    refuse_to_overwrite(label_studio)
    from dabdetr.inference.sources import attempts, expand

    before = ctx.obj if isinstance(ctx.obj, unfinished.Journal) else None
    sources = _sources([*(images or []), *(source or [])], tiles)
    items = before.rest(sources) if before else expand(sources)
    attempts(items, stride)  # a missing file raises before the model is loaded
    from dabdetr.inference.opening import open_model
    from dabdetr.predictor import Predictor

    tell_choices(quiet)
    wanted = {"draw": save, "crops": save_crops, "txt": save_txt, "table": as_csv}
    wanted["fiftyone"] = fiftyone
    needed = any(wanted.values())
    if before:
        folder = RunFolder.existing(project / str(name))
    else:
        folder = RunFolder(project, name if needed else None, "predict")
    journal = before or unfinished.new_journal(items, ctx.params)
    skipped = _Skipped(skip_unreadable, journal)
    summary = _Summary(keep=as_json or bool(coco or label_studio), lines=as_lines)
    with interruptible(), ExitStack() as stack:
        runtime = open_model(
            model,
            device=device,
            precision=precision,  # pyright: ignore[reportArgumentType]
            queries=queries,
            queries_init=queries_init,
            layers=layers,
            image_size=imgsz,
            compile=compile,
        )
        predictor = Predictor(runtime, batch=batch)
        stream = (
            _track(
                predictor,
                items,
                conf=conf,
                patience=patience,
                keep_images=save or save_crops,
                stride=stride,
                on_error=skipped,
            )
            if track
            else predictor(
                items,
                conf=conf,
                max_det=max_det,
                classes=class_names(classes or [], predictor.names),
                keep_images=save or save_crops,
                on_error=skipped,
                tiles=tiles if tile_size is None else tile_size,
                stride=stride,
                nms=nms,
                multi_label=multi_label,
                allow_private=allow_private,
            )
        )
        opened = stack.enter_context(_run_folder(folder, needed, journal, summary, model))
        results = tracked(stream, "images", quiet or (as_lines and sys.stdout.isatty()))
        first = [*islice(results, 1)]  # after an error before the first result, no folder is left
        if opened:
            opened.publish()
        saver = Saver(folder.path, **wanted) if needed else None
        with closing(saver) if saver else nullcontext(), _ended_by_ctrl_c(sources):
            for found in before.again(folder.path, predictor.names) if before else ():
                if isinstance(found, str):
                    skipped.reasons.append(found)
                    continue
                summary.add(found)
                if saver:
                    saver.add(found)
            for found in chain(first, results):
                if saver:
                    saver.add(found)
                if journal:
                    journal.add(found)
                summary.add(found)
        if saver:
            saver.finish(predictor.names)
        if coco:
            _write_coco(coco, summary.kept)
        if label_studio:
            _write_label_studio(label_studio, summary.kept, model)
        _report(summary, skipped, model, folder if needed else None, as_json, quiet)
        sys.stdout.flush()
    if skipped.reasons:
        raise typer.Exit(1)


def _track(predictor: Predictor, source: Any, **options: Any) -> Iterator[Detections]:
    """Detections of videos with their tracks."""
    from dabdetr.asking.track import track

    return track(predictor, source, **options)


@contextmanager
def _run_folder(
    folder: RunFolder, needed: bool, journal: Journal | None, summary: _Summary, model: str
) -> Iterator[RunFolder | None]:
    """The run's folder with its journal; an error after its publication leaves both there.

    Unless ``needed``, the folder is only for the journal: it is removed at the end, and None is
    yielded where it cannot be made.
    """
    from dabdetr.cli import unfinished

    with ExitStack() as stack:
        try:
            stack.enter_context(folder)
        except OSError:
            if needed:
                raise
            yield None
            return
        resumed = folder.published
        if not resumed:
            stack.enter_context(locked(folder.path))
        if journal:
            stack.callback(journal.close)
            journal.start(folder.path, model)
        try:
            yield folder
        except (Exception, KeyboardInterrupt) as error:
            if folder.published and not folder.path.is_dir():
                gone = f"the run folder {folder.path} was removed; nothing of this run is kept"
                raise Unfinished(gone) from error
            if not needed and not resumed and isinstance(error, BrokenPipeError):
                folder.discard()  # the reader has ended, as in `dabdetr predict --jsonl | head`
            elif folder.published and journal:
                raise Unfinished(journal.state(folder.path)) from error
            elif folder.published:
                verb = "is" if summary.images == 1 else "are"
                done = f"{counted(summary.images, 'image')} {verb}"
                raise Unfinished(f"{done} done and kept in {folder.path}") from error
            raise
        if journal:
            (folder.path / unfinished.FILE).unlink()
        if not needed:
            folder.discard()


def _sources(sources: list[str], tiles: bool) -> list[str | bytes]:
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

    def add(self, found: Detections) -> None:
        """Add the detections of one image, without its pixels."""
        self.images += 1
        self.objects += len(found)
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


def _write_coco(path: Path, found: list[Detections]) -> None:
    from dabdetr.files import write_atomically

    stems = [Path(each.source).stem for each in found]
    numbered = all(stem.isdecimal() for stem in stems) and len(set(map(int, stems))) == len(stems)
    ids = [int(stem) for stem in stems] if numbered else range(1, len(found) + 1)
    rows: list[dict[str, Any]] = []
    for image_id, each in zip(ids, found, strict=True):
        origin = {"file_name": each.source}  # matches images whose ids in the data are others
        for row in each.to_coco(image_id):
            rows.append(row | origin | {"category_name": each.names[row["category_id"] - 1]})
    write_atomically(path, json.dumps(rows).encode())


def _write_label_studio(path: Path, found: list[Detections], model: str) -> None:
    from dabdetr.files import write_atomically

    tasks = [each.to_label_studio(version=Path(model).name) for each in found]
    write_atomically(path, json_text(tasks, indent=1).encode())


def _print_table(summary: _Summary) -> None:
    from rich.table import Table
    from rich.text import Text

    table = Table("image", "object")
    for column in ("score", "x0", "y0", "x1", "y1"):
        table.add_column(column, justify="right")
    for name, row in summary.rows:
        numbers = (f"{row['score']:.2f}", *(f"{side:.0f}" for side in row["box"]))
        table.add_row(Text(printable(name), overflow="fold"), Text(row["name"]), *numbers)
    if summary.rows:
        console().print(table)
    cut = summary.objects > MOST_ROWS
    more = f"; the table shows {MOST_ROWS}, --json gives all" if cut else ""
    print(f"{counted(summary.objects, 'object')} in {counted(summary.images, 'image')}{more}")
