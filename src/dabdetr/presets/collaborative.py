"""Co-DETR: published members with collaborative heads in training."""

from __future__ import annotations

from dabdetr.presets.published import DAB_DEFORMABLE_DETR_R50, DINO_R50_5SCALE, derive

# The published member makes positional queries of its proposals' codes, once; these follow the
# anchors, as DAB-DETR's do.
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
    loss__proposal_labels="objects",
    training__lr=2e-4,
    training__backbone_lr=2e-5,
    training__offsets_factor=0.1,
    training__epochs=12,
    training__drop=11 / 12,
)

# The published AP also has soft-NMS behind the model, which is not here.
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
