"""Parameter names: those of the reference implementations → ours, one key at a time."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping

from torch import Tensor

State = dict[str, Tensor]
Table = tuple[tuple[str, str], ...]

# Applied in order to every key. ``mlp.N.`` counts the linear layers of an MLP.
_DENSE: Table = (
    (r"^(decoder\.layers\.\d+)\.norm1\.", r"\1.self_norm."),
    (r"^(decoder\.layers\.\d+)\.norm2\.", r"\1.cross_norm."),
)
_DEFORMABLE: Table = (
    (r"^(decoder\.layers\.\d+)\.norm1\.", r"\1.cross_norm."),  # cross-attention's norm is first
    (r"^(decoder\.layers\.\d+)\.norm2\.", r"\1.self_norm."),
    (r"\.sampling_offsets\.", ".offsets."),
    (r"\.attention_weights\.", ".weights."),
    (r"\.value_proj\.", ".value."),
    (r"\.output_proj\.", ".output."),
    (r"^(encoder\.layers\.\d+)\.self_attn\.", r"\1.attention."),
    (r"^level_embed$", "projection.levels"),
    (r"^reference_points\.", "queries.to_point.mlp.0."),
    (r"^tgt_embed\.weight$", "queries.content"),
    (r"^enc_output\.", "queries.project."),
    (r"^enc_output_norm\.", "queries.norm."),
    (r"^enc_out_class_embed\.", "queries.classes."),
    (r"^enc_out_bbox_embed\.layers\.", "queries.boxes.mlp."),
    (r"^pos_trans\.", "queries.to_query.0."),
    (r"^pos_trans_norm\.", "queries.to_query.1."),
)
_POINTS: Table = ((r"^decoder\.ref_point_head\.layers\.", "queries.to_point.mlp."),)
_COMMON: Table = (
    (r"^backbone\.0\.body\.", "backbone.body."),
    (r"^input_proj\.", "projection.project."),
    (r"^label_enc\.", "denoising.labels."),
    (r"^refpoint_embed\.weight$", "queries.anchors"),
    (r"^patterns\.weight$", "queries.patterns"),
    (r"^query_embed\.weight$", "queries.positions"),
    (r"^(?:decoder\.)?class_embed\.(\d+)\.", r"decoder.heads.classes.\1."),
    (r"^class_embed\.", "decoder.heads.classes.0."),
    (r"^(?:decoder\.)?bbox_embed\.layers\.", "decoder.heads.boxes.0.mlp."),
    (r"^(?:decoder\.)?bbox_embed\.(\d+)\.layers\.", r"decoder.heads.boxes.\1.mlp."),
    (r"^encoder\.query_scale\.layers\.", "encoder.position_scale.mlp."),
    (r"^decoder\.query_scale\.layers\.", "decoder.positions.scale.mlp."),
    (r"^decoder\.query_scale\.weight$", "decoder.positions.scale.weight"),
    (r"^decoder\.ref_point_head\.layers\.", "decoder.positions.to_query.mlp."),
    (r"^decoder\.ref_anchor_head\.layers\.", "decoder.positions.size.mlp."),
    (r"\.q_proj\.", ".query."),
    (r"\.k_proj\.", ".key."),
    (r"\.v_proj\.", ".value."),
    (r"\.out_proj\.", ".output."),
    (r"\.multihead_attn\.", ".cross_attention."),
    (r"^(encoder\.layers\.\d+)\.self_attn\.", r"\1.attention."),
    (r"^(encoder\.layers\.\d+)\.norm1\.", r"\1.attention_norm."),
    (r"^(encoder\.layers\.\d+)\.norm2\.", r"\1.feedforward_norm."),
    (r"^(decoder\.layers\.\d+)\.norm3\.", r"\1.feedforward_norm."),
    (r"\.sa_qcontent_proj\.", ".self_attention.query."),
    (r"\.sa_qpos_proj\.", ".self_attention.query_position."),
    (r"\.sa_kcontent_proj\.", ".self_attention.key."),
    (r"\.sa_kpos_proj\.", ".self_attention.key_position."),
    (r"\.sa_v_proj\.", ".self_attention.value."),
    (r"\.ca_qcontent_proj\.", ".cross_attention.query."),
    (r"\.ca_qpos_proj\.", ".cross_attention.query_position."),
    (r"\.ca_qpos_sine_proj\.", ".cross_attention.query_code."),
    (r"\.ca_kcontent_proj\.", ".cross_attention.key."),
    (r"\.ca_kpos_proj\.", ".cross_attention.key_position."),
    (r"\.ca_v_proj\.", ".cross_attention.value."),
    (r"\.self_attn\.", ".self_attention."),
    (r"\.cross_attn\.", ".cross_attention."),
    (r"\.linear1\.", ".feedforward.expand."),
    (r"\.linear2\.", ".feedforward.contract."),
    (r"\.activation\.", ".feedforward.activation."),
)

# transformers' names → official names.
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


def official_table(state: Iterable[str]) -> Table:
    """The names that a release of the authors of ``state``'s member needs."""
    keys = set(state)
    kind = _DEFORMABLE if any(".sampling_offsets." in key for key in keys) else _DENSE
    points = _POINTS if "query_embed.weight" in keys else ()
    layers = len({k.split(".")[3] for k in keys if k.startswith("transformer.decoder.layers.")})
    proposals: Table = (  # two-stage Deformable: the encoder's heads stand behind the last layer's
        (rf"^(?:decoder\.)?class_embed\.{layers}\.", "queries.classes."),
        (rf"^(?:decoder\.)?bbox_embed\.{layers}\.layers\.", "queries.boxes.mlp."),
    )
    return ((r"^transformer\.", ""), *kind, *points, *proposals, *_COMMON)


def rename(key: str, table: Table) -> str:
    """One key through a table."""
    for pattern, replacement in table:
        key = re.sub(pattern, replacement, key)
    # An MLP is linear, ReLU, linear … in one sequence: its n-th linear layer has index 2n.
    return re.sub(r"\.mlp\.(\d+)\.", lambda m: f".{2 * int(m[1])}.", key)


def split_attention(state: Mapping[str, Tensor]) -> State:
    """Packed query-key-value projections as three."""
    out: State = {}
    for key, value in state.items():
        head, found, tail = key.rpartition("in_proj_")
        if found:
            for letter, part in zip("qkv", value.chunk(3), strict=True):
                out[f"{head}{letter}_proj.{tail}"] = part
        else:
            out[key] = value
    return out
