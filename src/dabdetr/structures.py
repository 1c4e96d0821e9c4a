"""What travels between the parts: images, targets, features, queries, predictions, detections.

Torch is never imported here, so that ``Detections`` also serve where torch is not installed.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field, fields, replace
from typing import TYPE_CHECKING, Any

import numpy as np

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
    """A batch of pictures, normalised and padded at the bottom and right.

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
    """

    labels: Tensor
    boxes: Tensor
    counts: tuple[int, ...]
    names: tuple[str, ...] = ()


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
    proposals  what the encoder's tokens say, where queries come from them
    """

    content: Tensor
    anchors: Tensor | None
    positions: Tensor | None = None
    proposals: Predictions | None = None


@dataclass(frozen=True)
class QueryGroup(_Movable):
    """Extra queries of one origin in training, and the objects that some of them must find.

    name        what the losses call it
    content     [batch, n, width]
    anchors     [batch, n, 4] float32, cxcywh, 0–1 of the unpadded image
    hidden      [n, n] bool, True: the row's query may not see the column's
    image       [pairs] int64, with the next two: ``query`` of ``image`` must find row ``target``
    query       [pairs] int64, 0 … n − 1
    target      [pairs] int64, row of ``Targets``
    copies      how often an object is asked for, on average: losses are divided by objects × copies
    supervised  [batch, n] bool; of the queries without an object, True: it must say "nothing",
                False: it says what it likes (padding). Queries of pairs are always True.
    sees_matching  whether the group's queries see the matching ones, or themselves only
    """

    name: str
    content: Tensor
    anchors: Tensor
    hidden: Tensor
    image: Tensor
    query: Tensor
    target: Tensor
    copies: float
    supervised: Tensor
    sees_matching: bool = True

    def __len__(self) -> int:
        """Queries in each image."""
        return self.hidden.shape[0]


@dataclass(frozen=True)
class HeadSamples(_Movable):
    """What a collaborative head says of the places it learns from, and what is true there.

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
    """What every decoder layer says of every query; the last layer is the answer.

    logits   [layers, batch, queries, classes]; one more, "no object", where softmax classifies
    boxes    [layers, batch, queries, 4] float32, cxcywh, 0–1 of the unpadded image
    anchors  what *enters* each layer: [batch, queries, 4] float32 boxes or [.., 2] points, or None
    groups   in training, each query group with the predictions of its own queries
    proposals  of two-stage members: what the encoder's tokens say, as predictions of one layer
    heads    in training, what each collaborative head says
    """

    logits: Tensor
    boxes: Tensor
    anchors: tuple[Tensor | None, ...]
    groups: tuple[tuple[QueryGroup, Predictions], ...] = ()
    proposals: Predictions | None = None
    heads: tuple[HeadSamples, ...] = ()


@dataclass(frozen=True)
class Detections:
    """Objects found in one picture, best first.

    boxes    [n, 4] float32, x0 y0 x1 y1 in pixels of the original picture
    scores   [n] float32, 0–1
    labels   [n] int64, index into ``names``
    queries  [n] int64, the decoder slot that found it
    names    class names of the model
    size     (height, width) of the picture
    source   where the picture came from: a path, or "" for a picture given in memory
    image    the picture itself as RGB [height, width, 3] uint8, where it was kept
    frame    of a video, the number of the frame, from 0 on
    time     of a video, when the frame is shown, in seconds
    """

    boxes: np.ndarray
    scores: np.ndarray
    labels: np.ndarray
    queries: np.ndarray
    names: tuple[str, ...]
    size: tuple[int, int]
    source: str = ""
    image: np.ndarray | None = field(default=None, repr=False, compare=False)
    frame: int | None = None
    time: float | None = None

    def __len__(self) -> int:
        return len(self.scores)

    def __getitem__(self, index: Any) -> Detections:
        """A subset: by slice, index array or boolean mask."""
        if isinstance(index, int | np.integer):
            index = [index]
        return replace(
            self,
            boxes=self.boxes[index],
            scores=self.scores[index],
            labels=self.labels[index],
            queries=self.queries[index],
        )

    def above(self, conf: float, classes: Sequence[str] | None = None) -> Detections:
        """Those that score at least ``conf``, and only of ``classes`` where given."""
        keep = self.scores >= conf
        if classes is not None:
            unknown = sorted(set(classes) - set(self.names))
            if unknown:
                raise ValueError(
                    f"the model does not know the class {', '.join(unknown)}; "
                    f"it knows: {', '.join(self.names)}"
                )
            keep &= np.isin(self.labels, [self.names.index(name) for name in classes])
        return self[keep]

    def to_dict(self) -> dict[str, Any]:
        """Plain values, ready for JSON: source (and frame), size and a list of detections."""
        seconds = None if self.time is None else _rounded(self.time, 6)
        moment = {} if self.frame is None else {"frame": self.frame, "time": seconds}
        return {
            "source": self.source,
            **moment,
            "height": self.size[0],
            "width": self.size[1],
            "detections": [
                {
                    "name": self.names[label],
                    "label": int(label),
                    "score": _rounded(score, 5),
                    "box": [_rounded(v, 2) for v in box],
                    "query": int(query),
                }
                for box, score, label, query in zip(
                    self.boxes, self.scores, self.labels, self.queries, strict=True
                )
            ],
        }

    def to_coco(
        self, image_id: int = 0, category_ids: Sequence[int] | None = None
    ) -> list[dict[str, Any]]:
        """Rows of a COCO results file: boxes as x, y, width, height in pixels.

        ``category_ids[label]`` is the data set's own id; without it labels count from 1.
        """
        ids = category_ids if category_ids is not None else range(1, len(self.names) + 1)
        return [
            {
                "image_id": image_id,
                "category_id": int(ids[label]),
                "bbox": [float(x0), float(y0), float(x1 - x0), float(y1 - y0)],
                "score": float(score),
            }
            for (x0, y0, x1, y1), score, label in zip(
                self.boxes.astype(float), self.scores, self.labels, strict=True
            )
        ]

    def to_supervision(self) -> Any:
        """``supervision.Detections`` with the class names in ``data["class_name"]``."""
        try:
            import supervision  # pyright: ignore[reportMissingImports]
        except ImportError:
            raise ImportError(
                "to_supervision needs the package supervision; type: pip install supervision"
            ) from None
        return supervision.Detections(
            xyxy=self.boxes.astype(np.float32),
            confidence=self.scores.astype(np.float32),
            class_id=self.labels.astype(int),
            data={"class_name": np.array([self.names[label] for label in self.labels])},
        )

    def plot(self, image: Any = None) -> Any:
        """The picture (PIL) with boxes drawn in; ``image`` where none was kept."""
        from dabdetr.inference.drawing import draw

        picture = image if image is not None else self.image
        if picture is None:
            raise ValueError("plot needs the picture: pass it, or predict with keep_images=True")
        return draw(picture, self)


def _rounded(value: Any, digits: int) -> float:
    value = float(value)
    assert math.isfinite(value), value
    return round(value, digits)
