"""Both sides in turn, each in a process of its own, as its users have it.

Only ratios are results: peer ÷ ours of the same round, the median of all rounds; above 1 we are
faster. A round times one side right after the other, and who starts alternates.
"""

from __future__ import annotations

import sys
import tempfile
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from statistics import median
from typing import Any

from benchmarks.sides import KINDS, LOADERS, SMOKE, Workload, make_weights, published, require_equal
from benchmarks.worker import start
from dabdetr.bench.worker import Process

SIZES = ((480, 640), (800, 1066))
TASKS = {"forward": 1, "training step": 2}
"""What is done, with how many images."""
BARS = {
    ("forward", "fp32"): (1.4, 1.8),
    ("forward", "best"): (3.5, 6.0),
    ("training step", "fp32"): (1.25, 1.6),
    ("training step", "best"): (2.5, 4.5),
    ("training step", "lean"): None,
}
"""Bar and goal of a task done in a way, always against the peer's fp32; "lean" is for its memory.
"""
MEMORY = (0.6, 0.4)
"""Bar and goal of a training step's peak: ours ÷ peer."""


@dataclass(frozen=True)
class Case:
    """One comparison: seconds of each side round by round, MiB held at most, what ours told."""

    kind: str
    task: str
    height: int
    width: int
    way: str
    rounds: list[dict[str, float]]
    peak: dict[str, float]
    told: list[str]

    @property
    def ratios(self) -> list[float]:
        """Peer ÷ ours, sorted."""
        return sorted(each["peer"] / each["ours"] for each in self.rounds)

    @property
    def ratio(self) -> float:
        """Their median."""
        return median(self.ratios)

    def seconds(self, side: str) -> float:
        """The median of one side."""
        return median(each[side] for each in self.rounds)


def compare(
    task: str,
    kind: str,
    rounds: int = 7,
    threads: int = 2,
    smoke: bool = False,
    sizes: tuple[tuple[int, int], ...] = SIZES,
    ways: Sequence[str] = ("fp32", "best", "lean"),
) -> list[dict[str, Any]]:
    """Every case of a task and a member of the family, as plain values."""
    work = replace(SMOKE, kind=kind) if smoke else Workload(kind=kind)
    with tempfile.TemporaryDirectory() as folder:
        weights = Path(folder)
        make_weights(weights, work)
        small = work if smoke else replace(work, height=224, width=288)
        loaded = [load(weights) for load in LOADERS.values()]
        require_equal(*loaded, small)
        del loaded
        if not smoke and not published(weights, kind):
            raise AssertionError(f"what is timed is not the model of {KINDS[kind].preset}")
        found = []
        for size in ((0, 0),) if smoke else sizes:
            for way in ways:
                if (task, way) not in BARS:
                    continue
                workers = {side: start(side, kind, weights, smoke, threads) for side in LOADERS}
                try:
                    found.append(asdict(_race(workers, kind, task, size, way, rounds)))
                finally:
                    for worker in workers.values():
                        worker.close()
        return found


def _race(
    workers: dict[str, Process],
    kind: str,
    task: str,
    size: tuple[int, int],
    way: str,
    rounds: int,
) -> Case:
    """One case, after a call of each side to warm up."""
    height, width = size
    job = {"task": task, "images": TASKS[task], "height": height, "width": width, "way": way}
    told = {side: worker.ask("prepare", **job) for side, worker in workers.items()}
    seconds = []
    for turn in range(rounds + 1):
        order = list(workers) if turn % 2 else list(workers)[::-1]
        seconds.append({side: workers[side].ask("run") for side in order})
    peak = {}
    for side, worker in workers.items():
        held = worker.ask("memory_mib")
        peak[side] = held["peak"]
        peak[f"{side} libraries"] = held["libraries"]
    case = Case(kind, task, height, width, way, seconds[1:], peak, told["ours"])
    print(
        f"{kind}, {task}, {width}x{height}, {way}: {case.ratio:.2f} "
        f"(ours {case.seconds('ours'):.3f} s, peer {case.seconds('peer'):.3f} s) "
        f"{'; '.join(case.told)}",
        file=sys.stderr,
    )
    return case
