"""One side in a process of its own: ``python -m benchmarks.worker SIDE KIND FOLDER SMOKE THREADS``.

It is asked through ``dabdetr.bench.worker.Process``.
"""

from __future__ import annotations

import ctypes
import gc
import logging
import os
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

from dabdetr.bench.worker import Process, serve
from dabdetr.measure import peak_memory_mib, seconds

ROOT = Path(__file__).parents[1]


def start(side: str, kind: str, weights: Path, smoke: bool, threads: int) -> Process:
    """The process of a side."""
    paths = os.pathsep.join([str(ROOT), *filter(None, [os.environ.get("PYTHONPATH")])])
    arguments = [side, kind, str(weights), str(int(smoke)), str(threads)]
    return Process(os.environ | {"PYTHONPATH": paths}, "benchmarks.worker", arguments)


class Worker:
    """The requests, one method each."""

    def __init__(self, side: str, kind: str, weights: str, smoke: str, threads: str) -> None:
        import torch

        from benchmarks.sides import LOADERS, SMOKE, Workload

        torch.set_num_threads(int(threads))
        _import(side)
        self.libraries = _resident_mib()
        self.said: list[str] = []
        handler = logging.Handler()
        handler.emit = lambda record: self.said.append(record.getMessage())
        logging.getLogger("dabdetr").addHandler(handler)
        logging.getLogger("dabdetr").setLevel(logging.INFO)
        self.smoke = smoke == "1"
        self.side = LOADERS[side](Path(weights))
        self.work = replace(SMOKE if self.smoke else Workload(), kind=kind)
        self.job: Callable[[], object] = lambda: None

    def prepare(self, task: str, images: int, height: int, width: int, way: str) -> list[str]:
        """Make ready what is to be timed; what the side says that it chose."""
        work = self.work if self.smoke else replace(self.work, height=height, width=width)
        self.job = lambda: None  # frees the last one
        _forget()
        pixels = work.pixels(images)
        if task == "forward":
            self.job = lambda: self.side.detect(pixels, way == "best")
        else:
            self.job = self.side.trainer(pixels, work.targets(images), way)
        self.job()  # compiles and chooses, where the side does
        said = list(dict.fromkeys(self.said))
        self.said.clear()
        return said

    def run(self) -> float:
        """Seconds of the job."""
        gc.collect()
        return seconds(self.job)

    def memory_mib(self) -> dict[str, float | None]:
        """What the process held at most since the job was prepared, and its libraries alone."""
        return {"peak": peak_memory_mib(), "libraries": self.libraries}


def _import(side: str) -> None:
    if side == "peer":
        import timm
        from transformers import AutoModelForObjectDetection

        _ = timm, AutoModelForObjectDetection
    else:
        import dabdetr.checkpoints.native
        import dabdetr.inference.acceleration
        import dabdetr.training.losses

        _: Any = dabdetr


def _forget() -> None:
    """Give freed memory back, and forget the peak."""
    gc.collect()
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None)
    if trim is not None:
        trim(0)
    reset = Path("/proc/self/clear_refs")
    if reset.exists():
        reset.write_text("5")


def _resident_mib() -> float:
    """What this process holds now."""
    import psutil

    return psutil.Process().memory_info().rss / 2**20


if __name__ == "__main__":
    serve(Worker(*sys.argv[1:]))
