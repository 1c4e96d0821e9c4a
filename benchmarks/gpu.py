"""Both sides on a CUDA GPU, in turn: milliseconds an image and the memory held at most.

    python -m benchmarks.gpu --models dab conditional deformable --out results.json

One process; who starts alternates. The peer is transformers' model of the same weights. Both sides
run as their users have them: eager, and under autocast to bf16.
"""

from __future__ import annotations

import argparse
import json
import tempfile
from collections.abc import Callable
from contextlib import AbstractContextManager
from pathlib import Path
from statistics import median
from typing import Any

import torch
from torch import Tensor

from benchmarks.sides import KINDS, RATE, Side, Workload, load_ours, load_peer, make_weights

ROUNDS, REPEATS = 5, 6


def autocast(way: str) -> AbstractContextManager[Any]:
    return torch.autocast(
        "cuda", torch.bfloat16, enabled=way == "bf16", cache_enabled=way == "fp32"
    )


def forward(side: Side, pixels: Tensor, way: str) -> Callable[[], Any]:
    """One forward pass without gradients; ours through the same module that trains."""
    side.model.eval()

    def run() -> Any:
        with torch.no_grad(), autocast(way):
            return side.forward(pixels)

    return run


def step(side: Side, pixels: Tensor, targets: list[tuple[Tensor, Tensor]], way: str) -> Any:
    """Losses, backward pass, fused AdamW."""
    side.model.train()
    trained = [p for p in side.model.parameters() if p.requires_grad]
    optimizer = torch.optim.AdamW(trained, lr=RATE, fused=True)

    def run() -> None:
        with autocast(way):
            loss = side.loss(pixels, targets)
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()

    return run


def milliseconds(run: Callable[[], Any]) -> float:
    """Of one call, on the GPU's own clock."""
    start, end = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)
    start.record()
    for _ in range(REPEATS):
        run()
    end.record()
    torch.cuda.synchronize()
    return start.elapsed_time(end) / REPEATS


def measure(kind: str, height: int, width: int, images: int) -> list[dict[str, Any]]:
    """Every task and way of one member at one size."""
    work = Workload(kind=kind, height=height, width=width)
    rows = []
    with tempfile.TemporaryDirectory() as folder:
        make_weights(Path(folder), work)
        sides = {"ours": load_ours(Path(folder)), "peer": load_peer(Path(folder))}
    pixels = work.pixels(images).cuda()
    targets = [(labels.cuda(), boxes.cuda()) for labels, boxes in work.targets(images)]
    for side in sides.values():
        side.model.cuda()
    for task in ("forward", "training step"):
        for way in ("fp32", "bf16"):
            runs, peaks = {}, {}
            for name, side in sides.items():
                run = forward(side, pixels, way)
                if task == "training step":
                    run = step(side, pixels, targets, way)
                torch.cuda.empty_cache()
                torch.cuda.reset_peak_memory_stats()
                for _ in range(3):
                    run()
                runs[name] = run
                peaks[name] = torch.cuda.max_memory_allocated() / 2**20
            times: dict[str, list[float]] = {name: [] for name in runs}
            for number in range(ROUNDS):
                for name in sorted(runs, reverse=number % 2 == 1):
                    times[name].append(milliseconds(runs[name]))
            ratios = sorted(
                peer / ours for ours, peer in zip(times["ours"], times["peer"], strict=True)
            )
            row = {"model": kind, "task": task, "way": way, "images": images}
            row |= {"height": height, "width": width, "ratio": median(ratios)}
            row |= {f"{name}_ms": median(each) for name, each in times.items()}
            row |= {f"{name}_mib": round(each) for name, each in peaks.items()}
            rows.append(row)
            print(json.dumps(row), flush=True)
    return rows


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--models", nargs="+", choices=KINDS, default=list(KINDS))
    parser.add_argument("--sizes", nargs="+", default=["480x640x8"], help="height x width x images")
    parser.add_argument("--out", type=Path, required=True)
    given = parser.parse_args()
    rows = []
    for kind in given.models:
        for size in given.sizes:
            height, width, images = map(int, size.split("x"))
            rows += measure(kind, height, width, images)
    told = {"gpu": torch.cuda.get_device_name(), "torch": torch.__version__, "rows": rows}
    given.out.write_text(json.dumps(told, indent=1))


if __name__ == "__main__":
    main()
