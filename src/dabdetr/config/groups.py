"""Choices of the query groups: further queries in training, whose objects are known."""

from __future__ import annotations

from typing import Annotated, Literal, Self

from pydantic import Field, Tag, model_validator

from dabdetr.config.base import Section, kinds


class Denoising(Section):
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


class ContrastiveDenoising(Section):
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


class Collaborative(Section):
    """Heads of classic detectors on the encoder's maps, in training only (Co-DETR).

    Each finds positives of its own; they teach the encoder, and the decoder as further queries.
    """

    heads: tuple[Literal["rcnn", "atss"], ...] = Field(
        default=("rcnn", "atss"), description="Faster R-CNN (proposals and regions), ATSS"
    )
    max_positives: int = Field(
        default=300, ge=1, description="queries that the positives of a head make, at most"
    )
    features: bool = Field(
        default=True, description="the content of those queries also holds what the maps show there"
    )
    regions: int = Field(default=512, ge=1, description="rcnn: regions judged in an image")
    region_width: int = Field(default=1024, ge=1, description="rcnn: width of its two layers")

    @model_validator(mode="after")
    def _some_heads(self) -> Self:
        if not self.heads or len(set(self.heads)) != len(self.heads):
            raise ValueError(
                f"collaborative.heads must name at least one, none twice; got {self.heads}; "
                "set model.collaborative to null for none"
            )
        return self
