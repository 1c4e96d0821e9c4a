"""The loop over decoder layers: attend, read the content, move the anchors."""

from __future__ import annotations

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn

from dabdetr import config
from dabdetr.geometry import move
from dabdetr.model.attention import ConcatCrossAttention, FeedForward, SeparateSelfAttention
from dabdetr.model.heads import Heads
from dabdetr.model.positions import AnchorPositions, QueryPositions
from dabdetr.structures import Memory, Predictions, Queries


class DecoderLayer(nn.Module):
    """Queries attend to one another, then to memory; each step added and normalised."""

    def __init__(self, model: config.Model, add_position: bool) -> None:
        super().__init__()
        width, heads, dropout = model.width, model.heads, model.dropout
        self.self_attention = SeparateSelfAttention(width, heads, dropout)
        self.self_norm = nn.LayerNorm(width)
        self.cross_attention = ConcatCrossAttention(width, heads, dropout, add_position)
        self.cross_norm = nn.LayerNorm(width)
        self.feedforward = FeedForward(width, model.feedforward, model.activation, dropout)
        self.feedforward_norm = nn.LayerNorm(width)
        self.dropout = nn.Dropout(dropout)

    def forward(
        self,
        content: Float[Tensor, "b q c"],
        positions: QueryPositions,
        memory: Memory,
        hidden: Bool[Tensor, "q q"] | None,
    ) -> Float[Tensor, "b q c"]:
        seen = self.self_attention(content, positions, hidden)
        content = self.self_norm(content + self.dropout(seen))
        seen = self.cross_attention(content, positions, memory)
        content = self.cross_norm(content + self.dropout(seen))
        return self.feedforward_norm(content + self.dropout(self.feedforward(content)))


class Decoder(nn.Module):
    """Queries → predictions of every layer, the anchors updated between layers (DAB-DETR §3.2)."""

    def __init__(self, model: config.Model, heads: Heads) -> None:
        super().__init__()
        part, cross = model.decoder, model.decoder.cross_attention
        self.update_anchors = part.update_anchors
        self.look_forward_twice = part.look_forward_twice
        self.anchor_eps = model.anchor_eps
        self.positions = AnchorPositions(
            model.width, part.layers, part.modulate_position, cross.modulate_size
        )
        self.layers = nn.ModuleList(
            DecoderLayer(model, add_position=index == 0 or cross.position_every_layer)
            for index in range(part.layers)
        )
        self.norm = nn.LayerNorm(model.width)
        self.heads = heads

    def forward(
        self, queries: Queries, memory: Memory, hidden: Bool[Tensor, "q q"] | None = None
    ) -> Predictions:
        """``hidden`` [queries, queries], True: the row's query may not see the column's."""
        content = queries.content
        anchors = queries.anchors  # what boxes start from: a layer's loss may reach the move before
        seen = anchors  # what positions are made of: no gradient of any move passes here
        logits, boxes, entered = [], [], []
        for index, layer in enumerate(self.layers):
            content = layer(content, self.positions(seen, content, index), memory, hidden)
            normed = self.norm(content)
            logits.append(self.heads.logits(normed))
            boxes.append(move(anchors, self.heads.deltas(normed, index), self.anchor_eps))
            entered.append(anchors)
            if self.update_anchors and index + 1 < len(self.layers):
                # By the un-normalised content: the released weights expect it.
                deltas = self.heads.deltas(content, index)
                anchors = move(seen, deltas, self.anchor_eps)
                seen = anchors.detach()
                if not self.look_forward_twice:
                    anchors = seen
        return Predictions(torch.stack(logits), torch.stack(boxes), torch.stack(entered))
