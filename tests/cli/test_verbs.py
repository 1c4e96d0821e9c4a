"""Every verb does its work on generated scenes: once as a process, else in this one."""

from __future__ import annotations

import json
import re
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
from PIL import Image
from typer.testing import CliRunner, Result

from dabdetr.cli import app
from dabdetr.data.images import read_image

TINY = [
    *("--model", "dab-detr-nano", "--epochs", "1", "--batch", "2", "--imgsz", "64"),
    *("--set", "training.effective_batch=2", "--set", "training.warmup=0"),
    *("--set", "model.encoder.layers=1", "--set", "model.decoder.layers=2"),
    *("--device", "cpu", "--workers", "0", "--seed", "1"),
]
COMMAND = [sys.executable, "-W", "error", "-c", "from dabdetr.cli import main; main()"]
runner = CliRunner()


def run(*arguments: object) -> Result:
    """The verb in this process; it has to succeed."""
    done = runner.invoke(app, [str(argument) for argument in arguments])
    assert done.exit_code == 0, done.stderr or done.exception
    return done


def process(*arguments: object, cwd: Path) -> subprocess.CompletedProcess[str]:
    """The verb as people run it."""
    done = subprocess.run(
        [*COMMAND, *map(str, arguments)],
        capture_output=True,
        text=True,
        cwd=cwd,
    )
    assert done.returncode == 0, done.stderr
    return done


@pytest.fixture
def images(coco_folder: Path) -> Path:
    return coco_folder / "val"


def test_an_interrupted_training_goes_on_as_a_process(coco_folder: Path, tmp_path: Path) -> None:
    options = [*TINY, "-o", "out/a"]
    options[options.index("1")] = "12"  # epochs
    running = subprocess.Popen(
        [*COMMAND, "train", "--data", str(coco_folder), *options],
        stderr=subprocess.PIPE,
        text=True,
    )
    folder = Path("out", "a")
    while running.poll() is None and not (folder / "last.safetensors").exists():
        time.sleep(0.05)
    running.send_signal(signal.SIGINT)
    _, stderr = running.communicate(timeout=120)
    assert running.returncode == 130, stderr
    assert "Traceback" not in stderr
    assert "--resume" in stderr
    assert len((folder / "results.csv").read_text().splitlines()) < 1 + 12
    document = json.loads(run("train", "--resume", folder, "--json").stdout)
    assert Path(document["folder"]).resolve() == folder.resolve()
    assert document["last"]["epoch"] == 12
    assert len((folder / "results.csv").read_text().splitlines()) == 1 + 12
    for file in ("best.safetensors", "last.ckpt", "results.csv", "curves.png", "config.yaml"):
        assert (folder / file).stat().st_size > 0
    found = json.loads(run("predict", "--model", folder, coco_folder / "val", "--json").stdout)
    assert len(found["images"]) == 4


def test_train_takes_a_config_and_files_given_apart(coco_folder: Path, tmp_path: Path) -> None:
    from dabdetr.presets import preset

    config = preset("dab-detr-nano").override(["name=mine", "model.decoder.layers=1"])
    config.save("mine.yaml")
    options = [option for option in TINY if option not in ("--model", "dab-detr-nano")]
    options[options.index("model.decoder.layers=2")] = "model.queries.count=5"
    annotations = _a_box_that_is_cut(coco_folder) / "annotations" / "instances_train.json"
    apart = ("--annotations", annotations, "--images", coco_folder / "train", "--quiet")
    done = run("train", "--config", "mine.yaml", *apart, *options, "--project", "here")
    assert done.stdout == ""
    assert done.stderr == ""
    (folder,) = Path("here").iterdir()
    from dabdetr.config import load

    saved = load(folder / "config.yaml")
    assert (saved.name, saved.model.queries.count) == ("mine", 5)
    assert saved.model.decoder.layers == 1


def test_val_as_a_process(coco_folder: Path, tiny_weights: Path, tmp_path: Path) -> None:
    done = process(
        *("val", "--model", tiny_weights, "--data", coco_folder, "--split", "train"),
        *("--json", "--coco", "results.json", "--device", "cpu", "--max-det", "5"),
        cwd=tmp_path,
    )
    document = json.loads(done.stdout)
    assert set(document["numbers"]) >= {"AP", "AP50", "AP75", "APS", "AR100"}
    assert len(document["per_class"]) == 10
    assert (document["images"], document["split"]) == (8, "train")
    rows = json.loads((tmp_path / "results.json").read_text())
    assert len(rows) == 8 * 5
    assert {row["image_id"] for row in rows} == set(range(1, 9))


