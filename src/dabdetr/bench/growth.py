"""How a model's time and memory grow, each place of an axis measured in a process of its own."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from dabdetr.bench.choice import Row
from dabdetr.bench.plan import Plan
from dabdetr.bench.processes import Failed, Process
from dabdetr.bench.scaling import AXES

ROUNDS = 3
"""Timed runs at every place."""


@dataclass(frozen=True)
class Point:
    """One place of an axis: seconds, MB that the process held at most, or what went wrong."""

    value: int
    seconds: float | None = None
    memory: float | None = None
    problem: str = ""


@dataclass(frozen=True)
class Growth:
    """Axis → its points; operations of the model on an image; precision → peak of the machine.

    Operations are those of matrix products and convolutions; peaks are operations a second.
    """

    points: dict[str, tuple[Point, ...]]
    operations: float
    peaks: dict[str, float]

    def exponent(self, axis: str) -> float | None:
        """p of time ~ size^p, fitted to what was measured; None for less than two points."""
        known = [(each.value, each.seconds) for each in self.points[axis] if each.seconds]
        if len(known) < 2:
            return None
        xs = [AXES[axis].power * math.log(value) for value, _ in known]
        ys = [math.log(seconds) for _, seconds in known]
        mx, my = sum(xs) / len(xs), sum(ys) / len(ys)
        rise = sum((x - mx) * (y - my) for x, y in zip(xs, ys, strict=True))
        return rise / sum((x - mx) ** 2 for x in xs)

    def share(self, row: Row) -> float | None:
        """Achieved operations a second, of the peak in the same precision; None without a peak."""
        peak = self.peaks.get(row.contender.precision)
        return None if peak is None else self.operations / row.model / peak

    def to_dict(self) -> dict[str, Any]:
        """Plain values, ready for JSON."""
        axes = {
            axis: {
                "title": AXES[axis].title,
                "exponent": self.exponent(axis),
                "points": [asdict(each) for each in points],
            }
            for axis, points in self.points.items()
        }
        return {"axes": axes, "operations": self.operations, "peaks": self.peaks}


def grow(
    plan: Plan,
    device: str,
    images: Sequence[str],
    environment: Mapping[str, str],
    tell: Callable[[str], None],
) -> Growth:
    """Measure all axes; operations are the mean of the ``images``."""
    tell("measuring the peak of matrix products …")
    with Process(environment) as process:
        roof = process.ask("roofline", model=plan.model, images=list(images), device=device)
    points = {}
    for axis, what in AXES.items():
        tell(f"growth with {axis} …")
        places = (_point(plan.model, axis, value, device, environment) for value in what.values)
        points[axis] = tuple(places)
    return Growth(points, roof["operations"], roof["peaks"])


def _point(model: str, axis: str, value: int, device: str, environment: Mapping[str, str]) -> Point:
    with Process(environment) as process:
        try:
            seconds = process.ask(
                "grow", model=model, axis=axis, value=value, device=device, rounds=ROUNDS
            )
            return Point(value, seconds, process.ask("memory"))
        except Failed as error:
            return Point(value, problem=str(error))
