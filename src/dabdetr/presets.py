"""The family: one config value for each member, with its source.

A member is never a copy of code: it is what differs from ``DAB_DETR_R50``.
"""

from __future__ import annotations

from typing import Any

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


def derive(base: Config, name: str, source: str = "", **changes: Any) -> Config:
    """``base`` with some fields changed by dotted path, double underscores standing for dots.

    ``derive(DAB_DETR_R50, "mine", model__queries__count=100)``
    """
    tree = base.model_dump()
    tree |= {"name": name, "source": source or base.source, "published_ap": None}
    for path, value in changes.items():
        *parents, leaf = path.split("__")
        node = tree
        for parent in parents:
            node = node[parent]
        node[leaf] = value
    return Config.model_validate(tree)


_PAPER = "DAB-DETR (Liu et al., ICLR 2022), table 2; 50 epochs"

DAB_DETR_R50 = Config(
    name="dab-detr-r50",
    source=_PAPER,
    published_ap=42.2,
    model=Model(),
    image=Image(size=800, max_size=1333),
    loss=Loss(),
    augment=Augment(flip=0.5, sizes=tuple(range(480, 801, 32)), crop=0.5),
    training=Training(),
)

DAB_DETR_R50_P3 = derive(
    DAB_DETR_R50, "dab-detr-r50-p3", published_ap=42.6, model__queries__patterns=3
)

# The released weights of this one member were trained with temperature 10 (not in their state).
DAB_DETR_R50_DC5 = derive(
    DAB_DETR_R50,
    "dab-detr-r50-dc5",
    published_ap=44.5,
    model__backbone__output_stride=16,
    model__backbone__strides=(16,),
    model__position_temperature=10.0,
)

DAB_DETR_R101 = derive(
    DAB_DETR_R50, "dab-detr-r101", published_ap=43.5, model__backbone__name="resnet101"
)

DAB_DETR_R101_DC5 = derive(
    DAB_DETR_R101,
    "dab-detr-r101-dc5",
    published_ap=45.8,
    model__backbone__output_stride=16,
    model__backbone__strides=(16,),
)

DETR_R50 = derive(
    DAB_DETR_R50,
    "detr-r50",
    "DETR (Carion et al., ECCV 2020), table 1; 500 epochs",
    published_ap=42.0,
    model__encoder__scale_positions=False,
    model__queries={"kind": "learned", "count": 100, "anchor": None, "content": "zeros"},
    model__decoder__cross_attention={"kind": "add"},
    model__decoder__modulate_position=None,
    model__decoder__update_anchors=False,
    model__decoder__look_forward_twice=False,
    model__dropout=0.1,
    model__activation="relu",
    model__position_temperature=10000.0,
    model__classifier="softmax",
    loss__classification="softmax",
    loss__class_cost=1.0,
    loss__iou_eps=0.0,
    training__epochs=300,
    inference__max_det=100,
)

DETR_R50_DC5 = derive(
    DETR_R50,
    "detr-r50-dc5",
    published_ap=43.3,
    model__backbone__output_stride=16,
    model__backbone__strides=(16,),
)

DETR_R101 = derive(DETR_R50, "detr-r101", published_ap=43.5, model__backbone__name="resnet101")

CONDITIONAL_DETR_R50 = derive(
    DAB_DETR_R50,
    "conditional-detr-r50",
    "Conditional DETR (Meng et al., ICCV 2021), table 1; 50 epochs",
    published_ap=41.0,
    model__encoder__scale_positions=False,
    model__queries={"kind": "learned", "anchor": "point", "point_layers": 2},
    model__decoder__cross_attention__modulate_size=False,
    model__decoder__update_anchors=False,
    model__decoder__look_forward_twice=False,
    model__dropout=0.1,
    model__activation="relu",
    model__position_temperature=10000.0,
    model__anchor_eps=1e-5,
    loss__class_weight=2.0,
    loss__iou_eps=0.0,
    inference__max_det=100,
)

CONDITIONAL_DETR_R50_DC5 = derive(
    CONDITIONAL_DETR_R50,
    "conditional-detr-r50-dc5",
    published_ap=43.7,
    model__backbone__output_stride=16,
    model__backbone__strides=(16,),
)

DEFORMABLE_DETR_R50 = derive(
    DAB_DETR_R50,
    "deformable-detr-r50",
    "Deformable DETR (Zhu et al., ICLR 2021), table 1; 50 epochs",
    published_ap=44.5,
    model__backbone__strides=(8, 16, 32),
    model__encoder={"kind": "deformable"},
    model__queries={"kind": "learned", "anchor": "point", "point_layers": 1, "content": "learned"},
    model__decoder__cross_attention={"kind": "deformable"},
    model__decoder__modulate_position=None,
    model__decoder__norm=False,
    model__decoder__update_anchors=False,
    model__decoder__look_forward_twice=False,
    model__feedforward=1024,
    model__dropout=0.1,
    model__activation="relu",
    model__position_temperature=10000.0,
    model__position_offset=-0.5,
    model__anchor_eps=1e-5,
    loss__class_weight=2.0,
    loss__iou_eps=0.0,
    training__lr=2e-4,
    training__backbone_lr=2e-5,
    inference__max_det=100,
)

