"""Run folders: made hidden, published whole, removed after an error, locked while in use."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from dabdetr.cli.output import refuse_to_overwrite
from dabdetr.files import new_folder
from dabdetr.runs import RunFolder, locked


def test_run_folders_count_on_and_appear_only_when_done(tmp_path: Path) -> None:
    project = tmp_path / "runs" / "predict"
    for number in (1, 2):
        with RunFolder(project, None, "predict") as folder:
            (folder.path / "file").write_text("x")
            assert not (project / f"predict-{number}").exists()
        assert folder.path == project / f"predict-{number}"
        assert (folder.path / "file").read_text() == "x"
    assert sorted(path.name for path in project.iterdir()) == ["predict-1", "predict-2"]


def test_a_failed_run_leaves_nothing(tmp_path: Path) -> None:
    project = tmp_path / "runs" / "predict"
    with (
        pytest.raises(FileNotFoundError),
        RunFolder(project, "mine", "predict") as folder,
    ):
        (folder.path / "missing" / "file").write_text("x")
    assert list(tmp_path.iterdir()) == []


def test_a_failed_run_leaves_other_runs_alone(tmp_path: Path) -> None:
    (tmp_path / "other").mkdir()
    with pytest.raises(KeyError), RunFolder(tmp_path, "mine", "predict"):
        raise KeyError
    assert [path.name for path in tmp_path.iterdir()] == ["other"]


def test_a_run_folder_that_exists_is_not_touched(tmp_path: Path) -> None:
    (tmp_path / "mine").mkdir()
    with RunFolder(tmp_path, "mine", "predict") as folder:  # empty, it is taken
        (folder.path / "file").touch()
    with pytest.raises(FileExistsError, match="mine exists"):
        RunFolder(tmp_path, "mine", "predict")
    with pytest.raises(ValueError, match="one folder name"):
        RunFolder(tmp_path, "a/b", "predict")


@pytest.mark.parametrize("odd", ["a\x1b[2Jb", "a\nb", "a\u202eb", "a\udcffb"])
def test_names_that_would_reach_a_terminal_are_refused(tmp_path: Path, odd: str) -> None:
    with pytest.raises(ValueError, match="control characters cannot be part of a name to write"):
        RunFolder(tmp_path / odd / "runs", None, "predict")
    with pytest.raises(ValueError, match="control characters"), new_folder(tmp_path / odd):
        pass
    with pytest.raises(ValueError, match="control characters"):
        refuse_to_overwrite(tmp_path / odd)
    assert not list(tmp_path.iterdir())


def test_a_name_that_is_too_long_is_an_error_before_any_work(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"--name is longer than 200 bytes: .{60}; shorten it"):
        RunFolder(tmp_path, "x" * 300, "demo")


def test_a_published_folder_outlives_an_error(tmp_path: Path) -> None:
    def fail_late() -> None:
        with RunFolder(tmp_path, None, "train") as folder:
            (folder.path / "file").write_text("x")
            assert folder.publish() == tmp_path / "train-1"
            raise KeyError

    with pytest.raises(KeyError):
        fail_late()
    assert (tmp_path / "train-1" / "file").read_text() == "x"
    assert [path.name for path in tmp_path.iterdir()] == ["train-1"]


def test_a_discarded_folder_takes_those_made_for_it_along(tmp_path: Path) -> None:
    with RunFolder(tmp_path / "a" / "b", "mine", "train") as folder:
        assert folder.publish().is_dir()
        folder.discard()
    assert list(tmp_path.iterdir()) == []


def test_a_name_taken_meanwhile_is_counted_on_or_told(tmp_path: Path) -> None:
    with RunFolder(tmp_path, None, "train") as one, RunFolder(tmp_path, None, "train") as other:
        (one.path / "file").touch()
        (other.path / "file").touch()
    assert {one.path.name, other.path.name} == {"train-1", "train-2"}
    folder = RunFolder(tmp_path, "mine", "train").__enter__()
    (folder.path / "file").touch()
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "theirs").touch()
    with pytest.raises(FileExistsError, match=r"mine exists by now; the run is in") as caught:
        folder.publish()
    assert str(folder.path) in str(caught.value)
    assert (folder.path / "file").exists()


def test_an_abandoned_folder_is_replaced_unless_it_is_in_use(tmp_path: Path) -> None:
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "old").touch()
    with locked(tmp_path / "mine"), pytest.raises(ValueError, match="another process is at work"):
        RunFolder(tmp_path, "mine", "train", abandoned=lambda _: True)
    with RunFolder(tmp_path, "mine", "train", abandoned=lambda _: True) as folder:
        (folder.path / "new").touch()
    assert [path.name for path in (tmp_path / "mine").iterdir()] == ["new"]


HOLD = """
import os, sys, time
from pathlib import Path
from dabdetr.cli.output import refuse_to_overwrite
from dabdetr.files import new_folder
from dabdetr.runs import locked
with locked(Path(sys.argv[1])):
    worker = os.fork()
    if worker:
        print(worker, flush=True)
    time.sleep(60)
"""


def test_a_lock_ends_with_its_process_even_where_a_worker_outlives_it(tmp_path: Path) -> None:
    with subprocess.Popen(
        [sys.executable, "-c", HOLD, str(tmp_path)], stdout=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout is not None
        worker = int(process.stdout.readline())
        with pytest.raises(ValueError, match="another process is at work"), locked(tmp_path):
            pass
        process.kill()
        process.wait()
        try:
            with locked(tmp_path):
                pass
        finally:
            os.kill(worker, signal.SIGKILL)


@pytest.mark.parametrize("name", ["../../x", "..", "a\x1b[2J", "a\nb", ""])
def test_the_name_of_a_config_leads_nowhere_else(tmp_path: Path, name: str) -> None:
    with pytest.raises(ValueError, match=r"the config's name.*give --name"):
        RunFolder(tmp_path / "runs", None, name)
    assert not list(tmp_path.iterdir())


def test_a_hidden_folder_that_is_removed_is_named(tmp_path: Path) -> None:
    def work(*, write: bool) -> None:
        with RunFolder(tmp_path, None, "val") as folder:
            shutil.rmtree(folder.path)
            if write:
                (folder.path / "report.html").write_text("")

    with pytest.raises(OSError, match=r"\.val-.* cannot be written \(no such file or directory\)"):
        work(write=False)
    with pytest.raises(OSError, match=r"\.val-.* was removed while it was written; begin again"):
        work(write=True)
