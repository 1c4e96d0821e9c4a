"""Time jobs in turn, and put what came out into rows of a table."""

from __future__ import annotations

import gc
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from statistics import median
from typing import Any

from dabdetr.measure import seconds as timed

Job = Callable[[], object]


@dataclass(frozen=True)
class Row:
    """One finding. ``bar`` and ``goal`` are least values, or greatest ones where ``most``."""

    what: str
    value: float
    unit: str = "×"
    bar: float | None = None
    goal: float | None = None
    most: bool = False
    detail: str = ""

    @property
    def verdict(self) -> str:
        """Whether the goal, or at least the bar, is reached."""
        for name, limit in (("goal", self.goal), ("bar", self.bar)):
            if limit is not None and (self.value <= limit if self.most else self.value >= limit):
                return f"{name} met"
        return "–" if self.bar is None else "missed"


def alternate(jobs: dict[str, Job], rounds: int, warmup: int = 1) -> list[dict[str, float]]:
    """Seconds of each job in every round; who starts a round alternates."""
    seconds = []
    for turn in range(rounds + warmup):
        order = list(jobs) if turn % 2 else list(jobs)[::-1]
        seconds.append({name: _seconds(jobs[name]) for name in order})
    return seconds[warmup:]


def ratio(rounds: Sequence[dict[str, float]], slow: str, fast: str) -> float:
    """How many times as long ``slow`` took as ``fast``: the median over rounds."""
    return median(each[slow] / each[fast] for each in rounds)


def typical(rounds: Sequence[dict[str, float]], name: str) -> float:
    """Median seconds of one job."""
    return median(each[name] for each in rounds)


def plain(rows: Sequence[Row]) -> list[dict[str, Any]]:
    """Rows as plain values, verdicts included."""
    return [asdict(row) | {"verdict": row.verdict} for row in rows]


def table(rows: Sequence[Row]) -> str:
    """Rows in Markdown."""
    lines = ["| what | measured | bar | goal | | |", "| --- | --- | --- | --- | --- | --- |"]
    for row in rows:
        limits = ["–" if v is None else f"{v:g} {row.unit}" for v in (row.bar, row.goal)]
        cells = (row.what, f"{row.value:.2f} {row.unit}", *limits, row.verdict, row.detail)
        lines.append("| " + " | ".join(cells) + " |")
    return "\n".join(lines)


def _seconds(job: Job) -> float:
    gc.collect()
    return timed(job)
