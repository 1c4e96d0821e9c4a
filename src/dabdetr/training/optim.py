"""Which parameters learn, at which learning rate, and how the rates go over a training."""

from __future__ import annotations

import math
from typing import Any

import torch

from dabdetr.config import Training
from dabdetr.model.detector import Detector


def freeze(detector: Detector, training: Training) -> None:
    """Take the gradient from what is not to be trained."""
    if not training.backbone_lr:
        detector.backbone.requires_grad_(False)
    if not training.train_only:
        return
    for name, parameter in detector.named_parameters():
        if not name.startswith(training.train_only):
            parameter.requires_grad_(False)
    if not any(p.requires_grad for p in detector.parameters()):
        raise ValueError(
            f"training.train_only {list(training.train_only)} leaves nothing to train; parts are: "
            f"{', '.join(name for name, _ in detector.named_children())}, and parts of those like "
            "decoder.heads"
        )


def parameter_groups(detector: Detector, training: Training) -> list[dict[str, Any]]:
    """The backbone, sampling offsets and learned points, and everything else, each at its rate.

    Frozen parameters are in no group. Weight decay applies to all others, norms and biases
    included (official recipe).
    """
    rates = {
        "backbone": training.backbone_lr,
        "offsets": training.lr * training.offsets_factor,
        "rest": training.lr,
    }
    groups: dict[str, list[torch.nn.Parameter]] = {name: [] for name in rates}
    for name, parameter in detector.named_parameters():
        if parameter.requires_grad:
            groups[_group(name)].append(parameter)
    return [
        {"name": name, "params": parameters, "lr": rates[name]}
        for name, parameters in groups.items()
        if parameters
    ]


def _group(name: str) -> str:
    if name.startswith("backbone."):
        return "backbone"
    return "offsets" if ".offsets." in name or name.startswith("queries.to_point.") else "rest"


def rate_factor(training: Training, progress: float, step: int) -> float:
    """What the learning rates are multiplied by: a linear warm-up, then the schedule.

    ``progress`` is the share of the training that is done, 0–1; ``step`` counts optimizer steps
    from 0.
    """
    warm = min(1.0, (step + 1) / training.warmup) if training.warmup else 1.0
    if training.schedule == "step":
        return warm * (0.1 if progress >= training.drop else 1.0)
    if training.schedule == "cosine":
        return warm * 0.5 * (1 + math.cos(math.pi * progress))
    return warm
