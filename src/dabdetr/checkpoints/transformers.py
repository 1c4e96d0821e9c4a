"""Checkpoints of Hugging Face transformers 4 and 5, and their config.json."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from torch import Tensor

from dabdetr.checkpoints.foreign import Foreign, member_of
from dabdetr.checkpoints.infer_config import class_logits, config_of
from dabdetr.checkpoints.key_names import State, Table, rename, to_ours
from dabdetr.presets.published import derive

TRANSFORMERS: Table = (
    (r"^model\.backbone\.(?:conv_encoder\.)?(?:model\.)?(?:_backbone\.)?", "backbone.0.body."),
    (r"^model\.input_projection\.", "input_proj."),
    (r"^model\.input_proj\.", "input_proj."),
    (r"^model\.query_refpoint_embeddings\.", "refpoint_embed."),
    (r"^model\.patterns\.", "transformer.patterns."),
    (r"^model\.query_position_embeddings\.", "query_embed."),
    (r"^class_labels_classifier\.", "class_embed."),
    (r"^bbox_predictor\.", "bbox_embed."),
    (r"^model\.decoder\.bbox_embed\.", "transformer.decoder.bbox_embed."),
    (r"^model\.decoder\.layernorm\.", "transformer.decoder.norm."),
    (r"^model\.", "transformer."),
    (r"\.self_attn\.self_attn_query_content_proj\.", ".sa_qcontent_proj."),
    (r"\.self_attn\.self_attn_query_pos_proj\.", ".sa_qpos_proj."),
    (r"\.self_attn\.self_attn_key_content_proj\.", ".sa_kcontent_proj."),
    (r"\.self_attn\.self_attn_key_pos_proj\.", ".sa_kpos_proj."),
    (r"\.self_attn\.self_attn_value_proj\.", ".sa_v_proj."),
    (r"\.self_attn\.self_attn\.output_proj\.", ".self_attn.out_proj."),
    (r"\.self_attn\.self_attn_layer_norm\.", ".norm1."),
    (r"\.cross_attn\.cross_attn_query_content_proj\.", ".ca_qcontent_proj."),
    (r"\.cross_attn\.cross_attn_query_pos_sine_proj\.", ".ca_qpos_sine_proj."),
    (r"\.cross_attn\.cross_attn_query_pos_proj\.", ".ca_qpos_proj."),
    (r"\.cross_attn\.cross_attn_key_content_proj\.", ".ca_kcontent_proj."),
    (r"\.cross_attn\.cross_attn_key_pos_proj\.", ".ca_kpos_proj."),
    (r"\.cross_attn\.cross_attn_value_proj\.", ".ca_v_proj."),
    (r"\.cross_attn\.cross_attn\.output_proj\.", ".cross_attn.out_proj."),
    (r"\.cross_attn\.cross_attn_layer_norm\.", ".norm2."),
    (r"\.mlp\.fc1\.", ".linear1."),
    (r"\.mlp\.fc2\.", ".linear2."),
    (r"\.mlp\.final_layer_norm\.", ".norm3."),
    (r"\.mlp\.activation_fn\.", ".activation."),
    (r"\.fc1\.", ".linear1."),
    (r"\.fc2\.", ".linear2."),
    (r"\.activation_fn\.", ".activation."),
    (r"\.o_proj\.", ".out_proj."),  # from here to norms: Conditional DETR since 5.0
    (r"\.self_attn\.([qk])_(content|pos)_proj\.", r".sa_\1\2_proj."),
    (r"\.encoder_attn\.([qk])_(content|pos|pos_sine)_proj\.", r".ca_\1\2_proj."),
    (r"\.encoder_attn\.", ".multihead_attn."),
    (r"^(transformer\.decoder\.layers\.\d+)\.self_attn_layer_norm\.", r"\1.self_norm."),
    (r"\.encoder_attn_layer_norm\.", ".cross_norm."),
    (r"\.self_attn_layer_norm\.", ".norm1."),
    (r"^(transformer\.decoder\.layers\.\d+)\.final_layer_norm\.", r"\1.norm3."),
    (r"^(transformer\.encoder\.layers\.\d+)\.final_layer_norm\.", r"\1.norm2."),
)


def is_transformers(state: Mapping[str, Tensor]) -> bool:
    return any(key.startswith(("model.encoder.layers.", "model.decoder.")) for key in state)


def transformers_to_official(state: Mapping[str, Tensor]) -> State:
    """The same tensors under the authors' names."""
    return {rename(key, TRANSFORMERS): value for key, value in state.items()}


def from_transformers(state: Mapping[str, Tensor], settings: Mapping[str, Any]) -> Foreign:
    """The state of a model for object detection and its config.json."""
    official = transformers_to_official(state)
    member, preset = member_of(official)
    scale = settings.get("sine_position_embedding_scale")
    if scale is not None and not math.isclose(scale, 2 * math.pi):
        raise ValueError(f"sine_position_embedding_scale {scale} is not supported, only 2π")
    ours = to_ours(official)
    backbone = settings.get("backbone_config") or {}
    height = settings.get("temperature_height")
    config = config_of(
        ours,
        preset,
        f"{preset.name.removesuffix('-r50')}-transformers",
        backbone=backbone.get("backbone") or settings.get("backbone") or "resnet50",
        dilated=bool(settings.get("dilation")) or backbone.get("output_stride") == 16,
        heads=settings.get("encoder_attention_heads", 8),
        dropout=settings.get("dropout", 0.1),
        activation=settings.get("activation_function"),
        temperatures=None
        if height is None
        else (height, settings.get("temperature_width", height)),
        anchor_eps=1e-5,
        update=settings.get("with_box_refine"),
        fixed_centres=bool(settings.get("random_refpoints_xy")),
    )
    if preset.model.queries.kind == "from_encoder":
        count = settings.get("two_stage_num_proposals", 300)
        config = derive(config, config.name, config.source, model__queries__count=count)
    logits = class_logits(ours, config)
    labels = {int(key): name for key, name in (settings.get("id2label") or {}).items()}
    names = tuple(labels.get(i, f"LABEL_{i}") for i in range(logits))
    real = tuple(None if name in ("N/A", "no object") else name for name in names)
    return Foreign(f"transformers {member}", config, ours, real)
