"""Less memory for more time: blocks that the backward pass computes anew (Chen et al. 2016)."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from functools import partial
from typing import Any

from torch import nn
from torch.utils.checkpoint import checkpoint

from dabdetr.model.detector import Detector

CHANGING = (nn.BatchNorm1d, nn.BatchNorm2d, nn.SyncBatchNorm)
"""Layers that learn from the forward pass itself; computed twice they would learn twice."""

LISTS = (nn.Sequential, nn.ModuleList)


def recompute(detector: Detector, parts: Sequence[str]) -> None:
    """Let the blocks of ``parts`` keep their inputs only, in place; loss and gradients stay.

    Weights, their names and what is computed without gradients stay as well. Dropout is drawn
    again as it was. Raises where a block has statistics that the forward pass changes.
    """
    wholes = {
        "backbone": detector.backbone,
        "encoder": detector.encoder.layers,
        "decoder": detector.decoder.layers,
    }
    for part in parts:
        for block in blocks(wholes[part]):
            if any(isinstance(module, CHANGING) for module in block.modules()):
                raise ValueError(
                    f"training.recompute has {part}, whose batch statistics would be gathered "
                    f"twice; set model.backbone.norm=frozen, or leave {part} out"
                )
            block.forward = partial(_forgetful, block.forward)


def blocks(whole: nn.Module) -> Iterator[nn.Module]:
    """The repeated blocks of a network: members of a list that are made of parts themselves."""
    for child in whole.children():
        compound = next(child.children(), None) is not None and not isinstance(child, LISTS)
        if compound and isinstance(whole, LISTS):
            yield child
        else:
            yield from blocks(child)


def _forgetful(forward: Callable[..., Any], *arguments: Any, **named: Any) -> Any:
    return checkpoint(forward, *arguments, use_reentrant=False, **named)
