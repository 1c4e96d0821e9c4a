"""Deformable attention: every query reads a few places of every level (Deformable DETR §4.1).

Two forms of reading, equal to float32 rounding: ``sample_by_grid`` and ``sample_by_gather``.
``sample`` chooses between them.
"""

from __future__ import annotations

import math
from itertools import accumulate

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from dabdetr.kernels import sum_rows, zero_rows
from dabdetr.model.positions import QueryPositions, in_level
from dabdetr.structures import Memory

Shapes = tuple[tuple[int, int], ...]
"""(height, width) of each level, in the order of its tokens."""
Values = Float[Tensor, "b s heads d"]
Locations = Float[Tensor, "b q heads levels points 2"]
Weights = Float[Tensor, "b q heads levels points"]
Read = Float[Tensor, "b q c"]


def sample(values: Values, shapes: Shapes, locations: Locations, weights: Weights) -> Read:
    """Weighted sums of bilinear readings, by the faster form: gather on CPUs, else grid.

    values     of every token, levels one after another
    locations  (x, y), 0–1 of the padded map; outside of it there are zeros

    Time of the grid form divided by that of the gather form, on one thread of an AVX-512 CPU, of
    the forward pass / of forward and backward; the queries are those of a decoder or all tokens:

        levels                          heads   queries      float32      bfloat16
        80x60, 40x30, 20x15, 10x8       8 of 32     300   2.6 / 1.8     2.6 / 1.8
        80x60, 40x30, 20x15, 10x8       8 of 32    6380   2.5 / 2.1     3.5 / 2.1
        40x40, 20x20, 10x10             4 of 32     300   1.6 / 1.5     1.5 / 1.5
        40x40, 20x20, 10x10             4 of 32    2100   2.4 / 1.7     2.8 / 1.7
    """
    form = sample_by_gather if values.device.type == "cpu" else sample_by_grid
    return form(values, shapes, locations, weights)


def sample_by_grid(values: Values, shapes: Shapes, locations: Locations, weights: Weights) -> Read:
    """``sample`` with torch's ``grid_sample``, level by level; computes in float32."""
    batch, _, heads, width = values.shape
    # [batch * heads, levels, points, queries]: queries innermost, as the longest dimension
    grid = (2 * locations.float() - 1).permute(0, 2, 3, 4, 1, 5).flatten(0, 1)
    shares = weights.float().permute(0, 2, 3, 4, 1).flatten(0, 1)
    total = values.new_zeros((batch * heads, width, locations.shape[1]), dtype=torch.float32)
    levels = values.float().permute(0, 2, 3, 1).flatten(0, 1).split([h * w for h, w in shapes], -1)
    for index, (level, shape) in enumerate(zip(levels, shapes, strict=True)):
        read = F.grid_sample(level.unflatten(-1, shape), grid[:, index], align_corners=False)
        total = total + (read * shares[:, index].unsqueeze(1)).sum(2)
    return total.view(batch, heads * width, -1).transpose(1, 2).to(values.dtype)


def sample_by_gather(
    values: Values, shapes: Shapes, locations: Locations, weights: Weights
) -> Read:
    """``sample`` as weighted sums of rows, all levels at once; computes in float32.

    While a graph is traced or exported it consists of elementary operations only.
    """
    batch, tokens, heads, width = values.shape
    index, shares = _corners(tokens, shapes, locations.float(), weights.float())
    out = sum_rows(values.float().flatten(0, 2), index, shares)
    return out.view(batch, -1, heads * width).to(values.dtype)


