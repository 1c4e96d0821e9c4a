"""Where queries come from: dynamic anchor boxes that are learned."""

from __future__ import annotations

import torch
from torch import nn

from dabdetr import config
from dabdetr.geometry import inverse_sigmoid
from dabdetr.structures import Memory, Queries


class LearnedQueries(nn.Module):
    """Each query is an anchor box, a parameter in logit space, and its content (DAB-DETR §3.2).

    With patterns every anchor is asked once for each pattern, all anchors of the first pattern
    first (Anchor DETR): ``patterns × count`` queries.
    """

    def __init__(self, part: config.LearnedQueries, width: int) -> None:
        super().__init__()
        self.anchors = nn.Parameter(initial_anchors(part.count, part.start))
        self.content: nn.Parameter | None = None
        self.patterns: nn.Parameter | None = None
        self.width = width
        if part.content == "learned":
            self.content = nn.Parameter(torch.randn(part.count, width))
        if part.patterns:
            self.patterns = nn.Parameter(torch.randn(part.patterns, width))

    def forward(self, memory: Memory) -> Queries:
        batch = len(memory.tokens)
        logits = self.anchors
        if self.patterns is not None:
            content = self.patterns.repeat_interleave(len(logits), dim=0)
            logits = logits.repeat(len(self.patterns), 1)
        elif self.content is not None:
            content = self.content
        else:
            content = logits.new_zeros(len(logits), self.width)
        anchors = logits.float().sigmoid()
        return Queries(content.expand(batch, -1, -1), anchors.expand(batch, -1, -1))


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
