"""Prediction heads: class logits, and the shift of the box from its anchor."""

from __future__ import annotations

import math

from jaxtyping import Float
from torch import Tensor, nn

from dabdetr import config
from dabdetr.model.positions import mlp

PRIOR = 0.01
"""Initial probability of each class: nearly all queries have no object (focal loss)."""


class Heads(nn.Module):
    """Class and box heads, shared by all decoder layers or one for each."""

    def __init__(self, model: config.Model, classes: int, softmax: bool = False) -> None:
        """``softmax`` adds a last logit: no object."""
        super().__init__()
        width, layers = model.width, model.decoder.layers
        self.classes = nn.ModuleList(
            nn.Linear(width, classes + 1) if softmax else class_head(width, classes)
            for _ in range(layers if model.class_head_per_layer else 1)
        )
        self.boxes = nn.ModuleList(
            mlp(width, width, width, 4) for _ in range(layers if model.box_head_per_layer else 1)
        )
        # Without an anchor the head predicts the whole box.
        for head in self.boxes if model.queries.anchor is not None else ():
            nn.init.zeros_(head[-1].weight)  # pyright: ignore[reportIndexIssue]
            nn.init.zeros_(head[-1].bias)  # pyright: ignore[reportIndexIssue]
        if _start_small(model):
            nn.init.constant_(self.boxes[0][-1].bias[2:], -2.0)  # pyright: ignore

    def logits(self, content: Float[Tensor, "b q c"], layer: int) -> Float[Tensor, "b q classes"]:
        """Class logits of normalised content."""
        return self.classes[layer % len(self.classes)](content)

    def deltas(self, content: Float[Tensor, "b q c"], layer: int) -> Float[Tensor, "b q 4"]:
        """Shift of the anchor in logit space; float32."""
        return self.boxes[layer % len(self.boxes)](content).float()


def _start_small(model: config.Model) -> bool:
    """Whether first boxes start at a seventh of the image: learned anchors of deformable members.

    Proposals of the encoder have their size already. A head shared by all layers that move the box
    would shrink it in each.
    """
    once = model.box_head_per_layer or not model.decoder.update_anchors
    deformable = model.decoder.cross_attention.kind == "deformable"
    return deformable and model.queries.kind == "learned" and once


def class_head(width: int, classes: int) -> nn.Linear:
    """A class head whose bias gives every class the prior probability."""
    head = nn.Linear(width, classes)
    nn.init.constant_(head.bias, -math.log((1 - PRIOR) / PRIOR))
    return head
