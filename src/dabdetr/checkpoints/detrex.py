"""Checkpoints of detrex: the names of its modules and of detectron2's ResNets.

The number of attention heads, dilation and the number of proposals cannot be inferred from a state.
Images are RGB with ImageNet's mean and standard deviation, as here. detrex's dense decoders do not
mask padding and ours do: they agree on single images.
"""

from __future__ import annotations

import re
from collections.abc import Mapping

import torch
from torch import Tensor

from dabdetr.checkpoints.foreign import Foreign, assumed, guess_names, member_of
from dabdetr.checkpoints.infer_config import class_logits, config_of
from dabdetr.checkpoints.key_names import State, Table, count, rename, to_ours
from dabdetr.presets.published import CONDITIONAL_DETR_R50, DINO_R50_4SCALE

_ENCODER = r"^(transformer\.encoder\.layers\.\d+)"
_DECODER = r"^(transformer\.decoder\.layers\.\d+)"

# Layers of detrex and mmcv: lists of attentions, norms and feed-forward networks.
LAYERS: Table = (
    (_ENCODER + r"\.attentions\.0\.(?:attn\.)?", r"\1.self_attn."),
    (_DECODER + r"\.attentions\.0\.attn\.", r"\1.self_attn."),
    (_DECODER + r"\.attentions\.1\.attn\.", r"\1.multihead_attn."),
    (_DECODER + r"\.attentions\.0\.out_proj\.", r"\1.self_attn.out_proj."),
    (_DECODER + r"\.attentions\.1\.out_proj\.", r"\1.cross_attn.out_proj."),
    (_DECODER + r"\.attentions\.0\.value_proj\.", r"\1.sa_v_proj."),
    (_DECODER + r"\.attentions\.0\.query_(content|pos)_proj\.", r"\1.sa_q\2_proj."),
    (_DECODER + r"\.attentions\.0\.key_(content|pos)_proj\.", r"\1.sa_k\2_proj."),
    (_DECODER + r"\.attentions\.1\.query_(content|pos|pos_sine)_proj\.", r"\1.ca_q\2_proj."),
    (_DECODER + r"\.attentions\.1\.key_(content|pos)_proj\.", r"\1.ca_k\2_proj."),
    (_ENCODER + r"\.norms\.0\.", r"\1.norm1."),
    (_ENCODER + r"\.norms\.1\.", r"\1.norm2."),
    (_DECODER + r"\.norms\.0\.", r"\1.self_norm."),
    (_DECODER + r"\.norms\.1\.", r"\1.cross_norm."),
    (_DECODER + r"\.norms\.2\.", r"\1.norm3."),
    (r"\.ffns?(?:\.0)?\.layers\.0\.0\.", ".linear1."),
    (r"\.ffns?(?:\.0)?\.layers\.1\.", ".linear2."),
    # The activation is registered twice, by name and in the list of layers.
    (r"\.ffns?(?:\.0)?\.(?:layers\.0\.1|activat(?:ion|e))\.", ".activation."),
    (r"^transformer\.level_embeds$", "transformer.level_embed"),
)
# The cross-attention of deformable and dense members has projections of the same names.
SAMPLING: Table = ((_DECODER + r"\.attentions\.1\.", r"\1.cross_attn."),)
_DENSE: Table = ((_DECODER + r"\.attentions\.1\.value_proj\.", r"\1.ca_v_proj."),)

