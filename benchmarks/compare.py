"""Time both sides in turn, weigh both in processes of their own, and write what came out.

Only ratios are results: peer ÷ ours of the same round, the median of all rounds; above 1 we are
faster or smaller. A round times one side right after the other, and who starts alternates.
"""

from __future__ import annotations

import argparse
import gc
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from statistics import median

import torch

from benchmarks.report import Memory, Result, print_results, write_results
from benchmarks.sides import (
    LOADERS,
    SMOKE,
    Side,
    Workload,
    make_weights,
    published,
    require_equal,
)

TASKS = {"forward": 1, "training step": 2}  # images
THREADS = 2


def main() -> None:
    """Compare, print, and write ``results.md`` (a smoke run writes only where it is told to)."""
    given = _arguments()
    threads = 1 if given.smoke else THREADS
    torch.set_num_threads(threads)
    work = SMOKE if given.smoke else Workload()
    if given.measure:
        side, task = given.measure
        print(json.dumps(_weigh(side, task, given.weights, work)))
        return
    os.environ.setdefault("HF_HUB_DISABLE_PROGRESS_BARS", "1")
    rounds = given.rounds or (2 if given.smoke else 9)
    with tempfile.TemporaryDirectory() as folder:
        weights = Path(folder)
        make_weights(weights, work)
        sides = {name: load(weights) for name, load in LOADERS.items()}
        require_equal(sides["ours"], sides["peer"], work)
        if not given.smoke and not published(weights):
            raise AssertionError("what is timed is not the model of the preset dab-detr-r50")
        results = [
            Result(task, images, _race(sides, task, images, rounds, work))
            for task, images in TASKS.items()
        ]
        del sides
        memory = [
            Memory(task, *(_weigh_apart(side, task, weights, given.smoke) for side in LOADERS))
            for task in TASKS
        ]
    print_results(results, memory, work)
    out = given.out or (None if given.smoke else Path(__file__).parent / "results.md")
    if out is not None:
        write_results(out, results, memory, work, threads)


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__)
    parser.add_argument("--smoke", action="store_true", help="tiny model and pictures, 2 rounds")
    parser.add_argument("--rounds", type=int, help="timed rounds (9)")
    parser.add_argument("--out", type=Path, help="file for the results (benchmarks/results.md)")
    parser.add_argument("--measure", nargs=2, metavar=("SIDE", "TASK"), help=argparse.SUPPRESS)
    parser.add_argument("--weights", type=Path, help=argparse.SUPPRESS)
    return parser.parse_args()


def _job(side: Side, task: str, images: int, work: Workload) -> Callable[[], object]:
    """What is timed, as a function without arguments."""
    pixels = work.pixels(images)
    if task == "forward":
        return lambda: side.detect(pixels)
    return side.trainer(pixels, work.targets(images))


def _race(
    sides: dict[str, Side], task: str, images: int, rounds: int, work: Workload
) -> list[dict[str, float]]:
    """Seconds of each side in every round, after one round to warm up."""
    jobs = {name: _job(side, task, images, work) for name, side in sides.items()}
    seconds = []
    for turn in range(rounds + 1):
        order = list(jobs) if turn % 2 else list(jobs)[::-1]
        seconds.append({name: _seconds(jobs[name]) for name in order})
        shown = {name: f"{value:.3f}" for name, value in seconds[-1].items()}
        print(f"{task}, round {turn}: {shown}", file=sys.stderr)
    for side in sides.values():
        side.model.zero_grad()
    return seconds[1:]


def _seconds(job: Callable[[], object]) -> float:
    gc.collect()
    started = time.perf_counter()
    job()
    return time.perf_counter() - started


def _weigh_apart(side: str, task: str, weights: Path, smoke: bool) -> dict[str, float]:
    """``_weigh`` in a process of its own; the median of three."""
    command = [sys.executable, "-m", "benchmarks", "--measure", side, task]
    command += ["--weights", str(weights)] + (["--smoke"] if smoke else [])
    found = []
    for _ in range(1 if smoke else 3):
        done = subprocess.run(
            command, cwd=Path(__file__).parents[1], capture_output=True, text=True, check=False
        )
        if done.returncode:
            raise RuntimeError(f"measuring {side}, {task} failed:\n{done.stderr}")
        found.append(json.loads(done.stdout.splitlines()[-1]))
    return {key: median(each[key] for each in found) for key in found[0]}


def _weigh(side: str, task: str, weights: Path, work: Workload) -> dict[str, float]:
    """Peak of this process in MiB: all of it, and without its libraries.

    The libraries are what the process holds once torch and the side's package are imported.
    """
    load = LOADERS[side]
    _import(side)
    libraries = _resident()
    job = _job(load(weights), task, TASKS[task], work)
    for _ in range(3):
        job()
    peak = _highest()
    return {"peak": peak, "work": peak - libraries}


def _import(side: str) -> None:
    if side == "peer":
        import timm
        from transformers import DabDetrForObjectDetection

        _ = timm, DabDetrForObjectDetection
    else:
        import dabdetr.model.weights
        import dabdetr.training.losses

        _ = dabdetr


def _resident() -> float:
    """MiB that this process holds now."""
    import psutil

    return psutil.Process().memory_info().rss / 2**20


def _highest() -> float:
    """MiB that this process held at most."""
    status = Path("/proc/self/status")
    if status.is_file():  # getrusage would count what the parent held when it forked
        line = next(row for row in status.read_text().splitlines() if row.startswith("VmHWM:"))
        return int(line.split()[1]) / 1024
    import resource

    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20  # bytes on macOS
