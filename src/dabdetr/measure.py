"""Time of a call, the memory and processors of this process, and the machine."""

from __future__ import annotations

import os
import platform
import time
from collections.abc import Callable
from pathlib import Path

from dabdetr.text import counted


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


def processor_name() -> str:
    """The processor's own name, or its kind where the system does not tell it."""
    info = Path("/proc/cpuinfo")
    lines = info.read_text().splitlines() if info.is_file() else []
    names = (line.partition(":")[2].strip() for line in lines if line.startswith("model name"))
    return next(names, platform.processor() or platform.machine())


def machine() -> str:
    """Processor, number of cores and system."""
    return f"{processor_name()}, {counted(os.cpu_count() or 1, 'core')}, {platform.system()}"
