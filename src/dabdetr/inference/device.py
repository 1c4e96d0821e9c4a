"""Choice of the device, and settings of its cores and memory."""

from __future__ import annotations

import ctypes
import sys
from functools import cache

import torch

from dabdetr.measure import processors


def choose_device(name: str | torch.device = "auto") -> torch.device:
    """The device ``name``; ``"auto"`` prefers cuda, then mps, then cpu. ValueError if absent.

    A number is that of a CUDA GPU.
    """
    available = _available()
    if str(name) == "auto":
        return torch.device(available[0])
    if str(name).isdecimal():  # as other tools number GPUs
        name = f"cuda:{name}"
    try:
        device = torch.device(name)
    except RuntimeError:
        device = None
    kind = "" if device is None else device.type
    index = 0 if device is None or device.index is None else device.index
    if device is None or kind not in available or index >= _count(kind):
        gpus = [f"cuda:{n}" for n in range(_count("cuda"))] if "cuda" in available else []
        known = ", ".join([*available, *gpus])
        raise ValueError(f"there is no device {str(name)!r} here; use auto or {known}")
    return device


def _available() -> list[str]:
    gpus = [("cuda", torch.cuda.is_available()), ("mps", torch.backends.mps.is_available())]
    return [name for name, present in gpus if present] + ["cpu"]


def _count(kind: str) -> int:
    return torch.cuda.device_count() if kind == "cuda" else 1


def takes_every_core(kind: str) -> bool:
    """Whether torch computes on the CPU with as many threads as this process has cores.

    These threads wait busily for one another at every step, so that a further thread costs more
    than it gains: on two cores, half of a small model's speed and a tenth of a large one's.
    """
    return kind == "cpu" and torch.get_num_threads() >= processors()


@cache
def keep_freed_memory() -> None:
    """Make glibc keep freed memory: the feature maps of one call reuse the memory of the last.

    By default glibc returns large blocks to the system at once and gets new ones page by page. That
    is a tenth of the time of detection at 640×480 and a seventh at 1066×800, and of a training step
    in bf16 a thirtieth and a fourteenth. The cost: the process never returns memory.
    """
    if sys.platform == "linux":
        mallopt = getattr(ctypes.CDLL(None), "mallopt", None)  # musl has none
        if mallopt is not None:
            trim_threshold, mmap_threshold = -1, -3  # glibc's numbers for them
            mallopt(trim_threshold, 2**31 - 1)
            mallopt(mmap_threshold, 2**30)
