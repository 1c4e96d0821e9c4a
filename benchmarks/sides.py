"""The two sides of the comparison: one set of weights, one forward pass, one training step each."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

RATE, DECAY = 1e-6, 1e-4  # of AdamW, the same for both; small, so that repeated steps stay alike
FROZEN = ("conv1", "bn1", "layer1")  # of the backbone, as the published recipe


@dataclass(frozen=True)
class Workload:
    """What is measured, and on which input."""

    height: int = 480
    width: int = 640
    objects: int = 10
    settings: tuple[tuple[str, Any], ...] = ()  # departures from the published configuration
    backbone: str = "resnet50"

    def pixels(self, images: int) -> Tensor:
        generator = torch.Generator().manual_seed(1)
        return torch.randn(images, 3, self.height, self.width, generator=generator)

    def targets(self, images: int) -> list[tuple[Tensor, Tensor]]:
        """Labels and cxcywh boxes, 0–1, of each image."""
        generator = torch.Generator().manual_seed(2)
        found = []
        for _ in range(images):
            sides = 0.05 + 0.4 * torch.rand(self.objects, 2, generator=generator)
            centres = sides / 2 + (1 - sides) * torch.rand(self.objects, 2, generator=generator)
            labels = torch.randint(0, 91, (self.objects,), generator=generator)
            found.append((labels, torch.cat((centres, sides), 1)))
        return found


SMOKE = Workload(
    height=96,
    width=128,
    objects=3,
    settings=(("num_queries", 20), ("encoder_layers", 1), ("decoder_layers", 2)),
    backbone="resnet18",
)


@dataclass(frozen=True)
class Side:
    """``forward(pixels)`` gives logits and boxes; ``loss(pixels, targets)`` what is minimised."""

    model: nn.Module
    forward: Callable[[Tensor], tuple[Tensor, Tensor]]
    loss: Callable[[Tensor, list[tuple[Tensor, Tensor]]], Tensor]

    def detect(self, pixels: Tensor) -> tuple[Tensor, Tensor]:
        """One forward pass in evaluation mode, without gradients."""
        self.model.eval()
        with torch.no_grad():
            return self.forward(pixels)

    def trainer(self, pixels: Tensor, targets: list[tuple[Tensor, Tensor]]) -> Callable[[], float]:
        """A function that makes one training step: losses, backward pass, AdamW."""
        trained = [p for p in self.model.parameters() if p.requires_grad]
        optimiser = torch.optim.AdamW(trained, lr=RATE, weight_decay=DECAY)

        def step() -> float:
            self.model.train()
            loss = self.loss(pixels, targets)
            optimiser.zero_grad()
            loss.backward()
            optimiser.step()
            return loss.item()

        return step


def make_weights(folder: Path, work: Workload) -> None:
    """Write random weights as transformers does; no parameter keeps a value that hides mistakes."""
    from transformers import DabDetrConfig, DabDetrForObjectDetection

    torch.manual_seed(0)
    backbone = {
        "model_type": "timm_backbone",
        "backbone": work.backbone,
        "features_only": True,
        "out_indices": [1, 2, 3, 4],
        "use_pretrained_backbone": False,
    }
    config = DabDetrConfig(
        backbone_config=backbone,  # pyright: ignore[reportArgumentType]
        dropout=0.0,
        auxiliary_loss=True,
        **{"num_labels": 91, **dict(work.settings)},
    )
    model = DabDetrForObjectDetection(config)
    with torch.no_grad():
        for name, tensor in model.state_dict().items():
            if name.endswith("running_var"):
                tensor.uniform_(0.8, 1.2)
            elif "refpoint" in name:
                tensor.normal_()
            elif tensor.is_floating_point():
                tensor.add_(0.01 * torch.randn_like(tensor))
    model.save_pretrained(folder)


def load_ours(folder: Path) -> Side:
    """The files of ``make_weights`` in our model."""
    from dabdetr.model.weights import load_model
    from dabdetr.structures import Images, Targets
    from dabdetr.training.losses import detection_loss

    model = load_model(folder).model

    def forward(pixels: Tensor) -> tuple[Tensor, Tensor]:
        predictions = model(Images(pixels))
        return predictions.logits[-1], predictions.boxes[-1]

    def loss(pixels: Tensor, targets: list[tuple[Tensor, Tensor]]) -> Tensor:
        labels, boxes = (torch.cat(part) for part in zip(*targets, strict=True))
        table = Targets(labels, boxes, tuple(len(part) for part, _ in targets))
        return detection_loss(model(Images(pixels)), table, model.config.loss)[0]

    return Side(model, forward, loss)


def load_peer(folder: Path) -> Side:
    """The files of ``make_weights`` in transformers, its stem and first stage frozen like ours."""
    from transformers import DabDetrForObjectDetection

    model = DabDetrForObjectDetection.from_pretrained(folder)
    for name, parameter in model.model.backbone.named_parameters():
        inner = name.partition("_backbone.")[2]
        if inner.startswith(FROZEN):
            parameter.requires_grad = False

    def forward(pixels: Tensor) -> tuple[Tensor, Tensor]:
        output = model(pixel_values=pixels)
        return output.logits, output.pred_boxes

    def loss(pixels: Tensor, targets: list[tuple[Tensor, Tensor]]) -> Tensor:
        labels = [{"class_labels": label, "boxes": boxes} for label, boxes in targets]
        return model(pixel_values=pixels, labels=labels).loss

    return Side(model, forward, loss)


LOADERS = {"ours": load_ours, "peer": load_peer}


def require_equal(ours: Side, peer: Side, work: Workload) -> None:
    """Raise unless both give the same numbers: what is timed must be the same computation."""
    pixels, targets = work.pixels(2), work.targets(2)
    for what, mine, theirs in zip(
        ("logits", "boxes"), ours.detect(pixels), peer.detect(pixels), strict=True
    ):
        gap = (mine - theirs).abs().max().item()
        if not gap < 1e-3:
            raise AssertionError(f"the sides' {what} differ by {gap:g}; nothing was timed")
    spread = ours.detect(pixels)[0].std().item()
    for side in (ours, peer):
        side.model.train()
    mine, theirs = ours.loss(pixels, targets).item(), peer.loss(pixels, targets).item()
    if not abs(mine - theirs) < 1e-4 * abs(theirs):
        raise AssertionError(f"the sides' losses are {mine} and {theirs}; nothing was timed")
    trained = [
        sum(p.numel() for p in s.model.parameters() if p.requires_grad) for s in (ours, peer)
    ]
    if trained[0] != trained[1] or not spread > 0.01:
        raise AssertionError(f"the sides train {trained} numbers; logits spread by {spread:g}")


def published(folder: Path) -> bool:
    """Whether our side has exactly the model of the preset ``dab-detr-r50``."""
    from dabdetr.model.weights import load_model
    from dabdetr.presets import PRESETS

    ours = json.loads(load_model(folder).model.config.model.model_dump_json())
    preset = json.loads(PRESETS["dab-detr-r50"].model.model_dump_json())
    for tree in (ours, preset):
        tree.pop("anchor_eps")  # transformers clamps at 1e-5, the authors at 1e-3
    return ours == preset
