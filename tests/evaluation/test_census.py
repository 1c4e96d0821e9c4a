"""What queries find, and fewer of them."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from typer.testing import CliRunner

from dabdetr.checkpoints.native import load_model
from dabdetr.checkpoints.reading import read
from dabdetr.checkpoints.resize import with_layers, with_only, with_queries
from dabdetr.cli import app
from dabdetr.data.scenes import Scenes
from dabdetr.evaluation.census import CELLS, census
from dabdetr.evaluation.evaluate import evaluate
from dabdetr.evaluation.judged import judge, judge_image
from dabdetr.evaluation.per_layer import judged_by_layer
from dabdetr.evaluation.pruning import Pruned
from dabdetr.inference.opening import torch_runtime
from dabdetr.inference.postprocess import class_thresholds
from dabdetr.model.detector import build
from dabdetr.presets import preset
from dabdetr.structures import Detections


def test_census_by_hand() -> None:
    data = Scenes("val", count=2, seed=1)
    record = data.record(0)
    box, label = record.boxes[0], int(record.labels[0])
    found = Detections(
        np.stack((box, box, np.array([0, 0, 40, 80], np.float32))),
        np.array([0.9, 0.8, 0.7], np.float32),
        np.array([label, label, (label + 1) % 10]),
        np.array([4, 2, 4]),
        data.names,
        (record.height, record.width),
    )
    # the last row is the query's second class: it does not count
    other = found[2:]
    judged = [
        judge_image(record, found[:2], np.zeros(10, np.float32)),
        judge_image(data.record(1), other, np.zeros(10, np.float32)),
    ]
    told = census(judged, 6)
    assert [(use.query, use.count) for use in told.used] == [(4, 2), (2, 1)]
    assert told.idle == [0, 1, 3, 5]
    assert told.duplicates == [(2, 4, 1)]
    assert told.sentence == (
        "of 6 queries, 2 find something in 2 images and 4 find nothing; "
        "1 pair finds the same object"
    )
    busy = told.used[0]
    assert busy.entropy == pytest.approx(1.0)
    assert busy.right == 1
    middle = (box.reshape(2, 2).mean(0) / 160 + (0.125, 0.25)) / 2
    assert busy.centre == pytest.approx(tuple(middle), abs=1e-6)
    places = np.zeros((CELLS, CELLS), int)
    column, row = (np.array(box.reshape(2, 2).mean(0)) / 160 * CELLS).astype(int)
    places[row, column] += 1
    places[2, 1] += 1  # the centre of the second is at 0.125, 0.25
    assert busy.places.tolist() == places.tolist() == told.to_dict()["queries"][0]["places"]
    assert told.to_dict()["queries"][0]["classes"] == {
        data.names[at]: 1 for at in sorted((label, (label + 1) % 10))
    }


def test_all_queries_of_a_model_are_counted() -> None:
    data = Scenes("val", count=12, seed=5)
    detector = load_model("scenes").model
    limits = class_thresholds(detector.config.inference, data.names)
    judged = judge(data, evaluate(detector, data), limits)
    told = census(judged, 40)
    assert sum(use.count for use in told.used) == sum(len(each.found) for each in judged)
    assert sum(use.right for use in told.used) == sum(int(e.caught.sum()) for e in judged)
    assert len(told.used) + len(told.idle) == 40


def test_layers_by_hand() -> None:
    """Query 4 finds two classes in two places after the first layer, one of each after the last."""
    data = Scenes("val", count=2, seed=1)

    def shown(boxes: list[list[float]], labels: list[int], queries: list[int]) -> Detections:
        scores = np.full(len(boxes), 0.9, np.float32)
        many = (np.array(boxes, np.float32).reshape(-1, 4), scores, np.array(labels, np.int64))
        return Detections(*many, np.array(queries, np.int64), data.names, (160, 160))

    low, high = [0, 0, 32, 32], [128, 128, 160, 160]
    first = [shown([low, low], [0, 0], [4, 2]), shown([high], [1], [4])]
    last = [shown([low], [0], [4]), shown([low], [0], [4])]
    limits = np.zeros(10, np.float32)
    layers = [
        [judge_image(data.record(at), found, limits) for at, found in enumerate(layer)]
        for layer in (first, last)
    ]
    one, two = census(layers[-1], 6, layers).layers
    assert (one.layer, one.queries, one.count, one.duplicates) == (1, 2, 3, 1)
    assert one.entropy == pytest.approx(2 / 3)  # query 4 has one bit, and two of the three
    assert one.spread == pytest.approx(2 / 3 * np.hypot(0.4, 0.4))
    assert (two.queries, two.count, two.duplicates, two.entropy, two.spread) == (1, 2, 0, 0, 0)


def test_the_last_layer_is_what_the_model_finds() -> None:
    data = Scenes("val", count=6, seed=5)
    detector = load_model("scenes").model
    limits = class_thresholds(detector.config.inference, data.names)
    judged = judge(data, evaluate(detector, data), limits)
    layers = judged_by_layer(torch_runtime(detector), data, limits)
    told = census(judged, 40, layers)
    assert len(told.layers) == detector.config.model.decoder.layers
    last = told.layers[-1]
    assert last.count == sum(use.count for use in told.used)
    assert last.right == sum(use.right for use in told.used)
    assert last.duplicates == sum(count for *_, count in told.duplicates)
    assert told.to_dict()["layers"][0]["layer"] == 1


@pytest.mark.parametrize("name", ["detr-nano", "conditional-detr-nano", "dab-detr-nano"])
def test_what_remains_is_what_was(name: str) -> None:
    """Parameters of queries are chosen, all others stay."""
    torch.manual_seed(0)
    config = preset(name).override(["image.size=64", "image.max_size=64"])
    detector = build(config, ["a", "b"]).eval()
    count = config.model.queries.count
    smaller = with_only(detector, range(count))
    for one, other in zip(detector.parameters(), smaller.parameters(), strict=True):
        assert torch.equal(one, other)
    few = with_only(detector, [3, 1])
    assert few.config.model.queries.count == 2
    for part in ("anchors", "positions", "content"):
        whole, kept = getattr(detector.queries, part), getattr(few.queries, part)
        assert (whole is None) == (kept is None)
        if whole is not None:
            assert torch.equal(kept, whole[[1, 3]])


def test_prune_removes_what_is_not_needed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from dabdetr.checkpoints.native import save_model

    monkeypatch.chdir(tmp_path)
    data = Scenes("val", count=8, objects=3, seed=6)
    detector = load_model("scenes").model
    save_model("many.safetensors", with_queries(detector, 60))
    before = evaluate(load_model("many.safetensors").model, data)
    given = ["many.safetensors", "scenes:count=8,objects=3,seed=6", "-o", "few.safetensors"]
    done = CliRunner().invoke(app, ["prune", *given, "--within", "1", "--json"])
    assert done.exit_code == 0, done.output
    told = json.loads(done.stdout)
    after = evaluate("few.safetensors", data)
    assert after.ap >= before.ap - 0.01
    assert told["AP"] == pytest.approx([before.ap, after.ap], abs=1e-4)
    assert told["queries"][0] == 60
    assert done.stderr.startswith("measuring the AP of the whole model")
    assert "next: dabdetr val few.safetensors" in done.stderr
    assert told["queries"][1] == load_model("few.safetensors").model.config.model.queries.count < 40
    saved = json.loads(read("few.safetensors").metadata["pruned"])
    assert saved["AP"] == told["AP"]
    before_ms, after_ms = saved["milliseconds"]
    assert saved["times_as_fast"] == pytest.approx(before_ms / after_ms, abs=1e-3)
    assert ("no time is gained" in done.stderr) is not saved["faster"]
    again = CliRunner().invoke(app, ["prune", *given])
    assert again.exit_code == 2
    # few of two queries and one layer: nothing is left to remove
    least = with_layers(with_queries(detector, 1), 1)
    save_model("least.safetensors", least)
    line = ["prune", "least.safetensors", given[1], "-o", "none.safetensors", "--json"]
    done = CliRunner().invoke(app, line)
    assert done.exit_code == 1, done.output
    assert json.loads(done.stdout)["weights"] is None
    assert "no file was written" in done.stderr
    assert not Path("none.safetensors").exists()


@pytest.mark.parametrize(
    ("milliseconds", "faster", "words"),
    [
        ((140.5, 137.9), False, "140.5 → 137.9 ms an image: no time is gained"),
        ((100.0, 104.0), False, "100.0 → 104.0 ms an image: no time is gained"),
        ((140.0, 100.0), True, "140.0 → 100.0 ms an image: 1.40 times as fast"),
    ],
)
def test_a_pruned_model_that_takes_as_long_is_not_called_faster(
    milliseconds: tuple[float, float], faster: bool, words: str
) -> None:
    detector, comparison = None, None
    pruned = Pruned(detector, comparison, 8, (100, 86), (4, 4), milliseconds)  # pyright: ignore
    assert pruned.smaller
    assert pruned.faster is faster
    assert pruned.gain.startswith(words)


def test_val_tells_the_census_and_that_nothing_is_wrong(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    given = ["val", "scenes", "scenes:count=2,objects=1,seed=6", "--census", "--errors"]
    done = CliRunner().invoke(app, [*given, "--name", "words"])
    assert done.exit_code == 0, done.output
    document = json.loads(Path("runs/val/words/report.json").read_text())
    assert f"census: {document['queries']['sentence']}" in done.stderr.replace("\n", " ")
    (table,) = tmp_path.rglob("query_layers.csv")
    assert (
        table.read_text().splitlines()[0] == "layer,queries,count,right,entropy,spread,duplicates"
    )
    assert len(table.read_text().splitlines()) == 1 + len(document["queries"]["layers"]) == 4
    assert document["errors"]["causes"] == []  # two scenes of one digit each
    assert "no errors: every object is found" in done.stderr
    assert "AP50 gain" not in done.stdout
    assert done.stderr.splitlines()[-1] == f"report: {Path('runs/val/words/report.html')}"
    page = Path("runs/val/words/report.html").read_text()
    assert f"<p>{document['queries']['sentence'].capitalize()}.</p>" in page
    done = CliRunner().invoke(app, [*given, "--name", "plain", "--json"])
    assert json.loads(done.stdout)["queries"] == document["queries"]
