"""Duplicate removal: a query's score falls where a better query has nearly the same box."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from dabdetr.geometry import iou, to_corners

IOU, SHARPNESS, STRENGTH = 0.65, 20.0, 4.0
"""Initial values per layer: IoU at half strength, slope at that IoU, largest decrease of logits."""


class DuplicateRemoval(nn.Module):
    """Lower the class logits of a query by its overlap with a better-scored one.

    In each layer a query loses strength · σ(sharpness · (IoU − iou)), where the IoU is the largest
    with any query of a higher score. The three numbers of a layer are learned with the one-to-one
    losses. Self-attention alone is slow to learn that two queries with the same tokens must give
    different scores (Relation Networks §4.3 learn the removal separately).
    """

    def __init__(self, layers: int) -> None:
        super().__init__()
        start = torch.tensor([IOU, SHARPNESS, STRENGTH])
        start[0] = torch.logit(start[0])
        start[1:] = start[1:].expm1().log()  # inverse of softplus
        self.curve = nn.Parameter(start.repeat(layers, 1))  # [layers, 3]

    def forward(
        self,
        logits: Float[Tensor, "b q classes"],
        boxes: Float[Tensor, "b q 4"],
        of_groups: int,
        layer: int,
    ) -> Float[Tensor, "b q classes"]:
        """Logits after the removal. ``boxes`` (cxcywh) get no gradient.

        The first ``of_groups`` queries belong to query groups: the removal ignores them.
        """
        middle, (sharpness, strength) = (
            self.curve[layer, 0].sigmoid(),
            F.softplus(self.curve[layer, 1:]),
        )
        with torch.no_grad():
            corners = to_corners(boxes[:, of_groups:].float())
            overlap = iou(corners[:, :, None], corners[:, None])  # [b, q, q] of matching queries
            score = logits[:, of_groups:].float().max(-1).values
            better = score[:, None] > score[:, :, None]
            most = (overlap * better).max(-1).values  # [b, q], with better queries; 0 if none
            most = F.pad(most, (of_groups, 0))
        lost = strength * (sharpness * (most - middle)).sigmoid() * (most > 0)
        return logits - lost[..., None].to(logits.dtype)
