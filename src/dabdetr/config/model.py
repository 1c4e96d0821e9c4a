"""Settings of the model: backbone, encoder, queries, decoder and query groups.

An absent part is ``None``; contradictions between parts raise ValueError and name both fields.
"""

from __future__ import annotations

from itertools import pairwise
from typing import Literal, Self

from pydantic import Field, model_validator

from dabdetr.config.base import Section
from dabdetr.config.parts import (
    Backbone,
    BackboneKind,
    Collaborative,
    Decoder,
    DenoisingKind,
    DenseEncoder,
    EncoderKind,
    LearnedQueries,
    QueriesKind,
)


class Model(Section):
    """The model: backbone → encoder → queries → decoder."""

    backbone: BackboneKind = Field(
        default=Backbone(), description="network from the image to feature maps"
    )
    encoder: EncoderKind = Field(
        default=DenseEncoder(), description="self-attention over the tokens of the feature maps"
    )
    queries: QueriesKind = Field(
        default=LearnedQueries(), description="content and anchors with which the decoder starts"
    )
    decoder: Decoder = Field(
        default=Decoder(), description="layers from queries and tokens to classes and boxes"
    )
    denoising: DenoisingKind | None = Field(
        default=None,
        description="noisy copies of objects as additional queries in training; null: none",
    )
    collaborative: Collaborative | None = Field(
        default=None, description="auxiliary heads on the encoder in training; null: none"
    )
    width: int = Field(default=256, ge=8, description="channels of tokens and queries")
    heads: int = Field(default=8, ge=1, description="attention heads")
    feedforward: int = Field(
        default=2048, ge=1, description="width of the hidden layer of feed-forward blocks"
    )
    dropout: float = Field(default=0.0, ge=0, lt=1, description="dropout probability in training")
    activation: Literal["prelu", "relu", "gelu"] = Field(
        default="prelu", description="activation in feed-forward blocks"
    )
    norm_first: bool = Field(
        default=False,
        description="normalise the input of each block (pre-norm) instead of its output",
    )
    position_temperature: float = Field(
        default=20.0, gt=0, description="temperature of the sine encoding of positions"
    )
    position_temperature_width: float | None = Field(
        default=None, gt=0, description="temperature for x; null: position_temperature"
    )
    position_offset: float = Field(
        default=0.0, description="offset that is added to cell numbers, which count from 1"
    )
    anchor_eps: float = Field(
        default=1e-3, gt=0, lt=0.5, description="clamp of the inverse sigmoid of anchors"
    )
    box_head_per_layer: bool = Field(
        default=False, description="one box head per decoder layer instead of a shared one"
    )
    class_head_per_layer: bool = Field(
        default=False, description="one class head per decoder layer instead of a shared one"
    )

    @model_validator(mode="after")
    def _width_divides(self) -> Self:
        if self.width % self.heads:
            raise ValueError(
                f"model.width {self.width} is not a multiple of model.heads {self.heads}"
            )
        if self.width % 4:
            raise ValueError(f"model.width must be a multiple of 4 (sine pairs); got {self.width}")
        return self

    @model_validator(mode="after")
    def _parts_fit(self) -> Self:
        encoder, strides = self.encoder, self.backbone.strides
        cross, anchor = self.decoder.cross_attention, self.queries.anchor
        if encoder.kind == "dense" and len(strides) != 1:
            raise ValueError(
                f"model.encoder is dense and takes one map; model.backbone.strides has "
                f"{len(strides)}: {strides}"
            )
        if encoder.kind == "deformable" and encoder.levels < len(strides):
            raise ValueError(
                f"model.encoder.levels is {encoder.levels}, fewer than the maps of "
                f"model.backbone.strides {strides}; raise the one or shorten the other"
            )
        if (encoder.kind == "deformable") != (cross.kind == "deformable"):
            raise ValueError(
                f"model.encoder is {encoder.kind} and model.decoder.cross_attention is "
                f"{cross.kind}: levels need both to be deformable, one map needs neither"
            )
        if self.queries.kind == "from_encoder" and encoder.kind != "deformable":
            raise ValueError(
                "model.queries 'from_encoder' are chosen among levels; model.encoder is "
                f"{encoder.kind}; use 'deformable' or learned queries"
            )
        if anchor is None and cross.kind != "add":
            raise ValueError(
                f"model.decoder.cross_attention {cross.kind!r} needs anchors, but "
                "model.queries.anchor is null; use 'point' or 'box', or attention 'add'"
            )
        if anchor is None and self.decoder.update_anchors:
            raise ValueError(
                "model.decoder.update_anchors needs anchors; model.queries.anchor is null; use "
                "'point' or 'box', or switch update_anchors off"
            )
        if anchor == "point" and cross.kind == "concat" and cross.modulate_size:
            raise ValueError(
                "model.decoder.cross_attention.modulate_size needs boxes; model.queries.anchor is "
                "'point'; use 'box' or switch modulate_size off"
            )
        if cross.kind == "concat" and anchor == "point" and self.decoder.update_anchors:
            raise ValueError(
                "model.decoder.update_anchors would turn points into boxes under 'concat' "
                "attention; model.queries.anchor is 'point'; use 'box' or switch it off"
            )
        if self.denoising is not None and anchor != "box":
            raise ValueError(
                f"model.denoising disturbs boxes and model.queries.anchor is {anchor!r}; use 'box' "
                "or set denoising to null"
            )
        if self.queries.content == "unknown" and getattr(self.denoising, "kind", None) != "dn":
            raise ValueError(
                "model.queries.content 'unknown' is a row of the label table of model.denoising "
                "of kind 'dn', which is not there; use 'zeros' or 'learned'"
            )
        if cross.kind == "add" and self.decoder.modulate_position is not None:
            raise ValueError(
                "model.decoder.modulate_position scales a code that cross_attention 'add' does "
                "not use; set modulate_position to null"
            )
        return self

    @model_validator(mode="after")
    def _groups_fit(self) -> Self:
        groups = "collaborative" if self.collaborative is not None else "denoising"
        if getattr(self, groups) is not None and self.queries.content == "box":
            raise ValueError(
                f"model.{groups} adds queries whose positions come from their anchors; "
                "model.queries.content 'box' makes positions of proposals; use 'learned' or set "
                f"{groups} to null"
            )
        if self.collaborative is None:
            return self
        if self.encoder.kind != "deformable":
            raise ValueError(
                f"model.collaborative needs feature levels; model.encoder is {self.encoder.kind}; "
                "use 'deformable' or set collaborative to null"
            )
        if self.queries.anchor != "box":
            raise ValueError(
                "model.collaborative makes queries of boxes and model.queries.anchor is "
                f"{self.queries.anchor!r}; use 'box' or set collaborative to null"
            )
        strides = self.backbone.strides
        if any(2 * fine != coarse for fine, coarse in pairwise(strides)):
            raise ValueError(
                "model.collaborative heads need levels that halve one another; "
                f"model.backbone.strides is {strides}; name the strides between or set "
                "collaborative to null"
            )
        return self
