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
        weight = self.project.weight.unflatten(1, (2, -1))  # [heads, offsets and sizes, 2 FEATURES]
        logits = _of_offsets(weight[:, 0], rows, columns) + _of_sizes(weight[:, 1], rows, columns)
        return (logits + self.project.bias[:, None, None, None]).relu().transpose(0, 1)


def _of_offsets(
    weight: Float[Tensor, "heads f"], rows: Float[Tensor, "b q 4"], columns: Float[Tensor, "b k 4"]
) -> Float[Tensor, "heads b q k"]:
    """Weighted sums of the sine codes of |x_i − x_j| / w_i and |y_i − y_j| / h_i, as logarithms."""
    angles = _angles(log_offsets(rows, columns))
    pairs = angles.shape[:-1]
    angles = angles.flatten(0, -2).t()  # [b, q, k, f] → [f, b·q·k]
    # Sines and cosines alternate in a code; here they stay apart, and weights follow. Weights are
    # the left operand: on CPUs their gradient then takes a tenth of the time.
    return (weight[:, ::2] @ angles.sin() + weight[:, 1::2] @ angles.cos()).unflatten(1, pairs)


def _of_sizes(
    weight: Float[Tensor, "heads f"], rows: Float[Tensor, "b q 4"], columns: Float[Tensor, "b k 4"]
) -> Float[Tensor, "heads b q k"]:
    """Weighted sums of the sine codes of log(w_i / w_j) and log(h_i / h_j).

    These logarithms are differences. The sine and cosine of a difference are products of those of
    its terms, so only codes of boxes are computed, not of pairs.
    """
    row, column = _angles(log_sides(rows)), _angles(log_sides(columns))
    sine, cosine = column.sin(), column.cos()
    of_sine, of_cosine = weight[:, None, None, ::2], weight[:, None, None, 1::2]  # [heads, 1, 1, f]
    parts = of_sine * cosine + of_cosine * sine, of_cosine * cosine - of_sine * sine
    left, right = torch.cat((row.sin(), row.cos()), dim=-1), torch.cat(parts, dim=-1)
    return left @ right.transpose(-1, -2)


def _angles(numbers: Float[Tensor, "*shape 2"]) -> Float[Tensor, "*shape f"]:
    """The angles of the sine codes of two numbers, side by side."""
    return sine_angles(SCALE * numbers, FEATURES, 10000.0).flatten(-2)


@torch.no_grad()
def log_offsets(
    rows: Float[Tensor, "b q 4"], columns: Float[Tensor, "b k 4"]
) -> Float[Tensor, "b q k 2"]:
    """log(|x_i − x_j| / w_i + 1) and log(|y_i − y_j| / h_i + 1)."""
    centres, sides = rows.float()[..., :2], rows.float()[..., 2:].clamp(min=SMALLEST_SIDE)
    apart = (centres[:, :, None] - columns.float()[:, None, :, :2]).abs()  # [b, q, k, 2]
    return (apart / sides[:, :, None] + 1).log()


@torch.no_grad()
def log_sides(boxes: Float[Tensor, "b q 4"]) -> Float[Tensor, "b q 2"]:
    """log w and log h."""
    return boxes.float()[..., 2:].clamp(min=SMALLEST_SIDE).log()
