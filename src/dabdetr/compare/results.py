"""What runs recorded, read from their folders alone: curves, and means over seeds."""

from __future__ import annotations

import csv
import io
import math
import statistics
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import accumulate
from pathlib import Path
from typing import Any

from scipy.stats import t as student

from dabdetr.config import Config, load
from dabdetr.files import read_regular
from dabdetr.text import reason

Point = tuple[float, float]


@dataclass(frozen=True)
class Spread:
    """Mean over seeds, and the standard deviation of a single one; ``None`` of fewer than two."""

    mean: float
    deviation: float | None
    count: int

    @classmethod
    def of(cls, values: Sequence[float]) -> Spread:
        """Of at least one value."""
        several = len(values) > 1
        deviation = statistics.stdev(values) if several else None
        return cls(statistics.fmean(values), deviation, len(values))

    @property
    def error(self) -> float | None:
        """Standard error of the mean."""
        return None if self.deviation is None else self.deviation / math.sqrt(self.count)

    @property
    def margin(self) -> float:
        """Half of the mean's 95 % interval: 4.3 standard errors of three seeds, 2.8 of five."""
        return float(student.ppf(0.975, self.count - 1)) * (self.error or 0.0)

    def shown(self, digits: int = 3) -> str:
        """``mean ± deviation``."""
        mean = f"{self.mean:.{digits}f}"
        return mean if self.deviation is None else f"{mean} ± {self.deviation:.{digits}f}"


@dataclass(frozen=True)
class Result:
    """One run's record: ``rows`` as in results.csv, a value that was not measured ``None``."""

    config: Config
    rows: tuple[dict[str, float | None], ...]

    @property
    def member(self) -> str:
        """Which of the compared models it is a run of."""
        return self.config.name

    @property
    def size(self) -> int:
        """Longer side of its images in pixels."""
        return self.config.image.max_size

    @property
    def seed(self) -> int:
        """Of its weights and images."""
        return self.config.training.seed

    @property
    def epochs(self) -> int:
        """Those it was to have."""
        return self.config.training.epochs

    @property
    def finished(self) -> bool:
        """Whether it had them all."""
        return bool(self.rows) and (self.rows[-1]["epoch"] or 0) >= self.epochs

    @property
    def tokens(self) -> int:
        """Of a square image, on the finest map."""
        return (self.size // self.config.model.backbone.strides[0]) ** 2

    def curve(self, column: str = "AP", over: str = "epoch") -> list[Point]:
        """(x, value) wherever the column was measured.

        ``over``  "epoch"; or "seconds" or "cpu_seconds" of training so far, validation left out
        """
        if over == "epoch":
            xs: Iterable[float] = (row["epoch"] or 0.0 for row in self.rows)
        else:
            xs = accumulate(row[over] or 0.0 for row in self.rows)
        pairs = zip(xs, (row.get(column) for row in self.rows), strict=True)
        return [(x, y) for x, y in pairs if y is not None]

    def at(self, epoch: float, column: str = "AP") -> float | None:
        """The last value measured up to ``epoch``."""
        values = [y for x, y in self.curve(column) if x <= epoch]
        return values[-1] if values else None

    def end(self, column: str = "AP") -> float | None:
        """The last value of all."""
        return self.at(math.inf, column)


def epochs_to(curve: Sequence[Point], level: float) -> float | None:
    """Where the curve first is at ``level``, on straight lines from (0, 0); None: nowhere."""
    x0, y0 = 0.0, 0.0
    for x, y in curve:
        if y >= level:
            return x0 + (x - x0) * (level - y0) / (y - y0) if y > y0 else x
        x0, y0 = x, y
    return None


@dataclass(frozen=True)
class Results:
    """All finished runs of a comparison; those that are not, by name."""

    finished: tuple[Result, ...]
    unfinished: tuple[str, ...]

    @classmethod
    def load(cls, runs: Path, order: Sequence[str] = ()) -> Results:
        """Read the run folders in ``runs``; ValueError where none is finished.

        Members are in ``order``, others after them.
        """
        if not runs.is_dir():
            raise FileNotFoundError(
                f"there is nothing compared in {runs.parent}: expected {runs.name}/ in it"
            )
        done, others = [], []
        for run in sorted(path for path in runs.iterdir() if path.is_dir()):
            result = read_result(run)
            if result is not None and result.finished:
                done.append(result)
            elif not run.name.startswith("."):
                others.append(run.name)
        if not done:
            raise ValueError(f"no run in {runs} is finished; there is nothing to report")
        place = {name: index for index, name in enumerate(order)}
        done.sort(key=lambda r: (r.size, place.get(r.member, len(place)), r.member, r.seed))
        return cls(tuple(done), tuple(others))

    @property
    def sizes(self) -> list[int]:
        """Longer sides of images, small to large."""
        return sorted({result.size for result in self.finished})

    def members(self, size: int | None = None) -> list[str]:
        """Those with a finished run (at ``size``), in their order."""
        return list(dict.fromkeys(r.member for r in self.finished if size in (None, r.size)))

    def of(self, member: str, size: int | None = None) -> list[Result]:
        """One for each seed."""
        return [r for r in self.finished if r.member == member and size in (None, r.size)]

    def ends(self, member: str, size: int | None = None, column: str = "AP") -> Spread | None:
        """The last value of every seed; None where it was not measured."""
        values = [v for r in self.of(member, size) if (v := r.end(column)) is not None]
        return Spread.of(values) if values else None

    def differences(self, one: str, other: str, column: str = "AP") -> Spread | None:
        """Last values of ``one`` minus those of ``other`` with the same seed."""
        ends = [{r.seed: r.end(column) for r in self.of(member)} for member in (one, other)]
        pairs = [(ends[0][seed], ends[1][seed]) for seed in ends[0] if seed in ends[1]]
        values = [a - b for a, b in pairs if a is not None and b is not None]
        return Spread.of(values) if values else None


CLOCKS = ("epoch", "seconds", "cpu_seconds")
"""Columns that every row has."""
FINITE = (*CLOCKS, "AP", "AP50", "APS", "memory_mib")
"""Columns that means are taken of."""


def read_result(run: Path) -> Result | None:
    """The record in a run folder, None where there is none yet; ValueError where it is damaged."""
    path = run / "results.csv"
    if not (run / "config.yaml").is_file() or not path.is_file():
        return None
    config = load(run / "config.yaml")
    try:
        rows = csv.DictReader(io.StringIO(read_regular(path).decode()), strict=True)
        return Result(config, tuple(_measured(row, rows.line_num) for row in rows))
    except (ValueError, csv.Error) as error:
        raise ValueError(
            f"{path} is no record of a training ({reason(error)}); put the file back, or remove "
            f"{run}, which --resume trains again"
        ) from None


def _measured(row: dict[Any, Any], line: int) -> dict[str, float | None]:
    """The numbers of a row; ValueError for what is none."""
    if None in row or None in row.values():
        raise ValueError(f"line {line} has more or fewer values than the header")
    for name in CLOCKS:
        if not row.get(name):
            raise ValueError(f"line {line} has no {name}")
    values = {name: float(value) if value else None for name, value in row.items()}
    for name in FINITE:
        if not math.isfinite(values.get(name) or 0.0):
            raise ValueError(f"{name} of line {line} is {values[name]}")
    return values
