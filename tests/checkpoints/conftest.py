"""Tiny members with every tensor drawn anew, and their states as other implementations write them.

The writers are set down from the public module definitions, not from the project's tables.
"""

from __future__ import annotations

import functools
import re
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor

from dabdetr.config import Config
from dabdetr.model.detector import Detector, build
from dabdetr.presets import derive, preset
from dabdetr.structures import Images

State = dict[str, Tensor]

MEMBERS = {
    "DETR": "detr-r50",
    "Conditional DETR": "conditional-detr-r50",
    "Deformable DETR": "deformable-detr-r50",
    "Deformable DETR, refined": "deformable-detr-r50-refine",
    "Deformable DETR, two-stage": "deformable-detr-r50-two-stage",
    "DAB-DETR": "dab-detr-r50",
    "DAB-DETR, patterns": "dab-detr-r50-p3",
    "DAB-Deformable-DETR": "dab-deformable-detr-r50",
    "DAB-Deformable-DETR, two-stage": "dab-deformable-detr-r50-two-stage",
    "DN-DETR": "dn-detr-r50",
    "DN-DAB-Deformable-DETR": "dn-dab-deformable-detr-r50",
    "DINO": "dino-r50-4scale",
}


@functools.cache
def tiny(member: str, classes: int = 5, **changes: Any) -> Detector:
    """A member as published, but narrow and shallow; in evaluation mode. Do not change it."""
    base: Config = preset(MEMBERS[member])
    sizes = {
        "model__backbone__name": "resnet18",
        "model__width": 32,
        "model__feedforward": 48,
        "model__encoder__layers": 2,
        "model__decoder__layers": 3,
        "model__queries__count": 300 if base.model.queries.content in ("box", "token") else 7,
    }
    config = derive(base, "tiny", **{**sizes, **changes})
    torch.manual_seed(5)
    detector = build(config, [f"class {n}" for n in range(classes)]).eval()
    with torch.no_grad():
        for name, tensor in detector.state_dict().items():
            if "running_var" in name or (tensor.dim() == 1 and "norm" in name):
                tensor.uniform_(0.7, 1.3)
            elif name in ("queries.anchors", "queries.positions", "queries.content"):
                tensor.normal_()  # queries far apart, sharp attention: or all answer alike
            elif tensor.is_floating_point():
                strength = 8.0 if "attention" in name and "offsets" not in name else 1.0
                fan = tensor[0].numel() if tensor.dim() > 1 else 100
                tensor.normal_(std=strength * fan**-0.5)
        if detector.denoising is not None and not detector.denoising.indicator:
            detector.denoising.labels.weight[-1] = 0.0  # "unknown", which is never read
    return detector


def answers(detector: Detector) -> tuple[Tensor, Tensor]:
    """Logits and boxes of the last layer for two images, one of them padded."""
    coarse = torch.randn(2, 3, 3, 4, generator=torch.Generator().manual_seed(1))
    pixels = 3 * torch.nn.functional.interpolate(coarse, scale_factor=32.0)
    padding = torch.zeros(2, 96, 128, dtype=torch.bool)
    padding[1, 64:], padding[1, :, 96:] = True, True
    pixels[1] = pixels[1].masked_fill(padding[1], 0.0)
    with torch.no_grad():
        out = detector.eval()(Images(pixels, padding))
    return out.logits[-1], out.boxes[-1]


class Writer:
    """Takes tensors out of a detector's state and puts them down under other names."""

    def __init__(self, detector: Detector) -> None:
        self.model = detector.config.model
        self.own = {
            k: v.clone() for k, v in detector.state_dict().items() if "num_batches" not in k
        }
        self.out: State = {}
        self.layers = self.model.decoder.layers
        self.dense = self.model.encoder.kind == "dense"
        self.concat = self.model.decoder.cross_attention.kind == "concat"

    def tensor(self, theirs: str, ours: str) -> None:
        self.out[theirs] = self.own.pop(ours)

    def linear(self, theirs: str, ours: str) -> None:
        """A weight and a bias, of norms and convolutions too."""
        for part in ("weight", "bias"):
            self.tensor(f"{theirs}.{part}", f"{ours}.{part}")

    def mlp(self, theirs: str, ours: str, count: int) -> None:
        for index in range(count):
            self.linear(f"{theirs}.{index}", f"{ours}.{2 * index}")

    def packed(self, theirs: str, ours: str) -> None:
        """torch's own attention: queries, keys and values in one matrix."""
        for part in ("weight", "bias"):
            rows = [self.own.pop(f"{ours}.{name}.{part}") for name in ("query", "key", "value")]
            self.out[f"{theirs}.in_proj_{part}"] = torch.cat(rows)
        self.linear(f"{theirs}.out_proj", f"{ours}.output")

    def sampling(self, theirs: str, ours: str) -> None:
        self.linear(f"{theirs}.sampling_offsets", f"{ours}.offsets")
        self.linear(f"{theirs}.attention_weights", f"{ours}.weights")
        self.linear(f"{theirs}.value_proj", f"{ours}.value")
        self.linear(f"{theirs}.output_proj", f"{ours}.output")

    def alias(self, theirs: str, also: str) -> None:
        """A module that is registered twice."""
        for key in [key for key in self.out if key.startswith(theirs)]:
            self.out[also + key.removeprefix(theirs)] = self.out[key].clone()

    def backbone(self, name: Callable[[str], str]) -> None:
        for key in [key for key in self.own if key.startswith("backbone.body.")]:
            self.tensor(name(key.removeprefix("backbone.body.")), key)

    def done(self) -> State:
        assert not self.own, "tensors without a foreign name"
        return self.out


def detectron2(key: str) -> str:
    """A ResNet of torchvision's names as detectron2 calls it."""
    key = key if key.startswith("layer") else f"stem.{key}"
    for stage in (1, 2, 3, 4):
        key = key.replace(f"layer{stage}.", f"res{stage + 1}.")
    key = re.sub(r"\bbn(\d)", r"conv\1.norm", key)
    return "backbone." + key.replace("downsample.0", "shortcut").replace(
        "downsample.1", "shortcut.norm"
    )


def same_answers(loaded: Detector, source: Detector) -> None:
    """Every tensor is in its place, and what is not in a state (eps, temperature) alike too."""
    theirs, ours = answers(source), answers(loaded)
    gap = (ours[0] - theirs[0]).abs().max()
    assert gap < 1e-4
    assert torch.allclose(ours[1], theirs[1], atol=1e-5)
    # Queries differ far more than the two: a wrong position would be seen.
    assert theirs[0].std(dim=1).mean() > 10 * gap
    given, own = source.state_dict(), loaded.state_dict()
    assert set(given) == set(own)
    assert all(own[key].equal(given[key]) for key in own if "num_batches" not in key)


@pytest.fixture(scope="session")
def make() -> Callable[..., Detector]:
    return tiny


@pytest.fixture(scope="session")
def writer() -> type[Writer]:
    return Writer


@pytest.fixture(scope="session")
def detectron2_name() -> Callable[[str], str]:
    return detectron2


@pytest.fixture(scope="session")
def agree() -> Callable[[Detector, Detector], None]:
    return same_answers
