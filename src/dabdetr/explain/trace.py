"""Inputs and outputs of every layer for one image, as plain arrays.

The model runs as it always does; hooks read the inputs and outputs of its parts. They are hooks of
a copy that shares the weights: the model itself may be at work in other threads.
"""

from __future__ import annotations

import copy
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from types import MappingProxyType
from typing import Any, NamedTuple, Self

import numpy as np
import torch
from torch import Tensor, nn

from dabdetr.explain.attention import Attention, DenseAttention, SampledAttention
from dabdetr.inference.postprocess import class_scores
from dabdetr.model.attention import AdditiveAttention, ConcatCrossAttention, split_heads
from dabdetr.model.deformable import DeformableAttention, encoder_references
from dabdetr.model.detector import Detector
from dabdetr.model.positions import Positions, in_level
from dabdetr.structures import Detections, Images, Memory, Predictions, Questions
from dabdetr.structures.boxes import corners, iou
from dabdetr.text import counted


@dataclass(frozen=True, eq=False)
class Trace:
    """Inputs and outputs of every layer for one image; boxes are 0–1 of the unpadded image.

    model      the member's name
    names      class names
    anchors    what enters each layer: [queries, 4] cxcywh, or [queries, 2] where it is a point;
               None for members without anchors. The first are the initial anchors.
    boxes      [layers, queries, 4] cxcywh, what leaves each layer
    scores     [layers, queries, classes], 0–1, calibrated as those of detections
    reference_sizes  [layers, queries, 2] width and height that content asks for (size modulation
               compares them with the anchor's); None where size modulates nothing
    attention      cross-attention of each decoder layer
    pixels     [pixels, 2] x, y, 0–1 of the unpadded image: those given to ``trace``
    encoder    self-attention of each encoder layer; its queries are ``pixels``
    absent     a sentence for each thing that this member does not have
    """

    model: str
    names: tuple[str, ...]
    anchors: tuple[np.ndarray, ...] | None
    boxes: np.ndarray
    scores: np.ndarray
    reference_sizes: np.ndarray | None
    attention: tuple[Attention, ...]
    pixels: np.ndarray
    encoder: tuple[Attention, ...]
    absent: tuple[str, ...]
    predictions: Predictions = field(repr=False, compare=False)

    @property
    def looks(self) -> tuple[Attention, ...]:
        """The former name of ``attention``, which goes with the next release."""
        warnings.warn("looks is called attention now", DeprecationWarning, stacklevel=2)
        return self.attention

    @property
    def layers(self) -> int:
        """Decoder layers."""
        return len(self.boxes)

    @property
    def queries(self) -> int:
        """Slots of the decoder."""
        return self.boxes.shape[1]


@dataclass(frozen=True, eq=False)
class Truth:
    """The objects that are really there.

    boxes   [n, 4] x0 y0 x1 y1 in pixels of the image
    labels  [n] index into the model's class names
    """

    boxes: np.ndarray
    labels: np.ndarray


