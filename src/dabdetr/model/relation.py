"""The relative position of two queries' boxes as a bias of self-attention (Relation-DETR)."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float
from torch import Tensor, nn

from dabdetr.geometry import SMALLEST_SIDE
from dabdetr.model.positions import sine_angles

FEATURES = 16
"""Sine features per number of the relation."""

SCALE = 100.0
"""Factor on the numbers before their sine code."""


class BoxRelation(nn.Module):
    """A bias for each pair of queries and head, added to the logits of self-attention.

    One module serves all layers. Rows are boxes of the layer before, columns boxes of this layer,
    so that a query can recognise that another one already has its object.
    """

    def __init__(self, heads: int) -> None:
        super().__init__()
        self.project = nn.Linear(4 * FEATURES, heads)

    def forward(
        self,
        before: Float[Tensor, "b q 4"],
        now: Float[Tensor, "b q 4"],
        attention_mask: Bool[Tensor, "q q"] | None,
        of_groups: int,
    ) -> Float[Tensor, "b heads q q"]:
        """The bias; −∞ where ``attention_mask`` is True.

        The first ``of_groups`` queries belong to query groups: pairs with one of them get no bias.
        """
        bias = self._of_pairs(before[:, of_groups:], now[:, of_groups:])
        if attention_mask is None:
            return bias
        bias = F.pad(bias, (of_groups, 0, of_groups, 0))
        return bias.masked_fill(attention_mask, float("-inf"))

    def _of_pairs(
        self, rows: Float[Tensor, "b q 4"], columns: Float[Tensor, "b k 4"]
    ) -> Float[Tensor, "b heads q k"]:
        angles = sine_angles(SCALE * relation(rows, columns), FEATURES, 10000.0).flatten(-2)
        pairs = angles.shape[:-1]
        angles = angles.flatten(0, -2).t()  # [b, q, k, f] → [f, b·q·k]
        weight, bias = self.project.weight, self.project.bias
        # Sines and cosines alternate in a code; here they stay apart, and weights follow. Weights
        # are the left operand: on CPUs their gradient then takes a tenth of the time.
        logits = weight[:, ::2] @ angles.sin() + weight[:, 1::2] @ angles.cos()
        logits = (logits + bias[:, None]).relu()
        return logits.unflatten(1, pairs).transpose(0, 1)  # [heads, b, q, k] → [b, heads, q, k]


@torch.no_grad()
def relation(
    rows: Float[Tensor, "b q 4"], columns: Float[Tensor, "b k 4"]
) -> Float[Tensor, "b q k 4"]:
    """log(|x_i − x_j| / w_i + 1), log(|y_i − y_j| / h_i + 1), log(w_i / w_j), log(h_i / h_j)."""
    (centre, size), (other, other_size) = (
        (boxes.float()[..., :2], boxes.float()[..., 2:].clamp(min=SMALLEST_SIDE))
        for boxes in (rows, columns)
    )
    apart = (centre[:, :, None] - other[:, None]).abs() / size[:, :, None]  # [b, q, k, 2]
    ratio = size[:, :, None] / other_size[:, None]
    return torch.cat(((apart + 1).log(), ratio.log()), dim=-1)
