"""How near each member comes to what the machine can do, and where the rest of the time goes."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence
from typing import Any

import torch
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.profiler import ProfilerActivity, profile
from torch.utils.flop_counter import FlopCounterMode

from benchmarks.sides import KINDS
from benchmarks.timing import alternate, typical
from dabdetr.inference.acceleration import autocast, inference_copy, keep_freed_memory
from dabdetr.kernels import Linear, onednn_wins
from dabdetr.measure import seconds
from dabdetr.model.detector import Detector, build
from dabdetr.presets import preset
from dabdetr.structures import Images

SIDE, REPEATS = 2048, 7
"""Of the square matrices, and how often they are multiplied; the quickest counts."""
TYPES = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}


GROUPS = {
    "convolutions": ("convolution", "conv2d"),
    "linear": ("addmm", "mkldnn_linear", "_linear_pointwise", "aten::mm", "aten::linear"),
    "attention": ("scaled_dot_product", "softmax", "bmm", "embedding_bag", "grid_sampler"),
    "normalisation": ("layer_norm", "group_norm"),
}
"""Which of torch's operators count where, by a part of their name; all others are "other"."""


def found(threads: int = 2, smoke: bool = False) -> dict[str, Any]:
    """The peaks, and of every member and precision its speed and the shares of its time."""
    torch.set_num_threads(threads)
    keep_freed_memory()
    cpu = torch.device("cpu")
    peaks = {name: peak(name, cpu) for name in ("fp32", "bf16")}
    pixels = torch.randn(1, 3, *((96, 128) if smoke else (480, 640)))
    names = ("dab-detr-nano",) if smoke else tuple(kind.preset for kind in KINDS.values())
    rows = []
    for name in names:
        model = build(preset(name), [str(n) for n in range(91)]).eval()
        count = operations(model, pixels)
        for precision in ("fp32", "bf16"):
            ready = inference_copy(model, precision)

            @torch.no_grad()
            def job(ready: Any = ready, precision: Any = precision) -> None:
                with autocast(precision, cpu):
                    ready(Images(pixels))

            taken = typical(alternate({"it": job}, 2 if smoke else 5), "it")
            rows.append(
                {
                    "model": name,
                    "precision": precision,
                    "operations": count,
                    "seconds": taken,
                    "share": count / taken / peaks[precision],
                    "groups": _groups(job),
                }
            )
    return {"peaks": peaks, "size": list(pixels.shape[2:]), "rows": rows}


def _groups(job: Any) -> dict[str, float]:
    """Each group's share of the time."""
    with profile(activities=[ProfilerActivity.CPU]) as trace:
        job()
    times: Counter[str] = Counter()
    for each in trace.key_averages():
        group = next(
            (g for g, parts in GROUPS.items() if any(part in each.key for part in parts)), "other"
        )
        times[group] += each.self_cpu_time_total
    return {group: times[group] / times.total() for group in (*GROUPS, "other")}


def operations(detector: Detector, pixels: torch.Tensor) -> int:
    """Of matrix products and convolutions in one forward pass; a product and a sum are two."""
    still = inference_copy(detector)
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

    @torch.no_grad()
    def job() -> None:
        float(multiply(matrix)[0, 0])  # waits for a GPU

    return 2 * SIDE**3 / min([seconds(job) for _ in range(REPEATS + 1)][1:])
