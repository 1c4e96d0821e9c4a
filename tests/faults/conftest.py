"""Trainings in processes of their own that die at a chosen moment."""

from __future__ import annotations

import os
import shutil
import signal
import sys
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from dabdetr.training.train import Run, train

TIMELESS = (
    *("epoch", "updates", "lr", "loss", "loss_ce", "loss_bbox", "loss_giou", "AP", "AP50"),
    *("grad_norm", "matching_changed", "dead_queries", "anchors_outside"),
)


def in_child(work: Callable[[], Any]) -> int:
    """Do ``work`` in a fork of this process: its exit status, or the signal that ended it, < 0."""
    child = os.fork()
    if child == 0:
        try:
            work()
            os._exit(0)
        except BaseException:  # also pytest's
            traceback.print_exc()
            sys.stderr.flush()
            os._exit(1)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


def kill_at_event(folder: Path, number: int) -> Callable[[], int]:
    """From now on, the process kills itself before its ``number``-th change of a file there.

    The answer counts the changes so far.
    """
    count, place = 0, str(folder)

    def look(event: str, arguments: tuple[Any, ...]) -> None:
        nonlocal count
        if event == "open":
            path, _, flags = arguments
            changes = flags & (os.O_WRONLY | os.O_RDWR)
        elif event in (
            "os.rename",
            "os.link",
            "os.remove",
            "os.chmod",
            "os.rmdir",
            "shutil.rmtree",
        ):
            path, changes = arguments[0], True
        else:
            return
        if changes and str(path).startswith(place):
            count += 1
            if count == number:
                os.kill(os.getpid(), signal.SIGKILL)

    sys.addaudithook(look)
    return lambda: count


def kill_at_step(number: int) -> None:
    """From now on, the process kills itself in its ``number``-th training step."""
    from dabdetr.training.module import TrainingModule

    count, step = 0, TrainingModule.training_step

    def counted(self: TrainingModule, batch: Any, batch_idx: int) -> Any:
        nonlocal count
        count += 1
        if count == number:
            os.kill(os.getpid(), signal.SIGKILL)
        return step(self, batch, batch_idx)

    TrainingModule.training_step = counted


def assert_same(run: Run, straight: Run, but: str = "") -> None:
    """Checkpoints are equal bit for bit: weights, averages, moments, random numbers, record.

    ``but`` is a column of the record that is not compared, with what it is made from.
    """
    ours, theirs = (torch.load(r.folder / "last.ckpt", weights_only=True) for r in (run, straight))
    for mine, other in zip(ours["run"]["rows"], theirs["run"]["rows"], strict=True):
        for name in TIMELESS:
            assert mine[name] == other[name] or name == but, name
    for state in (ours, theirs):
        del state["run"], state["loops"]
        for own in state["ranks"] if but else ():
            del own["watch"]
    assert difference(ours, theirs) is None
    names = {path.name for path in run.folder.iterdir()}
    assert names == {path.name for path in straight.folder.iterdir()}
    for name in ("best.safetensors", "last.safetensors"):
        assert difference(*(load_file(r.folder / name) for r in (run, straight))) is None, name


def difference(one: Any, other: Any, place: str = "") -> str | None:
    """Where two trees of plain values and tensors differ first."""
    if isinstance(one, torch.Tensor):
        same = isinstance(other, torch.Tensor) and torch.equal(one, other)
        return None if same else place
    if type(one) is not type(other):
        return place
    if isinstance(one, dict):
        if one.keys() != other.keys():
            return f"{place}: {sorted(set(one) ^ set(other), key=str)}"
        pairs = [(key, one[key], other[key]) for key in one]
    elif isinstance(one, list | tuple):
        if len(one) != len(other):
            return place
        pairs = list(zip(range(len(one)), one, other, strict=True))
    else:
        return None if one == other else f"{place}: {one} and {other}"
    found = (difference(a, b, f"{place}.{key}") for key, a, b in pairs)
    return next((each for each in found if each), None)


@pytest.fixture(scope="session")
def members(tiny_config: Any, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Configs of a dense, a denoising and a two-stage member, all steps of which are kept.

    They are averaged, gather gradients, augment and drop out.
    """
    from dabdetr.presets import preset

    folder = tmp_path_factory.mktemp("members")
    every = [
        *("training.precision=fp32", "training.ema=0.9", "model.dropout=0.1"),
        *("training.checkpoint_minutes=0", "training.effective_batch=4"),
        "augment={flip: 0.5, sizes: [80, 96], crop: 0.5, colour: 0.5}",
    ]
    small = [
        *("model.encoder.layers=1", "model.decoder.layers=2", "model.queries.count=12"),
        *("model.denoising.number=10", "image.size=96", "image.max_size=96", "training.batch=2"),
        "training.warmup=0",
    ]
    configs = {
        "dense": tiny_config.override(every),
        "denoising": tiny_config.override([*every, "model.denoising={kind: dn, groups: 2}"]),
        "two-stage": preset("dino-nano").override([*small, *every]),
    }
    paths = {name: folder / f"{name}.yaml" for name in configs}
    for name, config in configs.items():
        config.save(paths[name])
    return paths


Begin = Callable[..., Run]


@pytest.fixture(scope="session")
def begin(members: dict[str, Path], coco_folder: Path) -> Begin:
    """Trains a member for two epochs, in ``project/run``."""

    def run(member: str, project: Path, *overrides: str, **options: Any) -> Run:
        options = {"data": coco_folder, "epochs": 2, "name": "run", "quiet": True} | options
        options.setdefault("report", False)
        return train(model=members[member], project=project, overrides=overrides, **options)

    return run


@pytest.fixture(scope="session")
def straight(begin: Begin, tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Run]:
    """A member's run that nothing interrupted. Do not write into its folder."""
    made: dict[str, Run] = {}

    def of(member: str) -> Run:
        if member not in made:
            made[member] = begin(member, tmp_path_factory.mktemp(f"straight-{member}"))
        return made[member]

    return of


@pytest.fixture(scope="session")
def stopped(begin: Begin, coco_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """``data`` and ``run`` of a run that was killed in the second epoch. Do not write into it."""
    place = tmp_path_factory.mktemp("stopped")
    shutil.copytree(coco_folder, place / "data")

    def work() -> None:
        kill_at_step(7)
        begin("dense", place, data=place / "data")

    assert in_child(work) < 0
    return place


def copy_of(stopped: Path, place: Path) -> Path:
    """``stopped`` in another place, moved as a whole."""
    shutil.copytree(stopped, place)
    text = (place / "run" / "run.yaml").read_text()
    assert str(stopped) in text
    (place / "run" / "run.yaml").write_text(text.replace(str(stopped), str(place)))
    return place
