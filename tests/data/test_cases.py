"""Data sets as tools and people really make them: each gives what its expected.txt says."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from typer.testing import CliRunner

from dabdetr import Predictor
from dabdetr.cli import app
from dabdetr.data.layouts import open_data, open_training, splits
from dabdetr.training.train import train as run_training

SHARED = Path(os.environ.get("DABDETR_DATA", Path(__file__).parents[3] / "shared" / "data"))
CASES = SHARED.parent / "cases" / "data-files"

pytestmark = pytest.mark.skipif(not CASES.is_dir(), reason="needs the cases in ../shared")

READ: dict[str, tuple[list[int], str]] = {
    # case → boxes of each image to train on, kinds of findings
    "01": ([2, 2, 2], "split-only"),
    "02": ([2, 2], "annotation-id"),
    "04": ([2, 2], "name-cleaned split-only"),
    "05": ([2, 2], "split-only"),
    "07": ([2, 2], "split-only"),
    "08": ([2, 2], "split-only"),
    "09": ([2, 2], "split-stand-in"),
    "10": ([2, 2], "class-grouping"),
    "11": ([2, 2], "box-from-shape"),
    "12": ([1, 2], "box-empty"),
    "13": ([2], "line-separators"),
    "14": ([2, 2], ""),
    "15": ([2, 2, 2, 2, 2], ""),
    "16": ([2, 2], "name-cleaned split-only"),
    "17": ([2, 2], "name-cleaned split-only"),
    "18": ([1, 1, 0], "split-only"),
    "19": ([1, 1], "box-swapped split-only"),
    "20": ([2, 2], "id-text"),
    "21": ([2, 2], "id-text id-numbered"),
    "22": ([2], "image-unknown image-unlisted"),
    "23": ([2, 2], "image-missing"),
    "24": ([2, 2], "class-name-repeated"),
    "25": ([2, 2], ""),
    "26": ([2, 2, 3], "label-shared line-twice box-rotated"),
    "27": ([3, 2], "box-cut"),
    "29": ([2, 2], "split-empty"),
    "30": ([2, 2], "class-split class-empty"),
    "31": ([1, 1], "split-only"),
    "32": ([2, 2], "split-only"),
    "33": ([2, 2], ""),
    "34": ([2, 2], "name-cleaned"),
    "35": ([2, 2], "name-cleaned"),
    "36": ([2, 2], ""),
    "37": ([2, 2], "class-unknown"),
    "38": ([2, 2], "image-damaged"),
    "39": ([2], "split-missing"),
    "40": ([1, 1], ""),
    "41": ([2, 2], ""),
    "43": ([2, 2], ""),
    "44": ([2, 2], "class-empty"),
    "45": ([2, 2, 2], ""),
    "46": ([2, 2], "size-scaled"),
    "47": ([2, 2, 2], "box-corners"),
    "48": ([2, 2, 2], "box-relative"),
    "49": ([2, 2], "annotation-id"),
    "53": ([2], "box-pixels"),
    "54": ([2], "line-confidence"),
    "55": ([2], "line-keypoints-declared"),
    "57": ([2, 2], ""),
    "58": ([1, 1], "name-cleaned split-only"),
    "59": ([1], "encoding split-only"),
    "60": ([1], "box-rotated split-only"),
    "61": ([2] * 6, ""),
    "64": ([2, 2], ""),
    "65": ([1, 1], "split-only"),
    "66": ([2], "name-cleaned split-only"),
    "67": ([2, 0], "label-case label-missing"),
    "68": ([1, 1], "name-case split-only"),
    "69": ([1], "place split-only"),
    "70": ([2], ""),
    "71": ([2], "class-names-missing"),
    "72": ([2], ""),
    "73": ([2], "box-text"),
    "74": ([2, 2], ""),
    "75": ([2, 2], "image-twice image-unlisted"),
    "76": ([2], "area-odd"),
    "77": ([2], ""),
    "78": ([2], "name-cleaned"),
    "79": ([2], "split-missing split-only"),
    "80": ([1], "split-only"),
}


@pytest.mark.parametrize("case", READ)
def test_each_case_is_read(case: str) -> None:
    boxes, kinds = READ[case]
    train, val = open_training(CASES / case / "data")
    found = {each.kind.name for each in train.findings} - {"split-only", "pixels-from-one"}
    assert found == set(kinds.split()) - {"split-only"}
    assert [len(train.record(i).boxes) for i in range(len(train))] == boxes
    for index in range(len(train)):
        assert train.image(index).shape[:2] == train.shape(index)
    for index in range(len(val) if val else 0):
        assert val is not None
        assert val.image(index).shape[:2] == val.shape(index)


def test_what_the_files_really_say() -> None:
    """The boxes of cases in which numbers were not what they claimed."""
    first = [113, 53, 157, 92]
    for case in ("11", "46", "47", "48", "53", "73"):
        train, _ = open_training(CASES / case / "data")
        assert train.record(0).boxes[0].round(3).tolist() == first
    swapped = open_data(CASES / "19" / "data").record(1).boxes
    assert swapped.tolist() == [[16, 32, 44, 65]]
    assert open_data(CASES / "07" / "data").names == ("blue", "red")
    assert open_data(CASES / "59" / "data").names == ("红",)
    assert splits(CASES / "57" / "data") == ["train", "val"]
    train, val = open_training(CASES / "30" / "data")
    assert val is not None
    assert train.names == val.names == ("red", "blue", "green")
    damaged = open_training(CASES / "61" / "data")[1]
    assert damaged is not None
    assert [each.kind.name for each in damaged.findings] == ["image-damaged"]


TRAINED = ("01", "04", "10", "29", "30", "38", "46", "48", "57", "59", "61", "67")
"""Cases whose run.sh trains."""


def train(case: str, tmp_path: Path) -> Any:
    small = ["--set", "image.size=64", "--set", "image.max_size=64", "--set", "training.batch=2"]
    words = ["train", "--data", str(CASES / case / "data"), "--project", str(tmp_path)]
    words += ["--model", "dab-detr-nano", "--epochs", "1", "--device", "cpu", *small, "--json"]
    done = CliRunner().invoke(app, [*words, "--name", "x"])
    assert done.exit_code == 0, done.stderr
    return done


@pytest.mark.slow
@pytest.mark.parametrize("case", TRAINED)
def test_cases_train(case: str, tmp_path: Path) -> None:
    done = train(case, tmp_path)
    assert json.loads(done.stdout)["data"][0]["boxes"] > 0


def test_what_train_says(tmp_path: Path) -> None:
    """Half of the label files lack: counts and the reason are printed, and are in the JSON."""
    done = train("67", tmp_path)
    counts = "train: 2 images, 1 without boxes, 1 without a label file; 2 boxes of 2 classes: "
    assert counts + "1× red, 1× blue" in done.stderr
    assert "train: label files whose name has another case than their image's: 1" in done.stderr
    told = json.loads(done.stdout)["data"][0]
    assert (told["images_without_boxes"], told["images_without_label_file"]) == (1, 1)
    assert told["classes"] == {"red": 1, "blue": 1}


def test_values_of_12_bits_in_16(tmp_path: Path) -> None:
    """The range is found over the whole set, and kept so that predictions scale alike."""
    (tmp_path / "images").mkdir()
    (tmp_path / "labels").mkdir()
    for name, brightest in (("a", 4095), ("b", 900)):
        ramp = np.tile(np.linspace(0, brightest, 160).astype(np.uint16), (120, 1))
        Image.fromarray(ramp).save(tmp_path / "images" / f"{name}.png")
        (tmp_path / "labels" / f"{name}.txt").write_text("0 0.5 0.5 0.2 0.2\n")
    (tmp_path / "classes.txt").write_text("spot\n")
    data, _ = open_training(tmp_path)
    assert data.bits == 12
    assert [data.image(index).max() for index in (0, 1)] == [255, 56]
    (deep,) = (each for each in data.findings if each.kind.name == "deep")
    assert (deep.count, deep.examples[0].endswith("12 of 16 bits used")) == (2, True)
    small = ["image.size=64", "image.max_size=64"]
    run = run_training(tmp_path, "dab-detr-nano", epochs=1, overrides=small, project=tmp_path)
    predictor = Predictor(run.weights)
    assert predictor.config.image.bits == 12
    (found,) = predictor(tmp_path / "images" / "b.png", conf=0, keep_images=True)
    assert found.image is not None
    assert found.image.max() == 56
