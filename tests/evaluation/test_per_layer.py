"""Every decoder layer's own worth, and models that end early."""

from __future__ import annotations

import json
import math
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from typer.testing import CliRunner

from dabdetr import Predictor
from dabdetr.checkpoints.native import load_model, save_model
from dabdetr.checkpoints.resize import with_layers
from dabdetr.cli import app
from dabdetr.data.layouts import open_data
from dabdetr.evaluation.evaluate import evaluate
from dabdetr.evaluation.per_layer import LayerScore, LayerScores, evaluate_layers, matched
from dabdetr.model.detector import Detector, build
from dabdetr.presets import PRESETS, preset
from dabdetr.structures import Images

NANO = [name for name in PRESETS if name.endswith("-nano")]
runner = CliRunner()


@pytest.fixture(scope="module")
def scenes() -> Detector:
    return load_model("scenes").model.eval()


def row(layer: int, ap: float) -> LayerScore:
    return LayerScore(layer, ap, ap, ap, ap, 1.0)


@pytest.mark.parametrize("name", NANO)
@pytest.mark.parametrize("scale", [None, "layer"])
def test_a_shorter_model_answers_what_its_layers_did(
    name: str, scale: str | None, tmp_path: Path
) -> None:
    torch.manual_seed(0)
    config = preset(name)
    if scale is not None:
        if config.model.decoder.cross_attention.kind == "add":
            pytest.skip("DETR has no code to scale")
        config = config.override([f"model.decoder.modulate_position={scale}"])
    model, images = build(config, "abc").eval(), Images(torch.randn(1, 3, 64, 64))
    with torch.no_grad():
        for parameter in model.decoder.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))
        whole = model(images)
        for layers in (1, 2):
            short = with_layers(model, layers)
            answer = short(images)
            assert torch.equal(answer.logits, whole.logits[:layers])
            assert torch.equal(answer.boxes, whole.boxes[:layers])
    assert short.config.model.decoder.layers == 2
    assert model.config.model.decoder.layers == 3
    save_model(tmp_path / "short.safetensors", short)
    with torch.no_grad():
        again = load_model(tmp_path / "short.safetensors").model.eval()(images)
    assert torch.equal(again.logits, whole.logits[:2])


def test_how_many_layers_there_can_be(scenes: Detector) -> None:
    assert with_layers(scenes, None) is scenes
    for wrong in (0, 4):
        with pytest.raises(ValueError, match=f"has 3 decoder layers; got {wrong}; give a number"):
            with_layers(scenes, wrong)


def test_each_row_is_what_evaluate_says_of_that_many_layers(scenes: Detector) -> None:
    data = open_data("scenes:count=12,seed=7", "test")
    scenes.train()
    scores = evaluate_layers(scenes, data, batch=4)
    assert scenes.training
    scenes.eval()
    for each in scores.rows:
        alone = evaluate(with_layers(scenes, each.layer), data, batch=4)
        assert pytest.approx(alone.ap, abs=1e-6) == each.AP
        assert pytest.approx(alone.ap50, abs=1e-6) == each.AP50
        assert each.recall == pytest.approx(alone.numbers["AR100"], abs=1e-6)
    assert [each.layer for each in scores.rows] == [1, 2, 3]
    assert scores.images == 12
    assert scores.rows[2].iou > scores.rows[0].iou > 0.5
    assert scores.rows[0].shift > 3 * scores.rows[1].shift > 3 * scores.rows[2].shift


def test_iou_and_shift_by_hand(scenes: Detector) -> None:
    """One image: the same from the model's own boxes."""
    data = open_data("scenes:count=1,seed=7", "test")
    scores = evaluate_layers(scenes, data)
    one = Predictor(scenes).explain(data.image(0)).with_truth(*_truth(data))
    assert one.trace.anchors is not None
    places = np.concatenate((one.trace.anchors[0][None], one.trace.boxes))
    ious, shifts = [], []
    for box in data.record(0).boxes:
        alone = one.with_truth(box, [0])
        each = [alone.iou_with_truth(query) for query in range(40)]
        query = int(np.argmax([overlap[-1] for overlap in each]))  # pyright: ignore
        ious.append(each[query])
        x, y, w, h = one.in_pixels(places[:, query]).T
        edges = np.stack((x - w / 2, y - h / 2, x + w / 2, y + h / 2), -1)
        shifts.append(abs(np.diff(edges, axis=0)).mean(-1))
    np.testing.assert_allclose([r.iou for r in scores.rows], np.mean(ious, 0), atol=1e-4)
    np.testing.assert_allclose([r.shift for r in scores.rows], np.mean(shifts, 0), atol=1e-3)


def _truth(data: object) -> tuple[np.ndarray, np.ndarray]:
    record = data.record(0)  # pyright: ignore
    return record.boxes, record.labels


