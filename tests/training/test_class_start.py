"""Class heads solved from the data: the regression by hand, and what a detector gains by it."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from dabdetr.checkpoints.native import load_model
from dabdetr.checkpoints.transfer import initialise
from dabdetr.data.layouts import open_data
from dabdetr.evaluation.evaluate import evaluate
from dabdetr.model.detector import Detector, build
from dabdetr.training.class_start import ABSENT, FOUND, RIDGE, ridge, start_classes

CPU = torch.device("cpu")


def test_ridge_by_hand() -> None:
    """Two contents at ±1, one of class 0 and one of none: slope 3 / (1 + RIDGE), level −1."""
    weight, bias = ridge(torch.tensor([[1.0], [-1.0]]), torch.tensor([0, -1]), 2)
    assert weight[0].item() == pytest.approx((FOUND - ABSENT) / 2 / (1 + RIDGE))
    assert bias[0].item() == pytest.approx((FOUND + ABSENT) / 2)
    assert weight[1].item() == pytest.approx(0)  # no object of class 1
    assert bias[1].item() == pytest.approx(ABSENT)


def renamed(names: tuple[str, ...]) -> Detector:
    """The shipped detector of digits, whose class heads have forgotten all but the names kept."""
    torch.manual_seed(0)
    detector = build(load_model("scenes").model.config, names)
    report = initialise(detector, "scenes")
    assert report.new_classes == tuple(name for name in names if name.startswith("new"))
    return detector


def test_new_classes_are_found_without_a_step(
    write_coco_scenes: Callable[[Path, str, int], Path], tmp_path: Path
) -> None:
    folder = write_coco_scenes(tmp_path / "digits", "scenes:size=160", 40)
    data = open_data(folder, "train")
    data.names = names = ("0", "1", *(f"new {digit}" for digit in range(2, 10)))
    detector = renamed(names)
    kept = [head.weight[:2].clone() for head in detector.decoder.heads.classes]
    before = evaluate(detector.eval(), data).numbers["AP50"]
    state = torch.get_rng_state()
    sentence = start_classes(detector, data, names[2:], CPU)
    assert torch.equal(torch.get_rng_state(), state)
    assert "8 new classes" in sentence
    assert detector.training
    after = evaluate(detector.eval(), data).numbers["AP50"]
    assert before < 0.5
    assert after > 0.8
    for head, rows in zip(detector.decoder.heads.classes, kept, strict=True):
        assert torch.equal(head.weight[:2], rows)  # what is known stays


def test_classes_without_objects_stay(
    write_coco_scenes: Callable[[Path, str, int], Path], tmp_path: Path
) -> None:
    folder = write_coco_scenes(tmp_path / "digits", "scenes:size=160", 4)
    data = open_data(folder, "train")
    data.names = names = (*map(str, range(10)), "new")
    detector = renamed(names)
    head = detector.decoder.heads.classes[0]
    before = head.weight.clone()
    sentence = start_classes(detector, data, ["new"], CPU)
    assert sentence.endswith("start at random: in 4 images no query was near an object of them")
    assert torch.equal(head.weight, before)
    detector = renamed((*(f"new {digit}" for digit in range(10)), "new"))
    data.names = detector.names
    sentence = start_classes(detector, data, detector.names, CPU)
    assert "new classes solved from the data, 1 start" in sentence or ", 2 start" in sentence
