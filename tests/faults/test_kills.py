"""A run that is killed anywhere, resumed, ends bit for bit as if it had not been."""

from __future__ import annotations

import os
import random
import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from tests.faults.conftest import Begin, assert_same, in_child, kill_at_event, kill_at_step

from dabdetr.training.train import Run, train

SELDOM = "training.checkpoint_minutes=10"
"""Each checkpoint changes the same files in the same order, within an epoch or at its end."""
MEMBERS = ("dense", "denoising", "two-stage")
Straight = Callable[[str], Run]


@contextmanager
def suppress_finished() -> Iterator[None]:
    """A run may be killed after its last checkpoint."""
    try:
        yield
    except ValueError as error:
        if "has finished its 2 epochs" not in str(error):
            raise


def killed(number: int) -> bool:
    return number == -signal.SIGKILL


@pytest.mark.parametrize(
    ("member", "step", "workers"),
    [("dense", 3, 0), ("dense", 7, 2), ("denoising", 4, 0), ("two-stage", 8, 0)],
)
def test_killed_in_a_step(
    begin: Begin, straight: Straight, tmp_path: Path, member: str, step: int, workers: int
) -> None:
    def work() -> None:
        kill_at_step(step)
        begin(member, tmp_path, workers=workers)

    assert killed(in_child(work))
    assert_same(train(resume=tmp_path / "run", quiet=True), straight(member))


def changes_of_files(begin: Begin, folder: Path) -> int:
    """How often a whole run changes a file."""
    counted = folder / "counted"

    def work() -> None:
        count = kill_at_event(folder / "project", 0)
        begin("dense", folder / "project", SELDOM)
        counted.write_text(str(count()))

    assert in_child(work) == 0
    return int(counted.read_text())


def kill_and_resume(begin: Begin, project: Path, event: int) -> Run:
    def work() -> None:
        kill_at_event(project, event)
        begin("dense", project, SELDOM)

    assert killed(in_child(work)), event
    folder = project / "run"
    if not folder.exists():  # before it had its name: nothing is blocked
        return begin("dense", project, SELDOM)
    return train(resume=folder, quiet=True)


def test_killed_at_a_change_of_a_file(begin: Begin, straight: Straight, tmp_path: Path) -> None:
    """At a few of them; the slow test takes every one."""
    total = changes_of_files(begin, tmp_path)
    assert total > 30
    for event in random.Random(0).sample(range(1, total + 1), 4):
        assert_same(kill_and_resume(begin, tmp_path / str(event), event), straight("dense"))


@pytest.mark.slow
@pytest.mark.timeout(3000)
def test_killed_at_every_change_of_a_file(begin: Begin, straight: Straight, tmp_path: Path) -> None:
    for event in range(1, changes_of_files(begin, tmp_path) + 1):
        assert_same(kill_and_resume(begin, tmp_path / str(event), event), straight("dense"))


@pytest.mark.slow
@pytest.mark.timeout(3000)
@pytest.mark.parametrize("member", MEMBERS)
def test_killed_at_random_until_it_ends(
    begin: Begin, straight: Straight, tmp_path: Path, member: str
) -> None:
    """Kills by the clock, of the run and of what resumes it; each gets a little further.

    So many kills that those of all members are a hundred, most of them within an epoch.
    ``DABDETR_SEED`` gives other moments, ``DABDETR_KILLS`` another number.
    """
    rng = random.Random(member + os.environ.get("DABDETR_SEED", ""))
    kills = number = 0
    while kills < int(os.environ.get("DABDETR_KILLS", "34")):
        number += 1
        project = tmp_path / str(number)
        folder = project / "run"
        while True:
            delay = rng.uniform(0.02, 4.0)

            def work(delay: float = delay, project: Path = project) -> None:
                signal.signal(signal.SIGALRM, signal.SIG_DFL)
                signal.setitimer(signal.ITIMER_REAL, delay)
                folder = project / "run"
                if folder.exists():
                    with suppress_finished():
                        train(resume=folder, quiet=True)
                else:
                    begin(member, project, workers=0)

            ended = in_child(work)
            if ended != -signal.SIGALRM:
                break
            kills += 1
        assert ended == 0
        run = Run(folder, straight(member).config, straight(member).rows)
        assert_same(run, straight(member))
    print(f"{member}: {kills} kills of {number} runs")
