"""Results of runs, read from their folders: curves, and means over seeds."""

from __future__ import annotations

import csv
import io
import math
import statistics
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import accumulate
from pathlib import Path
from typing import Any, Self

from scipy.stats import t as student

from dabdetr.config import Config, load
from dabdetr.files import read_regular
from dabdetr.text import reason

Point = tuple[float, float]


@dataclass(frozen=True)
class Spread:
    """Mean over seeds, and the standard deviation of a single seed; None for fewer than two."""

    mean: float
    deviation: float | None
    count: int

    @classmethod
    def of(cls, values: Sequence[float]) -> Spread:
        """The spread of at least one value."""
        several = len(values) > 1
        deviation = statistics.stdev(values) if several else None
        return cls(statistics.fmean(values), deviation, len(values))

    @property
    def error(self) -> float | None:
        """Standard error of the mean."""
        return None if self.deviation is None else self.deviation / math.sqrt(self.count)

    @property
    def margin(self) -> float:
        """Half of the mean's 95 % interval: 4.3 standard errors for three seeds, 2.8 for five."""
        return float(student.ppf(0.975, self.count - 1)) * (self.error or 0.0)

    def shown(self, digits: int = 3) -> str:
        """``mean ± deviation``."""
        mean = f"{self.mean:.{digits}f}"
        return mean if self.deviation is None else f"{mean} ± {self.deviation:.{digits}f}"


@dataclass(frozen=True)
class Result:
    """One run's record; ``rows`` as in results.csv, with None for values not measured."""

    config: Config
    rows: tuple[dict[str, float | None], ...]

    @property
    def member(self) -> str:
        """Name of the compared model."""
        return self.config.name

    @property
    def seed(self) -> int:
        """Seed of the weights and of the images' order and augmentation."""
        return self.config.training.seed

    @property
    def epochs(self) -> int:
        """Number of planned epochs."""
        return self.config.training.epochs

    @property
    def finished(self) -> bool:
        """Whether all epochs have run."""
        return bool(self.rows) and (self.rows[-1]["epoch"] or 0) >= self.epochs

    def curve(self, column: str = "AP", over: str = "epoch") -> list[Point]:
        """(x, value) for each epoch with a value in the column.

        ``over`` is x: "epoch", or "seconds" or "cpu_seconds" of training so far without validation.
        """
        if over == "epoch":
            xs: Iterable[float] = (row["epoch"] or 0.0 for row in self.rows)
        else:
            xs = accumulate(row[over] or 0.0 for row in self.rows)
        pairs = zip(xs, (row.get(column) for row in self.rows), strict=True)
        return [(x, y) for x, y in pairs if y is not None]

    def at(self, epoch: float, column: str = "AP") -> float | None:
        """The last value up to ``epoch``; None if there is none."""
        values = [y for x, y in self.curve(column) if x <= epoch]
        return values[-1] if values else None

    def end(self, column: str = "AP") -> float | None:
        """The last value; None if there is none."""
        return self.at(math.inf, column)


@dataclass(frozen=True)
class Results:
    """All finished runs of a comparison, and the names of the unfinished ones."""

    finished: tuple[Result, ...]
    unfinished: tuple[str, ...]

    @classmethod
    def load(cls, runs: Path, order: Sequence[str] = ()) -> Self:
        """Read the run folders in ``runs``; ValueError if no run is finished.

        Members are sorted as in ``order``, others follow.
        """
        if not runs.is_dir():
            raise FileNotFoundError(
                f"there is no comparison in {runs.parent}: expected {runs.name}/ in it"
            )
        done, unfinished = [], []
        for run in sorted(path for path in runs.iterdir() if path.is_dir()):
            result = read_result(run)
            if result is not None and result.finished:
                done.append(result)
            elif not run.name.startswith("."):
                unfinished.append(run.name)
        if not done:
            raise ValueError(f"no run in {runs} is finished, so there is nothing to report yet")
        place = {name: index for index, name in enumerate(order)}
        done.sort(key=lambda r: (place.get(r.member, len(place)), r.member, r.seed))
        return cls(tuple(done), tuple(unfinished))

    def of(self, member: str) -> list[Result]:
        """The member's finished runs, one for each seed."""
        return [r for r in self.finished if r.member == member]

    def ends(self, member: str, column: str = "AP") -> Spread | None:
        """The spread of the last values over seeds; None if no run measured any."""
        values = [v for r in self.of(member) if (v := r.end(column)) is not None]
        return Spread.of(values) if values else None

    def differences(self, one: str, other: str) -> Spread | None:
        """The spread of last APs of ``one`` minus those of ``other`` with the same seed."""
        ends = [{r.seed: r.end() for r in self.of(member)} for member in (one, other)]
        pairs = [(ends[0][seed], ends[1][seed]) for seed in ends[0] if seed in ends[1]]
        values = [a - b for a, b in pairs if a is not None and b is not None]
        return Spread.of(values) if values else None


CLOCKS = ("epoch", "seconds", "cpu_seconds")
"""Columns that must have a value in every row."""
FINITE = (*CLOCKS, "AP", "AP50", "APS", "memory_mib")
"""Columns of which means are taken and plotted: no value may be as large as ``MOST``."""
MOST = 1e12
"""Above every number of a training; plots overflow at far larger ones."""


def read_result(run: Path) -> Result | None:
    """The record in a run folder; None if there is none yet, ValueError if it is damaged."""
    path = run / "results.csv"
    if not (run / "config.yaml").is_file() or not path.is_file():
        return None
    config = load(run / "config.yaml")
    try:
        rows = csv.DictReader(io.StringIO(read_regular(path).decode()), strict=True)
        return Result(config, tuple(_measured(row, rows.line_num) for row in rows))
    except (ValueError, csv.Error) as error:
        raise ValueError(
            f"{path} is not a valid record of a training ({reason(error)}); restore the file, or "
            f"remove {run}, so that --resume trains it again"
        ) from None


def _measured(row: dict[Any, Any], line: int) -> dict[str, float | None]:
    """The numbers of a row; ValueError if one is missing or invalid."""
    if None in row or None in row.values():
        raise ValueError(f"line {line} has more or fewer values than the header")
    for name in CLOCKS:
        if not row.get(name):
            raise ValueError(f"line {line} has no {name}")
    values = {name: float(value) if value else None for name, value in row.items()}
    for name in FINITE:
        if not abs(values.get(name) or 0.0) < MOST:  # nor NaN
            raise ValueError(f"{name} of line {line} is {values[name]}")
    return values