def test_val_prints_tables(coco_folder: Path, tiny_weights: Path) -> None:
    done = run("val", "--model", tiny_weights, "--data", coco_folder, "--imgsz", "64")
    for word in ("AP", "IoU 0.50", "AP50", "objects"):
        assert word in done.stdout
    annotations = coco_folder / "annotations" / "instances_val.json"
    apart = ("--annotations", annotations, "--images", coco_folder / "val")
    quiet = run("val", "--model", tiny_weights, *apart, "--imgsz", "64", "--quiet")
    assert quiet.stdout == ""


def _a_box_that_is_cut(coco_folder: Path) -> Path:
    """A copy of the data set in which a box of each split reaches past its image."""
    shutil.copytree(coco_folder, "data")
    for path in Path("data", "annotations").iterdir():
        tree = json.loads(path.read_text())
        tree["annotations"][0]["bbox"] = [-9, 5, 20, 20]
        path.write_text(json.dumps(tree))
    return Path("data")


def test_boxes_that_are_cut_are_told_on_the_way(coco_folder: Path, tiny_weights: Path) -> None:
    """A quiet training is in ``test_train_takes_a_config_and_files_given_apart``."""
    data = _a_box_that_is_cut(coco_folder)
    said = "boxes that reach past their image: 1, cut to it (first: "
    val = ("val", "--model", tiny_weights, "--data", data)
    assert run(*val).stderr.count(said) == 1
    assert run("train", *TINY, "--data", data).stderr.count(said) == 2
    assert said not in run(*val, "--quiet").stderr


def test_val_of_generated_scenes(tiny_weights: Path) -> None:
    done = run("val", "--model", tiny_weights, "--data", "scenes:count=3", "--json")
    assert json.loads(done.stdout)["images"] == 3


def test_predict_as_a_process(images: Path, tiny_weights: Path, tmp_path: Path) -> None:
    done = process(
        *("predict", "--model", tiny_weights, images, "--conf", "0", "--max-det", "3", "--json"),
        *("--batch", "2", "--name", "a", "--coco", "found.json", "--device", "cpu"),
        cwd=tmp_path,
    )
    document = json.loads(done.stdout)
    names = [f"{index:03d}.png" for index in range(4)]
    assert [Path(each["source"]).name for each in document["images"]] == names
    folder = tmp_path / "runs" / "predict" / "a"
    assert sorted(path.name for path in folder.iterdir()) == names
    rows = json.loads((tmp_path / "found.json").read_text())
    assert [row["image_id"] for row in rows] == [index for index in range(4) for _ in range(3)]
    for each, name in zip(document["images"], names, strict=True):
        assert len(each["detections"]) == 3
        original, drawn = read_image(images / name), read_image(folder / name)
        assert drawn.shape == original.shape
        assert (drawn != original).any()


def test_predict_prints_a_table_and_counts_its_folders(images: Path, tiny_weights: Path) -> None:
    options = ("--model", tiny_weights, "--conf", "0", "--max-det", "1")
    done = run("predict", *options, images / "000.png", "--source", images / "001.png")
    assert "000.png" in done.stdout
    assert "2 objects in 2 images" in done.stdout
    assert "predict-1" in done.stderr
    run("predict", *options, images / "000.png")
    assert sorted(path.name for path in Path("runs/predict").iterdir()) == [
        "predict-1",
        "predict-2",
    ]


def test_predict_writes_nothing_when_told_so(images: Path, tiny_weights: Path) -> None:
    done = run("predict", "--model", tiny_weights, images, "--no-save", "--quiet")
    assert (done.stdout, done.stderr) == ("", "")
    assert list(Path().iterdir()) == []


def test_predict_keeps_images_of_one_name_apart(images: Path, tiny_weights: Path) -> None:
    for folder in ("a", "b"):
        Path(folder).mkdir()
        Path(folder, "x.png").write_bytes((images / "000.png").read_bytes())
    run("predict", "--model", tiny_weights, "a/x.png", "b/x.png", "--name", "c")
    assert sorted(path.name for path in Path("runs/predict/c").iterdir()) == ["x-2.png", "x.png"]


