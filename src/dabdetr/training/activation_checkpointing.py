"""Activation checkpointing: blocks that the backward pass computes again (Chen et al. 2016)."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from functools import partial

from torch import nn
from torch.utils.checkpoint import checkpoint

from dabdetr.model.detector import Detector

CHANGING = (nn.BatchNorm1d, nn.BatchNorm2d, nn.SyncBatchNorm)
"""Layers whose forward pass changes their statistics; recomputed, they would change twice."""

LISTS = (nn.Sequential, nn.ModuleList)


def checkpoint_activations(detector: Detector, parts: Sequence[str]) -> None:
    """Let the blocks of ``parts`` keep only their inputs, in place; gradients are unchanged.

    Weights and their names, and passes without gradients, are unchanged as well; dropout repeats
    its random numbers. ValueError where a block has statistics that the forward pass changes.
    """
    networks = {
        "backbone": detector.backbone,
        "encoder": detector.encoder.layers,
        "decoder": detector.decoder.layers,
    }
    for part in parts:
        for block in blocks(networks[part]):
            if any(isinstance(module, CHANGING) for module in block.modules()):
                raise ValueError(
                    f"training.recompute has {part}, whose batch statistics would be gathered "
                    f"twice; set model.backbone.norm=frozen, or leave {part} out"
                )
            block.forward = partial(checkpoint, block.forward, use_reentrant=False)


def blocks(whole: nn.Module) -> Iterator[nn.Module]:
    """The repeated blocks of a network: members of a ModuleList that have parts of their own."""
    for child in whole.children():
        compound = next(child.children(), None) is not None and not isinstance(child, LISTS)
        if compound and isinstance(whole, LISTS):
            yield child
        else:
            yield from blocks(child)
