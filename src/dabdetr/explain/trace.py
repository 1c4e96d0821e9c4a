"""Inputs and outputs of every layer for one image, as plain arrays.

Hooks record the inputs and outputs of the model's parts during a normal call. The hooks are on a
copy of the model that shares its weights, so that other threads can use the model at the same time.
"""

from __future__ import annotations

import copy
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor, nn

from dabdetr.explain.attention import Attention, DenseAttention, SampledAttention
from dabdetr.inference.postprocess import class_scores
from dabdetr.model.attention import AdditiveAttention, ConcatCrossAttention, split_heads
from dabdetr.model.deformable import DeformableAttention, encoder_references
from dabdetr.model.detector import Detector
from dabdetr.model.positions import Positions, in_level
from dabdetr.structures import Images, Memory, Predictions, Questions


@dataclass(frozen=True, eq=False)
class Trace:
    """Inputs and outputs of every layer for one image; boxes are 0–1 of the unpadded image.

    model      the member's name
    names      class names
    anchors    input anchors of each layer: [queries, 4] cxcywh, or [queries, 2] points; None for
               members without anchors. The first are the initial anchors.
    boxes      [layers, queries, 4] cxcywh, output boxes of each layer
    scores     [layers, queries, classes], 0–1, calibrated like those of detections
    reference_sizes  [layers, queries, 2] width and height computed from the content, w_ref and
               h_ref, which size modulation divides by the anchor's; None without size modulation
    attention  cross-attention of each decoder layer
    attended   [layers, questions, model's queries] self-attention of questions, averaged over
               heads; None for a trace without questions
    pixels     [pixels, 2] x, y, 0–1 of the unpadded image: those given to ``trace``
    encoder    self-attention of each encoder layer; its queries are ``pixels``
    absent     a sentence for each thing that this member lacks
    predictions  the model's output
    """

    model: str
    names: tuple[str, ...]
    anchors: tuple[np.ndarray, ...] | None
    boxes: np.ndarray
    scores: np.ndarray
    reference_sizes: np.ndarray | None
    attention: tuple[Attention, ...]
    attended: np.ndarray | None
    pixels: np.ndarray
    encoder: tuple[Attention, ...]
    absent: tuple[str, ...]
    predictions: Predictions = field(repr=False, compare=False)

    @property
    def looks(self) -> tuple[Attention, ...]:
        """The former name of ``attention``, which the next release removes."""
        warnings.warn("looks is called attention now", DeprecationWarning, stacklevel=2)
        return self.attention

    @property
    def layers(self) -> int:
        """Number of decoder layers."""
        return len(self.boxes)

    @property
    def queries(self) -> int:
        """Number of queries."""
        return self.boxes.shape[1]


def trace(
    model: Detector,
    images: Images,
    pixels: Sequence[tuple[float, float]] = (),
    questions: Questions | None = None,
) -> Trace:
    """Run ``model`` on one image and record every layer; ``predictions`` are those of a plain call.

    Encoder attention is recorded for each of ``pixels`` (x, y, 0–1 of the image); in deformable
    members for the token of the finest level. With ``questions``, the trace's queries are the
    questions only. The model should be in evaluation mode.
    """
    if len(images.pixels) != 1:
        raise ValueError(f"a trace needs one image; got a batch of {len(images.pixels)}")
    points = np.asarray(pixels, np.float32).reshape(-1, 2)
    if not ((points >= 0) & (points <= 1)).all():
        raise ValueError(f"pixels should be x, y from 0 to 1 of the image; got {list(pixels)}")
    model = _with_own_hooks(model)
    decoder, positions = model.decoder, model.decoder.positions
    encoder_attention = [layer.attention for layer in model.encoder.layers] if len(points) else []
    cross_attention = [layer.cross_attention for layer in decoder.layers]
    self_attention: list[Any] = (
        [each.self_attention for each in decoder.layers] if questions else []
    )
    calls = _recorded(*encoder_attention, *cross_attention, *self_attention, positions)
    with torch.no_grad():
        predictions, chosen = model(images, questions=questions), slice(None)
        if questions is not None:  # groups come first among the decoder's queries
            chosen = slice(questions.boxes.shape[1])
            predictions = predictions.groups[0][1]
        weights = [each.attention_weights(*calls[each][0].inputs)[0] for each in self_attention]
        sizes = [call.output[0, chosen].sigmoid() for call in calls.get(positions.size, [])]
        return Trace(
            model=model.config.name,
            names=model.names,
            anchors=tuple(_array(each[0]) for each in predictions.anchors if each is not None)
            or None,
            boxes=_array(predictions.boxes[:, 0]),
            scores=class_scores(
                _array(predictions.logits[:, 0]),
                model.config.classifier,
                model.config.inference.calibration,
            ),
            reference_sizes=_array(torch.stack(sizes)) if sizes else None,
            attention=tuple(
                _of_queries(module, calls, positions, placed, chosen)
                for module, placed in zip(cross_attention, calls[positions], strict=True)
            ),
            attended=_array(torch.stack(weights)[:, chosen, chosen.stop :]) if weights else None,
            pixels=points,
            encoder=tuple(_of_tokens(module, calls, points) for module in encoder_attention),
            absent=absences(model),
            predictions=predictions,
        )


