"""Damaged, lost and older checkpoints; a folder that is in use; what a killed run left."""

from __future__ import annotations

import random
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from tests.faults.conftest import Begin, assert_same, in_child, kill_at_step

from dabdetr.runs import locked
from dabdetr.training.checkpoint_file import read, write
from dabdetr.training.train import Run, train

Straight = Callable[[str], Run]


@pytest.fixture
def folder(stopped: Path, tmp_path: Path) -> Path:
    """A copy of a run that was killed in the second epoch."""
    return shutil.copytree(stopped / "run", tmp_path / "run")


def flip(path: Path, place: int, mask: int = 1) -> None:
    with path.open("rb+") as file:
        file.seek(place)
        byte = file.read(1)[0]
        file.seek(place)
        file.write(bytes([byte ^ mask]))


def test_every_flipped_byte_is_noticed(tmp_path: Path) -> None:
    path = tmp_path / "one.ckpt"
    write(path, {"weight": torch.arange(40.0), "words": ["a", "b"]})
    whole = path.read_bytes()
    assert torch.equal(read(path)["weight"], torch.arange(40.0))
    for place in range(len(whole)):
        path.write_bytes(whole)
        flip(path, place, 1 << place % 8)
        with pytest.raises(ValueError, match=r"is damaged|is not a readable checkpoint"):
            read(path)
    for length in range(0, len(whole), 7):
        path.write_bytes(whole[:length])
        with pytest.raises(ValueError, match=r"is damaged|is not a readable checkpoint"):
            read(path)


def test_a_damaged_checkpoint_falls_back_to_the_one_before(
    folder: Path, straight: Straight, capfd: pytest.CaptureFixture[str]
) -> None:
    size = (folder / "last.ckpt").stat().st_size
    flip(folder / "last.ckpt", random.Random(0).randrange(size))
    run = train(resume=folder)
    said = capfd.readouterr().err
    assert f"{folder / 'last.ckpt'} is damaged: its checksum does not fit; going on from" in said
    assert "previous.ckpt" in said
    assert_same(run, straight("dense"))


def spoil(path: Path, part: str) -> None:
    """Have NaN or infinities in a checkpoint, whole and sealed."""
    state = read(path)
    if part == "lr":
        state["optimizer_states"][0]["param_groups"][0]["lr"] = float("nan")
    elif part == "moment":
        moments = state["optimizer_states"][0]["state"]
        moments[list(moments)[3]]["exp_avg_sq"].fill_(float("inf"))
    else:
        next(each for each in state[part].values() if each.is_floating_point()).fill_(float("nan"))
    path.unlink()
    write(path, state)


@pytest.mark.parametrize("part", ["moment", "lr", "state_dict", "current_model_state"])
def test_no_training_goes_on_from_values_that_are_not_finite(
    folder: Path, part: str, capfd: pytest.CaptureFixture[str], straight: Straight
) -> None:
    spoil(folder / "last.ckpt", part)
    if part == "moment":
        run = train(resume=folder)
        said = capfd.readouterr().err
        assert "holds values that are not finite (optimizer_states[0].state." in said
        assert "exp_avg_sq); going on from" in said
        assert_same(run, straight("dense"))
        return
    spoil(folder / "previous.ckpt", part)
    before = {path: path.read_bytes() for path in folder.iterdir()}
    with pytest.raises(ValueError, match=r"last.ckpt holds values that are not finite .*start a"):
        train(resume=folder, quiet=True)
    assert before == {path: path.read_bytes() for path in folder.iterdir()}


def test_a_killed_process_may_leave_half_a_file_and_no_last_checkpoint(
    folder: Path, straight: Straight
) -> None:
    """The checkpoint before is gone on from, and what was half written is removed."""
    (folder / "last.ckpt").unlink()
    (folder / ".last.ckpt.abcd").write_bytes(b"half")
    (folder / ".results.csv.efgh").write_bytes(b"")
    assert_same(train(resume=folder, quiet=True), straight("dense"))


def test_where_both_are_damaged_nothing_is_changed(folder: Path) -> None:
    for name in ("last.ckpt", "previous.ckpt"):
        flip(folder / name, 5000)
    before = {path: path.read_bytes() for path in folder.iterdir()}
    with pytest.raises(ValueError, match=r"last.ckpt is damaged.*previous.ckpt is damaged") as told:
        train(resume=folder, quiet=True)
    assert "\n" not in str(told.value)
    assert before == {path: path.read_bytes() for path in folder.iterdir()}


def test_a_folder_without_a_checkpoint_is_begun_or_taken_over(
    folder: Path, straight: Straight, begin: Begin
) -> None:
    bare = {"config.yaml", "run.yaml"}
    for path in folder.iterdir():
        if path.name not in bare:
            path.unlink()
    other = shutil.copytree(folder, folder.parent / "other" / "run")
    assert_same(train(resume=folder, quiet=True), straight("dense"))
    assert_same(begin("dense", other.parent), straight("dense"))


def test_a_second_process_is_refused(folder: Path) -> None:
    before = (folder / "last.ckpt").read_bytes()
    (folder / ".last.ckpt.abcd").write_bytes(b"of the first one")
    with locked(folder):
        status = in_child(lambda: refuse(folder))
    assert status == 0
    assert (folder / ".last.ckpt.abcd").exists()
    assert (folder / "last.ckpt").read_bytes() == before


def refuse(folder: Path) -> None:
    with pytest.raises(ValueError, match="another process is at work in"):
        train(resume=folder, quiet=True)


def as_of_old(path: Path) -> None:
    """Rewrite a checkpoint of an epoch's end as it was written before there were seals."""
    state: dict[str, Any] = torch.load(path, weights_only=True)
    run = state.pop("run")
    assert run["batches"] == 0
    del state["ranks"]
    for row in run["rows"]:
        row["memory_mb"] = row.pop("memory_mib")
    state["names"] = run["names"]
    state["lr_schedulers"] = []
    callbacks = state["callbacks"]
    callbacks["Averaging"] = callbacks.pop("MovingAverage")
    callbacks["RunCheckpointer"] = {"rows": run["rows"]}
    torch.save(state, path)


def test_older_checkpoints_go_on(begin: Begin, straight: Straight, tmp_path: Path) -> None:
    def work() -> None:
        kill_at_step(5)
        begin("dense", tmp_path, "training.checkpoint_minutes=10")

    assert in_child(work) < 0
    folder = tmp_path / "run"
    as_of_old(folder / "last.ckpt")
    (folder / "previous.ckpt").unlink()
    run = train(resume=folder, quiet=True)
    assert_same(run, straight("dense"), but="matching_changed")  # of the epoch before


def test_a_flipped_weight_of_an_older_checkpoint_is_noticed(begin: Begin, tmp_path: Path) -> None:
    path = tmp_path / "old.ckpt"
    torch.save({"weight": torch.arange(40.0)}, path)
    assert read(path).keys() == {"weight"}
    flip(path, path.read_bytes().index(torch.arange(40.0).numpy().tobytes()) + 50)
    with pytest.raises(ValueError, match="is damaged"):
        read(path)
