"""Where a model runs, and what becomes of its memory there."""

from __future__ import annotations

import ctypes
import sys
from functools import cache

import torch

from dabdetr.data.loader import processors


def choose_device(name: str | torch.device = "auto") -> torch.device:
    """The device called ``name`` if it is there; ``"auto"`` prefers cuda, then mps, then cpu.

    A number is that of a GPU of CUDA.
    """
    there = _available()
    if str(name) == "auto":
        return torch.device(there[0])
    if str(name).isdecimal():  # as other tools number GPUs
        name = f"cuda:{name}"
    try:
        device = torch.device(name)
    except RuntimeError:
        device = None
    wanted = "" if device is None else device.type
    index = 0 if device is None or device.index is None else device.index
    if device is None or wanted not in there or index >= _count(wanted):
        raise ValueError(f"there is no device {str(name)!r} here; use auto or {_listed(there)}")
    return device


def _available() -> list[str]:
    there = [("cuda", torch.cuda.is_available()), ("mps", torch.backends.mps.is_available())]
    return [name for name, present in there if present] + ["cpu"]


def _count(kind: str) -> int:
    return torch.cuda.device_count() if kind == "cuda" else 1


def _listed(there: list[str]) -> str:
    every = [f"cuda:{n}" for n in range(_count("cuda"))] if "cuda" in there else []
    return ", ".join([*there, *every])


def takes_every_core(kind: str) -> bool:
    """Whether torch computes on the CPU in as many threads as there are cores for this process.

    They wait for one another busily at every step, so that a thread beside them costs more than it
    does: of two cores, half of a small model's speed and a tenth of a large one's.
    """
    return kind == "cpu" and torch.get_num_threads() >= processors()


@cache
def keep_freed_memory() -> None:
    """Let the process keep what it frees: maps of one call are those of the next.

    glibc hands large blocks back to the system at once, and gets them again page by page: a tenth
    of the time of detecting at 640×480, a seventh at 1066×800; of a training step in bf16 a
    thirtieth and a fourteenth. The price: memory once used stays taken.
    """
    if sys.platform == "linux":
        mallopt = getattr(ctypes.CDLL(None), "mallopt", None)  # musl has none
        if mallopt is not None:
            trim_threshold, mmap_threshold = -1, -3  # glibc's names of them
            mallopt(trim_threshold, 2**31 - 1)
            mallopt(mmap_threshold, 2**30)
