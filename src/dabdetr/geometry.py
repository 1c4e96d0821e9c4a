"""Box formats, IoU, the inverse sigmoid, and the only function that moves anchors.

Boxes inside the model are (centre x, centre y, width, height), 0–1 of the unpadded image.
"""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor

SMALLEST_SIDE = 1e-5
"""Lower bound of a width or height (0–1 of the image) that is used as a divisor."""


def inverse_sigmoid(x: Float[Tensor, "*shape"], eps: float = 1e-3) -> Float[Tensor, "*shape"]:
    """Logits of probabilities; both x and 1 − x are clamped to at least ``eps``.

    The official code of DAB, DN and DINO uses 1e-3; that of Conditional and Deformable DETR and all
    ports to transformers use 1e-5.
    """
    x = x.clamp(0, 1)
    return torch.log(x.clamp(min=eps) / (1 - x).clamp(min=eps))


def move(
    anchors: Float[Tensor, "*batch frame"] | None,
    deltas: Float[Tensor, "*batch 4"],
    eps: float = 1e-3,
) -> Float[Tensor, "*batch 4"]:
    """Boxes after shifting ``anchors`` by ``deltas`` in logit space, in float32 (DAB-DETR §3.2).

    For point anchors (``frame`` 2) only the centre is shifted: the deltas of width and height are
    their logits. Without anchors all four deltas are the logits of the box (DETR).
    """
    if anchors is None:
        return deltas.float().sigmoid()
    logits = inverse_sigmoid(anchors.float(), eps)
    missing = deltas.shape[-1] - logits.shape[-1]
    if missing:
        logits = torch.nn.functional.pad(logits, (0, missing))
    return (deltas.float() + logits).sigmoid()


def to_corners(boxes: Float[Tensor, "*batch 4"]) -> Float[Tensor, "*batch 4"]:
    """(cx, cy, w, h) → (x0, y0, x1, y1), same units."""
    centre, size = boxes.split(2, dim=-1)
    return torch.cat((centre - size / 2, centre + size / 2), dim=-1)


def to_centres(boxes: Float[Tensor, "*batch 4"]) -> Float[Tensor, "*batch 4"]:
    """(x0, y0, x1, y1) → (cx, cy, w, h), same units."""
    low, high = boxes.split(2, dim=-1)
    return torch.cat(((low + high) / 2, high - low), dim=-1)


def iou(a: Float[Tensor, "*#batch 4"], b: Float[Tensor, "*#batch 4"]) -> Float[Tensor, "*batch"]:
    """IoU of corner boxes, broadcast over leading dimensions."""
    overlap, union = _overlap_and_union(a, b)
    return overlap / union.clamp(min=SMALLEST_SIDE**2)


def generalized_iou(
    a: Float[Tensor, "*#batch 4"], b: Float[Tensor, "*#batch 4"], eps: float = 1e-6
) -> Float[Tensor, "*batch"]:
    """GIoU of corner boxes, broadcast over leading dimensions (Rezatofighi et al. 2019, eq. 3).

    ``eps`` is added to both denominators as in the code of DAB, DN and DINO. torchvision adds
    nothing, which gives visibly different values for small boxes.
    """
    overlap, union = _overlap_and_union(a, b)
    hull_sides = torch.maximum(a[..., 2:], b[..., 2:]) - torch.minimum(a[..., :2], b[..., :2])
    hull = hull_sides.clamp(min=0).prod(-1)
    return overlap / (union + eps) - (hull - union) / (hull + eps)


def _overlap_and_union(a: Tensor, b: Tensor) -> tuple[Tensor, Tensor]:
    area_a = (a[..., 2] - a[..., 0]) * (a[..., 3] - a[..., 1])
    area_b = (b[..., 2] - b[..., 0]) * (b[..., 3] - b[..., 1])
    sides = torch.minimum(a[..., 2:], b[..., 2:]) - torch.maximum(a[..., :2], b[..., :2])
    overlap = sides.clamp(min=0).prod(-1)
    return overlap, area_a + area_b - overlap