def absences(model: Detector) -> tuple[str, ...]:
    """A sentence for each thing that can be explained in other members but not in this one."""
    config, cross = model.config.model, model.config.model.decoder.cross_attention
    name, absent = model.config.name, []
    if config.queries.anchor is None:
        absent.append(
            f"{name} has no anchors: a query is a learned vector without a place, so its path "
            "begins with the box of the first layer."
        )
    elif config.queries.anchor == "point":
        absent.append(
            f"{name} starts from points: its first anchors have a place but no width and height."
        )
    if config.queries.anchor is not None and not config.decoder.update_anchors:
        absent.append(f"{name} does not move its anchors: every layer starts from the same ones.")
    if cross.kind == "deformable":
        boxed = config.queries.anchor == "box"
        absent.append(
            f"{name} samples a few locations of each level instead of weighting all of them: the "
            "anchor's centre plus offsets in units of "
            + ("its width and height. " if boxed else "cells (for a box, its width and height). ")
            + "The sum of content and position determines offsets and weights; each part alone "
            "shows those that it would yield by itself. "
            + (
                "The anchor's own size replaces w_ref and h_ref."
                if boxed
                else "A point has no size that could modulate attention."
            )
        )
    elif cross.kind == "add" or not cross.modulate_size:
        absent.append(f"{name} has no size modulation, so there is no map without it.")
    return tuple(absent)


# Recording by hooks


class _Call(NamedTuple):
    inputs: tuple[Any, ...]
    output: Any


_Calls = dict[Any, list[_Call]]


def _with_own_hooks(model: Detector) -> Detector:
    """A copy of the model with its own hooks and the same weights; the backbone is not copied."""
    copies: dict[nn.Module, nn.Module] = {}

    def copied(module: nn.Module) -> nn.Module:
        if module not in copies:
            shallow = copies[module] = copy.copy(module)
            shallow._forward_hooks = module._forward_hooks.copy()
            shallow._modules = {
                name: child and copied(child) for name, child in module._modules.items()
            }
        return copies[module]

    shallow = copy.copy(model)
    shallow._modules = {
        name: child if child is None or name == "backbone" else copied(child)
        for name, child in model._modules.items()
    }
    return shallow


def _recorded(*parts: Any) -> _Calls:
    """A record of all further calls of ``parts`` and their submodules, in order of the calls."""
    calls: _Calls = {}

    def record(module: nn.Module, inputs: tuple[Any, ...], output: Any) -> None:
        calls.setdefault(module, []).append(_Call(inputs, output))

    for module in {module for part in parts for module in part.modules()}:
        module.register_forward_hook(record)
    return calls


def _of_queries(
    module: Any, calls: _Calls, positions: Positions, placed: _Call, chosen: slice
) -> Attention:
    """Cross-attention of the ``chosen`` queries in one decoder layer.

    ``placed`` is the recorded call of ``positions`` for this layer.
    """
    (call,) = calls[module]
    content, position, memory = call.inputs
    if isinstance(module, DeformableAttention):
        anchors = position.anchors[:, chosen]
        parts = {"content": content[:, chosen], "position": position.query[:, chosen]}
        levels = [in_level(anchors, ratio) for ratio in memory.ratios.unbind(1)]
        references, query = torch.stack(levels, dim=2), parts["content"] + parts["position"]
        return _sampled(module, query, references, memory, parts)
    if isinstance(module, ConcatCrossAttention):
        code = None
        if positions.size is not None:  # a second call, without size modulation
            plain = copy.copy(positions)
            plain._modules = {**positions._modules, "size": None}
            code = plain(*placed.inputs).code
        return _concatenated(module, calls, code, memory, chosen)
    assert isinstance(module, AdditiveAttention)
    return _added(module, calls, content, memory.tokens, memory, chosen)