def _corners(
    tokens: int, shapes: Shapes, locations: Locations, weights: Weights
) -> tuple[Int[Tensor, "n k"], Float[Tensor, "n k"]]:
    """The four cells around every location, and the weight of each.

    Cells are rows of the table [batch · tokens · heads]; n = batch · queries · heads, k = 4 ·
    levels · points.
    """
    batch, _, heads, _, points, _ = locations.shape
    device = locations.device
    starts = [0, *accumulate(h * w for h, w in shapes)][:-1]
    table = torch.tensor([*zip(*shapes, strict=True), starts], dtype=torch.int32, device=device)
    # Levels and points share one dimension: short inner loops are slow on CPUs.
    table = table.repeat_interleave(points, dim=1)
    height, width, _ = table
    x, y = locations.flatten(3, 4).unbind(-1)
    column, share_x = _neighbours(x * width - 0.5, width)
    row, share_y = _neighbours(y * height - 0.5, height)
    head = torch.arange(heads, dtype=torch.int32, device=device)
    image = torch.arange(batch, dtype=torch.int32, device=device) * (tokens * heads)
    first = (image[:, None] + head)[:, None, :, None, None] + table[2] * heads
    index = (row * (table[1] * heads) + first).unsqueeze(4) + (column * heads).unsqueeze(3)
    shares = (share_y * weights.flatten(3).unsqueeze(3)).unsqueeze(4) * share_x.unsqueeze(3)
    return index.flatten(3).flatten(0, 2), shares.flatten(3).flatten(0, 2)


def _neighbours(
    place: Float[Tensor, "b q heads places"], size: Int[Tensor, " places"]
) -> tuple[Int[Tensor, "b q heads 2 places"], Float[Tensor, "b q heads 2 places"]]:
    """The two cells around a location along one axis, and their weights; 0 outside the map."""
    low = place.detach().floor()
    beyond = place - low
    cells = low.int()
    cells = torch.stack((cells, cells + 1), dim=3)
    inside = cells.clamp(min=0).minimum(size - 1)  # of any integer that NaN becomes as well
    shares = torch.stack((1 - beyond, beyond), dim=3)
    return inside, shares * (inside == cells)


class DeformableAttention(nn.Module):
    """Each head of a query samples ``points`` locations per level around the query's reference."""

    def __init__(self, width: int, heads: int, levels: int, points: int) -> None:
        super().__init__()
        self.heads, self.levels, self.points = heads, levels, points
        self.offsets = nn.Linear(width, heads * levels * points * 2)
        self.weights = nn.Linear(width, heads * levels * points)
        self.value = nn.Linear(width, width)
        self.output = nn.Linear(width, width)
        self.reset()

    @torch.no_grad()
    def reset(self) -> None:
        """Each head starts in its own direction, with point k at distance k + 1, weights equal."""
        angles = torch.arange(self.heads) * (2 * math.pi / self.heads)
        directions = torch.stack((angles.cos(), angles.sin()), dim=-1)
        directions = directions / directions.abs().amax(-1, keepdim=True)
        steps = directions[:, None, None] * torch.arange(1, self.points + 1)[:, None]
        nn.init.zeros_(self.offsets.weight)
        self.offsets.bias.copy_(steps.expand(-1, self.levels, -1, -1).flatten())
        for parameter in self.weights.parameters():
            nn.init.zeros_(parameter)
        for layer in (self.value, self.output):
            nn.init.xavier_uniform_(layer.weight)
            nn.init.zeros_(layer.bias)

    def forward(
        self,
        query: Float[Tensor, "b q c"],
        references: Float[Tensor, "b q levels frame"],
        tokens: Float[Tensor, "b s c"],
        shapes: Shapes,
        padding: Bool[Tensor, "b s"] | None,
    ) -> Float[Tensor, "b q c"]:
        """``references`` are points or boxes (2 or 4 numbers), 0–1 of each level's padded map."""
        values = self.value(tokens)
        if padding is not None:
            values = zero_rows(values, padding)
        values = values.unflatten(-1, (self.heads, -1))
        locations, weights = self.locations_and_weights(query, references, shapes)
        return self.output(sample(values, shapes, locations, weights))

    def locations_and_weights(
        self,
        query: Float[Tensor, "b q c"],
        references: Float[Tensor, "b q levels frame"],
        shapes: Shapes,
    ) -> tuple[Locations, Weights]:
        """Sampling locations and weights of each head of a query; float32 under any autocast."""
        offsets = self.offsets(query).float().unflatten(-1, (self.heads, -1))
        weights = self.weights(query).float().unflatten(-1, (self.heads, -1)).softmax(-1)
        places = (self.levels, self.points)
        locations = self._locations(references.float(), offsets, shapes)
        return locations.unflatten(-1, (*places, 2)), weights.unflatten(-1, places)

    def _locations(
        self,
        references: Float[Tensor, "b q levels frame"],
        offsets: Float[Tensor, "b q heads k"],
        shapes: Shapes,
    ) -> Float[Tensor, "b q heads k"]:
        """Levels, points and axes share one dimension k: short inner loops are slow on CPUs."""

        def for_all(x: Float[Tensor, "*batch levels 2"]) -> Float[Tensor, "*batch 1 k"]:
            repeated = x.unsqueeze(-2).expand(*x.shape[:-1], self.points, 2)
            return repeated.flatten(-3).unsqueeze(-2)

        centre, side = references.tensor_split([2], dim=-1)
        if side.shape[-1]:  # in half sides; the offset of the last point ends at the border
            return for_all(centre) + offsets / self.points * for_all(side) * 0.5
        sizes = torch.tensor(shapes, dtype=torch.float32, device=offsets.device).flip(-1)
        return for_all(centre) + offsets / for_all(sizes)


