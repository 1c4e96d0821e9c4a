"""What the shapes of a state (in our names) tell of its config."""

from __future__ import annotations

import re
from typing import Any

from dabdetr.config import Config
from dabdetr.model.formats.key_names import State, count
from dabdetr.presets.published import derive

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
    temperature: float | None = None,
    offset: float | None = None,
    anchor_eps: float | None = None,
    update: bool | None = None,
    max_det: int | None = None,
    fixed_centres: bool = False,
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
        "encoder__layers": count(state, "encoder.layers."),
        "queries__count": preset.model.queries.count if places is None else len(places),
        "decoder__layers": count(state, "decoder.layers."),
        "width": width,
        "heads": heads,
        "feedforward": first.shape[0],
        "dropout": dropout,
        "box_head_per_layer": count(state, "decoder.heads.boxes.") > 1,
        "class_head_per_layer": count(state, "decoder.heads.classes.") > 1,
    }
    stride = 16 if dilated else 32
    if model.encoder.kind == "dense":
        changes |= {"backbone__output_stride": stride, "backbone__strides": (stride,)}
    else:
        projections = [state[k] for k in state if re.fullmatch(_PROJECTION, k)]
        maps = sum(weight.shape[-1] == 1 for weight in projections)
        changes["backbone__output_stride"] = stride
        changes["backbone__strides"] = (stride,) if maps == 1 else (4, 8, 16, 32)[-maps:]
        changes["encoder__levels"] = count(state, "projection.project.")
        changes |= _points(state, heads, len(state["projection.levels"]))
    if model.queries.anchor == "box" and model.encoder.kind == "dense":
        changes |= _dab(state, width) | {"queries__fixed_centres": fixed_centres}
    if update is None and model.encoder.kind == "deformable":  # heads differ where anchors move
        update = model.decoder.update_anchors or changes["box_head_per_layer"]
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


def _resnet(state: State) -> str:
    """The ResNet that has as many blocks in its third stage."""
    blocks = count(state, "backbone.body.layer3.")
    bottleneck = "backbone.body.layer1.0.conv3.weight" in state
    known = {(2, False): 18, (6, False): 34, (6, True): 50, (23, True): 101, (36, True): 152}
    if (blocks, bottleneck) not in known:
        raise ValueError(f"no ResNet has {blocks} blocks in its third stage; the weights do")
    return f"resnet{known[blocks, bottleneck]}"


def class_logits(state: State, config: Config) -> int:
    """Class logits that stand for an id: softmax members have one more for no object."""
    softmax = config.model.classifier == "softmax"
    return len(state["decoder.heads.classes.0.bias"]) - softmax


def one_temperature(height: int | float, width: int | float) -> float:
    if height != width:
        raise ValueError(f"one temperature is supported; the weights have {height} and {width}")
    return float(height)