def _of_tokens(module: Any, calls: _Calls, pixels: np.ndarray) -> Attention:
    """Self-attention of one encoder layer, for the tokens that contain ``pixels``."""
    (call,) = calls[module]
    x, positions, memory = call.inputs
    chosen = _tokens_at(pixels, memory)
    if isinstance(module, DeformableAttention):
        references = encoder_references(memory.shapes, memory.ratios)
        return _sampled(module, (x + positions)[:, chosen], references[:, chosen], memory)
    return _added(module, calls, x, x, memory, chosen)


def _concatenated(
    module: ConcatCrossAttention,
    calls: _Calls,
    unmodulated: Tensor | None,
    memory: Memory,
    chosen: slice,
) -> DenseAttention:
    """Conditional DETR's attention, from the recorded outputs of its projections."""

    def output(projection: nn.Module) -> Tensor:
        return calls[projection][0].output

    query, key, key_position = (output(p) for p in (module.query, module.key, module.key_position))
    if module.query_position is not None:
        query, key = query + output(module.query_position), key + key_position
    return DenseAttention(
        query_content=_by_head(query[:, chosen], module.heads),
        query_position=_by_head(output(module.query_code)[:, chosen], module.heads),
        query_unmodulated=None
        if unmodulated is None
        else _by_head(module.query_code(unmodulated[:, chosen]), module.heads),
        key_content=_by_head(key, module.heads),
        key_position=_by_head(key_position, module.heads),
        added=False,
        placed=module.query_position is not None,
        **_map(memory),
    )


def _added(
    module: AdditiveAttention,
    calls: _Calls,
    queries: Tensor,
    keys: Tensor,
    memory: Memory,
    chosen: Any = slice(None),
) -> DenseAttention:
    """Plain attention: projections are linear, so position is the whole minus content."""
    heads, (whole_query, whole_key) = (
        module.heads,
        (calls[p][0].output for p in (module.query, module.key)),
    )
    query, key = module.query(queries), module.key(keys)
    return DenseAttention(
        query_content=_by_head(query[:, chosen], heads),
        query_position=_by_head((whole_query - query)[:, chosen], heads),
        query_unmodulated=None,
        key_content=_by_head(key, heads),
        key_position=_by_head((whole_key - key).expand_as(key), heads),
        added=True,
        placed=False,
        **_map(memory),
    )


def _sampled(
    module: DeformableAttention,
    query: Tensor,
    references: Tensor,
    memory: Memory,
    parts: Mapping[str, Tensor] = MappingProxyType({}),
) -> SampledAttention:
    """Sampling locations of one layer, moved from each level's padded map to the image's frame.

    ``parts`` are content and position, whose sum is ``query``; each is also sampled alone.
    """
    assert memory.ratios is not None
    ratios = memory.ratios[:, None, None, :, None]

    def sampled(queries: Tensor) -> tuple[np.ndarray, np.ndarray]:
        locations, weights = module.locations_and_weights(queries, references, memory.shapes)
        return _array((locations / ratios)[0]), _array(weights[0])

    alone = {name: sampled(part) for name, part in parts.items()}
    return SampledAttention(*sampled(query), memory.shapes, alone)


def _tokens_at(pixels: np.ndarray, memory: Memory) -> list[int]:
    """The token of the finest level that contains each pixel."""
    height, width = memory.shapes[0]
    share = np.ones(2)
    if memory.padding is not None:
        valid = ~_array(memory.padding[0, : height * width]).astype(bool).reshape(height, width)
        share = np.array([valid.any(0).mean(), valid.any(1).mean()])
    sizes = np.array([width, height]) * share
    columns, rows = np.minimum((pixels * sizes).astype(int), sizes.round().astype(int) - 1).T
    return (rows * width + columns).tolist()


def _map(memory: Memory) -> dict[str, Any]:
    padding = None if memory.padding is None else memory.padding[0].cpu().numpy()
    return {"shape": memory.shapes[0], "padding": padding}


def _by_head(x: Tensor, heads: int) -> np.ndarray:
    """[1, n, width] → [n, heads, width / heads]."""
    return _array(split_heads(x, heads)[0].transpose(0, 1))


def _array(x: Tensor) -> np.ndarray:
    return x.detach().float().cpu().numpy()
