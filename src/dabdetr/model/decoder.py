"""The loop over decoder layers: attend, predict from the content, move the anchors."""

from __future__ import annotations

from dataclasses import replace
from functools import partial

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn

from dabdetr import config
from dabdetr.geometry import move
from dabdetr.kernels import AttentionMask
from dabdetr.model.attention import (
    AddCrossAttention,
    ConcatCrossAttention,
    FeedForward,
    QuerySelfAttention,
    SeparateSelfAttention,
    residual,
)
from dabdetr.model.deformable import QuerySampling
from dabdetr.model.duplicates import DuplicateRemoval
from dabdetr.model.heads import Heads
from dabdetr.model.positions import Positions, QueryPositions
from dabdetr.model.relation import BoxRelation
from dabdetr.structures import Memory, Predictions, Queries


class DecoderLayer(nn.Module):
    """Self-attention among queries, cross-attention to memory, feed-forward; with residuals."""

    def __init__(self, model: config.Model, index: int) -> None:
        super().__init__()
        width, dropout = model.width, model.dropout
        self.self_attention, self.cross_attention = _attentions(model, index)
        self.self_norm = nn.LayerNorm(width)
        self.cross_norm = nn.LayerNorm(width)
        self.feedforward = FeedForward(width, model.feedforward, model.activation, dropout)
        self.feedforward_norm = nn.LayerNorm(width)
        self.dropout, self.norm_first = nn.Dropout(dropout), model.norm_first

    def forward(
        self,
        content: Float[Tensor, "b q c"],
        positions: QueryPositions,
        memory: Memory,
        attention_mask: AttentionMask,
    ) -> Float[Tensor, "b q c"]:
        step = partial(residual, dropout=self.dropout, norm_first=self.norm_first)

        def attend_queries(x: Tensor) -> Tensor:
            return self.self_attention(x, positions, attention_mask)

        def attend_memory(x: Tensor) -> Tensor:
            return self.cross_attention(x, positions, memory)

        content = step(content, attend_queries, self.self_norm)
        content = step(content, attend_memory, self.cross_norm)
        return step(content, self.feedforward, self.feedforward_norm)


def _attentions(model: config.Model, index: int) -> tuple[nn.Module, nn.Module]:
    """Self- and cross-attention of layer ``index``. No other place distinguishes the kinds."""
    cross, common = model.decoder.cross_attention, (model.width, model.heads, model.dropout)
    if cross.kind == "concat":
        add_position = index == 0 or cross.position_every_layer
        return SeparateSelfAttention(*common), ConcatCrossAttention(*common, add_position)
    if cross.kind == "add":
        return QuerySelfAttention(*common), AddCrossAttention(*common)
    assert model.encoder.kind == "deformable"  # checked by the config
    sampling = QuerySampling(model.width, model.heads, model.encoder.levels, cross.points)
    return QuerySelfAttention(*common), sampling


class Decoder(nn.Module):
    """Queries → predictions of every layer, the anchors updated between layers (DAB-DETR §3.2)."""

    def __init__(self, model: config.Model, heads: Heads) -> None:
        super().__init__()
        part, cross = model.decoder, model.decoder.cross_attention
        self.update_anchors = part.update_anchors
        self.look_forward_twice = part.look_forward_twice
        self.anchor_eps = model.anchor_eps
        self.positions = Positions(
            model.width,
            part.layers,
            boxes=model.queries.anchor == "box" and model.queries.content != "box",
            deformable=cross.kind == "deformable",
            modulate_position=part.modulate_position,
            modulate_size=cross.kind == "concat" and cross.modulate_size,
        )
        self.layers = nn.ModuleList(DecoderLayer(model, index) for index in range(part.layers))
        self.relation = BoxRelation(model.heads) if part.relation else None
        self.duplicates = DuplicateRemoval(part.layers) if part.duplicate_removal else None
        self.norm = nn.LayerNorm(model.width) if part.norm else nn.Identity()
        self.heads = heads

    def forward(
        self,
        queries: Queries,
        memory: Memory,
        attention_mask: Bool[Tensor, "q q"] | None = None,
        of_groups: int = 0,
    ) -> Predictions:
        """``attention_mask``, True: the query of the row may not attend to that of the column.

        The first ``of_groups`` queries belong to query groups.
        """
        # With look forward twice not detached: the next layer's loss also reaches this move.
        anchors = queries.anchors
        logits, boxes, layer_anchors = [], [], []
        for index, layer in enumerate(self.layers):
            # Positions come from detached anchors: no gradient of a move passes here.
            positions = self.positions(queries, memory.ratios, index)
            mask: AttentionMask = attention_mask
            if self.relation is not None:
                before = layer_anchors[-1] if layer_anchors else anchors
                mask = self.relation(before, queries.anchors, attention_mask, of_groups)
            content = layer(queries.content, positions, memory, mask)
            normed = self.norm(content)
            logits.append(self.heads.logits(normed, index))
            boxes.append(move(anchors, self.heads.deltas(normed, index), self.anchor_eps))
            layer_anchors.append(anchors)
            if self.duplicates is not None:
                logits[-1] = self.duplicates(logits[-1], boxes[-1], of_groups, index)
            queries = replace(queries, content=content)
            if self.update_anchors and index + 1 < len(self.layers):
                # The released weights expect moves from the content before the norm.
                deltas = self.heads.deltas(content, index)
                anchors = move(queries.anchors, deltas, self.anchor_eps)
                queries = replace(queries, anchors=anchors.detach())
                if not self.look_forward_twice:
                    anchors = queries.anchors
        return Predictions(torch.stack(logits), torch.stack(boxes), tuple(layer_anchors))
