"""Batches of tensors that the model takes, passes on and returns."""

from __future__ import annotations

from dataclasses import dataclass, fields, replace
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import torch
    from torch import Tensor


class _Movable:
    """Adds ``to``, which moves every tensor of a structure to another device."""

    def to(self, device: torch.device | str) -> Any:
        """A copy with all tensors on ``device``."""
        moved = {f.name: _move(getattr(self, f.name), device) for f in fields(self)}  # pyright: ignore[reportArgumentType]
        return replace(self, **moved)  # pyright: ignore[reportArgumentType, reportCallIssue]


def _move(value: Any, device: torch.device | str) -> Any:
    if hasattr(value, "to"):
        return value.to(device)
    if isinstance(value, list | tuple) and any(hasattr(v, "to") for v in value):
        return type(value)(_move(v, device) for v in value)
    return value


@dataclass(frozen=True)
class Images(_Movable):
    """A batch of images, normalised and padded at the bottom and right.

    pixels   [batch, 3, height, width] float32
    padding  [batch, height, width] bool, True = padding; None without padding
    """

    pixels: Tensor
    padding: Tensor | None = None


@dataclass(frozen=True)
class Targets(_Movable):
    """The objects of all images of a batch, in the order of images.

    labels  [objects] int64, 0 … classes − 1
    boxes   [objects, 4] float32, cxcywh, 0–1 of the unpadded image
    counts  number of objects of each image; their sum is ``objects``
    names   name of each image in messages, usually its file
    known   [batch, classes] bool, False: the image may contain unlabelled objects of the class, so
            scores for it have no loss; None: every image is labelled for every class
    weights [objects] float32, weight of each object in the class loss; None: 1
    """

    labels: Tensor
    boxes: Tensor
    counts: tuple[int, ...]
    names: tuple[str, ...] = ()
    known: Tensor | None = None
    weights: Tensor | None = None


@dataclass(frozen=True)
class Features(_Movable):
    """Feature maps of the backbone, fine to coarse.

    maps      each [batch, channels, height, width]
    paddings  each [batch, height, width] bool, True = padding; or None without padding
    padding   mask of the pixels after the backbone's own padding
    """

    maps: list[Tensor]
    paddings: list[Tensor | None]
    padding: Tensor | None = None


@dataclass(frozen=True)
class Memory(_Movable):
    """The encoder's output: the tokens that decoder layers attend to.

    tokens     [batch, tokens, width]
    positions  [batch or 1, tokens, width] float32, the tokens' position codes
    padding    [batch, tokens] bool, True = padding; None without padding
    shapes     (height, width) of each level
    ratios     [batch, levels, 2] float32, valid ratios: the unpadded share of each level's width
               and height; None without deformable attention
    """

    tokens: Tensor
    positions: Tensor
    padding: Tensor | None
    shapes: tuple[tuple[int, int], ...]
    ratios: Tensor | None = None


@dataclass(frozen=True)
class Queries(_Movable):
    """The decoder's queries before its first layer.

    content    [batch, queries, width]
    anchors    [batch, queries, 4] float32, cxcywh, 0–1 of the unpadded image; [.., 2] for points;
               None without anchors
    positions  [batch, queries, width], the positional query if it is learned itself
    proposals  predictions of the encoder's tokens, if queries are chosen from them
    """

    content: Tensor
    anchors: Tensor | None
    positions: Tensor | None = None
    proposals: Predictions | None = None


@dataclass(frozen=True)
class Questions(_Movable):
    """Boxes that a model is asked about; each is the anchor of its own query.

    boxes   [batch, n, 4] float32, cxcywh, 0–1 of the unpadded image
    labels  [batch, n] int64: the expected class of the box; −1: unknown
    """

    boxes: Tensor
    labels: Tensor


@dataclass(frozen=True)
class QueryGroup(_Movable):
    """Extra queries of one origin, and in training the objects assigned to some of them.

    name        name in the losses
    content     [batch, n, width]
    anchors     [batch, n, 4] float32, cxcywh, 0–1 of the unpadded image
    attention_mask  [n, n] bool, True: the row's query may not attend to the column's
    image       [pairs] int64; with the next two, object ``target`` is assigned to ``query``
    query       [pairs] int64, 0 … n − 1
    target      [pairs] int64, row of ``Targets``
    copies      mean number of queries for each object: losses are divided by objects × copies
    supervised  [batch, n] bool; for queries without an object, True: the target is "no object",
                False: no loss (padding). Always True for queries of pairs.
    sees_matching  whether the group's queries attend to the matching queries as well
    """

    name: str
    content: Tensor
    anchors: Tensor
    attention_mask: Tensor
    image: Tensor
    query: Tensor
    target: Tensor
    copies: float
    supervised: Tensor
    sees_matching: bool = True

    @property
    def count(self) -> int:
        """Number of queries in each image; a symbol during tracing, which ``len`` cannot return."""
        return self.attention_mask.shape[0]


@dataclass(frozen=True)
class HeadSamples(_Movable):
    """Predictions of a collaborative head for its training samples, and their targets.

    name        "rpn", "rcnn" or "atss"
    logits      [samples, classes]; rpn: one class, object; rcnn: one more, the last: no object
    labels      [samples] int64, 0 … classes − 1; the number of classes: no object
    found       [positives, 4] float32, predicted boxes of the samples with an object, corners in
                pixels; rpn: offsets from the anchor in the box coder's units
    wanted      [positives, 4] float32, the targets of ``found``
    centerness  [positives] logits of the sample's centerness within its object; atss only
    central     [positives] float32, the targets of ``centerness``, 0–1; atss only
    """

    name: str
    logits: Tensor
    labels: Tensor
    found: Tensor
    wanted: Tensor
    centerness: Tensor | None = None
    central: Tensor | None = None


@dataclass(frozen=True)
class Predictions(_Movable):
    """The predictions of every decoder layer for every query; the last layer is the result.

    logits   [layers, batch, queries, classes]; with softmax one more, the last: no object
    boxes    [layers, batch, queries, 4] float32, cxcywh, 0–1 of the unpadded image
    anchors  the *input* of each layer: [batch, queries, 4] float32 boxes or [.., 2] points, or None
    groups   each query group with the predictions of its queries; outside training only that of
             questions
    proposals  for two-stage members: predictions of the encoder's tokens, in the form of one layer
    heads    in training, the samples of each collaborative head
    objectness  for proposals: the first logit is "object", for all classes
    """

    logits: Tensor
    boxes: Tensor
    anchors: tuple[Tensor | None, ...]
    groups: tuple[tuple[QueryGroup, Predictions], ...] = ()
    proposals: Predictions | None = None
    heads: tuple[HeadSamples, ...] = ()
    objectness: bool = False
