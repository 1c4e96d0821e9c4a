"""Exported files of DAB-DETR-R50 beside the peer in eager float32: ``-m benchmarks.exports``.

Equal weights, one picture of 640x480. A round calls every side, in changing order; its ratios are
peer ÷ side. ``--out`` writes all of it as JSON; ``rows`` makes the table.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
import torch

from benchmarks.sides import SMOKE, Side, Workload, load_ours, load_peer, make_weights
from dabdetr.config import write_atomically
from dabdetr.export.files import Batch, OnnxFile, OpenVinoFile
from dabdetr.inference.card import Card
from dabdetr.inference.runtimes import Exported
from dabdetr.model.detector import Detector

BARS = {"onnx": 1.5, "openvino fp32": 1.8, "openvino bf16": 6.0}
SPLITS = {
    "backbone": ("projection", "encoder", "queries", "decoder"),
    "all but the decoder": ("queries", "decoder"),
    "linear layers": ("backbone", "projection"),
    "everything": (),
}
"""What is in int8 → the parts that are not."""


def main() -> None:
    """Make the files that are not there yet, measure, print and write."""
    given = _arguments()
    torch.set_num_threads(given.threads)
    os.environ["OMP_NUM_THREADS"] = str(given.threads)
    work = SMOKE if given.smoke else Workload()
    with tempfile.TemporaryDirectory() as temporary:
        folder = given.files or Path(temporary)
        files = make_files(folder, work, given.int8)
        found: dict[str, Any] = {"threads": given.threads, "size": [work.height, work.width]}
        found["beside the peer"] = race(folder, files, work, given.rounds)
    print("\n".join(rows(found)))
    if given.out:
        write_atomically(given.out, json.dumps(found, indent=1).encode())


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.exports", description=__doc__)
    parser.add_argument("--smoke", action="store_true", help="tiny model and pictures")
    parser.add_argument("--rounds", type=int, default=7, help="timed rounds (7)")
    parser.add_argument("--threads", type=int, default=2, help="threads of every side (2)")
    every = list(SPLITS)
    parser.add_argument("--int8", nargs="*", default=every, choices=every, help="(all of them)")
    parser.add_argument("--files", type=Path, help="folder that keeps the files for another run")
    parser.add_argument("--out", type=Path, help="the JSON to write")
    return parser.parse_args()


def make_files(folder: Path, work: Workload, splits: Sequence[str]) -> dict[str, Path]:
    """The peer's weights and every exported file of them, by what it is called in the table."""
    folder.mkdir(exist_ok=True, parents=True)
    names = {"onnx fp32": folder / "fp32.onnx", "openvino fp32": folder / "fp32_openvino"}
    names["openvino bf16"] = folder / "bf16_openvino"
    names |= {f"openvino int8, {split}": folder / f"int8-{split[:8]}_openvino" for split in splits}
    if all(path.exists() for path in names.values()):
        return names
    make_weights(folder, work)
    model = load_ours(folder).model
    assert isinstance(model, Detector)
    card = Card("onnx", model.names, model.config)
    onnx = OnnxFile(model, card)
    onnx.write(names["onnx fp32"], onnx.card)
    card = replace(card, runtime="openvino")
    for precision in ("fp32", "bf16"):
        made = OpenVinoFile(onnx, replace(card, precision=precision))
        made.write(names[f"openvino {precision}"], made.card)
    for split in splits:
        print(f"int8, {split}", file=sys.stderr)
        ranges = lambda: _noise(work)  # noqa: E731
        made = OpenVinoFile(onnx, replace(card, precision="int8"), ranges, SPLITS[split])
        made.write(names[f"openvino int8, {split}"], made.card)
    return names


def _noise(work: Workload) -> Iterator[Batch]:
    """Pictures that set ranges; speed does not depend on them."""
    for seed in range(3):
        rng = np.random.default_rng(seed)
        pixels = rng.standard_normal((1, 3, work.height, work.width)).astype(np.float32)
        yield pixels, np.zeros((1, work.height, work.width), bool)


def race(
    folder: Path, files: dict[str, Path], work: Workload, rounds: int
) -> dict[str, dict[str, list[float]]]:
    """Seconds of every side and ratios peer ÷ side, round by round."""
    pixels = work.pixels(1)
    padding = np.zeros((1, work.height, work.width), bool)
    sides: dict[str, Side] = {"peer": load_peer(folder), "torch fp32": load_ours(folder)}
    jobs: dict[str, Callable[[], object]] = {
        name: (lambda side=side: side.detect(pixels)) for name, side in sides.items()
    }
    for name, path in files.items():
        run = Exported(path)
        jobs[name] = lambda run=run: run.answer(pixels.numpy(), padding)
    seconds: dict[str, list[float]] = {name: [] for name in jobs}
    for turn in range(rounds + 1):
        for name in sorted(jobs, reverse=bool(turn % 2)):
            jobs[name]()  # wakes the side's threads
            started = time.perf_counter()
            jobs[name]()
            seconds[name] += [time.perf_counter() - started] if turn else []
    peer = seconds["peer"]
    return {
        name: {"seconds": each, "ratios": [a / b for a, b in zip(peer, each, strict=True)]}
        for name, each in seconds.items()
    }


def rows(found: dict[str, Any]) -> list[str]:
    """The tables in Markdown."""
    height, width = found["size"]
    lines = [
        f"Peer's time in eager fp32 ÷ time, {width}x{height}, one picture, {found['threads']} "
        "threads; above 1 is faster.",
        "",
        "| | ratio (median) | lowest | highest | bar |",
        "| --- | --- | --- | --- | --- |",
    ]
    for name, each in found["beside the peer"].items():
        ratios = sorted(each["ratios"])
        bar = next((str(bar) for start, bar in BARS.items() if name.startswith(start)), "")
        numbers = (median(ratios), ratios[0], ratios[-1])
        lines.append(f"| {name} | {' | '.join(f'{n:.2f}' for n in numbers)} | {bar} |")
    return lines


if __name__ == "__main__":
    main()
