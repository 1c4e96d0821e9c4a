"""`dabdetr explain`: pages that show where a model looked and how its boxes came about."""

from __future__ import annotations

import itertools
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Annotated
from urllib.parse import quote

import typer

from dabdetr.cli.options import Device, ImageSize, Json, MaxDet, Quiet, open_model
from dabdetr.cli.output import counted, file_name, print_json, refuse_to_overwrite, say

if TYPE_CHECKING:
    from dabdetr.explain.explanation import Explanation

SHIPPED = "scenes"


def explain(
    source: Annotated[list[str], typer.Argument(help="Pictures, folders, patterns, addresses.")],
    output: Annotated[
        Path, typer.Option("--output", "-o", help="The page; of several pictures, their index.")
    ] = Path("report.html"),
    model: Annotated[
        str, typer.Option(help="Weights: a file, a run folder, a shipped name or a hub name.")
    ] = SHIPPED,
    conf: Annotated[
        float | None, typer.Option(help="Lowest score listed; the model's own if not given.")
    ] = None,
    max_det: MaxDet = None,
    imgsz: ImageSize = None,
    device: Device = "auto",
    force: Annotated[bool, typer.Option("--force", help="Overwrite the page.")] = False,
    as_json: Json = False,
    quiet: Quiet = False,
) -> None:
    """Show why: a page with the boxes of every layer, anchors, attention and numbers.

    The page is one file that needs no network. Several pictures make an index, and their pages
    go into a folder beside it, report_pages for report.html.
    """
    from dabdetr.explain.explanation import explain as explained
    from dabdetr.inference.predictor import Predictor

    if output.suffix.lower() not in (".html", ".htm"):
        raise ValueError(f"the page should end in .html; got {output}")
    refuse_to_overwrite(output, "choose another name, or give --force", force)
    predictor = Predictor(open_model(model, device, imgsz), device)
    stream = counted(explained(predictor, source, conf, max_det), "pictures", quiet)
    written = _write(iter(stream), output, force)
    if as_json:
        print_json({"model": model, "page": str(output), "pictures": written})
    say(f"page: {output}", quiet)


def _write(stream: Iterator[Explanation], output: Path, force: bool) -> list[dict[str, object]]:
    """One picture as ``output`` itself, several as its index; what was written, for each."""
    from dabdetr.explain.report import write_page

    first, second = next(stream), next(stream, None)
    if second is not None:
        return _write_pages(itertools.chain((first, second), stream), output, force)
    write_page(first, output)
    return [{"page": str(output), **first.detections.to_dict()}]


def _write_pages(
    stream: Iterator[Explanation], output: Path, force: bool
) -> list[dict[str, object]]:
    """Pages in a folder, which they enter when all are done, and the index of them."""
    from dabdetr.explain.report import entry, write_index, write_page

    folder = output.with_name(output.stem + "_pages")
    if folder.exists() and not (force and folder.is_dir()):
        raise FileExistsError(f"{folder} exists and is not overwritten; choose another name")
    entries, written, taken, name = [], [], set(), ""
    with tempfile.TemporaryDirectory(dir=output.parent, prefix=f".{folder.name}-") as unfinished:
        for each in stream:
            page = f"{file_name(each.detections.source, taken)}.html"
            write_page(each, Path(unfinished, page))
            entries.append(entry(each, f"{quote(folder.name)}/{quote(page)}"))
            written.append({"page": str(folder / page), **each.detections.to_dict()})
            name = each.trace.model
        folder.mkdir(exist_ok=force)
        for page in Path(unfinished).iterdir():
            page.replace(folder / page.name)
    write_index(output, name, entries)
    return written