@dataclass(frozen=True, eq=False)
class ExplainedImage:
    """One image with what a model found in it, and the trace of how.

    image       RGB [height, width, 3] uint8
    detections  scoring at least ``conf``, best first, cut to the image
    candidates  the best queries' detections, whatever they score: shown where nothing was found
    trace       every layer's anchors, boxes, scores and attention
    conf        lowest score of ``detections``
    truth       the objects that are there, where they are known
    asked       of the same image, a trace whose queries are questions: boxes on a grid, so that a
                page without a model can answer clicks; None for members that cannot be asked
    """

    image: np.ndarray
    detections: Detections
    candidates: Detections
    trace: Trace
    conf: float
    truth: Truth | None = None
    asked: Trace | None = None

    @property
    def shown(self) -> Detections:
        """``detections``, or where there is none, ``candidates``."""
        return self.detections if len(self.detections) else self.candidates

    @property
    def size(self) -> tuple[int, int]:
        """(height, width) of the image."""
        return self.image.shape[0], self.image.shape[1]

    def query(self, detection: int = 0) -> int:
        """The decoder slot behind detection number ``detection`` of ``shown``."""
        if not 0 <= detection < len(self.shown):
            raise ValueError(
                f"the image has {counted(len(self.shown), 'detection')}, counted from 0; got "
                f"{detection}"
            )
        return int(self.shown.queries[detection])

    def in_pixels(self, boxes: np.ndarray) -> np.ndarray:
        """cxcywh (or x, y) of 0–1 → the same in pixels of the image."""
        height, width = self.size
        return boxes * np.tile([width, height], boxes.shape[-1] // 2).astype(np.float32)

    def with_truth(self, boxes: Any, labels: Any) -> Self:
        """The same with the objects that are there: x0 y0 x1 y1 in pixels, and class indices."""
        boxes = np.asarray(boxes, np.float32).reshape(-1, 4)
        labels = np.asarray(labels, np.int64).reshape(-1)
        classes = len(self.trace.names)
        if len(boxes) != len(labels) or not ((labels >= 0) & (labels < classes)).all():
            raise ValueError(
                f"the truth should be as many labels from 0 to {classes - 1} as boxes; got "
                f"{counted(len(boxes), 'box', 'boxes')} and the labels {labels.tolist()}"
            )
        wrong = np.flatnonzero(~(boxes[:, 2:] > boxes[:, :2]).all(1))
        if len(wrong):
            raise ValueError(
                "boxes of the truth should be x0 y0 x1 y1 in pixels with x0 < x1 and y0 < y1; "
                f"box {wrong[0]} is {boxes[wrong[0]].tolist()}"
            )
        return replace(self, truth=Truth(boxes, labels))

    def truth_of(self, query: int) -> int | None:
        """Which known object the query's last box fits best; None where no object is known."""
        if self.truth is None or not len(self.truth.boxes):
            return None
        last = corners(self.in_pixels(self.trace.boxes[-1:, query]))
        return int(iou(last, self.truth.boxes).argmax())

    def iou_with_truth(self, query: int) -> np.ndarray | None:
        """IoU [layers] of the query's boxes with the object that its last box fits best.

        None where no object is known.
        """
        best = self.truth_of(query)
        if self.truth is None or best is None:
            return None
        boxes = corners(self.in_pixels(self.trace.boxes[:, query]))
        return iou(boxes, self.truth.boxes[best])


def trace(
    model: Detector,
    images: Images,
    pixels: Sequence[tuple[float, float]] = (),
    questions: Questions | None = None,
) -> Trace:
    """Run ``model`` on one image and record it; ``predictions`` are those of a plain call.

    For every one of ``pixels`` (x, y, 0–1 of the image) encoder attention is recorded too; of
    deformable members, that of the finest level's token. Of ``questions``, the trace's queries are
    the questions alone. The model should be in evaluation mode.
    """
    if len(images.pixels) != 1:
        raise ValueError(f"a trace is of one image; got a batch of {len(images.pixels)}")
    wanted = np.asarray(pixels, np.float32).reshape(-1, 2)
    if not ((wanted >= 0) & (wanted <= 1)).all():
        raise ValueError(f"pixels should be x, y from 0 to 1 of the image; got {list(pixels)}")
    model = _with_own_hooks(model)
    decoder, positions = model.decoder, model.decoder.positions
    encoding = [layer.attention for layer in model.encoder.layers] if len(wanted) else []
    crossing = [layer.cross_attention for layer in decoder.layers]
    calls = _recorded(*encoding, *crossing, positions)
    with torch.no_grad():
        predictions, chosen = model(images, questions=questions), slice(None)
        if questions is not None:  # groups come first in the decoder's row of queries
            chosen = slice(questions.boxes.shape[1])
            predictions = predictions.groups[0][1]
        sizes = [call.output[0, chosen].sigmoid() for call in calls.get(positions.size, [])]
        return Trace(
            model=model.config.name,
            names=model.names,
            anchors=_anchors(predictions),
            boxes=_array(predictions.boxes[:, 0]),
            scores=class_scores(
                _array(predictions.logits[:, 0]),
                model.config.classifier,
                model.config.inference.calibration,
            ),
            reference_sizes=_array(torch.stack(sizes)) if sizes else None,
            attention=tuple(
                _of_queries(module, calls, positions, placed, chosen)
                for module, placed in zip(crossing, calls[positions], strict=True)
            ),
            pixels=wanted,
            encoder=tuple(_of_tokens(module, calls, wanted) for module in encoding),
            absent=absences(model),
            predictions=predictions,
        )


def absences(model: Detector) -> tuple[str, ...]:
    """A sentence for each thing that can be explained in other members but not in this one."""
    part, cross = model.config.model, model.config.model.decoder.cross_attention
    name, absent = model.config.name, []
    if part.queries.anchor is None:
        absent.append(
            f"{name} has no anchors: a query is a learned vector without a place, and its way "
            "begins with the box of the first layer."
        )
    elif part.queries.anchor == "point":
        absent.append(
            f"{name} starts from points: its first anchors have a place but no width and height."
        )
    if part.queries.anchor is not None and not part.decoder.update_anchors:
        absent.append(f"{name} does not move its anchors: every layer starts from the same ones.")
    if cross.kind == "deformable":
        boxed = part.queries.anchor == "box"
        absent.append(
            f"{name} reads a few places of each level instead of weighing all of them: the centre "
            "of the anchor, and from there steps in units of "
            + ("its width and height. " if boxed else "cells (of a box, its width and height). ")
            + "The sum of content and position chooses steps and weights; each part alone shows "
            "what it would choose by itself. "
            + (
                "The anchor's own size takes the place of w_ref and h_ref."
                if boxed
                else "A point has no size that could modulate attention."
            )
        )
    elif cross.kind == "add" or not cross.modulate_size:
        absent.append(f"{name} has no size modulation: nothing to compare with and without it.")
    return tuple(absent)


# What the hooks read


class _Call(NamedTuple):
    inputs: tuple[Any, ...]
    output: Any


_Calls = dict[Any, list[_Call]]


def _with_own_hooks(model: Detector) -> Detector:
    """The same weights in modules whose hooks are their own; the backbone is shared as it is."""
    copies: dict[nn.Module, nn.Module] = {}

    def copied(module: nn.Module) -> nn.Module:
        if module not in copies:
            own = copies[module] = copy.copy(module)
            own._forward_hooks = module._forward_hooks.copy()
            own._modules = {
                name: child and copied(child) for name, child in module._modules.items()
            }
        return copies[module]

    own = copy.copy(model)
    own._modules = {
        name: child if child is None or name == "backbone" else copied(child)
        for name, child in model._modules.items()
    }
    return own


def _recorded(*parts: Any) -> _Calls:
    """Inputs and outputs of ``parts`` and all modules below them, from now on, call after call."""
    calls: _Calls = {}

    def remember(module: nn.Module, inputs: tuple[Any, ...], output: Any) -> None:
        calls.setdefault(module, []).append(_Call(inputs, output))

    for module in {module for part in parts for module in part.modules()}:
        module.register_forward_hook(remember)
    return calls


def _of_queries(
    module: Any, calls: _Calls, positions: Positions, placed: _Call, chosen: slice
) -> Attention:
    """Cross-attention of the ``chosen`` queries in one decoder layer; ``placed`` is the call that
    gave their positions."""
    (call,) = calls[module]
    content, position, memory = call.inputs
    if isinstance(module, DeformableAttention):
        anchors = position.anchors[:, chosen]
        parts = {"content": content[:, chosen], "position": position.query[:, chosen]}
        levels = [in_level(anchors, ratio) for ratio in memory.ratios.unbind(1)]
        references, query = torch.stack(levels, dim=2), parts["content"] + parts["position"]
        return _sampled(module, query, references, memory, parts)
    if isinstance(module, ConcatCrossAttention):
        code = _unmodulated_code(positions, placed)
        return _side_by_side(module, calls, code, memory, chosen)
    assert isinstance(module, AdditiveAttention)
    return _added(module, calls, content, memory.tokens, memory, chosen)


def _of_tokens(module: Any, calls: _Calls, pixels: np.ndarray) -> Attention:
    """Self-attention of one encoder layer, of the tokens in which ``pixels`` lie."""
    (call,) = calls[module]
    x, positions, memory = call.inputs
    chosen = _tokens_at(pixels, memory)
    if isinstance(module, DeformableAttention):
        references = encoder_references(memory.shapes, memory.ratios)
        return _sampled(module, (x + positions)[:, chosen], references[:, chosen], memory)
    return _added(module, calls, x, x, memory, chosen)


def _side_by_side(
    module: ConcatCrossAttention,
    calls: _Calls,
    unmodulated: Tensor | None,
    memory: Memory,
    chosen: slice,
) -> DenseAttention:
    """Conditional DETR's attention: what its projections gave."""

    def given(projection: nn.Module) -> Tensor:
        return calls[projection][0].output

    query, key, key_position = (given(p) for p in (module.query, module.key, module.key_position))
    if module.query_position is not None:
        query, key = query + given(module.query_position), key + key_position
    return DenseAttention(
        query_content=_by_head(query[:, chosen], module.heads),
        query_position=_by_head(given(module.query_code)[:, chosen], module.heads),
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
    """Plain attention: projections are linear, so position is the whole less content."""
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

    ``parts`` sum to ``query``; each is what the layer would be given without the other.
    """
    assert memory.ratios is not None
    ratios = memory.ratios[:, None, None, :, None]

    def sampled(given: Tensor) -> tuple[np.ndarray, np.ndarray]:
        locations, weights = module.locations_and_weights(given, references, memory.shapes)
        return _array((locations / ratios)[0]), _array(weights[0])

    alone = {name: sampled(given) for name, given in parts.items()}
    return SampledAttention(*sampled(query), memory.shapes, alone)


def _unmodulated_code(positions: Positions, placed: _Call) -> Tensor | None:
    """The code before size modulation: the same part called again, without its size."""
    if positions.size is None:
        return None
    plain = copy.copy(positions)
    plain._modules = {**positions._modules, "size": None}
    return plain(*placed.inputs).code


def _tokens_at(pixels: np.ndarray, memory: Memory) -> list[int]:
    """The token of the first level's map in which each pixel lies."""
    height, width = memory.shapes[0]
    share = np.ones(2)
    if memory.padding is not None:
        seen = ~_array(memory.padding[0, : height * width]).astype(bool).reshape(height, width)
        share = np.array([seen.any(0).mean(), seen.any(1).mean()])
    sizes = np.array([width, height]) * share
    columns, rows = np.minimum((pixels * sizes).astype(int), sizes.round().astype(int) - 1).T
    return (rows * width + columns).tolist()


def _map(memory: Memory) -> dict[str, Any]:
    padding = None if memory.padding is None else memory.padding[0].cpu().numpy()
    return {"shape": memory.shapes[0], "padding": padding}


def _anchors(predictions: Predictions) -> tuple[np.ndarray, ...] | None:
    entered = [anchors for anchors in predictions.anchors if anchors is not None]
    return tuple(_array(anchors[0]) for anchors in entered) or None


def _by_head(x: Tensor, heads: int) -> np.ndarray:
    """[1, n, width] → [n, heads, width / heads]."""
    return _array(split_heads(x, heads)[0].transpose(0, 1))


def _array(x: Tensor) -> np.ndarray:
    return x.detach().float().cpu().numpy()
