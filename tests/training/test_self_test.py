"""The self-test passes on data that can be learned, and names the stage that fails on others."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from dabdetr.data.findings import Findings
from dabdetr.data.records import RecordTable, Rows
from dabdetr.data.scenes import Scenes
from dabdetr.presets import PRESETS
from dabdetr.training.self_test import IMAGES, LEAST_STEPS, _is_due, self_test

NANO = PRESETS["dab-detr-nano"].override(
    ["image.size=64", "image.max_size=64", "training.batch=4", "training.start=none"]
)


def table(folder: Path, boxes: list[tuple[float, ...]]) -> RecordTable:
    rows = Rows(Findings(), "xyxy")
    rng = np.random.default_rng(3)
    for number in range(3):
        file = folder / f"{number}.png"
        Image.fromarray(rng.integers(0, 255, (64, 64, 3), dtype=np.uint8)).save(file)
        index = rows.add_image(str(file), (64, 64))
        for box in boxes:
            rows.add_box(index, 0, box)
    return RecordTable(rows, "mine", "train", ("thing",), (1,), "xyxy")


@pytest.mark.parametrize(
    ("boxes", "told"),
    [
        ([], "no image has an object"),
        (
            [(n % 30, n // 30, n % 30 + 9, n // 30 + 9) for n in range(130)],
            "130 objects, the model",
        ),
        ([(5, 5, 7, 7), (30, 30, 32, 33)], "6 of 6 objects with less than 4 pixels"),
    ],
)
def test_data_that_cannot_be_learned(
    tmp_path: Path, boxes: list[tuple[float, ...]], told: str
) -> None:
    result = self_test(table(tmp_path, boxes), NANO, seconds=1, device="cpu")
    assert (result.passed, result.stage, result.steps) == (False, "data", 0)
    assert told in result.advice
    assert "the stage that fails is data" in str(result)


def test_an_image_that_cannot_be_decoded(tmp_path: Path) -> None:
    data = table(tmp_path, [(5, 5, 40, 40)])
    (tmp_path / "1.png").write_bytes(b"nothing")
    result = self_test(data, NANO, seconds=1, device="cpu")
    assert result.stage == "data"
    assert "1.png" in result.advice


@pytest.mark.parametrize(
    ("rate", "told"), [("1e-12", "the loss does not fall"), ("1e18", "the loss is not finite")]
)
def test_optimisation_that_fails(tmp_path: Path, rate: str, told: str) -> None:
    config = NANO.override(
        [f"training.lr={rate}", f"training.backbone_lr={rate}", "training.clip=0"]
    )
    said: list[str] = []
    data = table(tmp_path, [(5, 5, 40, 40)])
    result = self_test(data, config, 2, "cpu", said.append, least_steps=3)
    assert result.stage == "optimisation"
    assert told in result.advice
    assert result.to_dict()["stage"] == "optimisation"
    assert said


@pytest.mark.parametrize(
    ("share", "steps", "time", "due"),
    [
        (0.5, 1.5, 0.49, False),
        (0.5, 1.5, 0.5, True),
        (0.5, 0.45, 0.6, False),  # a busy machine: no verdict on data after a few steps
        (0.5, 0.45, 2, True),
    ],
)
def test_a_busy_machine_is_given_time(share: float, steps: float, time: float, due: bool) -> None:
    assert _is_due(share, steps, time) == due


def test_too_few_steps_are_no_verdict(tmp_path: Path) -> None:
    config = NANO.override(["training.lr=1e-12", "training.backbone_lr=1e-12"])
    result = self_test(table(tmp_path, [(5, 5, 40, 40)]), config, seconds=0.01, device="cpu")
    assert not result.passed
    assert result.steps < LEAST_STEPS
    assert "give it more --seconds" in result.advice


@pytest.mark.slow
def test_data_that_can_be_learned() -> None:
    config = PRESETS["dab-lite"].override(["image.size=160", "image.max_size=160"])
    result = self_test(Scenes("val"), config, seconds=200, device="cpu")
    assert result.passed, str(result)
    assert result.ap50 > 0.8
    assert result.images == IMAGES
    assert result.losses[1] < result.losses[0]
