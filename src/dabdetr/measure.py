"""Time of a call, and the memory and processors of this process."""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from pathlib import Path


def seconds(job: Callable[[], object]) -> float:
    """Seconds that a call of ``job`` takes."""
    started = time.perf_counter()
    job()
    return time.perf_counter() - started


def peak_memory_mib() -> float | None:
    """Peak resident memory of this process in MiB, libraries included; None on Windows."""
    status = Path("/proc/self/status")
    if status.is_file():  # getrusage would include the memory of the parent at the fork
        line = next(row for row in status.read_text().splitlines() if row.startswith("VmHWM:"))
        return int(line.split()[1]) / 1024
    try:
        import resource
    except ImportError:  # Windows
        return None
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20  # bytes on macOS


def processors() -> int:
    """Number of processors that this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1
