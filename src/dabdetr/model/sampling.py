"""Deformable attention as the encoder and the decoder use it."""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor

from dabdetr.model.deformable import DeformableAttention, encoder_references
from dabdetr.model.positions import QueryPositions, in_level
from dabdetr.structures import Memory


class TokenSampling(DeformableAttention):
    """Every token reads places around its own cell, on all levels (deformable encoders)."""

    def forward(  # pyright: ignore[reportIncompatibleMethodOverride]
        self, x: Float[Tensor, "b n c"], positions: Float[Tensor, "#b n c"], memory: Memory
    ) -> Float[Tensor, "b n c"]:
        """``x`` are the tokens as they now are; ``memory`` tells their levels and padding."""
        assert memory.ratios is not None
        references = encoder_references(memory.shapes, memory.ratios)
        return super().forward(x + positions, references, x, memory.shapes, memory.padding)


class QuerySampling(DeformableAttention):
    """Every query reads places around its anchor, on all levels (deformable decoders)."""

    def forward(  # pyright: ignore[reportIncompatibleMethodOverride]
        self, content: Float[Tensor, "b q c"], positions: QueryPositions, memory: Memory
    ) -> Float[Tensor, "b q c"]:
        assert memory.ratios is not None
        assert positions.anchors is not None
        levels = [in_level(positions.anchors, ratio) for ratio in memory.ratios.unbind(1)]
        references = torch.stack(levels, dim=2)
        placed = content + positions.query
        return super().forward(placed, references, memory.tokens, memory.shapes, memory.padding)
