"""Trained parameters, their learning rates, and the schedule."""

from __future__ import annotations

import difflib
import math
from collections.abc import Iterable, Mapping
from typing import Any

import torch

from dabdetr.config import Training
from dabdetr.model.detector import Detector
from dabdetr.text import printable


def freeze(detector: Detector, training: Training) -> None:
    """Turn off the gradients of ``training.freeze``'s parameters. ValueError for unknown names."""
    _check_names(detector, "train_only", training.train_only)
    _check_names(detector, "lr_factors", training.lr_factors)
    if not training.backbone_lr:
        detector.backbone.requires_grad_(False)
    for name, parameter in detector.named_parameters():
        chosen = name.startswith(training.train_only) if training.train_only else True
        if not chosen or not _factor(name, training.lr_factors):
            parameter.requires_grad_(False)
    if not any(p.requires_grad for p in detector.parameters()):
        raise ValueError(
            f"training.train_only {list(training.train_only)}, training.lr_factors "
            f"{training.lr_factors} and training.backbone_lr {training.backbone_lr:g} leave "
            "nothing to train; name other parts or set another rate"
        )


def _check_names(detector: Detector, field: str, prefixes: Iterable[str]) -> None:
    names = [name for name, _ in detector.named_parameters()]
    for prefix in prefixes:
        if not prefix or not any(name.startswith(prefix) for name in names):
            parts = dict.fromkeys(".".join(name.split(".")[:2]) for name in names)
            near = difflib.get_close_matches(prefix, parts, 1)
            raise ValueError(
                f"training.{field}: no parameter's name starts with {printable(prefix)!r}; "
                + (f"did you mean {near[0]}? " if near else "")
                + f"parts are: {', '.join(name for name, _ in detector.named_children())}, and "
                "parts of those like decoder.heads"
            )


def _factor(name: str, factors: Mapping[str, float]) -> float:
    """The factor of the longest prefix of a parameter's name; 1 if none matches."""
    fitting = [prefix for prefix in factors if name.startswith(prefix)]
    return factors[max(fitting, key=len)] if fitting else 1.0


def parameter_groups(detector: Detector, training: Training) -> list[dict[str, Any]]:
    """Groups of parameters: backbone, sampling offsets and learned points, all others.

    Where ``training.lr_factors`` divides a group, each factor has a group of its own. Frozen
    parameters are in no group. Weight decay applies to all others, norms and biases included
    (official recipe).
    """
    rates = {
        "backbone": training.backbone_lr,
        "offsets": training.lr * training.offsets_factor,
        "rest": training.lr,
    }
    groups: dict[tuple[str, float], list[torch.nn.Parameter]] = {}
    for name, parameter in detector.named_parameters():
        if parameter.requires_grad:
            key = (_group(name), _factor(name, training.lr_factors))
            groups.setdefault(key, []).append(parameter)
    order = list(rates)  # the last group's rate is logged
    return [
        {
            "name": kind if factor == 1 else f"{kind} × {factor:g}",
            "params": groups[kind, factor],
            "lr": rates[kind] * factor,
        }
        for kind, factor in sorted(groups, key=lambda key: (order.index(key[0]), key[1] == 1))
    ]


def _group(name: str) -> str:
    if name.startswith("backbone."):
        return "backbone"
    return "offsets" if ".offsets." in name or name.startswith("queries.to_point.") else "rest"


def rate_factor(training: Training, progress: float, step: int) -> float:
    """The factor of the learning rates: linear warm-up, then the schedule.

    ``progress`` is the completed share of the training, 0–1; ``step`` counts optimizer steps from
    0.
    """
    warm = min(1.0, (step + 1) / training.warmup) if training.warmup else 1.0
    if training.schedule == "step":
        return warm * (0.1 if progress >= training.drop else 1.0)
    if training.schedule == "cosine":
        return warm * 0.5 * (1 + math.cos(math.pi * progress))
    return warm
