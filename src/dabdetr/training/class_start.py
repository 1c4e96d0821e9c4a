"""Class heads for classes that the weights do not have: solved from the data before training.

The decoder of the weights already finds objects of any class. One pass over some training images
collects the inputs of the class heads at objects and on background, and ridge regression returns
rows that separate the classes. Random rows would need the first epochs for that, equal rows even
more.
"""

from __future__ import annotations

from collections.abc import Collection

import numpy as np
import torch
from jaxtyping import Float, Int64
from torch import Tensor

from dabdetr.data.dataset import DetectionDataset
from dabdetr.data.loader import training_loader
from dabdetr.geometry import iou, to_corners
from dabdetr.model.detector import Detector
from dabdetr.structures import Predictions, Targets
from dabdetr.text import counted
from dabdetr.training.matching import assign

IMAGES, ENOUGH = 200, 30
"""Limits of the pass: it ends when each new class has ``ENOUGH`` objects, or after ``IMAGES``."""

NEAR = 0.4
"""IoU from which a query belongs to an object; below it with all objects it is background."""

BACKGROUND = 50
"""Background queries taken from an image, over all layers."""

RIDGE = 0.01
"""Ridge penalty relative to the variance of the content, which layer norm keeps near 1."""

FOUND, ABSENT = 2.0, -4.0
"""Target logits of the regression."""


@torch.no_grad()
def start_classes(
    detector: Detector, data: DetectionDataset, new: Collection[str], device: torch.device
) -> str:
    """Solve the class heads' rows of the classes ``new``; return a sentence about the result.

    Rows of classes without an object in these images stay unchanged. Afterwards the detector is in
    training mode; random states are unchanged.
    """
    detector.to(device).eval()
    wanted = {detector.names.index(name) for name in new}
    contents, labels, seen = _contents(detector, data, wanted)
    detector.train()
    rows = [i for i, n in enumerate(detector.names) if n in new and bool((labels[0] == i).any())]
    if not rows:
        return (
            f"class heads of {counted(len(new), 'new class', 'new classes')} start at random: in "
            f"{counted(int(seen), 'image')} no query was near an object of them"
        )
    right = 0.0
    for head, x, y in zip(detector.decoder.heads.classes, contents, labels, strict=True):
        weight, bias = ridge(x, y, len(detector.names))
        head.weight[rows] = weight[rows].to(head.weight)  # pyright: ignore
        head.bias[rows] = bias[rows].to(head.bias)  # pyright: ignore
        guesses = (x @ weight[rows].T + bias[rows]).argmax(-1)
        known = torch.isin(y, torch.tensor(rows))
        right += float((torch.tensor(rows)[guesses] == y)[known].double().mean())
    share = right / len(contents)
    random = f", {len(new) - len(rows)} start at random" if len(rows) < len(new) else ""
    return (
        f"class heads of {counted(len(rows), 'new class', 'new classes')} solved from the data"
        f"{random}: the right class for {share:.0%} of the objects found"
    )


def ridge(
    contents: Float[Tensor, "n c"], labels: Int64[Tensor, " n"], classes: int
) -> tuple[Float[Tensor, "classes c"], Float[Tensor, " classes"]]:
    """Weights and biases mapping a row to ``FOUND`` at its label, ``ABSENT`` elsewhere (−1: none).

    Minimises the squared error with a penalty of ``RIDGE`` · n on the weights (Hoerl & Kennard).
    """
    x = contents.double()
    wanted = torch.full((len(x), classes), ABSENT, dtype=torch.double)
    objects = labels >= 0
    wanted[objects.nonzero()[:, 0], labels[objects]] = FOUND
    middle, level = x.mean(0), wanted.mean(0)
    x = x - middle
    penalty = RIDGE * len(x) * torch.eye(x.shape[1], dtype=torch.double)
    weight = torch.linalg.solve(x.T @ x + penalty, x.T @ (wanted - level)).T
    return weight.float(), (level - weight @ middle).float()


def _contents(
    detector: Detector, data: DetectionDataset, new: Collection[int]
) -> tuple[list[Tensor], list[Tensor], int]:
    """Inputs of each class head at objects and on background, and their labels (background: −1).

    Also the number of images.
    """
    config = detector.config.model_copy(update={"augment": None})
    heads, given = list(detector.decoder.heads.classes), []
    hooks = [h.register_forward_pre_hook(lambda _, x: given.append(x[0])) for h in heads]
    contents: list[list[Tensor]] = [[] for _ in heads]
    labels: list[list[Tensor]] = [[] for _ in heads]
    seen = np.zeros(len(detector.names), dtype=int)
    left, device = IMAGES, next(detector.parameters()).device
    rng = torch.Generator().manual_seed(config.training.seed)
    try:
        for images, targets in training_loader(data, config, config.training.seed, 0):
            given.clear()
            predictions = detector(images.to(device))
            for layer, x in enumerate(given):
                image, query, label = _answers(
                    detector, predictions, targets.to(device), layer, rng
                )
                contents[layer % len(heads)].append(x[image, query].cpu())
                labels[layer % len(heads)].append(label.cpu())
            seen += np.bincount(targets.labels.cpu().numpy(), minlength=len(seen))
            left -= len(targets.counts)
            if left <= 0 or all(seen[label] >= ENOUGH for label in new):
                break
    finally:
        for hook in hooks:
            hook.remove()
    inputs, answers = ([torch.cat(rows) for rows in each] for each in (contents, labels))
    return inputs, answers, IMAGES - left


def _answers(
    detector: Detector, predictions: Predictions, targets: Targets, layer: int, rng: torch.Generator
) -> tuple[Tensor, Tensor, Tensor]:
    """Image, query and label (background: −1) of the rows for the regression of one layer."""
    boxes = predictions.boxes[layer]
    of_layer = Predictions(predictions.logits[layer : layer + 1], boxes[None], (None,))
    # The class costs nothing: the heads do not know these classes yet.
    by_place = detector.config.loss.model_copy(update={"class_cost": 0.0})
    pairs = assign(of_layer, targets, by_place)
    found, wanted = to_corners(boxes.float()), to_corners(targets.boxes.float())
    near = iou(found[pairs.image, pairs.query], wanted[pairs.target]) >= NEAR
    empty, start = [], 0
    for row, count in enumerate(targets.counts):
        of_image = wanted[start : start + count]
        start += count
        if count:
            overlap = iou(found[row][:, None], of_image[None]).amax(1)
            free = (overlap < NEAR).nonzero()[:, 0].cpu()
        else:
            free = torch.arange(boxes.shape[1])
        most = BACKGROUND // len(predictions.boxes)
        chosen = free[torch.randperm(len(free), generator=rng)[:most]]
        empty.append(torch.stack((torch.full_like(chosen, row), chosen)))
    image, query = torch.cat(empty, dim=1).to(boxes.device)
    return (
        torch.cat((pairs.image[near], image)),
        torch.cat((pairs.query[near], query)),
        torch.cat((targets.labels[pairs.target[near]], torch.full_like(image, -1))),
    )
