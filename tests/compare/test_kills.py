"""A comparison that is killed or stopped anywhere goes on to the same table."""

from __future__ import annotations

import csv
import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from dabdetr.compare.plan import RUNS
from dabdetr.compare.results import read_result
from dabdetr.compare.run import finished
from dabdetr.config import Config
from dabdetr.runs import locked

if sys.platform == "win32":
    pytest.skip("processes are killed by signals", allow_module_level=True)
COMMAND = [sys.executable, "-c", "from dabdetr.cli import main; main()", "compare"]
KILLS = int(os.environ.get("DABDETR_KILLS", "12"))
SEED = os.environ.get("DABDETR_SEED", "0")


def start(place: Path, *words: object) -> subprocess.Popen[str]:
    """The verb in a process of its own."""
    return subprocess.Popen(
        [*COMMAND, *map(str, words)],
        cwd=place,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
        env=os.environ | {"OMP_NUM_THREADS": "1"},
    )


def begin(place: Path, data: Path, name: str, *words: object) -> subprocess.Popen[str]:
    given = ("a.yaml", "b.yaml", "--data", data, "--name", name, "--device", "cpu", *words)
    return start(place, *given)


def go_on(place: Path, name: str) -> subprocess.Popen[str]:
    return start(place, "--resume", f"runs/compare/{name}", "--device", "cpu")


@pytest.fixture
def place(tiny_config: Config, tmp_path: Path) -> Path:
    """A folder with two configs."""
    for name, count in (("a", 11), ("b", 12)):
        changes = [f"model.queries.count={count}", "training.checkpoint_minutes=0"]
        tiny_config.override(changes).save(tmp_path / f"{name}.yaml")
    return tmp_path


def wait_for(path: Path) -> None:
    until = time.monotonic() + 120
    while not path.exists():
        assert time.monotonic() < until, path
        time.sleep(0.02)


def said(process: subprocess.Popen[str]) -> tuple[int, str]:
    """Exit code and what stood on stderr."""
    return process.wait(300), process.communicate()[1] or ""


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="needs /proc")
def test_trainings_of_a_killed_comparison_stop_by_themselves(
    place: Path, coco_folder: Path
) -> None:
    process = begin(place, coco_folder, "cut", "--seeds", 1, "--epochs", 500)
    folder = place / "runs" / "compare" / "cut"
    wait_for(folder / RUNS / "a-0" / "last.ckpt")
    (training,) = Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split()
    os.kill(int(training), signal.SIGSTOP)
    process.kill()
    process.communicate()
    try:
        with pytest.raises(ValueError, match="another process is at work"), locked(folder):
            pass
    finally:
        os.kill(int(training), signal.SIGCONT)
    until = time.monotonic() + 60
    while not free(folder):
        assert time.monotonic() < until
    assert (folder / RUNS / "a-0" / "last.ckpt").exists()
    assert not finished(folder / RUNS / "a-0")


def free(folder: Path) -> bool:
    try:
        with locked(folder):
            return True
    except ValueError:
        return False


def table(folder: Path) -> list[Any]:
    """Without times and memory, which are never twice the same."""
    rows = list(csv.DictReader((folder / "table.csv").read_text().splitlines()))
    return [{k: v for k, v in row.items() if k not in ("minutes", "memory MiB")} for row in rows]


def curves(folder: Path) -> dict[str, list[Any]]:
    """AP and losses of all epochs of all runs."""
    found = {}
    for run in sorted((folder / RUNS).iterdir()):
        if (result := read_result(run)) is not None:
            columns = ("epoch", "AP", "AP50", "loss", "grad_norm")
            found[run.name] = [[row.get(column) for column in columns] for row in result.rows]
    return found


@pytest.mark.slow
@pytest.mark.timeout(3000)
def test_killed_and_stopped_at_random_until_it_ends(place: Path, coco_folder: Path) -> None:
    options = ("--seeds", 1, "--epochs", 2)
    assert said(begin(place, coco_folder, "whole", *options))[0] == 0
    whole = place / "runs" / "compare" / "whole"
    rng, kills, number = random.Random(SEED), 0, 0
    while kills < KILLS:
        number += 1
        name = f"cut-{number}"
        folder = whole.with_name(name)
        code = -1
        while code != 0:
            begun = folder.exists()
            process = go_on(place, name) if begun else begin(place, coco_folder, name, *options)
            try:
                _, text = process.communicate(timeout=rng.uniform(0.5, 30))
                code = process.returncode
                if not (code == 2 and "another process is at work" in text):
                    assert code == 0, text
            except subprocess.TimeoutExpired:
                kills += 1
                process.send_signal(rng.choice((signal.SIGKILL, signal.SIGINT, signal.SIGTERM)))
                process.communicate()
                assert process.returncode in (-9, 130, 0, -2, -15), process.returncode
        assert table(folder) == table(whole)
        assert curves(folder) == curves(whole)
    print(f"{kills} kills of {number} comparisons")
