"""Showing images with their boxes: a contact sheet, and a page that is one HTML file."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from PIL import Image

from dabdetr.data.dataset import DetectionDataset, evenly
from dabdetr.packages import static
from dabdetr.structures.drawing import colour, data_url, draw, reduced
from dabdetr.text import counted, escape, html_page

if TYPE_CHECKING:
    from dabdetr.config import Config
    from dabdetr.data.augmentation import Transform
    from dabdetr.data.doctor import Problem

CELL = 320
"""Side of a cell of the contact sheet in pixels."""
LONGEST = 720
"""Longer side of an image on the page in pixels."""
GAP, GROUND = 6, (32, 34, 38)


@dataclass(frozen=True)
class View:
    """An image RGB uint8 [height, width, 3] and boxes [n, 4] x0 y0 x1 y1 in its pixels.

    labels  [n] indices into ``names``
    marked  [n] bool: boxes that the page emphasises; None: all look alike
    """

    name: str
    image: np.ndarray
    boxes: np.ndarray
    labels: np.ndarray
    names: Sequence[str]
    marked: np.ndarray | None = None


def views(data: DetectionDataset, count: int) -> list[View]:
    """Views of ``count`` images, evenly spaced in a split, without augmentation."""
    return [view_of(data, index) for index in evenly(len(data), count)]


def view_of(data: DetectionDataset, index: int, marked: np.ndarray | None = None) -> View:
    """An image of a data set with its boxes."""
    record = data.record(index)
    name = Path(record.file).name
    return View(name, data.image(index), record.boxes, record.labels, data.names, marked)


def augmented(data: DetectionDataset, count: int, config: Config, seed: int) -> list[View]:
    """Views of the same images as in training: cropped, resized, flipped, recoloured by config."""
    return _as_trained(data, evenly(len(data), count), config, seed)


def first_batch(
    data: DetectionDataset, config: Config, most: int, transform: Transform | None = None
) -> list[View]:
    """Views of the first ``most`` images in the first batch of a training, with augmentation."""
    from dabdetr.data.loader import plan_epoch  # needs torch

    batch = plan_epoch(data, config, config.training.seed, 0)[0]
    indices = [job.index for job in batch[:most]]
    return _as_trained(data, indices, config, config.training.seed, transform)


def _as_trained(
    data: DetectionDataset,
    indices: Sequence[int],
    config: Config,
    seed: int,
    transform: Transform | None = None,
) -> list[View]:
    from dabdetr.data.loader import training_examples  # needs torch

    mean, std = (np.array(v, np.float32) * 255 for v in (config.image.mean, config.image.std))
    shown: list[View] = []
    examples = training_examples(data, config, seed, indices, transform)
    for index, example in zip(indices, examples, strict=True):
        pixels = example.pixels.numpy().transpose(1, 2, 0) * std + mean
        image = (pixels + 0.5).clip(0, 255).astype(np.uint8)
        name = Path(data.record(index).file).name
        boxes, labels = example.boxes.numpy(), example.labels.numpy()
        shown.append(View(name, image, boxes, labels, data.names))
    return shown


def contact_sheet(shown: Sequence[View]) -> Image.Image:
    """One image with all views side by side, boxes drawn in."""
    columns = math.ceil(math.sqrt(len(shown) * 4 / 3))
    rows = math.ceil(len(shown) / columns)
    cell = min(CELL, max((max(view.image.shape[:2]) for view in shown), default=CELL))
    step = cell + GAP
    sheet = Image.new("RGB", (columns * step + GAP, rows * step + GAP), GROUND)
    for number, view in enumerate(shown):
        image, boxes = scaled(view, cell)
        areas = (boxes[:, 2:] - boxes[:, :2]).prod(1)  # smaller boxes are drawn over larger ones
        order = np.argsort(np.argsort(-areas, kind="stable"), kind="stable").astype(np.float64)
        drawn = draw(image, boxes, order, view.labels, view.names, scored=False)
        row, column = divmod(number, columns)
        left = GAP + column * step + (cell - drawn.width) // 2
        top = GAP + row * step + (cell - drawn.height) // 2
        sheet.paste(drawn, (left, top))
    return sheet


def scaled(view: View, longest: int) -> tuple[np.ndarray, np.ndarray]:
    """Image and boxes, reduced to ``longest`` pixels; smaller images are not enlarged."""
    image, factors = reduced(view.image, longest)
    return image, view.boxes * factors


def page(title: str, shown: Sequence[View], total: int) -> str:
    """One self-contained HTML file: images, boxes that can be hidden, class names.

    ``total`` is the number of images in the split.
    """
    counts: dict[int, int] = {}
    for view in shown:
        for label in view.labels.tolist():
            counts[label] = counts.get(label, 0) + 1
    order = sorted(counts, key=lambda label: -counts[label])
    names = shown[0].names if shown else ()
    legend = "\n".join(
        f'<label style="--ink:{ink(label)}"><input type="checkbox" checked data-label="{label}">'
        f"<i></i>{escape(names[label])} <small>{counts[label]}</small></label>"
        for label in order
    )
    boxes = sum(len(view.labels) for view in shown)
    summary = f"{len(shown)} of {counted(total, 'image')}, {counted(boxes, 'box', 'boxes')}"
    body = f'<fieldset><legend>Classes</legend>{legend}</fieldset><main class="grid">'
    body += "\n".join(figure(view) for view in shown) + "</main>"
    return html(title, summary, body)


def html(title: str, summary: str, body: str) -> str:
    """A complete HTML page around ``body``, with the style and script of pages of images."""
    body = f"<header><h1>{escape(title)}</h1><p>{escape(summary)}</p></header>\n{body}"
    style, script = (static("dabdetr.data", name) for name in ("page.css", "page.js"))
    return html_page(title, style, body, script)


def figure(view: View, caption: str = "") -> str:
    """An HTML figure: the image, and its boxes as SVG over it."""
    image, boxes = scaled(view, LONGEST)
    height, width = image.shape[:2]
    marks = "".join(_rectangles(view, boxes))
    many = counted(len(view.labels), "box", "boxes")
    return (
        f'<figure><div class="stage" style="aspect-ratio:{width}/{height}">'
        f'<img alt="{escape(view.name)}" loading="lazy" src="{data_url(image)}">'
        f'<svg viewBox="0 0 {width} {height}" preserveAspectRatio="none">{marks}</svg></div>'
        f"<figcaption>{escape(caption or view.name)} <small>{many}</small>"
        "</figcaption></figure>"
    )


def _rectangles(view: View, boxes: np.ndarray) -> Iterable[str]:
    areas = (boxes[:, 2:] - boxes[:, :2]).prod(1)
    for row in np.argsort(-areas, kind="stable").tolist():
        x0, y0, x1, y1 = boxes[row].tolist()
        label = int(view.labels[row])
        faint = view.marked is not None and not view.marked[row]
        yield (
            f'<rect data-label="{label}"{" class=faint" if faint else ""} x="{x0:.1f}" '
            f'y="{y0:.1f}" width="{max(x1 - x0, 1):.1f}" height="{max(y1 - y0, 1):.1f}" '
            f'stroke="{ink(label)}"><title>{escape(view.names[label])}</title></rect>'
        )


def ink(label: int) -> str:
    """The colour of a class for CSS: #rrggbb."""
    return "#{:02x}{:02x}{:02x}".format(*colour(label))


