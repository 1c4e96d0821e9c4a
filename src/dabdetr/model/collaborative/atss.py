"""ATSS on the encoder's maps: one square anchor per cell, positives chosen for each object."""

from __future__ import annotations

import math

import torch
from jaxtyping import Bool, Float, Int64
from torch import Tensor, nn
from torchvision.models.detection._utils import BoxCoder
from torchvision.models.detection.anchor_utils import AnchorGenerator
from torchvision.ops import box_iou

from dabdetr.model.collaborative.pyramid import IGNORED, NOTHING, Found, HeadInputs, centres
from dabdetr.model.heads import PRIOR
from dabdetr.structures import HeadSamples

OCTAVE = 8.0
"""Sides of an anchor, in cells."""
CANDIDATES = 9
"""Candidate anchors of an object per level: those with the nearest centres."""
INSIDE = 0.01
"""Distance in pixels that an anchor's centre must keep inside the object's edges."""


class ATSS(nn.Module):
    """Class, box and centerness of every cell (Zhang et al. 2020), from one convolution each."""

    def __init__(self, width: int, classes: int, strides: tuple[int, ...]) -> None:
        super().__init__()
        self.generator = AnchorGenerator(
            tuple((OCTAVE * stride,) for stride in strides),  # pyright: ignore
            ((1.0,),) * len(strides),
        )
        self.coder = BoxCoder((10.0, 10.0, 5.0, 5.0))
        self.naming, self.placing = _convolution(width), _convolution(width)
        self.classes = nn.Conv2d(width, classes, 3, padding=1)
        self.boxes = nn.Conv2d(width, 4, 3, padding=1)
        self.centerness = nn.Conv2d(width, 1, 3, padding=1)
        self.scales = nn.Parameter(torch.ones(len(strides)))
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.normal_(module.weight, std=0.01)
                if module.bias is not None:
                    nn.init.zeros_(module.bias)
        nn.init.constant_(self.classes.bias, -math.log((1 - PRIOR) / PRIOR))  # pyright: ignore

    def forward(self, inputs: HeadInputs) -> Found:
        """Predictions of all cells, each with its assigned object."""
        levels = inputs.anchors(self.generator)
        anchors = torch.cat(levels)
        shown = inputs.shown(anchors)
        rows = torch.stack(
            [
                _rows(assign_atss(levels, seen, boxes), own).masked_fill(~seen, IGNORED)
                for seen, boxes, own in zip(shown, inputs.boxes, inputs.rows, strict=True)
            ]
        )
        logits, deltas, centerness = self._predict(inputs.maps)
        positive = rows >= 0
        image, place = positive.nonzero(as_tuple=True)
        labels = torch.full_like(rows, logits.shape[-1])
        labels[positive] = inputs.targets.labels[rows[positive]]
        wanted = _corners(inputs)[rows[positive]]
        samples = HeadSamples(
            "atss",
            logits[shown],
            labels[shown],
            self.coder.decode_single(deltas[image, place], anchors[place]),
            wanted,
            centerness[image, place],
            centrality(anchors[place], wanted),
        )
        tokens = torch.cat([level.flatten(2).transpose(1, 2) for level in inputs.maps], dim=1)
        return Found((samples,), [anchors] * len(rows), list(rows), list(tokens))

    def _predict(self, maps: list[Tensor]) -> tuple[Tensor, Tensor, Tensor]:
        """Class logits, box deltas and centerness logits of all cells, float32."""
        outputs_by_kind: list[list[Tensor]] = [[], [], []]
        for level, scale in zip(maps, self.scales, strict=True):
            naming, placing = self.naming(level), self.placing(level)
            outputs = self.classes(naming), self.boxes(placing) * scale, self.centerness(placing)
            for list_, output in zip(outputs_by_kind, outputs, strict=True):
                list_.append(output.float().flatten(2).transpose(1, 2))
        logits, deltas, centerness = (torch.cat(levels, dim=1) for levels in outputs_by_kind)
        return logits, deltas, centerness[..., 0]


def assign_atss(
    levels: list[Float[Tensor, "_ 4"]],
    shown: Bool[Tensor, " places"],
    boxes: Float[Tensor, "objects 4"],
) -> Int64[Tensor, " places"]:
    """The object assigned to each anchor, or NOTHING (Zhang et al. 2020, algorithm 1).

    Candidates of an object are the nearest anchors of each level. Positive are those whose IoU
    reaches the mean plus the standard deviation over the candidates, and whose centre lies in the
    object. An anchor with several objects gets the one with the highest IoU. Only ``shown`` anchors
    count.
    """
    anchors = torch.cat(levels)
    if not len(boxes):
        return torch.full_like(shown, NOTHING, dtype=torch.long)
    points = centres(anchors)
    distance = torch.cdist(centres(boxes), points).masked_fill(~shown, math.inf)
    nearest, start = [], 0
    for level in distance.split([len(level) for level in levels], dim=1):
        best = level.topk(min(CANDIDATES, level.shape[1]), dim=1, largest=False).indices
        nearest.append(best + start)
        start += level.shape[1]
    candidates = torch.cat(nearest, dim=1)

    counted = shown[candidates]
    overlap = box_iou(boxes, anchors).gather(1, candidates)
    inner = torch.minimum(points - boxes[:, None, :2], boxes[:, None, 2:] - points).amin(-1)
    own = counted & (overlap >= _threshold(overlap, counted)[:, None])
    own &= inner.gather(1, candidates) > INSIDE
    score = torch.full_like(distance, -1.0)
    score.scatter_(1, candidates, overlap.where(own, -1.0))
    best = score.max(dim=0)
    return best.indices.where(best.values >= 0, NOTHING)


def _threshold(
    overlap: Float[Tensor, "objects candidates"], counted: Bool[Tensor, "objects candidates"]
) -> Float[Tensor, " objects"]:
    """Mean plus standard deviation over the masked candidates."""
    count = counted.sum(1)
    mean = (overlap * counted).sum(1) / count.clamp(min=1)
    variance = ((overlap - mean[:, None]).square() * counted).sum(1) / (count - 1).clamp(min=1)
    return mean + variance.sqrt()


def centrality(anchors: Float[Tensor, "n 4"], boxes: Float[Tensor, "n 4"]) -> Float[Tensor, " n"]:
    """How central anchors lie in boxes: 1 in the middle, 0 at the edge (FCOS, eq. 3)."""
    points = centres(anchors)
    low, high = points - boxes[:, :2], boxes[:, 2:] - points
    return (torch.minimum(low, high) / torch.maximum(low, high)).prod(-1).clamp(min=0).sqrt()


def _convolution(width: int) -> nn.Sequential:
    groups = 32 if width % 64 == 0 else 4
    conv = nn.Conv2d(width, width, 3, padding=1, bias=False)
    return nn.Sequential(conv, nn.GroupNorm(groups, width), nn.ReLU())


def _rows(
    index: Int64[Tensor, " places"], own: Int64[Tensor, " objects"]
) -> Int64[Tensor, " places"]:
    """Indices among an image's objects → rows of ``Targets``."""
    return torch.cat((own, own.new_tensor([NOTHING])))[index]


def _corners(inputs: HeadInputs) -> Float[Tensor, "objects 4"]:
    """Corner boxes in pixels by row of ``Targets``; 0 for objects that were left out."""
    boxes = inputs.sizes.new_zeros(len(inputs.targets.labels), 4)
    return boxes.index_copy(0, torch.cat(inputs.rows), torch.cat(inputs.boxes))
