"""Inference of a config from the shapes of a state (in our names)."""

from __future__ import annotations

import re
from typing import Any

from dabdetr.checkpoints.key_names import State, count
from dabdetr.config import Config
from dabdetr.presets.published import derive
from dabdetr.text import counted

_POINTS = (
    "encoder.layers.0.attention.weights.bias",
    "decoder.layers.0.cross_attention.weights.bias",
)
_PROJECTION = r"projection\.project\.\d+\.0\.weight"


def config_of(
    state: State,
    preset: Config,
    name: str,
    *,
    backbone: str | None = None,
    dilated: bool = False,
    heads: int = 8,
    dropout: float | None = None,
    activation: str | None = None,
    temperatures: tuple[float, float] | None = None,
    offset: float | None = None,
    anchor_eps: float | None = None,
    update: bool | None = None,
    max_det: int | None = None,
    fixed_centres: bool = False,
) -> Config:
    """The member's preset with the values that shapes show and those that are given.

    ``dilated``: the backbone's last stage has stride 16. ``update``: anchors are updated in every
    layer. ``offset``, ``anchor_eps`` and ``temperatures`` (height, width) are of the position code
    and the anchors. None keeps the preset's value or infers it.
    """
    model, cross = preset.model, preset.model.decoder.cross_attention
    try:
        first = state["encoder.layers.0.feedforward.expand.weight"]
        width = state["encoder.layers.0.attention_norm.weight"].shape[0]
    except KeyError as error:
        raise ValueError(f"the weights lack {error}; they are not a whole detector") from None
    prelu = "encoder.layers.0.feedforward.activation.weight" in state
    changes: dict[str, Any] = {
        "backbone__name": backbone or _resnet(state),
        "encoder__layers": count(state, "encoder.layers."),
        "encoder__norm": "encoder.norm.weight" in state,
        # DETR's code has one switch for both; the layers of the other members ignore it.
        "norm_first": "encoder.norm.weight" in state and cross.kind == "add",
        "queries__count": _queries(state, preset),
        "decoder__layers": count(state, "decoder.layers."),
        "width": width,
        "heads": heads,
        "feedforward": first.shape[0],
        "activation": activation or ("prelu" if prelu else "relu"),
        "box_head_per_layer": count(state, "decoder.heads.boxes.") > 1,
        "class_head_per_layer": count(state, "decoder.heads.classes.") > 1,
        **_feature_maps(state, model.encoder.kind == "deformable", 16 if dilated else 32, heads),
    }
    if model.queries.anchor == "box" and model.encoder.kind == "dense":
        changes |= _dab(state, width) | {"queries__fixed_centres": fixed_centres}
    if "queries.patterns" in state:
        changes["queries__patterns"] = len(state["queries.patterns"])
    if update is None and model.encoder.kind == "deformable":  # one box head per layer if updated
        update = model.decoder.update_anchors or changes["box_head_per_layer"]
    if update is not None and model.queries.anchor is not None:
        twice = update and model.decoder.look_forward_twice
        changes |= {"decoder__update_anchors": update, "decoder__look_forward_twice": twice}
    given = {"dropout": dropout, "position_offset": offset, "anchor_eps": anchor_eps}
    if temperatures is not None:
        along_height, along_width = temperatures
        given["position_temperature"] = along_height
        given["position_temperature_width"] = along_width if along_width != along_height else None
    changes |= {key: value for key, value in given.items() if value is not None}
    paths: dict[str, Any] = {f"model__{key}": value for key, value in changes.items()}
    if max_det is not None:
        paths["inference__max_det"] = max_det
    return derive(preset, name, "loaded weights", **paths)


def _queries(state: State, preset: Config) -> int:
    """The number of queries; the preset's for two-stage members without a table of queries."""
    for key in ("queries.anchors", "queries.positions", "queries.content"):
        if key in state:
            return len(state[key])
    return preset.model.queries.count


def _feature_maps(state: State, deformable: bool, stride: int, heads: int) -> dict[str, Any]:
    """Strides of the backbone's feature maps, and the encoder's levels and sampling points."""
    if not deformable:
        return {"backbone__output_stride": stride, "backbone__strides": (stride,)}
    locations = heads * len(state["projection.levels"])
    projections = [state[k] for k in state if re.fullmatch(_PROJECTION, k)]
    maps = sum(weight.shape[-1] == 1 for weight in projections)
    return {
        "backbone__output_stride": stride,
        "backbone__strides": (stride,) if maps == 1 else (4, 8, 16, 32)[-maps:],
        "encoder__levels": count(state, "projection.project."),
        "encoder__points": len(state[_POINTS[0]]) // locations,
        "decoder__cross_attention__points": len(state[_POINTS[1]]) // locations,
    }


def _dab(state: State, width: int) -> dict[str, Any]:
    """The switches of dense DAB-DETR, from the keys that are present."""
    scale = state.get("decoder.positions.scale.2.weight")
    modulate = "content" if scale is None or len(scale) == width else "scalar"
    return {
        "encoder__scale_positions": "encoder.position_scale.0.weight" in state,
        "decoder__modulate_position": (
            "layer" if "decoder.positions.scale.weight" in state else modulate
        ),
        "decoder__cross_attention__modulate_size": "decoder.positions.size.0.weight" in state,
        "decoder__cross_attention__position_every_layer": (
            "decoder.layers.1.cross_attention.query_position.weight" in state
        ),
    }


def _resnet(state: State) -> str:
    """The name of the ResNet, from its blocks in stage 3 and their kind."""
    blocks = count(state, "backbone.body.layer3.")
    bottleneck = "backbone.body.layer1.0.conv3.weight" in state
    known = {(2, False): 18, (6, False): 34, (6, True): 50, (23, True): 101, (36, True): 152}
    if (blocks, bottleneck) not in known:
        names = [key.removeprefix("backbone.body.") for key in state if key.startswith("backbone.")]
        raise ValueError(
            "the backbone of these weights is no ResNet that is known "
            f"({counted(blocks, 'block')} in stage 3; its first tensor is "
            f"{next(iter(names), 'missing')}); only ResNets are converted"
        )
    return f"resnet{known[blocks, bottleneck]}"


def class_logits(state: State, config: Config) -> int:
    """The number of class logits, without the one for "no object" of softmax members."""
    softmax = config.classifier == "softmax"
    return len(state["decoder.heads.classes.0.bias"]) - softmax
