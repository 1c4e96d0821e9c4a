"""Attention layers: additive (Transformer, DETR), separately projected, and concatenated."""

from __future__ import annotations

from collections.abc import Callable

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn

from dabdetr.kernels import AttentionMask, attend
from dabdetr.model.positions import QueryPositions
from dabdetr.structures import Memory


def split_heads(x: Float[Tensor, "b n c"], heads: int) -> Float[Tensor, "b heads n d"]:
    """[batch, n, width] → [batch, heads, n, width / heads]."""
    return x.unflatten(-1, (heads, -1)).transpose(1, 2)


def padding_mask(padding: Bool[Tensor, "b k"] | None) -> Bool[Tensor, "b 1 1 k"] | None:
    """Padding as a mask for ``attend``. An image of padding only is not masked: no NaN."""
    if padding is None:
        return None
    return (padding & ~padding.all(-1, keepdim=True))[:, None, None, :]


def shares(
    query: Float[Tensor, "b heads q d"], key: Float[Tensor, "b heads k d"], mask: AttentionMask
) -> Float[Tensor, "b q k"]:
    """Attention weights, averaged over heads.

    They are ``attend``'s outputs for one-hot values, one per key, so masks and kernels are the
    same.
    """
    batch, heads, count, _ = key.shape
    apart = torch.eye(count, dtype=query.dtype, device=query.device)
    mixed = attend(query, key, apart.expand(batch, heads, count, count), mask)
    return mixed.unflatten(-1, (heads, count)).mean(2)


class AdditiveAttention(nn.Module):
    """Attention that adds positions to queries and keys (Transformer, DETR)."""

    def __init__(self, width: int, heads: int, dropout: float) -> None:
        super().__init__()
        self.heads, self.dropout = heads, dropout
        self.query = nn.Linear(width, width)
        self.key = nn.Linear(width, width)
        self.value = nn.Linear(width, width)
        self.output = nn.Linear(width, width)
        self.reset()

    def reset(self) -> None:
        """Initialise as torch does: Xavier over the joint query, key and value matrix; biases 0."""
        for part in (self.query, self.key, self.value):
            nn.init.xavier_uniform_(part.weight, gain=0.5**0.5)
        for part in (self.query, self.key, self.value, self.output):
            nn.init.zeros_(part.bias)

    def mix(
        self,
        placed_queries: Float[Tensor, "b q c"],
        placed_keys: Float[Tensor, "b k c"],
        values: Float[Tensor, "b k c"],
        mask: AttentionMask,
    ) -> Float[Tensor, "b q c"]:
        """Attend. Queries and keys already contain their positions; values are content only."""
        query = split_heads(self.query(placed_queries), self.heads)
        key = split_heads(self.key(placed_keys), self.heads)
        value = split_heads(self.value(values), self.heads)
        dropout = self.dropout if self.training else 0.0
        return self.output(attend(query, key, value, mask, dropout))


class TokenAttention(AdditiveAttention):
    """Self-attention among all tokens of memory (dense encoders)."""

    def forward(
        self, x: Float[Tensor, "b n c"], positions: Float[Tensor, "#b n c"], memory: Memory
    ) -> Float[Tensor, "b n c"]:
        """``x`` are the current tokens; ``memory`` supplies their padding."""
        placed = x + positions
        return self.mix(placed, placed, x, padding_mask(memory.padding))


class QuerySelfAttention(AdditiveAttention):
    """Self-attention among queries, with the positional query added (DETR, deformable members)."""

    def forward(
        self,
        content: Float[Tensor, "b q c"],
        positions: QueryPositions,
        attention_mask: AttentionMask,
    ) -> Float[Tensor, "b q c"]:
        placed = content + positions.query
        return self.mix(placed, placed, content, attention_mask)

    def attention_weights(
        self,
        content: Float[Tensor, "b q c"],
        positions: QueryPositions,
        attention_mask: AttentionMask,
    ) -> Float[Tensor, "b q q"]:
        """Attention of each query (row) to every other one, averaged over heads."""
        placed = content + positions.query
        query, key = (split_heads(p(placed), self.heads) for p in (self.query, self.key))
        return shares(query, key, attention_mask)


class AddCrossAttention(AdditiveAttention):
    """Cross-attention from queries to memory, with positions added on both sides (DETR)."""

    def forward(
        self, content: Float[Tensor, "b q c"], positions: QueryPositions, memory: Memory
    ) -> Float[Tensor, "b q c"]:
        keys, mask = memory.tokens + memory.positions, padding_mask(memory.padding)
        return self.mix(content + positions.query, keys, memory.tokens, mask)


