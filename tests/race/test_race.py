"""A race runs, goes on where it stopped, outlives a run that fails, and reports."""

from __future__ import annotations

import csv
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from experiments.race.backbone_pretraining import cell_labels
from experiments.race.plan import RACE, Settings, plan
from safetensors.torch import load_file
from typer.testing import CliRunner, Result

from dabdetr.cli import app
from dabdetr.compare.run import finished
from dabdetr.config import load
from dabdetr.data.loader import pad
from dabdetr.structures import Images, Targets

COMMAND = [sys.executable, "-W", "error", "-m", "experiments.race"]
PATHS = [str(Path(__file__).parents[2]), os.environ.get("PYTHONPATH", "")]
ENVIRONMENT = os.environ | {"PYTHONPATH": os.pathsep.join(filter(None, PATHS))}
TINY = [
    *("--rungs", "detr,dab-start", "--sizes", "64", "--seeds", "1", "--epochs", "1"),
    *("--detr-epochs", "1", "--body-steps", "2", "--device", "cpu", "--name", "first"),
    *("--set", "training.precision=fp32", "--set", "training.batch=4"),
    *("--set", "training.effective_batch=4", "--set", "model.queries.count=12"),
]
FOLDER = Path("runs", "ladder", "first")


@pytest.fixture(autouse=True)
def _own_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def run(*arguments: object, code: int = 0) -> Result:
    """The verb in this process; the races' runs are processes of their own."""
    done = CliRunner().invoke(app, ["ladder", *map(str, arguments)])
    assert done.exit_code == code, (done.stderr, done.exception)
    return done


@pytest.fixture(scope="module")
def raced(coco_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict]:
    """Where a race of two rungs was run as people run it, and what it printed."""
    root = tmp_path_factory.mktemp("raced")
    done = subprocess.run(
        [*COMMAND, "--data", str(coco_folder), *TINY, "--jobs", "2", "--json"],
        cwd=root, env=ENVIRONMENT, capture_output=True, text=True,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    return root, json.loads(done.stdout)


@pytest.fixture
def copy(raced: tuple[Path, dict]) -> dict:
    """The document of ``raced``, whose folder is copied to where this test may write."""
    shutil.copytree(raced[0], Path.cwd(), dirs_exist_ok=True)
    return raced[1]


def test_a_race_and_its_report(copy: dict) -> None:
    document = copy
    assert document["failed"] == []
    assert document["unfinished"] == []
    assert sorted(document["order"]["64"]) == ["dab-start", "detr"]
    assert {claim["verdict"] for claim in document["claims"]} == {"not enough runs"}
    runs = sorted((FOLDER / "race").iterdir())
    assert [path.name for path in runs] == ["dab-start-64-0", "detr-64-0"]
    for path in runs:
        config = load(path / "config.yaml")
        assert (config.image.size, config.training.batch, config.model.queries.count) == (64, 4, 12)
        (row,) = csv.DictReader((path / "results.csv").read_text().splitlines())
        assert float(row["cpu_seconds"]) > 0
        assert float(row["AP"]) >= 0
        assert (path / "best.safetensors").exists()
    first, second = ((path / "config.yaml").read_text() for path in runs)
    assert "start: bodies/body-64.safetensors" in first
    assert "start: bodies/body-64.safetensors" in second
    body = load_file(FOLDER / "bodies" / "body-64.safetensors")
    assert all(key.startswith("backbone.") for key in body)
    seen = {path.name for path in FOLDER.iterdir()}
    assert {"ladder.yaml", "report.md", "table.csv", "epochs.csv", ".gitignore"} <= seen

    text = (FOLDER / "report.md").read_text()
    (FOLDER / "report.md").unlink()
    run("--report", FOLDER, "--quiet")
    assert (FOLDER / "report.md").read_text() == text
    tracked = subprocess.run(
        f"git init -q . && git add {FOLDER} && git ls-files",
        shell=True, capture_output=True, text=True, check=True,
    ).stdout  # fmt: skip
    assert "dab-start-64-0/results.csv" in tracked
    assert "dab-start-64-0/config.yaml" in tracked
    assert not any(word in tracked for word in ("safetensors", "ckpt", "logs/", "run.yaml"))

    # Nothing is run twice; what is added is.
    before = {path: (path / "last.ckpt").stat().st_mtime_ns for path in runs}
    said = run("--resume", FOLDER, "--rungs", "detr,no-size").stderr
    assert "2 runs, 1 of them finished before" in said
    assert before == {path: (path / "last.ckpt").stat().st_mtime_ns for path in runs}
    assert "no-size-64-0" in {path.name for path in (FOLDER / "race").iterdir()}
    assert "| no-size |" in (FOLDER / "report.md").read_text()


def records(folder: Path) -> list[str]:
    path = folder / "results.csv"
    return path.read_text().splitlines()[1:] if path.exists() else []


def test_an_interrupted_race_goes_on(coco_folder: Path) -> None:
    options = [*TINY]
    options[options.index("--rungs") + 1] = "detr"  # each run costs a process
    options[options.index("--epochs") + 1] = "6"
    options[options.index("--detr-epochs") + 1] = "6"
    begun = subprocess.Popen(
        [*COMMAND, "--data", str(coco_folder), *options, "--start", "none"],
        stderr=subprocess.PIPE, text=True, env=ENVIRONMENT,
    )  # fmt: skip
    stopped = FOLDER / "race" / "detr-64-0"
    while begun.poll() is None and len(records(stopped)) < 2:
        time.sleep(0.02)
    begun.send_signal(signal.SIGTERM)
    _, stderr = begun.communicate(timeout=120)
    assert begun.returncode == 130, stderr
    assert f"python -m experiments.race --resume {FOLDER}" in stderr
    assert "Traceback" not in stderr
    settings = Settings.load(FOLDER)
    assert not any(finished(FOLDER / RACE / task.name) for task in plan(settings))
    rows = records(stopped)
    assert 2 <= len(rows) < 6

    document = json.loads(run("--resume", FOLDER, "--json").stdout)
    assert document["failed"] == []
    assert document["unfinished"] == []
    again = records(stopped)
    assert len(again) == 6
    assert again[: len(rows) - 1] == rows[:-1]  # gone on with: not even the seconds changed
    assert "resuming" in (FOLDER / "logs" / "detr-64-0.txt").read_text()


def test_a_run_that_fails_leaves_the_others(copy: dict) -> None:
    """One run's checkpoints are all broken; the other was killed before it had any."""
    blocked = FOLDER / "race" / "detr-64-0"
    (blocked / "results.csv").unlink()
    for name in ("last.ckpt", "previous.ckpt"):
        (blocked / name).write_bytes(b"cut short")
    (FOLDER / "race" / "dab-start-64-0" / "results.csv").unlink()
    (FOLDER / "race" / "dab-start-64-0" / "last.ckpt").unlink()
    (FOLDER / "race" / "dab-start-64-0" / "previous.ckpt").unlink(missing_ok=True)
    done = run("--resume", FOLDER, "--json", code=1)
    assert json.loads(done.stdout)["failed"] == ["detr-64-0"]
    assert "detr-64-0 failed: error: " in done.stderr
    assert "not a readable checkpoint" in done.stderr
    assert json.loads(done.stdout)["unfinished"] == ["detr-64-0"]
    assert finished(FOLDER / RACE / plan(Settings.load(FOLDER))[1].name)


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        (["--rungs", "dap"], "there is no rung 'dap'"),
        (["--sizes", "large"], "--sizes expects whole numbers like 96,160; got 'large'"),
        (["--data", "nowhere"], "there is no data folder nowhere"),
        (["--set", "model.heads=5"], "not a multiple of model.heads 5"),
        (["--set", "training.seed=5"], "is for --seeds to say"),
        (["--resume", "nowhere"], "there is no ladder in nowhere"),
        (["--report", "nowhere"], "there is no comparison in nowhere"),
        (["--report", "nowhere", "--epochs", "3"], "--report trains nothing"),
        (["--short", "--sizes", "64"], "--short has rungs and a size of its own"),
        (["--epochs", "9", "--detr-epochs", "3"], "detr_epochs is 3, fewer than the 9 epochs"),
    ],
)
def test_bad_input_is_one_sentence_and_leaves_nothing(options: list[str], sentence: str) -> None:
    done = run(*options, code=2)
    assert sentence in done.stderr
    assert done.stderr.startswith("note: `dabdetr ladder` is")
    assert len(done.stderr.strip().splitlines()) == 2
    assert not Path("runs").exists()


