"""Checkpoints of mmdetection 3: its DETR, Conditional, Deformable, DAB, DINO and Co-DINO models.

Images are converted to RGB and normalised with ImageNet's mean and standard deviation, as here. A
checkpoint contains its class names, which are read, and its config as text, which is not.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from dabdetr.checkpoints.detrex import LAYERS, SAMPLING, last_heads_propose, neck, with_unknown
from dabdetr.checkpoints.foreign import Foreign, Names, assumed, guess_names, member_of
from dabdetr.checkpoints.infer_config import class_logits, config_of
from dabdetr.checkpoints.key_names import State, Table, count, rename, to_ours
from dabdetr.presets.published import DAB_DETR_R50, DINO_R50_4SCALE

_CO_DINO: Table = (
    (r"^query_head\.transformer\.query_embed\.", "query_embedding."),
    (r"^query_head\.transformer\.enc_output\.", "memory_trans_fc."),
    (r"^query_head\.transformer\.enc_output_norm\.", "memory_trans_norm."),
    (r"^query_head\.transformer\.level_embeds$", "level_embed"),
    (r"^query_head\.transformer\.decoder\.ref_point_head\.0\.", "decoder.ref_point_head.layers.0."),
    (r"^query_head\.transformer\.decoder\.ref_point_head\.2\.", "decoder.ref_point_head.layers.1."),
    (r"^query_head\.transformer\.", ""),
    (r"^query_head\.dn_generator\.", "dn_query_generator."),
    (r"^query_head\.", "bbox_head."),
)
_AUXILIARY = (
    "rpn_head.",
    "roi_head.",
    "bbox_head.",
    "query_head.downsample.",
    "query_head.transformer.aux_pos_trans",
    "query_head.transformer.pos_feats_",
    "query_head.transformer.head_pos_embed.",
)
_COMMON: Table = (
    (r"^(encoder|decoder)\.", r"transformer.\1."),
    (r"^backbone\.", "backbone.0.body."),
    (r"\.self_attn\.attn\.", ".self_attn."),
    (r"\.cross_attn\.attn\.", ".multihead_attn."),
    (r"\.self_attn\.([qk](?:content|pos)|v)_proj\.", r".sa_\1_proj."),
    (r"\.cross_attn\.([qk](?:content|pos|pos_sine)|v)_proj\.", r".ca_\1_proj."),
    *LAYERS,
    (r"^transformer\.decoder\.post_norm\.", "transformer.decoder.norm."),
    (r"^level_embed$", "transformer.level_embed"),
    (r"^reference_points_fc\.", "transformer.reference_points."),
    (r"^memory_trans_fc\.", "transformer.enc_output."),
    (r"^memory_trans_norm\.", "transformer.enc_output_norm."),
    (r"^pos_trans_fc\.", "transformer.pos_trans."),
    (r"^pos_trans_norm\.", "transformer.pos_trans_norm."),
    (r"^patterns\.", "transformer.patterns."),
    (r"^dn_query_generator\.label_embedding\.", "label_enc."),
    (r"^bbox_head\.fc_cls\.", "class_embed."),
    (r"^bbox_head\.cls_branches\.", "class_embed."),
    (r"^bbox_head\.reg_branches\.(\d+)\.0\.", r"bbox_embed.\1.layers.0."),
    (r"^bbox_head\.reg_branches\.(\d+)\.2\.", r"bbox_embed.\1.layers.1."),
    (r"^bbox_head\.reg_branches\.(\d+)\.4\.", r"bbox_embed.\1.layers.2."),
    (r"^bbox_head\.fc_reg\.layers\.", "bbox_embed.layers."),
    (r"^bbox_head\.reg_ffn\.layers\.0\.0\.", "bbox_embed.layers.0."),
    (r"^bbox_head\.reg_ffn\.layers\.1\.", "bbox_embed.layers.1."),
    (r"^bbox_head\.fc_reg\.", "bbox_embed.layers.2."),
)
_EPS_NOTE = (
    "mmdetection clamps logits at 1e-3 and 1e-5 in turn, here it is 1e-3: boxes as large as the "
    "image may differ in the third digit"
)


def is_mmdetection(state: Mapping[str, Tensor]) -> bool:
    return "encoder.layers.0.norms.0.weight" in state or _is_co_dino(state)


def _is_co_dino(state: Mapping[str, Tensor]) -> bool:
    return any(key.startswith("query_head.transformer.encoder.") for key in state)


def mmdetection_to_official(state: Mapping[str, Tensor]) -> State:
    """The same tensors under the authors' names, without auxiliary heads."""
    if _is_co_dino(state):
        kept = {key: value for key, value in state.items() if not key.startswith(_AUXILIARY)}
        state = {rename(key, _CO_DINO): value for key, value in kept.items()}
    table = (*_neck_and_queries(state), *_COMMON, *SAMPLING)
    if "memory_trans_fc.weight" in state and "pos_trans_fc.weight" not in state:  # DINO
        table = (*table, *last_heads_propose(count(state, "decoder.layers.")))
    official = {rename(key, table): value for key, value in state.items()}
    for key, value in list(official.items()):  # mmdetection has no bias before a norm: zeros
        bias = key.replace(".0.weight", ".0.bias")
        if key.startswith("input_proj.") and key.endswith(".0.weight") and bias not in official:
            official[bias] = torch.zeros(len(value))
    return official


def _neck_and_queries(state: Mapping[str, Tensor]) -> Table:
    """The table for projections and for query_embedding, whose meaning depends on the member."""
    queries = "query_embed."
    if "level_embed" in state:
        if "memory_trans_fc.weight" in state:
            queries = "transformer.tgt_embed."
        return ((r"^query_embedding\.", queries), *neck(state, "gn"))
    if "encoder.query_scale.layers.0.weight" in state:
        queries = "refpoint_embed."
    return ((r"^query_embedding\.", queries), (r"^neck\.convs\.0\.conv\.", "input_proj."))


def from_mmdetection(state: Mapping[str, Tensor], meta: Mapping[str, Any] | None) -> Foreign:
    """A checkpoint's ``state_dict``, and its ``meta`` if it has one."""
    official = with_unknown(mmdetection_to_official(state))
    member, preset = member_of(official)
    ours = to_ours(official)
    mixed = preset in (DAB_DETR_R50, DINO_R50_4SCALE)
    config = config_of(
        ours,
        preset,
        f"{preset.name.removesuffix('-r50')}-mmdetection",
        anchor_eps=1e-3 if mixed else 1e-5,
    )
    notes = [assumed(config, ours)]
    if _is_co_dino(state):
        notes.append("auxiliary heads of Co-DINO are dropped: they serve training only")
    elif mixed:
        notes.append(_EPS_NOTE)
    names, guessed = _names(meta or {}, class_logits(ours, config))
    kind = "Co-DINO" if _is_co_dino(state) else member
    return Foreign(f"mmdetection {kind}", config, ours, names, (*notes, *guessed))


def _names(meta: Mapping[str, Any], logits: int) -> tuple[Names, tuple[str, ...]]:
    """Class names from the checkpoint's dataset metadata, or guessed, with notes on the guess."""
    dataset = {str(key).lower(): value for key, value in (meta.get("dataset_meta") or meta).items()}
    classes = dataset.get("classes")
    if classes is not None and len(classes) == logits:
        return tuple(str(name) for name in classes), ()
    return guess_names(logits)
