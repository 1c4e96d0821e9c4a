"""Faster R-CNN on the encoder's maps: proposals, then classes and boxes of regions.

The parts are torchvision's; our losses use the samples that they return.
"""

from __future__ import annotations

import math
from itertools import pairwise

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torchvision.models.detection.anchor_utils import AnchorGenerator
from torchvision.models.detection.faster_rcnn import FastRCNNPredictor, TwoMLPHead
from torchvision.models.detection.roi_heads import RoIHeads
from torchvision.models.detection.rpn import (
    RegionProposalNetwork,
    RPNHead,
    concat_box_prediction_layers,
)
from torchvision.ops.poolers import LevelMapper, MultiScaleRoIAlign

from dabdetr import config
from dabdetr.model.collaborative.pyramid import NOTHING, Found, HeadInputs
from dabdetr.structures import HeadSamples

RATIOS = (0.5, 1.0, 2.0)
OCTAVE, SCALES = 4.0, 3
"""Anchor sides in cells: the smallest, and the number of sizes within one doubling."""
CELLS = 7
"""Cells of a region along each side."""


class FasterRCNN(nn.Module):
    """Proposals learn objectness; regions learn class and box (Co-DETR §3.2)."""

    def __init__(
        self, part: config.Collaborative, width: int, classes: int, strides: tuple[int, ...]
    ) -> None:
        """``strides`` of all maps; regions are not pooled from the last one, the extra map."""
        super().__init__()
        self.classes = classes
        sizes = tuple(
            tuple(OCTAVE * stride * 2 ** (n / SCALES) for n in range(SCALES)) for stride in strides
        )
        self.rpn = RegionProposalNetwork(
            AnchorGenerator(sizes, (RATIOS,) * len(strides)),  # pyright: ignore
            RPNHead(width, SCALES * len(RATIOS)),
            fg_iou_thresh=0.7,
            bg_iou_thresh=0.3,
            batch_size_per_image=256,
            positive_fraction=0.5,
            pre_nms_top_n={"training": 4000, "testing": 4000},
            post_nms_top_n={"training": 1000, "testing": 1000},
            nms_thresh=0.7,
        )
        self.roi = RoIHeads(
            _pool(strides[:-1]),
            TwoMLPHead(width * CELLS**2, part.region_width),
            FastRCNNPredictor(part.region_width, classes + 1),
            fg_iou_thresh=0.5,
            bg_iou_thresh=0.5,
            batch_size_per_image=part.regions,
            positive_fraction=0.25,
            bbox_reg_weights=(10.0, 10.0, 5.0, 5.0),
            score_thresh=0.0,
            nms_thresh=0.5,
            detections_per_img=100,
        )

    def forward(self, inputs: HeadInputs) -> Found:
        """Proposals of all images, and regions sampled from them and from the true boxes."""
        proposals, judged = self._propose(inputs)
        objects = [
            {"boxes": boxes, "labels": inputs.labels(image) + 1}  # 0 is background
            for image, boxes in enumerate(inputs.boxes)
        ]
        places, matched, labels, _ = self.roi.select_training_samples(proposals, objects)
        named = {str(level): m for level, m in enumerate(inputs.maps[:-1])}
        pooled = self.roi.box_roi_pool(named, places, inputs.shapes)
        logits, deltas = self.roi.box_predictor(self.roi.box_head(pooled))

        rows = [
            torch.full_like(label, NOTHING).masked_scatter(label > 0, own[index[label > 0]])
            for own, index, label in zip(inputs.rows, matched, labels, strict=True)
        ]
        wanted = [
            boxes[index[label > 0]]
            for boxes, index, label in zip(inputs.boxes, matched, labels, strict=True)
        ]
        label = torch.cat(labels)
        positive = label > 0
        deltas = deltas.float().unflatten(1, (self.classes + 1, 4))[positive, label[positive]]
        samples = HeadSamples(
            "rcnn",
            logits.roll(-1, dims=1),  # background is the last class
            torch.where(positive, label - 1, self.classes),
            self.roi.box_coder.decode_single(deltas, torch.cat(places)[positive]),
            torch.cat(wanted),
        )
        shown = pooled.mean((2, 3)).split([len(of_image) for of_image in places])
        return Found((judged, samples), places, rows, list(shown))

    def _propose(
        self, inputs: HeadInputs
    ) -> tuple[list[Float[Tensor, "proposals 4"]], HeadSamples]:
        """Proposals of every image, and a random sample of anchors with their targets."""
        batch = len(inputs.sizes)
        anchors = torch.cat(inputs.anchors(self.rpn.anchor_generator))  # pyright: ignore
        levels, moves = self.rpn.head(inputs.maps)
        counts = [level[0].numel() for level in levels]
        logits, deltas = concat_box_prediction_layers(levels, moves)
        logits, deltas = logits.float(), deltas.float()
        everywhere = anchors.repeat(batch, 1)
        boxes = self.rpn.box_coder.decode_single(deltas.detach(), everywhere)
        proposals, _ = self.rpn.filter_proposals(
            boxes.unflatten(0, (batch, -1)), logits, inputs.shapes, counts
        )

        labels, matched = self.rpn.assign_targets_to_anchors(
            [anchors] * batch, [{"boxes": boxes} for boxes in inputs.boxes]
        )
        shown = inputs.shown(anchors)
        labels = [label.where(seen, -1.0) for label, seen in zip(labels, shown, strict=True)]
        positives, negatives = self.rpn.fg_bg_sampler(labels)
        positive, negative = torch.cat(positives).bool(), torch.cat(negatives).bool()
        chosen = positive | negative
        wanted = torch.cat(matched)[positive]
        samples = HeadSamples(
            "rpn",
            logits[chosen],
            (~positive[chosen]).long(),
            deltas[positive],
            self.rpn.box_coder.encode_single(wanted, everywhere[positive]),
        )
        return proposals, samples


def _pool(strides: tuple[int, ...]) -> MultiScaleRoIAlign:
    """Pool each region from the level of its size. The strides are known, not inferred."""
    assert all(2 * fine == coarse for fine, coarse in pairwise(strides))
    pool = MultiScaleRoIAlign([str(level) for level in range(len(strides))], CELLS, 0)
    pool.scales = [1 / stride for stride in strides]
    fine = round(math.log2(strides[0]))
    pool.map_levels = LevelMapper(fine, fine + len(strides) - 1)
    return pool
