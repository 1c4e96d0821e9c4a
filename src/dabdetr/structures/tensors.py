"""Batches of tensors on their way through the model: from images to predictions."""

from __future__ import annotations

from dataclasses import dataclass, fields, replace
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import torch
    from torch import Tensor


class _Movable:
    """Adds ``to``: the same structure with every tensor on another device or of another type."""

    def to(self, device: torch.device | str) -> Any:
        """Copy with all tensors moved to ``device``."""
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
    padding  [batch, height, width] bool, True = padding; None where nothing is padded
    """

    pixels: Tensor
    padding: Tensor | None = None


@dataclass(frozen=True)
class Targets(_Movable):
    """The objects of a batch, image after image in one table.

    labels  [objects] int64, 0 … classes − 1
    boxes   [objects, 4] float32, cxcywh, 0–1 of the unpadded image
    counts  objects of each image; their sum is ``objects``
    names   what to call each image in a message (its file, mostly)
    known   [batch, classes] bool, False: unlabelled objects of the class may be in the image, so
            that a score for it is no mistake; None: every image is labelled for every class
    weights [objects] float32, of each object in the class loss; None: 1
    """

    labels: Tensor
    boxes: Tensor
    counts: tuple[int, ...]
    names: tuple[str, ...] = ()
    known: Tensor | None = None
    weights: Tensor | None = None


@dataclass(frozen=True)
class Features(_Movable):
    """Maps of the backbone, fine to coarse.

    maps      each [batch, channels, height, width]
    paddings  each [batch, height, width] bool, True = padding; or None where nothing is padded
    padding   that of the pixels, as the backbone filled them up
    """

    maps: list[Tensor]
    paddings: list[Tensor | None]
    padding: Tensor | None = None


@dataclass(frozen=True)
class Memory(_Movable):
    """Tokens that decoder layers look at: the encoder's output.

    tokens     [batch, tokens, width]
    positions  [batch or 1, tokens, width] float32, their position codes
    padding    [batch, tokens] bool, True = padding; None where nothing is padded
    shapes     (height, width) of each level
    ratios     [batch, levels, 2] float32, unpadded share of each level's width and height; None
               where nothing samples
    """

    tokens: Tensor
    positions: Tensor
    padding: Tensor | None
    shapes: tuple[tuple[int, int], ...]
    ratios: Tensor | None = None


@dataclass(frozen=True)
class Queries(_Movable):
    """Slots of the decoder before its first layer.

    content    [batch, queries, width]
    anchors    [batch, queries, 4] float32, cxcywh, 0–1 of the unpadded image; [.., 2] where anchors
               are points; None where there are none
    positions  [batch, queries, width], the positional query where it is learned as such
    proposals  predictions of the encoder's tokens, where queries come from them
    """

    content: Tensor
    anchors: Tensor | None
    positions: Tensor | None = None
    proposals: Predictions | None = None


@dataclass(frozen=True)
class Questions(_Movable):
    """Boxes that a model is asked about: each becomes the anchor of a query of its own.

    boxes   [batch, n, 4] float32, cxcywh, 0–1 of the unpadded image
    labels  [batch, n] int64: the class that the box is thought to hold; −1: it is not known
    """

    boxes: Tensor
    labels: Tensor


@dataclass(frozen=True)
class QueryGroup(_Movable):
    """Extra queries of one origin, and in training the objects that some of them must find.

    name        what the losses call it
    content     [batch, n, width]
    anchors     [batch, n, 4] float32, cxcywh, 0–1 of the unpadded image
    attention_mask  [n, n] bool, True: the row's query may not attend to the column's
    image       [pairs] int64, with the next two: ``query`` of ``image`` must find row ``target``
    query       [pairs] int64, 0 … n − 1
    target      [pairs] int64, row of ``Targets``
    copies      queries for each object, on average: losses are divided by objects × copies
    supervised  [batch, n] bool; of the queries without an object, True: it must predict "no
                object", False: it has no loss (padding). Queries of pairs are always True.
    sees_matching  whether the group's queries see the matching ones, or themselves only
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
        """Queries in each image; while a graph is traced it may be a symbol, as no ``len`` can."""
        return self.attention_mask.shape[0]


@dataclass(frozen=True)
class HeadSamples(_Movable):
    """Predictions of a collaborative head for the samples it learns from, and their targets.

    name        "rpn", "rcnn" or "atss"
    logits      [samples, classes]; rpn: one class, object; rcnn: one more, the last: nothing
    labels      [samples] int64, 0 … classes − 1; the number of classes: nothing
    found       [positives, 4] float32, boxes of the samples with an object, corners in pixels;
                rpn: how far the object lies from the anchor, in the box coder's units
    wanted      [positives, 4] float32, the true ones
    centerness  [positives] logits of how central a sample lies in its object; None but for atss
    central     [positives] float32, how central it does, 0–1; None but for atss
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
    """What every decoder layer predicts for every query; the last layer is the result.

    logits   [layers, batch, queries, classes]; one more, "no object", where softmax classifies
    boxes    [layers, batch, queries, 4] float32, cxcywh, 0–1 of the unpadded image
    anchors  what *enters* each layer: [batch, queries, 4] float32 boxes or [.., 2] points, or None
    groups   each query group with the predictions of its own queries; outside of training there is
             only that of questions
    proposals  of two-stage members: predictions of the encoder's tokens, as those of one layer
    heads    in training, the samples of each collaborative head
    objectness  of proposals: the first logit is "an object", of whatever class
    """

    logits: Tensor
    boxes: Tensor
    anchors: tuple[Tensor | None, ...]
    groups: tuple[tuple[QueryGroup, Predictions], ...] = ()
    proposals: Predictions | None = None
    heads: tuple[HeadSamples, ...] = ()
    objectness: bool = False
