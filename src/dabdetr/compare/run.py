"""Training of the planned runs, each in its own process and normal run folder, resumed if begun.

A failed run is reported and does not affect the others. An interrupt stops all; they can be
resumed.
"""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from dabdetr.compare.plan import CONFIGS, RUNS, Settings, Task, absolute
from dabdetr.compare.results import read_result
from dabdetr.config import Config
from dabdetr.config.root import parse_section
from dabdetr.runs import RunFolder, interruptible, locked
from dabdetr.text import counted
from dabdetr.training.options import Sources

LOGS = "logs"
COMMAND = (
    *(sys.executable, "-c"),
    "from dabdetr.compare.child import stop_with_parent; stop_with_parent(); "
    "from dabdetr.cli import main; main()",
    "train",
)
THREADS = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS")

Log = Callable[[str], None]


def check(data: str, split: float | None = None) -> None:
    """Raise for data without a val split, on which members are compared."""
    if parse_section(Sources, {"data": data, "split": split}, "compare").open()[1] is None:
        raise ValueError(f"{data} has no val split, and members are compared on it; add --split")


def begin(
    project: Path, name: str | None, settings: Settings, configs: Mapping[str, Config]
) -> Path:
    """Create a comparison's folder with its settings and its members' configs."""
    resume = f"dabdetr compare --resume {project / str(name)}"
    remedy = f"choose another --name, or go on with it: {resume}"
    with RunFolder(project, name, "compare", remedy) as folder:
        extend(folder.path, settings, configs)
    return folder.path


def extend(folder: Path, settings: Settings, configs: Mapping[str, Config]) -> None:
    """Write the settings and new configs; ValueError while the comparison is running."""
    with locked(folder):
        (folder / CONFIGS).mkdir(exist_ok=True)
        for name, config in configs.items():
            config.save(folder / CONFIGS / f"{name}.yaml")
        settings.save(folder)


def finished(run: Path) -> bool:
    """Whether the record in a run folder reaches the last epoch."""
    result = read_result(run)
    return result is not None and result.finished


def train_all(
    tasks: Sequence[Task],
    folder: Path,
    jobs: int,
    device: str,
    tell: Log,
    runs: str = RUNS,
    prepare: Callable[[Sequence[Task]], None] = lambda _: None,
) -> list[str]:
    """Run the unfinished ``tasks``, ``jobs`` at a time; return the names of those that failed.

    Run folders are in the subfolder ``runs`` of ``folder``. ``prepare`` is called with the
    unfinished tasks before the first one starts.
    """
    for name in (runs, LOGS):
        (folder / name).mkdir(parents=True, exist_ok=True)
    todo = [task for task in tasks if not finished(folder / runs / task.name)]
    before = len(tasks) - len(todo)
    tell(f"{counted(len(tasks), 'run')}, {before} of them finished before; in {folder}")
    with locked(folder) as lock, interruptible():
        prepare(todo)
        return _train(deque(todo), folder, folder / runs, jobs, device, tell, lock)


def _train(
    waiting: deque[Task],
    folder: Path,
    runs: Path,
    jobs: int,
    device: str,
    tell: Log,
    lock: int | None,
) -> list[str]:
    running: list[tuple[Task, subprocess.Popen[bytes]]] = []
    failed: list[str] = []
    try:
        while waiting or running:
            while waiting and len(running) < jobs:
                task = waiting.popleft()
                tell(f"{task.name} …")
                running.append((task, _start(task, folder, runs, device, jobs, lock)))
            time.sleep(0.1)
            for task, process in [pair for pair in running if pair[1].poll() is not None]:
                running.remove((task, process))
                process.communicate()  # closes its standard input
                if process.returncode or not finished(runs / task.name):
                    failed.append(task.name)
                    log = folder / LOGS / f"{task.name}.txt"
                    lines = log.read_text(errors="replace").splitlines() if log.exists() else []
                    last = next(filter(str.strip, reversed(lines)), "it printed nothing")
                    tell(f"{task.name} failed: {last}")
                else:
                    tell(f"{task.name} finished; {len(waiting) + len(running)} to go")
    finally:
        for _, process in running:  # only after an interrupt or an error
            process.terminate()
        for _, process in running:
            process.communicate()
    return failed


def _start(
    task: Task, folder: Path, runs: Path, device: str, jobs: int, lock: int | None
) -> subprocess.Popen[bytes]:
    """Start or resume the run in a process of its own session, which ends when this one does.

    The process also holds the comparison's ``lock``, so that no other comparison trains the run.
    """
    folder, run = folder.resolve(), runs.resolve() / task.name  # the process works in ``folder``
    begun = (run / "config.yaml").exists() and (run / "run.yaml").exists()
    if begun or (run / "last.ckpt").exists():
        arguments = ["--resume", str(run)]
    else:
        config = folder / LOGS / f"{task.name}.yaml"
        task.config.save(config)
        arguments = ["--config", str(config), "--data", absolute(task.data)]
        arguments += ["--project", str(run.parent), "--name", run.name]
        arguments += ["--val-every", str(task.val_every)] if task.val_every else []
        arguments += ["--split", str(task.split)] if task.split else []
    threads = os.environ.get("OMP_NUM_THREADS", "")
    if not threads.isdecimal():  # an equal share of the processors
        threads = str(max(1, (os.cpu_count() or 1) // jobs))
    with (folder / LOGS / f"{task.name}.txt").open("ab") as file:
        return subprocess.Popen(
            [*COMMAND, *arguments, "--device", device],
            stdin=subprocess.PIPE,
            stdout=subprocess.DEVNULL,
            stderr=file,
            pass_fds=() if lock is None else (lock,),
            env=os.environ | dict.fromkeys(THREADS, threads),
            cwd=folder,
            start_new_session=True,
        )
