"""A report's section on training: curves, and the first batch."""

from __future__ import annotations

import io
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from PIL import Image

from dabdetr.report.figures import INK, panel
from dabdetr.structures.drawing import data_url

if TYPE_CHECKING:
    from matplotlib.figure import Figure

SHEET_BYTES = 700_000
"""The most characters of the first batch's image in a page."""


@dataclass(frozen=True)
class TrainingRecord:
    """The record of a training.

    rows   a row for each epoch, as in results.csv; None: not measured
    batch  the first batch with its labels drawn in; None if its images cannot be read
    """

    rows: Sequence[Mapping[str, float | None]]
    batch: Image.Image | None

    def figures(self) -> Iterator[tuple[str, str, Figure]]:
        """Name, caption and figure of each."""
        plan = (
            ("loss", "Training loss of all layers, weighted.", ("loss",)),
            ("terms", "Terms of the last layer.", ("loss_ce", "loss_bbox", "loss_giou")),
            ("validation", "AP on the validation split.", ("AP", "AP50", "AP75")),
            ("rate", "Learning rate.", ("lr",)),
        )
        for name, caption, columns in plan:
            figure, axis = panel(2.8, xlabel="epoch")
            inks = (INK, "#e69f00", "#009e73")
            for column, ink in zip(columns, inks, strict=False):
                points = [(r["epoch"], r[column]) for r in self.rows if r[column] is not None]
                if points:
                    x, y = zip(*points, strict=True)
                    axis.plot(x, y, marker=".", color=ink, label=column.removeprefix("loss_"))
            axis.set_ylim(bottom=0)
            axis.locator_params(axis="x", integer=True)
            axis.grid(alpha=0.3)
            if len(columns) > 1 and axis.lines:
                axis.legend(frameon=False, fontsize=8)
            yield name, caption, figure

    def png(self) -> bytes | None:
        """The first batch as a PNG file's content."""
        if self.batch is None:
            return None
        content = io.BytesIO()
        self.batch.save(content, "PNG")
        return content.getvalue()

    def section(self, drawn: str) -> str:
        """The section's HTML; ``drawn`` is that of the figures."""
        batch = "<p>Its images can no longer be read.</p>"
        if self.batch is not None:
            batch = (
                '<img class="zoomable sheet" tabindex="0" role="button" alt="First batch with its '
                f'labels" src="{data_url(np.asarray(self.batch), room=SHEET_BYTES)}">'
            )
        return (
            f'<section id="training"><h2>Training</h2><div class="grid">{drawn}</div>'
            f"<h3>First batch, as training saw it</h3>{batch}</section>"
        )
