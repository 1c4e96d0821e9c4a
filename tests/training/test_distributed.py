"""One training in two processes, as torchrun starts them, is the training of one."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
from collections.abc import Callable
from multiprocessing import get_context
from pathlib import Path
from signal import SIGTERM
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from tests.conftest import write_coco
from tests.training.conftest import Train
from tests.training.test_resume import epochs_in, stopped_when

from dabdetr.data.layouts import open_data
from dabdetr.inference import device
from dabdetr.training.distributed import init_distributed
from dabdetr.training.train import Run, train

LAUNCH = (
    *(sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"),
    *("-m", "dabdetr", "train", "--device", "cpu"),
)
SAME = (
    # Nothing at random within a step, and no statistics that one process's batches make.
    *("model.dropout=0", "model.backbone.norm=frozen"),
    # Eight images in three batches: one process waits in the second update.
    *("training.batch=3", "training.effective_batch=6"),
)


def fork_two(work: Callable[[], object]) -> None:
    """Do ``work`` in two forks of this process, which start at once, with torchrun's variables."""
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    told = {"TORCHELASTIC_RUN_ID": "none", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
    told |= {"WORLD_SIZE": "2", "LOCAL_WORLD_SIZE": "2", "GROUP_RANK": "0"}

    def ranked(rank: str) -> None:
        os.environ.update(told, RANK=rank, LOCAL_RANK=rank)
        work()

    forks = [get_context("fork").Process(target=ranked, args=(rank,)) for rank in "01"]
    try:
        for fork in forks:
            fork.start()
        for fork in forks:
            fork.join()
    finally:
        for fork in forks:
            fork.kill()  # where one waits for the other until the test's time is over
    assert [fork.exitcode for fork in forks] == [0, 0]


def check_same(alone: Run, folder: Path) -> None:
    assert {path.name for path in folder.iterdir()} == {p.name for p in alone.folder.iterdir()}
    ours, theirs = load_file(alone.weights), load_file(folder / alone.weights.name)
    for name, tensor in ours.items():
        torch.testing.assert_close(theirs[name], tensor, rtol=1e-3, atol=1e-5, msg=name)
    rows = torch.load(folder / "last.ckpt", weights_only=True)["run"]["rows"]
    for mine, other in zip(alone.rows, rows, strict=True):
        for name in ("updates", "lr", "loss", "loss_ce", "loss_bbox", "loss_giou", "AP"):
            assert other[name] == pytest.approx(mine[name], rel=1e-3, abs=1e-5), name


@pytest.fixture(scope="module")
def alone(tiny_train: Train, tmp_path_factory: pytest.TempPathFactory) -> Run:
    project = tmp_path_factory.mktemp("alone")
    return tiny_train(project, *SAME, epochs=2, quiet=True, report=True)


def test_two_processes_train_as_one(
    alone: Run, tiny_file: Path, coco_folder: Path, tmp_path: Path
) -> None:
    assigned = [word for pair in SAME for word in ("--set", pair)]
    options = ["--data", str(coco_folder), "--config", str(tiny_file), "--epochs", "2", "--json"]
    options += ["--project", str(tmp_path), "--name", "run", *assigned]
    done = subprocess.run([*LAUNCH, *options], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["folder"] == str(tmp_path / "run")  # the first process's alone
    assert done.stderr.count("6 images per optimizer step") == 1
    assert "arning" not in done.stderr
    assert [path.name for path in tmp_path.iterdir()] == ["run"]
    check_same(alone, tmp_path / "run")


def test_two_processes_go_on_where_one_stopped(
    alone: Run, tiny_train: Train, tmp_path: Path
) -> None:
    folder = tmp_path / "run"
    with pytest.raises(KeyboardInterrupt), stopped_when(lambda: epochs_in(folder) >= 1, SIGTERM):
        tiny_train(tmp_path, *SAME, epochs=2, name="run", quiet=True, report=True)
    fork_two(lambda: train(resume=folder, device="cpu"))
    check_same(alone, folder)


def test_a_process_whose_images_show_nothing(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    """Its denoising has nothing to learn from, and the other waits for it."""
    folder = write_coco(tmp_path / "data", "train", open_data("scenes", "train"), 2)
    path = folder / "annotations" / "instances_train.json"
    tree = json.loads(path.read_text())
    tree["annotations"] = [each for each in tree["annotations"] if each["image_id"] == 1]
    path.write_text(json.dumps(tree))
    options: Any = {"imgsz": 64, "epochs": 3, "batch": 1, "project": tmp_path, "device": "cpu"}
    two = ["training.effective_batch=2"]
    fork_two(lambda: train(folder, "dino-nano", overrides=two, **options))
    assert capfd.readouterr().err.count("epoch 3/3") == 1


def test_alone_nothing_is_shared() -> None:
    with init_distributed("cpu") as world:
        assert (world.rank, world.size, world.is_main) == (0, 1, True)
        assert world.broadcast({"a": 1}) == {"a": 1}
        assert world.gather(3) == [3]
        assert not torch.distributed.is_initialized()


def test_several_processes_on_mps_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(device, "_available", lambda: ["mps", "cpu"])
    monkeypatch.setenv("TORCHELASTIC_RUN_ID", "none")
    with pytest.raises(ValueError, match="add --device cpu"), init_distributed("auto"):
        pass
