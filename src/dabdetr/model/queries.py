"""Where queries come from: parameters, or proposals of the encoder (two stages)."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float
from torch import Tensor, nn

from dabdetr import config
from dabdetr.geometry import inverse_sigmoid
from dabdetr.model.heads import class_head
from dabdetr.model.positions import ANCHOR_TEMPERATURE, mlp, sine_code
from dabdetr.structures import Memory, Predictions, Queries

BEHIND = 1000.0
"""What ranking takes from the logit of a token that a neighbour surpasses."""

SIDE = 0.05
"""Width and height of the finest level's first boxes; each level doubles it."""


class LearnedQueries(nn.Module):
    """Each query is parameters: an anchor box in logit space, and its content (DAB-DETR §3.2).

    Without boxes it is a positional query (DETR), and a point made of that (Conditional DETR §3.3).
    With patterns every anchor has a query for each pattern, which is added to its content; all
    anchors with the first pattern come first (Anchor DETR): ``patterns × count`` queries.
    """

    def __init__(self, part: config.LearnedQueries, width: int, content_width: int) -> None:
        """``content_width`` channels of content are learned (see ``denoising``)."""
        super().__init__()
        self.count, self.width = part.count, width
        self.anchors: nn.Parameter | None = None
        self.sizes: nn.Parameter | None = None
        self.positions: nn.Parameter | None = None
        self.to_point: nn.Sequential | None = None
        self.content: nn.Parameter | None = None
        self.patterns: nn.Parameter | None = None
        if part.anchor != "box":
            self.positions = nn.Parameter(torch.randn(part.count, width))
        elif part.fixed_centres:  # a buffer: neither gradient nor weight decay moves it
            centres, sizes = initial_anchors(part.count, part.start).split(2, dim=1)
            self.register_buffer("centres", centres.clone())
            self.sizes = nn.Parameter(sizes.clone())
        else:
            self.anchors = nn.Parameter(initial_anchors(part.count, part.start))
        if part.anchor == "point":
            self.to_point = mlp(*[width] * part.point_layers, 2)
        if part.content == "learned":
            self.content = nn.Parameter(torch.randn(part.count, content_width))
        if part.patterns:
            pattern_width = width if self.content is None else content_width
            self.patterns = nn.Parameter(torch.randn(part.patterns, pattern_width))

    def logits(self) -> Float[Tensor, "count 4"] | None:
        """Anchors before the sigmoid: x, y, w, h; None where queries are no boxes."""
        if self.sizes is None:
            return self.anchors
        return torch.cat((self.get_buffer("centres"), self.sizes), dim=1)

    def forward(self, memory: Memory) -> Queries:
        batch = memory.tokens.shape[0]  # a length would be a fixed number in an exported graph
        anchors, positions = self._places()
        content = self.content
        if content is None:
            content = memory.tokens.new_zeros(self.count, self.width, dtype=torch.float32)
        if self.patterns is not None and anchors is not None:
            patterns = self.patterns.repeat_interleave(self.count, dim=0)
            content = content.repeat(len(self.patterns), 1) + patterns  # [patterns · count, c]
            anchors = anchors.repeat(len(self.patterns), 1)
        return Queries(
            content.expand(batch, -1, -1),
            None if anchors is None else anchors.expand(batch, -1, -1),
            None if positions is None else positions.expand(batch, -1, -1),
        )

    def _places(self) -> tuple[Tensor | None, Tensor | None]:
        """Anchors, 0–1 of the image, and learned positional queries; one of them may be None."""
        logits = self.logits()
        if logits is not None:
            return logits.float().sigmoid(), None
        if self.to_point is None:
            return None, self.positions
        return self.to_point(self.positions).float().sigmoid(), self.positions


class EncoderQueries(nn.Module):
    """Every token proposes a box; the best become anchors; content is learned or theirs."""

    def __init__(
        self, part: config.EncoderQueries, width: int, content_width: int, classes: int
    ) -> None:
        """``content_width`` channels of content are given (see ``denoising``)."""
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
        if self.rank == "objectness":  # learns from all tokens, the others from the chosen
            said, boxes = scores, self.boxes(tokens).float() + first
        else:
            said, boxes = best_scores, selected
        any_object = self.rank != "classes"
        proposals = Predictions(said[None], boxes.sigmoid()[None], (None,), objectness=any_object)
        return Queries(content, anchors, positions, proposals)

    def _content(
        self, boxes: Float[Tensor, "b q 4"], tokens: Float[Tensor, "b q c"]
    ) -> tuple[Tensor, Tensor | None]:
        """Content, and the positional query where it is made of the proposed box."""
        if self.content is not None:
            return self.content[: boxes.shape[1]].expand(boxes.shape[0], -1, -1), None
        if self.to_query is None:
            return tokens[..., : self.content_width], None
        width = self.project.out_features
        angles = 2 * torch.pi * boxes.sigmoid()  # in the order x, y, w, h, unlike anchors' codes
        code = sine_code(angles, width // 2, ANCHOR_TEMPERATURE).flatten(-2)
        positions, content = self.to_query(code).chunk(2, dim=-1)
        return content, positions


def initial_anchors(count: int, start: str) -> torch.Tensor:
    """Anchor logits [count, 4]: x, y, w, h.

    'normal': N(0, 1), as released; 'uniform': centres anywhere; 'uniform_small': sizes about 0.2
    as well, which starts a small data set several epochs ahead.
    """
    logits = torch.randn(count, 4)
    if start != "normal":
        logits[:, :2] = inverse_sigmoid(torch.rand(count, 2))
    if start == "uniform_small":
        logits[:, 2:] = -1.4 + 0.4 * logits[:, 2:]
    return logits


def peaks_first(
    scores: Float[Tensor, "b s"], shapes: tuple[tuple[int, int], ...]
) -> Float[Tensor, "b s"]:
    """Scores for ranking: tokens below a neighbour (3×3, same level) come after all others.

    A logit lies far within ±``BEHIND``, so that the order among each kind stays.
    """
    levels = scores.float().split([height * width for height, width in shapes], dim=1)
    ranked = []
    for level, (height, width) in zip(levels, shapes, strict=True):
        grid = level.unflatten(1, (height, width))[:, None]  # [b, s] → [b, 1, h, w]
        below = grid < F.max_pool2d(grid, 3, stride=1, padding=1)
        ranked.append((grid - BEHIND * below).flatten(1))
    return torch.cat(ranked, dim=1)


def _first_boxes(memory: Memory) -> tuple[Float[Tensor, "b s 4"], Bool[Tensor, "b s"]]:
    """Logits of a box at every token's cell, and whether it counts: not padding, not at the rim."""
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
