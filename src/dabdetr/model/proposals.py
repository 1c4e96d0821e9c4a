"""Two stages: the encoder proposes boxes, and the best become queries (Deformable DETR, DINO)."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float
from torch import Tensor, nn

from dabdetr import config
from dabdetr.model.heads import class_head
from dabdetr.model.positions import ANCHOR_TEMPERATURE, mlp, sine_code
from dabdetr.structures import Memory, Predictions, Queries

MOST = 80.0
"""Largest absolute logit that the ranking key keeps distinct: e⁸⁰ fits into float32."""

SIDE = 0.05
"""Width and height of proposals before refinement on the finest level; doubled per level."""


class EncoderQueries(nn.Module):
    """Every token proposes a box; the best become anchors. Content is learned or the token."""

    def __init__(
        self, part: config.EncoderQueries, width: int, content_width: int, classes: int
    ) -> None:
        """``content_width`` channels of content are learned (see ``denoising``)."""
        super().__init__()
        self.count, self.rank, self.distinct = part.count, part.rank, part.distinct
        self.content_width = content_width
        self.project, self.norm = nn.Linear(width, width), nn.LayerNorm(width)
        self.classes = class_head(width, 1 if part.rank == "object" else classes)
        self.boxes = mlp(width, width, width, 4)
        nn.init.zeros_(self.boxes[-1].weight)  # pyright: ignore[reportArgumentType]
        nn.init.zeros_(self.boxes[-1].bias)  # pyright: ignore[reportArgumentType]
        self.content: nn.Parameter | None = None
        self.to_query: nn.Sequential | None = None
        if part.content == "learned":
            self.content = nn.Parameter(torch.randn(part.count, content_width))
        elif part.content == "box":
            self.to_query = nn.Sequential(nn.Linear(2 * width, 2 * width), nn.LayerNorm(2 * width))

    def forward(self, memory: Memory) -> Queries:
        logits, valid = _first_boxes(memory)
        tokens = self.norm(self.project(memory.tokens * valid[..., None]))
        scores = self.classes(tokens)
        best = scores[..., 0] if self.rank == "objectness" else scores.max(-1).values
        if self.distinct:
            best = peaks_first(best, memory.shapes)
        chosen = best.topk(min(self.count, best.shape[1]), dim=1).indices[..., None]

        first = logits.masked_fill(~valid[..., None], float("inf"))
        best_tokens, best_scores, best_first = (
            x.gather(1, chosen.expand(-1, -1, x.shape[-1])) for x in (tokens, scores, first)
        )
        selected = self.boxes(best_tokens).float() + best_first
        anchors = selected.detach().sigmoid()
        content, positions = self._content(selected.detach(), best_tokens.detach())
        if self.rank == "objectness":  # trains all tokens, other ranks the best
            logits, boxes = scores, self.boxes(tokens).float() + first
        else:
            logits, boxes = best_scores, selected
        any_object = self.rank != "classes"
        proposals = Predictions(logits[None], boxes.sigmoid()[None], (None,), objectness=any_object)
        return Queries(content, anchors, positions, proposals)

    def _content(
        self, boxes: Float[Tensor, "b q 4"], tokens: Float[Tensor, "b q c"]
    ) -> tuple[Tensor, Tensor | None]:
        """Content, and the positional query if it is computed from the proposed box."""
        if self.content is not None:
            return self.content[: boxes.shape[1]].expand(boxes.shape[0], -1, -1), None
        if self.to_query is None:
            return tokens[..., : self.content_width], None
        width = self.project.out_features
        angles = 2 * torch.pi * boxes.sigmoid()  # order: x, y, w, h, unlike anchors' codes
        code = sine_code(angles, width // 2, ANCHOR_TEMPERATURE).flatten(-2)
        positions, content = self.to_query(code).chunk(2, dim=-1)
        return content, positions


def peaks_first(
    scores: Float[Tensor, "b s"], shapes: tuple[tuple[int, int], ...]
) -> Float[Tensor, "b s"]:
    """Ranking keys that put tokens below a neighbour (3×3, same level) after all others.

    The key of a score s is e^s, or −e^−s where a neighbour has a higher score. The order within
    each kind is kept, and float32 separates scores that differ by 1e-7.
    """
    levels = scores.float().split([height * width for height, width in shapes], dim=1)
    ranked = []
    for level, (height, width) in zip(levels, shapes, strict=True):
        grid = level.unflatten(1, (height, width))[:, None]  # [b, s] → [b, 1, h, w]
        below = grid < F.max_pool2d(grid, 3, stride=1, padding=1)
        held = grid.clamp(-MOST, MOST)
        ranked.append(torch.where(below, -(-held).exp(), held.exp()).flatten(1))
    return torch.cat(ranked, dim=1)


def _first_boxes(memory: Memory) -> tuple[Float[Tensor, "b s 4"], Bool[Tensor, "b s"]]:
    """Box logits of every token's cell, and whether it counts: not padding, not at the border."""
    assert memory.ratios is not None
    parts = []
    for level, (height, width) in enumerate(memory.shapes):
        device = memory.tokens.device
        y = (torch.arange(height, device=device, dtype=torch.float32) + 0.5) / height
        x = (torch.arange(width, device=device, dtype=torch.float32) + 0.5) / width
        grid = torch.stack((x.expand(height, width), y[:, None].expand(height, width)), dim=-1)
        centre = grid.flatten(0, 1) / memory.ratios[:, None, level]
        side = torch.full_like(centre, SIDE * 2.0**level)
        parts.append(torch.cat((centre, side), dim=-1))
    boxes = torch.cat(parts, dim=1)
    valid = ((boxes > 0.01) & (boxes < 0.99)).all(-1)
    if memory.padding is not None:
        valid = valid & ~memory.padding
    return torch.logit(boxes.clamp(1e-4, 1 - 1e-4)), valid
