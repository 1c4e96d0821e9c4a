"""One object, one answer: a query's score falls where a better query has nearly the same box."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from dabdetr.geometry import iou, to_corners

IOU, SHARPNESS, STRENGTH = 0.65, 20.0, 4.0
"""Where each layer starts: the IoU at half strength, how steep it is there, and logits at most."""


class DuplicateRemoval(nn.Module):
    """Lowers the class logits of a query by what a better one that overlaps it takes away.

    In each layer query i loses strength · σ(sharpness · (IoU − iou)) to the better-scored query
    that overlaps it most. The three numbers of a layer are learned with the one-to-one losses:
    queries that see the same object need not say different things of the same tokens, which is
    what self-attention is slow to learn (Relation Networks §4.3 learn the removal apart).
    """

    def __init__(self, layers: int) -> None:
        super().__init__()
        start = torch.tensor([IOU, SHARPNESS, STRENGTH])
        start[0] = torch.logit(start[0])
        start[1:] = start[1:].expm1().log()  # the inverse of softplus
        self.curve = nn.Parameter(start.repeat(layers, 1))  # [layers, 3]

    def forward(
        self,
        logits: Float[Tensor, "b q classes"],
        boxes: Float[Tensor, "b q 4"],
        of_groups: int,
        layer: int,
    ) -> Float[Tensor, "b q classes"]:
        """Logits after the removal. ``boxes`` (cxcywh) get no gradient. The first ``of_groups``
        queries belong to groups: they take nothing away and lose nothing."""
        middle, (sharpness, strength) = (
            self.curve[layer, 0].sigmoid(),
            F.softplus(self.curve[layer, 1:]),
        )
        with torch.no_grad():
            corners = to_corners(boxes[:, of_groups:].float())
            overlap = iou(corners[:, :, None], corners[:, None])  # [b, q, q] of matching queries
            score = logits[:, of_groups:].float().max(-1).values
            better = score[:, None] > score[:, :, None]
            most = (overlap * better).max(-1).values  # [b, q], with a better query; 0 without
            most = F.pad(most, (of_groups, 0))
        lost = strength * (sharpness * (most - middle)).sigmoid() * (most > 0)
        return logits - lost[..., None].to(logits.dtype)
