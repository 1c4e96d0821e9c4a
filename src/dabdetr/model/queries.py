"""Where queries come from: learned boxes, points or positional queries."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from dabdetr import config
from dabdetr.geometry import inverse_sigmoid
from dabdetr.model.positions import mlp
from dabdetr.structures import Memory, Queries


class LearnedQueries(nn.Module):
    """Each query is parameters: an anchor box in logit space, and its content (DAB-DETR §3.2).

    Without boxes it is a positional query (DETR), and a point made of that (Conditional DETR §3.3).
    With patterns every anchor is asked once for each pattern, all anchors of the first pattern
    first (Anchor DETR): ``patterns × count`` queries.
    """

    def __init__(self, part: config.LearnedQueries, width: int, indicator: bool = False) -> None:
        """``indicator`` keeps the last channel of content at 0: no copy of denoising."""
        super().__init__()
        self.count, self.width, self.indicator = part.count, width, indicator
        self.anchors: nn.Parameter | None = None
        self.positions: nn.Parameter | None = None
        self.to_point: nn.Sequential | None = None
        self.content: nn.Parameter | None = None
        self.patterns: nn.Parameter | None = None
        if part.anchor == "box":
            self.anchors = nn.Parameter(initial_anchors(part.count, part.start))
        else:
            self.positions = nn.Parameter(torch.randn(part.count, width))
        if part.anchor == "point":
            self.to_point = mlp(*[width] * part.point_layers, 2)
        if part.content == "learned":
            self.content = nn.Parameter(torch.randn(part.count, width - indicator))
        if part.patterns:
            self.patterns = nn.Parameter(torch.randn(part.patterns, width))

    def forward(self, memory: Memory, unknown: Float[Tensor, " width"] | None = None) -> Queries:
        """``unknown`` is content that all queries start from, where denoising has it."""
        batch = len(memory.tokens)
        anchors, positions = self._places()
        if self.content is not None:
            content = F.pad(self.content, (0, int(self.indicator)))
        else:
            content = memory.tokens.new_zeros(self.count, self.width, dtype=torch.float32)
        if self.patterns is not None and anchors is not None:
            content = self.patterns.repeat_interleave(self.count, dim=0)
            anchors = anchors.repeat(len(self.patterns), 1)
        if unknown is not None:
            content = content + unknown
        return Queries(
            content.expand(batch, -1, -1),
            None if anchors is None else anchors.expand(batch, -1, -1),
            None if positions is None else positions.expand(batch, -1, -1),
        )

    def _places(self) -> tuple[Tensor | None, Tensor | None]:
        """Anchors, 0–1 of the image, and learned positional queries; one of them may be None."""
        if self.anchors is not None:
            return self.anchors.float().sigmoid(), None
        if self.to_point is None:
            return None, self.positions
        return self.to_point(self.positions).float().sigmoid(), self.positions


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
