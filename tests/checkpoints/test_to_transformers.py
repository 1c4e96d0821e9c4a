"""Weights as folders of transformers: its pipeline opens them and gives our boxes."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from typer.testing import CliRunner

from dabdetr.checkpoints.native import load_model, save_model
from dabdetr.checkpoints.to_transformers import push_to_hub, save_transformers
from dabdetr.cli import app
from dabdetr.model.detector import Detector, build
from dabdetr.predictor import Predictor
from dabdetr.presets import preset
from dabdetr.structures import Images

pytest.importorskip("transformers", reason="needs transformers: pip install transformers")
NAMES = ("cat", "dog", "hen")
SMALL = (
    "model.backbone.name=resnet18",
    "model.backbone.options={}",
    "model.backbone.strides=[32]",
    "model.width=64",
    "model.encoder.layers=1",
    "model.decoder.layers=2",
    "model.queries.count=9",
    "image.size=96",
    "image.max_size=128",
)
COLD = "model.position_temperature=10000"
MEMBERS = {
    "dab-detr-nano": ("model.anchor_eps=1e-5", "model.queries.content=zeros"),
    "detr-nano": (COLD,),
    "conditional-detr-nano": (COLD,),
    "deformable-detr-nano": (COLD, "model.backbone.strides=[8,16,32]", "model.encoder.levels=4"),
}


def randomised(name: str, *overrides: str) -> Detector:
    torch.manual_seed(0)
    detector = build(preset(name).override([*SMALL, *overrides]), NAMES).eval()
    with torch.no_grad():
        for key, tensor in detector.state_dict().items():
            if "running_var" in key:
                tensor.uniform_(0.8, 1.2)
            elif tensor.is_floating_point():
                tensor.add_(0.05 * torch.randn_like(tensor))
            if "heads.classes" in key and key.endswith("bias"):
                tensor.add_(3.0 * torch.rand_like(tensor))
    return detector


@pytest.fixture(scope="module", params=MEMBERS)
def member(request: pytest.FixtureRequest, tmp_path_factory: Any) -> tuple[Detector, Path]:
    detector = randomised(request.param, *MEMBERS[request.param])
    folder = tmp_path_factory.mktemp("hub") / "model"
    assert save_transformers(folder, detector) < 1e-5
    return detector, folder


def test_every_element_is_the_same(member: tuple[Detector, Path]) -> None:
    import transformers

    detector, folder = member
    peer = transformers.AutoModelForObjectDetection.from_pretrained(folder).eval()
    pixels = torch.randn(2, 3, 96, 128)
    with torch.no_grad():
        theirs = peer(pixels)
        mine = detector(Images(pixels, torch.zeros(2, 96, 128, dtype=torch.bool)))
    torch.testing.assert_close(theirs.logits, mine.logits[-1], atol=1e-4, rtol=0)
    torch.testing.assert_close(theirs.pred_boxes, mine.boxes[-1], atol=1e-5, rtol=0)
    assert mine.boxes[-1].std() > 0.01


def test_its_pipeline_gives_our_boxes(member: tuple[Detector, Path]) -> None:
    import transformers

    detector, folder = member
    array = np.random.default_rng(0).integers(0, 256, (96, 128, 3), dtype=np.uint8)
    detect = transformers.pipeline("object-detection", str(folder), device="cpu")
    rows = detect(Image.fromarray(array), threshold=0.1)
    found = Predictor(detector).one(array, conf=0.1, multi_label=True)
    assert len(rows) == len(found) >= 3
    rows = sorted(rows, key=lambda row: -row["score"])
    np.testing.assert_allclose([row["score"] for row in rows], found.scores, atol=1e-4)
    assert [row["label"] for row in rows] == [found.names[label] for label in found.labels]
    corners = np.array(
        [[row["box"][side] for side in ("xmin", "ymin", "xmax", "ymax")] for row in rows]
    )
    np.testing.assert_allclose(corners.clip(0, [128, 96, 128, 96]), found.boxes, atol=1)


def test_the_folder_is_read_back(member: tuple[Detector, Path]) -> None:
    detector, folder = member
    loaded = load_model(folder).model
    assert loaded.names == NAMES
    assert {each.name for each in folder.iterdir()} == {
        "model.safetensors",
        "config.json",
        "preprocessor_config.json",
        "README.md",
    }
    card = (folder / "README.md").read_text()
    assert card.startswith("---\nlibrary_name: transformers\npipeline_tag: object-detection\n")
    state = detector.state_dict()
    shared = detector.config.model.class_head_per_layer  # transformers keeps the last layer's alone
    for key, tensor in loaded.state_dict().items():
        if shared and key.startswith("decoder.heads.classes."):
            torch.testing.assert_close(tensor, state[key.replace(".0.", ".1.")], atol=0, rtol=0)
        elif not key.endswith("num_batches_tracked"):
            torch.testing.assert_close(tensor, state[key], atol=0, rtol=0)


@pytest.mark.parametrize(
    ("name", "options", "message"),
    [
        ("dab-lite", (), "no class for dab-lite"),
        ("dino-nano", (), "no class for dino-nano"),
        (
            "dab-detr-nano",
            ("model.backbone.options={layers: [1, 1, 1, 1]}",),
            "has further options; presets with a whole ResNet can be converted",
        ),
        ("dab-detr-nano", ("model.queries.content=learned",), "no place for queries.content"),
        ("detr-nano", ("model.position_temperature=20",), "computes something else"),
    ],
)
def test_what_transformers_has_no_class_for(
    name: str, options: tuple[str, ...], message: str, tmp_path: Path
) -> None:
    with pytest.raises(ValueError, match=message):
        save_transformers(tmp_path / "a", randomised(name, *options))
    assert not list(tmp_path.iterdir())


def test_the_command(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    weights, folder = tmp_path / "a.safetensors", tmp_path / "hub"
    save_model(weights, randomised("detr-nano", COLD))
    line = ["convert", str(weights), str(folder), "--to", "transformers"]
    done = CliRunner().invoke(app, [*line, "--json"])
    assert done.exit_code == 0, done.output
    assert json.loads(done.stdout)["difference"] < 1e-5
    assert (folder / "model.safetensors").is_file()
    assert CliRunner().invoke(app, line).exit_code == 2  # it is there
    line = ["convert", str(weights), str(tmp_path / "b"), "--to", "mmdetection"]
    done = CliRunner().invoke(app, line)
    assert done.exit_code == 2
    assert "dabdetr or transformers" in done.stderr


def test_without_a_network_the_folder_stays(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import huggingface_hub.constants

    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    with pytest.raises(OSError, match=r"could not be pushed .* hf upload me/model .*hub"):
        push_to_hub(tmp_path / "hub", "me/model")
