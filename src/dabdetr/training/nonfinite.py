"""Diagnosis of a loss, gradient or weight that is no longer finite."""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor, nn

from dabdetr.config import Loss
from dabdetr.structures import Predictions, Targets
from dabdetr.text import counted
from dabdetr.training.losses import Table, detection_loss


class NonFiniteLoss(ValueError):
    """A loss or gradient became NaN or infinite; the message names images, layer and term."""


@torch.no_grad()
def diagnose_inputs(model: nn.Module, pixels: Tensor, names: tuple[str, ...], place: str) -> str:
    """A sentence about images or weights that were not finite before the step; "" if all were."""
    begin = f"the loss is not finite in {place}"
    rows = (~pixels.flatten(1).isfinite().all(1)).nonzero().flatten().tolist()
    if rows:
        bad = [names[row] if names else f"number {row} of the batch" for row in rows]
        return f"{begin}: pixels of {some_images(bad)} are NaN or infinite; repair or remove it"
    if weights := nonfinite_weights(model):
        return (
            f"{begin}: {weights} before the step; start from other weights, lower training.lr or "
            "set training.precision=fp32"
        )
    return ""


@torch.no_grad()
def diagnose_nonfinite(predictions: Predictions, targets: Targets, loss: Loss, place: str) -> str:
    """A sentence that names the images, layer and term of a loss that is not finite.

    Images are named for terms of the matching queries only, not for denoising, proposals or heads.
    """
    guilty, found, start = [], [], 0
    for image, count in enumerate(targets.counts):
        name = targets.names[image] if targets.names else f"number {image} of the batch"
        table = _of_one(predictions, targets, loss, image, slice(start, start + count))
        bad = [key for key, value in table.items() if not torch.isfinite(value)]
        start += count
        if bad:
            guilty.append(name)
            found += [(layer, term, float(table[term, layer])) for term, layer in bad]
    if not found:
        guilty = list(targets.names)
        _, table = detection_loss(predictions, targets, loss, objects=_at_least_one(targets.counts))
        found = [(layer, term, float(v)) for (term, layer), v in table.items() if not v.isfinite()]
    if not found:  # only the sum over the batch overflows
        images = some_images(targets.names)
        return f"the loss is not finite in {place}, with {images}; lower training.lr"
    layer, term, value = min(found, key=lambda f: f[0])
    where = f"of decoder layer {layer}" if layer >= 0 else "of the encoder"
    return (
        f"the loss is not finite in {place}: {term} {where} is {value} for "
        f"{some_images(guilty)}; look at those images and boxes, lower training.lr or set "
        "training.precision=fp32"
    )


def nonfinite_weights(model: nn.Module) -> str:
    """The first weight that is NaN or infinite, and how many more are; "" if none is."""
    bad = [
        n for n, v in model.state_dict().items() if v.is_floating_point() and not v.isfinite().all()
    ]
    if not bad:
        return ""
    more = f" and {counted(len(bad) - 1, 'more weight')} are" if len(bad) > 1 else " is"
    return f"{bad[0]}{more} not finite"


def nonfinite_values(tree: Any, place: str) -> str:
    """The path of the first NaN or infinite number in nested values; "" if there is none."""
    if isinstance(tree, Tensor):
        return "" if tree.isfinite().all() else place
    if isinstance(tree, float):
        return "" if math.isfinite(tree) else place
    if isinstance(tree, dict):
        parts = [(f"{place}.{key}", each) for key, each in tree.items()]
    elif isinstance(tree, list | tuple):
        parts = [(f"{place}[{index}]", each) for index, each in enumerate(tree)]
    else:
        return ""
    return next(filter(None, (nonfinite_values(each, name) for name, each in parts)), "")


def _of_one(
    predictions: Predictions, targets: Targets, loss: Loss, image: int, rows: slice
) -> Table:
    alone = Predictions(
        predictions.logits[:, image, None],
        predictions.boxes[:, image, None],
        predictions.anchors,
    )
    own = Targets(
        targets.labels[rows],
        targets.boxes[rows],
        (targets.counts[image],),
        known=None if targets.known is None else targets.known[image, None],
        weights=None if targets.weights is None else targets.weights[rows],
    )
    return detection_loss(alone, own, loss, objects=_at_least_one(own.counts))[1]


def _at_least_one(counts: Iterable[int]) -> Tensor:
    """The number of objects, without asking other ranks, which may not reach this point."""
    return torch.tensor(float(max(1, sum(counts))))


def some_images(names: Iterable[str], most: int = 3) -> str:
    """The first few names, and the number of the others."""
    names = list(names)
    if not names:
        return "unnamed images"
    rest = f" and {len(names) - most} more" if len(names) > most else ""
    return ("image " if len(names) == 1 else "images ") + ", ".join(names[:most]) + rest
