"""Members as published in their papers: configs of the released weights, with their recipes.

Each member is defined by its differences from ``DAB_DETR_R50`` or from another member.
"""

from __future__ import annotations

from typing import Any

from dabdetr.config import Augment, Config, Image, Loss, Model, Training


def derive(base: Config, name: str, source: str = "", **changes: Any) -> Config:
    """``base`` with fields changed by dotted path; a double underscore stands for a dot.

    ``derive(DAB_DETR_R50, "mine", model__queries__count=100)``
    """
    about = {"name": name, "source": source or base.source, "published_ap": None}
    paths = {path.replace("__", "."): value for path, value in changes.items()}
    return base.changed((about | paths).items())


_DC5: dict[str, Any] = {"model__backbone__output_stride": 16, "model__backbone__strides": (16,)}
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

# The released weights of this member were trained with temperature 10 (not in their state dict).
DAB_DETR_R50_DC5 = derive(
    DAB_DETR_R50,
    "dab-detr-r50-dc5",
    published_ap=44.5,
    model__position_temperature=10.0,
    **_DC5,
)

DAB_DETR_R50_DC5_P3 = derive(DAB_DETR_R50_P3, "dab-detr-r50-dc5-p3", published_ap=45.7, **_DC5)

# The paper fixes the centres, but its code trains them by mistake: the AP is of trained centres.
DAB_DETR_R50_DC5_FIXXY = derive(
    DAB_DETR_R50,
    "dab-detr-r50-dc5-fixxy",
    "DAB-DETR (Liu et al., ICLR 2022), table 8; 50 epochs",
    published_ap=44.7,
    model__queries__fixed_centres=True,
    model__queries__start="uniform",
    **_DC5,
)

DAB_DETR_R101 = derive(
    DAB_DETR_R50, "dab-detr-r101", published_ap=43.5, model__backbone__name="resnet101"
)

DAB_DETR_R101_DC5 = derive(DAB_DETR_R101, "dab-detr-r101-dc5", published_ap=45.8, **_DC5)

DAB_DETR_R101_P3 = derive(
    DAB_DETR_R101, "dab-detr-r101-p3", published_ap=44.1, model__queries__patterns=3
)

DAB_DETR_R101_DC5_P3 = derive(DAB_DETR_R101_P3, "dab-detr-r101-dc5-p3", published_ap=46.6, **_DC5)

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
    loss__classification="softmax",
    loss__class_cost=1.0,
    loss__iou_eps=0.0,
    training__epochs=500,
    inference__max_det=100,
)

DETR_R50_DC5 = derive(DETR_R50, "detr-r50-dc5", published_ap=43.3, **_DC5)

DETR_R101 = derive(DETR_R50, "detr-r101", published_ap=43.5, model__backbone__name="resnet101")

DETR_R101_DC5 = derive(DETR_R101, "detr-r101-dc5", published_ap=44.9, **_DC5)

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
    CONDITIONAL_DETR_R50, "conditional-detr-r50-dc5", published_ap=43.7, **_DC5
)

CONDITIONAL_DETR_R101 = derive(
    CONDITIONAL_DETR_R50,
    "conditional-detr-r101",
    published_ap=42.8,
    model__backbone__name="resnet101",
)

CONDITIONAL_DETR_R101_DC5 = derive(
    CONDITIONAL_DETR_R101, "conditional-detr-r101-dc5", published_ap=45.0, **_DC5
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
    training__effective_batch=32,
    training__lr=2e-4,
    training__backbone_lr=2e-5,
    training__offsets_factor=0.1,
    inference__max_det=100,
)

DEFORMABLE_DETR_R50_SINGLE = derive(
    DEFORMABLE_DETR_R50,
    "deformable-detr-r50-single",
    published_ap=39.4,
    model__backbone__strides=(32,),
    model__encoder__levels=1,
)

DEFORMABLE_DETR_R50_SINGLE_DC5 = derive(
    DEFORMABLE_DETR_R50_SINGLE, "deformable-detr-r50-single-dc5", published_ap=41.5, **_DC5
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
    training__effective_batch=16,
    training__lr=1e-4,
    training__backbone_lr=1e-5,
    training__offsets_factor=1.0,
)

# The authors' two-stage variant does not run; this is detrex's, which the AP is of.
DAB_DEFORMABLE_DETR_R50_TWO_STAGE = derive(
    DAB_DEFORMABLE_DETR_R50,
    "dab-deformable-detr-r50-two-stage",
    "DAB-Deformable-DETR with two stages, of detrex; 50 epochs",
    published_ap=49.7,
    model__queries={"kind": "from_encoder", "count": 300, "content": "token"},
)

DN_DETR_R50 = derive(
    DAB_DETR_R50,
    "dn-detr-r50",
    "DN-DETR (Li et al., CVPR 2022), table 1; 50 epochs",
    published_ap=44.4,
    model__queries__content="unknown",
    model__denoising={"kind": "dn"},
)

DN_DETR_R50_DC5 = derive(DN_DETR_R50, "dn-detr-r50-dc5", published_ap=46.3, **_DC5)

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
    training__drop=11 / 12,
    inference__max_det=300,
)

DINO_R50_5SCALE = derive(
    DINO_R50_4SCALE,
    "dino-r50-5scale",
    published_ap=49.4,
    model__backbone__strides=(4, 8, 16, 32),
    model__encoder__levels=5,
)

# The published member computes positional queries once, from the proposals' codes; here they follow
# the anchors, as in DAB-DETR.
CO_DAB_DEFORMABLE_R50 = derive(
    DAB_DEFORMABLE_DETR_R50,
    "co-dab-deformable-r50",
    "Co-DETR (Zong et al., ICCV 2023), Co-Deformable-DETR, 12 epochs; here with DAB's queries",
    published_ap=49.5,
    model__queries={"kind": "from_encoder", "count": 300, "rank": "objectness"},
    model__decoder__look_forward_twice=True,
    model__collaborative={},
    model__anchor_eps=1e-5,
    loss__class_weight=2.0,
    loss__iou_eps=0.0,
    training__lr=2e-4,
    training__backbone_lr=2e-5,
    training__offsets_factor=0.1,
    training__epochs=12,
    training__drop=11 / 12,
)

# The published AP includes soft-NMS after the model, which this package lacks.
CO_DINO_R50 = derive(
    DINO_R50_5SCALE,
    "co-dino-r50",
    "Co-DETR (Zong et al., ICCV 2023), Co-DINO of 5 scales; 12 epochs",
    published_ap=52.1,
    model__box_head_per_layer=True,
    model__class_head_per_layer=True,
    model__collaborative={"features": False},
    loss__classification="quality",
    loss__iou_eps=0.0,
    training__lr=2e-4,
    training__backbone_lr=2e-5,
    training__offsets_factor=0.1,
)
