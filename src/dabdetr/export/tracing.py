"""Tracing of a detector to a graph of its last layer's outputs, from which all formats are made."""

from __future__ import annotations

import copy
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from math import log
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from dabdetr.config import Config
from dabdetr.inference.acceleration import autocast
from dabdetr.inference.metadata import Metadata
from dabdetr.inference.outputs import DUMMIES
from dabdetr.inference.runtime import Precision
from dabdetr.model.detector import Detector
from dabdetr.model.frozen_norm import FoldedConv2d
from dabdetr.structures import Images, Questions

EXAMPLE = (3, 96, 128)
"""Batch, height and width that a graph of any size is traced with; all different."""
ASKED = 7
"""Questions per image that a graph is traced with."""


class Answer(nn.Module):
    """Pixels and padding → logits and boxes of the last decoder layer, in float32.

    Inputs are first padded to whole cells of the backbone. With ``metadata``, the inputs and
    outputs are ``Metadata.inputs`` and ``Metadata.outputs`` instead.
    """

    def __init__(
        self, detector: Detector, precision: Precision = "fp32", metadata: Metadata | None = None
    ) -> None:
        super().__init__()
        self.detector = detector
        self.precision: Precision = precision
        self.cell = detector.backbone.cell
        self.inputs = ["pixels", "padding"] if metadata is None else list(metadata.inputs)
        self.post = None if metadata is None else _POSTS[metadata.post]
        self.top = None if metadata is None else metadata.top
        self.eval()

    def forward(self, *inputs: Tensor) -> tuple[Tensor, ...]:
        """[b, 3, h, w] and [b, h, w] → [b, queries, classes] and [b, queries, 4]."""
        given = dict(zip(self.inputs, inputs, strict=True))
        pixels = given["pixels"]
        padding = given.get("padding")
        if padding is None:
            padding = pixels.new_zeros(pixels[:, 0].shape, dtype=torch.bool)
        else:
            for one, other in zip(padding.shape, pixels[:, 0].shape, strict=True):
                torch._check(one == other)  # else tracing makes them different free sizes
        padded, mask = self._padded(pixels, padding)
        with autocast(self.precision, pixels.device):
            predictions = self.detector(Images(padded, mask), questions=_questions(given))
        logits, boxes = predictions.logits[-1].float(), predictions.boxes[-1].float()
        if predictions.groups:
            _, answers = predictions.groups[0]
            layers = answers.boxes.float().transpose(0, 1)  # [b, layers, questions, 4]
            return logits, boxes, answers.logits[-1].float(), layers
        if self.post is None:
            return logits, boxes
        sizes = given.get("sizes")
        if sizes is None:
            return self.post(self.detector.config, logits, boxes)
        torch._check(sizes.shape[0] == pixels.shape[0])
        unpadded = torch.stack(((~padding[:, :, 0]).sum(1), (~padding[:, 0]).sum(1)), dim=1)
        sizes = torch.where(sizes > 0, sizes, unpadded)
        return self.post(self.detector.config, logits, boxes, sizes, self.top)

    def _padded(self, pixels: Tensor, padding: Tensor) -> tuple[Tensor, Tensor]:
        """Both padded to whole cells of the backbone; a model cannot check this inside a graph."""
        if self.cell <= 1:
            return pixels, padding
        height, width = pixels.shape[-2:]
        # without negative numbers: ONNX rounds quotients towards 0, not down
        wanted = ((side + self.cell - 1) // self.cell * self.cell for side in (height, width))
        down, right = (whole - side for whole, side in zip(wanted, (height, width), strict=True))
        return F.pad(pixels, (0, right, 0, down)), F.pad(padding, (0, right, 0, down), value=True)


def _questions(given: dict[str, Tensor]) -> Questions | None:
    """The questions among a graph's inputs."""
    if "questions" not in given:
        return None
    asked = Questions(given["questions"], given["question_labels"])
    for one, other in zip(asked.labels.shape, asked.boxes.shape[:2], strict=True):
        torch._check(one == other)
    torch._check(asked.boxes.shape[0] == given["pixels"].shape[0])
    return asked


def _ranked_boxes(
    config: Config, logits: Tensor, boxes: Tensor, sizes: Tensor, top: int
) -> tuple[Tensor, ...]:
    """``inference.postprocess.ranked`` as a graph: the ``top`` boxes, scores, labels and queries.

    ``sizes`` [b, 2] are heights and widths of the images in pixels.
    """
    if config.classifier == "softmax":
        of_queries, labels = logits.softmax(-1)[..., :-1].max(-1)  # [b, queries]
        scores, queries = of_queries.topk(top, dim=1)
        labels = labels.gather(1, queries)
        ranks = scores.logit()
    else:
        # ranked by logits: large ones differ where their scores round to 1
        ranks, indices = logits.flatten(1).topk(top, dim=1)
        queries, labels = indices // logits.shape[2], indices % logits.shape[2]
        scores = ranks.sigmoid()
    if config.inference.calibration is not None:
        scale, shift = config.inference.calibration
        scores = (scale * ranks + shift).sigmoid()
    top_boxes = boxes.gather(1, queries[..., None].expand(-1, -1, 4))
    centre, half = top_boxes[..., :2], top_boxes[..., 2:] / 2
    corners = torch.cat((centre - half, centre + half), dim=-1)
    sides = sizes.flip(1).repeat(1, 2)[:, None].to(corners.dtype)  # width, height, width, height
    return corners * sides, scores, labels, queries


def _softmax_logits(config: Config, logits: Tensor, boxes: Tensor) -> tuple[Tensor, Tensor]:
    """Logits whose softmax is the score of each query's best class, for clients that use softmax.

    With score p, the logit of that class is ln p, ``DUMMIES`` further classes share the rest
    1 − p, and those of all other classes are very low: softmax gives p for either classifier.
    """
    if config.classifier == "softmax":
        scores, labels = logits.softmax(-1)[..., :-1].max(-1)  # [b, queries]
        best, classes = scores.logit(), logits.shape[2] - 1
    else:
        best, labels = logits.max(-1)
        classes = logits.shape[2]
    if config.inference.calibration is not None:
        scale, shift = config.inference.calibration
        best = scale * best + shift
    is_best = torch.arange(classes, device=logits.device) == labels[..., None]
    score, rest = F.logsigmoid(best)[..., None], F.logsigmoid(-best)[..., None] - log(DUMMIES)
    return torch.cat((torch.where(is_best, score, -80.0), rest.expand(-1, -1, DUMMIES)), -1), boxes


_POSTS: dict[str, Callable[..., tuple[Tensor, ...]] | None] = {
    "none": None,
    "boxes": _ranked_boxes,
    "pipeline": _softmax_logits,
}
"""The graph of each kind of ``inference.outputs.POSTS``; it takes config, logits, boxes, and where
``sizes`` is an input also sizes and ``Metadata.top``."""


def example(size: tuple[int, int] | None = None) -> tuple[Tensor, Tensor]:
    """Pixels and padding to trace with; a quarter of the second image is padding."""
    batch, height, width = EXAMPLE if size is None else (EXAMPLE[0], *size)
    pixels = torch.zeros(batch, 3, height, width)
    padding = torch.zeros(batch, height, width, dtype=torch.bool)
    padding[1, :, -width // 4 :] = True
    return pixels, padding


def program(
    detector: Detector,
    precision: Precision = "fp32",
    size: tuple[int, int] | None = None,
    metadata: Metadata | None = None,
) -> torch.export.ExportedProgram:
    """The traced graph for any batch, and for any size or only ``size`` (height, width)."""
    if size is None and any(hasattr(module, "shift_size") for module in detector.modules()):
        raise ValueError(
            "a backbone whose windows are shifted (Swin) can only be exported for a fixed size; "
            "add size=(height, width), or --size H W"
        )
    detector = copy.deepcopy(detector)
    for module in detector.modules():
        if isinstance(module, FoldedConv2d):
            module.fold()
    answer = Answer(detector, precision, metadata)
    pixels, padding = example(size)
    sizes = torch.tensor(pixels.shape[2:]).repeat(len(pixels), 1)
    boxes = torch.tensor((0.5, 0.5, 0.2, 0.3)).repeat(len(pixels), ASKED, 1)
    labels = torch.arange(ASKED).remainder(2).sub(1).repeat(len(pixels), 1)  # -1, 0, -1 …
    given = {"pixels": pixels, "padding": padding, "sizes": sizes}
    given |= {"questions": boxes, "question_labels": labels}
    free = torch.export.Dim.DYNAMIC
    dynamic: dict[str, Any] = {
        "pixels": {0: free} | ({} if size else {2: free, 3: free}),
        "padding": {0: free} | ({} if size else {1: free, 2: free}),
        "sizes": {0: free},
        "questions": {0: free, 1: free},
        "question_labels": {0: free, 1: free},
    }
    inputs = tuple(given[name] for name in answer.inputs)
    shapes = (tuple(dynamic[name] for name in answer.inputs),)
    with torch.no_grad(), quiet():
        return torch.export.export(answer, inputs, dynamic_shapes=shapes, strict=False)


@contextmanager
def quiet() -> Iterator[None]:
    """Suppress the warnings of tracing and conversion, about which users can do nothing."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield
