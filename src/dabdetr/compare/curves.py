"""Images of a race: AP against epochs and time, and epochs against the number of tokens."""

from __future__ import annotations

import io
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from dabdetr.compare.claims import speedup
from dabdetr.compare.results import Results, Spread
from dabdetr.compare.rungs import RUNGS
from dabdetr.files import write_atomically

PANELS = (
    ("epoch", "epochs", 1),
    ("seconds", "minutes of training, by the clock", 60),
    ("cpu_seconds", "minutes of training, of a processor", 60),
)
COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000", "#999933")
"""Okabe and Ito's, told apart by colour-blind eyes; dashes tell further ones."""
DASHES = ("-", "--", ":")
BARS = 10
"""Error bars along a curve, about."""


def title(rung: str) -> str:
    """What images and tables call a rung."""
    return RUNGS[rung].title if rung in RUNGS else rung


def draw_race(path: Path, results: Results, size: int, rungs: Sequence[str]) -> None:
    """AP of each rung over epochs, clock and processor time; bars: a deviation over seeds."""
    figure = _figure(16, 4.8)
    for panel, (over, label, unit) in zip(figure.subplots(1, 3), PANELS, strict=True):
        for number, rung in enumerate(rungs):
            points = _mean_curve(results, rung, size, over)
            xs, ys = [x / unit for x, _ in points], [spread.mean for _, spread in points]
            bars = [spread.deviation or 0.0 for _, spread in points]
            colour, dash = COLOURS[number % 8], DASHES[number // 8 % 3]
            panel.errorbar(
                *(xs, ys, bars),
                color=colour, linestyle=dash, linewidth=1.4, capsize=2, elinewidth=0.8,
                errorevery=max(1, len(xs) // BARS), label=title(rung),
            )  # fmt: skip
        panel.set_xlabel(label)
        panel.set_ylabel("AP of averaged weights, val")
        panel.set_xlim(left=0)
        panel.set_ylim(bottom=0)
        panel.grid(alpha=0.3)
    figure.axes[0].legend(fontsize=8)
    _write(path, figure)


def draw_ratios(path: Path, results: Results, rungs: Sequence[str]) -> None:
    """How many times fewer epochs each rung takes to where DETR ends, against tokens."""
    figure = _figure(6, 4.2)
    panel, bounds = figure.subplots(), []
    for number, rung in enumerate(rungs):
        found = {size: speedup(results, size, rung) for size in results.sizes}
        points = [(size, Spread.of(each.ratios)) for size, each in found.items() if each]
        if points:
            tokens = [results.of(rung, size)[0].tokens for size, _ in points]
            heights = [spread.mean for _, spread in points]
            bars = [spread.deviation or 0.0 for _, spread in points]
            panel.errorbar(
                *(tokens, heights, bars),
                color=COLOURS[number % 8], marker="o", capsize=3, label=title(rung),
            )  # fmt: skip
            most = [
                (results.of(rung, size)[0].tokens, Spread.of(each.ratios).mean)
                for size, each in found.items()
                if each and each.reached < len(each.ratios)
            ]
            bounds += panel.plot(
                *([x for x, _ in most], [y for _, y in most]),
                color=COLOURS[number % 8], marker="v", markersize=11, markerfacecolor="white",
                linestyle="none", zorder=3,
            ) if most else []  # fmt: skip
    panel.axhline(10, color="grey", linestyle="--", linewidth=1)
    panel.set_xlabel("tokens of the finest map")
    panel.set_ylabel("DETR's epochs ÷ its own, to where DETR ends")
    panel.set_ylim(bottom=0)
    panel.grid(alpha=0.3)
    if bounds:
        bounds[0].set_label("at most: not every seed got there")
    if panel.get_legend_handles_labels()[0]:
        panel.legend(fontsize=8)
    _write(path, figure)


def _mean_curve(results: Results, rung: str, size: int, over: str) -> list[tuple[float, Spread]]:
    """Mean over the seeds of x and AP, at every epoch that all of them have measured."""
    runs = results.of(rung, size)
    columns: list[dict[float, tuple[float, float]]] = []
    for run in runs:
        epochs = [epoch for epoch, _ in run.curve()]
        columns.append(dict(zip(epochs, run.curve(over=over), strict=True)))
    shared = [epoch for epoch in columns[0] if all(epoch in column for column in columns)]
    return [
        (
            Spread.of([column[epoch][0] for column in columns]).mean,
            Spread.of([column[epoch][1] for column in columns]),
        )
        for epoch in shared
    ]


def _figure(width: float, height: float) -> Figure:
    figure = Figure(figsize=(width, height), layout="constrained")
    FigureCanvasAgg(figure)
    return figure


def _write(path: Path, figure: Any) -> None:
    image = io.BytesIO()
    figure.savefig(image, format="png", dpi=100)
    write_atomically(path, image.getvalue())
