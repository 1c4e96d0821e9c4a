"""What was changed between a stop and a resume is refused by name; what may change counts."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from tests.faults.conftest import assert_same, copy_of

from dabdetr.config import load
from dabdetr.training.train import Run, train

Document = dict[str, Any]
Straight = Callable[[str], Run]


@pytest.fixture
def place(stopped: Path, tmp_path: Path) -> Path:
    return copy_of(stopped, tmp_path / "copy")


def edit(place: Path, change: Callable[[Document], object], split: str = "train") -> None:
    path = place / "data" / "annotations" / f"instances_{split}.json"
    document = json.loads(path.read_text())
    change(document)
    path.write_text(json.dumps(document))


def move_a_box(document: Document) -> None:
    document["annotations"][0]["bbox"][2] -= 1


def relabel(document: Document) -> None:
    document["annotations"][0]["category_id"] = document["categories"][3]["id"]


def remove_an_image(document: Document) -> None:
    gone = document["images"].pop()["id"]
    document["annotations"] = [a for a in document["annotations"] if a["image_id"] != gone]


def rename_an_image(document: Document) -> None:
    document["images"][0]["id"] = 99
    for each in document["annotations"]:
        each["image_id"] = 99 if each["image_id"] == 1 else each["image_id"]


def swap_images(document: Document) -> None:
    """Which file comes first, as ids are the order."""
    one, two = document["images"][:2]
    one["id"], two["id"] = two["id"], one["id"]
    for each in document["annotations"]:
        each["image_id"] = {1: 2, 2: 1}.get(each["image_id"], each["image_id"])


@pytest.mark.parametrize(
    ("split", "change", "said"),
    [
        ("train", move_a_box, r"the boxes of 1 image \(000.png\) of train changed"),
        ("train", relabel, r"the boxes of 1 image \(000.png\) of train changed"),
        ("val", move_a_box, r"the boxes of 1 image \(000.png\) of val changed"),
        ("train", remove_an_image, "train has lost 1 of 8 images"),
        ("val", remove_an_image, "val has lost 1 of 4 images"),
        ("train", rename_an_image, r"train has lost 1 of 8 images; train has 1 image"),
        ("train", swap_images, "train has lost 2 of 8 images"),
    ],
)
def test_changed_data_are_refused(
    place: Path, split: str, change: Callable[[Document], object], said: str
) -> None:
    edit(place, change, split)
    before = (place / "run" / "last.ckpt").read_bytes()
    with pytest.raises(ValueError, match=said) as told:
        train(resume=place / "run", quiet=True)
    assert "restore them, or start a new training" in str(told.value)
    assert before == (place / "run" / "last.ckpt").read_bytes()


def test_a_deleted_split_is_refused(place: Path) -> None:
    (place / "data" / "annotations" / "instances_val.json").unlink()
    shutil.rmtree(place / "data" / "val")
    with pytest.raises(ValueError, match="the val split is gone"):
        train(resume=place / "run", quiet=True)


@pytest.mark.parametrize(
    ("assignment", "said"),
    [
        ("training.lr=0.01", "training.lr is 0.01 and was"),
        ("training.seed=7", "training.seed is 7 and was 42"),
        ("training.batch=4", "training.batch is 4 and was 2"),
        ("training.ema=null", "training.ema is None and was 0.9"),
        ("model.width=64", "model.width is 64"),
        ("augment=null", "augment.flip is None and was 0.5"),
        ("loss.class_weight=3.5", "loss.class_weight is 3.5"),
    ],
)
def test_a_changed_config_is_refused(place: Path, assignment: str, said: str) -> None:
    path = place / "run" / "config.yaml"
    load(path).override([assignment]).save(path)
    with pytest.raises(ValueError, match="changed after the run began") as told:
        train(resume=place / "run", quiet=True)
    assert said in str(told.value)
    assert len(str(told.value)) < 500 + 3 * len(str(path))


def test_what_may_change_counts(place: Path, capfd: pytest.CaptureFixture[str]) -> None:
    path = place / "run" / "config.yaml"
    load(path).override(["training.epochs=3", "training.checkpoint_minutes=5"]).save(path)
    run = train(resume=place / "run", workers=1)
    said = capfd.readouterr().err
    for change in ("epochs 3 (was 2)", "workers 1 (was 0)", "checkpoint_minutes 5.0 (was 0.0)"):
        assert f"counts from here on: training.{change}" in said
    assert len(run.rows) == 3


def test_nothing_changed_goes_on_from_anywhere(place: Path, straight: Straight) -> None:
    """Paths are not the data: a folder that was moved with them is the same run."""
    assert_same(train(resume=place / "run", quiet=True), straight("dense"))
