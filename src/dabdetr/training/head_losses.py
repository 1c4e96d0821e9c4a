"""Losses of the collaborative heads (Co-DETR), in addition to the detector's own."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor
from torchvision.ops import generalized_box_iou_loss, sigmoid_focal_loss

from dabdetr.config import Loss
from dabdetr.structures import HeadSamples

Table = dict[tuple[str, int], Tensor]
"""Unweighted, detached values by (term, decoder layer); layers count from 0, the encoder is −1."""

HEAD_WEIGHTS = {
    "rpn": {"loss_ce": 1.0, "loss_bbox": 1.0},
    "rcnn": {"loss_ce": 1.0, "loss_giou": 10.0},
    "atss": {"loss_ce": 1.0, "loss_giou": 2.0, "loss_centerness": 1.0},
}
"""Of each collaborative head's terms; all are multiplied by decoder layers and by
``loss.collaborative_weight``."""


def head_loss(samples: HeadSamples, loss: Loss, layers: int) -> tuple[Tensor, Table]:
    """The weighted loss of a collaborative head, which counts as much as all decoder layers."""
    terms, name = head_terms(samples, loss), samples.name
    weights = HEAD_WEIGHTS[name]
    total = torch.stack([weights[term] * value for term, value in terms.items()]).sum()
    table = {(f"{name}_{term}", -1): value.detach() for term, value in terms.items()}
    return layers * loss.collaborative_weight * total, table


def head_terms(samples: HeadSamples, loss: Loss) -> dict[str, Tensor]:
    """The unweighted terms of a collaborative head, in float32.

    Without positives, the box terms are 0 and keep a (zero) gradient.
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
