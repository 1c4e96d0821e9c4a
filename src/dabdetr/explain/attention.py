"""The attention of one layer: maps over all tokens, or sampling locations and their weights."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from scipy import ndimage

PARTS = ("all", "content", "position", "unmodulated")
"""The products that a map is made from: all; content alone; position alone as used by the layer;
position before modulation by the anchor's width and height."""

RETIRED_PARTS = {"unsized": "unmodulated"}
"""Former names of parts, still accepted."""


class _Maps(ABC):
    """Attention from which a map of each head can be computed."""

    @abstractmethod
    def maps(self, query: int, part: str = "all") -> np.ndarray:
        """One query's map [heads, height, width]."""

    def heat(self, query: int, part: str = "all", head: int | None = None) -> np.ndarray:
        """The map of ``query`` [height, width]: of one head, or the mean over heads."""
        maps = self.maps(query, part)
        return maps.mean(0) if head is None else maps[head]


@dataclass(frozen=True, eq=False)
class DenseAttention(_Maps):
    """Attention over every token of one map, stored as the queries and keys of each head.

    query_content   [queries, heads, d]
    query_position  [queries, heads, d] as used: modulated by content and size if the member does so
    query_unmodulated   the same before size modulation; None without size modulation
    key_content     [tokens, heads, d], tokens row by row
    key_position    [tokens, heads, d]
    added           True: content and position are added before they are multiplied (DETR,
                    encoders), so the mixed products are in ``all`` but in neither part;
                    False: they are concatenated, and ``all`` is the sum of both parts
    placed          True: the member adds positions to the content as well (first layer of
                    Conditional DETR and DAB-DETR), so ``content`` depends on positions too
    shape           (height, width) of the map, which covers the whole image
    padding         [tokens] bool, True = padding; None without padding
    """

    query_content: np.ndarray
    query_position: np.ndarray
    query_unmodulated: np.ndarray | None
    key_content: np.ndarray
    key_position: np.ndarray
    added: bool
    placed: bool
    shape: tuple[int, int]
    padding: np.ndarray | None = None

    @property
    def heads(self) -> int:
        """Number of heads."""
        return self.query_content.shape[1]

    @property
    def parts(self) -> tuple[str, ...]:
        """The available parts of ``PARTS``."""
        return PARTS if self.query_unmodulated is not None else PARTS[:-1]

    @property
    def caveat(self) -> str:
        """A sentence if the split into content and position is not clean; otherwise empty."""
        if self.added:
            return (
                "Content and position are added before they are multiplied here: the mixed "
                "products are in the whole attention, but in neither part."
            )
        if self.placed:
            return (
                "In this layer the member adds positions to content as well, so content alone "
                "depends on positions too."
            )
        return ""

    def logits(self, queries: Any = slice(None), part: str = "all") -> np.ndarray:
        """The input of softmax [queries, heads, tokens]; ``queries`` is a slice or an index array.

        ValueError for a part that is not in ``parts``.
        """
        part = RETIRED_PARTS.get(part, part)
        content, position = self.query_content[queries], self.query_position[queries]
        width = content.shape[-1] if self.added else content.shape[-1] + position.shape[-1]
        if part == "content":
            product = _product(content, self.key_content)
        elif part == "position":
            product = _product(position, self.key_position)
        elif part == "unmodulated" and self.query_unmodulated is not None:
            product = _product(self.query_unmodulated[queries], self.key_position)
        elif part == "all" and self.added:
            product = _product(content + position, self.key_content + self.key_position)
        elif part == "all":
            product = _product(content, self.key_content) + _product(position, self.key_position)
        else:
            raise ValueError(f"there is no part {part!r} here; give one of {', '.join(self.parts)}")
        return product / np.sqrt(np.float32(width))

    def weights(self, queries: Any = slice(None), part: str = "all") -> np.ndarray:
        """Softmax of ``logits`` [queries, heads, tokens]; sums to 1, and is 0 for padding."""
        logits = self.logits(queries, part)
        if self.padding is not None and not self.padding.all():
            logits = np.where(self.padding, -np.inf, logits)
        powers = np.exp(logits - logits.max(-1, keepdims=True))
        return powers / powers.sum(-1, keepdims=True)

    def maps(self, query: int, part: str = "all") -> np.ndarray:
        """``weights`` of one query as [heads, height, width] of the unpadded map."""
        weights = self.weights([query], part)[0].reshape(-1, *self.shape)
        if self.padding is None or self.padding.all():
            return weights
        valid = ~self.padding.reshape(self.shape)
        return weights[:, : valid.any(1).sum(), : valid.any(0).sum()]