def test_predict_filters_by_class_and_score(images: Path, tiny_weights: Path) -> None:
    options = ("predict", "--model", tiny_weights, images, "--no-save", "--json")
    everything = json.loads(run(*options, "--conf", "0").stdout)["images"]
    some = json.loads(run(*options, "--conf", "0", "--classes", "1,4").stdout)["images"]
    for all_, few in zip(everything, some, strict=True):
        wanted = [row for row in all_["detections"] if row["name"] in "14"]
        assert few["detections"] == wanted
    assert sum(len(each["detections"]) for each in some) > 0
    none = json.loads(run(*options, "--conf", "1").stdout)["images"]
    assert all(each["detections"] == [] for each in none)


@pytest.mark.parametrize("size", [(1, 1), (20_000, 10)])
def test_predict_takes_images_of_any_shape(size: tuple[int, int], tiny_weights: Path) -> None:
    Image.new("RGB", size, (200, 30, 30)).save("odd.png")
    done = run("predict", "--model", tiny_weights, "odd.png", "--conf", "0", "--json")
    (image,) = json.loads(done.stdout)["images"]
    assert (image["width"], image["height"]) == size
    assert image["detections"]
    for row in image["detections"]:
        x0, y0, x1, y1 = row["box"]
        assert 0 <= x0 <= x1 <= size[0]
        assert 0 <= y0 <= y1 <= size[1]
    with Image.open(Path(json.loads(done.stdout)["folder"], "odd.png")) as drawn:
        assert drawn.size == size


def test_predict_passes_over_unreadable_images_when_told_so(
    images: Path, tiny_weights: Path
) -> None:
    Path("empty.png").write_bytes(b"")
    options = ("--model", str(tiny_weights), "--skip-unreadable", "--json", "--no-save")
    done = runner.invoke(app, ["predict", "empty.png", str(images / "000.png"), *options])
    assert done.exit_code == 1
    document = json.loads(done.stdout)
    assert len(document["images"]) == 1
    assert "empty.png" in document["skipped"][0]


def test_convert_as_a_process(tiny_weights: Path, tmp_path: Path) -> None:
    done = process("convert", tiny_weights, "half.safetensors", "--half", cwd=tmp_path)
    assert done.stdout == ""
    assert "tensors loaded" in done.stderr
    half = tmp_path / "half.safetensors"
    assert half.stat().st_size < 0.6 * tiny_weights.stat().st_size
    _agree(tiny_weights, half, 2e-3)


def test_convert_reports_as_json_and_overwrites_only_by_force(tiny_weights: Path) -> None:
    target = Path("model.safetensors")
    target.write_bytes(b"precious")
    refused = runner.invoke(app, ["convert", str(tiny_weights), str(target)])
    assert refused.exit_code == 2
    assert "--force" in refused.stderr
    assert target.read_bytes() == b"precious"
    document = json.loads(run("convert", tiny_weights, target, "--force", "--json").stdout)
    assert document["loaded"] > 100
    assert document["missing"] == document["unexpected"] == []
    _agree(tiny_weights, target, 0.0)


def _agree(first: Path, second: Path, tolerance: float) -> None:
    """Both files hold one model: config, names and weights."""
    import torch

    from dabdetr.checkpoints.native import load_model

    one, other = load_model(first).model, load_model(second).model
    assert one.config == other.config
    assert one.names == other.names
    states: list[dict[str, Any]] = [one.state_dict(), other.state_dict()]
    assert states[0].keys() == states[1].keys()
    for key, value in states[0].items():
        torch.testing.assert_close(states[1][key], value, rtol=tolerance, atol=tolerance)


