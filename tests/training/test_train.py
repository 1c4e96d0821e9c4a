"""Training from one call: what the run folder holds, what is refused, and that it learns."""

from __future__ import annotations

import csv
import json
import shutil
from collections.abc import Callable
from html import escape
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image
from pytorch_lightning import Callback, LightningModule, Trainer
from safetensors import safe_open
from safetensors.torch import load_file
from tests.data.test_layouts import write_yolo

from dabdetr.checkpoints.native import load_model, save_model
from dabdetr.checkpoints.reading import read
from dabdetr.config import load
from dabdetr.data.layouts import open_data
from dabdetr.evaluation.evaluate import evaluate
from dabdetr.presets import PRESETS, preset
from dabdetr.training.history import COLUMNS
from dabdetr.training.nonfinite import NonFiniteLoss
from dabdetr.training.options import (
    Sources,
    choose_config,
    epochs_between_validations,
)
from dabdetr.training.train import Run, train

Train = Callable[..., Run]


def test_run_folder(short_run: Run, coco_folder: Path) -> None:
    folder = short_run.folder
    assert sorted(path.name for path in folder.iterdir()) == [
        "best.safetensors", "config.yaml", "curves.png", "last.ckpt", "last.safetensors",
        "previous.ckpt", "results.csv", "run.yaml",
    ]  # fmt: skip
    assert load(folder / "config.yaml") == short_run.config
    with Image.open(folder / "curves.png") as image:
        assert image.size[0] > 800
    rows = list(csv.DictReader((folder / "results.csv").read_text().splitlines()))
    assert [row["epoch"] for row in rows] == ["1", "2"]
    layers = [f"matching_changed_{at + 1}" for at in range(short_run.config.model.decoder.layers)]
    assert list(rows[0]) == [*COLUMNS, *layers]
    for row, own in zip(rows, short_run.rows, strict=True):
        assert float(row["loss"]) == pytest.approx(own["loss"], abs=1e-4)
        assert float(row["AP"]) == pytest.approx(own["AP"], abs=1e-4)
        assert float(row["images_per_second"]) > 0
        assert 100 < float(row["memory_mib"]) < 100_000
        assert 0 < float(row["cpu_seconds"]) < 100
    assert json.loads(json.dumps(short_run.to_dict()))["weights"].endswith("best.safetensors")


def test_a_run_leaves_a_report(tiny_train: Train, coco_folder: Path, tmp_path: Path) -> None:
    run = tiny_train(tmp_path, epochs=2, quiet=True, report=True)
    read = json.loads((run.folder / "report.json").read_text())
    assert read["about"]["verb"] == "train"
    assert [row["epoch"] for row in read["training"]] == [1, 2]
    assert read["numbers"]["AP"] == pytest.approx(run.ap, abs=1e-5)
    page = (run.folder / "report.html").read_text()
    assert "First batch, as training saw it" in page
    for name in ("loss", "validation", "rate", "first_batch", "precision_recall"):
        assert (run.folder / f"{name}.png").read_bytes().startswith(b"\x89PNG")
    assert 'id="figure-loss"' in page
    errors = read["errors"]
    assert errors["images"] == len(read["images"])
    missed = [row for row in errors["rows"] if row["side"] == "missed"]
    assert len(missed) == sum(row["missed"] for row in read["images"]) > 0
    assert all(row["query"] is not None for row in missed)  # of the decoder, not of detections
    pages = [each["page"] for each in errors["gallery"] if each["page"]]
    assert pages
    assert all((run.folder / each.partition("#")[0]).is_file() for each in pages)
    assert all(escape(each) in page for each in pages)
    # what the best weights find with their own thresholds, as val has it
    model = load_model(run.weights)
    again = evaluate(model.model, open_data(coco_folder, "val"))
    assert again.ap == pytest.approx(read["numbers"]["AP"], abs=1e-6)
    saved = json.loads((run.folder / "detections.json").read_text())
    mine = again.to_coco()
    assert len(saved) == len(mine)
    assert sorted(row["score"] for row in saved) == pytest.approx(
        sorted(row["score"] for row in mine), abs=1e-6
    )


