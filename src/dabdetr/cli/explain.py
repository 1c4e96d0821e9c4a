"""`dabdetr explain`: pages that show attention, anchors and boxes of a model layer by layer."""

from __future__ import annotations

import itertools
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated
from urllib.parse import quote

import typer

from dabdetr.cli import options
from dabdetr.cli.output import file_name, print_json, refuse_to_overwrite, say
from dabdetr.steps import tracked

if TYPE_CHECKING:
    from dabdetr.data.dataset import DetectionDataset
    from dabdetr.explain.explanation import Explanation
    from dabdetr.inference.torch_runtime import TorchRuntime

SHIPPED = "scenes"


def explain(
    source: Annotated[
        list[str] | None, typer.Argument(help="Images, folders, patterns, addresses.")
    ] = None,
    data: Annotated[
        str | None,
        typer.Option(help="Labelled data instead of images: a folder in any layout, or scenes."),
    ] = None,
    split: options.Split = "val",
    count: Annotated[
        int, typer.Option(min=1, help="With --data: the first N images.", metavar="N")
    ] = 20,
    output: Annotated[
        Path,
        typer.Option(
            "--output", "-o", help="The page to write; for several images, their index page."
        ),
    ] = Path("explanation.html"),
    model: options.Model = SHIPPED,
    conf: options.Conf = None,
    max_det: options.MaxDet = None,
    imgsz: options.ImageSize = None,
    device: options.Device = "auto",
    force: Annotated[bool, typer.Option("--force", help="Overwrite the page.")] = False,
    skip_unreadable: options.SkipUnreadable = False,
    as_json: options.Json = False,
    quiet: options.Quiet = False,
) -> None:
    """Write a page that shows how each detection came about.

    It shows anchors, boxes and attention of every decoder layer, in one file that needs no network.
    For several images an index page is written, and their pages go into a folder beside it
    (explanation_pages for explanation.html). --force replaces pages of an earlier run; other files
    there are kept.

    With --data, the pages also show the labelled objects, and mark wrong classes.
    """
    if bool(source) == bool(data):
        raise ValueError(
            "images and --data were given; give one of them"
            if source
            else "no image was given: dabdetr explain IMAGE …, or --data DATA"
        )
    if output.suffix.lower() not in (".html", ".htm"):
        raise ValueError(f"the page should end in .html; got {output}")
    refuse_to_overwrite(output, "choose another name, or give --force", force)
    options.check_folder(data)
    if source:
        from dabdetr.inference.sources import attempts, expand

        attempts(expand(source))  # a missing file raises before the model is loaded
    from dabdetr.data.layouts import open_data
    from dabdetr.explain.explanation import explain as explained
    from dabdetr.inference.opening import torch_runtime

    truth = open_data(data, split) if data else None
    runtime = torch_runtime(model, device=device, image_size=imgsz)
    skipped: list[str] = []

    def pass_over(_: str, error: Exception) -> None:
        if not skip_unreadable:
            raise error
        skipped.append(str(error))

    if truth is None:
        found = explained(runtime, source, conf, max_det, on_error=pass_over, ask=True)
    else:
        found = _explain_data(runtime, truth, count, conf, max_det, pass_over)
    named = (replace(each, trace=replace(each.trace, model=model)) for each in found)
    written = _write(tracked(named, "images", shown=not quiet), output, model, force)
    for reason in skipped:
        say(f"skipped: {reason}")
    page = str(output) if written else None
    if as_json:
        print_json({"model": model, "page": page, "skipped": skipped, "images": written})
    if page:
        say(f"page: {page} (model: {model})", quiet)
    if skipped:
        raise typer.Exit(1)


def _explain_data(
    runtime: TorchRuntime,
    data: DetectionDataset,
    count: int,
    conf: float | None,
    max_det: int | None,
    on_error: Callable[[str, Exception], None],
) -> Iterator[Explanation]:
    """Explanations of the first ``count`` images of the data, with their labelled objects."""
    from dabdetr.evaluation.evaluate import class_map
    from dabdetr.explain.explanation import explain_record

    class_map(runtime.names, data.names)  # raises where the model does not know all classes
    for index in range(min(count, len(data))):
        try:
            data.image(index)
        except (ValueError, OSError) as error:
            on_error(data.record(index).file, error)
            continue
        yield explain_record(runtime, data, index, conf=conf, max_det=max_det, ask=True)


def _write(
    stream: Iterator[Explanation], output: Path, model: str, force: bool
) -> list[dict[str, object]]:
    """Write one image's page as ``output``, or several with ``output`` as their index.

    Returns a dictionary for JSON for each page.
    """
    from dabdetr.explain.page import write_page

    first, second = next(stream, None), next(stream, None)
    if first is None:
        return []
    if second is not None:
        return _write_pages(itertools.chain((first, second), stream), output, model, force)
    write_page(first, output)
    return [{"page": str(output), **first.detections.to_dict()}]


def _write_pages(
    stream: Iterator[Explanation], output: Path, model: str, force: bool
) -> list[dict[str, object]]:
    """Write pages and then their index; they are moved to their folder when all are done."""
    from dabdetr.explain.page import entry, is_page, write_index, write_page
    from dabdetr.files import unwritable

    folder = output.with_name(output.stem + "_pages")
    if folder.exists() and not (force and folder.is_dir()):
        raise FileExistsError(f"{folder} exists and is not overwritten; choose another name")
    try:
        temporary = tempfile.TemporaryDirectory(dir=output.parent, prefix=f".{folder.name}-")
    except OSError as error:
        raise unwritable(folder, error) from None
    entries, written, taken, before = [], [], set(), []
    named = ((each, f"{file_name(each.detections.source, taken)}.html") for each in stream)
    current, following = itertools.tee(named)
    pairs = itertools.zip_longest(current, itertools.islice(following, 1, None))
    with temporary as unfinished:
        for (each, page), after in pairs:
            links = [("all images", f"../{quote(output.name)}"), *before]
            if after:
                links.append((f"{Path(after[0].detections.source).name} →", quote(after[1])))
            write_page(each, Path(unfinished, page), links)
            before = [(f"← {Path(each.detections.source).name}", quote(page))]
            entries.append(entry(each, f"{quote(folder.name)}/{quote(page)}"))
            written.append({"page": str(folder / page), **each.detections.to_dict()})
        folder.mkdir(exist_ok=force)
        for old in folder.glob("*.html"):
            if old.is_file() and is_page(old):
                old.unlink()
        for page in Path(unfinished).iterdir():
            page.replace(folder / page.name)
    write_index(output, model, entries)
    return written
