"""The part of a report that says why: causes, what mending them gives, advice, a gallery."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from html import escape

import numpy as np
from PIL import Image

from dabdetr.data.dataset import DetectionDataset
from dabdetr.evaluation.causes import CAUSES, Error
from dabdetr.evaluation.mending import Why
from dabdetr.evaluation.tide import KINDS
from dabdetr.report.page import data_address, number, table
from dabdetr.structures.boxes import iou

SIDE = 240
"""Longer side in pixels of a gallery's image."""
BYTES = 1_200_000
"""Of all images of the gallery together, as text."""


def section(data: DetectionDataset, why: Why, links: Mapping[int, str]) -> str:
    """HTML; ``links`` are explain pages of the gallery's errors, where they exist."""
    summary, chosen = why.summary, why.chosen
    causes = [
        [row["words"], str(row["missed"]), str(row["false"]), number(row["AP50"])]
        for row in summary["causes"]
    ]
    kinds = [
        [KINDS[row["kind"]], str(row["count"]), number(row["AP50"])] for row in summary["tide"]
    ]
    told = "".join(f"<li>{escape(sentence)}.</li>" for sentence in summary["advice"])
    cards = "".join(
        _card(data, why.diagnosed.errors[at], links.get(at), len(chosen)) for at in chosen
    )
    opens = " A picture opens the page of its query, at the layer that matters." if links else ""
    return (
        '<section id="errors"><h2>Errors</h2>'
        + (f'<ul class="advice">{told}</ul>' if told else "")
        + '<div class="tables"><div><h3>Causes</h3>'
        + table(("cause", "missed", "false", "AP50 +"), causes, "Causes of errors")
        + "<p>At the thresholds in use. AP50 +: what mending this cause alone gives back. AP has "
        "no threshold: objects under it give nothing back.</p></div><div><h3>TIDE</h3>"
        + table(("kind", "errors", "AP50 +"), kinds, "Kinds of errors as TIDE counts them")
        + "<p>All detections, whatever they score.</p></div></div>"
        + f"<h3>Gallery</h3><p>White, dashed: the object. Coloured: the box found, or of the query "
        f"that tells most.{opens}</p><div class='crops'>{cards}</div></section>"
    )


def _card(data: DetectionDataset, error: Error, link: str | None, count: int) -> str:
    names = data.names
    if error.side == "missed":
        title = f"{names[error.label or 0]} missed"
    else:
        title = f"{names[error.found or 0]} false"
    text = (
        f"<figcaption><b>{escape(title)}</b>: {escape(CAUSES[error.cause])}. "
        f"<small>{escape(error.why)}.</small></figcaption>"
    )
    try:
        shown = _crop(data, error, BYTES // max(count, 1))
    except (OSError, ValueError):  # gone since it was evaluated
        shown = "<p>The image cannot be read.</p>"
    body = shown + text
    if link is not None:
        body = f'<a href="{escape(link)}">{body}</a>'
    return f'<figure class="error" data-cause="{error.cause}">{body}</figure>'


def _crop(data: DetectionDataset, error: Error, room: int) -> str:
    """The part of the image around the error, with its boxes as SVG over it."""
    pixels = data.image(error.image)
    boxes = [error.box, *([] if error.shown is None else [error.shown])]
    record = data.record(error.image)
    objects = record.boxes[~record.crowd]
    edges = np.array(boxes, float)
    low, high = edges[:, :2].min(0), edges[:, 2:].max(0)
    side = max(*((high - low) * 2), 48)
    limit = np.array(pixels.shape[1::-1], float)
    side = np.minimum(side, limit)
    start = ((low + high - side) / 2).clip(0, limit - side).astype(int)
    end = np.ceil(start + side).astype(int)
    x0, y0, x1, y1 = *start, *end
    image = Image.fromarray(pixels[y0:y1, x0:x1])
    scale = SIDE / max(image.size)
    image = image.resize(
        (max(1, round(image.width * scale)), max(1, round(image.height * scale))),
        Image.Resampling.BILINEAR if scale < 1 else Image.Resampling.BICUBIC,
    )
    near = iou(objects, np.array([x0, y0, x1, y1], float)) > 0
    drawn = [_rectangle(box, (x0, y0), "truth") for box in objects[near].tolist()]
    found = error.box if error.side == "false" else error.shown
    if found is not None:
        drawn.append(_rectangle(found, (x0, y0), "found"))
    if error.side == "missed":
        drawn.append(_rectangle(error.box, (x0, y0), "missed"))
    address = data_address(image, room)
    return (
        f'<svg viewBox="0 0 {x1 - x0} {y1 - y0}" role="img" aria-label="{error.side} object">'
        f'<image href="{address}" width="{x1 - x0}" height="{y1 - y0}"/>{"".join(drawn)}</svg>'
    )


def _rectangle(box: Sequence[float], start: tuple[int, int], kind: str) -> str:
    x, y = box[0] - start[0], box[1] - start[1]
    return (
        f'<rect class="{kind}" x="{x:.1f}" y="{y:.1f}" width="{box[2] - box[0]:.1f}" '
        f'height="{box[3] - box[1]:.1f}"/>'
    )
