"""How the boxes of two queries lie to one another, as a bias of self-attention (Relation-DETR)."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float
from torch import Tensor, nn

from dabdetr.geometry import SMALLEST_SIDE
from dabdetr.model.positions import sine_angles

FEATURES = 16
"""Sine features of each of the four numbers."""

SCALE = 100.0
"""Of the numbers before their sine code."""


class BoxRelation(nn.Module):
    """A number for each pair of queries and head, added to self-attention's logits.

    One module serves all layers. It is made of the boxes of the layer before (rows) and of this
    layer (columns), so that a query can tell whether another one has its object already.
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

        The first ``of_groups`` queries belong to groups: no bias for pairs with one of them.
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
        # In a code sines and cosines alternate; taken apart, it need not be put together. Weights
        # stand on the left: on CPUs their gradient is then made in a tenth of the time.
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
