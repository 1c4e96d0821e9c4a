"""DINO with other backbones, members for small data without a GPU, and the family in small."""

from __future__ import annotations

from dabdetr.config import (
    Augment,
    Backbone,
    Config,
    Decoder,
    DenseEncoder,
    Image,
    LearnedQueries,
    Loss,
    Model,
    Training,
)
from dabdetr.presets.published import DINO_R50_4SCALE, DINO_R50_5SCALE, derive

# DINO with backbones other than a ResNet: Swin as published; ConvNeXt and a plain ViT are ours.
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

# Unlike the released recipe, small members start with small, uniformly placed anchors, learned
# content and class weight 2, which avoids most of DAB-DETR's slow start on little data.
_SMALL = Config(
    name="small",
    model=Model(
        backbone=Backbone(name="resnet18", strides=(16,), freeze_stride=8),
        encoder=DenseEncoder(layers=2),
        decoder=Decoder(layers=3),
        queries=LearnedQueries(count=100, content="learned", start="uniform_small"),
        width=192,
        heads=6,
        feedforward=512,
        activation="relu",
    ),
    image=Image(size=320, max_size=448),
    loss=Loss(class_weight=2.0),
    augment=Augment(flip=0.5, sizes=(288, 320, 352), crop=0.5, colour=0.5),
    training=Training(
        epochs=100, batch=8, lr=4e-4, backbone_lr=4e-5, warmup=100, schedule="cosine", ema=0.998
    ),
)

DAB_DETR_R18 = derive(
    _SMALL,
    "dab-detr-r18",
    "DAB-DETR, 192 wide, with a ResNet-18 at stride 16; ours, for small data",
)

DAB_DETR_LITE0 = derive(
    _SMALL,
    "dab-detr-lite0",
    "DAB-DETR, 192 wide, with EfficientNet-Lite0 at stride 16; ours, for CPUs",
    model__backbone__name="tf_efficientnet_lite0",
    image__mean=(0.5, 0.5, 0.5),
    image__std=(0.5, 0.5, 0.5),
)

# The default without a GPU, sized for two cores. Its parts were chosen on blood cells (see "What
# each part of dab-lite is worth" in docs/results.md).
DAB_LITE = derive(
    DAB_DETR_LITE0,
    "dab-lite",
    "DINO's queries and denoising, 128 wide, on EfficientNet-Lite0 at strides 8 to 32; ours, for "
    "CPUs",
    model__backbone__strides=(8, 16, 32),
    model__backbone__freeze_stride=16,
    model__encoder={
        "kind": "deformable",
        "layers": 1,
        "levels": 3,
        "skip_levels": 1,
        "points": 2,
    },
    model__queries={
        "kind": "from_encoder",
        "count": 100,
        "per_object": 2.0,
        "rank": "object",
        "distinct": True,
    },
    model__decoder={
        "layers": 4,
        "cross_attention": {"kind": "deformable", "points": 4},
        "duplicate_removal": True,
    },
    model__denoising={"kind": "contrastive", "number": 50},
    model__width=128,
    model__heads=4,
    model__position_temperature=10000.0,
    model__position_offset=-0.5,
    image__size=256,
    image__max_size=384,
    image__object_size=24.0,
    augment__sizes=(224, 256, 288),
    loss__classification="mal",
    loss__gamma=1.5,
    loss__class_weight=1.0,
    training__batch=4,
    training__effective_batch=4,
    training__lr=1.6e-3,
    training__backbone_lr=1.6e-4,
    training__warmup=None,
    training__images=12_000,
    training__start="dab-lite-base",
    training__class_start="data",
)

DAB_DETR_NANO = derive(
    _SMALL,
    "dab-detr-nano",
    "DAB-DETR 96 wide on a small stride-8 body; ours, for tests and the demo",
    model__backbone={
        "name": "resnet18",
        "options": {
            "layers": [1, 2, 1, 1],
            "channels": [32, 64, 96, 128],
            "stem_type": "deep",
            "stem_width": 8,
        },
        "strides": (8,),
        "freeze_stride": 0,
        "norm": "trained",
    },
    model__encoder__layers=2,
    model__decoder__layers=3,
    model__width=96,
    model__heads=4,
    model__feedforward=192,
    model__queries__count=40,
    image__size=160,
    image__max_size=160,
    augment=None,
    training__epochs=60,
    training__batch=16,
    training__lr=1e-3,
    training__backbone_lr=1e-3,
    training__warmup=200,
    training__schedule="step",
    training__ema=0.998,
    training__start="none",
    inference__max_det=100,
)

