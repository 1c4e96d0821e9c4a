"""The two sides of a comparison: one set of weights, one forward pass, one training step each."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from dabdetr.inference.device import keep_freed_memory
from dabdetr.training.activation_checkpointing import checkpoint_activations

RATE, DECAY = 1e-6, 1e-4  # of AdamW, the same for both; small, so that repeated steps stay alike
FROZEN = ("conv1", "bn1", "layer1")  # of the backbone, as the published recipe


TINY = (("num_queries", 20), ("encoder_layers", 1), ("decoder_layers", 2))


@dataclass(frozen=True)
class Workload:
    """What is measured, and on which input."""

    height: int = 480
    width: int = 640
    objects: int = 10
    settings: tuple[tuple[str, Any], ...] = ()  # departures from the published configuration
    backbone: str = "resnet50"
    kind: str = "dab"

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


@dataclass(frozen=True)
class Kind:
    """A member of the family that both sides have.

    ``name`` is transformers' prefix, ``preset`` ours, ``maps`` what the backbone gives.
    ``loss_gap`` is how far the losses may lie apart: transformers' Conditional DETR normalises the
    content between decoder layers where it is to give the layers' own losses, and only there.
    """

    name: str
    preset: str
    maps: tuple[int, ...]
    loss_gap: float = 1e-4


KINDS = {
    "dab": Kind("DabDetr", "dab-detr-r50", (1, 2, 3, 4)),
    "conditional": Kind("ConditionalDetr", "conditional-detr-r50", (1, 2, 3, 4), 1e-2),
    "deformable": Kind("DeformableDetr", "deformable-detr-r50", (2, 3, 4)),
}

SMOKE = Workload(
    height=96,
    width=128,
    objects=3,
    settings=TINY,
    backbone="resnet18",
)


@dataclass(frozen=True)
class Side:
    """``forward(pixels)`` gives logits and boxes; ``loss(pixels, targets)`` what is minimised.

    ``best(pixels)`` is the quickest forward pass that this side offers in process: the peer's is
    the same eager one.
    """

    model: nn.Module
    forward: Callable[[Tensor], tuple[Tensor, Tensor]]
    loss: Callable[[Tensor, list[tuple[Tensor, Tensor]]], Tensor]
    best: Callable[[Tensor], tuple[Tensor, Tensor]] | None = None

    def detect(self, pixels: Tensor, best: bool = False) -> tuple[Tensor, Tensor]:
        """One forward pass in evaluation mode, without gradients."""
        self.model.eval()
        with torch.no_grad():
            return (self.best if best and self.best else self.forward)(pixels)

    def trainer(
        self, pixels: Tensor, targets: list[tuple[Tensor, Tensor]], way: str = "fp32"
    ) -> Callable[[], float]:
        """A function that makes one training step: losses, backward pass, fused AdamW.

        "best": under autocast to bf16, where this side has a best way. "lean": as well with blocks
        computed again in the backward pass, for good; the peer's is the same as ever.
        """
        trained = [p for p in self.model.parameters() if p.requires_grad]
        optimiser = torch.optim.AdamW(trained, lr=RATE, weight_decay=DECAY, fused=True)
        lower = way != "fp32" and self.best is not None
        if self.best is not None:
            keep_freed_memory()  # as our training does
        if lower and way == "lean":
            checkpoint_activations(self.model, ("backbone", "encoder", "decoder"))  # pyright: ignore

        def step() -> float:
            self.model.train()
            # As pytorch-lightning has it: a cache would hold every weight in bf16 until the end.
            with torch.autocast("cpu", torch.bfloat16, enabled=lower, cache_enabled=False):
                loss = self.loss(pixels, targets)
            loss.backward()
            optimiser.step()
            optimiser.zero_grad()  # as both sides' trainers: no gradients during the next pass
            return loss.item()

        return step


def make_weights(folder: Path, work: Workload) -> None:
    """Write random weights as transformers does; no parameter keeps a value that hides mistakes."""
    import transformers

    torch.manual_seed(0)
    kind = KINDS[work.kind]
    backbone = {
        "model_type": "timm_backbone",
        "backbone": work.backbone,
        "features_only": True,
        "out_indices": list(kind.maps),
        "use_pretrained_backbone": False,
    }
    config = getattr(transformers, f"{kind.name}Config")(
        backbone_config=backbone,
        dropout=0.0,
        auxiliary_loss=True,
        **{"num_labels": 91, **dict(work.settings)},
    )
    model = getattr(transformers, f"{kind.name}ForObjectDetection")(config)
    with torch.no_grad():
        for name, tensor in model.state_dict().items():
            if name.endswith("running_var"):
                tensor.uniform_(0.8, 1.2)
            elif "refpoint" in name or "query_position" in name:
                tensor.normal_()
            elif tensor.is_floating_point():
                tensor.add_(0.01 * torch.randn_like(tensor))
    model.save_pretrained(folder)


def load_ours(folder: Path) -> Side:
    """The files of ``make_weights`` in our model."""
    from dabdetr.checkpoints.native import load_model
    from dabdetr.inference.acceleration import AcceleratedModel
    from dabdetr.structures import Images, Targets
    from dabdetr.training.losses import detection_loss

    model = load_model(folder).model
    model.config = model.config.override(["loss.class_weight=1"])  # as the peer's, come what may
    quick: dict[
        bool, AcceleratedModel
    ] = {}  # made when asked for: it keeps freed memory, and takes copies

    def call(pixels: Tensor, best: bool) -> tuple[Tensor, Tensor]:
        if best not in quick:
            quick[best] = (
                AcceleratedModel(model, "auto", compile=True) if best else AcceleratedModel(model)
            )
        predictions = quick[best](Images(pixels))
        return predictions.logits[-1], predictions.boxes[-1]

    def loss(pixels: Tensor, targets: list[tuple[Tensor, Tensor]]) -> Tensor:
        labels, boxes = (torch.cat(part) for part in zip(*targets, strict=True))
        table = Targets(labels, boxes, tuple(len(part) for part, _ in targets))
        return detection_loss(model(Images(pixels)), table, model.config.loss)[0]

    return Side(model, lambda pixels: call(pixels, False), loss, lambda pixels: call(pixels, True))


def load_peer(folder: Path) -> Side:
    """The files of ``make_weights`` in transformers, its stem and first stage frozen like ours."""
    from transformers import AutoModelForObjectDetection

    model = AutoModelForObjectDetection.from_pretrained(folder)
    for name, parameter in model.model.backbone.named_parameters():
        inner = name.partition("_backbone.")[2] or name.partition("model.")[2]
        if inner.startswith(FROZEN):
            parameter.requires_grad = False

    def forward(pixels: Tensor) -> tuple[Tensor, Tensor]:
        model.config.auxiliary_loss = False
        output = model(pixel_values=pixels)
        return output.logits, output.pred_boxes

    def loss(pixels: Tensor, targets: list[tuple[Tensor, Tensor]]) -> Tensor:
        model.config.auxiliary_loss = True
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
    if not abs(mine - theirs) < KINDS[work.kind].loss_gap * abs(theirs):
        raise AssertionError(f"the sides' losses are {mine} and {theirs}; nothing was timed")
    trained = [
        sum(p.numel() for p in s.model.parameters() if p.requires_grad) for s in (ours, peer)
    ]
    if trained[0] != trained[1] or not spread > 0.01:
        raise AssertionError(f"the sides train {trained} numbers; logits spread by {spread:g}")


def published(folder: Path, kind: str) -> bool:
    """Whether our side has exactly the model of the published preset."""
    from dabdetr.checkpoints.native import load_model
    from dabdetr.presets import PRESETS

    ours = json.loads(load_model(folder).model.config.model.model_dump_json())
    preset = json.loads(PRESETS[KINDS[kind].preset].model.model_dump_json())
    for tree in (ours, preset):
        tree.pop("anchor_eps")  # transformers clamps at 1e-5, the authors at 1e-3
        tree.pop("dropout")  # off here, so that both sides' losses are alike
    return ours == preset
