"""Name maps: checkpoints of the reference implementations → our config and parameter names.

Pure functions over state dicts. Shapes tell most of the config; what they cannot tell (heads,
temperature, dilation) comes from the arguments that were saved along, if any.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from torch import Tensor

from dabdetr.config import Config
from dabdetr.presets import DAB_DETR_R50, derive

State = dict[str, Tensor]


@dataclass(frozen=True)
class Foreign:
    """A checkpoint of another implementation, in our words.

    ``names`` has one entry for each class logit; None marks an id without a class.
    ``notes`` say what was assumed.
    """

    format: str
    config: Config
    state: State
    names: tuple[str | None, ...]
    notes: tuple[str, ...] = ()


# COCO's ids 0 … 90; None: an id without a class. Released weights have a logit for each id.
_COCO = (
    "-,person,bicycle,car,motorcycle,airplane,bus,train,truck,boat,traffic light,fire hydrant,-,"
    "stop sign,parking meter,bench,bird,cat,dog,horse,sheep,cow,elephant,bear,zebra,giraffe,-,"
    "backpack,umbrella,-,-,handbag,tie,suitcase,frisbee,skis,snowboard,sports ball,kite,"
    "baseball bat,baseball glove,skateboard,surfboard,tennis racket,bottle,-,wine glass,cup,fork,"
    "knife,spoon,bowl,banana,apple,sandwich,orange,broccoli,carrot,hot dog,pizza,donut,cake,chair,"
    "couch,potted plant,bed,-,dining table,-,-,toilet,-,tv,laptop,mouse,remote,keyboard,cell phone,"
    "microwave,oven,toaster,sink,refrigerator,-,book,clock,vase,scissors,teddy bear,hair drier,"
    "toothbrush"
)
COCO_IDS = tuple(None if name == "-" else name for name in _COCO.split(","))

# Applied in order to every key; ``layers.N.`` of an MLP is rewritten by _mlp_index afterwards.
_OFFICIAL = (
    (r"^backbone\.0\.body\.", "backbone.body."),
    (r"^input_proj\.", "projection.project."),
    (r"^refpoint_embed\.weight$", "queries.anchors"),
    (r"^transformer\.patterns\.weight$", "queries.patterns"),
    (r"^class_embed\.", "decoder.heads.classes."),
    (r"^(?:transformer\.decoder\.)?bbox_embed\.layers\.", "decoder.heads.boxes.0.mlp."),
    (r"^(?:transformer\.decoder\.)?bbox_embed\.(\d+)\.layers\.", r"decoder.heads.boxes.\1.mlp."),
    (r"^transformer\.", ""),
    (r"^encoder\.query_scale\.layers\.", "encoder.position_scale.mlp."),
    (r"^decoder\.query_scale\.layers\.", "decoder.positions.scale.mlp."),
    (r"^decoder\.query_scale\.weight$", "decoder.positions.scale.weight"),
    (r"^decoder\.ref_point_head\.layers\.", "decoder.positions.to_query.mlp."),
    (r"^decoder\.ref_anchor_head\.layers\.", "decoder.positions.size.mlp."),
    (r"^(encoder\.layers\.\d+)\.self_attn\.q_proj\.", r"\1.attention.query."),
    (r"^(encoder\.layers\.\d+)\.self_attn\.k_proj\.", r"\1.attention.key."),
    (r"^(encoder\.layers\.\d+)\.self_attn\.v_proj\.", r"\1.attention.value."),
    (r"^(encoder\.layers\.\d+)\.self_attn\.out_proj\.", r"\1.attention.output."),
    (r"^(encoder\.layers\.\d+)\.norm1\.", r"\1.attention_norm."),
    (r"^(encoder\.layers\.\d+)\.norm2\.", r"\1.feedforward_norm."),
    (r"\.sa_qcontent_proj\.", ".self_attention.query."),
    (r"\.sa_qpos_proj\.", ".self_attention.query_position."),
    (r"\.sa_kcontent_proj\.", ".self_attention.key."),
    (r"\.sa_kpos_proj\.", ".self_attention.key_position."),
    (r"\.sa_v_proj\.", ".self_attention.value."),
    (r"\.self_attn\.out_proj\.", ".self_attention.output."),
    (r"\.ca_qcontent_proj\.", ".cross_attention.query."),
    (r"\.ca_qpos_proj\.", ".cross_attention.query_position."),
    (r"\.ca_qpos_sine_proj\.", ".cross_attention.query_code."),
    (r"\.ca_kcontent_proj\.", ".cross_attention.key."),
    (r"\.ca_kpos_proj\.", ".cross_attention.key_position."),
    (r"\.ca_v_proj\.", ".cross_attention.value."),
    (r"\.cross_attn\.out_proj\.", ".cross_attention.output."),
    (r"^(decoder\.layers\.\d+)\.norm1\.", r"\1.self_norm."),
    (r"^(decoder\.layers\.\d+)\.norm2\.", r"\1.cross_norm."),
    (r"^(decoder\.layers\.\d+)\.norm3\.", r"\1.feedforward_norm."),
    (r"\.linear1\.", ".feedforward.expand."),
    (r"\.linear2\.", ".feedforward.contract."),
    (r"\.activation\.", ".feedforward.activation."),
)

# transformers' DabDetr names → official names.
_TRANSFORMERS = (
    (r"^model\.backbone\.(?:conv_encoder\.)?(?:model\.)?(?:_backbone\.)?", "backbone.0.body."),
    (r"^model\.input_projection\.", "input_proj."),
    (r"^model\.query_refpoint_embeddings\.", "refpoint_embed."),
    (r"^model\.patterns\.", "transformer.patterns."),
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
    (r"\.self_attn_layer_norm\.", ".norm1."),
    (r"^(transformer\.encoder\.layers\.\d+)\.final_layer_norm\.", r"\1.norm2."),
)


def rename(key: str, *tables: Iterable[tuple[str, str]]) -> str:
    """One key through one table after another (official names → ours by default)."""
    for table in tables or (_OFFICIAL,):
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


def recognise(state: Mapping[str, Tensor]) -> str | None:
    """Which implementation wrote these keys; None where none that we know did."""
    if any("ca_qpos_sine_proj" in key for key in state) and "refpoint_embed.weight" in state:
        return "official DAB-DETR"
    if "model.query_refpoint_embeddings.weight" in state:
        return "transformers DabDetr"
    return None


def from_official(state: Mapping[str, Tensor], args: Mapping[str, Any] | None) -> Foreign:
    """The authors' release: ``checkpoint["model"]`` and its saved arguments."""
    ours = {rename(key): value for key, value in _untied(split_attention(state)).items()}
    known = dict(args or {})
    notes = () if args else (
        "no arguments were saved with the weights: assumed 8 heads, temperature 20, no dilation",
    )  # fmt: skip
    if known.get("pre_norm"):
        raise ValueError("weights trained with pre_norm are not supported; DAB-DETR is post-norm")
    temperature = _temperature(known.get("pe_temperatureH", 20), known.get("pe_temperatureW", 20))
    config = _config(
        ours,
        name=f"dab-detr-{known.get('backbone', 'custom')}",
        backbone=known.get("backbone"),
        dilated=bool(known.get("dilation", False)),
        heads=known.get("nheads", 8),
        dropout=known.get("dropout", 0.0),
        activation=known.get("transformer_activation", "prelu"),
        temperature=temperature,
        anchor_eps=1e-3,
        update=known.get("iter_update", True),
        max_det=known.get("num_select", 300),
    )
    logits = len(ours["decoder.heads.classes.bias"])
    if known.get("dataset_file", "coco") == "coco" and logits == len(COCO_IDS):
        return Foreign("official DAB-DETR", config, ours, COCO_IDS, notes)
    names = tuple(f"class {index}" for index in range(logits))
    note = f"the file has no class names: they are called 'class 0' to 'class {logits - 1}'"
    return Foreign("official DAB-DETR", config, ours, names, (*notes, note))


