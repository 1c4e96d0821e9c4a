"""Figures of the concepts: sine codes, size modulation, anchors, denoising, sampling, ATSS."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle

from dabdetr.config import ContrastiveDenoising, Denoising
from dabdetr.data.dataset import DetectionDataset
from dabdetr.explain.figures import show_image
from dabdetr.geometry import to_centres
from dabdetr.model import denoising
from dabdetr.model.collaborative.atss import ATSS, assign_atss
from dabdetr.model.collaborative.pyramid import centres as centres_of
from dabdetr.model.deformable import DeformableAttention
from dabdetr.model.detector import Detector
from dabdetr.model.duplicates import DuplicateRemoval
from dabdetr.model.groups import join
from dabdetr.model.positions import sine_code
from dabdetr.model.queries import LearnedQueries, initial_anchors
from dabdetr.structures import Detections, Queries, Targets
from dabdetr.structures.boxes import centres, corners
from dabdetr.structures.drawing import new_figure
from dabdetr.text import counted

COLOURS = ("#0072b2", "#e69f00", "#009e73", "#cc79a7", "#56b4e9", "#d55e00")
MARKERS = "os^D"
HEADS = (*COLOURS, "#f0e442", "#000000")
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
    """Dot product of two sine codes against their distance, relative to that at distance 0.

    The higher the temperature, the broader the peak (DAB-DETR §3.3). Half of the model's ``width``
    encodes an axis.
    """
    figure = new_figure(6, 3.8)
    panel: Any = figure.subplots()
    distance = np.linspace(-0.5, 0.5, 401)
    for index, temperature in enumerate(temperatures):
        values = similarity(distance, temperature, width // 2)
        colour, style = COLOURS[index % len(COLOURS)], STYLES[index % len(STYLES)]
        panel.plot(distance, values, style, color=colour, label=f"temperature {temperature:g}")
    panel.set(xlabel="distance / image side", ylabel="dot product / its maximum")
    panel.grid(alpha=0.3)
    panel.legend(fontsize=8)
    return figure


def similarity(distance: np.ndarray, temperature: float, features: int) -> np.ndarray:
    """Dot product of the codes of two places ``distance`` apart (1: the image's side), over its
    maximum."""
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
    reference / h (DAB-DETR eq. 6); without it, the anchor's size has no effect.
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
    """Position attention of wide, tall, small and large anchors, without and with their size."""
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
    """Anchors before and after training, over the training boxes.

    Above: centres; below: widths and heights. Initial anchors are sampled again from the config's
    seed.
    """
    after = anchors_of(model)
    queries = model.config.model.queries
    assert queries.kind == "learned"
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(model.config.training.seed)
        before = initial_anchors(len(after), queries.start).sigmoid().numpy()
    boxes = boxes_of(data, most)
    figure = new_figure(6.6, 6.6)
    panels = figure.subplots(2, 2)
    for column, anchors, title in zip(
        panels.T, (before, after), ("before training", "after training"), strict=True
    ):
        column[0].set_title(title, fontsize=10)
        for panel, pair in zip(column, (slice(0, 2), slice(2, 4)), strict=True):
            panel.hexbin(
                *boxes[:, pair].T, gridsize=20, extent=(0, 1, 0, 1), cmap="Greys", mincnt=1
            )
            panel.scatter(*anchors[:, pair].T, s=18, color="#d55e00", edgecolors="white", lw=0.5)
            panel.set(xlim=(0, 1), ylim=(0, 1), aspect="equal")
        column[0].invert_yaxis()
        column[0].set(xlabel="centre x", ylabel="centre y")
        column[1].set(xlabel="width", ylabel="height")
    figure.suptitle(
        f"{counted(len(after), 'anchor')} over {counted(len(boxes), 'box', 'boxes')} (grey)",
        fontsize=10,
    )
    return figure


def anchors_of(model: Detector) -> np.ndarray:
    """Learned anchors [queries, 4] cxcywh, 0–1; ValueError for members without them."""
    logits = model.queries.logits() if isinstance(model.queries, LearnedQueries) else None
    if logits is None:
        raise ValueError(
            f"{model.config.name} has no learned anchor boxes to show; use a member with "
            "queries of kind 'learned' and anchor 'box'"
        )
    return logits.detach().float().sigmoid().cpu().numpy()


def boxes_of(data: DetectionDataset, most: int) -> np.ndarray:
    """Objects of the first ``most`` images [n, 4] cxcywh, 0–1, without crowds."""
    rows: list[np.ndarray] = [np.zeros((0, 4), np.float32)]
    for index in range(min(most, len(data))):
        record = data.record(index)
        rows.append(
            centres(record.boxes[~record.crowd])
            / np.array([record.width, record.height] * 2, np.float32)
        )
    return np.concatenate(rows)


def noisy_copies(
    image: np.ndarray,
    boxes: np.ndarray,
    part: Denoising | ContrastiveDenoising,
    matching: int = 20,
    seed: int = 0,
) -> Figure:
    """Noisy copies of ``boxes`` (x0 y0 x1 y1, pixels) made for denoising, and their attention mask.

    White: the objects; colours: their copies, a colour for each group; dotted: negative copies,
    which are to be predicted as no object. At a dark cell of the mask, the row's query cannot
    attend to the column's. The ``matching`` queries come last.
    """
    group = _group(image, boxes, part, seed)
    blank = torch.zeros(1, matching, group.content.shape[-1])
    _, attention_mask = join(Queries(blank, torch.full((1, matching, 4), 0.5)), [group])
    assert attention_mask is not None
    figure = new_figure(9, 4.3)
    copies, mask = figure.subplots(1, 2)
    show_image(copies, image)
    known = set(group.query.tolist())
    size = np.tile(image.shape[1::-1], 2)
    groups = group.count // len(boxes) // (2 if part.kind == "contrastive" else 1)
    for slot, anchor in enumerate(corners(group.anchors[0].numpy()) * size):
        colour = COLOURS[slot * groups // group.count % len(COLOURS)]
        _frame(copies, anchor, colour, "-" if slot in known else ":", 1.1)
    for box in boxes:
        _frame(copies, box, "white", "-", 2)
    titles = {"dn": "denoising", "contrastive": "contrastive denoising"}
    copies.set_title(
        f"{titles[part.kind]}: {counted(len(boxes), 'object')}, "
        f"{counted(group.count, 'copy', 'copies')}",
        fontsize=10,
    )
    mask.imshow(attention_mask.numpy(), cmap="Greys", vmin=0, vmax=1.4, interpolation="nearest")
    mask.set(xlabel="query attended to", ylabel="attending query")
    last = "is the matching query" if matching == 1 else f"{matching} are the matching queries"
    mask.set_title(f"dark: masked; the last {last}", fontsize=10)
    return figure


def _group(image: np.ndarray, boxes: np.ndarray, part: Any, seed: int) -> Any:
    """The query group of one image, drawn with ``seed``."""
    height, width = image.shape[:2]
    share = torch.as_tensor(np.asarray(boxes, np.float32)) / torch.tensor([width, height] * 2)
    targets = Targets(torch.zeros(len(boxes), dtype=torch.long), to_centres(share), (len(boxes),))
    with torch.random.fork_rng(devices=[]), torch.no_grad():
        torch.manual_seed(seed)
        group = denoising.Denoising(part, classes=1, width=8)(targets)
    if group is None:
        raise ValueError("denoising needs objects to copy; give at least one box")
    return group


def sampling_locations(heads: int = 8, points: int = 4, cells: int = 20) -> Figure:
    """Sampling locations of untrained deformable attention around points (above) and boxes (below).

    Each head has a colour; its further locations have larger marks. Offsets from a point are in
    cells of the map, which has ``cells`` on each side; offsets from a box are in half its sides, so
    attention reaches as far as the box is large (Deformable DETR §4.1).
    """
    attention = DeformableAttention(4 * heads, heads, 1, points)
    figure = new_figure(2.3 * len(ANCHORS) + 0.5, 5.2)
    panels = figure.subplots(2, len(ANCHORS))
    for row, frame, title in zip(panels, (2, 4), ("around a point", "around a box"), strict=True):
        row[0].set_ylabel(title, fontsize=9)
        for panel, (name, anchor) in zip(row, ANCHORS.items(), strict=True):
            reference = torch.tensor(anchor[:frame]).view(1, 1, 1, frame)
            query = torch.zeros(1, 1, 4 * heads)
            with torch.no_grad():
                locations, _ = attention.locations_and_weights(query, reference, ((cells, cells),))
            for head, of_head in enumerate(locations[0, 0, :, 0].numpy()):
                colour = HEADS[head % len(HEADS)]
                panel.scatter(*of_head.T, s=6 + 7 * np.arange(points), color=colour)
            _frame(panel, corners(np.array(anchor)), "0.4", "-", 1.2)
            panel.set(xlim=(0, 1), ylim=(1, 0), xticks=[], yticks=[], aspect="equal")
            panel.set_title(f"{name} anchor", fontsize=9)
    return figure


def duplicates(without: Detections, found: Detections, removal: DuplicateRemoval) -> Figure:
    """An image's detections without and with the removal, and how far each layer lowers logits."""
    figure = new_figure(10.5, 2.9)
    panels = figure.subplots(1, 3)
    titles = ("without the removal", "with it")
    for panel, each, title in zip(panels, (without, found), titles, strict=False):
        show_image(panel, np.asarray(each.plot()))
        panel.set_title(f"{title}: {counted(len(each), 'detection')}", fontsize=9)
    overlap = torch.linspace(0, 1, 200)
    pair = torch.tensor([[[1.0], [0.0]]])  # the better query, and the one that loses
    for layer, colour in zip(range(len(removal.curve)), COLOURS, strict=False):
        lost = []
        for share in overlap:
            boxes = torch.tensor([[[0.5, 0.5, 1.0, 1.0], [float(share) / 2, 0.5, share, 1.0]]])
            with torch.no_grad():
                lost.append(-float(removal(pair, boxes, 0, layer)[0, 1, 0]))
        panels[2].plot(overlap, lost, color=colour, label=f"layer {layer + 1}")
    panels[2].set_xlabel("IoU with a better query", fontsize=9)
    panels[2].set_title("decrease of the logits", fontsize=9)
    panels[2].legend(fontsize=8)
    panels[2].grid(alpha=0.3)
    return figure


def positives(
    image: np.ndarray, boxes: np.ndarray, strides: tuple[int, ...] = (8, 16, 32)
) -> Figure:
    """The positives of each of ``boxes`` (x0 y0 x1 y1, pixels): one query, or many cells by ATSS.

    Left: the decoder's assignment, one query for one object. Right: the cells of the encoder's maps
    that a collaborative head assigns to it (Co-DETR §3.2), with a mark for each stride.
    """
    height, width = image.shape[:2]
    objects = torch.as_tensor(np.asarray(boxes, np.float32).reshape(-1, 4))
    generator = ATSS(8, 1, strides).generator
    generator.set_cell_anchors(torch.float32, torch.device("cpu"))
    shapes = [[-(-height // s), -(-width // s)] for s in strides]
    levels = generator.grid_anchors(shapes, [[s, s] for s in strides])  # pyright: ignore
    valid = torch.ones(sum(map(len, levels)), dtype=torch.bool)
    assigned = assign_atss(levels, valid, objects).split([len(level) for level in levels])
    figure = new_figure(8.4, 4.9)
    one, many = figure.subplots(1, 2)
    for panel in (one, many):
        show_image(panel, image)
        for number, box in enumerate(objects.numpy()):
            _frame(panel, box, COLOURS[number % len(COLOURS)], "-", 1.5)
    dots = {"s": 36, "edgecolors": "white", "linewidths": 0.7}
    for number, (x, y) in enumerate(centres_of(objects).tolist()):
        one.scatter(x, y, color=COLOURS[number % len(COLOURS)], **dots)
    for level, owner, marker, stride in zip(levels, assigned, MARKERS, strides, strict=False):
        cells, numbers = centres_of(level[owner >= 0]).numpy(), owner[owner >= 0].tolist()
        colours = [COLOURS[number % len(COLOURS)] for number in numbers]
        if numbers:
            many.scatter(*cells.T, c=colours, marker=marker, label=f"stride {stride}", **dots)
    count = sum(int((owner >= 0).sum()) for owner in assigned)
    one.set_title(
        f"decoder: {counted(len(objects), 'query', 'queries')} for "
        f"{counted(len(objects), 'object')}",
        fontsize=10,
    )
    many.set_title(f"ATSS head: {counted(count, 'cell')} for the same", fontsize=10)
    many.legend(fontsize=8, loc="upper center", bbox_to_anchor=(0.5, -0.02), ncols=len(strides))
    return figure


def _frame(panel: Any, box: Any, colour: str, style: str, width: float) -> None:
    """Draw a box x0 y0 x1 y1."""
    x0, y0, x1, y1 = map(float, box)
    line = {"fill": False, "edgecolor": colour, "linestyle": style, "linewidth": width}
    panel.add_patch(Rectangle((x0, y0), x1 - x0, y1 - y0, **line))
