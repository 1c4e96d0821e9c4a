"""How the boxes of two queries lie to one another, as a bias of self-attention (Relation-DETR)."""

from __future__ import annotations

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn

from dabdetr.geometry import SMALLEST_SIDE
from dabdetr.model.positions import sine_code

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
    ) -> Float[Tensor, "b heads q q"]:
        """The bias; −∞ where ``attention_mask`` is True.

        Queries of groups stand first in the row, and the last query does not see them: bias 0.
        """
        bias = self.project(sine_code(SCALE * relation(before, now), FEATURES, 10000.0).flatten(-2))
        bias = bias.relu().permute(0, 3, 1, 2)  # [b, q, q, heads] → [b, heads, q, q]
        if attention_mask is None:
            return bias
        of_group = attention_mask[-1]  # a matching query sees no query of a group
        bias = bias.masked_fill(of_group | of_group[:, None], 0.0)
        return bias.masked_fill(attention_mask, float("-inf"))


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
