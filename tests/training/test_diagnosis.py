"""Live diagnosis: planted causes are told once, with what to do; healthy runs are silent."""

from __future__ import annotations

import csv
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from pytorch_lightning import Callback, Trainer
from tests.conftest import write_coco

from dabdetr.checkpoints.native import save_model
from dabdetr.config import Config, load
from dabdetr.data.layouts import open_data
from dabdetr.model.detector import build
from dabdetr.structures import Predictions, Targets
from dabdetr.training.diagnosis import EpochStatistics, faults
from dabdetr.training.history import Row
from dabdetr.training.matching import Assignment
from dabdetr.training.train import Run, train

Train = Callable[..., Run]
RECORDS = sorted((Path(__file__).parents[2] / "experiments" / "ladder").rglob("results.csv"))


def read(path: Path) -> list[Row]:
    with path.open() as file:
        return [
            {name: float(value) if value else None for name, value in row.items()}
            for row in csv.DictReader(file)
        ]


def told(rows: list[Row], config: Config, objects: int = 10_000) -> set[str]:
    """Names of all faults that would have been told on the way, with so many objects an epoch."""
    ends = range(1, len(rows) + 1)
    return {name for end in ends for name, _ in faults(rows[:end], config, objects=objects)}


def test_of_many_recorded_runs_only_those_are_told_that_went_wrong() -> None:
    """DETR at the rate of the others diverges in the first epochs, or learns nothing for some."""
    found = {
        path.parent.name: names
        for path in RECORDS
        if (names := told(read(path), load(path.parent / "config.yaml")))
    }
    assert len(RECORDS) > 60
    assert all(name.startswith("detr") for name in found), found
    assert found["detr-fast-96-0"] >= {"loss", "loss_ce"}


def lines(capfd: pytest.CaptureFixture[str]) -> list[str]:
    return [line for line in capfd.readouterr().err.splitlines() if line.startswith("diagnosis: ")]


