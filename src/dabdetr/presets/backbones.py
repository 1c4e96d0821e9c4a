"""DINO on other backbones than a ResNet: Swin as published; ConvNeXt and a plain ViT, ours."""

from __future__ import annotations

from dabdetr.presets.published import DINO_R50_4SCALE, DINO_R50_5SCALE, derive
from dabdetr.presets.small import DINO_NANO

_SWIN_L = {
    "name": "swin_large_patch4_window12_384.ms_in22k",
    "strides": (8, 16, 32),
    "freeze_stride": 0,
    "map_norm": True,
}

DINO_SWIN_L_4SCALE = derive(
    DINO_R50_4SCALE,
    "dino-swin-l-4scale",
    "DINO (Zhang et al., ICLR 2023), its model zoo; 12 epochs",
    published_ap=56.8,
    model__backbone=_SWIN_L,
)

DINO_SWIN_L_5SCALE = derive(
    DINO_R50_5SCALE,
    "dino-swin-l-5scale",
    "DINO (Zhang et al., ICLR 2023), its model zoo; 12 epochs",
    published_ap=57.3,
    model__backbone={**_SWIN_L, "strides": (4, 8, 16, 32)},
)

DINO_CONVNEXT_T_4SCALE = derive(
    DINO_R50_4SCALE,
    "dino-convnext-t-4scale",
    "DINO with ConvNeXt-T, put together as detrex does; ours, not trained on COCO",
    model__backbone={
        "name": "convnext_tiny.fb_in22k_ft_in1k_384",
        "strides": (8, 16, 32),
        "freeze_stride": 0,
        "map_norm": True,
    },
)

VIT_DINO_S = derive(
    DINO_R50_4SCALE,
    "vit-dino-s",
    "DINO with DINOv2's ViT-S/14 and a simple feature pyramid (ViTDet); ours, not trained on COCO",
    model__backbone={
        "kind": "vit",
        "name": "vit_small_patch14_dinov2.lvd142m",
        "strides": (7, 14, 28),
    },
)

VIT_DINO_NANO = derive(
    DINO_NANO,
    "vit-dino-nano",
    "DINO with a plain ViT at teaching size, alike to dino-nano but for its backbone; ours",
    model__backbone={
        "kind": "vit",
        "name": "vit_tiny_patch16_224",
        "options": {"patch_size": 8, "img_size": 96, "embed_dim": 96, "depth": 4, "num_heads": 3},
        "strides": (8, 16),
        "channels": 96,
        "window": 6,
        "global_blocks": 2,
    },
)
