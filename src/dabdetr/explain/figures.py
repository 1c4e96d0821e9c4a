"""Figures of explanations: a detection through the layers, attention, members side by side.

Each function returns a matplotlib figure, which ``save`` writes as PNG, SVG or PDF.
"""

from __future__ import annotations

import io
import itertools
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from matplotlib import colormaps
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Rectangle
from PIL import Image, ImageDraw

from dabdetr.explain.attention import (
    Attention,
    DenseAttention,
    SampledAttention,
    centres,
    share_inside,
)
from dabdetr.files import write_atomically
from dabdetr.structures import Answers
from dabdetr.structures.boxes import corners, iou
from dabdetr.structures.drawing import as_array, colour, draw, new_figure, save_figure

if TYPE_CHECKING:
    from dabdetr.explain.explanation import Explanation

TITLES = {
    "all": "whole attention",
    "content": "content alone",
    "position": "position alone",
    "unmodulated": "position without size",
}
PLACES = {
    "all": "sampling locations",
    "content": "by content alone",
    "position": "by position alone",
}
"""``TITLES`` for sampled attention."""
MARKERS = "os^D"
save = save_figure
"""Writes a figure as PNG, SVG or PDF, by the suffix of its path."""


def story(explanation: Explanation, query: int, label: int | None = None) -> Figure:
    """The anchor and the box after each layer, and the score over layers.

    The score is that of class ``label``, by default the query's best class after the last layer.
    With labelled objects, the IoU over layers is drawn as well.
    """
    trace, figure = explanation.trace, new_figure(9, 4.2)
    image, curve = figure.subplots(1, 2, width_ratios=(1.2, 1))
    show_image(image, explanation.image)
    colours = colormaps["viridis"](np.linspace(0, 1, trace.layers))
    places = [] if trace.anchors is None else [trace.anchors[0][query]]
    if places:
        _place(image, explanation, places[0], "white", "--", "anchor")
    for layer, shade in enumerate(colours):
        box = trace.boxes[layer, query]
        _place(image, explanation, box, shade, "-", f"layer {layer + 1}")
        places.append(box)
    path = explanation.in_pixels(np.array([place[:2] for place in places]))
    image.plot(*path.T, color="white", linewidth=1, marker=".", markeredgecolor="black")
    below = {"loc": "upper center", "bbox_to_anchor": (0.5, -0.02), "ncols": 4}
    handles, _ = image.get_legend_handles_labels()
    by_row = [handle for column in range(4) for handle in handles[column::4]]
    image.legend(handles=by_row, fontsize=8, facecolor="0.6", **below)
    label = int(trace.scores[-1, query].argmax()) if label is None else label
    layers = np.arange(1, trace.layers + 1)
    curve.plot(layers, trace.scores[:, query, label], marker="o", color="#0072b2", label="score")
    overlaps, nearest = explanation.iou_with_truth(query), explanation.truth_of(query)
    if overlaps is not None and explanation.truth is not None:
        true_label = int(explanation.truth.labels[nearest])
        differs = true_label != label and overlaps[-1] > 0
        title = f"IoU with truth, {trace.names[true_label]}" if differs else "IoU with truth"
        curve.plot(layers, overlaps, marker="s", ls="--", color="#d55e00", label=title)
    curve.set(xlabel="decoder layer", ylim=(0, 1.02), xticks=layers)
    curve.grid(alpha=0.3)
    for text in curve.legend(fontsize=8).get_texts():
        text.set_parse_math(False)
    _title(figure, f"{trace.model}, query {query}: {trace.names[label]}")
    return figure


def attention(explanation: Explanation, query: int, part: str | None = None) -> Figure:
    """Attention of ``query``: a column for each layer, a row for each part (or for ``part``)."""
    trace = explanation.trace
    parts = trace.attention[0].parts if part is None else (part,)
    maps = isinstance(trace.attention[0], DenseAttention)
    figure = new_figure(2.3 * trace.layers + 0.6, 2.4 * len(parts) + (0.5 if maps else 0.8))
    panels = figure.subplots(len(parts), trace.layers, squeeze=False)
    for layer, panel in enumerate(panels[0]):
        panel.set_title(f"layer {layer + 1}", fontsize=9)
    for row, name in zip(panels, parts, strict=True):
        for layer, (panel, attn) in enumerate(zip(row, trace.attention, strict=True)):
            _show_attention(panel, explanation, attn, query, name)
            _place(panel, explanation, trace.boxes[layer, query], "white", "-")
            if trace.anchors is not None:
                _place(panel, explanation, trace.anchors[layer][query], "white", "--")
        row[0].set_ylabel(TITLES[name] if maps else PLACES[name], fontsize=9)
    anchor = "" if trace.anchors is None else "dashed: anchor, "
    if trace.anchors is not None and trace.anchors[0].shape[-1] == 2:
        anchor = "+: anchor, "
    _title(figure, f"{trace.model}, query {query}; {anchor}solid: box after the layer")
    _level_legend(figure, trace.attention[0])
    return figure


