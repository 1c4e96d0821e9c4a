"""Teach the small body of ``dab-detr-nano`` to name digits, so that the detector can start.

    python experiments/digit_body.py OUT.safetensors --steps 800

From random weights a DETR on scenes learns nothing for thousands of steps: its attention has
nothing to hold on to. Here every cell of the body's map names the digit it lies in (or none).
"""

from __future__ import annotations

import argparse
import time

import torch
import torch.nn.functional as F
from torch import nn

from dabdetr.data.augment import prepare
from dabdetr.data.scenes import Scenes
from dabdetr.model.backbones import TimmBackbone
from dabdetr.model.detector import build
from dabdetr.model.weights import save_backbone
from dabdetr.presets.small import DAB_DETR_NANO
from dabdetr.structures import Images


def cell_labels(scenes: Scenes, index: int, stride: int) -> torch.Tensor:
    """[cells, cells] class of the smallest digit around each cell; the number of classes: none."""
    record, cells = scenes.record(index), scenes.size // stride
    centres = (torch.arange(cells) + 0.5) * stride
    labels = torch.full((cells, cells), len(scenes.names))
    for n in (-record.areas).argsort():
        x0, y0, x1, y1 = record.boxes[n]
        rows = (centres >= y0 + 1) & (centres <= y1 - 1)
        columns = (centres >= x0 + 1) & (centres <= x1 - 1)
        labels[rows[:, None] & columns[None]] = int(record.labels[n])
    return labels


def train_body(body: TimmBackbone, steps: int, batch: int, seed: int) -> None:
    """Cross-entropy over cells, ground weighing little; prints accuracy on digit cells."""
    torch.manual_seed(seed)
    scenes = Scenes("train", seed=seed + 1000)
    stride, width = body.strides[0], body.channels[0]
    reader = nn.Sequential(nn.Conv2d(width, 128, 3, padding=1), nn.ReLU(), nn.Conv2d(128, 11, 1))
    weight = torch.tensor([1.0] * 10 + [0.2])
    parameters = [*body.parameters(), *reader.parameters()]
    optimiser = torch.optim.AdamW(parameters, lr=2e-3, weight_decay=1e-4)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimiser, 4e-3, total_steps=steps)
    started = time.perf_counter()
    for step in range(steps):
        indices = range(step * batch, (step + 1) * batch)
        pixels = torch.stack([prepare(scenes.picture(i), DAB_DETR_NANO.image) for i in indices])
        labels = torch.stack([cell_labels(scenes, i, stride) for i in indices])
        logits = reader(body(Images(pixels)).maps[0])
        loss = F.cross_entropy(logits, labels, weight)
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        schedule.step()
        if step % 100 == 99:
            digits = labels < 10
            right = (logits.argmax(1) == labels)[digits].float().mean()
            seconds = time.perf_counter() - started
            print(f"step {step + 1}  loss {loss:.3f}  digit cells {right:.3f}  {seconds:.0f} s")


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("out")
    parser.add_argument("--steps", type=int, default=800)
    parser.add_argument("--batch", type=int, default=32)
    parser.add_argument("--seed", type=int, default=0)
    given = parser.parse_args()
    torch.manual_seed(given.seed)
    detector = build(DAB_DETR_NANO, Scenes().names)
    detector.backbone.train()
    train_body(detector.backbone, given.steps, given.batch, given.seed)
    save_backbone(given.out, detector)


if __name__ == "__main__":
    main()
