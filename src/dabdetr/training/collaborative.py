"""Losses of the collaborative heads themselves; those of their queries are any group's."""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor
from torchvision.ops import generalized_box_iou_loss, sigmoid_focal_loss

from dabdetr.config import Loss
from dabdetr.structures import HeadSamples

HEAD_WEIGHTS = {
    "rpn": {"loss_ce": 1.0, "loss_bbox": 1.0},
    "rcnn": {"loss_ce": 1.0, "loss_giou": 10.0},
    "atss": {"loss_ce": 1.0, "loss_giou": 2.0, "loss_centerness": 1.0},
}
"""Of each head's terms; all are multiplied by decoder layers × ``loss.collaborative_weight``."""


def head_terms(samples: HeadSamples, loss: Loss) -> dict[str, Tensor]:
    """The unweighted terms of one head, in float32; 0 with a gradient where it has no positives.

    Proposals and regions are divided by all samples (Ren et al. 2015); ATSS by its positives, and
    its boxes, each weighted by how central it lies, by the sum of those weights.
    """
    logits, labels = samples.logits.float(), samples.labels
    count = max(1, len(labels))
    if samples.name == "rpn":
        objects = (labels == 0).to(logits.dtype)
        naming = F.binary_cross_entropy_with_logits(logits[:, 0], objects, reduction="sum")
        return {
            "loss_ce": naming / count,
            "loss_bbox": (samples.found - samples.wanted).abs().sum() / count,
        }
    giou = generalized_box_iou_loss(samples.found, samples.wanted)
    if samples.centerness is None or samples.central is None:
        return {
            "loss_ce": F.cross_entropy(logits, labels, reduction="sum") / count,
            "loss_giou": giou.sum() / count,
        }
    positives = max(1, len(samples.found))
    truth = F.one_hot(labels, logits.shape[-1] + 1)[:, :-1].to(logits.dtype)
    focal = sigmoid_focal_loss(logits, truth, loss.alpha, loss.gamma, reduction="sum")
    central = F.binary_cross_entropy_with_logits(
        samples.centerness, samples.central, reduction="sum"
    )
    return {
        "loss_ce": focal / positives,
        "loss_giou": (giou * samples.central).sum() / samples.central.sum().clamp(min=1),
        "loss_centerness": central / positives,
    }
