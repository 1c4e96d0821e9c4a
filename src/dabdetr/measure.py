"""How long a job takes, and how much memory this process has needed."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path


def seconds(job: Callable[[], object]) -> float:
    """Seconds that a call of ``job`` takes."""
    started = time.perf_counter()
    job()
    return time.perf_counter() - started


def peak_memory_mib() -> float | None:
    """MiB that this process held at most, libraries included; None: the system does not say."""
    status = Path("/proc/self/status")
    if status.is_file():  # getrusage would count what the parent held when it forked
        line = next(row for row in status.read_text().splitlines() if row.startswith("VmHWM:"))
        return int(line.split()[1]) / 1024
    try:
        import resource
    except ImportError:  # Windows
        return None
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20  # bytes on macOS
