"""Losses: class, L1 and GIoU terms of every decoder layer, and their weighted sum.

A query group contributes once its assignment is known, whatever the source of the assignment.
"""

from __future__ import annotations

from dataclasses import replace

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float
from torch import Tensor
from torchvision.ops import sigmoid_focal_loss

from dabdetr.config import Loss
from dabdetr.geometry import generalized_iou, iou, to_corners
from dabdetr.structures import Predictions, Targets
from dabdetr.training.head_losses import Table, head_loss
from dabdetr.training.matching import Assignment, assign

TERMS = ("loss_ce", "loss_bbox", "loss_giou")


def detection_loss(
    predictions: Predictions,
    targets: Targets,
    loss: Loss,
    assignment: Assignment | None = None,
    objects: Tensor | None = None,
) -> tuple[Float[Tensor, ""], Table]:
    """The weighted sum to minimise, and the table of its unweighted terms.

    ``assignment`` is computed by matching if None; the losses are divided by ``objects`` (see
    ``count_objects``).
    """
    if assignment is None:
        assignment = assign(predictions, targets, loss)
    if objects is None:
        objects = count_objects(sum(targets.counts), predictions.boxes.device)
    total, table = _weighted(group_losses(predictions, targets, assignment, loss, objects), loss)
    for group, own in predictions.groups:
        layers, known = len(own.logits), (group.image, group.query, group.target)
        layer = torch.arange(layers, device=group.image.device).repeat_interleave(len(group.image))
        pairs = Assignment(layer, *(column.repeat(layers) for column in known))
        asked = objects * group.copies
        terms = group_losses(own, targets, pairs, loss, asked, group.supervised[..., None])
        more, of_group = _weighted(terms, loss, f"{group.name}_")
        total, table = total + more, table | of_group
    if predictions.proposals is not None:
        more, of_proposals = _proposal_loss(predictions.proposals, targets, loss, objects)
        total, table = total + more, table | of_proposals
    for samples in predictions.heads:
        more, of_head = head_loss(samples, loss, len(predictions.logits))
        total, table = total + more, table | of_head
    return total, table


def _proposal_loss(
    proposals: Predictions, targets: Targets, loss: Loss, objects: Tensor
) -> tuple[Tensor, Table]:
    """The same terms for the encoder's proposals, with their own matching; their layer is −1."""
    if proposals.objectness:
        targets = replace(targets, labels=torch.zeros_like(targets.labels), known=None)
    pairs = assign(proposals, targets, loss)
    total, table = _weighted(
        group_losses(proposals, targets, pairs, loss, objects), loss, "proposal_"
    )
    return total, {(term, -1): value for (term, _), value in table.items()}


def _weighted(
    terms: dict[str, Tensor], loss: Loss, prefix: str = ""
) -> tuple[Float[Tensor, ""], Table]:
    """The weighted sum of a group's terms over layers, and their table."""
    weights = (loss.class_weight, loss.box_weight, loss.giou_weight)
    total = torch.stack([w * terms[name].sum() for name, w in zip(TERMS, weights, strict=True)])
    table = {
        (prefix + name, layer): value
        for name in TERMS
        for layer, value in enumerate(terms[name].detach().unbind())
    }
    return total.sum(), table


def group_losses(
    predictions: Predictions,
    targets: Targets,
    assignment: Assignment,
    loss: Loss,
    objects: Tensor | float,
    supervised: Bool[Tensor, "batch queries 1"] | None = None,
) -> dict[str, Float[Tensor, " layers"]]:
    """Each term for all layers of one query group whose assignment is known, in float32.

    Queries without an object are background: they count in the class term only. Without any object
    the box terms are 0 and still have a (zero) gradient. Queries that are not ``supervised`` count
    nowhere. Classes that an image is not labelled for count only at pairs with an object.
    """
    logits, boxes = predictions.logits.float(), predictions.boxes.float()
    pairs = (assignment.layer, assignment.image, assignment.query)

    found, wanted = boxes[pairs], targets.boxes.float()[assignment.target]
    distance = (found - wanted).abs().sum(-1)
    corners, true_corners = to_corners(found), to_corners(wanted)
    giou = generalized_iou(corners, true_corners, loss.iou_eps)
    labels, target_score = targets.labels[assignment.target], torch.ones_like(giou)
    if loss.classification in ("quality", "mal"):
        target_score = iou(corners, true_corners).detach()
    if loss.classification == "mal":
        target_score = target_score**loss.gamma
    if targets.known is not None:
        known = targets.known[:, None]  # [batch, 1, classes]
        supervised = known if supervised is None else known & supervised
    nothing = boxes.new_zeros(len(boxes))
    weights = None if targets.weights is None else targets.weights[assignment.target]
    classes = (labels, target_score, loss, objects, supervised, weights)
    return {
        "loss_ce": class_loss(logits, pairs, *classes),
        "loss_bbox": nothing.index_add(0, assignment.layer, distance) / objects,
        "loss_giou": nothing.index_add(0, assignment.layer, 1 - giou) / objects,
    }