# The family in small: all have the same backbone, width, depth and queries; one part differs.
_SMALL_SOURCE = " at teaching size, alike to dab-detr-nano but for its own parts; ours"

DETR_NANO = derive(
    DAB_DETR_NANO,
    "detr-nano",
    "DETR" + _SMALL_SOURCE,
    model__encoder__scale_positions=False,
    model__queries={"anchor": None, "count": 40, "content": "zeros"},
    model__decoder__cross_attention={"kind": "add"},
    model__decoder__modulate_position=None,
    model__decoder__update_anchors=False,
    model__decoder__look_forward_twice=False,
    loss__classification="softmax",
    loss__class_cost=1.0,
    loss__class_weight=1.0,
)

CONDITIONAL_DETR_NANO = derive(
    DAB_DETR_NANO,
    "conditional-detr-nano",
    "Conditional DETR" + _SMALL_SOURCE,
    model__encoder__scale_positions=False,
    model__queries={"anchor": "point", "count": 40, "content": "zeros"},
    model__decoder__cross_attention__modulate_size=False,
    model__decoder__update_anchors=False,
    model__decoder__look_forward_twice=False,
)

DN_DETR_NANO = derive(
    DAB_DETR_NANO,
    "dn-detr-nano",
    "DN-DETR" + _SMALL_SOURCE,
    model__denoising={"kind": "dn"},
)

DEFORMABLE_DETR_NANO = derive(
    DAB_DETR_NANO,
    "deformable-detr-nano",
    "Deformable DETR with box refinement" + _SMALL_SOURCE,
    model__backbone__strides=(8, 16),
    model__encoder={"kind": "deformable", "layers": 2, "levels": 3},
    model__queries={"anchor": "point", "point_layers": 1, "count": 40, "content": "learned"},
    model__decoder__cross_attention={"kind": "deformable"},
    model__decoder__modulate_position=None,
    model__decoder__norm=False,
    model__decoder__look_forward_twice=False,
    model__position_offset=-0.5,
    model__box_head_per_layer=True,
    model__class_head_per_layer=True,
)

DAB_DEFORMABLE_DETR_NANO = derive(
    DEFORMABLE_DETR_NANO,
    "dab-deformable-detr-nano",
    "DAB-Deformable-DETR" + _SMALL_SOURCE,
    model__queries=DAB_DETR_NANO.model.queries.model_dump(),
    model__decoder__modulate_position="content",
)

DN_DAB_DEFORMABLE_DETR_NANO = derive(
    DAB_DEFORMABLE_DETR_NANO,
    "dn-dab-deformable-detr-nano",
    "DN-DAB-Deformable-DETR" + _SMALL_SOURCE,
    model__denoising={"kind": "dn"},
)

DINO_NANO = derive(
    DAB_DEFORMABLE_DETR_NANO,
    "dino-nano",
    "DINO" + _SMALL_SOURCE,
    model__queries={"kind": "from_encoder", "count": 40},
    model__decoder__modulate_position=None,
    model__decoder__norm=True,
    model__decoder__look_forward_twice=True,
    model__box_head_per_layer=False,
    model__class_head_per_layer=False,
    model__denoising={"kind": "contrastive", "number": 100},
)

_NANO_HEADS = {"max_positives": 60, "regions": 64, "region_width": 192}

CO_DAB_DEFORMABLE_NANO = derive(
    DAB_DEFORMABLE_DETR_NANO,
    "co-dab-deformable-nano",
    "DAB-Deformable-DETR with collaborative heads" + _SMALL_SOURCE,
    model__collaborative=_NANO_HEADS,
)

CO_DINO_NANO = derive(
    DINO_NANO,
    "co-dino-nano",
    "DINO with collaborative heads" + _SMALL_SOURCE,
    model__collaborative=_NANO_HEADS | {"features": False},
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
