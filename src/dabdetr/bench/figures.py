"""Images of a bench: quality against speed, and growth of time and memory."""

from __future__ import annotations

from matplotlib.figure import Figure

from dabdetr.bench.growth import Growth
from dabdetr.bench.result import Bench
from dabdetr.bench.scaling import AXES
from dabdetr.explain.figures import new_figure, save

__all__ = ["growth", "save", "speeds"]

COLOURS = {"torch": "#D55E00", "onnx": "#0072B2", "openvino": "#009E73"}
"""Of Okabe and Ito, told apart by colour-blind eyes."""
MARKERS = {"fp32": "o", "bf16": "s", "fp16": "D", "int8": "^"}


def speeds(bench: Bench) -> Figure:
    """Quality against images a second; what is below the line loses too much."""
    figure = new_figure(8.4, 4.4)
    panel, best = figure.subplots(), bench.best
    for row in bench.rows:
        who = row.contender
        colour, x = COLOURS[who.format], 1 / row.whole
        panel.scatter(
            x, 100 * row.quality, s=80, marker=MARKERS[who.precision],
            facecolor="none" if who.compiled else colour, edgecolor=colour, linewidth=1.6,
            label=f"{who.name}  {x:.3g}/s", zorder=3,
        )  # fmt: skip
        if row == best:
            panel.scatter(x, 100 * row.quality, s=330, facecolor="none", edgecolor="black", lw=1)
    floor = 100 * (bench.reference.quality - bench.plan.drop)
    panel.axhline(floor, color="grey", linestyle="--", linewidth=1)
    values = [100 * row.quality for row in bench.rows]
    room = 0.25 * max(max(values) - floor, floor - min(values), 0.4)
    low, high = min(floor, *values) - room, max(values) + room
    panel.set(xlim=(0, 1.08 / min(row.whole for row in bench.rows)), ylim=(low, high))
    note = "limit of --max-ap-drop" if bench.data else "limit of agreement"
    panel.annotate(note, (0.01, floor), xycoords=("axes fraction", "data"), fontsize=8, va="bottom")
    panel.set_xlabel("images a second, file to boxes")
    panel.set_ylabel("AP × 100" if bench.data else "boxes that are the same as in fp32, %")
    panel.set_title(f"{bench.plan.model}: circled, what to use", fontsize=10, parse_math=False)
    panel.grid(alpha=0.3)
    panel.legend(fontsize=8, loc="center left", bbox_to_anchor=(1.0, 0.5), frameon=False)
    return figure


def growth(found: Growth) -> Figure:
    """Time and peak memory along every axis."""
    figure = new_figure(4 * len(found.points), 6)
    panels = figure.subplots(2, len(found.points), squeeze=False)
    for column, (axis, points) in enumerate(found.points.items()):
        known = [each for each in points if each.seconds]
        values = [each.value for each in known]
        time, memory = panels[:, column]
        time.plot(values, [1000 * (each.seconds or 0) for each in known], marker="o")
        power = found.exponent(axis)
        time.set_title(axis if power is None else f"{axis}: time ~ {axis}^{power:.2f}", fontsize=10)
        memory.plot(values, [each.memory or float("nan") for each in known], marker="o", color="C1")
        memory.set_xlabel(AXES[axis].title, fontsize=9)
        for panel in (time, memory):
            panel.update_datalim([(0, 0)])
            panel.autoscale_view()
            panel.set(xlim=(0, None), ylim=(0, None))
            panel.grid(alpha=0.3)
    panels[0, 0].set_ylabel("ms")
    panels[1, 0].set_ylabel("MB of the process")
    return figure
