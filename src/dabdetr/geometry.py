"""Box frames, the inverse sigmoid, and the one place where an anchor moves.

Boxes inside the model are (centre x, centre y, width, height), 0–1 of the unpadded image.
"""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor

SMALLEST_SIDE = 1e-5
"""Least width or height, 0–1 of the image, that anything is ever divided by."""


def inverse_sigmoid(x: Float[Tensor, "*shape"], eps: float = 1e-3) -> Float[Tensor, "*shape"]:
    """Logits of probabilities; both x and 1 − x are held above ``eps``.

    The official DAB, DN and DINO code uses 1e-3; Conditional, Deformable and all ports to
    transformers use 1e-5.
    """
    x = x.clamp(0, 1)
    return torch.log(x.clamp(min=eps) / (1 - x).clamp(min=eps))


def move(
    anchors: Float[Tensor, "*batch frame"] | None,
    deltas: Float[Tensor, "*batch 4"],
    eps: float = 1e-3,
) -> Float[Tensor, "*batch 4"]:
    """Boxes after shifting ``anchors`` by ``deltas`` in logit space, in float32 (DAB-DETR §3.2).

    An anchor that is only a point (frame 2) gives its centre; the sides then come from the deltas.
    Without anchors the deltas are the boxes' own logits (DETR).
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
    """Shared area over joint area of corner boxes, broadcast over leading dimensions."""
    overlap, union = _overlap_and_union(a, b)
    return overlap / union.clamp(min=SMALLEST_SIDE**2)


def generalized_iou(
    a: Float[Tensor, "*#batch 4"], b: Float[Tensor, "*#batch 4"], eps: float = 1e-6
) -> Float[Tensor, "*batch"]:
    """GIoU of corner boxes, broadcast over leading dimensions (Rezatofighi et al. 2019, eq. 3).

    ``eps`` is added to both denominators as in the DAB, DN and DINO code; torchvision has no such
    term, and for small boxes the difference is seen.
    """
    overlap, union = _overlap_and_union(a, b)
    around = torch.maximum(a[..., 2:], b[..., 2:]) - torch.minimum(a[..., :2], b[..., :2])
    hull = around.clamp(min=0).prod(-1)
    return overlap / (union + eps) - (hull - union) / (hull + eps)


def _overlap_and_union(a: Tensor, b: Tensor) -> tuple[Tensor, Tensor]:
    area_a = (a[..., 2] - a[..., 0]) * (a[..., 3] - a[..., 1])
    area_b = (b[..., 2] - b[..., 0]) * (b[..., 3] - b[..., 1])
    shared = torch.minimum(a[..., 2:], b[..., 2:]) - torch.maximum(a[..., :2], b[..., :2])
    overlap = shared.clamp(min=0).prod(-1)
    return overlap, area_a + area_b - overlap
