"""Learned queries. Queries proposed by the encoder are in ``proposals``."""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor, nn

from dabdetr import config
from dabdetr.geometry import inverse_sigmoid
from dabdetr.model.positions import mlp
from dabdetr.structures import Memory, Queries


class LearnedQueries(nn.Module):
    """Queries as parameters: an anchor box in logit space, and content (DAB-DETR §3.2).

    Other members learn a positional query in place of the box (DETR), or compute a point from it
    (Conditional DETR §3.3). With patterns, every anchor has one query per pattern, which is added
    to its content; all anchors with the first pattern come first (Anchor DETR): ``patterns ×
    count`` queries.
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
        elif part.fixed_centres:  # a buffer: no gradient or weight decay changes it
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
        """Anchors before the sigmoid: x, y, w, h; None where queries have no boxes."""
        if self.sizes is None:
            return self.anchors
        return torch.cat((self.get_buffer("centres"), self.sizes), dim=1)

    def forward(self, memory: Memory) -> Queries:
        batch = memory.tokens.shape[0]  # ``len()`` would be a constant in an exported graph
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
        """Anchors, 0–1 of the image, and learned positional queries; either may be None."""
        logits = self.logits()
        if logits is not None:
            return logits.float().sigmoid(), None
        if self.to_point is None:
            return None, self.positions
        return self.to_point(self.positions).float().sigmoid(), self.positions


def initial_anchors(count: int, start: str) -> torch.Tensor:
    """Anchor logits [count, 4]: x, y, w, h.

    'normal': N(0, 1), as released. 'uniform': centres uniform over the image. 'uniform_small': also
    sizes of about 0.2, which saves several epochs on small data sets.
    """
    logits = torch.randn(count, 4)
    if start != "normal":
        logits[:, :2] = inverse_sigmoid(torch.rand(count, 2))
    if start == "uniform_small":
        logits[:, 2:] = -1.4 + 0.4 * logits[:, 2:]
    return logits