class TokenSampling(DeformableAttention):
    """Every token samples around its own cell, on all levels (deformable encoders)."""

    def forward(  # pyright: ignore[reportIncompatibleMethodOverride]
        self, x: Float[Tensor, "b m c"], positions: Float[Tensor, "#b m c"], memory: Memory
    ) -> Float[Tensor, "b m c"]:
        """``x`` are the current values of the last m tokens; ``memory`` has the levels, the padding
        and the first tokens, which do not change."""
        assert memory.ratios is not None
        fixed = memory.tokens.shape[1] - x.shape[1]
        references = encoder_references(memory.shapes, memory.ratios)[:, fixed:]
        tokens = torch.cat((memory.tokens[:, :fixed], x), dim=1) if fixed else x
        return super().forward(x + positions, references, tokens, memory.shapes, memory.padding)


class QuerySampling(DeformableAttention):
    """Every query samples around its anchor, on all levels (deformable decoders)."""

    def forward(  # pyright: ignore[reportIncompatibleMethodOverride]
        self, content: Float[Tensor, "b q c"], positions: QueryPositions, memory: Memory
    ) -> Float[Tensor, "b q c"]:
        assert memory.ratios is not None
        assert positions.anchors is not None
        levels = [in_level(positions.anchors, ratio) for ratio in memory.ratios.unbind(1)]
        references = torch.stack(levels, dim=2)
        placed = content + positions.query
        return super().forward(placed, references, memory.tokens, memory.shapes, memory.padding)


def valid_ratios(
    paddings: list[Tensor | None], batch: int, device: torch.device | str
) -> Float[Tensor, "b levels 2"]:
    """The unpadded share (of width, of height) of each level's map, float32.

    At least one cell counts as unpadded, which avoids division by zero.
    """
    ratios = []
    for padding in paddings:
        if padding is None:
            ratios.append(torch.ones((batch, 2), device=device))
            continue
        lines = (padding[:, 0, :], padding[:, :, 0])
        ratios.append(torch.stack([(~x).sum(1).clamp(min=1) / x.shape[1] for x in lines], dim=-1))
    return torch.stack(ratios, dim=1)


def encoder_references(
    shapes: Shapes, valid_ratios: Float[Tensor, "b levels 2"]
) -> Float[Tensor, "b s levels 2"]:
    """Each token's centre (x, y) in the unpadded image, relative to every level's padded map."""
    centres = []
    for (h, w), ratio in zip(shapes, valid_ratios.unbind(1), strict=True):
        y, x = (torch.arange(n, device=ratio.device) + 0.5 for n in (h, w))
        grid = torch.stack(torch.meshgrid(x / w, y / h, indexing="xy"), dim=-1)
        centres.append(grid.flatten(0, 1) / ratio.unsqueeze(1))
    return torch.cat(centres, dim=1).unsqueeze(2) * valid_ratios.unsqueeze(1)