def questions(answers: Answers, image: Any = None) -> Figure:
    """The box or click of each question, the box after every layer, and the answer.

    ``image`` (as for ``Detections.plot``) is needed if the answers contain none.
    """
    shown = answers.detections.image if image is None else as_array(image)
    if shown is None:
        raise ValueError("questions needs the image: pass it, or ask with keep_images=True")
    best, layers = answers.best(), len(answers.layers)
    figure = new_figure(6.4, 6.4 * shown.shape[0] / shown.shape[1] + 0.6)
    panel = figure.subplots()
    show_image(panel, shown)
    shades = colormaps["viridis"](np.linspace(0, 1, layers))
    for row in range(len(best)):
        first = row == 0
        _frame_in(panel, best.asked[row], "white", "--", "asked" if first else None)
        for layer, shade in enumerate(shades):
            label = f"layer {layer + 1}" if first else None
            _frame_in(panel, best.layers[layer, row], shade, "-", label)
        name = f"{best.names[best.labels[row]]} {best.scores[row]:.2f}"
        style: dict[str, Any] = {"color": "white", "fontsize": 9, "parse_math": False}
        box = {"facecolor": "black", "alpha": 0.6, "edgecolor": "none", "pad": 1.5}
        x, y = best.boxes[row, :2].tolist()
        panel.text(x, y, name, va="bottom", bbox=box, clip_on=True, **style)
    if len(best):
        below = {"loc": "upper center", "bbox_to_anchor": (0.5, -0.01), "ncols": layers + 1}
        panel.legend(fontsize=8, facecolor="0.6", **below)
    return figure


def encoder_attention(explanation: Explanation, pixel: int = 0) -> Figure:
    """Attention of the encoder's token at the pixel with index ``pixel``, in each encoder layer."""
    trace = explanation.trace
    if not trace.encoder:
        raise ValueError("no encoder attention was recorded; explain with pixels=[(x, y)], 0–1")
    figure = new_figure(2.6 * len(trace.encoder) + 0.4, 3.0)
    panels = figure.subplots(1, len(trace.encoder), squeeze=False)[0]
    place = explanation.in_pixels(trace.pixels[pixel])
    for layer, (panel, attn) in enumerate(zip(panels, trace.encoder, strict=True)):
        _show_attention(panel, explanation, attn, pixel, "all")
        panel.plot(*place, "w+", markersize=12, markeredgewidth=2)
        panel.set_title(f"encoder layer {layer + 1}", fontsize=9)
    _title(figure, f"{trace.model}: attention of the token at +")
    _level_legend(figure, trace.encoder[0])
    return figure


def comparison(
    explanations: Sequence[Explanation], box: Any, titles: Sequence[str] = (), layer: int = -1
) -> Figure:
    """Members side by side on one object (``box``: x0 y0 x1 y1 in pixels), a column for each.

    Rows: position alone and whole attention of the query whose last box fits best, as mean over
    heads, with the share inside the box and the number of centres. DETR, Conditional DETR and
    DAB-DETR in this order reproduce the columns of the papers' figures.
    """
    titles = titles or [each.trace.model for each in explanations]
    rows = ("position", "all")
    figure = new_figure(3.0 * len(explanations) + 0.4, 3.3 * len(rows) + 0.4)
    panels = figure.subplots(len(rows), len(explanations), squeeze=False)
    corner = np.asarray(box, np.float32)
    for column, each, title in zip(panels.T, explanations, titles, strict=True):
        height, width = each.size
        unit = corner / np.array([width, height, width, height], np.float32)
        overlaps = iou(corners(each.trace.boxes[-1]), unit)
        query = int(overlaps.argmax())
        attn = each.trace.attention[layer]
        for panel, part in zip(column, rows, strict=True):
            part = part if part in attn.parts else "all"
            _show_attention(panel, each, attn, query, part)
            _frame_in(panel, corner, "white")
            maps = attn.maps(query, part)
            inside = share_inside(maps.mean(0), unit)
            peaks = np.mean([centres(head) for head in maps])
            panel.set_xlabel(f"{inside:.0%} inside, {peaks:.1f} centres a head", fontsize=8)
        column[0].set_title(f"{title} (IoU {overlaps[query]:.2f})", fontsize=10, parse_math=False)
    for row, part in zip(panels, rows, strict=True):
        row[0].set_ylabel(TITLES[part], fontsize=9)
    return figure


def animation(explanation: Explanation, path: str | Path, between: int = 5) -> None:
    """Write a looping GIF of the detections' boxes moving from their anchors through all layers.

    ``between`` frames lead from each stage to the next. ValueError for a path that is not .gif.
    """
    path = Path(path)
    if path.suffix.lower() != ".gif":
        raise ValueError(f"an animation's name should end in .gif; got {path}")
    trace, shown = explanation.trace, explanation.shown
    stages = list(trace.boxes[:, shown.queries])
    scores = [None, *trace.scores[:, shown.queries, shown.labels]]
    if trace.anchors is not None and trace.anchors[0].shape[-1] == 4:
        stages.insert(0, trace.anchors[0][shown.queries])
    else:
        del scores[0]
    frames, times = [], []
    for stage, box in enumerate(stages):
        before = stages[max(stage - 1, 0)]
        for step in range(1, between + 1) if stage else (between,):
            share = step / between
            frames.append(_frame(explanation, before + (box - before) * share, scores[stage]))
            times.append(900 if step == between else 60)
    # 256 colours for all frames: those of the classes exactly, and the best for the last frame
    exact = sorted({colour(int(label)) for label in shown.labels})
    others = frames[-1].quantize(256 - len(exact)).getpalette() or []
    palette = Image.new("P", (1, 1))
    palette.putpalette([*itertools.chain(*exact), *others[: 3 * (256 - len(exact))]])
    frames = [each.quantize(palette=palette, dither=Image.Dither.NONE) for each in frames]
    content = io.BytesIO()
    frames[0].save(content, "gif", save_all=True, append_images=frames[1:], duration=times, loop=0)
    write_atomically(path, content.getvalue())


