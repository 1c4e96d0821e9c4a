"""The figures of a report, as PNG files and as SVG in the page."""

from __future__ import annotations

import colorsys
import io
import math
from collections.abc import Iterator
from contextlib import AbstractContextManager
from importlib.util import find_spec
from typing import TYPE_CHECKING, Any

import numpy as np

from dabdetr.structures.drawing import HUES, colour, new_figure, plain_text

if TYPE_CHECKING:
    from matplotlib.figure import Figure

SIDE = (4.7, 3.5)
"""Width and height in inches; small, so that font_size are legible at a phone's width."""
INK = "#2e8bc9"
"""A colour that is visible on white and on dark background."""
LINES = ("-", "--", ":")
MOST_CLASSES = 20
"""The most classes in a figure: those with the most objects."""
STYLE: Any = {"svg.fonttype": "none", "svg.hashsalt": "dabdetr", "font.size": 9}


def can_draw() -> bool:
    """Whether matplotlib is installed; the light installation lacks it."""
    return find_spec("matplotlib") is not None


def _style() -> AbstractContextManager[None]:
    from matplotlib import rc_context

    return rc_context(STYLE)


def figures(tree: dict[str, Any]) -> Iterator[tuple[str, str, Figure]]:
    """Name, caption and figure of each figure, made one at a time to save memory."""
    with _style():
        yield "classes", "AP of each class; lines: 95 % of resamples of the images.", _classes(tree)
        yield (
            "precision_recall",
            "Precision against recall at IoU 0.5.",
            _lines(tree, "recall", "precision", xlabel="recall", ylabel="precision")[0],
        )
        yield "f1", "F1 against the threshold; the dot is the best one.", _f1(tree)
        yield (
            "confusion",
            "Objects (rows) by the class found (columns), at the model's thresholds; the deeper "
            "the blue, the larger the share of the row.",
            _confusion(tree),
        )
        error = tree["calibration"]["error"]
        yield (
            "calibration",
            f"Share of right detections by score; expected calibration error {error:.3f}.",
            _calibration(tree),
        )
        titles = {
            "size": "AP50 against object size (root of its area, pixels).",
            "aspect": "AP50 against object width / height.",
            "objects": "AP50 against the number of objects in the image.",
        }
        for name, title in titles.items():
            yield name, title, _breakdown(tree, name)


def png(figure: Figure) -> bytes:
    """The figure as PNG on white."""
    content = io.BytesIO()
    with _style():
        figure.savefig(content, format="png", dpi=130, facecolor="white")
    return content.getvalue()


def svg(figure: Figure) -> str:
    """The figure as SVG without a background, with black replaced by the page's text colour."""
    content = io.StringIO()
    with _style():
        figure.savefig(content, format="svg", transparent=True, metadata={"Date": None})
    text = content.getvalue()
    text = text[text.index("<svg") :].replace("#000000", "currentColor")
    return text.replace('<text style="', '<text style="fill: currentColor; ')


def panel(height: float = SIDE[1], **labels: Any) -> tuple[Figure, Any]:
    """A figure with one plain axis; ``labels`` are passed to ``Axes.set``."""
    figure = new_figure(SIDE[0], height)
    axis = figure.subplots()
    axis.set(**labels)
    axis.spines[["top", "right"]].set_visible(False)
    return figure, axis


def _shown(tree: dict[str, Any]) -> list[dict[str, Any]]:
    """The rows of the ``MOST_CLASSES`` classes with the most objects."""
    rows = [row for row in tree["per_class"] if row["objects"]]
    return sorted(rows, key=lambda row: -row["objects"])[:MOST_CLASSES]


def _ink(tree: dict[str, Any], name: str) -> tuple[float, ...]:
    """The class's colour, with a lightness that is visible on white and on dark background."""
    labels = [row["name"] for row in tree["per_class"]]
    hue, lightness, saturation = colorsys.rgb_to_hls(
        *(part / 255 for part in colour(labels.index(name)))
    )
    return colorsys.hls_to_rgb(hue, 0.24 + 0.56 * lightness, saturation)


def _classes(tree: dict[str, Any]) -> Figure:
    rows = _shown(tree)[::-1]
    figure, axis = panel(max(1.8, 0.8 + 0.2 * len(rows)), xlabel="AP", xlim=(0, 1))
    values = [row["AP"] or 0 for row in rows]
    inks = [_ink(tree, row["name"]) for row in rows]
    axis.barh(range(len(rows)), values, color=inks, height=0.7)
    for at, row in enumerate(rows):
        if row["interval"]:
            axis.plot(row["interval"], [at, at], color="#808890", linewidth=2)
    axis.set_yticks(range(len(rows)), [plain_text(row["name"]) for row in rows])
    return figure


