"""One side in a process of its own: ``python -m benchmarks.worker SIDE KIND FOLDER``.

Reads one JSON request a line and answers with one: ``{"job": …}`` makes ready what is to be timed,
``{"run": true}`` times it once, ``{"peak": true}`` tells the MiB held at most since the job began.
"""

from __future__ import annotations

import ctypes
import gc
import json
import logging
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[1]


class Worker:
    """The other end: a process that answers requests about one side."""

    def __init__(self, side: str, kind: str, weights: Path, smoke: bool, threads: int) -> None:
        self.side = side
        command = [sys.executable, "-m", "benchmarks.worker", side, kind, str(weights)]
        self.process = subprocess.Popen(
            [*command, str(int(smoke)), str(threads)],
            **{"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True, "cwd": ROOT},
        )

    def ask(self, **request: Any) -> Any:
        """The answer; RuntimeError where the process is gone."""
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        self.process.stdin.write(json.dumps(request) + "\n")
        self.process.stdin.flush()
        for line in self.process.stdout:
            if line.startswith("{"):
                return json.loads(line)["answer"]
        raise RuntimeError(f"the process of {self.side} ended at {request}; see above")

    def close(self) -> None:
        assert self.process.stdin is not None
        self.process.stdin.close()
        self.process.wait()


def main() -> None:
    import torch

    from benchmarks.sides import LOADERS, SMOKE, Workload

    name, kind, weights, smoke, threads = sys.argv[1:]
    torch.set_num_threads(int(threads))
    _import(name)
    libraries = _resident()
    told: list[str] = []
    handler = logging.Handler()
    handler.emit = lambda record: told.append(record.getMessage())
    logging.getLogger("dabdetr").addHandler(handler)
    logging.getLogger("dabdetr").setLevel(logging.INFO)
    side = LOADERS[name](Path(weights))
    base = SMOKE if smoke == "1" else Workload()
    job: Callable[[], object] = lambda: None  # noqa: E731
    for line in sys.stdin:
        request = json.loads(line)
        if "job" in request:
            what = request["job"]
            work = replace(base, kind=kind)
            if smoke != "1":
                work = replace(work, height=what["height"], width=what["width"])
            job = lambda: None  # noqa: E731 - frees the last one
            _forget()
            pixels, way = work.pixels(what["images"]), what["way"]
            if what["task"] == "forward":
                job = lambda: side.detect(pixels, way == "best")  # noqa: B023, E731
            else:
                job = side.trainer(pixels, work.targets(what["images"]), way)
            job()  # compiles and chooses, where the side does
            answer: Any = {"told": list(dict.fromkeys(told))}
            told.clear()
        elif "run" in request:
            gc.collect()
            started = time.perf_counter()
            job()
            answer = time.perf_counter() - started
        else:
            answer = {"peak": _highest(), "libraries": libraries}
        print(json.dumps({"answer": answer}), flush=True)


def _import(side: str) -> None:
    if side == "peer":
        import timm
        from transformers import AutoModelForObjectDetection

        _ = timm, AutoModelForObjectDetection
    else:
        import dabdetr.checkpoints.native
        import dabdetr.inference.acceleration
        import dabdetr.training.losses

        _ = dabdetr


def _forget() -> None:
    """Give freed memory back, and forget the peak."""
    gc.collect()
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None)
    if trim is not None:
        trim(0)
    reset = Path("/proc/self/clear_refs")
    if reset.exists():
        reset.write_text("5")


def _resident() -> float:
    """MiB that this process holds now."""
    import psutil

    return psutil.Process().memory_info().rss / 2**20


def _highest() -> float:
    """MiB that this process held at most since it last forgot."""
    status = Path("/proc/self/status")
    if status.is_file():
        line = next(row for row in status.read_text().splitlines() if row.startswith("VmHWM:"))
        return int(line.split()[1]) / 1024
    import resource

    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20  # bytes on macOS


if __name__ == "__main__":
    main()