THUMBS = 4
"""Images that the doctor's page shows for each finding at most."""


def problems_page(
    data: Sequence[DetectionDataset], problems: Sequence[Problem], checks: int
) -> str:
    """An HTML page of the doctor's findings: their descriptions, and the images concerned."""
    faults = sum(not each.hint for each in problems)
    summary = f"{checks} checks, {counted(faults, 'finding')}, "
    summary += f"{counted(len(problems) - faults, 'hint')}; "
    summary += ", ".join(f"{each.split}: {counted(len(each), 'image')}" for each in data)
    parts = [_problem(data, each) for each in problems]
    if not faults:
        parts.insert(0, '<p class="fine">Nothing is wrong.</p>')
    return html(
        f"{data[0].name}: findings of dabdetr doctor",
        summary,
        "<main>" + "\n".join(parts) + "</main>",
    )


def _problem(data: Sequence[DetectionDataset], problem: Problem) -> str:
    kind = problem.kind
    rows = (
        ("Effect on training", kind.effect),
        ("When read", kind.done),
        ("Remedy", kind.remedy),
    )
    terms = "".join(f"<dt>{name}</dt><dd>{escape(text)}</dd>" for name, text in rows)
    examples = "".join(f"<li>{escape(each)}</li>" for each in problem.examples)
    shown: list[str] = []
    for split, index, boxes in problem.rows[:THUMBS]:
        count = len(data[split].record(index).labels)
        marked = None if boxes is None else np.isin(np.arange(count), boxes)
        try:
            view = view_of(data[split], index, marked)
        except (ValueError, OSError):  # the file was removed after the check
            continue
        shown.append(figure(view, f"{data[split].split}/{view.name}"))
    what = kind.what[:1].upper() + kind.what[1:]
    severity = "hint" if problem.hint else "finding"
    return (
        f'<section class="check"><h2>{escape(what)}: <b>{problem.count:,}</b></h2>'
        f'<p class="quiet">{severity}, {escape(problem.split)}: <code>{kind.name}</code></p>'
        f'<dl>{terms}</dl><ul>{examples}</ul><div class="grid">{"".join(shown)}</div></section>'
    )
