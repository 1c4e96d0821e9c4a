"""How near a model comes to what the machine can do: its operations, and the peak of products."""

from __future__ import annotations

import math
import time
from collections.abc import Sequence
from typing import Any

import torch
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from dabdetr.inference.acceleration import settled
from dabdetr.inference.opening import torch_runtime
from dabdetr.inference.sources import read_sources
from dabdetr.model.detector import Detector
from dabdetr.model.kernels import Linear, onednn_wins
from dabdetr.structures import Images

SIDE, REPEATS = 2048, 7
"""Of the square matrices, and how often they are multiplied; the quickest counts."""
TYPES = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}


def measure(model: str, images: Sequence[str], device: str) -> dict[str, Any]:
    """``operations`` an image, and ``peaks``: precision → operations a second."""
    runtime = torch_runtime(model, device=device)
    detector, place = runtime.model.eval(), runtime.device
    counts, found = {}, []
    for each in read_sources(list(images)):
        shape = tuple(runtime.prepare(each.array).shape)
        if shape not in counts:
            counts[shape] = operations(detector, torch.zeros(1, *shape, device=place))
        found.append(counts[shape])
    kinds = [kind for kind in TYPES if kind != "fp16" or place.type != "cpu"]
    peaks = {kind: peak(kind, place) for kind in kinds}
    return {"operations": sum(found) / len(found), "peaks": peaks}


def operations(detector: Detector, pixels: torch.Tensor) -> int:
    """Of matrix products and convolutions in one forward pass; a product and a sum are two."""
    still = settled(detector)
    known = {torch.ops.mkldnn._linear_pointwise: _of_linear} if onednn_wins() else {}
    counter = FlopCounterMode(display=False, custom_mapping=known)
    # The counter knows no fused attention on CPUs; the plain one is the same products.
    with torch.no_grad(), sdpa_kernel(SDPBackend.MATH), counter:
        still(Images(pixels))
    return counter.get_total_flops()


def _of_linear(x: Sequence[int], weight: Sequence[int], *_: Any, **__: Any) -> int:
    """Of the product that ``Linear`` makes, by the shapes of its parts."""
    return 2 * math.prod(x) * weight[0]


def peak(precision: str, device: torch.device) -> float:
    """Operations a second of a large matrix product."""
    matrix = torch.rand(SIDE, SIDE, device=device).to(TYPES[precision])
    multiply = Linear(SIDE, SIDE, bias=False, device=device, dtype=matrix.dtype)
    seconds = []
    for _ in range(REPEATS + 1):
        started = time.perf_counter()
        with torch.no_grad():
            product = multiply(matrix)
        float(product[0, 0])  # waits for a GPU
        seconds.append(time.perf_counter() - started)
    return 2 * SIDE**3 / min(seconds[1:])
