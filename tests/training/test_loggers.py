"""Loggers by name get every epoch's numbers; what fails in them is told and stops nothing."""

from __future__ import annotations

import csv
import importlib.util
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from pytorch_lightning.loggers import CSVLogger

from dabdetr.training import loggers
from dabdetr.training.history import stops_early
from dabdetr.training.loggers import LOGGERS, NAMES, TolerantLogger, check_loggers
from dabdetr.training.options import Sources
from dabdetr.training.train import Run, train

Train = Callable[..., Run]


def test_tensorboard_has_what_results_have(tiny_train: Train, tmp_path: Path) -> None:
    pytest.importorskip("tensorboard")
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    run = tiny_train(tmp_path, epochs=2, log=["csv", "tensorboard"], quiet=True)
    assert Sources.load(run.folder / "run.yaml").log == ("csv", "tensorboard")
    events = EventAccumulator(str(run.folder / "tensorboard")).Reload()
    for name in ("loss", "AP", "lr"):
        written = [(each.step, each.value) for each in events.Scalars(name)]
        rows = [(row["updates"], pytest.approx(row[name])) for row in run.rows]
        assert written == rows, name
    train(resume=run.folder, epochs=3, quiet=True)  # goes on with it
    events = EventAccumulator(str(run.folder / "tensorboard")).Reload()
    assert [each.step for each in events.Scalars("loss")][-1] == 12


def test_mlflow_writes_a_database_beside_the_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    given: dict[str, Any] = {}
    monkeypatch.setattr(loggers, "MLFlowLogger", lambda *_, **options: given.update(options))
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    LOGGERS["mlflow"][1](tmp_path)
    assert given["tracking_uri"] == f"sqlite:///{tmp_path / 'mlflow.db'}"
    assert given["artifact_location"] == str(tmp_path / "mlflow")
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://server:5000")
    LOGGERS["mlflow"][1](tmp_path)
    assert given["tracking_uri"] == "http://server:5000"


def test_a_name_that_is_none_or_not_installed_is_told_at_once(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="no logger 'tensorbord'; use csv, tensorboard"):
        train("scenes", "dab-detr-nano", log=["tensorbord"], project=tmp_path / "runs")
    for name in NAMES[1:]:
        if importlib.util.find_spec(name) is None:
            with pytest.raises(ModuleNotFoundError, match=rf"pip install 'dabdetr\[{name}\]'"):
                train("scenes", "dab-detr-nano", log=[name], project=tmp_path / "runs")
    assert not (tmp_path / "runs").exists()
    check_loggers(["csv"])


class Broken(CSVLogger):
    """Works until ``fails`` is called, which raises what no one would expect."""

    def __init__(self, fails: str, folder: Path) -> None:
        super().__init__(folder)

        def fail(*_: Any, **__: Any) -> None:
            raise RuntimeError("the network is \x1b[31mdown")

        setattr(self, fails, fail)


@pytest.mark.parametrize("fails", ["log_hyperparams", "log_metrics", "save", "finalize"])
def test_a_failing_logger_is_told_once_and_left_out(
    fails: str,
    tiny_train: Train,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
) -> None:
    from dabdetr.training import loggers

    monkeypatch.setitem(loggers.LOGGERS, "broken", ((), lambda folder: Broken(fails, folder)))
    monkeypatch.setattr(loggers, "NAMES", (*NAMES, "broken"))
    run = tiny_train(tmp_path, epochs=2, log=["broken"])
    assert len(run.rows) == 2
    said = capfd.readouterr().err
    sentence = r"logger broken failed and is left out from here on: the network is \x1b[31mdown"
    assert said.count(sentence) == 1


def test_one_that_cannot_be_made_is_left_out() -> None:
    said: list[str] = []
    logger = TolerantLogger("mine", lambda: Broken("x", Path("/dev/null/no")), said.append)
    logger.log_metrics({"loss": 1.0}, 1)
    logger.save()
    logger.finalize("success")
    assert len(said) <= 1


def test_patience_ends_a_run_whose_ap_does_not_rise(
    tiny_train: Train, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    """A rate of 0 changes nothing, so no epoch is better than the first."""
    still = ("training.lr=1e-12", "training.backbone_lr=0", "training.ema=null")
    run = tiny_train(tmp_path, *still, epochs=9, patience=2, name="still", val_every=1)
    best = max(row["AP"] for row in run.rows)
    first = next(row["epoch"] for row in run.rows if row["AP"] == best)
    assert len(run.rows) == first + 2 < 9
    assert "AP has not risen in 2 epochs: training ends here" in capfd.readouterr().err
    with pytest.raises(ValueError, match="ended as AP had not risen in 2 epochs"):
        train(resume=run.folder, quiet=True)
    more = train(resume=run.folder, patience=3, quiet=True)
    assert len(more.rows) > len(run.rows)


@pytest.mark.parametrize(
    ("measured", "stops"),
    [
        ({1: 0.1, 3: 0.1}, True),
        ({1: 0.1, 2: 0.1}, False),
        ({1: 0.2, 2: 0.1, 3: 0.1}, True),
        ({1: 0.1, 2: 0.2, 3: 0.1}, False),
        ({2: 0.1}, False),  # epochs went by, and none of them was measured
        ({}, False),
    ],
)
def test_only_measured_epochs_end_a_run(measured: dict[int, float], stops: bool) -> None:
    rows = [{"epoch": float(n), "AP": measured.get(n)} for n in range(1, 8)]
    assert stops_early(rows, 2) is stops
    assert not stops_early(rows, None)


def test_time_left_and_what_is_next_are_told(
    tiny_train: Train, tmp_path: Path, capfd: pytest.CaptureFixture[str], coco_folder: Path
) -> None:
    run = tiny_train(
        tmp_path, epochs=6, name="told", val_every=6, report=True
    )  # 4 updates an epoch
    said = capfd.readouterr().err.splitlines()
    left = [line for line in said if "of training left" in line]
    assert len(left) == 1
    assert re.fullmatch(r"about \d s of training left, validation not counted", left[0])
    assert said.index(left[0]) < next(i for i, line in enumerate(said) if "epoch 6/6" in line)
    assert said[said.index("next:") + 1] == f"  dabdetr predict --model {run.folder} IMAGES"
    assert f"  dabdetr val {run.folder} {coco_folder} --errors" in said
    with (run.folder / "results.csv").open() as file:
        assert len(list(csv.DictReader(file))) == 6


def test_callbacks_of_the_caller_are_called(tiny_train: Train, tmp_path: Path) -> None:
    from pytorch_lightning import Callback

    class Count(Callback):
        epochs = 0

        def on_train_epoch_end(self, *_: Any) -> None:
            self.epochs += 1

    count = Count()
    tiny_train(tmp_path, epochs=2, callbacks=[count], quiet=True)
    assert count.epochs == 2
