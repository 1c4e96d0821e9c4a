"""Figures of the ideas themselves: sine codes, size modulation, learned anchors."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle

from dabdetr.data.dataset import DetectionDataset
from dabdetr.explain.figures import new_figure
from dabdetr.model.detector import Detector
from dabdetr.model.positions import sine_code
from dabdetr.model.queries import LearnedQueries, initial_anchors
from dabdetr.structures.boxes import centres

COLOURS = ("#0072b2", "#e69f00", "#009e73", "#cc79a7", "#56b4e9", "#d55e00")
STYLES = ("-", "--", "-.", ":")
ANCHORS = {
    "wide": (0.5, 0.5, 0.6, 0.15),
    "tall": (0.5, 0.5, 0.15, 0.6),
    "small": (0.5, 0.5, 0.15, 0.15),
    "large": (0.5, 0.5, 0.6, 0.6),
}


def code_similarity(
    temperatures: Sequence[float] = (10000, 1000, 100, 20, 5), width: int = 256
) -> Figure:
    """Dot product of two sine codes against their distance, of 1 where they are the same place.

    The higher the temperature, the broader the hill (DAB-DETR §3.3); ``width`` is the model's,
    half of which codes an axis.
    """
    figure = new_figure(6, 3.8)
    panel: Any = figure.subplots()
    distance = np.linspace(-0.5, 0.5, 401)
    for index, temperature in enumerate(temperatures):
        values = similarity(distance, temperature, width // 2)
        colour, style = COLOURS[index % len(COLOURS)], STYLES[index % len(STYLES)]
        panel.plot(distance, values, style, color=colour, label=f"temperature {temperature:g}")
    panel.set(xlabel="distance, of the image's side", ylabel="dot product, of its maximum")
    panel.grid(alpha=0.3)
    panel.legend(fontsize=8)
    return figure


def similarity(distance: np.ndarray, temperature: float, features: int) -> np.ndarray:
    """Code · code of two places ``distance`` apart (1: the image's side), of its maximum."""
    angles = torch.from_numpy(2 * math.pi * np.concatenate(([0.0], distance)))
    codes = sine_code(angles, features, float(temperature)).numpy()
    return codes[1:] @ codes[0] / (features / 2)


def position_map(
    anchor: Sequence[float],
    cells: int = 40,
    temperature: float = 20,
    width: int = 256,
    reference: float | None = None,
) -> np.ndarray:
    """Softmax of the position product [cells, cells] around ``anchor`` (cxcywh, 0–1).

    With a ``reference`` side, the x product is scaled by reference / w and the y product by
    reference / h (DAB-DETR eq. 6); without, size does not count.
    """
    x, y, w, h = anchor
    centres = (np.arange(cells) + 0.5) / cells
    across, down = (similarity(centres - v, temperature, width // 2) for v in (x, y))
    if reference is not None:
        across, down = across * reference / w, down * reference / h
    logits = (down[:, None] + across[None]) * math.sqrt(width / 2)
    powers = np.exp(logits - logits.max())
    return powers / powers.sum()


def position_maps(temperature: float = 20, reference: float = 0.3) -> Figure:
    """Position attention of wide, tall, small and large anchors: without size, and with it."""
    figure = new_figure(2.3 * len(ANCHORS) + 0.5, 5.2)
    panels = figure.subplots(2, len(ANCHORS))
    for row, side, title in zip(
        panels, (None, reference), ("without size", "size modulated"), strict=True
    ):
        for panel, (name, anchor) in zip(row, ANCHORS.items(), strict=True):
            heat = position_map(anchor, temperature=temperature, reference=side)
            panel.imshow(heat, extent=(0, 1, 1, 0), cmap="viridis")
            x, y, w, h = anchor
            line = {"fill": False, "edgecolor": "white", "linewidth": 1.5}
            panel.add_patch(Rectangle((x - w / 2, y - h / 2), w, h, **line))
            panel.set(xticks=[], yticks=[])
            panel.set_title(f"{name} anchor", fontsize=9)
        row[0].set_ylabel(title, fontsize=9)
    return figure


def learned_anchors(model: Detector, data: DetectionDataset, most: int = 500) -> Figure:
    """Anchors before and after training over the boxes that were learned from.

    Above: centres; below: widths and heights. Those before training are drawn anew, as the config
    starts them.
    """
    after = anchors_of(model)
    part = model.config.model.queries
    assert part.kind == "learned"
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(model.config.training.seed)
        before = initial_anchors(len(after), part.start).sigmoid().numpy()
    boxes = boxes_of(data, most)
    figure = new_figure(6.6, 6.6)
    panels = figure.subplots(2, 2)
    for column, anchors, title in zip(
        panels.T, (before, after), ("before training", "after training"), strict=True
    ):
        column[0].set_title(title, fontsize=10)
        for panel, pair in zip(column, (slice(0, 2), slice(2, 4)), strict=True):
            panel.hexbin(*boxes[:, pair].T, gridsize=20, extent=(0, 1, 0, 1), cmap="Greys")
            panel.scatter(*anchors[:, pair].T, s=18, color="#d55e00", edgecolors="white", lw=0.5)
            panel.set(xlim=(0, 1), ylim=(0, 1), aspect="equal")
        column[0].invert_yaxis()
        column[0].set(xlabel="centre x", ylabel="centre y")
        column[1].set(xlabel="width", ylabel="height")
    figure.suptitle(f"{len(after)} anchors over {len(boxes)} boxes (grey)", fontsize=10)
    return figure


def anchors_of(model: Detector) -> np.ndarray:
    """Learned anchors [queries, 4] cxcywh, 0–1; ValueError where a member has none."""
    logits = model.queries.logits() if isinstance(model.queries, LearnedQueries) else None
    if logits is None:
        raise ValueError(
            f"{model.config.name} has no learned anchor boxes to show; take a member with "
            "queries of kind 'learned' and anchor 'box'"
        )
    return logits.detach().float().sigmoid().cpu().numpy()


def boxes_of(data: DetectionDataset, most: int) -> np.ndarray:
    """Objects of the first ``most`` images [n, 4] cxcywh, 0–1; crowds are left out."""
    rows: list[np.ndarray] = [np.zeros((0, 4), np.float32)]
    for index in range(min(most, len(data))):
        record = data.record(index)
        rows.append(
            centres(record.boxes[~record.crowd])
            / np.array([record.width, record.height] * 2, np.float32)
        )
    return np.concatenate(rows)
