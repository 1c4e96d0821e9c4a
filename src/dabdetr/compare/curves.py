"""Plots of members' AP against epochs and time; error bars are one deviation over seeds."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from dabdetr.compare.results import Results, Spread
from dabdetr.structures.drawing import new_figure, save_figure

PANELS = (
    ("epoch", "epochs", 1),
    ("seconds", "minutes of training, by the clock", 60),
    ("cpu_seconds", "minutes of training, of a processor", 60),
)
COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000", "#999933")
"""Okabe and Ito's colours, distinct for colour-blind people; further curves are dashed."""
DASHES = ("-", "--", ":")
BARS = 10
"""The approximate number of error bars along a curve."""


def draw_curves(
    path: Path,
    results: Results,
    members: Sequence[str],
    titles: Mapping[str, str] | None = None,
) -> None:
    """Plot AP of each member over epochs, clock time and processor time.

    ``titles`` maps members to their names in the legend.
    """
    figure = new_figure(16, 4.8)
    for panel, (over, label, unit) in zip(figure.subplots(1, 3), PANELS, strict=True):
        for number, member in enumerate(members):
            points = _mean_curve(results, member, over)
            xs, ys = [x / unit for x, _ in points], [spread.mean for _, spread in points]
            bars = [spread.deviation or 0.0 for _, spread in points]
            colour, dash = COLOURS[number % 8], DASHES[number // 8 % 3]
            panel.errorbar(
                *(xs, ys, bars),
                color=colour, linestyle=dash, linewidth=1.4, capsize=2, elinewidth=0.8,
                errorevery=max(1, len(xs) // BARS), label=(titles or {}).get(member, member),
            )  # fmt: skip
        panel.set_xlabel(label)
        panel.set_ylabel("AP, val")
        panel.set_xlim(left=0)
        panel.set_ylim(bottom=0)
        panel.grid(alpha=0.3)
    for text in figure.axes[0].legend(fontsize=8).get_texts():
        text.set_parse_math(False)
    save_figure(figure, path, dpi=100)


def _mean_curve(results: Results, member: str, over: str) -> list[tuple[float, Spread]]:
    """Means of x and AP over seeds, at every epoch that was measured for all of them."""
    runs = results.of(member)
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
