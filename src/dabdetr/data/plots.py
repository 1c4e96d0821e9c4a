"""Statistics of a data set as a table and as one figure."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from dabdetr.data.statistics import QUANTILES, Description
from dabdetr.structures.drawing import new_figure, plain_text, save_figure

if TYPE_CHECKING:
    from rich.table import Table

INKS = ("#0072b2", "#e69f00", "#009e73", "#cc79a7", "#56b4e9")
"""Colours of the splits (Wong's palette, distinguishable with every common colour blindness)."""
MOST_BARS = 30
"""Classes shown in the figure at most."""
BINS = 30


def table(described: Sequence[Description]) -> Table:
    """Quantiles of size, shape, objects per image and brightness for every split."""
    from rich.table import Table

    heads = ["least", "5 %", "median", "95 %", "most"]
    shown = Table("", *(["split"] if len(described) > 1 else []))
    for head in heads:
        shown.add_column(head, justify="right")
    for name in described[0].columns():
        for row, each in enumerate(described):
            values = each.columns()[name]
            quantiles = np.quantile(values, QUANTILES) if len(values) else []
            texts = [f"{value:,.3g}" if value < 100 else f"{value:,.0f}" for value in quantiles]
            split_cell = [each.split] if len(described) > 1 else []
            shown.add_row("" if row else name, *split_cell, *(texts or ["–"] * len(heads)))
    return shown


def plot(described: Sequence[Description], path: Path) -> None:
    """Write one figure of six panels to ``path``, a .png or .svg file."""
    figure = new_figure(13, 8)
    axes = figure.subplots(2, 3)
    _sizes(axes[0, 0], described)
    _histogram(axes[0, 1], described, "sides", "object size (root of area, pixels)", log=True)
    _histogram(axes[0, 2], described, "aspects", "object width / height", log=True)
    _histogram(axes[1, 0], described, "objects", "objects per image")
    _histogram(axes[1, 1], described, "brightness", "brightness of images (0–255)")
    _classes(axes[1, 2], described)
    if len(described) > 1:
        axes[0, 0].legend(frameon=False)
    save_figure(figure, path, dpi=110)


def _sizes(axis: Any, described: Sequence[Description]) -> None:
    for each, ink in zip(described, INKS * len(described), strict=False):
        size = 12 + 40 / max(len(each.widths) ** 0.5, 1)
        axis.scatter(each.widths, each.heights, size, ink, alpha=0.4, lw=0, label=each.split)
    axis.set(xlabel="image width (pixels)", ylabel="image height")
    axis.set_xlim(left=0)
    axis.set_ylim(bottom=0)


def _histogram(
    axis: Any, described: Sequence[Description], name: str, label: str, log: bool = False
) -> None:
    columns = [getattr(each, name) for each in described]
    columns = [values[np.isfinite(values)] for values in columns]
    every = np.concatenate(columns)
    axis.set(xlabel=label, ylabel="share of a split")
    if not len(every):
        return
    low, high = float(every.min()), float(every.max())
    if log:
        axis.set_xscale("log")
        _plain_ticks(axis, low, high)
        edges = np.geomspace(low / 1.1, high * 1.1, BINS)
    elif name == "objects":
        edges = np.linspace(-0.5, high + 0.5, min(int(high) + 2, BINS))
    else:
        edges = np.linspace(low - 0.5, high + 0.5, BINS)
    for values, ink in zip(columns, INKS * len(columns), strict=False):
        if len(values):
            weights = np.full(len(values), 1 / len(values))
            style = {"histtype": "step", "linewidth": 2, "color": ink}
            axis.hist(values, edges, weights=weights, **style)


def _plain_ticks(axis: Any, low: float, high: float) -> None:
    """Set the ticks of a logarithmic axis to 1, 2, 5, 10 …; for wide ranges to powers of 10."""
    from matplotlib.ticker import FixedLocator, NullLocator

    powers = [10.0**n for n in range(-4, 7)]
    steps = (1, 2, 5) if high / low < 100 else (1,)
    ticks = [p * step for p in powers for step in steps if low / 1.1 <= p * step <= high * 1.1]
    axis.xaxis.set_major_locator(FixedLocator(ticks))
    axis.xaxis.set_minor_locator(NullLocator())
    axis.set_xticks(ticks, [f"{tick:g}" for tick in ticks])


def _classes(axis: Any, described: Sequence[Description]) -> None:
    every = described[0].classes
    total = {name: sum(each.classes.get(name, 0) for each in described) for name in every}
    names = sorted(total, key=lambda name: -total[name])
    shown = names[:MOST_BARS]
    left = np.zeros(len(shown))
    for each, ink in zip(described, INKS * len(described), strict=False):
        counts = np.array([each.classes.get(name, 0) for name in shown], float)
        axis.barh(range(len(shown)), counts, left=left, color=ink, alpha=0.8)
        left += counts
    axis.set_yticks(range(len(shown)), [plain_text(name) for name in shown])
    axis.tick_params(axis="y", labelsize=max(5, min(9, 180 // max(len(shown), 1))))
    axis.invert_yaxis()
    more = f", the first {MOST_BARS} of {len(names)}" if len(names) > MOST_BARS else ""
    axis.set(xlabel=f"boxes of each class{more}")
