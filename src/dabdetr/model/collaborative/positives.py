"""Positives of a collaborative head → a query group of the decoder (Co-DETR §3.3)."""

from __future__ import annotations

import torch
from jaxtyping import Int64
from torch import Tensor, nn

from dabdetr.geometry import inverse_sigmoid
from dabdetr.model.collaborative.pyramid import NOTHING, Found, Scene
from dabdetr.model.positions import anchor_code
from dabdetr.structures import QueryGroup

LEAST = 9
"""Queries of a group, where there are fewer positives."""


class PositiveQueries(nn.Module):
    """Places where a head must find objects become queries that must find the same ones.

    Images with fewer positives than others are filled up with places that show nothing.
    """

    def __init__(self, name: str, width: int, most: int, features: bool, eps: float) -> None:
        super().__init__()
        self.name, self.width, self.most, self.eps = name, width, most, eps
        self.place = nn.Sequential(nn.Linear(2 * width, width), nn.LayerNorm(width))
        self.feature: nn.Sequential | None = None
        if features:
            self.feature = nn.Sequential(nn.Linear(width, width), nn.LayerNorm(width))

    def forward(self, scene: Scene, found: Found) -> QueryGroup:
        """A group that sees itself alone, its pairs those of the head."""
        positives = max(int((rows >= 0).sum()) for rows in found.rows)
        count = min(self.most, max(LEAST, positives))
        batch, device = len(found.rows), scene.sizes.device
        anchors = torch.full((batch, count, 4), 0.5, device=device)
        features = torch.zeros(batch, count, self.width, device=device)
        rows = torch.full((batch, count), NOTHING, device=device)
        filled = torch.zeros(batch, count, dtype=torch.bool, device=device)
        for image in range(batch):
            chosen = choose(found.rows[image], count)
            slots = slice(0, len(chosen))
            anchors[image, slots] = scene.relative(found.places[image][chosen], image)
            features[image, slots] = found.features[image][chosen].to(features.dtype)
            rows[image, slots] = found.rows[image][chosen]
            filled[image, slots] = True
        anchors = inverse_sigmoid(anchors.detach(), self.eps).sigmoid()
        content = self.place(anchor_code(anchors, self.width))
        if self.feature is not None:
            content = content + self.feature(features)
        image, query = (rows >= 0).nonzero(as_tuple=True)
        return QueryGroup(
            name=f"{self.name}_queries",
            content=content * filled[..., None],
            anchors=anchors,
            hidden=torch.zeros(count, count, dtype=torch.bool, device=device),
            image=image,
            query=query,
            target=rows[image, query],
            # Losses are divided by the positives; what should say nothing does not count (SPEC).
            copies=max(1, len(query)) / max(1, len(scene.targets.labels)),
            supervised=filled,
            sees_matching=False,
        )


def choose(rows: Int64[Tensor, " places"], count: int) -> Int64[Tensor, " chosen"]:
    """Places of random objects first, then random places without one; ``count`` where possible."""
    chosen = _some((rows >= 0).nonzero()[:, 0], count)
    return torch.cat((chosen, _some((rows == NOTHING).nonzero()[:, 0], count - len(chosen))))


def _some(places: Tensor, count: int) -> Tensor:
    return places[torch.randperm(len(places), device=places.device)[:count]]
