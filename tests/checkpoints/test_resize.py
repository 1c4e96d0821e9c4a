"""Another number of queries for weights, by word of mouth and on the command line."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from typer.testing import CliRunner

from dabdetr.checkpoints.native import load_model
from dabdetr.checkpoints.resize import with_queries
from dabdetr.cli import app
from dabdetr.data.layouts import anchors, open_data, training_boxes
from dabdetr.evaluation.evaluate import evaluate
from dabdetr.model.detector import Detector
from dabdetr.predictor import Predictor
from dabdetr.training.train import train

runner = CliRunner()
IMAGE = np.zeros((80, 80, 3), np.uint8)


def run(*arguments: object) -> str:
    """stdout of the verb in this process; it has to succeed."""
    done = runner.invoke(app, [str(argument) for argument in arguments])
    assert done.exit_code == 0, done.stderr or done.exception
    return done.stdout


def test_the_given_detector_stays_as_it_is(tiny_detector: Detector) -> None:
    before = tiny_detector.config
    assert with_queries(tiny_detector) is tiny_detector
    predictor = Predictor(tiny_detector, queries=5)
    found = predictor.one(IMAGE, conf=0.0, max_det=300, multi_label=True)
    assert len(found) == 5 * 10  # every pair of query and class, fewer than max_det
    assert set(found.queries) == set(range(5))
    assert predictor.config.model.queries.count == 5
    assert tiny_detector.config == before
    assert len(Predictor(tiny_detector).one(IMAGE, conf=0.0, max_det=300)) == 12  # one class each


def test_more_queries_than_detections_are_cut_to_the_best(tiny_weights: Path) -> None:
    predictor = Predictor(tiny_weights, queries=40, queries_init="grid")
    found = predictor.one(IMAGE, conf=0.0, multi_label=True)
    assert len(found) == load_model(tiny_weights).model.config.inference.max_det == 100
    assert (np.diff(found.scores) <= 0).all()


def test_anchors_are_the_clusters_of_a_train_split(
    tiny_detector: Detector, coco_folder: Path
) -> None:
    boxes = torch.from_numpy(training_boxes(coco_folder))
    data = open_data(coco_folder, "train")
    assert len(boxes) == sum(len(data.record(index).labels) for index in range(len(data)))
    assert ((boxes > 0) & (boxes < 1)).all()
    x0, y0, x1, y1 = data.record(0).boxes[0] / data.record(0).width
    expected = torch.tensor([(x0 + x1) / 2, (y0 + y1) / 2, x1 - x0, y1 - y0])
    assert torch.allclose(boxes[0], expected, atol=1e-6)
    changed = with_queries(tiny_detector, 3, anchors(f"kmeans:{coco_folder}"))
    centres = changed.queries.logits()[:, :2].sigmoid()  # pyright: ignore
    assert torch.allclose(centres.mean(0), boxes[:, :2].mean(0), atol=0.15)


@pytest.mark.parametrize("word", ["rows", "kmeans", "kmeans:", "keep:scenes", ""])
def test_unknown_ways_are_refused(word: str) -> None:
    with pytest.raises(ValueError, match="keep, grid or kmeans:DATA; got"):
        anchors(word)


def test_evaluation_with_another_number(tiny_detector: Detector) -> None:
    found = evaluate(tiny_detector, "scenes:count=2", queries=2, max_det=300)
    assert {len(each) for each in found.detections} == {20}


def test_the_verbs_take_another_number(tiny_weights: Path, coco_folder: Path) -> None:
    more = ("--model", tiny_weights, "--queries", 2, "--queries-init", "grid", "--json", "-q")
    run("val", "--data", coco_folder, *more)
    shown = ("--conf", 0, "--multi-label", "--no-save")
    said = run("predict", coco_folder / "val", *shown, *more)
    assert {len(each["detections"]) for each in json.loads(said)["images"]} == {20}
    done = runner.invoke(app, ["val", "--data", str(coco_folder), *map(str, more[:5]), "columns"])
    assert done.exit_code != 0


def test_training_anchors_alone_from_weights_with_more_of_them(
    tiny_weights: Path, coco_folder: Path, tmp_path: Path
) -> None:
    said = run(
        *("train", "--data", coco_folder, "--model", tiny_weights, "--queries", 15, "--only"),
        *("queries.anchors", "--project", tmp_path, "--name", "a", "--seed", 1, "--json", "-q"),
        *("--set", "training.ema=null"),
    )
    after = load_model(json.loads(said)["weights"]).model
    assert after.config.model.queries.count == 15
    start = with_queries(load_model(tiny_weights).model, 15).state_dict()
    now = after.state_dict()
    assert {key for key in now if not torch.equal(now[key], start[key])} == {"queries.anchors"}


def test_training_anew_with_another_number(coco_folder: Path, tmp_path: Path) -> None:
    small = ["model.encoder.layers=1", "model.decoder.layers=1", "training.batch=4"]
    run = train(
        coco_folder,
        "dab-detr-nano",
        epochs=1,
        imgsz=64,
        start="none",
        queries=6,
        overrides=small,
        project=tmp_path,
        quiet=True,
    )
    assert run.config.model.queries.count == 6
    assert load_model(run.weights).model.config.model.queries.count == 6
