"""Resuming is exact: a run that was stopped anywhere ends as if it had not been."""

from __future__ import annotations

import os
import shutil
import signal
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest
import torch
from pytorch_lightning import Callback, LightningModule, Trainer
from safetensors.torch import load_file

from dabdetr.config import load
from dabdetr.training.signals import stop_signals
from dabdetr.training.train import Run, train

Train = Callable[..., Run]


@contextmanager
def stopped_when(ready: Callable[[], bool], number: signal.Signals) -> Iterator[None]:
    """Sends this process a signal once ``ready``."""
    over = threading.Event()

    def watch() -> None:
        while not over.is_set() and not ready():
            time.sleep(0.002)
        if not over.is_set():
            os.kill(os.getpid(), number)

    thread = threading.Thread(target=watch)
    thread.start()
    try:
        yield
    finally:
        over.set()
        thread.join()


def epochs_in(folder: Path) -> int:
    path = folder / "results.csv"
    return len(path.read_text().splitlines()) - 1 if path.exists() else -1


# Raised within a callback of the garbage collector, the interrupt is lost until the next batch.
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
@pytest.mark.parametrize(
    ("epochs", "number"),
    [(0, signal.SIGINT), (2, signal.SIGTERM), (3, signal.SIGINT)],
    ids=["before the first epoch ends", "terminated after the second", "after the third"],
)
def test_resumed_equals_straight(
    straight_run: Run,
    tiny_train: Train,
    tmp_path: Path,
    capfd: pytest.CaptureFixture[str],
    epochs: int,
    number: signal.Signals,
) -> None:
    folder = tmp_path / "stopped"

    def ready() -> bool:
        return (folder / "last.ckpt").exists() and epochs_in(folder) >= epochs

    handlers = signal.getsignal(signal.SIGINT), signal.getsignal(signal.SIGTERM)
    with stopped_when(ready, number), pytest.raises(KeyboardInterrupt):
        tiny_train(tmp_path, "training.effective_batch=6", epochs=4, name="stopped")
    said = capfd.readouterr().err
    assert f"go on with: dabdetr train --resume {folder}" in said
    assert "interrupted" not in said  # the command line says that
    assert handlers == (signal.getsignal(signal.SIGINT), signal.getsignal(signal.SIGTERM))
    assert not [path for path in folder.iterdir() if path.name.startswith(".")]

    run = train(resume=folder, quiet=True)
    assert_same_run(run, straight_run)


def assert_same_run(run: Run, straight: Run) -> None:
    for name in ("last.safetensors", "best.safetensors"):
        ours, theirs = load_file(run.folder / name), load_file(straight.folder / name)
        assert ours.keys() == theirs.keys()
        assert all(torch.equal(ours[key], theirs[key]) for key in ours), name
    a, b = (torch.load(r.folder / "last.ckpt", weights_only=True) for r in (run, straight))
    for part in ("current_model_state", "averaging_state"):
        assert all(torch.equal(a[part][key], b[part][key]) for key in b[part]), part
    moments, expected = (state["optimizer_states"][0]["state"] for state in (a, b))
    for index in expected:
        for key in expected[index]:
            assert torch.equal(moments[index][key], expected[index][key])
    timeless = ("epoch", "updates", "lr", "loss", "loss_ce", "loss_bbox", "loss_giou", "AP", "AP50")
    for ours, theirs in zip(run.rows, straight.rows, strict=True):
        assert [ours[key] for key in timeless] == [theirs[key] for key in timeless]
    assert epochs_in(run.folder) == 4


def copy_of(run: Run, folder: Path) -> Path:
    shutil.copytree(run.folder, folder)
    return folder


def test_finished_run(short_run: Run) -> None:
    with pytest.raises(ValueError, match=r"finished its 2 epochs; more of them: --epochs 4"):
        train(resume=short_run.folder, quiet=True)


def test_a_finished_run_takes_more_epochs(
    short_run: Run, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    folder = copy_of(short_run, tmp_path / "more")
    run = train(resume=folder, epochs=3, workers=1)
    assert "counts from here on: training.epochs 3 (was 2)" in capfd.readouterr().err
    assert [row["epoch"] for row in run.rows] == [1, 2, 3]
    assert run.rows[:2] == short_run.rows
    assert load(folder / "config.yaml").training.epochs == 3


def test_no_run_there(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="no run to resume"):
        train(resume=tmp_path, quiet=True)
    with pytest.raises(FileNotFoundError, match=r"no run folder .*gone; was it removed"):
        train(resume=tmp_path / "gone", quiet=True)


def test_a_folder_removed_during_the_training_is_named(tiny_train: Train, tmp_path: Path) -> None:
    class Removing(Callback):
        def on_train_epoch_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
            if trainer.current_epoch == 1:
                shutil.rmtree(tmp_path / "run")

    with pytest.raises(FileNotFoundError, match=r"the run folder .*run is gone: it was removed"):
        tiny_train(tmp_path, epochs=2, name="run", callbacks=[Removing()])


def test_settings_gone(short_run: Run, tmp_path: Path) -> None:
    folder = copy_of(short_run, tmp_path / "bare")
    (folder / "run.yaml").unlink()
    with pytest.raises(FileNotFoundError, match=r"has no run\.yaml"):
        train(resume=folder, quiet=True)


def test_data_with_other_classes(short_run: Run, tmp_path: Path, coco_folder: Path) -> None:
    folder = copy_of(short_run, tmp_path / "classes")
    data = shutil.copytree(coco_folder, tmp_path / "data")
    for path in (data / "annotations").iterdir():
        path.write_text(path.read_text().replace('"name": "7"', '"name": "seven"'))
    text = (folder / "run.yaml").read_text()
    assert str(coco_folder) in text
    (folder / "run.yaml").write_text(text.replace(str(coco_folder), str(data)))
    with pytest.raises(ValueError, match="class names do not fit"):
        train(resume=folder, quiet=True)


def test_an_interrupt_that_was_lost_is_heard_at_the_next_batch() -> None:
    with stop_signals() as stop:
        with pytest.raises(KeyboardInterrupt):
            signal.raise_signal(signal.SIGTERM)
        with pytest.raises(KeyboardInterrupt):
            stop.on_train_batch_start()


def darker(image: np.ndarray, boxes: np.ndarray, labels: np.ndarray, rng: np.random.Generator):
    """An augmentation of one's own."""
    return (image * rng.uniform(0.5, 1)).astype(np.uint8), boxes, labels


def test_a_transform_is_part_of_a_run(tiny_train: Train, short_run: Run, tmp_path: Path) -> None:
    options = {"epochs": 2, "transform": darker, "quiet": True}
    straight = tiny_train(tmp_path, name="straight", **options)
    assert straight.rows[0]["loss"] != short_run.rows[0]["loss"]
    begun = tiny_train(tmp_path, name="begun", **(options | {"epochs": 1}))
    with pytest.raises(ValueError, match=r"trained with transform=darker; got None; .*transform=d"):
        train(resume=begun.folder, epochs=2, quiet=True)
    with pytest.raises(ValueError, match="trained with transform=None; got darker"):
        train(resume=short_run.folder, epochs=3, transform=darker, quiet=True)
    more = train(resume=begun.folder, epochs=2, transform=darker, quiet=True)
    assert len(more.rows) == 2
    assert more.rows[0]["loss"] == straight.rows[0]["loss"]