def _lines(tree: dict[str, Any], x: str, y: str, **labels: Any) -> tuple[Figure, Any]:
    figure, axis = panel(xlim=(0, 1), ylim=(0, 1.02), **labels)
    rows, names = _shown(tree), [row["name"] for row in tree["per_class"]]
    for row in rows:
        curve = tree["curves"][row["name"]]
        label = plain_text(row["name"], 12)
        style = LINES[names.index(row["name"]) // HUES % len(LINES)]  # of classes of one hue
        ink = _ink(tree, row["name"])
        axis.plot(curve[x], curve[y], style, color=ink, linewidth=1.4, label=label)
    if 0 < len(rows) <= 8:
        axis.legend(frameon=False, fontsize=8)
    elif rows:
        figure.legend(loc="outside lower center", ncols=4, frameon=False, fontsize=8)
        figure.set_figheight(SIDE[1] + 0.2 * math.ceil(len(rows) / 4))
    axis.grid(alpha=0.3)
    return figure, axis


def _f1(tree: dict[str, Any]) -> Figure:
    figure, axis = _lines(tree, "scores", "f1", xlabel="threshold", ylabel="F1")
    for row in _shown(tree):
        best = tree["curves"][row["name"]]["best"]
        if best:
            axis.plot(best["threshold"], best["f1"], "o", color=_ink(tree, row["name"]), ms=5)
    return figure


def _confusion(tree: dict[str, Any]) -> Figure:
    names, matrix = tree["confusion"]["names"], np.array(tree["confusion"]["matrix"])
    shown = [names.index(row["name"]) for row in _shown(tree)] + [len(names) - 1]
    matrix = matrix[np.ix_(shown, shown)]
    side = max(SIDE[1], min(6.0, 1.4 + 0.24 * len(shown)))
    figure, axis = panel(side, xlabel="found as", ylabel="object")
    shares = matrix / np.maximum(matrix.sum(1, keepdims=True), 1)
    blue = np.broadcast_to((0.0, 0.36, 0.64), (*shares.shape, 3))
    axis.imshow(np.dstack([blue, 0.95 * shares]), aspect="auto")  # clear where nothing is
    font_size = 8 if len(shown) <= 11 else 5
    for (row, column), count in np.ndenumerate(matrix):
        if count:
            ink = "#fefefe" if shares[row, column] > 0.5 else "#000000"  # see ``svg``
            axis.text(
                column, row, str(count), ha="center", va="center", color=ink, fontsize=font_size
            )
    short = [plain_text(names[at], 12) for at in shown]
    axis.set_xticks(range(len(shown)), short, rotation=0 if len(shown) <= 4 else 90)
    axis.set_yticks(range(len(shown)), short)
    return figure


def _calibration(tree: dict[str, Any]) -> Figure:
    figure, axis = panel(xlim=(0, 1), ylim=(0, 1), xlabel="score", ylabel="share that is right")
    axis.plot((0, 1), (0, 1), "--", color="#808890", linewidth=1)
    calibration = tree["calibration"]
    axis.plot(calibration["score"], calibration["precision"], "o-", color=INK)
    axis.grid(alpha=0.3)
    return figure


def _breakdown(tree: dict[str, Any], name: str) -> Figure:
    rows = tree["breakdown"][name]
    figure, axis = panel(2.8, ylabel="AP50", ylim=(0, 1.08))
    values = [row["AP50"] or 0 for row in rows]
    axis.bar(range(len(rows)), values, color=INK, width=0.7)
    for at, row in enumerate(rows):
        axis.text(at, values[at] + 0.02, str(row["objects"]), ha="center", fontsize=8)
    axis.set_xticks(range(len(rows)), [_bin(row) for row in rows], fontsize=8)
    axis.set_xlabel("numbers above the bars: number of objects")
    return figure


def _bin(row: dict[str, Any]) -> str:
    low = f"{row['from']:.2g}" if row["from"] < 10 else f"{row['from']:.0f}"
    if row["to"] is None:
        return f"≥ {low}"
    return f"{low}–{row['to']:.2g}" if row["to"] < 10 else f"{low}–{row['to']:.0f}"