def class_loss(
    logits: Float[Tensor, "layers batch queries logits"],
    pairs: tuple[Tensor, Tensor, Tensor],
    labels: Tensor,
    target_score: Tensor,
    loss: Loss,
    objects: Tensor | float,
    supervised: Bool[Tensor, "*broadcast logits"] | None = None,
    of_pairs: Float[Tensor, " pairs"] | None = None,
) -> Float[Tensor, " layers"]:
    """The class term: queries in ``pairs`` have the label of their object, all others background.

    ``of_pairs`` are weights of the pairs: of the label's own logit; under softmax, of the query.

    Softmax: the mean over queries, in which those without an object weigh ``no_object_weight``
    (DETR §3.1). The other kinds are summed over queries and divided by ``objects``. Focal: Lin et
    al. 2017. Quality: focal with the IoU of the box, ``target_score``, as the label's target (Li et
    al. 2020). MAL: binary cross-entropy with the target IoU^γ, weighted 1 at pairs and p^γ
    elsewhere (DEIM §3.2).
    """
    if loss.classification == "softmax":
        return _softmax_loss(logits, pairs, labels, loss, supervised, of_pairs)
    truth = torch.zeros_like(logits)
    truth[(*pairs, labels)] = target_score
    if loss.classification == "focal":
        errors = sigmoid_focal_loss(logits, truth, loss.alpha, loss.gamma)
    else:
        errors = F.binary_cross_entropy_with_logits(logits, truth, reduction="none")
        if loss.classification == "quality":
            weights = (logits.sigmoid() - truth).abs() ** loss.gamma
        else:
            weights = logits.detach().sigmoid() ** loss.gamma
            weights[(*pairs, labels)] = 1.0
        errors = errors * weights
    if supervised is not None:
        counted = supervised.expand(logits.shape).clone()
        counted[(*pairs, labels)] = True
        errors = errors * counted
    if of_pairs is not None:
        factor = torch.ones_like(errors)
        factor[(*pairs, labels)] = of_pairs
        errors = errors * factor
    return errors.sum((1, 2, 3)) / objects


def _softmax_loss(
    logits: Float[Tensor, "layers batch queries logits"],
    pairs: tuple[Tensor, Tensor, Tensor],
    labels: Tensor,
    loss: Loss,
    supervised: Bool[Tensor, "*broadcast logits"] | None,
    of_pairs: Tensor | None,
) -> Float[Tensor, " layers"]:
    nothing = logits.shape[-1] - 1
    wanted = torch.full(logits.shape[:-1], nothing, device=logits.device)
    wanted[pairs] = labels
    if supervised is not None and supervised.shape[-1] > 1:  # unlabelled, not absent
        free = F.pad(~supervised, (0, 1)).expand(logits.shape).clone()  # "no object" always counts
        free[(*pairs, labels)] = False
        logits = logits.masked_fill(free, float("-inf"))
        supervised = None
    errors = F.cross_entropy(logits.movedim(-1, 1), wanted, reduction="none")
    weights = torch.where(wanted == nothing, loss.no_object_weight, 1.0)
    if of_pairs is not None:
        weights[pairs] = of_pairs
    if supervised is not None:
        weights = weights * supervised[..., 0]
    return (weights * errors).sum((1, 2)) / weights.sum((1, 2))


def count_objects(number: float, device: torch.device) -> Float[Tensor, ""]:
    """The divisor of the losses: objects of a batch, averaged over ranks, at least 1."""
    objects = torch.tensor(float(number), device=device)
    if torch.distributed.is_available() and torch.distributed.is_initialized():
        torch.distributed.all_reduce(objects)
        objects /= torch.distributed.get_world_size()
    return objects.clamp(min=1)
