"""Faults of every kind are suspected where they are; decisions mend them, and only them."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from typer.testing import CliRunner

from dabdetr.asking.audit import audit, ranked
from dabdetr.asking.changed import Changed, Edit
from dabdetr.asking.decisions import mended
from dabdetr.cli import main as app
from dabdetr.data.dataset import ImageRecord, Subset
from dabdetr.data.layouts import open_data
from dabdetr.data.writing import write_data
from dabdetr.evaluation.suspicions import habits, of_image
from dabdetr.predictor import Predictor
from dabdetr.structures import Answers, Detections
from dabdetr.structures.boxes import iou

BCCD = Path(__file__).resolve().parents[2] / ".." / "shared" / "data" / "bccd"
pytestmark = pytest.mark.skipif(not BCCD.exists(), reason="shared/data/bccd is not here")
WBC, RBC, PLATELET = 1, 0, 2


@pytest.fixture(scope="module")
def data() -> Subset:
    found = Subset(open_data(BCCD, "test"), [0])
    found.split = "train"
    return found


@pytest.fixture(scope="module")
def faulty(data: Subset) -> Changed:
    """One fault of each kind; the image has its cells labelled by a person."""
    boxes = data.record(0).boxes.astype(float)
    width, height = boxes[1, 2:] - boxes[1, :2]
    edits = [
        Edit(0, boxes[0].tolist(), RBC),  # a white cell called a red one
        Edit(1, (boxes[1] + [0, 0, 0.7 * width, 0.6 * height]).tolist()),
        Edit(9, None),
        Edit(None, [440, 420, 480, 460], PLATELET),  # background
        Edit(None, (boxes[4] + [2, 2, 2, 2]).tolist(), RBC),
    ]
    return Changed(data, {0: edits})


@pytest.fixture(scope="module")
def suspicions(faulty: Changed) -> list:
    return ranked([each for some in audit(faulty, Predictor("blood-cells")) for each in some])


def test_each_fault_is_suspected_and_high_in_the_list(
    data: Subset, faulty: Changed, suspicions: list
) -> None:
    boxes = data.record(0).boxes
    count = len(faulty.record(0).boxes)
    by_row = {each.row: each for each in suspicions if each.row is not None}
    assert sorted(by_row) == list(range(count))
    wrong, loose = by_row[0], by_row[1]
    assert (wrong.kind, wrong.mend, wrong.answer_name) == ("class", "class", "WBC")
    assert (loose.kind, loose.mend) == ("loose", "box")
    assert iou(np.array(loose.answer), boxes[1]) > 0.7
    assert (by_row[count - 2].kind, by_row[count - 2].mend) == ("phantom", "remove")
    duplicates = [each for each in suspicions if each.kind == "duplicate"]
    assert any(iou(np.array(each.box), boxes[4]) > 0.8 for each in duplicates)
    missing = [each for each in suspicions if each.kind == "missing"]
    assert any(iou(np.array(each.answer), boxes[9]) > 0.5 for each in missing)
    ranks = [suspicions.index(each) for each in (wrong, by_row[count - 2], duplicates[0])]
    assert max(ranks) < len(suspicions) / 3
    assert [each.suspicion for each in suspicions] == sorted(
        (each.suspicion for each in suspicions), reverse=True
    )


def of_cells(labelled: int) -> tuple[ImageRecord, Answers]:
    """Ten cells that a model finds, of which so many have a label."""
    boxes = np.array([[40 * i, 0, 40 * i + 30, 30] for i in range(10)], dtype=np.float32)
    own, flags, labels = boxes[:labelled], np.zeros(labelled, bool), np.zeros(labelled, np.int64)
    areas = np.full(labelled, 900.0)
    record = ImageRecord(0, "a.png", 400, 30, own, labels, flags, areas, own.astype(float))
    queries, scores = np.arange(10), np.full(10, 0.9, dtype=np.float32)
    found = Detections(boxes, scores, np.zeros(10, np.int64), queries, ("cell",), (30, 400))
    none = np.zeros((0, 4), dtype=np.float32)
    nobody = np.zeros(0, dtype=np.int64)
    return record, Answers(none, none, none[:, :1], none[None], nobody, nobody, found)


def test_a_missing_label_weighs_less_where_most_have_none() -> None:
    pairs = [of_cells(9) for _ in range(5)] + [of_cells(2) for _ in range(5)] + [of_cells(0)]
    usual = habits(*zip(*pairs, strict=True))
    careful, careless = usual[0][9], usual[5][9]
    assert 0 < usual[-1][0] < careless < 0.5 < careful < 1
    assert [len(each) for each in habits(*zip(of_cells(0), strict=True))] == [10]
    assert habits([], []) == []


def test_weaker_detections_of_the_same_object_neither_count_nor_are_told() -> None:
    """A model that is hardly trained finds each object several times."""

    def doubled(labelled: int) -> tuple[ImageRecord, Answers]:
        record, answers = of_cells(labelled)
        found = answers.detections
        weaker = replace(
            found, boxes=found.boxes + np.float32(1), scores=found.scores / np.float32(9)
        )
        both = Detections(
            np.concatenate((weaker.boxes, found.boxes)),
            np.concatenate((weaker.scores, found.scores)),
            np.zeros(20, np.int64), np.arange(20), found.names, found.size,
        )  # fmt: skip
        return record, replace(answers, detections=both)

    counts = (10, 9, 9, 10, 0)
    single = habits(*zip(*(of_cells(each) for each in counts), strict=True))
    twice = habits(*zip(*(doubled(each) for each in counts), strict=True))
    for one, other in zip(single, twice, strict=True):
        np.testing.assert_allclose(other[10:], one, rtol=1e-6)
    record, answers = doubled(0)
    data = SimpleNamespace(names=("cell",), split="train")
    found = of_image(data, 0, record, answers)  # pyright: ignore
    assert [each.kind for each in found] == ["missing"] * 10
    assert [each.score for each in found] == [0.9] * 10
    # no less suspicious than a wrong label where such an object always has one
    assert [each.suspicion for each in found] == [pytest.approx(0.9**4, abs=1e-4)] * 10
    (sure,) = of_image(
        data, 0, record, replace(answers, detections=answers.detections[10:11]), np.ones(1)
    )  # pyright: ignore
    assert sure.suspicion == 1


def test_a_label_of_a_class_that_the_data_lack_is_removed() -> None:
    """The model knows another class, which cannot be given in these data."""
    record, answers = of_cells(1)
    found = replace(answers.detections[:0], names=("cell", "platelet"))
    box, scores = record.boxes, np.array([[0.01, 0.95]], np.float32)
    one = np.zeros(1, np.int64)
    about = Answers(box, box, scores, box[None], one, one - 1, found)
    for names, mend in ((("cell",), "remove"), (("cell", "platelet"), "class")):
        data = SimpleNamespace(names=names, split="train")
        (wrong,) = of_image(data, 0, record, about)  # pyright: ignore
        assert (wrong.kind, wrong.answer_name, wrong.mend) == ("class", "platelet", mend)


def test_decisions_mend_what_they_name_and_nothing_else(
    data: Subset, faulty: Changed, suspicions: list
) -> None:
    before = faulty.record(0)
    rows = [{"accept": False, **each.to_dict()} for each in suspicions]
    (same,) = mended([faulty], rows)
    np.testing.assert_array_equal(same.record(0).boxes, before.boxes)
    count = len(before.boxes)
    for row in rows:
        missing = row["mend"] == "add" and iou(np.array(row["answer"]), data.record(0).boxes[9])
        row["accept"] = row["row"] in (0, 1, count - 2) or bool(missing > 0.5)
    (after,) = mended([faulty], rows)
    record = after.record(0)
    assert len(record.boxes) == count  # one removed, one added
    assert record.labels[0] == WBC
    np.testing.assert_array_equal(record.boxes[0], before.boxes[0])
    assert iou(record.boxes[1], data.record(0).boxes[1]) > 0.7
    np.testing.assert_array_equal(record.boxes[2 : count - 2], before.boxes[2 : count - 2])
    assert iou(record.boxes[-1], data.record(0).boxes[9]) > 0.5


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"split": "test"}, "about the split 'test'"),
        ({"image": 9}, "about image 9 of train, which has 1 image: give"),
        ({"box": [1, 2, 3, 4]}, "has changed; audit it again"),
        ({"row": 99}, r"about box 99 of .*, which has \d+ boxes: give"),
        ({"row": None}, "about box None of"),
        ({"box": None}, "has changed; audit it again"),
        ({"mend": "class", "answer_name": "cat"}, "the class 'cat', which the data do not have"),
        ({"file": "elsewhere/b.jpg"}, r"image 0 of train is .*, and was elsewhere/b.jpg at the"),
        ({"mend": "box", "answer": [30, 30, 20, 40]}, r"it should be x0 y0 x1 y1 with x0 < x1"),
        ({"mend": "add", "answer": [-30, 5, -20, 40]}, r"in an image of 640×480 pixels"),
    ],
)
def test_decisions_that_do_not_fit(
    faulty: Changed, suspicions: list, change: dict, message: str
) -> None:
    first = next(each for each in suspicions if each.row == 0).to_dict()
    with pytest.raises(ValueError, match=message):
        mended([faulty], [{"accept": True, **first, **change}])


def test_the_command_ranks_shows_and_fixes(
    faulty: Changed, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_data([faulty], tmp_path / "faulty", "coco")
    monkeypatch.chdir(tmp_path)
    done = CliRunner().invoke(
        app, ["audit", "faulty", "--model", "blood-cells", "-o", "runs/audit/a"]
    )
    assert done.exit_code == 0, done.output
    folder = tmp_path / "runs" / "audit" / "a"
    decisions = json.loads((folder / "decisions.json").read_text())
    page = (folder / "index.html").read_text()
    assert page.count('class="accept"') == len(decisions)
    assert "http" not in page.replace("http-equiv", "")
    for each in decisions:
        each["accept"] = each["row"] == 0
    (tmp_path / "d.json").write_text(json.dumps(decisions))
    fixed = CliRunner().invoke(app, ["audit", "faulty", "--fix", "d.json", "-o", "copy", "--json"])
    assert fixed.exit_code == 0, fixed.output
    assert json.loads(fixed.stdout)["accepted"] == 1
    assert open_data(tmp_path / "copy").record(0).labels[0] == WBC
    for wrong in (
        ["--fix", "d.json"],
        ["-o", "copy"],
        ["--split", "val", "--model", "blood-cells"],
        ["--epochs", "3", "--model", "blood-cells"],
    ):
        assert CliRunner().invoke(app, ["audit", "faulty", *wrong]).exit_code == 2