def test_a_run_is_compared_with_an_earlier_one(
    tiny_train: Train, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    first = tiny_train(tmp_path, epochs=1, quiet=True, report=True)
    run = tiny_train(tmp_path, "training.seed=1", epochs=1, report=True, against=first.folder)
    read = json.loads((run.folder / "report.json").read_text())["against"]
    assert read["numbers"]["AP"]["this"] == pytest.approx(run.ap, abs=1e-5)
    assert read["numbers"]["AP"]["other"] == pytest.approx(first.ap, abs=1e-3)
    assert f"against {first.folder}: AP" in capsys.readouterr().err
    assert run.rows[0]["loss"] != first.rows[0]["loss"]  # as the seed is another
    with pytest.raises(FileNotFoundError, match="to compare with"):
        tiny_train(tmp_path, epochs=1, quiet=True, against=tmp_path / "none")


def test_weights_stay_where_no_report_can_be_written(
    tiny_train: Train, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    class Blocking(Callback):
        """Something stands in the report's place."""

        def on_train_end(self, trainer: Any, pl_module: Any) -> None:
            (tmp_path / "run" / "report.json").mkdir()

    run = tiny_train(tmp_path, epochs=1, name="run", report=True, callbacks=[Blocking()])
    assert run.weights.exists()
    assert "no report: " in capsys.readouterr().err


def test_loss_is_the_weighted_sum_of_all_layers(short_run: Run) -> None:
    for row in short_run.rows:
        last = 2 * row["loss_ce"] + 5 * row["loss_bbox"] + 2 * row["loss_giou"]
        assert row["loss"] > 1.5 * last > 0  # two layers, of which the first is hardly better


def test_best_weights_are_those_that_were_measured(short_run: Run, coco_folder: Path) -> None:
    with safe_open(short_run.folder / "best.safetensors", "pt") as file:
        about = file.metadata()
    best = max(short_run.rows, key=lambda row: (row["AP"], row["epoch"]))
    assert about["epoch"] == str(best["epoch"])
    model = load_model(short_run.weights).model
    assert model.names == tuple("0123456789")
    again = evaluate(model, open_data(coco_folder, "val"))
    assert again.ap == pytest.approx(short_run.ap, abs=1e-6)
    assert again.ap50 == pytest.approx(short_run.ap50, abs=1e-6)
    for size in ("APS", "APM", "APL"):
        assert (best[size] is None) == (again.numbers[size] < 0)
        assert best[size] is None or again.numbers[size] == pytest.approx(best[size], abs=1e-6)


def test_saved_weights_are_the_averaged_ones(short_run: Run) -> None:
    saved = load_file(short_run.folder / "last.safetensors")
    state = torch.load(short_run.folder / "last.ckpt", weights_only=True)
    raw, average = state["current_model_state"], state["state_dict"]
    assert all(torch.equal(value, average[f"detector.{key}"]) for key, value in saved.items())
    assert not torch.equal(saved["queries.anchors"], raw["detector.queries.anchors"])
    statistics = [key for key in saved if key.endswith("running_mean")]
    assert statistics
    assert any(not torch.equal(saved[key], raw[f"detector.{key}"]) for key in statistics)


def test_without_averaging_raw_weights_are_saved(
    tiny_train: Train, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    run = tiny_train(tmp_path, "training.ema=null", epochs=1, quiet=True)
    saved = load_file(run.folder / "last.safetensors")
    state = torch.load(run.folder / "last.ckpt", weights_only=True)["state_dict"]
    assert all(torch.equal(value, state[f"detector.{key}"]) for key, value in saved.items())
    printed = capfd.readouterr()
    assert printed.err == printed.out == ""  # it was a quiet run


def test_terminal_output(
    tiny_train: Train, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    tiny_train(tmp_path, "training.effective_batch=6", epochs=2, name="talk")
    printed = capfd.readouterr()
    assert printed.out == ""
    assert "8 images to train on, 4 to validate, 10 classes" in printed.err
    assert "6 images per optimizer step, 2 at a time\n" in printed.err
    assert "warm-up" not in printed.err
    assert "epoch 2/2  loss" in printed.err
    assert "best epoch" in printed.err
    assert str(tmp_path / "talk") in printed.err
    assert "lightning" not in printed.err.lower()


def test_updates_are_told_as_they_are(
    tiny_train: Train, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    tiny_train(tmp_path, "training.effective_batch=16", "training.warmup=3", epochs=2)
    printed = capfd.readouterr().err
    assert "every optimizer step uses all 8 images\n" in printed
    assert "warm-up takes 3 optimizer steps and the run has 2: " in printed
    tiny_train(tmp_path, "training.effective_batch=3", "training.warmup=2", epochs=1)
    printed = capfd.readouterr().err
    assert "4 images per optimizer step, 2 at a time (3 were asked for)\n" in printed
    assert "warm-up" not in printed


def test_progress_bar(
    tiny_train: Train,
    tmp_path: Path,
    capfd: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("FORCE_COLOR", "1")
    monkeypatch.setenv("COLUMNS", "140")
    tiny_train(tmp_path, epochs=2)
    printed = capfd.readouterr().err
    assert "epoch 2/2" in printed
    assert "8/8" in printed  # batches of the whole run
    assert "left" in printed


def test_last_partial_gathering_still_steps(straight_run: Run) -> None:
    """Four batches of two, three to an update: 2 updates an epoch."""
    assert [row["updates"] for row in straight_run.rows] == [2, 4, 6, 8]


def test_partial_gathering_is_a_mean(tiny_train: Train, tmp_path: Path) -> None:
    """Gathering 8 where an epoch has only 4 batches is gathering 4."""
    runs = [
        tiny_train(tmp_path, f"training.effective_batch={n}", "training.clip=0", quiet=True)
        for n in (8, 16)
    ]
    ours, theirs = (load_file(run.folder / "last.safetensors") for run in runs)
    assert [run.rows[-1]["updates"] for run in runs] == [1, 1]
    assert all(torch.equal(ours[key], theirs[key]) for key in ours)


def test_a_val_split_without_objects_is_said(
    tiny_train: Train, coco_folder: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    shutil.copytree(coco_folder, tmp_path / "empty")
    place = tmp_path / "empty" / "annotations" / "instances_val.json"
    place.write_text(json.dumps(json.loads(place.read_text()) | {"annotations": []}))
    run = tiny_train(tmp_path, data=tmp_path / "empty", epochs=1)
    assert run.ap is None
    said = capfd.readouterr().err
    assert "val splits without any object: 1, validated on, but AP stays empty" in said


def test_no_validation_split(
    tiny_train: Train, coco_folder: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    run = tiny_train(
        tmp_path,
        data=None,
        annotations=coco_folder / "annotations" / "instances_train.json",
        images=coco_folder / "train",
        report=True,
    )
    assert run.ap is None
    assert run.weights == run.folder / "last.safetensors"
    assert not (run.folder / "best.safetensors").exists()
    assert (run.folder / "results.csv").read_text().splitlines()[1].split(",")[9] == ""
    said = capfd.readouterr().err
    assert "no val split" in said
    assert "  dabdetr predict --model" in said
    assert "  dabdetr val" not in said  # it would find no split to evaluate on
    earlier = tmp_path / "earlier.json"
    earlier.write_text("[]")
    parts = {"annotations": coco_folder / "annotations" / "instances_train.json"}
    parts["images"] = coco_folder / "train"
    with pytest.raises(ValueError, match="which the data do not have; add --split"):
        tiny_train(tmp_path, data=None, against=earlier, **parts)


def test_validation_given_apart_and_every_other_epoch(
    tiny_train: Train, coco_folder: Path, tmp_path: Path
) -> None:
    run = tiny_train(
        tmp_path,
        annotations=coco_folder / "annotations" / "instances_train.json",
        images=coco_folder / "train",
        val_annotations=coco_folder / "annotations" / "instances_val.json",
        val_images=coco_folder / "val",
        val_every=2,
        epochs=3,
        quiet=True,
    )
    assert [row["AP"] is None for row in run.rows] == [True, False, False]


def test_long_runs_are_validated_about_twenty_times() -> None:
    assert [epochs_between_validations(n) for n in (1, 20, 41, 400)] == [1, 1, 2, 20]


def test_trains_on_a_folder_of_yolo(tiny_train: Train, coco_folder: Path, tmp_path: Path) -> None:
    for split in ("train", "val"):
        write_yolo(open_data(coco_folder, split), tmp_path / "mine", split)
    runs = [
        tiny_train(tmp_path, data=data, quiet=True) for data in (tmp_path / "mine", coco_folder)
    ]
    assert runs[0].rows[0]["loss"] == pytest.approx(runs[1].rows[0]["loss"], rel=1e-5)
    assert runs[0].ap == pytest.approx(runs[1].ap, abs=1e-4)


def test_starts_from_weights_with_their_config(
    tiny_weights: Path, coco_folder: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    run = train(
        coco_folder,
        tiny_weights,
        overrides=["training.lr=1e-12", "training.backbone_lr=0", "training.weight_decay=0"],
        project=tmp_path,
    )
    assert "tensors loaded (dabdetr format 1)" in capfd.readouterr().err
    before, after = load_file(tiny_weights), load_file(run.folder / "last.safetensors")
    for key in before:  # also the batch statistics of a backbone that rests
        torch.testing.assert_close(after[key], before[key], rtol=0, atol=1e-6)


QUICK = ("dab-detr-nano", "dino-nano")
"""Members that learn in `make test`; the others take minutes together."""


@pytest.mark.parametrize(
    "name",
    [
        pytest.param(name, marks=() if name in QUICK else pytest.mark.slow)
        for name in PRESETS
        if name.endswith("-nano")
    ],
)
def test_every_member_learns_four_scenes(
    name: str,
    tmp_path: Path,
    write_coco_scenes: Callable[..., Path],
    capfd: pytest.CaptureFixture[str],
) -> None:
    """From random weights, in seconds: loss falls to a fifth, digits are found, nothing is wrong.

    Batch norms rest: what they learn from single images is unlike what they judge them by. DETR
    is slower by nature and has more epochs; some losses keep what cannot be learned, the noise of
    denoised boxes, and fall to a third.
    """
    folder = write_coco_scenes(tmp_path / "four", "scenes:size=96,objects=4", 4)
    epochs = 90 if name == "detr-nano" else 60
    config = preset(name).override(
        [
            *("model.encoder.layers=1", "model.decoder.layers=2", "model.queries.count=16"),
            *(
                "image.size=96",
                "image.max_size=96",
                f"training.epochs={epochs}",
                "training.batch=1",
            ),
            *("training.effective_batch=1", "training.lr=1e-3", "training.backbone_lr=1e-3"),
            *("training.warmup=20", "training.ema=0.9", "training.precision=fp32"),
        ]
    )
    if config.model.backbone.kind == "timm":
        config = config.override(["model.backbone.norm=frozen"])
    config.save(tmp_path / "overfit.yaml")
    run = train(folder, tmp_path / "overfit.yaml", project=tmp_path, val_every=epochs)
    assert "diagnosis:" not in capfd.readouterr().err
    losses = [row["loss"] for row in run.rows]
    noisy = config.model.denoising is not None
    assert losses[-1] < (0.33 if noisy else 0.2) * losses[0]
    assert run.ap50 is not None
    assert run.ap50 > 0.7


# What is refused


def test_weights_do_not_carry_the_precision_of_their_run(tiny_weights: Path) -> None:
    assert load_model(tiny_weights).model.config.training.precision == "auto"
    own = load_model(tiny_weights, overrides=["training.precision=bf16"]).model
    save_model(tiny_weights.with_name("bf16.safetensors"), own)
    source = tiny_weights.with_name("bf16.safetensors")
    assert choose_config(source).training.precision == "auto"
    asked = choose_config(source, overrides=["training.precision=fp32"])
    assert asked.training.precision == "fp32"


def test_existing_run_is_not_overwritten(tiny_train: Train, short_run: Run) -> None:
    before = {path: path.read_bytes() for path in short_run.folder.iterdir()}
    with pytest.raises(FileExistsError, match="exists and is not overwritten"):
        tiny_train(short_run.folder.parent, name=short_run.folder.name, quiet=True)
    assert before == {path: path.read_bytes() for path in short_run.folder.iterdir()}


def test_folder_that_cannot_be_written(tiny_train: Train, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("not a folder")
    with pytest.raises(OSError, match=r"file/runs.* cannot be written \(not a dir"):
        tiny_train(tmp_path / "file" / "runs", quiet=True)
    assert [path.name for path in tmp_path.iterdir()] == ["file"]


def test_a_failed_start_leaves_nothing(tiny_train: Train, tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="no weights 'nowhere'"):
        tiny_train(tmp_path / "a" / "b", start="nowhere", quiet=True)
    assert list(tmp_path.iterdir()) == []


def test_an_option_that_there_is_not_is_refused() -> None:
    with pytest.raises(TypeError, match="no option epoch of a training; did you mean epochs"):
        train("scenes:count=2", "dab-detr-nano", epoch=1)  # pyright: ignore[reportCallIssue]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (
            {"model": "dab-detr-r500"},
            "no preset 'dab-detr-r500'; did you mean dab-detr-r50.*`dabdetr models` lists",
        ),
        ({"model": "dab-detr-nan"}, "did you mean dab-detr-nano?"),
        ({"model": "scene"}, "did you mean scenes?"),
        ({"model": "yolo"}, "no preset 'yolo'; `dabdetr models` lists them"),
        ({"model": "nowhere.yaml"}, "no config file nowhere.yaml"),
        ({"model": "nowhere.safetensors"}, "no weights 'nowhere.safetensors'"),
        ({"device": "tpu"}, "no device 'tpu'"),
        ({"overrides": ["training.speed=1"]}, "training has no field 'speed'"),
        ({"epochs": 0}, "training.epochs"),
        ({"overrides": ["training.precision=fp16"], "device": "cpu"}, "needs a GPU"),
        ({"data": None}, "no data"),
        ({"val_images": "x"}, "go together"),
    ],
)
def test_bad_options(
    options: dict[str, object], message: str, coco_folder: Path, tmp_path: Path
) -> None:
    options = {"data": coco_folder, "model": "dab-detr-nano", "quiet": True} | options
    with pytest.raises((ValueError, FileNotFoundError), match=message):
        train(project=tmp_path / "runs", **options)  # pyright: ignore
    assert not (tmp_path / "runs").exists()


def test_data_without_an_object_to_learn(
    tiny_train: Train, tmp_path: Path, coco_folder: Path
) -> None:
    tree = json.loads((coco_folder / "annotations" / "instances_train.json").read_text())
    crowds = [row | {"iscrowd": 1} for row in tree["annotations"]]
    (tmp_path / "crowds.json").write_text(json.dumps(tree | {"annotations": crowds}))
    with pytest.raises(ValueError, match="no annotated object"):
        tiny_train(
            tmp_path / "runs",
            annotations=tmp_path / "crowds.json",
            images=coco_folder / "train",
            quiet=True,
        )
    assert not (tmp_path / "runs").exists()


def test_classes_that_only_one_split_lists_are_known_to_both(
    tiny_train: Train, tmp_path: Path, coco_folder: Path
) -> None:
    tree = json.loads((coco_folder / "annotations" / "instances_val.json").read_text())
    tree["categories"][3]["name"] = "three"
    (tmp_path / "other.json").write_text(json.dumps(tree))
    run = tiny_train(
        tmp_path / "runs",
        val_annotations=tmp_path / "other.json",
        val_images=coco_folder / "val",
        quiet=True,
    )
    assert load_model(run.weights).model.names == (*map(str, range(10)), "three")
    train, val = run.data
    told = {each["kind"]: each for each in train["findings"]}
    assert told["class-split"]["examples"] == [f"'three' is not in {coco_folder.name} train"]
    assert [each["kind"] for each in val["findings"]] == ["class-split"]


def test_diverging_run_stops_and_keeps_the_last_good_state(
    tiny_train: Train, tmp_path: Path
) -> None:
    with pytest.raises(NonFiniteLoss, match=r"not finite.* .*last\.ckpt holds") as caught:
        tiny_train(
            tmp_path,
            "training.lr=1e25",
            "training.backbone_lr=1e25",
            epochs=3,
            name="hot",
            quiet=True,
        )
    assert "\n" not in str(caught.value)
    state = torch.load(tmp_path / "hot" / "last.ckpt", weights_only=True)
    assert all(value.isfinite().all() for value in state["current_model_state"].values())


class Cut(Callback):
    """Cuts an image file in half at the start of an epoch, counted from 0."""

    def __init__(self, path: Path, epoch: int) -> None:
        self.path, self.epoch = path, epoch

    def on_train_epoch_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if trainer.current_epoch == self.epoch:
            self.path.write_bytes(self.path.read_bytes()[: self.path.stat().st_size // 2])


@pytest.mark.parametrize("epoch", [0, 1])
def test_only_a_run_that_never_began_leaves_nothing(
    tiny_train: Train, write_coco_scenes: Callable[..., Path], tmp_path: Path, epoch: int
) -> None:
    folder = write_coco_scenes(tmp_path / "data", "scenes:size=96,objects=3", 4)
    image = next((folder / "train").iterdir())
    with pytest.raises(ValueError, match=image.name):
        tiny_train(
            tmp_path / "runs",
            data=folder,
            epochs=3,
            name="broken",
            quiet=True,
            callbacks=[Cut(image, epoch)],
        )
    assert (tmp_path / "runs" / "broken" / "last.ckpt").exists() == (epoch > 0)
    assert (tmp_path / "runs" / "broken").exists() == (epoch > 0)


def test_epochs_follow_from_images(tiny_train: Train, tmp_path: Path) -> None:
    tiny = load(tiny_train(tmp_path, "training.images=1", quiet=True).folder / "config.yaml")
    assert tiny.training.epochs == 1
    config = choose_config("dab-detr-nano", overrides=["training.images=1000"])
    asked = choose_config("dab-detr-nano", epochs=7, overrides=["training.images=1000"])
    assert asked.training.images == 1000  # an override has the last word
    config.save(tmp_path / "own.yaml")
    for options in ({"epochs": 7}, {"overrides": ["training.epochs=7"]}):
        own = choose_config(tmp_path / "own.yaml", **options)
        assert (own.training.epochs, own.training.images) == (7, None)


def test_sources_are_kept_as_they_were_given(tmp_path: Path) -> None:
    given = Sources(data="data", split=0.2, box_format="xyxy", val_every=3)
    given.save(tmp_path / "run.yaml")
    kept = Sources.load(tmp_path / "run.yaml")
    assert kept == given.model_copy(update={"data": str(Path("data").resolve())})
    (tmp_path / "run.yaml").write_text("data: scenes\nsplit: 2.0\n")
    with pytest.raises(ValueError, match=r"run.yaml: split: .* less than 1"):
        Sources.load(tmp_path / "run.yaml")


def test_thresholds_are_chosen_at_the_end(
    write_coco_scenes: Callable[[Path, str, int], Path], tmp_path: Path
) -> None:
    """From the shipped detector of digits, which is right often enough for a threshold."""
    data = write_coco_scenes(tmp_path / "digits", "scenes:size=160", 12)
    run = train(
        data,
        "scenes",
        overrides=["training.lr=1e-9", "training.backbone_lr=1e-9", "training.ema=null"],
        epochs=1,
        project=tmp_path,
        quiet=True,
    )
    shipped, trained = load_model("scenes").model.config, load_model(run.weights).model.config
    assert trained.inference.calibration is not None
    assert trained.inference.conf != shipped.inference.conf
    assert read(run.weights).metadata["epoch"] == "1"
    assert float(read(run.weights).metadata["AP"]) == pytest.approx(run.ap, abs=1e-5)
    again = choose_config(run.weights).inference  # another training chooses anew
    assert (again.calibration, again.class_conf) == (None, {})