_BACKBONE: Table = (
    (r"^backbone\.stem\.conv1\.norm\.", "backbone.0.body.bn1."),
    (r"^backbone\.stem\.", "backbone.0.body."),
    (r"^backbone\.res2\.", "backbone.0.body.layer1."),
    (r"^backbone\.res3\.", "backbone.0.body.layer2."),
    (r"^backbone\.res4\.", "backbone.0.body.layer3."),
    (r"^backbone\.res5\.", "backbone.0.body.layer4."),
    (r"^(backbone\.0\..*)\.conv(\d)\.norm\.", r"\1.bn\2."),
    (r"^(backbone\.0\..*)\.shortcut\.norm\.", r"\1.downsample.1."),
    (r"^(backbone\.0\..*)\.shortcut\.", r"\1.downsample.0."),
    (r"^backbone\.(?!0\.)", "backbone.0.body."),  # not a ResNet: refused later, with its names
)
_REST: Table = (
    (r"^transformer\.decoder\.post_norm_layer\.", "transformer.decoder.norm."),
    (r"^anchor_box_embed\.", "refpoint_embed."),
    (r"^query_embedding\.", "query_embed."),
    (r"^(?:denoising_generator\.)?label_encoder\.", "label_enc."),
)
_DROPPED = ("criterion.", "position_embedding.", "pixel_mean", "pixel_std")


def is_detrex(state: Mapping[str, Tensor]) -> bool:
    return "transformer.encoder.layers.0.norms.0.weight" in state


def detrex_to_official(state: Mapping[str, Tensor]) -> State:
    """The same tensors under the authors' names."""
    sampled = any(".sampling_offsets." in key for key in state)
    table = (*neck(state, "norm"), *_BACKBONE, *LAYERS, *(SAMPLING if sampled else _DENSE), *_REST)
    if "transformer.tgt_embed.weight" in state:  # DINO
        table = (*table, *last_heads_propose(count(state, "transformer.decoder.layers.")))
    kept = {key: value for key, value in state.items() if not key.startswith(_DROPPED)}
    return {rename(key, table): value for key, value in kept.items()}


def neck(state: Mapping[str, Tensor], norm: str) -> Table:
    """The table for a channel mapper; projections of additional levels are in a second list."""
    maps = count(state, "neck.convs.")
    extra: Table = tuple(
        (rf"^neck\.extra_convs\.{index}\.", f"neck.convs.{maps + index}.")
        for index in range(count(state, "neck.extra_convs."))
    )
    return (
        *extra,
        (r"^neck\.convs\.(\d+)\.conv\.", r"input_proj.\1.0."),
        (rf"^neck\.convs\.(\d+)\.{norm}\.", r"input_proj.\1.1."),
    )


def last_heads_propose(layers: int) -> Table:
    """The table for DINO: the heads after those of all decoder layers are the encoder's."""
    return (
        (
            rf"^(?:transformer\.decoder\.)?class_embed\.{layers}\.",
            "transformer.enc_out_class_embed.",
        ),
        (
            rf"^(?:transformer\.decoder\.)?bbox_embed\.{layers}\.",
            "transformer.enc_out_bbox_embed.",
        ),
    )


def with_unknown(official: State) -> State:
    """The state with a label row for "unknown", which contrastive denoising never reads."""
    labels = official.get("label_enc.weight")
    heads = [value for key, value in official.items() if re.search(r"class_embed\..*bias$", key)]
    if labels is None or not heads or len(labels) != len(heads[0]):
        return official
    return official | {"label_enc.weight": torch.cat((labels, torch.zeros_like(labels[:1])))}


def from_detrex(state: Mapping[str, Tensor]) -> Foreign:
    """A state of detrex (``checkpoint["model"]``)."""
    official = with_unknown(detrex_to_official(state))
    member, preset = member_of(official)
    ours = to_ours(official)
    dino = preset is DINO_R50_4SCALE
    config = config_of(
        ours,
        preset,
        f"{preset.name.removesuffix('-r50')}-detrex",
        temperatures=(10000.0, 10000.0) if dino else None,  # its configs, unlike the authors'
        offset=-0.5 if dino else None,
        anchor_eps=1e-3,  # in all members
        max_det=300 if preset is CONDITIONAL_DETR_R50 else None,
    )
    names, notes = guess_names(class_logits(ours, config))
    notes = (assumed(config, ours), *notes)
    return Foreign(f"detrex {member}", config, ours, names, notes)