def test_without_anchors_the_first_layer_moves_nothing() -> None:
    torch.manual_seed(0)
    model = build(preset("detr-nano"), "0123456789").eval()
    scores = evaluate_layers(model, open_data("scenes:count=2", "test"))
    assert math.isnan(scores.rows[0].shift)
    assert not math.isnan(scores.rows[1].shift)
    assert scores.to_dict()["layers"][0]["shift"] is None


def test_one_query_for_each_object() -> None:
    boxes = torch.tensor([[0, 0, 4, 4], [1, 0, 5, 4], [9, 9, 9, 9.0]])
    objects = torch.tensor([[0.5, 0, 4.5, 4], [1.5, 0, 5.5, 4.0]])
    queries, rows, overlaps = matched(boxes, objects)
    assert dict(zip(rows.tolist(), queries.tolist(), strict=True)) == {0: 0, 1: 1}
    np.testing.assert_allclose(overlaps, 3.5 / 4.5, atol=1e-6)
    assert [len(part) for part in matched(boxes, objects[:0])] == [0, 0, 0]


@pytest.mark.parametrize(
    ("aps", "enough"),
    [
        ([0.1, 0.2, 0.3], 3),
        ([0.1, 0.298, 0.3], 2),
        ([0.3, 0.2, 0.25], 1),
        ([0.29, 0.27, 0.3], 3),
        ([0.5], 1),
        ([-1, -1], 1),
    ],
)
def test_from_which_layer_on_nothing_improves(aps: list[float], enough: int) -> None:
    scores = LayerScores(tuple(row(at + 1, ap) for at, ap in enumerate(aps)), 1)
    assert scores.enough == enough
    assert (f"--layers {enough}" in scores.sentence) == (enough < len(aps))


def test_the_plot_says_what_its_lines_are(tmp_path: Path) -> None:
    unknown = replace(row(2, 0.2), recall=-1)
    LayerScores((row(1, 0.1), unknown), 1).plot(tmp_path / "a.svg")
    text = (tmp_path / "a.svg").read_text()
    for words in ("enough: AP rises by less", "AP, AP50, recall and IoU"):
        assert words in text
    LayerScores((row(1, -1),), 1).plot(tmp_path / "none.svg")
    assert "enough" not in (tmp_path / "none.svg").read_text()
    with pytest.raises(OSError, match=r"^.*none/a\.png cannot be written \(no such file"):
        LayerScores((unknown,), 1).plot(tmp_path / "none" / "a.png")


# The commands


def test_val_per_layer(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    val = ["val", "--model", "scenes", "--data", "scenes:count=6", "--split", "test"]
    done = runner.invoke(app, [*val, "--per-layer", "--plot", "layers.png"])
    assert done.exit_code == 0, done.stderr
    assert "after layer" in done.stdout
    assert "moved (px)" in done.stdout
    assert Path("layers.png").read_bytes().startswith(b"\x89PNG")
    done = runner.invoke(app, [*val, "--per-layer", "--json", "--quiet"])
    rows = json.loads(done.stdout)["layers"]
    assert [each["layer"] for each in rows] == [1, 2, 3]
    done = runner.invoke(app, [*val, "--layers", "1", "--json", "--quiet"])
    assert json.loads(done.stdout)["numbers"]["AP"] == pytest.approx(rows[0]["AP"])
    done = runner.invoke(app, [*val, "--per-layer", "--plot", "/proc/x.png", "--quiet", "--json"])
    assert done.exit_code == 2
    assert json.loads(done.stdout)["layers"] == rows
    assert done.stderr.startswith("error: /proc/x.png cannot be written")
    for wrong, words in (
        (["--layers", "9"], "has 3 decoder layers; got 9"),
        (["--plot", "x.png"], "--per-layer"),
        (["--per-layer", "--plot", "x.gif"], ".png or .svg"),
        (["--per-layer", "--plot", "layers.png"], "layers.png exists"),
        (["--per-layer", "--coco", "x.json"], "--coco"),
        (["--per-layer", "--errors"], "--errors the last one"),
        (["--per-layer", "--census", "--against", "x"], "--against the last one"),
    ):
        refused = runner.invoke(app, [*val, "--quiet", *wrong])
        assert (refused.exit_code, refused.stdout) == (2, "")
        assert words in refused.stderr


def test_predict_with_fewer_layers(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, coco_folder: Path, scenes: Detector
) -> None:
    monkeypatch.chdir(tmp_path)
    predict = ["predict", "--model", "scenes", "--json", "--quiet", "--no-save"]
    done = runner.invoke(app, [*predict, str(coco_folder / "val"), "--layers", "1"])
    assert done.exit_code == 0, done.stderr
    expected = list(Predictor(with_layers(scenes, 1))(coco_folder / "val"))
    given = json.loads(done.stdout)["images"]
    assert [len(each["detections"]) for each in given] == [len(each) for each in expected]
    assert given[0]["detections"] == expected[0].to_dict()["detections"]
