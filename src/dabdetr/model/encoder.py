"""From tokens to memory: self-attention among all tokens, or deformable attention."""

from __future__ import annotations

from dataclasses import replace
from functools import partial

import torch
from jaxtyping import Float
from torch import Tensor, nn

from dabdetr import config
from dabdetr.model.attention import FeedForward, TokenAttention, residual
from dabdetr.model.deformable import TokenSampling
from dabdetr.model.positions import mlp
from dabdetr.structures import Memory


class EncoderLayer(nn.Module):
    """Attention among tokens and feed-forward, each added and normalised."""

    def __init__(self, model: config.Model, attention: TokenAttention | TokenSampling) -> None:
        super().__init__()
        width, dropout = model.width, model.dropout
        self.attention = attention
        self.attention_norm = nn.LayerNorm(width)
        self.feedforward = FeedForward(width, model.feedforward, model.activation, dropout)
        self.feedforward_norm = nn.LayerNorm(width)
        self.dropout, self.norm_first = nn.Dropout(dropout), model.norm_first

    def forward(
        self, x: Float[Tensor, "b m c"], positions: Float[Tensor, "#b m c"], memory: Memory
    ) -> Float[Tensor, "b m c"]:
        """``x`` are the last m of the n tokens in ``memory``; the others do not change."""
        step = partial(residual, dropout=self.dropout, norm_first=self.norm_first)
        x = step(x, lambda y: self.attention(y, positions, memory), self.attention_norm)
        return step(x, self.feedforward, self.feedforward_norm)


class Encoder(nn.Module):
    """A stack of equal layers; content may scale the position codes (DAB-DETR).

    The tokens of the first ``skip_levels`` levels are read but not changed (Lite DETR, Li et al.
    2023, changes them in every fourth layer).
    """

    def __init__(self, model: config.Model) -> None:
        super().__init__()
        part, width = model.encoder, model.width
        self.layers = nn.ModuleList(
            EncoderLayer(model, _attention(model)) for _ in range(part.layers)
        )
        self.skip_levels = part.skip_levels if part.kind == "deformable" else 0
        scaled = part.scale_positions and part.layers > 0
        self.position_scale = mlp(width, width, width) if scaled else None
        self.norm = nn.LayerNorm(width) if part.norm else nn.Identity()

    def forward(self, memory: Memory) -> Memory:
        fixed = sum(height * width for height, width in memory.shapes[: self.skip_levels])
        x = memory.tokens[:, fixed:]
        for layer in self.layers:
            positions = memory.positions[:, fixed:]
            if self.position_scale is not None:
                positions = positions * self.position_scale(x)
            x = layer(x, positions, memory)
        if fixed:
            x = torch.cat((memory.tokens[:, :fixed], x), dim=1)
        return replace(memory, tokens=self.norm(x))


def _attention(model: config.Model) -> TokenAttention | TokenSampling:
    part = model.encoder
    if part.kind == "deformable":
        return TokenSampling(model.width, model.heads, part.levels, part.points)
    return TokenAttention(model.width, model.heads, model.dropout)
