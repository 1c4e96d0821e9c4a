"""Rough boxes in, tight ones out; what is taken, what stays, and what is written."""

from __future__ import annotations

import csv
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from typer.testing import CliRunner

from dabdetr.asking.changed import Changed, Edit
from dabdetr.asking.snap import snap, snapped
from dabdetr.cli import main as app
from dabdetr.data.dataset import Subset
from dabdetr.data.layouts import open_data
from dabdetr.data.writing import write_data
from dabdetr.predictor import Predictor
from dabdetr.structures.boxes import iou

BCCD = Path(__file__).resolve().parents[2] / ".." / "shared" / "data" / "bccd"
pytestmark = pytest.mark.skipif(not BCCD.exists(), reason="shared/data/bccd is not here")


@pytest.fixture(scope="module")
def predictor() -> Predictor:
    return Predictor("blood-cells")


@pytest.fixture(scope="module")
def data() -> Subset:
    found = Subset(open_data(BCCD, "test"), range(2))
    found.split = "train"
    return found


@pytest.fixture(scope="module")
def rough(data: Subset) -> Changed:
    """Boxes too large by a third of a side at two edges."""
    edits: dict[int, list[Edit]] = {}
    for index in range(len(data)):
        record = data.record(index)
        sides = record.boxes[:, 2:] - record.boxes[:, :2]
        wide = np.concatenate((record.boxes[:, :2], record.boxes[:, 2:] + sides / 3), 1)
        limits = np.tile((record.width, record.height), 2)
        edits[index] = [Edit(row, box) for row, box in enumerate(wide.clip(0, limits).tolist())]
    return Changed(data, edits)


def overlap(one: Any, other: Any) -> float:
    pairs = [iou(one.record(index).boxes, other.record(index).boxes) for index in range(len(other))]
    return float(np.concatenate(pairs).mean())


def test_boxes_are_tight_afterwards(data: Subset, rough: Changed, predictor: Predictor) -> None:
    rows = [row for some in snap(rough, predictor) for row in some]
    tight = snapped(rough, rows, rough.names)
    assert len(rows) == sum(len(data.record(index).boxes) for index in range(2))
    assert overlap(tight, data) > overlap(rough, data) + 0.05
    limits = predictor.class_thresholds()
    for row in rows:
        own = tight.record(row.image).boxes[row.row]
        np.testing.assert_allclose(own, row.after if row.taken else row.before, atol=0.01)
        if row.taken:
            assert row.score >= limits[predictor.names.index(row.name)] - 1e-4
            assert row.name_after == row.name_before == row.name
    assert any(row.taken for row in rows)
    assert not all(row.taken for row in rows)
    assert not any(row.taken for some in snap(rough, predictor, conf=1.0) for row in some)


def test_a_class_that_the_model_does_not_know_is_named(
    data: Subset, rough: Changed, predictor: Predictor
) -> None:
    class Unnamed(Changed):
        def record(self, index: int) -> Any:
            from dataclasses import replace

            record = super().record(index)
            return replace(record, labels=np.zeros_like(record.labels))

    unnamed = Unnamed(rough, {})
    unnamed.names, unnamed.category_ids = ("thing",), (7,)
    rows = [row for some in snap(unnamed, predictor) for row in some]
    names = ("thing", *predictor.names)
    named = snapped(unnamed, rows, names)
    assert len(named.category_ids) == len(set(named.category_ids)) == 4
    for row in rows:
        real = data.names[data.record(row.image).labels[row.row]]
        assert row.name_before == "thing"
        assert row.name_after == (real if row.taken else "thing")
        assert names[named.record(row.image).labels[row.row]] == row.name_after


def test_clicks_become_boxes(data: Subset, predictor: Predictor) -> None:
    points = {}
    for index in range(len(data)):
        boxes = data.record(index).boxes
        centre = (boxes[:, :2] + boxes[:, 2:]) / 2
        dots = np.concatenate((centre - 2, centre + 2), 1).tolist()
        points[index] = [Edit(row, box) for row, box in enumerate(dots)]
    clicked = Changed(data, points)
    rows = [row for some in snap(clicked, predictor, clicks=True) for row in some]
    taken = [row for row in rows if row.taken]
    overlaps = [iou(np.array(row.after), data.record(row.image).boxes[row.row]) for row in taken]
    assert len(taken) > len(rows) / 2
    assert np.mean(overlaps) > 0.7


def test_two_boxes_never_become_the_same(data: Subset, predictor: Predictor) -> None:
    box = data.record(0).boxes[1].astype(float)
    shifted = (box + 12).tolist()
    twice = Changed(data, {0: [Edit(None, shifted, int(data.record(0).labels[1]))]})
    rows = next(iter(snap(twice, predictor)))
    assert rows[1].taken
    assert not rows[-1].taken


@pytest.mark.parametrize("layout", ["coco", "yolo"])
def test_the_command_writes_a_data_set_lists_and_a_page(
    rough: Changed, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, layout: str
) -> None:
    one = Subset(rough, [0])
    write_data([one], tmp_path / "rough", "coco")
    monkeypatch.chdir(tmp_path)
    arguments = ["snap", "rough", "-o", "tight", "--model", "blood-cells", "--to", layout]
    done = CliRunner().invoke(app, [*arguments, "--json"])
    assert done.exit_code == 0, done.output
    assert done.stderr.startswith("train: 1 image, 0 without boxes;")
    document = json.loads(done.stdout)
    assert 0 < document["taken"] < document["boxes"] == len(document["changes"])
    tight, before = open_data(tmp_path / "tight"), open_data(tmp_path / "rough")
    for row in document["changes"]:
        box = row["after" if row["taken"] else "before"]
        np.testing.assert_allclose(tight.record(0).boxes[row["row"]], box, atol=0.05)
        np.testing.assert_allclose(before.record(0).boxes[row["row"]], row["before"], atol=0.01)
    written = json.loads((tmp_path / "tight" / "snap" / "changes.json").read_text())
    assert written == document["changes"]
    with (tmp_path / "tight" / "snap" / "changes.csv").open() as file:
        table = list(csv.DictReader(file))
    assert [float(row["score"]) for row in table] == [row["score"] for row in written]
    page = (tmp_path / "tight" / "snap" / "index.html").read_text()
    assert page.count('<rect class="before"') == document["boxes"]
    assert page.count('<rect class="after"') == document["taken"]
    again = CliRunner().invoke(app, arguments)
    assert again.exit_code == 2


def test_a_wrong_layout_is_refused_before_the_model_answers(
    rough: Changed, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_data([Subset(rough, [0])], tmp_path / "rough", "coco")
    monkeypatch.chdir(tmp_path)
    line = ["snap", "rough", "-o", "tight", "--model", "blood-cells", "--to", "labelme"]
    done = CliRunner().invoke(app, line)
    assert (done.exit_code, done.stdout) == (2, "")
    assert done.stderr.startswith("error: the layout should be one of coco, yolo,")