def _frame(explanation: Explanation, boxes: np.ndarray, scores: np.ndarray | None) -> Image.Image:
    """The image, 480 pixels long, with ``boxes`` cxcywh, 0–1; anchors have no ``scores``."""
    image, shown = Image.fromarray(explanation.image), explanation.shown
    scale = 480 / max(image.size)
    width, height = (max(1, round(side * scale)) for side in image.size)
    image = image.resize((width, height))
    edges = corners(boxes) * np.array([width, height, width, height], np.float32)
    edges = edges.clip(0, [width, height, width, height])
    if scores is None:
        pen = ImageDraw.Draw(image)
        for (x0, y0, x1, y1), label in zip(edges.tolist(), shown.labels, strict=True):
            pen.rectangle((x0, y0, max(x0, x1 - 1), max(y0, y1 - 1)), None, colour(int(label)), 2)
        return image
    return draw(np.asarray(image), edges.astype(np.float32), scores, shown.labels, shown.names)


def show_image(panel: Any, image: np.ndarray) -> None:
    """Show an image without axes."""
    panel.imshow(image, extent=(0, image.shape[1], image.shape[0], 0))
    panel.set(xticks=[], yticks=[], xlim=(0, image.shape[1]), ylim=(image.shape[0], 0))


def _show_attention(
    panel: Any, explanation: Explanation, attn: Attention, query: int, part: str
) -> None:
    """Show the image with a map (mean over heads) or the sampling locations of all heads."""
    show_image(panel, explanation.image)
    height, width = explanation.size
    if isinstance(attn, DenseAttention):
        heat = attn.heat(query, part)
        alpha = (heat / heat.max()) ** 0.7 * 0.85
        frame = (0, width, height, 0)
        panel.imshow(heat, extent=frame, alpha=alpha, cmap="viridis", interpolation="bilinear")
        panel.set(xlim=(0, width), ylim=(height, 0))
        return
    locations, weights = attn.chosen(query, part)
    for level, (form, shade) in enumerate(_level_marks(attn)):
        x, y = explanation.in_pixels(locations[:, level].reshape(-1, 2)).T
        sizes = 150 * weights[:, level].ravel()
        panel.scatter(x, y, sizes, color=shade, marker=form, edgecolors="black", linewidths=0.5)


def _level_marks(attn: SampledAttention) -> list[tuple[str, Any]]:
    """Marker and colour of each level's sampling locations."""
    colours = colormaps["cividis"](np.linspace(1, 0.2, len(attn.shapes)))
    return [(MARKERS[level % len(MARKERS)], shade) for level, shade in enumerate(colours)]


def _level_legend(figure: Figure, attn: Attention) -> None:
    """Add the legend of sampling locations below all panels; none for dense attention."""
    if isinstance(attn, DenseAttention):
        return
    common: dict[str, Any] = {"linestyle": "", "markeredgecolor": "black"}
    handles = [
        Line2D([], [], marker=form, color=shade, label=f"{height} × {width} cells", **common)
        for (form, shade), (height, width) in zip(_level_marks(attn), attn.shapes, strict=True)
    ]
    title = "levels; larger marks: larger weights"
    below = {"loc": "outside lower center", "ncols": len(handles), "title": title}
    figure.legend(handles=handles, fontsize=8, title_fontsize=8, **below)


def _place(
    panel: Any,
    explanation: Explanation,
    place: np.ndarray,
    colour: Any,
    style: str,
    label: str | None = None,
) -> None:
    """Draw a box, or a cross for a point."""
    place = explanation.in_pixels(place)
    if len(place) == 2:
        panel.plot(*place, "+", color=colour, markersize=10, label=label)
        return
    _frame_in(panel, corners(place), colour, style, label)


def _frame_in(
    panel: Any, box: np.ndarray, colour: Any, style: str = "-", label: str | None = None
) -> None:
    (x0, y0), (x1, y1) = box.reshape(2, 2).tolist()
    line = {"fill": False, "edgecolor": colour, "linestyle": style, "linewidth": 1.5}
    panel.add_patch(Rectangle((x0, y0), x1 - x0, y1 - y0, label=label, **line))


def _title(figure: Figure, text: str) -> None:
    """Add a title above all panels; $ in a name does not start a formula."""
    figure.suptitle(text, fontsize=10, parse_math=False)
