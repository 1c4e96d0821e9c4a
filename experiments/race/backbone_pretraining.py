"""Teach a small body what objects look like, so that detectors of little training can start.

From random weights a small DETR learns nothing for thousands of steps: its attention has nothing
to hold on to. Here every cell of the body's maps names the object it lies in, or none. All runs of
a size start from one such file.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from itertools import count, islice
from pathlib import Path

import torch
import torch.nn.functional as F
from experiments.race.members import RUNGS
from experiments.race.plan import Settings, body_file, common, data_at
from jaxtyping import Int64
from torch import Tensor, nn

from dabdetr.checkpoints.native import save_backbone
from dabdetr.config import Config
from dabdetr.data.dataset import DetectionDataset
from dabdetr.data.layouts import open_data
from dabdetr.data.loader import training_loader
from dabdetr.geometry import to_corners
from dabdetr.model.detector import Detector, build
from dabdetr.structures import Images, Targets

RATE = 4e-3
GROUND = 0.2
"""Weight of a cell without object."""


def teach_body(config: Config, data: DetectionDataset, steps: int) -> tuple[Detector, float]:
    """A detector of ``config`` whose body names cells; and its share of objects' cells named right.

    The share is that of the last tenth of the steps.
    """
    torch.manual_seed(config.training.seed)
    detector = build(config, data.names)
    body = detector.backbone.train()
    classes = len(data.names)
    readers = nn.ModuleList(
        nn.Sequential(nn.Conv2d(c, 128, 3, padding=1), nn.ReLU(), nn.Conv2d(128, classes + 1, 1))
        for c in body.channels
    )
    weight = torch.tensor([1.0] * classes + [GROUND])
    parameters = [*body.parameters(), *readers.parameters()]
    optimiser = torch.optim.AdamW(parameters, lr=RATE, weight_decay=1e-4)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimiser, RATE, total_steps=max(2, steps))
    shares = []
    for images, targets in islice(_batches(config, data), steps):
        maps = body(images).maps
        read = [reader(each) for reader, each in zip(readers, maps, strict=True)]
        labels = [cell_labels(images, targets, each.shape[-2:], classes) for each in maps]
        pairs = list(zip(read, labels, strict=True))
        loss = torch.stack([F.cross_entropy(a, b, weight, ignore_index=-1) for a, b in pairs]).sum()
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        schedule.step()
        shares.append(_share_right(*pairs[0], classes))
    last = shares[-max(1, steps // 10) :]
    return detector, sum(last) / len(last)


def cell_labels(
    images: Images, targets: Targets, shape: tuple[int, int], classes: int
) -> Int64[Tensor, "batch h w"]:
    """Class of the smallest object around the middle of each cell; ``classes``: none; −1: padding.

    ``shape`` is the map's, which covers the padded images.
    """
    batch, _, height, width = images.pixels.shape
    y = (torch.arange(shape[0]) + 0.5) * (height / shape[0])
    x = (torch.arange(shape[1]) + 0.5) * (width / shape[1])
    labels = torch.full((batch, *shape), classes)
    boxes, of = (
        to_corners(targets.boxes).split(targets.counts),
        targets.labels.split(targets.counts),
    )
    for index in range(batch):
        tall, wide = height, width
        if images.padding is not None:
            tall = int((~images.padding[index, :, 0]).sum())
            wide = int((~images.padding[index, 0]).sum())
        corners = boxes[index] * torch.tensor([wide, tall, wide, tall])
        areas = (corners[:, 2:] - corners[:, :2]).prod(1)
        for n in areas.argsort(descending=True).tolist():
            x0, y0, x1, y1 = corners[n].tolist()
            inside = ((y >= y0) & (y <= y1))[:, None] & ((x >= x0) & (x <= x1))
            labels[index][inside] = of[index][n]
        labels[index][(y > tall)[:, None] | (x > wide)] = -1
    return labels


def _batches(config: Config, data: DetectionDataset) -> Iterator[tuple[Images, Targets]]:
    for epoch in count():
        yield from training_loader(data, config, config.training.seed, epoch)


def _share_right(logits: Tensor, labels: Tensor, classes: int) -> float:
    objects = (labels >= 0) & (labels < classes)
    return (logits.argmax(1) == labels)[objects].float().mean().nan_to_num().item()


def teach(settings: Settings, size: int, folder: Path, tell: Callable[[str], None]) -> None:
    """Leave the body that runs of this size start from, unless it is there."""
    path = body_file(folder, size)
    if path.exists():
        return
    tell(f"teaching the body for {size} px …")
    config = common(RUNGS["dab-deformable"], settings, size)  # it has every stride of the family
    config = config.override(["training.batch=32"])
    data = open_data(data_at(settings.data, size), "train")
    detector, share = teach_body(config, data, settings.body_steps)
    save_backbone(path, detector)
    tell(f"it names {share:.0%} of the cells of objects right")
