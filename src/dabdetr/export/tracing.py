"""A detector as a graph of the last layer's answer: what every format is made of."""

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
"""Batch, height and width that a graph of any size is traced with; no two alike."""
ASKED = 7
"""Questions of each image that a graph is traced with."""


class Answer(nn.Module):
    """Pixels and padding → logits and boxes of the last decoder layer, in float32.

    Inputs of any size are filled up to whole cells of the backbone first. ``metadata`` says what
    else goes in and comes out (``Metadata.inputs``, ``Metadata.outputs``), where not these.
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
                torch._check(one == other)  # else a graph of any size takes them for different ones
        filled, mask = self._filled(pixels, padding)
        with autocast(self.precision, pixels.device):
            predictions = self.detector(Images(filled, mask), questions=_questions(given))
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
        own = torch.stack(((~padding[:, :, 0]).sum(1), (~padding[:, 0]).sum(1)), dim=1)
        sizes = torch.where(sizes > 0, sizes, own)
        return self.post(self.detector.config, logits, boxes, sizes, self.top)

    def _filled(self, pixels: Tensor, padding: Tensor) -> tuple[Tensor, Tensor]:
        """Both filled up to whole cells, which the model itself cannot ask for in a graph."""
        if self.cell <= 1:
            return pixels, padding
        height, width = pixels.shape[-2:]
        # Of numbers above 0 only: ONNX rounds quotients to 0, not down.
        wanted = ((side + self.cell - 1) // self.cell * self.cell for side in (height, width))
        down, right = (whole - side for whole, side in zip(wanted, (height, width), strict=True))
        return F.pad(pixels, (0, right, 0, down)), F.pad(padding, (0, right, 0, down), value=True)


def _questions(given: dict[str, Tensor]) -> Questions | None:
    """The questions among a graph's inputs."""
    if "questions" not in given:
        return None
    asked = Questions(given["questions"], given["question_labels"])
    for own, other in zip(asked.labels.shape, asked.boxes.shape[:2], strict=True):
        torch._check(own == other)
    torch._check(asked.boxes.shape[0] == given["pixels"].shape[0])
    return asked


def _best(
    config: Config, logits: Tensor, boxes: Tensor, sizes: Tensor, top: int
) -> tuple[Tensor, ...]:
    """``inference.postprocess.ranked`` as a graph: boxes, scores, labels and queries.

    ``sizes`` [b, 2] are heights and widths of the images; ``top`` is how many come out.
    """
    if config.classifier == "softmax":
        shares, labels = logits.softmax(-1)[..., :-1].max(-1)  # [b, queries]
        scores, queries = shares.topk(top, dim=1)
        labels = labels.gather(1, queries)
        ranks = scores.logit()
    else:
        # By logits, which never tie at 1 as scores do.
        ranks, places = logits.flatten(1).topk(top, dim=1)
        queries, labels = places // logits.shape[2], places % logits.shape[2]
        scores = ranks.sigmoid()
    if config.inference.calibration is not None:
        scale, shift = config.inference.calibration
        scores = (scale * ranks + shift).sigmoid()
    placed = boxes.gather(1, queries[..., None].expand(-1, -1, 4))
    centre, half = placed[..., :2], placed[..., 2:] / 2
    corners = torch.cat((centre - half, centre + half), dim=-1)
    sides = sizes.flip(1).repeat(1, 2)[:, None].to(corners.dtype)  # width, height, width, height
    return corners * sides, scores, labels, queries


def _largest(config: Config, logits: Tensor, boxes: Tensor) -> tuple[Tensor, Tensor]:
    """Logits whose softmax is each query's best class with its score, for clients that read it so.

    Its logit is ln p; ``DUMMIES`` more classes share the rest, so that p is what softmax gives
    whatever the classifier. All other classes are out of reach.
    """
    if config.classifier == "softmax":
        shares, labels = logits.softmax(-1)[..., :-1].max(-1)  # [b, queries]
        best, classes = shares.logit(), logits.shape[2] - 1
    else:
        best, labels = logits.max(-1)
        classes = logits.shape[2]
    if config.inference.calibration is not None:
        scale, shift = config.inference.calibration
        best = scale * best + shift
    own = torch.arange(classes, device=logits.device) == labels[..., None]
    score, rest = F.logsigmoid(best)[..., None], F.logsigmoid(-best)[..., None] - log(DUMMIES)
    return torch.cat((torch.where(own, score, -80.0), rest.expand(-1, -1, DUMMIES)), -1), boxes


_POSTS: dict[str, Callable[..., tuple[Tensor, ...]] | None] = {
    "none": None,
    "boxes": _best,
    "pipeline": _largest,
}
"""As ``inference.outputs.POSTS``: config, logits, boxes and, where they go in, sizes and top."""


def example(size: tuple[int, int] | None = None) -> tuple[Tensor, Tensor]:
    """Inputs to trace with; some of the second image is padding."""
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
    """The traced graph, for any batch and any size, or for the ``size`` (height, width) alone."""
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
    """Without the warnings of tracing and translating, about which users can do nothing."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield
