"""Matching of queries and objects: cost matrix and Hungarian assignment (DETR §3.1).

All layers and images share one batched cost computation. Costs exist only between an image's
queries and its own objects, and leave the device in a single transfer.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float
from scipy.optimize import linear_sum_assignment
from torch import Tensor

from dabdetr.config import Loss
from dabdetr.geometry import generalized_iou, to_corners
from dabdetr.structures import Predictions, Targets

LOG_EPS = 1e-8
"""Added inside the logarithms of the class cost, as in the released matchers."""


@dataclass(frozen=True)
class Assignment:
    """Pairs of a query and an object, as index columns; each int64 [pairs].

    ``boxes[layer, image, query]`` of the predictions is paired with row ``target`` of the targets.
    """

    layer: Tensor
    image: Tensor
    query: Tensor
    target: Tensor

    def __len__(self) -> int:
        return len(self.layer)


@torch.no_grad()
def assign(predictions: Predictions, targets: Targets, loss: Loss) -> Assignment:
    """The cheapest one-to-one pairs for every decoder layer and image; never raises.

    With more objects than queries, every query gets an object and some objects get none. NaN and
    infinite predictions cost more than any finite ones.
    """
    device = predictions.boxes.device
    costs = pair_costs(predictions, targets, loss).cpu().numpy()
    finite = np.isfinite(costs)
    if not finite.all():
        largest = np.abs(costs, where=finite, out=np.zeros(costs.shape)).max(initial=0.0)
        costs = np.where(finite, costs, 1.0 + 2.0 * largest)
    ends = np.cumsum(targets.counts, dtype=np.int64)
    columns: list[np.ndarray] = [np.empty((4, 0), np.int64)]
    for layer, of_layer in enumerate(costs):
        for image, (end, count) in enumerate(zip(ends, targets.counts, strict=True)):
            start = end - count
            rows, queries = linear_sum_assignment(of_layer[start:end])
            where = np.full_like(rows, layer), np.full_like(rows, image)
            columns.append(np.stack((*where, queries, rows + start)))
    table = torch.from_numpy(np.concatenate(columns, axis=1)).to(device)
    return Assignment(*table)


def pair_costs(
    predictions: Predictions, targets: Targets, loss: Loss
) -> Float[Tensor, "layers objects queries"]:
    """Cost of each object with each query of its own image, float32 (DAB-DETR's three terms)."""
    counts = torch.tensor(targets.counts, device=predictions.boxes.device, dtype=torch.long)
    image = torch.arange(len(counts), device=counts.device).repeat_interleave(counts)
    # Index arrays on both sides of a slice put the pairs first: [objects, layers, queries].
    logits = predictions.logits.float()
    if loss.classification == "softmax":
        logits = logits.log_softmax(-1)
    naming = _class_cost(logits[:, image, :, targets.labels].transpose(0, 1), loss)
    boxes = predictions.boxes[:, image].float()  # [layers, objects, queries, 4]
    wanted = targets.boxes.float()[None, :, None]

    distance = (boxes - wanted).abs().sum(-1)
    giou = generalized_iou(to_corners(boxes), to_corners(wanted), loss.iou_eps)
    return loss.class_cost * naming + loss.box_cost * distance - loss.giou_cost * giou


def _class_cost(logits: Float[Tensor, "*pairs"], loss: Loss) -> Float[Tensor, "*pairs"]:
    """Cost of pairing a query with an object of the class whose (log-softmax) logit is given.

    Focal: the change of the loss (DAB-DETR); softmax: minus the probability (DETR).
    """
    if loss.classification == "softmax":
        return -logits.exp()
    p = logits.sigmoid()
    found = loss.alpha * (1 - p) ** loss.gamma * -(p + LOG_EPS).log()
    silent = (1 - loss.alpha) * p**loss.gamma * -(1 - p + LOG_EPS).log()
    return found - silent
