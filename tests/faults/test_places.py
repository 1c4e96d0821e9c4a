"""Disks that are full or cannot be written: one sentence, and the run goes on afterwards."""

from __future__ import annotations

import codecs
import os
import resource
import shutil
import signal
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from tests.faults.conftest import Begin, assert_same, in_child, kill_at_step

from dabdetr.training.train import Run, train

Straight = Callable[[str], Run]
NOBODY = 65534


@pytest.fixture
def stopped(begin: Begin, coco_folder: Path) -> Iterator[Path]:
    """A run that was killed in the second epoch, where any user may look, as at its data."""
    place = Path(tempfile.mkdtemp(prefix="dabdetr-faults-"))
    place.chmod(0o755)
    shutil.copytree(coco_folder, place / "data")

    def work() -> None:
        kill_at_step(6)
        begin("dense", place, data=place / "data")

    assert in_child(work) < 0
    yield place / "run"
    shutil.rmtree(place)


@pytest.mark.parametrize("room", [0, 1000, 500_000])
def test_a_full_disk_leaves_a_run_to_resume(
    stopped: Path, straight: Straight, tmp_path: Path, room: int
) -> None:
    assert (stopped / "last.ckpt").stat().st_size > room

    def work() -> None:
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        resource.setrlimit(resource.RLIMIT_FSIZE, (room, room))
        with pytest.raises(OSError, match=r"run.*cannot be written \(.*too large\)") as told:
            train(resume=stopped, quiet=True)
        assert "\n" not in str(told.value)
        assert not [path for path in stopped.iterdir() if path.name.startswith(".")]

    assert in_child(work) == 0
    assert_same(train(resume=stopped, quiet=True), straight("dense"))


def test_a_temporary_folder_without_room_does_not_matter(
    stopped: Path, straight: Straight, monkeypatch: pytest.MonkeyPatch
) -> None:
    def work() -> None:
        os.environ["TMPDIR"] = tempfile.tempdir = "/nowhere"
        train(resume=stopped, quiet=True)

    assert in_child(work) == 0
    assert_same(Run(stopped, straight("dense").config, ()), straight("dense"))


@pytest.mark.skipif(not hasattr(os, "geteuid") or os.geteuid() != 0, reason="needs to change users")
def test_a_folder_that_may_not_be_written_is_told(stopped: Path, straight: Straight) -> None:
    def work() -> None:
        os.seteuid(NOBODY)
        with pytest.raises(OSError, match=r"cannot be written \(permission denied\)"):
            train(resume=stopped, quiet=True)

    expected = straight("dense")  # what is imported late is there before
    assert codecs.lookup("utf-8-sig")
    for path in stopped.parent.rglob("*"):
        path.chmod(0o755 if path.is_dir() else 0o644)
    assert in_child(work) == 0
    assert_same(train(resume=stopped, quiet=True), expected)
