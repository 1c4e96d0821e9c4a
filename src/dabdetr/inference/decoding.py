"""From logits and boxes of the last decoder layer to ranked boxes in pixels."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal, NamedTuple

import torch
from jaxtyping import Float, Int
from torch import Tensor

from dabdetr.geometry import to_corners


class Decoded(NamedTuple):
    """What one picture's queries found, best first; queries are indices of decoder slots."""

    boxes: Float[Tensor, "found 4"]
    scores: Float[Tensor, " found"]
    labels: Int[Tensor, " found"]
    queries: Int[Tensor, " found"]


def decode(
    logits: Float[Tensor, "batch queries classes"],
    boxes: Float[Tensor, "batch queries 4"],
    sizes: Sequence[tuple[int, int]],
    max_det: int = 300,
    classifier: Literal["sigmoid", "softmax"] = "sigmoid",
) -> list[Decoded]:
    """The ``max_det`` best pairs of query and class of each picture (Deformable DETR's top-k).

    A softmax classifier (DETR) gives each query its best class only; its last logit, "no object",
    is no class.

    ``boxes`` are cxcywh, 0–1; ``sizes`` are (height, width) of the original pictures. The result is
    x0 y0 x1 y1 in their pixels, neither thresholded nor clipped. Where there are fewer pairs than
    ``max_det``, all come back.
    """
    if classifier == "softmax":
        scores, names = logits.float().softmax(-1)[..., :-1].max(-1)
        best, queries = scores.topk(min(max_det, scores.shape[1]), dim=1)
        labels = names.gather(1, queries)
    else:
        classes = logits.shape[-1]
        scores = logits.float().sigmoid().flatten(1)
        best, places = scores.topk(min(max_det, scores.shape[1]), dim=1)
        queries, labels = places // classes, places % classes
    scale = torch.tensor(
        [(w, h, w, h) for h, w in sizes], dtype=torch.float32, device=boxes.device
    ).reshape(-1, 1, 4)
    corners = to_corners(boxes.float())
    corners = corners.gather(1, queries[..., None].expand(-1, -1, 4)) * scale
    return [Decoded(*parts) for parts in zip(corners, best, labels, queries, strict=True)]
