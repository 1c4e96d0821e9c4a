"""Exported files of DAB-DETR-R50 beside the peer in eager float32.

Equal weights, one image of 640x480. A round calls every side, in changing order; its ratios are
peer ÷ side.
"""

from __future__ import annotations

import sys
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
import torch

from benchmarks.sides import SMOKE, Side, Workload, load_ours, load_peer, make_weights
from dabdetr.export.formats import OnnxFile, OpenVinoFile
from dabdetr.inference.exported import Exported
from dabdetr.inference.metadata import Metadata
from dabdetr.measure import seconds
from dabdetr.model.detector import Detector

BARS = {"ONNX Runtime fp32": 1.5, "OpenVINO fp32": 1.8, "OpenVINO bf16": 6.0}
SPLITS = {
    "backbone": ("projection", "encoder", "queries", "decoder"),
    "all but the decoder": ("queries", "decoder"),
    "linear layers": ("backbone", "projection"),
    "everything": (),
}
"""What is in int8 → the parts that are in bf16."""


def found(threads: int = 2, smoke: bool = False, rounds: int = 7) -> dict[str, Any]:
    """Size of the image, and seconds and ratios of every side by its name."""
    torch.set_num_threads(threads)
    work = SMOKE if smoke else Workload()
    with tempfile.TemporaryDirectory() as folder:
        files = make_files(Path(folder), work)
        sides = race(Path(folder), files, work, 2 if smoke else rounds)
    return {"threads": threads, "size": [work.height, work.width], "beside the peer": sides}


def make_files(folder: Path, work: Workload) -> dict[str, Path]:
    """The peer's weights and every exported file of them, by what it is called in the table."""
    make_weights(folder, work)
    model = load_ours(folder).model
    assert isinstance(model, Detector)
    files: dict[str, Path] = {}
    for what, size in (("", None), (", fixed size", (work.height, work.width))):
        metadata = Metadata("onnx", model.names, model.config, size=size)
        onnx = OnnxFile(model, metadata)
        if size is None:
            files["ONNX Runtime fp32"] = folder / "fp32.onnx"
            onnx.write(files["ONNX Runtime fp32"], onnx.metadata)
        metadata = replace(metadata, runtime="openvino")
        for precision in ("fp32", "bf16"):
            made = OpenVinoFile(onnx, replace(metadata, precision=precision))
            files[f"OpenVINO {precision}{what}"] = _written(made, folder / f"{len(files)}_openvino")
        for split, kept in SPLITS.items() if size is None else (("backbone", SPLITS["backbone"]),):
            print(f"int8, {split}", file=sys.stderr)
            made = OpenVinoFile(
                onnx, replace(metadata, precision="int8"), lambda: _noise(work), kept=kept
            )
            name = f"OpenVINO int8 in {split}, bf16 in the rest{what}"
            files[name] = _written(made, folder / f"{len(files)}_openvino")
    return files


def _written(made: OpenVinoFile, path: Path) -> Path:
    made.write(path, made.metadata)
    return path


def _noise(work: Workload) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Images that set ranges; speed does not depend on them."""
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
    sides: dict[str, Side] = {"peer": load_peer(folder), "PyTorch fp32": load_ours(folder)}
    jobs: dict[str, Callable[[], object]] = {
        name: (lambda side=side: side.detect(pixels)) for name, side in sides.items()
    }
    for name, path in files.items():
        run = Exported(path)
        jobs[name] = lambda run=run: run.predict(
            pixels.numpy(), padding, [(work.height, work.width)]
        )
    every: dict[str, list[float]] = {name: [] for name in jobs}
    for turn in range(rounds + 1):
        for name in sorted(jobs, reverse=bool(turn % 2)):
            jobs[name]()  # wakes the side's threads
            took = seconds(jobs[name])
            every[name] += [took] if turn else []
    peer = every["peer"]
    return {
        name: {"seconds": each, "ratios": [a / b for a, b in zip(peer, each, strict=True)]}
        for name, each in every.items()
    }


def rows(found: dict[str, Any]) -> list[str]:
    """The table in Markdown, its caption first."""
    height, width = found["size"]
    lines = [
        f"DAB-DETR-R50, {width}x{height}, one image, {found['threads']} threads: the peer's time "
        "in eager fp32 ÷ time; above 1 is faster.",
        "",
        "| | ratio (median) | lowest | highest | bar | | ms |",
        "| --- | --- | --- | --- | --- | --- | --- |",
    ]
    for name, each in found["beside the peer"].items():
        ratios = sorted(each["ratios"])
        bar = next((bar for start, bar in BARS.items() if name.startswith(start)), None)
        numbers = (median(ratios), ratios[0], ratios[-1])
        cells = [name, *(f"{n:.2f}" for n in numbers), "" if bar is None else str(bar)]
        cells.append("" if bar is None else "met" if numbers[0] >= bar else "missed")
        lines.append(f"| {' | '.join(cells)} | {1e3 * median(each['seconds']):.0f} |")
    return lines