def test_what_is_begun_stays_as_it_is() -> None:
    FOLDER.mkdir(parents=True)
    Settings().save(FOLDER)
    done = run("--resume", FOLDER, "--epochs", "5", code=2)
    assert "epochs cannot change in a race that was begun" in done.stderr
    done = run("--name", "first", "--sizes", "64", code=2)
    assert "exists and is not overwritten" in done.stderr
    assert f"--resume {FOLDER}" in done.stderr


def test_cells_are_named_by_the_smallest_object_around_them() -> None:
    """Two images, 4 by 4 cells of 8 pixels; the second fills the upper left quarter."""
    images: Images = pad([torch.zeros(3, 32, 32), torch.zeros(3, 16, 16)])
    boxes = torch.tensor([[0.5, 0.5, 1.0, 1.0], [0.25, 0.5, 0.5, 0.5], [0.75, 0.5, 0.5, 1.0]])
    targets = Targets(torch.tensor([3, 1, 2]), boxes, (2, 1))
    labels = cell_labels(images, targets, (4, 4), classes=9)
    assert labels[0].tolist() == [[3, 3, 3, 3], [1, 1, 3, 3], [1, 1, 3, 3], [3, 3, 3, 3]]
    assert labels[1].tolist() == [[9, 2, -1, -1], [9, 2, -1, -1], [-1] * 4, [-1] * 4]


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_the_first_four_come_in_order() -> None:
    """It exits with 1 where they do not."""
    document = json.loads(run("--short", "--jobs", "2", "--device", "cpu", "--json").stdout)
    assert document["order"]["96"][:2] == ["detr", "dab"]
