"""Choices of the backbone: what turns an image into maps."""

from __future__ import annotations

from typing import Annotated, Any, Literal, Self

from pydantic import Field, Tag, model_validator

from dabdetr.config.base import Section, kinds


class Backbone(Section):
    """An image network of timm, read at some of its strides."""

    kind: Literal["timm"] = "timm"
    name: str = Field(default="resnet50", description="timm model name")
    options: dict[str, Any] = Field(default_factory=dict, description="further timm arguments")
    strides: tuple[int, ...] = Field(
        default=(32,), description="strides of the maps handed on, fine first"
    )
    output_stride: Literal[8, 16, 32] = Field(
        default=32, description="16 dilates the last stage (DC5)"
    )
    freeze_stride: int = Field(
        default=4, ge=0, description="stages up to this stride stay frozen; 0: none"
    )
    norm: Literal["frozen", "trained"] = Field(default="frozen", description="what batch norms do")
    map_norm: bool = Field(
        default=False,
        description="layer norm on every map handed on, as detectors with Swin and ConvNeXt do",
    )

    @model_validator(mode="after")
    def _strides_exist(self) -> Self:
        _rising(self.strides)
        if self.strides[-1] > self.output_stride:
            raise ValueError(
                f"backbone.strides asks for stride {self.strides[-1]}, but backbone.output_stride "
                f"is {self.output_stride}; lower the one or raise the other"
            )
        return self


class Vit(Section):
    """A plain vision transformer of timm with a simple feature pyramid (ViTDet)."""

    kind: Literal["vit"] = "vit"
    name: str = Field(
        default="vit_small_patch14_dinov2",
        description="timm name of a plain ViT with learned position embeddings",
    )
    options: dict[str, Any] = Field(default_factory=dict, description="further timm arguments")
    strides: tuple[int, ...] = Field(
        default=(14,),
        description="strides of the maps handed on, fine first: a quarter of the patch, half of "
        "it, the patch, or twice as much (patch 14: 7, 14, 28; patch 16: 4, 8, 16, 32)",
    )
    channels: int = Field(default=256, ge=1, description="of every map handed on")
    window: int | None = Field(
        default=14,
        ge=1,
        description="patches on each side of the windows that attention keeps to where the input "
        "is larger than one; null: attention sees all patches in every block",
    )
    global_blocks: int = Field(
        default=4,
        ge=0,
        description="blocks that see all patches, evenly spaced, the last one among them; the "
        "others keep to their windows",
    )
    freeze_blocks: int = Field(
        default=0,
        ge=0,
        description="so many first blocks stay frozen, and with them the embeddings; 0: nothing",
    )

    @model_validator(mode="after")
    def _strides_rise(self) -> Self:
        _rising(self.strides)
        return self


def _rising(strides: tuple[int, ...]) -> None:
    if not strides or sorted(set(strides)) != list(strides):
        raise ValueError(f"backbone.strides must rise and not repeat; got {strides}")


BackboneKind = Annotated[
    Annotated[Backbone, Tag("timm")] | Annotated[Vit, Tag("vit")], kinds("timm", "vit")
]
