"""Where the race's models look: measured once, from their weights, and kept."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from experiments.race import attention as looks
from experiments.race.attention import images, look, read_rows, table
from experiments.race.plan import RACE, Run, load_results
from experiments.race.report import write_report
from tests.race.conftest import SETTINGS, Fabricate, straight

from dabdetr.checkpoints.native import save_model
from dabdetr.config import load
from dabdetr.model.detector import build

RACED = ("detr", "conditional", "dab")


def race(fabricate: Fabricate, rung: str, ap: float) -> Path:
    """A finished run at 64 px, with random weights; its ladder's folder."""
    folder = fabricate(rung, straight(ap, 40 if rung.startswith("detr") else 10), size=64)
    run = folder / RACE / Run(rung, 64, 0).name
    names = tuple("0123456789")
    save_model(run / "best.safetensors", build(load(run / "config.yaml"), names))
    return folder


@pytest.fixture
def ladder(fabricate: Fabricate, monkeypatch: pytest.MonkeyPatch) -> Path:
    """DETR, Conditional and DAB with random weights at 64 px."""
    monkeypatch.setattr("experiments.race.attention.IMAGES", 6)
    torch.manual_seed(0)
    folder = Path()
    for rung in RACED:
        folder = race(fabricate, rung, 0.5)
    SETTINGS.save(folder)
    return folder


def test_rows_are_measured_once_and_outlive_the_weights(ladder: Path) -> None:
    results = load_results(ladder)
    rows = look(ladder, results, 64)
    assert [(row["rung"], row["part"]) for row in rows] == [
        (rung, part) for rung in RACED for part in ("position", "all")
    ]
    assert {row["objects"] for row in rows} != {"0"}
    for weights in ladder.glob("race/*/best.safetensors"):
        weights.unlink()
    assert look(ladder, results, 64) == rows == read_rows(ladder / "attention-64.csv")
    lines = table(rows)
    assert len(lines) == 1 + len(rows)
    assert all(len(line) == len(lines[0]) for line in lines)


def test_nothing_is_said_where_no_model_is_left(fabricate: Fabricate) -> None:
    folder = fabricate("dab", straight(0.5, 10))
    assert look(folder, load_results(folder), 96) == []
    assert not (folder / "attention-96.csv").exists()
    write_report(folder)
    assert "Where they look" not in (folder / "report.md").read_text()


def test_the_report_shows_objects_that_all_find(
    ladder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_report(ladder)
    report = (ladder / "report.md").read_text()
    assert "Where they look" in report
    assert not images(ladder, 64)  # with random weights nobody finds anything
    (ladder / "attention-64.csv").unlink()
    monkeypatch.setattr("experiments.race.attention.LEAST_IOU", 0.0)
    write_report(ladder)
    shown = images(ladder, 64)
    assert shown == ["attention-small-64.png", "attention-large-64.png"]
    assert all(f"]({name})" in (ladder / "report.md").read_text() for name in shown)


def test_a_single_object_is_shown_once(ladder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    every = looks._in_common
    monkeypatch.setattr(looks, "LEAST_IOU", 0.0)
    monkeypatch.setattr(looks, "_in_common", lambda *given: every(*given)[:1])
    write_report(ladder)
    assert images(ladder, 64) == ["attention-large-64.png"]


def test_detr_is_shown_at_its_best_rate(
    ladder: Path, fabricate: Fabricate, monkeypatch: pytest.MonkeyPatch
) -> None:
    race(fabricate, "detr-slow", 0.6)
    shown: list[str] = []
    monkeypatch.setattr("experiments.race.attention.Predictor", lambda path: path.parent.name)
    monkeypatch.setattr(
        "experiments.race.attention._measured", lambda weights, run, data: ROWS[run.member]
    )
    monkeypatch.setattr(
        "experiments.race.attention._in_common",
        lambda predictors, data: shown.extend(predictors) or [],
    )
    look(ladder, load_results(ladder), 64)
    assert shown == ["detr-slow-64-0", "conditional-64-0", "dab-64-0"]


ROWS = {rung: [{"rung": rung, "seed": "0", "part": "all"}] for rung in (*RACED, "detr-slow")}