class SeparateSelfAttention(nn.Module):
    """Self-attention among queries; content and position have separate projections.

    Used by the decoders of Conditional DETR and DAB-DETR.
    """

    def __init__(self, width: int, heads: int, dropout: float) -> None:
        super().__init__()
        self.heads, self.dropout = heads, dropout
        self.query = nn.Linear(width, width)
        self.query_position = nn.Linear(width, width)
        self.key = nn.Linear(width, width)
        self.key_position = nn.Linear(width, width)
        self.value = nn.Linear(width, width)
        self.output = nn.Linear(width, width)

    def forward(
        self,
        content: Float[Tensor, "b q c"],
        positions: QueryPositions,
        attention_mask: AttentionMask,
    ) -> Float[Tensor, "b q c"]:
        query, key = self._placed(content, positions)
        value = split_heads(self.value(content), self.heads)
        dropout = self.dropout if self.training else 0.0
        return self.output(attend(query, key, value, attention_mask, dropout))

    def attention_weights(
        self,
        content: Float[Tensor, "b q c"],
        positions: QueryPositions,
        attention_mask: AttentionMask,
    ) -> Float[Tensor, "b q q"]:
        """Attention of each query (row) to every other one, averaged over heads."""
        return shares(*self._placed(content, positions), attention_mask)

    def _placed(
        self, content: Float[Tensor, "b q c"], positions: QueryPositions
    ) -> tuple[Float[Tensor, "b heads q d"], Float[Tensor, "b heads q d"]]:
        query = self.query(content) + self.query_position(positions.query)
        key = self.key(content) + self.key_position(positions.query)
        return split_heads(query, self.heads), split_heads(key, self.heads)


class ConcatCrossAttention(nn.Module):
    """Cross-attention from queries to memory; each head concatenates content and position.

    A head's query is [content, code] and its key [content, position], so their product is the sum
    of a content map and a position map (Conditional DETR §3.3, DAB-DETR §3.4). ``add_position``
    also adds the positional query and the key's position to the content parts. The first layer
    needs it, because its content holds no information yet.
    """

    def __init__(self, width: int, heads: int, dropout: float, add_position: bool) -> None:
        super().__init__()
        self.heads, self.dropout = heads, dropout
        self.query = nn.Linear(width, width)
        self.query_position = nn.Linear(width, width) if add_position else None
        self.query_code = nn.Linear(width, width)
        self.key = nn.Linear(width, width)
        self.key_position = nn.Linear(width, width)
        self.value = nn.Linear(width, width)
        self.output = nn.Linear(width, width)

    def forward(
        self, content: Float[Tensor, "b q c"], positions: QueryPositions, memory: Memory
    ) -> Float[Tensor, "b q c"]:
        assert positions.code is not None
        query, key = self.query(content), self.key(memory.tokens)
        key_position = self.key_position(memory.positions)
        if self.query_position is not None:
            query = query + self.query_position(positions.query)
            key = key + key_position
        query = self._side_by_side(query, self.query_code(positions.code))
        key = self._side_by_side(key, key_position.expand_as(key))
        value = split_heads(self.value(memory.tokens), self.heads)
        dropout = self.dropout if self.training else 0.0
        # Products of sharp position maps are so large that bf16 would round them by a tenth.
        mask = padding_mask(memory.padding)
        return self.output(attend(query, key, value, mask, dropout, exact=True))

    def _side_by_side(self, a: Tensor, b: Tensor) -> Float[Tensor, "b heads n d"]:
        return torch.cat((split_heads(a, self.heads), split_heads(b, self.heads)), dim=-1)


def residual(
    x: Float[Tensor, "b n c"],
    step: Callable[[Tensor], Tensor],
    norm: nn.Module,
    dropout: nn.Module,
    norm_first: bool,
) -> Float[Tensor, "b n c"]:
    """x + step(x), normalised; with ``norm_first`` the input of ``step`` is (pre-norm)."""
    if norm_first:
        return x + dropout(step(norm(x)))
    return norm(x + dropout(step(x)))


class FeedForward(nn.Module):
    """Two linear layers with an activation between them; PReLU has one learned slope."""

    def __init__(self, width: int, inner: int, activation: str, dropout: float) -> None:
        super().__init__()
        self.expand = nn.Linear(width, inner)
        self.activation = {"prelu": nn.PReLU, "relu": nn.ReLU, "gelu": nn.GELU}[activation]()
        self.dropout = nn.Dropout(dropout)
        self.contract = nn.Linear(inner, width)

    def forward(self, x: Float[Tensor, "*shape c"]) -> Float[Tensor, "*shape c"]:
        return self.contract(self.dropout(self.activation(self.expand(x))))
