"""Comparisons that nobody trained: their records are made up, so that sums can be checked."""

from __future__ import annotations

import csv
from collections.abc import Callable, Sequence
from pathlib import Path

import pytest

from dabdetr.compare.plan import RUNS, Settings
from dabdetr.presets import preset

Fabricate = Callable[..., Path]


@pytest.fixture(autouse=True)
def _own_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


@pytest.fixture
def fabricate(tmp_path: Path) -> Fabricate:
    """Writes a run's config and record into a comparison's folder, and returns that."""

    def write(member: str, aps: Sequence[float | None], seed: int = 0, epochs: int = 0) -> Path:
        run = tmp_path / RUNS / f"{member}-{seed}"
        run.mkdir(parents=True)
        epochs = epochs or len(aps)
        changes = [("name", member), ("training.seed", seed), ("training.epochs", epochs)]
        preset("dab-detr-nano").changed(changes).save(run / "config.yaml")
        with (run / "results.csv").open("w") as file:
            writer = csv.writer(file)
            writer.writerow(["epoch", "seconds", "AP", "AP50", "APS", "cpu_seconds", "memory_mib"])
            for number, ap in enumerate(aps, start=1):
                measured = ("", "", "") if ap is None else (ap, 2 * ap, ap / 2)
                writer.writerow([number, 60, *measured, 30, 500])
        Settings(data="cells", members=("ours", "other")).save(tmp_path)
        return tmp_path

    return write
