"""From maps to memory: projection into tokens, and self-attention over all of them."""

from __future__ import annotations

from dataclasses import replace

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn

from dabdetr import config
from dabdetr.model.attention import FeedForward, SelfAttention, hide_padding
from dabdetr.model.positions import map_code, mlp
from dabdetr.structures import Features, Memory


class Projection(nn.Module):
    """The one map of a dense member as tokens of the model's width, row by row."""

    def __init__(self, channels: int, width: int, temperature: float) -> None:
        super().__init__()
        self.width, self.temperature = width, temperature
        self.project = nn.Conv2d(channels, width, kernel_size=1)

    def forward(self, features: Features) -> Memory:
        (fine,), (padding,) = features.maps, features.paddings
        tokens = self.project(fine).flatten(2).transpose(1, 2)
        shape = (fine.shape[-2], fine.shape[-1])
        visible = torch.zeros((1, *shape), dtype=torch.bool, device=fine.device)
        code = map_code(visible if padding is None else padding, self.width, self.temperature)
        flat = None if padding is None else padding.flatten(1)
        return Memory(tokens, code.flatten(1, 2), flat, (shape,))


class EncoderLayer(nn.Module):
    """Self-attention and feed-forward, each added and then normalised (post-norm)."""

    def __init__(self, model: config.Model) -> None:
        super().__init__()
        width, dropout = model.width, model.dropout
        self.attention = SelfAttention(width, model.heads, dropout)
        self.attention_norm = nn.LayerNorm(width)
        self.feedforward = FeedForward(width, model.feedforward, model.activation, dropout)
        self.feedforward_norm = nn.LayerNorm(width)
        self.dropout = nn.Dropout(dropout)

    def forward(
        self,
        x: Float[Tensor, "b n c"],
        positions: Float[Tensor, "#b n c"],
        hidden: Bool[Tensor, "b 1 1 n"] | None,
    ) -> Float[Tensor, "b n c"]:
        x = self.attention_norm(x + self.dropout(self.attention(x, positions, hidden)))
        return self.feedforward_norm(x + self.dropout(self.feedforward(x)))


class DenseEncoder(nn.Module):
    """Every token attends to every other one; content may scale the position codes (DAB-DETR)."""

    def __init__(self, model: config.Model) -> None:
        super().__init__()
        self.layers = nn.ModuleList(EncoderLayer(model) for _ in range(model.encoder.layers))
        width = model.width
        scaled = model.encoder.scale_positions and model.encoder.layers > 0
        self.position_scale = mlp(width, width, width) if scaled else None

    def forward(self, memory: Memory) -> Memory:
        x, hidden = memory.tokens, hide_padding(memory.padding)
        for layer in self.layers:
            positions = memory.positions
            if self.position_scale is not None:
                positions = positions * self.position_scale(x)
            x = layer(x, positions, hidden)
        return replace(memory, tokens=x)
