"""Parameter names of the authors' releases → ours, one key at a time.

The names of other implementations are converted to those of the authors first.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping

from torch import Tensor

State = dict[str, Tensor]
Table = tuple[tuple[str, str], ...]
"""Pairs of a pattern and its replacement, applied in this order."""

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
    (r"^patterns(?:_embed)?\.weight$", "queries.patterns"),
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


def to_ours(official: Mapping[str, Tensor]) -> State:
    """The state under our names, with projections split and copies of shared heads dropped."""
    table = official_table(official)
    state: State = {}
    for key, value in split_attention(official).items():
        state[rename(key, table)] = value
    positions = state.get("queries.positions")
    if positions is not None and "projection.levels" in state:  # [positional query, content]
        state["queries.positions"], state["queries.content"] = positions.chunk(2, dim=1)
    for prefix in ("decoder.heads.classes.", "decoder.heads.boxes."):
        _unshare(state, prefix)
    return state


def official_table(state: Iterable[str]) -> Table:
    """The table from the authors' names to ours for the member with these keys."""
    keys = set(state)
    kind = _DEFORMABLE if any(".sampling_offsets." in key for key in keys) else _DENSE
    points = _POINTS if "query_embed.weight" in keys else ()
    layers = len({k.split(".")[3] for k in keys if k.startswith("transformer.decoder.layers.")})
    proposals: Table = (  # two-stage Deformable: the encoder's heads come after the decoder's
        (rf"^(?:decoder\.)?class_embed\.{layers}\.", "queries.classes."),
        (rf"^(?:decoder\.)?bbox_embed\.{layers}\.layers\.", "queries.boxes.mlp."),
    )
    return ((r"^transformer\.", ""), *kind, *points, *proposals, *_COMMON)


def rename(key: str, table: Table) -> str:
    """The key after all replacements of the table."""
    for pattern, replacement in table:
        key = re.sub(pattern, replacement, key)
    # An MLP is a sequence of linear, ReLU, linear …: its n-th linear layer has index 2n.
    return re.sub(r"\.mlp\.(\d+)\.", lambda m: f".{2 * int(m[1])}.", key)


def split_attention(state: Mapping[str, Tensor]) -> State:
    """The state with each packed query-key-value projection split into three."""
    out: State = {}
    for key, value in state.items():
        head, found, tail = key.rpartition("in_proj_")
        if found:
            for letter, part in zip("qkv", value.chunk(3), strict=True):
                out[f"{head}{letter}_proj.{tail}"] = part
        else:
            out[key] = value
    return out


def _unshare(state: State, prefix: str) -> None:
    """Keep only the first head if the heads of all layers are equal."""
    tails = [key.removeprefix(f"{prefix}0.") for key in state if key.startswith(f"{prefix}0.")]
    layers = count(state, prefix)
    for index in range(1, layers):
        if not all(state[f"{prefix}{index}.{t}"].equal(state[f"{prefix}0.{t}"]) for t in tails):
            return
    for index in range(1, layers):
        for tail in tails:
            del state[f"{prefix}{index}.{tail}"]


def count(state: Mapping[str, Tensor], prefix: str) -> int:
    """The number of different numbers that follow ``prefix`` in the keys."""
    found = {key.removeprefix(prefix).split(".")[0] for key in state if key.startswith(prefix)}
    return len(found)
