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
from tests.faults.conftest import assert_same, copy_of, in_child

from dabdetr.training.train import Run, train

Straight = Callable[[str], Run]
NOBODY = 65534


@pytest.fixture
def folder(stopped: Path) -> Iterator[Path]:
    """A copy of a stopped run, where any user may look, as at its data beside it."""
    root = Path(tempfile.mkdtemp(prefix="dabdetr-faults-"))
    place = copy_of(stopped, root / "place")
    for path in (root, place):
        path.chmod(0o755)
    yield place / "run"
    shutil.rmtree(root)


@pytest.mark.parametrize("room", [0, 1000, 500_000])
def test_a_full_disk_leaves_a_run_to_resume(folder: Path, straight: Straight, room: int) -> None:
    assert (folder / "last.ckpt").stat().st_size > room

    def work() -> None:
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        resource.setrlimit(resource.RLIMIT_FSIZE, (room, room))
        with pytest.raises(OSError, match=r"run.*cannot be written \(.*too large\)") as told:
            train(resume=folder, quiet=True)
        assert "\n" not in str(told.value)
        assert not [path for path in folder.iterdir() if path.name.startswith(".")]

    assert in_child(work) == 0
    assert_same(train(resume=folder, quiet=True), straight("dense"))


def test_a_temporary_folder_without_room_does_not_matter(folder: Path, straight: Straight) -> None:
    def work() -> None:
        os.environ["TMPDIR"] = tempfile.tempdir = "/nowhere"
        train(resume=folder, quiet=True)

    assert in_child(work) == 0
    assert_same(Run(folder, straight("dense").config, ()), straight("dense"))


@pytest.mark.skipif(not hasattr(os, "geteuid") or os.geteuid() != 0, reason="needs to change users")
def test_a_folder_that_may_not_be_written_is_told(folder: Path, straight: Straight) -> None:
    def work() -> None:
        os.seteuid(NOBODY)
        with pytest.raises(OSError, match=r"cannot be written \(permission denied\)"):
            train(resume=folder, quiet=True)

    expected = straight("dense")  # what is imported late is there before
    assert codecs.lookup("utf-8-sig")
    for path in folder.parent.rglob("*"):
        path.chmod(0o755 if path.is_dir() else 0o644)
    assert in_child(work) == 0
    assert_same(train(resume=folder, quiet=True), expected)