def _product(queries: np.ndarray, keys: np.ndarray) -> np.ndarray:
    """[q, heads, d], [k, heads, d] → [q, heads, k]."""
    return np.matmul(queries.transpose(1, 0, 2), keys.transpose(1, 2, 0)).transpose(1, 0, 2)


@dataclass(frozen=True, eq=False)
class SampledAttention(_Maps):
    """Deformable attention: sampling locations on each level, and their weights.

    locations  [queries, heads, levels, points, 2] x, y, 0–1 of the unpadded image; some are outside
    weights    [queries, heads, levels, points], sum to 1 over levels and points
    shapes     (height, width) of each level
    alone      part of ``PARTS`` → the locations and weights from that part alone, around the same
               anchors; empty if attention is not split into parts
    """

    locations: np.ndarray
    weights: np.ndarray
    shapes: tuple[tuple[int, int], ...]
    alone: Mapping[str, tuple[np.ndarray, np.ndarray]] = field(default_factory=dict)

    @property
    def heads(self) -> int:
        """Number of heads."""
        return self.weights.shape[1]

    @property
    def parts(self) -> tuple[str, ...]:
        """The available parts of ``PARTS``."""
        return ("all", *self.alone)

    @property
    def caveat(self) -> str:
        """A sentence on how exact the split into content and position is; empty without a split."""
        if not self.alone:
            return ""
        return "The parts' offsets add up, except for the layer's bias; their weights do not."

    def chosen(self, query: int, part: str = "all") -> tuple[np.ndarray, np.ndarray]:
        """Locations [heads, levels, points, 2] and weights [heads, levels, points] of a part.

        ValueError for a part that is not in ``parts``.
        """
        if part not in self.parts:
            known = ", ".join(self.parts)
            raise ValueError(f"sampled attention has no part {part!r} here; give one of {known}")
        locations, weights = self.alone.get(part, (self.locations, self.weights))
        return locations[query], weights[query]

    def maps(self, query: int, part: str = "all") -> np.ndarray:
        """Weights distributed over the cells of the finest level [heads, height, width].

        Weights outside the image are dropped, so a map may sum to less than 1.
        """
        locations, weights = self.chosen(query, part)
        height, width = self.shapes[0]
        result = np.zeros((self.heads, height, width), np.float32)
        x, y = (locations * (width, height) - 0.5).reshape(self.heads, -1, 2).T
        weights = weights.reshape(self.heads, -1).T
        head = np.broadcast_to(np.arange(self.heads), x.shape)
        for row in (0, 1):
            for column in (0, 1):
                i, j = np.floor(y).astype(int) + row, np.floor(x).astype(int) + column
                share = weights * (1 - abs(y - i)) * (1 - abs(x - j))
                inside = (i >= 0) & (i < height) & (j >= 0) & (j < width)
                np.add.at(result, (head[inside], i[inside], j[inside]), share[inside])
        return result


Attention = DenseAttention | SampledAttention


def share_inside(weights: np.ndarray, box: np.ndarray) -> float:
    """Share of a map [height, width] inside ``box`` (x0 y0 x1 y1, 0–1).

    A partly covered cell counts in proportion.
    """
    height, width = weights.shape
    across = _covered(width, box[0], box[2])
    down = _covered(height, box[1], box[3])
    return float(down @ weights @ across / max(weights.sum(), 1e-12))


def _covered(cells: int, low: float, high: float) -> np.ndarray:
    """Share of each of ``cells`` equal cells between ``low`` and ``high``."""
    edges = np.arange(cells + 1) / cells
    shared = np.minimum(edges[1:], high) - np.maximum(edges[:-1], low)
    return shared.clip(min=0) * cells


def centres(weights: np.ndarray) -> int:
    """The number of local maxima of a map that are at least half as high as the highest one."""
    peaks = (weights == ndimage.maximum_filter(weights, 3)) & (weights >= weights.max() / 2)
    _, count = ndimage.label(peaks, np.ones((3, 3)))  # pyright: ignore[reportGeneralTypeIssues]
    return int(count)


def extent(weights: np.ndarray) -> tuple[float, float]:
    """Width and height, 0–1, of the middle half of a map's weight; outliers have no influence."""
    return _middle_half(weights.sum(0)), _middle_half(weights.sum(1))


def _middle_half(marginal: np.ndarray) -> float:
    sums = np.concatenate(([0.0], np.cumsum(marginal, dtype=np.float64)))
    low, high = np.interp([0.25, 0.75], sums / max(sums[-1], 1e-12), np.linspace(0, 1, len(sums)))
    return float(high - low)
