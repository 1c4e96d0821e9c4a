"""The record of a run, one row per epoch: results.csv, curves.png and the final table."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import torch

from dabdetr.files import write_csv
from dabdetr.measure import peak_memory_mib
from dabdetr.structures.drawing import new_figure, save_figure

if TYPE_CHECKING:
    from rich.table import Table

Row = dict[str, float | None]

COLUMNS = {
    "epoch": "d",
    "updates": "d",
    "seconds": ".2f",
    "images_per_second": ".2f",
    "lr": ".4g",
    "loss": ".5f",
    "loss_ce": ".5f",
    "loss_bbox": ".5f",
    "loss_giou": ".5f",
    "AP": ".5f",
    "AP50": ".5f",
    "AP75": ".5f",
    "APS": ".5f",
    "APM": ".5f",
    "APL": ".5f",
    "val_seconds": ".2f",
    "memory_mib": ".0f",
    "cpu_seconds": ".2f",
    "grad_norm": ".4g",
    "loading": ".3f",
    "matching_changed": ".3f",
    "dead_queries": ".3f",
    "anchors_outside": ".3f",
}
"""Columns of results.csv and how each is written. Terms are those of the last layer, unweighted;
``loss`` is the weighted sum over all layers; an empty AP was not measured. ``cpu_seconds`` is the
process's time on processors in training, all threads, whatever else the machine does. ``grad_norm``
is the median before clipping; ``loading`` the share of the time in which steps waited for images;
``matching_changed`` the share of objects whose query is another than in the last epoch (in the last
layer); ``dead_queries`` that of queries without any object in the epoch; ``anchors_outside`` that
of anchors at the border of the image or beyond. Terms of
query groups, proposals and collaborative heads, and ``matching_changed`` of each layer, follow
behind these, for members that have them."""


def write_record(path: Path, rows: Sequence[Row]) -> None:
    """All rows under a header line; values that were not measured are empty."""
    further = {name: ".5f" for row in rows for name in row if name not in COLUMNS}
    columns = COLUMNS | further
    values = (
        [
            "" if (value := row.get(name)) is None else format(value, form)
            for name, form in columns.items()
        ]
        for row in rows
    )
    write_csv(path, [columns, *values])


def best_row(rows: Sequence[Row]) -> Row | None:
    """The last epoch with the highest AP; None where no AP was measured."""
    measured = [row for row in rows if row["AP"] is not None]
    return max(reversed(measured), key=lambda row: row["AP"] or 0.0) if measured else None


def stops_early(rows: Sequence[Row], patience: int | None) -> bool:
    """Whether the last measured AP is ``patience`` epochs or more after the best one."""
    measured = [row for row in rows if row["AP"] is not None]
    if patience is None or not measured:
        return False
    first = max(measured, key=lambda row: row["AP"] or 0.0)
    return (measured[-1]["epoch"] or 0) - (first["epoch"] or 0) >= patience


def draw_curves(path: Path, rows: Sequence[Row]) -> None:
    """Loss terms, AP and learning rate over epochs, as PNG."""
    figure = new_figure(13, 3.6)
    panels = figure.subplots(1, 4)
    plan = [
        ("training loss (weighted, all layers)", ["loss"]),
        ("terms of the last layer", ["loss_ce", "loss_bbox", "loss_giou"]),
        ("validation", ["AP", "AP50", "AP75"]),
        ("learning rate", ["lr"]),
    ]
    for panel, (title, names) in zip(panels, plan, strict=True):
        for name in names:
            points = [(row["epoch"], row[name]) for row in rows if row[name] is not None]
            if points:
                panel.plot(*zip(*points, strict=True), marker=".", label=name)  # pyright: ignore
        panel.set_title(title, fontsize=10)
        panel.set_xlabel("epoch")
        panel.grid(alpha=0.3)
        panel.set_ylim(bottom=0)
        if panel.lines:
            panel.legend(fontsize=8)
        else:
            panel.text(0.5, 0.5, "not measured", ha="center", transform=panel.transAxes)
    save_figure(figure, path, dpi=110)


def final_table(folder: Path, rows: Sequence[Row]) -> Table:
    """The final numbers of a run, for a rich console."""
    from rich.table import Table
    from rich.text import Text

    table = Table(title=Text(f"run {folder}"), show_header=False, title_justify="left")
    table.add_column(style="bold")
    table.add_column()
    best, last = best_row(rows), rows[-1]
    if best is not None:
        numbers = ", ".join(f"{name} {best[name]:.3f}" for name in ("AP", "AP50", "AP75"))
        table.add_row("best epoch", f"{best['epoch']:.0f}: {numbers}")
    minutes = sum((row["seconds"] or 0) + (row["val_seconds"] or 0) for row in rows) / 60
    table.add_row("epochs", f"{last['epoch']:.0f} in {minutes:.1f} min")
    table.add_row("last loss", f"{last['loss']:.4f}")
    table.add_row("training speed", f"{last['images_per_second']:.1f} images/s")
    table.add_row("peak memory", f"{last['memory_mib'] or 0:.0f} MiB")
    kept = ["best.safetensors"] if best is not None else []
    table.add_row("files", ", ".join([*kept, "last.safetensors", "results.csv", "curves.png"]))
    return table


def peak_training_memory_mib(device: torch.device) -> float | None:
    """Highest memory so far: of the GPU if one is used, else of this process."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device) / 2**20
    return peak_memory_mib()