def test_demo_as_a_process(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    done = process("demo", "--count", "20", "--images", "5", "--json", cwd=tmp_path)
    document = json.loads(done.stdout)
    assert document["images"] == 20
    assert document["numbers"]["AP50"] > 0.6  # of 20 scenes; 200 of them are scored elsewhere
    folder = tmp_path / "runs" / "demo" / "demo-1"
    scenes = [f"scene-{number}.png" for number in range(1, 6)]
    assert sorted(path.name for path in folder.iterdir()) == ["overview.png", *scenes]
    assert read_image(folder / "overview.png").shape == (2 * 480, 4 * 480, 3)
    found = [sorted(row["name"] for row in each["detections"]) for each in document["scenes"]]
    truth = [each["truth"] for each in document["scenes"]]
    assert len(truth) == 5
    assert sum(a == b for a, b in zip(found, truth, strict=True)) >= 2
    _samples_are_whole(tmp_path / "demo", "coco")
    monkeypatch.chdir(tmp_path)
    kept = run("demo", "--count", "1", "--to", "voc")
    assert "demo exists and is left as it is" in kept.stderr
    run("demo", "--count", "1", "--to", "yolo", "-o", "other", "-q")
    _samples_are_whole(tmp_path / "other", "yolo")


def _samples_are_whole(folder: Path, layout: str) -> None:
    """What the demo leaves: images, photographs, a large image, a video, labelled data."""
    from dabdetr.data.layouts import open_data
    from dabdetr.inference.sources import read_sources

    shapes = {each.array.shape for each in read_sources(folder / "images")}
    assert shapes == {(160, 160, 3)}
    photos = {Path(each.name).stem: each.array for each in read_sources(folder / "images/photos")}
    assert sorted(photos) == ["blood-1", "blood-2", "portrait"]
    assert min(min(pixels.shape[:2]) for pixels in photos.values()) >= 480
    assert read_image(folder / "large.png").shape[1] > 320 or layout == "yolo"  # of one scene
    assert sum(1 for _ in read_sources(folder / "clip.mp4")) == 20
    parts = {split: open_data(folder / "data", split) for split in ("train", "val")}
    assert {split: len(part) for split, part in parts.items()} == {"train": 8, "val": 4}
    for part in parts.values():
        assert part.names == tuple("0123456789")
        assert sum(len(part.record(index).labels) for index in range(len(part))) > 5
    assert (folder / "data" / "data.yaml").exists() == (layout == "yolo")


@pytest.mark.parametrize(
    "arguments",
    [
        ["train", "scenes", "--data", "mydata"],
        ["val", "scenes", "--model", "scenes"],
        ["val", "scenes", "scenes", "--data", "mydata"],
        ["export", "scenes", "--model", "scenes"],
    ],
)
def test_what_is_given_twice_is_refused(arguments: list[str]) -> None:
    done = runner.invoke(app, arguments)
    assert done.exit_code == 2
    assert f"scenes and {arguments[-2]} {arguments[-1]} were given" in done.stderr


def test_model_and_data_may_stand_without_their_options() -> None:
    done = json.loads(run("val", "scenes", "scenes:count=2", "--json").stdout)
    assert (done["model"], done["images"]) == ("scenes", 2)
    refused = runner.invoke(app, ["train", "no-such-folder"])
    assert (refused.exit_code, "no data folder no-such-folder" in refused.stderr) == (2, True)
    assert "no model was given" in runner.invoke(app, ["export"]).stderr


def test_precision_is_chosen_by_measuring_and_told(tmp_path: Path) -> None:
    image = tmp_path / "grey.png"
    Image.new("RGB", (160, 128), "grey").save(image)
    arguments = ["predict", "--model", "scenes", str(image), "--no-save"]
    done = run(*arguments, "--precision", "auto")
    assert re.search(r"computing in (fp32|bf16): a batch takes \d+ ms in bf16", done.stderr)
    assert "computing in" not in run(*arguments, "--precision", "auto", "--quiet").stderr


def test_val_writes_calibrated_weights() -> None:
    data = ("--data", "scenes:count=20")
    first = json.loads(
        run("val", "--model", "scenes", *data, "--json", "--calibrate", "c.safetensors").stdout
    )
    from dabdetr.checkpoints.native import load_model

    plain, changed = (load_model(name).model.config for name in ("scenes", "c.safetensors"))
    assert plain.inference.calibration is None
    assert changed.inference.calibration is not None
    assert 0 < changed.inference.conf < 1
    assert plain.model == changed.model
    again = json.loads(run("val", "--model", "c.safetensors", *data, "--json").stdout)
    assert again["numbers"]["AP"] == pytest.approx(first["numbers"]["AP"], abs=1e-6)
    assert abs(first["nms_gain"]["AP50"]) < 0.2