DEFORMABLE_DETR_R50_SINGLE = derive(
    DEFORMABLE_DETR_R50,
    "deformable-detr-r50-single",
    published_ap=39.4,
    model__backbone__strides=(32,),
    model__encoder__levels=1,
)

DEFORMABLE_DETR_R50_REFINE = derive(
    DEFORMABLE_DETR_R50,
    "deformable-detr-r50-refine",
    published_ap=46.2,
    model__decoder__update_anchors=True,
    model__box_head_per_layer=True,
    model__class_head_per_layer=True,
)

DAB_DEFORMABLE_DETR_R50 = derive(
    DEFORMABLE_DETR_R50_REFINE,
    "dab-deformable-detr-r50",
    "DAB-DETR (Liu et al., ICLR 2022), the released v2; 50 epochs",
    published_ap=48.7,
    model__queries={"kind": "learned", "anchor": "box", "content": "learned"},
    model__decoder__modulate_position="content",
    model__feedforward=2048,
    model__dropout=0.0,
    model__anchor_eps=1e-3,
    loss__class_weight=1.0,
    loss__iou_eps=1e-6,
    training__lr=1e-4,
    training__backbone_lr=1e-5,
)

DN_DETR_R50 = derive(
    DAB_DETR_R50,
    "dn-detr-r50",
    "DN-DETR (Li et al., CVPR 2022), table 1; 50 epochs",
    published_ap=44.4,
    model__queries__content="unknown",
    model__denoising={"kind": "dn"},
)

DN_DAB_DEFORMABLE_DETR_R50 = derive(
    DAB_DEFORMABLE_DETR_R50,
    "dn-dab-deformable-detr-r50",
    "DN-DETR (Li et al., CVPR 2022), the released v2; 50 epochs",
    published_ap=49.5,
    model__denoising={"kind": "dn"},
)

DEFORMABLE_DETR_R50_TWO_STAGE = derive(
    DEFORMABLE_DETR_R50_REFINE,
    "deformable-detr-r50-two-stage",
    published_ap=46.9,
    model__queries={"kind": "from_encoder", "count": 300, "content": "box", "rank": "objectness"},
    loss__proposal_labels="objects",
)

DINO_R50_4SCALE = derive(
    DAB_DEFORMABLE_DETR_R50,
    "dino-r50-4scale",
    "DINO (Zhang et al., ICLR 2023), table 1; 12 epochs",
    published_ap=49.0,
    model__queries={"kind": "from_encoder", "count": 900, "content": "learned"},
    model__decoder__modulate_position=None,
    model__decoder__norm=True,
    model__decoder__look_forward_twice=True,
    model__box_head_per_layer=False,
    model__class_head_per_layer=False,
    model__denoising={"kind": "contrastive", "number": 100},
    model__position_temperature=20.0,
    model__position_offset=0.0,
    training__epochs=12,
    training__drop=0.92,
    inference__max_det=300,
)

DINO_R50_5SCALE = derive(
    DINO_R50_4SCALE,
    "dino-r50-5scale",
    published_ap=49.4,
    model__backbone__strides=(4, 8, 16, 32),
    model__encoder__levels=5,
)

# Small members start better than the released recipe does (uniform small anchors, learned content,
# class weight 2): most of the slow start of DAB-DETR on little data lies there.
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

PRESETS: dict[str, Config] = {
    preset.name: preset
    for preset in (
        DAB_DETR_R50,
        DAB_DETR_R50_P3,
        DAB_DETR_R50_DC5,
        DAB_DETR_R101,
        DAB_DETR_R101_DC5,
        DETR_R50,
        DETR_R50_DC5,
        DETR_R101,
        CONDITIONAL_DETR_R50,
        CONDITIONAL_DETR_R50_DC5,
        DEFORMABLE_DETR_R50,
        DEFORMABLE_DETR_R50_SINGLE,
        DEFORMABLE_DETR_R50_REFINE,
        DAB_DEFORMABLE_DETR_R50,
        DN_DETR_R50,
        DN_DAB_DEFORMABLE_DETR_R50,
        DEFORMABLE_DETR_R50_TWO_STAGE,
        DINO_R50_4SCALE,
        DINO_R50_5SCALE,
        DAB_DETR_R18,
        DAB_DETR_LITE0,
        DAB_DETR_NANO,
    )
}


def preset(name: str) -> Config:
    """The preset called ``name``; an unknown name lists those there are."""
    if name not in PRESETS:
        raise ValueError(f"there is no preset {name!r}; there are: {', '.join(PRESETS)}")
    return PRESETS[name]
