"""Races of runs that nobody trained: their records are made up, so that sums can be checked."""

from __future__ import annotations

import csv
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
sys.path.insert(0, str(ROOT))  # before any test of this folder is imported

from experiments.race.plan import RACE, Run, Settings, config_of  # noqa: E402

Fabricate = Callable[..., Path]
SETTINGS = Settings(epochs=10, detr_epochs=40, start="none")


@pytest.fixture
def fabricate(tmp_path: Path) -> Fabricate:
    """Writes a run's config and record into a race's folder, and returns that."""

    def write(
        rung: str,
        aps: Sequence[float | None],
        seed: int = 0,
        size: int = 96,
        small: float = 0.5,
        overrides: Sequence[str] = (),
    ) -> Path:
        task = Run(rung, size, seed)
        run = tmp_path / RACE / task.name
        run.mkdir(parents=True)
        config_of(task, SETTINGS).override(overrides).save(run / "config.yaml")
        with (run / "results.csv").open("w") as file:
            writer = csv.writer(file)
            writer.writerow(["epoch", "seconds", "AP", "AP50", "APS", "cpu_seconds"])
            for number, ap in enumerate(aps, start=1):
                sizes = ("", "", "") if ap is None else (ap, min(1.0, 2 * ap), small * ap)
                writer.writerow([number, 60, *sizes, 30])
        return tmp_path

    return write


def straight(end: float, epochs: int) -> list[float]:
    """AP that rises by the same step in every epoch."""
    return [end * number / epochs for number in range(1, epochs + 1)]
