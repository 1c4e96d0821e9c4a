"""Choices of the backbone."""

from __future__ import annotations

from typing import Any, Literal, Self

from pydantic import Field, model_validator

from dabdetr.config.part import Part


class Backbone(Part):
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

    @model_validator(mode="after")
    def _strides_exist(self) -> Self:
        if not self.strides or sorted(set(self.strides)) != list(self.strides):
            raise ValueError(f"backbone.strides must rise and not repeat; got {self.strides}")
        if self.strides[-1] > self.output_stride:
            raise ValueError(
                f"backbone.strides asks for stride {self.strides[-1]}, but backbone.output_stride "
                f"is {self.output_stride}; lower the one or raise the other"
            )
        return self
