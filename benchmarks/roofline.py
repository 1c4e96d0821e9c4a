"""How near each member comes to what the machine can do, and where the rest of the time goes."""

from __future__ import annotations

from collections import Counter
from typing import Any

import torch
from torch.profiler import ProfilerActivity, profile

from benchmarks.sides import KINDS
from benchmarks.timing import alternate, typical
from dabdetr.bench.roofline import operations, peak
from dabdetr.inference.acceleration import autocast, keep_freed_memory, settled
from dabdetr.model.detector import build
from dabdetr.presets import preset
from dabdetr.structures import Images

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
            ready = settled(model, precision)

            @torch.no_grad()
            def job(ready: Any = ready, precision: Any = precision) -> None:
                with autocast(precision, cpu):
                    ready(Images(pixels))

            seconds = typical(alternate({"it": job}, 2 if smoke else 5), "it")
            rows.append(
                {
                    "model": name,
                    "precision": precision,
                    "operations": count,
                    "seconds": seconds,
                    "share": count / seconds / peaks[precision],
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