def from_transformers(state: Mapping[str, Tensor], settings: Mapping[str, Any]) -> Foreign:
    """A Hugging Face ``DabDetrForObjectDetection`` and its config.json."""
    official = {rename(key, _TRANSFORMERS): value for key, value in state.items()}
    ours = {rename(key): value for key, value in _untied(official).items()}
    if settings.get("normalize_before"):
        raise ValueError("weights with normalize_before are not supported; DAB-DETR is post-norm")
    if settings.get("sine_position_embedding_scale") not in (None, 2 * 3.141592653589793):
        raise ValueError("sine_position_embedding_scale other than 2π is not supported")
    backbone = settings.get("backbone_config") or {}
    temperature = _temperature(
        settings.get("temperature_height", 20), settings.get("temperature_width", 20)
    )
    config = _config(
        ours,
        name="dab-detr-transformers",
        backbone=backbone.get("backbone") or settings.get("backbone") or "resnet50",
        dilated=bool(settings.get("dilation")) or backbone.get("output_stride") == 16,
        heads=settings.get("encoder_attention_heads", 8),
        dropout=settings.get("dropout", 0.1),
        activation=settings.get("activation_function", "prelu"),
        temperature=temperature,
        anchor_eps=1e-5,
        update=True,
        max_det=300,
    )
    logits = len(ours["decoder.heads.classes.bias"])
    labels = {int(key): name for key, name in (settings.get("id2label") or {}).items()}
    names = tuple(labels.get(i, f"LABEL_{i}") for i in range(logits))
    real = tuple(None if name in ("N/A", "no object") else name for name in names)
    return Foreign("transformers DabDetr", config, ours, real)


