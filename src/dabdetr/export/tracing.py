"""A detector as a graph of the last layer's answer: what every format is made of."""

from __future__ import annotations

import copy
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from dabdetr.inference.acceleration import autocast
from dabdetr.inference.runtime import Precision
from dabdetr.model.detector import Detector
from dabdetr.model.frozen_norm import FoldedConv2d
from dabdetr.structures import Images

EXAMPLE = (3, 96, 128)
"""Batch, height and width that a graph of any size is traced with; no two alike."""


class Answer(nn.Module):
    """Pixels and padding → logits and boxes of the last decoder layer, in float32.

    Inputs of any size are filled up to whole cells of the backbone first.
    """

    def __init__(self, detector: Detector, precision: Precision = "fp32") -> None:
        super().__init__()
        self.detector = detector
        self.precision: Precision = precision
        self.cell = detector.backbone.cell
        self.eval()

    def forward(self, pixels: Tensor, padding: Tensor) -> tuple[Tensor, Tensor]:
        """[b, 3, h, w] and [b, h, w] → [b, queries, classes] and [b, queries, 4]."""
        for one, other in zip(padding.shape, pixels.shape[:1] + pixels.shape[2:], strict=True):
            torch._check(one == other)  # else a graph of any size takes them for different sizes
        if self.cell > 1:  # the model itself would ask whether, which no graph of any size can
            height, width = pixels.shape[-2:]
            # Of numbers above 0 only: ONNX rounds quotients to 0, not down.
            wanted = ((side + self.cell - 1) // self.cell * self.cell for side in (height, width))
            down, right = (
                whole - side for whole, side in zip(wanted, (height, width), strict=True)
            )
            pixels = F.pad(pixels, (0, right, 0, down))
            padding = F.pad(padding, (0, right, 0, down), value=True)
        with autocast(self.precision, pixels.device):
            predictions = self.detector(Images(pixels, padding))
        return predictions.logits[-1].float(), predictions.boxes[-1].float()


def example(size: tuple[int, int] | None = None) -> tuple[Tensor, Tensor]:
    """Inputs to trace with; some of the second image is padding."""
    batch, height, width = EXAMPLE if size is None else (EXAMPLE[0], *size)
    pixels = torch.zeros(batch, 3, height, width)
    padding = torch.zeros(batch, height, width, dtype=torch.bool)
    padding[1, :, -width // 4 :] = True
    return pixels, padding


def program(
    detector: Detector, precision: Precision = "fp32", size: tuple[int, int] | None = None
) -> torch.export.ExportedProgram:
    """The traced graph, for any batch and any size, or for the ``size`` (height, width) alone."""
    if size is None and any(hasattr(module, "shift_size") for module in detector.modules()):
        raise ValueError(
            "a backbone whose windows are shifted (Swin) can only be exported for a fixed size; "
            "add size=(height, width), or --size H W"
        )
    free = torch.export.Dim.DYNAMIC
    sides: dict[str, Any] = {
        "pixels": {0: free} | ({} if size else {2: free, 3: free}),
        "padding": {0: free} | ({} if size else {1: free, 2: free}),
    }
    detector = copy.deepcopy(detector)
    for module in detector.modules():
        if isinstance(module, FoldedConv2d):
            module.settle()
    with torch.no_grad(), quiet():
        return torch.export.export(
            Answer(detector, precision), example(size), dynamic_shapes=sides, strict=False
        )


@contextmanager
def quiet() -> Iterator[None]:
    """Without the warnings of tracing and translating, about which users can do nothing."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield
