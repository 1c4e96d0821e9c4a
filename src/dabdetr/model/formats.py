"""Checkpoints of the reference implementations → our config, parameter names and class names.

Shapes tell most of the config; what they cannot tell (attention heads, temperature, dilation)
comes from the settings that were saved along, if any.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from torch import Tensor

from dabdetr.config import Config, Denoising
from dabdetr.model.key_names import (
    TRANSFORMERS,
    State,
    official_table,
    rename,
    split_attention,
)
from dabdetr.presets.published import (
    CONDITIONAL_DETR_R50,
    DAB_DEFORMABLE_DETR_R50,
    DAB_DETR_R50,
    DEFORMABLE_DETR_R50,
    DEFORMABLE_DETR_R50_TWO_STAGE,
    DETR_R50,
    DINO_R50_4SCALE,
    DN_DAB_DEFORMABLE_DETR_R50,
    DN_DETR_R50,
    derive,
)


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

# What is unique to the keys of a member (official names), first match wins; its preset.
_MEMBERS: tuple[tuple[str, str, str, Config], ...] = (
    ("sampling_offsets", "transformer.enc_out_class_embed", "DINO", DINO_R50_4SCALE),
    (
        "sampling_offsets",
        "transformer.pos_trans",
        "two-stage Deformable DETR",
        DEFORMABLE_DETR_R50_TWO_STAGE,
    ),
    ("sampling_offsets", "label_enc", "DN-DAB-Deformable-DETR", DN_DAB_DEFORMABLE_DETR_R50),
    ("ca_qpos_sine_proj", "label_enc", "DN-DETR", DN_DETR_R50),
    ("sampling_offsets", "refpoint_embed", "DAB-Deformable-DETR", DAB_DEFORMABLE_DETR_R50),
    ("sampling_offsets", "query_embed", "Deformable DETR", DEFORMABLE_DETR_R50),
    ("ca_qpos_sine_proj", "refpoint_embed", "DAB-DETR", DAB_DETR_R50),
    ("ca_qpos_sine_proj", "query_embed", "Conditional DETR", CONDITIONAL_DETR_R50),
    ("multihead_attn", "query_embed", "DETR", DETR_R50),
)
_NOISE = {"scalar": "groups", "label_noise_scale": "label_noise", "box_noise_scale": "box_noise"}
_PROJECTION = r"projection\.project\.\d+\.0\.weight"
_UNSUPPORTED = {
    "transformer.decoder.layers.0.lvl_attn.weight": "DN-DETR with a deformable encoder alone",
}


def recognise(state: Mapping[str, Tensor]) -> str | None:
    """Which implementation wrote these keys ('official DAB-DETR'); None where none that we know."""
    if _is_transformers(state):
        member = _member({rename(key, TRANSFORMERS): value for key, value in state.items()})
        return member and f"transformers {member[0]}"
    member = _member(state)
    return member and f"official {member[0]}"


def _is_transformers(state: Mapping[str, Tensor]) -> bool:
    return any(key.startswith(("model.encoder.layers.", "model.decoder.")) for key in state)


def _member(official: Mapping[str, Tensor]) -> tuple[str, Config] | None:
    for part, queries, name, preset in _MEMBERS:
        if f"{queries}.weight" in official and any(f"{part}." in key for key in official):
            return name, preset
    return None


def from_official(state: Mapping[str, Tensor], args: Mapping[str, Any] | None) -> Foreign:
    """The authors' release: ``checkpoint["model"]`` and its saved arguments."""
    member = _member(state)
    assert member is not None, "the caller has recognised the keys"
    known = dict(args or {})
    notes = () if args else (
        f"no arguments were saved with the weights: assumed 8 heads, no dilation and the position "
        f"temperature of {member[1].name}",
    )  # fmt: skip
    if known.get("pre_norm"):
        raise ValueError("weights trained with pre_norm are not supported, only post-norm")
    ours = _ours(state)
    # The deformable members have such an argument, and never read it.
    dense_dab = member[1] in (DAB_DETR_R50, DN_DETR_R50)
    selects = dense_dab or member[1] is DINO_R50_4SCALE
    told = selects and "pe_temperatureH" in known
    config = _config(
        ours,
        member[1],
        f"{member[1].name.removesuffix('-r50')}-{known.get('backbone', 'custom')}",
        backbone=known.get("backbone"),
        dilated=bool(known.get("dilation", False)),
        heads=known.get("nheads", 8),
        dropout=known.get("dropout", 0.0),
        activation=known.get("transformer_activation", "prelu"),
        temperature=_temperature(known["pe_temperatureH"], known["pe_temperatureW"])
        if told
        else None,
        anchor_eps=None,
        update=known.get("iter_update", known.get("with_box_refine")),
        max_det=known.get("num_select") if selects else None,
    )
    if member[1].model.queries.kind == "from_encoder" and "num_queries" in known:
        config = derive(
            config, config.name, config.source, model__queries__count=known["num_queries"]
        )
    if member[1] is DINO_R50_4SCALE and known.get("dn_number") is not None:
        config = derive(
            config,
            config.name,
            config.source,
            model__denoising__number=known["dn_number"],
            model__denoising__label_noise=known.get("dn_label_noise_ratio", 0.5) / 2,
            model__denoising__box_noise=known.get("dn_box_noise_scale", 1.0),
        )
    if isinstance(config.model.denoising, Denoising):
        told_noise = {
            f"model__denoising__{ours_name}": known[key]
            for key, ours_name in _NOISE.items()
            if key in known
        }
        config = derive(config, config.name, config.source, **told_noise)
    logits = _class_logits(ours, config)
    if known.get("dataset_file", "coco") == "coco" and logits == len(COCO_IDS):
        return Foreign(f"official {member[0]}", config, ours, COCO_IDS, notes)
    names = tuple(f"class {index}" for index in range(logits))
    note = f"the file has no class names: they are called 'class 0' to 'class {logits - 1}'"
    return Foreign(f"official {member[0]}", config, ours, names, (*notes, note))


def from_transformers(state: Mapping[str, Tensor], settings: Mapping[str, Any]) -> Foreign:
    """A Hugging Face model for object detection and its config.json."""
    official = {rename(key, TRANSFORMERS): value for key, value in state.items()}
    member = _member(official)
    assert member is not None, "the caller has recognised the keys"
    if settings.get("normalize_before"):
        raise ValueError("weights with normalize_before are not supported, only post-norm")
    scale = settings.get("sine_position_embedding_scale")
    if scale is not None and not math.isclose(scale, 2 * math.pi):
        raise ValueError(f"sine_position_embedding_scale {scale} is not supported, only 2π")
    ours = _ours(official)
    backbone = settings.get("backbone_config") or {}
    height = settings.get("temperature_height")
    config = _config(
        ours,
        member[1],
        f"{member[1].name.removesuffix('-r50')}-transformers",
        backbone=backbone.get("backbone") or settings.get("backbone") or "resnet50",
        dilated=bool(settings.get("dilation")) or backbone.get("output_stride") == 16,
        heads=settings.get("encoder_attention_heads", 8),
        dropout=settings.get("dropout", 0.1),
        activation=settings.get("activation_function", "prelu"),
        temperature=None if height is None else _temperature(height, settings["temperature_width"]),
        anchor_eps=1e-5,
        update=settings.get("with_box_refine"),
        max_det=None,
    )
    if member[1].model.queries.kind == "from_encoder":
        count = settings.get("two_stage_num_proposals", 300)
        config = derive(config, config.name, config.source, model__queries__count=count)
    logits = _class_logits(ours, config)
    labels = {int(key): name for key, name in (settings.get("id2label") or {}).items()}
    names = tuple(labels.get(i, f"LABEL_{i}") for i in range(logits))
    real = tuple(None if name in ("N/A", "no object") else name for name in names)
    return Foreign(f"transformers {member[0]}", config, ours, real)


def _ours(official: Mapping[str, Tensor]) -> State:
    """Official names → ours: projections split, aliases of shared heads dropped."""
    for key, what in _UNSUPPORTED.items():
        if key in official:
            raise ValueError(f"these are weights of {what} ({key}), which are not supported yet")
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


def _unshare(state: State, prefix: str) -> None:
    """Keep one head where those of all layers are the same."""
    tails = [key.removeprefix(f"{prefix}0.") for key in state if key.startswith(f"{prefix}0.")]
    count = _count(state, prefix)
    for index in range(1, count):
        if not all(state[f"{prefix}{index}.{t}"].equal(state[f"{prefix}0.{t}"]) for t in tails):
            return
    for index in range(1, count):
        for tail in tails:
            del state[f"{prefix}{index}.{tail}"]


def _class_logits(state: State, config: Config) -> int:
    """Class logits that stand for an id: softmax members have one more for no object."""
    softmax = config.model.classifier == "softmax"
    return len(state["decoder.heads.classes.0.bias"]) - softmax


def _temperature(height: int | float, width: int | float) -> float:
    if height != width:
        raise ValueError(f"one temperature is supported; the weights have {height} and {width}")
    return float(height)


def _config(
    state: State,
    preset: Config,
    name: str,
    *,
    backbone: str | None,
    dilated: bool,
    heads: int,
    dropout: float,
    activation: str,
    temperature: float | None,
    anchor_eps: float | None,
    update: bool | None,
    max_det: int | None,
) -> Config:
    """The member's preset, changed by what shapes and saved settings tell."""
    model = preset.model
    try:
        first = state["encoder.layers.0.feedforward.expand.weight"]
        width = state["encoder.layers.0.attention_norm.weight"].shape[0]
        places = state.get("queries.anchors", state.get("queries.positions"))
        if places is None:
            places = state.get("queries.content")
    except KeyError as error:
        raise ValueError(f"the weights lack {error}; they are not a whole detector") from None
    changes: dict[str, Any] = {
        "backbone__name": backbone or _resnet(state),
        "encoder__layers": _count(state, "encoder.layers."),
        "queries__count": preset.model.queries.count if places is None else len(places),
        "decoder__layers": _count(state, "decoder.layers."),
        "width": width,
        "heads": heads,
        "feedforward": first.shape[0],
        "dropout": dropout,
        "box_head_per_layer": _count(state, "decoder.heads.boxes.") > 1,
        "class_head_per_layer": _count(state, "decoder.heads.classes.") > 1,
    }
    stride = 16 if dilated else 32
    if model.encoder.kind == "dense":
        changes |= {"backbone__output_stride": stride, "backbone__strides": (stride,)}
    else:
        projections = [state[k] for k in state if re.fullmatch(_PROJECTION, k)]
        maps = sum(weight.shape[-1] == 1 for weight in projections)
        changes["backbone__output_stride"] = stride
        changes["backbone__strides"] = (stride,) if maps == 1 else (4, 8, 16, 32)[-maps:]
        changes["encoder__levels"] = _count(state, "projection.project.")
        changes |= _points(state, heads, len(state["projection.levels"]))
    if model.queries.anchor == "box" and model.encoder.kind == "dense":
        changes |= _dab(state, width) | {"activation": activation}
    if update is not None and model.queries.anchor is not None:
        twice = update and model.decoder.look_forward_twice
        changes |= {"decoder__update_anchors": update, "decoder__look_forward_twice": twice}
    if temperature is not None:
        changes["position_temperature"] = temperature
    if anchor_eps is not None:
        changes["anchor_eps"] = anchor_eps
    further: dict[str, Any] = {f"model__{key}": value for key, value in changes.items()}
    if max_det is not None:
        further["inference__max_det"] = max_det
    return derive(preset, name, "loaded weights", **further)


def _dab(state: State, width: int) -> dict[str, Any]:
    """The switches of dense DAB-DETR, from the parts that are there."""
    scale = state.get("decoder.positions.scale.2.weight")
    modulate = "content" if scale is None or len(scale) == width else "scalar"
    patterns = state.get("queries.patterns")
    return {
        "encoder__scale_positions": "encoder.position_scale.0.weight" in state,
        "queries__patterns": 0 if patterns is None else len(patterns),
        "decoder__modulate_position": (
            "layer" if "decoder.positions.scale.weight" in state else modulate
        ),
        "decoder__cross_attention__modulate_size": "decoder.positions.size.0.weight" in state,
        "decoder__cross_attention__position_every_layer": (
            "decoder.layers.1.cross_attention.query_position.weight" in state
        ),
    }


def _points(state: State, heads: int, levels: int) -> dict[str, Any]:
    """Sampling points for each head and level."""
    encoder = len(state["encoder.layers.0.attention.weights.bias"])
    decoder = len(state["decoder.layers.0.cross_attention.weights.bias"])
    return {
        "encoder__points": encoder // (heads * levels),
        "decoder__cross_attention__points": decoder // (heads * levels),
    }


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
