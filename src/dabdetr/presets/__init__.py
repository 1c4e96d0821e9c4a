"""The family: one config value for each member, with its source."""

from __future__ import annotations

from dabdetr.config import Config
from dabdetr.presets import backbones, collaborative, published, small
from dabdetr.presets.published import derive

__all__ = ["PRESETS", "derive", "preset"]

PRESETS: dict[str, Config] = {
    member.name: member
    for member in (
        published.DAB_DETR_R50,
        published.DAB_DETR_R50_P3,
        published.DAB_DETR_R50_DC5,
        published.DAB_DETR_R50_DC5_P3,
        published.DAB_DETR_R50_DC5_FIXXY,
        published.DAB_DETR_R101,
        published.DAB_DETR_R101_DC5,
        published.DAB_DETR_R101_P3,
        published.DAB_DETR_R101_DC5_P3,
        published.DETR_R50,
        published.DETR_R50_DC5,
        published.DETR_R101,
        published.DETR_R101_DC5,
        published.CONDITIONAL_DETR_R50,
        published.CONDITIONAL_DETR_R50_DC5,
        published.CONDITIONAL_DETR_R101,
        published.CONDITIONAL_DETR_R101_DC5,
        published.DEFORMABLE_DETR_R50,
        published.DEFORMABLE_DETR_R50_SINGLE,
        published.DEFORMABLE_DETR_R50_SINGLE_DC5,
        published.DEFORMABLE_DETR_R50_REFINE,
        published.DAB_DEFORMABLE_DETR_R50,
        published.DAB_DEFORMABLE_DETR_R50_TWO_STAGE,
        published.DN_DETR_R50,
        published.DN_DETR_R50_DC5,
        published.DN_DAB_DEFORMABLE_DETR_R50,
        published.DEFORMABLE_DETR_R50_TWO_STAGE,
        published.DINO_R50_4SCALE,
        published.DINO_R50_5SCALE,
        collaborative.CO_DAB_DEFORMABLE_R50,
        collaborative.CO_DINO_R50,
        backbones.DINO_SWIN_L_4SCALE,
        backbones.DINO_SWIN_L_5SCALE,
        backbones.DINO_CONVNEXT_T_4SCALE,
        backbones.VIT_DINO_S,
        small.DAB_LITE,
        small.DAB_DETR_R18,
        small.DAB_DETR_LITE0,
        small.DAB_DETR_NANO,
        small.DETR_NANO,
        small.CONDITIONAL_DETR_NANO,
        small.DN_DETR_NANO,
        small.DEFORMABLE_DETR_NANO,
        small.DAB_DEFORMABLE_DETR_NANO,
        small.DN_DAB_DEFORMABLE_DETR_NANO,
        small.DINO_NANO,
        small.CO_DAB_DEFORMABLE_NANO,
        small.CO_DINO_NANO,
        backbones.VIT_DINO_NANO,
    )
}


def preset(name: str) -> Config:
    """The preset called ``name``; an unknown name lists those there are."""
    if name not in PRESETS:
        raise ValueError(f"there is no preset {name!r}; there are: {', '.join(PRESETS)}")
    return PRESETS[name]
