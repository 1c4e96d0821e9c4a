"""Sine codes of positions, and the positional query of an anchor.

Codes are computed in float32 under any autocast: at lower precision neighbouring positions would
share a code.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from itertools import pairwise

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn

from dabdetr.geometry import SMALLEST_SIDE
from dabdetr.structures import Queries

ANCHOR_TEMPERATURE = 10000.0
"""Of anchors' codes; the released weights combine it with a map temperature of 20 (or 10)."""


def sine_code(
    values: Float[Tensor, "*shape"], features: int, temperature: float
) -> Float[Tensor, "*shape features"]:
    """sin, cos, sin, cos … of each value at ``features / 2`` falling frequencies.

    ``values`` are angles (2π = the whole image). DAB-DETR §3.3, Vaswani et al. §3.5.
    """
    angles = sine_angles(values, features, temperature)
    return torch.stack((angles.sin(), angles.cos()), dim=-1).flatten(-2)


def sine_angles(
    values: Float[Tensor, "*shape"], features: int, temperature: float
) -> Float[Tensor, "*shape frequencies"]:
    """Each value times the ``features / 2`` falling frequencies of its sine code, float32."""
    step = torch.arange(features // 2, device=values.device, dtype=torch.float32)
    return values.float()[..., None] / temperature ** (2 * step / features)


def map_code(
    padding: Bool[Tensor, "batch h w"],
    width: int,
    temperature: float,
    offset: float = 0.0,
    temperature_width: float | None = None,
) -> Float[Tensor, "batch h w width"]:
    """The code of every cell of a map: y features, then x features, of the unpadded image.

    Cells are counted from 1; deformable members add an ``offset`` of −0.5, the centre of the cell.
    ``temperature_width`` is the temperature of the x features if it differs.
    """
    temperatures = (temperature, temperature if temperature_width is None else temperature_width)
    valid = (~padding).float()
    y, x = valid.cumsum(1), valid.cumsum(2)
    y = 2 * math.pi * (y + offset) / (y[:, -1:, :] + 1e-6)
    x = 2 * math.pi * (x + offset) / (x[:, :, -1:] + 1e-6)
    codes = [sine_code(v, width // 2, t) for v, t in zip((y, x), temperatures, strict=True)]
    return torch.cat(codes, dim=-1)


def anchor_code(
    anchors: Float[Tensor, "*batch frame"], width: int
) -> Float[Tensor, "*batch codes"]:
    """The code of every anchor: ``width / 2`` features for each of y, x and, for boxes, w, h.

    The order is that of the released weights: y before x, w before h.
    """
    x, y, *sides = (2 * math.pi * anchors.float()).unbind(-1)
    return torch.cat([sine_code(v, width // 2, ANCHOR_TEMPERATURE) for v in (y, x, *sides)], dim=-1)


def mlp(*widths: int) -> nn.Sequential:
    """Linear layers of the given widths with ReLU between them, none after the last."""
    layers: list[nn.Module] = []
    for n_in, n_out in pairwise(widths):
        layers += [nn.Linear(n_in, n_out), nn.ReLU()]
    return nn.Sequential(*layers[:-1])


@dataclass(frozen=True)
class QueryPositions:
    """Positions of the queries of one decoder layer.

    query    [batch, queries, width], the positional query: what queries tell one another
    code     [batch, queries, width] float32, y and x features, modulated: where dense attention
             looks; None where it is not used
    anchors  [batch, queries, 4 or 2] float32, where deformable attention looks; None without
    """

    query: Tensor
    code: Tensor | None = None
    anchors: Tensor | None = None


class Positions(nn.Module):
    """Anchors (or learned positional queries) → positions of the queries of a layer.

    The positional query of a box anchor is computed from its code (DAB-DETR §3.2).
    ``modulate_position`` lets content scale the code that steers dense attention (Conditional DETR
    §3.3), or, with ``deformable`` attention, the positional query (DAB-Deformable).
    ``modulate_size`` widens attention along x for wide anchors and along y for tall ones (DAB-DETR
    §3.4, eq. 6).
    """

    def __init__(
        self,
        width: int,
        layers: int,
        boxes: bool,
        deformable: bool,
        modulate_position: str | None,
        modulate_size: bool,
    ) -> None:
        super().__init__()
        self.width, self.deformable = width, deformable
        self.to_query = mlp(2 * width, width, width) if boxes else None
        self.scale: nn.Module | None = None
        if modulate_position == "layer":
            self.scale = nn.Embedding(layers, width)
        elif modulate_position is not None:
            self.scale = mlp(width, width, width if modulate_position == "content" else 1)
        self.size = mlp(width, width, 2) if modulate_size else None

    def forward(
        self, queries: Queries, ratios: Float[Tensor, "batch levels 2"] | None, layer: int
    ) -> QueryPositions:
        """Positions of ``queries`` at the input of layer ``layer``."""
        anchors, content = queries.anchors, queries.content
        if anchors is None:
            assert queries.positions is not None
            return QueryPositions(queries.positions)
        # Deformable members code anchors relative to the padded batch.
        framed = anchors if ratios is None else in_level(anchors, ratios[:, 0])
        code = (
            None if self.deformable and self.to_query is None else anchor_code(framed, self.width)
        )
        query = queries.positions if self.to_query is None else self.to_query(code)
        assert query is not None
        scale = self._scale(content, layer)
        if self.deformable:
            return QueryPositions(query if scale is None else query * scale, None, anchors)
        assert code is not None
        code = code[..., : self.width]  # y and x
        if scale is not None:
            code = code * scale
        if self.size is not None:
            code = code * self._size_ratio(anchors, content)
        return QueryPositions(query, code, anchors)

    def _scale(self, content: Tensor, layer: int) -> Tensor | None:
        if isinstance(self.scale, nn.Embedding):
            return self.scale.weight[layer]
        if self.scale is None or layer == 0:  # the first layer's content holds no information yet
            return None
        return self.scale(content)

    def _size_ratio(self, anchors: Tensor, content: Tensor) -> Float[Tensor, "batch queries width"]:
        """h_ref / h for the y features, w_ref / w for the x features; in float32."""
        assert self.size is not None
        reference = self.size(content).float().sigmoid()  # (w_ref, h_ref)
        ratio = reference / anchors[..., 2:].float().clamp(min=SMALLEST_SIDE)
        return ratio.flip(-1).repeat_interleave(self.width // 2, dim=-1)


def in_level(
    anchors: Float[Tensor, "batch queries frame"], ratio: Float[Tensor, "batch 2"]
) -> Float[Tensor, "batch queries frame"]:
    """Anchors of the unpadded image, relative to a padded map; ``ratio`` is its unpadded share."""
    return anchors * ratio.repeat(1, anchors.shape[-1] // 2)[:, None]