def _untied(state: Mapping[str, Tensor]) -> State:
    """Without the second spelling of the box head, which files store once or twice."""
    alias = "transformer.decoder.bbox_embed."
    return {
        key: value
        for key, value in state.items()
        if not (key.startswith(alias) and "bbox_embed." + key.removeprefix(alias) in state)
    }


def _temperature(height: int | float, width: int | float) -> float:
    if height != width:
        raise ValueError(f"one temperature is supported; the weights have {height} and {width}")
    return float(height)


def _config(
    state: State,
    *,
    name: str,
    backbone: str | None,
    dilated: bool,
    heads: int,
    dropout: float,
    activation: str,
    temperature: float,
    anchor_eps: float,
    update: bool,
    max_det: int,
) -> Config:
    """The config that shapes and saved settings tell."""
    try:
        first = state["encoder.layers.0.feedforward.expand.weight"]
        width, count = state["projection.project.weight"].shape[0], len(state["queries.anchors"])
    except KeyError as error:
        raise ValueError(f"the weights lack {error}; they are not a whole DAB-DETR") from None
    scale = state.get("decoder.positions.scale.2.weight")
    modulate = "content" if scale is None or len(scale) == width else "scalar"
    stride = 16 if dilated else 32
    patterns = state.get("queries.patterns")
    return derive(
        DAB_DETR_R50,
        name,
        "loaded weights",
        model__backbone__name=backbone or _resnet(state),
        model__backbone__output_stride=stride,
        model__backbone__strides=(stride,),
        model__encoder__layers=_count(state, "encoder.layers."),
        model__encoder__scale_positions="encoder.position_scale.0.weight" in state,
        model__queries__count=count,
        model__queries__patterns=0 if patterns is None else len(patterns),
        model__decoder__layers=_count(state, "decoder.layers."),
        model__decoder__modulate_position=(
            "layer" if "decoder.positions.scale.weight" in state else modulate
        ),
        model__decoder__update_anchors=update,
        model__decoder__look_forward_twice=update,
        model__decoder__cross_attention__modulate_size="decoder.positions.size.0.weight" in state,
        model__decoder__cross_attention__position_every_layer=(
            "decoder.layers.1.cross_attention.query_position.weight" in state
        ),
        model__width=width,
        model__heads=heads,
        model__feedforward=first.shape[0],
        model__dropout=dropout,
        model__activation=activation,
        model__position_temperature=temperature,
        model__anchor_eps=anchor_eps,
        model__box_head_per_layer=_count(state, "decoder.heads.boxes.") > 1,
        inference__max_det=max_det,
    )


def _count(state: State, prefix: str) -> int:
    """How many numbered parts stand behind ``prefix``."""
    found = {key.removeprefix(prefix).split(".")[0] for key in state if key.startswith(prefix)}
    return len(found)


def _resnet(state: State) -> str:
    """The ResNet that has as many blocks in its third stage."""
    blocks = _count(state, "backbone.body.layer3.")
    bottleneck = "backbone.body.layer1.0.conv3.weight" in state
    known = {(2, False): 18, (6, False): 34, (6, True): 50, (23, True): 101, (36, True): 152}
    if (blocks, bottleneck) not in known:
        raise ValueError(f"no ResNet has {blocks} blocks in its third stage; the weights do")
    return f"resnet{known[blocks, bottleneck]}"