def test_too_few_queries(
    tiny_train: Train, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    tiny_train(tmp_path, "model.queries.count=1", epochs=3)
    (line,) = lines(capfd)
    assert "model.queries.count is 1" in line
    assert "give more --queries" in line


def test_slow_images(
    tiny_train: Train, tmp_path: Path, coco_folder: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    """Large files whose every pixel is read, and few of which are kept."""
    import shutil

    data = shutil.copytree(coco_folder, tmp_path / "data")
    noise = np.random.default_rng(0).integers(0, 255, (900, 900, 3), np.uint8)
    for split in ("train", "val"):
        path = data / "annotations" / f"instances_{split}.json"
        document = json.loads(path.read_text())
        for image in document["images"]:
            file = data / split / image["file_name"]
            large = np.tile(noise, (4, 4, 1))
            Image.fromarray(large).save(file, compress_level=0)
            image["width"] = image["height"] = 3600
        path.write_text(json.dumps(document))
    tiny_train(tmp_path / "runs", epochs=1, data=data)
    (line,) = lines(capfd)
    assert "of the time goes into waiting for images after epoch 1; give --workers 2" in line


def test_anchors_out_of_range(
    tiny_train: Train, tiny_config: Config, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    torch.manual_seed(0)
    detector = build(tiny_config, [str(digit) for digit in range(10)])
    with torch.no_grad():
        detector.state_dict()["queries.anchors"].copy_(torch.full((12, 4), 20.0))
    save_model(tmp_path / "out.safetensors", detector)
    tiny_train(tmp_path / "runs", epochs=1, start=tmp_path / "out.safetensors")
    assert any("of the anchors lie on the border of the image or beyond" in x for x in lines(capfd))


def test_a_rate_that_learns_nothing(
    tiny_train: Train, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    still = ("training.lr=1e-12", "training.backbone_lr=0", "training.ema=null", "model.dropout=0")
    tiny_train(tmp_path, *still, "training.batch=1", "training.effective_batch=1", epochs=14)
    said = lines(capfd)
    assert [line for line in said if "loss_ce stands" in line and "raise --lr" in line]
    assert [line for line in said if "loss_giou stands" in line and "boxes are not learned" in line]
    assert len(said) == len(set(said)) == 2  # each once, nothing else


def test_a_rate_that_is_too_high(
    tiny_train: Train, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    hot = ("training.lr=0.05", "training.backbone_lr=0.05", "training.batch=1")
    tiny_train(tmp_path, *hot, "training.effective_batch=1", "training.clip=0", epochs=14)
    said = lines(capfd)
    assert any("the learning rate of 0.05 is high" in line for line in said)
    assert any("have another query than an epoch before" in line for line in said)


def test_weights_that_are_blown_up(
    tiny_train: Train, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    class Planted(Callback):
        def on_train_epoch_start(self, trainer: Trainer, pl_module: Any) -> None:
            if trainer.current_epoch >= 13:
                with torch.no_grad():
                    for parameter in pl_module.detector.decoder.parameters():
                        parameter.mul_(3)

    one = ("training.batch=1", "training.effective_batch=1", "training.ema=null")
    tiny_train(tmp_path, *one, epochs=15, callbacks=[Planted()])
    said = lines(capfd)
    assert any("the gradient's norm is" in line and "lower --lr" in line for line in said)
    assert any("the loss rises" in line and "training.warmup" in line for line in said)


def test_queries_that_are_all_alike(
    tiny_train: Train,
    tiny_config: Config,
    tmp_path: Path,
    capfd: pytest.CaptureFixture[str],
    write_coco_scenes: Callable[[Path, str, int], Path],
) -> None:
    data = write_coco_scenes(tmp_path / "data", "scenes:objects=1,size=64", 150)
    config = tiny_config.override(["model.queries.count=40"])
    torch.manual_seed(0)
    detector = build(config, [str(digit) for digit in range(10)])
    with torch.no_grad():
        for part in (detector.queries.anchors, detector.queries.content):
            part.copy_(part[:1].clone().expand_as(part))
    save_model(tmp_path / "alike.safetensors", detector)
    still = ("training.lr=1e-12", "training.backbone_lr=0", "training.effective_batch=4")
    alike = ("model.queries.count=40", "model.dropout=0", "training.batch=4")
    given = {"data": data, "start": tmp_path / "alike.safetensors", "epochs": 3}
    tiny_train(tmp_path / "runs", *still, *alike, **given)
    said = lines(capfd)
    assert any("of the queries get none of" in line and "prune" in line for line in said)


def test_four_images_are_learned_by_heart(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    """The included model, trained on four scenes without augmentation at ten times its rate."""
    write_coco(tmp_path / "data", "train", open_data("scenes:size=96,objects=3", "train"), 4)
    write_coco(tmp_path / "data", "val", open_data("scenes:size=96,objects=3", "val"), 8)
    hot = ("training.lr=1e-3", "training.backbone_lr=1e-3", "training.schedule=constant")
    plain = ("augment=none", "training.ema=null", "training.warmup=0", "training.precision=fp32")
    update = ("training.batch=1", "training.effective_batch=1")
    options = {"epochs": 40, "val_every": 8, "report": False, "project": tmp_path / "runs"}
    train(tmp_path / "data", "scenes", overrides=[*hot, *plain, *update], **options)
    (line,) = lines(capfd)
    assert "while the loss falls: the images are learned by heart" in line


def record(epochs: int, **columns: Callable[[int], float | None]) -> list[Row]:
    """A healthy run's rows, some columns of which are functions of the epoch."""
    usual: dict[str, Callable[[int], float | None]] = {
        "epoch": float,
        "updates": lambda n: 50.0 * n,
        "loss": lambda n: 10 * 0.9**n,
        "loss_ce": lambda n: 1.5 * 0.9**n,
        "loss_giou": lambda n: 0.9**n,
        "AP": lambda n: 0.02 * n,
        "AP50": lambda n: 0.04 * n,
        "grad_norm": lambda n: 8.0 + n,
        "loading": lambda n: 0.05,
        "matching_changed": lambda n: None if n == 1 else 0.9 / n,
        "dead_queries": lambda n: 0.4,
        "anchors_outside": lambda n: 0.02,
    }
    return [{k: f(n) for k, f in (usual | columns).items()} for n in range(1, epochs + 1)]


@pytest.mark.parametrize(
    ("name", "columns"),
    [
        ("loss", {"loss": lambda n: 4.0 if n < 8 else 6.0}),
        ("gradients", {"grad_norm": lambda n: 5.0 if n < 9 else 500.0}),
        ("loading", {"loading": lambda n: 0.6}),
        ("anchors", {"anchors_outside": lambda n: 0.9}),
        ("dead", {"dead_queries": lambda n: 0.95}),
        ("gap", {"AP": lambda n: 0.5 - 0.04 * abs(n - 5)}),
        (
            "matching",
            {"AP": lambda n: 0.0, "AP50": lambda n: 0.0, "matching_changed": lambda n: 0.9},
        ),
        ("loss_ce", {"AP": lambda n: 0.0, "AP50": lambda n: 0.0, "loss_ce": lambda n: 1.5}),
        ("loss_giou", {"AP": lambda n: 0.0, "AP50": lambda n: 0.0, "loss_giou": lambda n: 1.1}),
    ],
)
def test_each_fault_is_told_alone(tiny_config: Config, name: str, columns: dict[str, Any]) -> None:
    assert told(record(12), tiny_config) == set()
    assert told(record(12, **columns), tiny_config) == {name}
    sentence = next(s for _, s in faults(record(12, **columns), tiny_config, objects=10_000))
    assert "\n" not in sentence
    assert len(sentence) < 300


def test_queries_are_not_dead_where_there_are_few_objects(tiny_config: Config) -> None:
    rows = record(12, dead_queries=lambda n: 0.95)
    assert told(rows, tiny_config, objects=3 * tiny_config.model.queries.count) == {"dead"}
    assert told(rows, tiny_config, objects=tiny_config.model.queries.count) == set()
    now_and_then = record(12, dead_queries=lambda n: 0.95 if n % 3 else 0.5)
    assert told(now_and_then, tiny_config) == set()


def test_matching_is_compared_by_image_and_layer() -> None:
    watch = EpochStatistics()

    def epoch(first: list[int], second: list[int], counts: tuple[int, int] = (2, 1)) -> None:
        """Queries that two layers take for the objects of images a and b, in this order."""
        total = sum(counts)
        logits, boxes = torch.zeros(2, 2, 5, 3), torch.zeros(2, 2, 5, 4)
        anchors = torch.full((2, 5, 4), 0.5)
        anchors[:, 0, 0] = 0.0
        targets = Targets(torch.zeros(total), torch.zeros(total, 4), counts, names=("a", "b"))
        layer = torch.tensor([0] * total + [1] * total)
        pairs = Assignment(
            layer, torch.zeros(2 * total), torch.tensor(first + second),
            torch.arange(total).repeat(2),
        )  # fmt: skip
        watch.reset()
        watch.add(Predictions(logits, boxes, (anchors, anchors)), targets, pairs)

    epoch([0, 1, 2], [0, 1, 3])
    assert watch.changed().tolist() == []
    assert watch.row()["dead_queries"] == pytest.approx(1 / 5)
    assert watch.row()["anchors_outside"] == pytest.approx(1 / 5)
    epoch([0, 1, 2], [0, 2, 3])
    assert watch.changed().tolist() == pytest.approx([0, 1 / 3])
    row = watch.row()
    assert row["matching_changed_1"] == 0
    assert row["matching_changed_2"] == row["matching_changed"] == pytest.approx(1 / 3)
    again = EpochStatistics()
    again.load_state_dict(watch.state_dict())
    assert again.row() == watch.row()
    epoch([4, 3], [4, 3], (1, 1))  # of a there is another number now: only b counts
    assert watch.changed().tolist() == [1.0, 0.0]
    assert watch.row()["dead_queries"] == pytest.approx(3 / 5)
    assert watch.crowded == 0
    assert watch.objects == 2
    assert again.objects == 3
