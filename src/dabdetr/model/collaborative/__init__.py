"""Collaborative heads: classic detectors used in training only (Co-DETR).

They learn from the encoder's maps, which teaches the maps to separate objects everywhere. Their
positives become decoder queries with known objects.
"""

from __future__ import annotations

from jaxtyping import Float
from torch import Tensor, nn

from dabdetr import config
from dabdetr.model.collaborative.atss import ATSS
from dabdetr.model.collaborative.faster_rcnn import FasterRCNN
from dabdetr.model.collaborative.pyramid import PositiveQueries, head_inputs, maps_of
from dabdetr.structures import HeadSamples, Images, Memory, QueryGroup, Targets


class Collaborative(nn.Module):
    """Encoder maps, plus one coarser map → the samples and a query group of each head."""

    def __init__(self, model: config.Model, classes: int) -> None:
        super().__init__()
        part, encoder, width = model.collaborative, model.encoder, model.width
        assert part is not None
        assert encoder.kind == "deformable"  # checked by the config
        strides = model.backbone.strides
        further = encoder.levels + 1 - len(strides)
        self.strides = (*strides, *(strides[-1] * 2**n for n in range(1, further + 1)))
        groups = 32 if width % 64 == 0 else 4
        self.coarser = nn.Sequential(
            nn.Conv2d(width, width, 3, stride=2, padding=1), nn.GroupNorm(groups, width)
        )
        self.heads, self.queries = nn.ModuleDict(), nn.ModuleDict()
        for name in part.heads:
            if name == "rcnn":
                self.heads[name] = FasterRCNN(part, width, classes, self.strides)
            else:
                self.heads[name] = ATSS(width, classes, self.strides)
            self.queries[name] = PositiveQueries(
                name, width, part.max_positives, part.features, model.anchor_eps
            )

    def forward(
        self, memory: Memory, images: Images, targets: Targets
    ) -> tuple[tuple[QueryGroup, ...], tuple[HeadSamples, ...]]:
        """Return the query groups of all heads, and the samples for their losses."""
        maps = maps_of(memory)
        maps.append(self._one_more(maps[-1]))
        inputs = head_inputs(maps, self.strides, images, targets)
        groups: list[QueryGroup] = []
        samples: list[HeadSamples] = []
        for name, head in self.heads.items():
            found = head(inputs)
            groups.append(self.queries[name](inputs, found))
            samples += found.samples
        return tuple(groups), tuple(samples)

    def _one_more(self, last: Float[Tensor, "b c h w"]) -> Float[Tensor, "b c y x"]:
        """The last map at half the size, in float32 like the others."""
        return self.coarser(last).float()
