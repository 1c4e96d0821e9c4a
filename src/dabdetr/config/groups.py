"""Choices of the query groups: further queries in training, whose objects are known."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, Tag

from dabdetr.config.part import Part, kinds


class Denoising(Part):
    """Noisy copies of the objects as further queries in training (DN-DETR)."""

    kind: Literal["dn"] = "dn"
    groups: int = Field(default=5, ge=1, description="noisy copies of every object")
    label_noise: float = Field(
        default=0.2, ge=0, le=1, description="probability that a copy's class is drawn anew"
    )
    box_noise: float = Field(
        default=0.4,
        ge=0,
        description="shift of the centre in half sides and of the size in sides, at most",
    )


class ContrastiveDenoising(Part):
    """Near copies of the objects to restore and farther ones to reject, in training (DINO)."""

    kind: Literal["contrastive"] = "contrastive"
    number: int = Field(
        default=100,
        ge=1,
        description="near copies an image has room for, in as many groups as that takes; "
        "below 50: half the number of groups, however many objects there are",
    )
    label_noise: float = Field(
        default=0.25,
        ge=0,
        le=1,
        description="probability that a copy's class is drawn anew "
        "(half of the reference's label_noise_ratio)",
    )
    box_noise: float = Field(
        default=1.0,
        ge=0,
        description="shift of the edges in half sides: near copies up to it, far ones up to twice",
    )


DenoisingKind = Annotated[
    Annotated[Denoising, Tag("dn")] | Annotated[ContrastiveDenoising, Tag("contrastive")],
    kinds("dn", "contrastive"),
]
