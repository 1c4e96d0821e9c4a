"""Run what is planned: each run a process of one thread and a normal run folder, resumed if begun.

A run that fails is told and leaves the others alone. An interrupt stops all so that they can go on.
"""

from __future__ import annotations

import csv
import os
import shutil
import subprocess
import sys
import time
from collections import deque
from collections.abc import Callable, Sequence
from pathlib import Path

from dabdetr.checkpoints.native import save_backbone
from dabdetr.compare.body import teach_body
from dabdetr.compare.plan import (
    BODIES,
    RACE,
    TAUGHT,
    Settings,
    Task,
    anywhere,
    body_file,
    common,
    config_of,
    data_at,
    plan,
)
from dabdetr.compare.rungs import RUNGS
from dabdetr.config import load
from dabdetr.data.layouts import open_data
from dabdetr.runs import RunFolder, locked
from dabdetr.training.options import Sources
from dabdetr.training.signals import stop_signals

LOGS = "logs"
COMMAND = (sys.executable, "-c", "from dabdetr.cli import main; main()", "train")
THREADS = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS")
UNTRACKED = "*.safetensors\n*.ckpt\n*.part\nrun.yaml\nrace/*/curves.png\nlogs/\n.*.*\n"
"""What version control should leave: with this file in it, a ladder's folder can be added whole."""

Tell = Callable[[str], None]


def check(settings: Settings) -> None:
    """Raise, before anything is written, for data or overrides that some run could not use."""
    for size in settings.sizes:
        data = Sources(data=data_at(settings.data, size))
        if data.open()[1] is None:
            raise ValueError(f"{settings.data} has no val split, and a race is measured on it")
    for task in plan(settings):
        config_of(task, settings)


def begin(project: Path, name: str | None, settings: Settings) -> Path:
    """A new folder for a ladder; without ``name`` the first free ``ladder-1``, ``ladder-2`` …"""
    again = f"dabdetr ladder --resume {project / str(name)}"
    remedy = f"choose another --name, or go on with it: {again}"
    with RunFolder(project, name, "ladder", remedy) as folder:
        settings.save(folder.path)
    return folder.path


def finished(folder: Path, task: Task) -> bool:
    """Whether the run's record reaches its last epoch."""
    run = folder / RACE / task.name
    if not (run / "results.csv").is_file() or not (run / "config.yaml").is_file():
        return False
    with (run / "results.csv").open() as file:
        rows = list(csv.DictReader(file))
    return bool(rows) and int(rows[-1]["epoch"]) >= load(run / "config.yaml").training.epochs


def race(
    tasks: Sequence[Task], settings: Settings, folder: Path, jobs: int, device: str, tell: Tell
) -> list[str]:
    """Do what is not finished of ``tasks``, ``jobs`` at a time; the names of those that failed."""
    for name in (RACE, LOGS, BODIES):
        (folder / name).mkdir(parents=True, exist_ok=True)
    (folder / ".gitignore").write_text(UNTRACKED)
    todo = [task for task in tasks if not finished(folder, task)]
    tell(f"{len(tasks)} runs, {len(tasks) - len(todo)} of them finished before; in {folder}")
    with locked(folder), stop_signals():
        if settings.start == TAUGHT:
            for size in dict.fromkeys(task.size for task in todo):
                teach(settings, size, folder, tell)
        return _run_all(todo, settings, folder, jobs, device, tell)


def teach(settings: Settings, size: int, folder: Path, tell: Tell) -> None:
    """Leave the body that runs of this size start from, unless it is there."""
    path = body_file(folder, size)
    if path.exists():
        return
    tell(f"teaching the body for {size} px …")
    config = common(RUNGS["dab-deformable"], settings, size)  # it has every stride of the family
    config = config.override(["training.batch=32"])
    data = open_data(data_at(settings.data, size), "train")
    detector, share = teach_body(config, data, settings.body_steps)
    save_backbone(path, detector)
    tell(f"it names {share:.0%} of the cells of objects right")


def _run_all(
    todo: Sequence[Task], settings: Settings, folder: Path, jobs: int, device: str, tell: Tell
) -> list[str]:
    waiting, running, failed = deque(todo), {}, []
    try:
        while waiting or running:
            while waiting and len(running) < jobs:
                task = waiting.popleft()
                tell(f"{task.name} …")
                running[task] = _begin(task, settings, folder, device)
            time.sleep(0.1)
            for task in [task for task, process in running.items() if process.poll() is not None]:
                if running.pop(task).returncode or not finished(folder, task):
                    failed.append(task.name)
                    tell(f"{task.name} failed: {last_words(folder, task)}")
                else:
                    tell(f"{task.name} finished; {len(waiting) + len(running)} to go")
    finally:
        for process in running.values():  # only where we are interrupted
            process.terminate()
        for process in running.values():
            process.wait()
    return failed


def _begin(task: Task, settings: Settings, folder: Path, device: str) -> subprocess.Popen[bytes]:
    """Start the run, or go on with it, in a process of one thread that only we stop."""
    folder = folder.resolve()  # where the process works
    run, log = folder / RACE / task.name, folder / LOGS / f"{task.name}.txt"
    if (run / "last.ckpt").exists():
        what = ["--resume", str(run)]
    else:
        shutil.rmtree(run, ignore_errors=True)  # killed before its first checkpoint
        config = folder / LOGS / f"{task.name}.yaml"
        config_of(task, settings).save(config)
        what = [
            *("--config", str(config), "--data", anywhere(data_at(settings.data, task.size))),
            *("--project", str(run.parent), "--name", run.name),
            *("--val-every", str(settings.val_every)),
        ]
    with log.open("ab") as file:
        return subprocess.Popen(
            [*COMMAND, *what, "--device", device],
            stdout=subprocess.DEVNULL,
            stderr=file,
            env=os.environ | dict.fromkeys(THREADS, "1"),
            cwd=folder,
            start_new_session=True,
        )


def last_words(folder: Path, task: Task) -> str:
    """The last line that the run has said."""
    log = folder / LOGS / f"{task.name}.txt"
    lines = log.read_text(errors="replace").splitlines() if log.exists() else []
    return next((line for line in reversed(lines) if line.strip()), "it said nothing")
