"""What `val` leaves to look at: its numbers against independent ones, its files, its page."""

from __future__ import annotations

import contextlib
import io
import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval
from sklearn.metrics import precision_recall_curve
from typer.testing import CliRunner

from dabdetr.cli import app
from dabdetr.data.dataset import Subset
from dabdetr.data.scenes import Scenes
from dabdetr.evaluation import bootstrap
from dabdetr.evaluation.against import compare
from dabdetr.evaluation.breakdown import breakdowns
from dabdetr.evaluation.curves import class_curve, confusion, pair
from dabdetr.evaluation.error_report import ErrorReport
from dabdetr.evaluation.errors import diagnose
from dabdetr.evaluation.evaluate import columns, score
from dabdetr.evaluation.judged import default_limits, judge
from dabdetr.evaluation.result import Evaluation
from dabdetr.report.earlier import compare_with, detections_of, read_earlier
from dabdetr.report.write import write_report
from dabdetr.structures import Detections


def perturbed(data: Scenes, seed: int = 0) -> Evaluation:
    """Detections near the objects, some of a wrong class, and some of nothing."""
    random = np.random.default_rng(seed)
    every = []
    for index in range(len(data)):
        record = data.record(index)
        kept = random.random(len(record.labels)) < 0.85
        boxes, labels = record.boxes[kept], record.labels[kept]
        boxes = boxes + random.normal(0, 3, boxes.shape)
        wrong = random.random(len(labels)) < 0.15
        labels = np.where(wrong, (labels + 1) % len(data.names), labels)
        more = random.uniform(0, 60, (4, 2))
        boxes = np.concatenate((boxes, np.concatenate((more, more + 25), 1))).astype(np.float32)
        labels = np.concatenate((labels, random.integers(0, len(data.names), 4)))
        scores = random.random(len(labels)).astype(np.float32)
        order = np.argsort(-scores)
        found = Detections(
            boxes[order],
            scores[order],
            labels[order].astype(np.int64),
            np.arange(len(order)),
            data.names,
            (record.height, record.width),
            record.file,
        )
        every.append(found)
    return score(data, every)


@pytest.fixture(scope="module")
def data() -> Scenes:
    return Scenes("val", count=16, seed=2)


@pytest.fixture(scope="module")
def found(data: Scenes) -> Evaluation:
    return perturbed(data)


def reference(data: Scenes, found: Evaluation, drawn: list[int]) -> COCOeval:
    """pycocotools on the images ``drawn``, each as often as it stands there."""
    images, truth, results = [], [], []
    for place, index in enumerate(drawn, 1):
        images.append({"id": place})
        record = data.record(index)
        for box, label, area in zip(record.annotated, record.labels, record.areas, strict=True):
            row = {"image_id": place, "category_id": int(label), "bbox": box.tolist(), "iscrowd": 0}
            truth.append({**row, "area": float(area), "id": len(truth) + 1})
        for row in found.detections[index].to_coco(place, range(len(data.names))):
            results.append(row)
    with contextlib.redirect_stdout(io.StringIO()):
        coco = COCO()
        categories = [{"id": label} for label in range(len(data.names))]
        coco.dataset = {"images": images, "annotations": truth, "categories": categories}
        coco.createIndex()
        evaluation = COCOeval(coco, coco.loadRes(results), "bbox")
        evaluation.evaluate()
        evaluation.accumulate()
    return evaluation


@pytest.mark.parametrize("seed", [None, 0, 1])
def test_a_resample_is_what_pycocotools_says_of_its_images(
    data: Scenes, found: Evaluation, seed: int | None
) -> None:
    truth, boxes, places = columns(data, found.detections)
    weights = np.ones((1, len(data)), np.int64)
    if seed is not None:
        weights = bootstrap.resamples(len(data), 3, seed)
    matched = bootstrap.match(truth, boxes, len(data), len(places))
    ours = bootstrap.average_precision(matched, weights)[-1]
    drawn = np.arange(len(data)).repeat(weights[-1]).tolist()
    theirs = reference(data, found, drawn).eval["precision"][:, :, :, 0, 2]
    theirs = np.where(theirs > -1, theirs, np.nan).mean(1).T
    # COCO's results round boxes and scores
    np.testing.assert_allclose(ours, theirs, atol=2e-3)


def test_an_interval_holds_what_was_resampled() -> None:
    values = np.arange(101.0)
    assert bootstrap.interval(values) == pytest.approx([2.5, 97.5])
    assert bootstrap.interval(np.array([np.nan])) is None


def test_curves_equal_scikit_learn() -> None:
    random = np.random.default_rng(0)
    scores = random.random(200).round(2)
    right = random.random(200) < scores
    curve = class_curve(scores, right, int(right.sum()))
    precision, recall, limits = precision_recall_curve(right, scores)
    np.testing.assert_allclose(curve.scores[::-1], limits)
    np.testing.assert_allclose(curve.precision[::-1], precision[:-1])
    np.testing.assert_allclose(curve.recall[::-1], recall[:-1])
    assert curve.best is not None
    f1 = 2 * precision * recall / np.maximum(precision + recall, 1e-12)
    assert curve.f1[curve.best] == pytest.approx(f1.max())


def test_pairs_and_confusion_by_hand() -> None:
    objects = np.array([[0, 0, 10, 10], [20, 0, 30, 10], [40, 0, 50, 10]], float)
    found = np.array([[0, 0, 10, 9], [0, 0, 10, 10], [20, 0, 30, 9], [80, 0, 90, 10]], float)
    truth, labels = np.array([0, 1, 0]), np.array([0, 1, 0, 1])
    of_found, of_object = pair(found, objects, labels[:, None] == truth)
    # the first one's class is right: it is taken although another box fits better
    assert of_found.tolist() == [0, -1, 1, -1]
    assert of_object.tolist() == [0, 2, -1]
    of_found, of_object = pair(found, objects, np.ones((4, 3), bool))
    assert of_found.tolist() == [-1, 0, 1, -1]
    matrix = confusion([(np.array([0, 1, 0]), np.array([1, 0, 2]))], 2)
    assert matrix.tolist() == [[0, 1, 1], [1, 0, 0], [0, 0, 0]]


def test_ap_by_size_equals_coco_areas(data: Scenes, found: Evaluation) -> None:
    truth, boxes, places = columns(data, found.detections)
    rows = breakdowns(truth, boxes, len(places))["size"]
    assert sum(row["objects"] for row in rows) == len(truth)
    evaluation = reference(data, found, list(range(len(data))))
    for row in rows:
        evaluation.params.areaRng = [[row["from"] ** 2, (row["to"] or 1e5) ** 2 - 1e-6]]
        evaluation.params.areaRngLbl = ["bin"]
        with contextlib.redirect_stdout(io.StringIO()):
            evaluation.evaluate()
            evaluation.accumulate()
        theirs = evaluation.eval["precision"][0, :, :, 0, 2]
        assert row["AP50"] == pytest.approx(theirs[theirs > -1].mean(), abs=3e-3)


def test_everything_in_the_page_is_in_the_json(
    data: Scenes, found: Evaluation, tmp_path: Path
) -> None:
    limits = default_limits(data, found)
    about = {"verb": "val", "model": "<made>", "data": data.name, "split": data.split}
    tree = write_report(tmp_path, data, found, limits, about)
    read = json.loads((tmp_path / "report.json").read_text())
    assert read == json.loads(json.dumps(tree))
    page = (tmp_path / "report.html").read_text()
    assert len(page) < 8e6
    assert "&lt;made&gt;" in page
    assert "<made>" not in page
    for row in read["per_class"]:
        assert f"{row['AP']:.3f}" in page
        low, high = row["interval"]
        assert low <= high
    objects = sum(len(data.record(index).labels) for index in range(len(data)))
    matrix = np.array(read["confusion"]["matrix"])
    assert matrix[:-1].sum() == objects == len(read["objects"])
    assert np.diag(matrix)[:-1].sum() == sum(row["found"] for row in read["images"])
    assert matrix[:, :-1].sum() == sum(row["found"] + row["false"] for row in read["images"])
    for name in ("classes", "precision_recall", "f1", "confusion", "calibration", "size"):
        assert (tmp_path / f"{name}.png").read_bytes().startswith(b"\x89PNG")
    assert len((tmp_path / "objects.csv").read_text().splitlines()) == objects + 1


def test_figures_name_every_class_and_are_visible_on_both_grounds(
    data: Scenes, found: Evaluation
) -> None:
    from matplotlib.colors import to_rgb

    from dabdetr.report.contents import contents
    from dabdetr.report.figures import figures, svg

    tree = contents(data, found, np.full(10, 0.3), {})
    drawn = {name: figure for name, _, figure in figures(tree)}
    for name in ("precision_recall", "f1"):
        (legend,) = drawn[name].legends  # ten classes: below the axis
        assert {text.get_text() for text in legend.get_texts()} == set(data.names)
        lines = drawn[name].axes[0].get_lines()
        looks = {
            (to_rgb(line.get_color()), line.get_linestyle())
            for line in lines
            if line.get_label() in data.names
        }
        assert len(looks) == len(data.names)
        grey = [to_rgb(line.get_color()) @ np.array([0.21, 0.72, 0.07]) for line in lines]
        assert min(grey) > 0.15
        assert max(grey) < 0.9
    cells = drawn["confusion"].axes[0].get_images()[0].get_array()
    assert cells.shape[2] == 4
    matrix = np.array(tree["confusion"]["matrix"])
    assert cells[..., 3].min() == 0  # the page's ground shows where no object is
    assert "#000000" not in svg(drawn["confusion"])
    assert matrix.any()


def test_worst_and_best_images_are_files_of_their_own(
    tmp_path: Path, data: Scenes, found: Evaluation
) -> None:
    limits = default_limits(data, found)
    about = {"model": "m", "data": "d", "split": "val"}
    (tmp_path / "pairs").mkdir()
    (tmp_path / "pairs" / "worst-99-of-an-earlier-report.png").write_bytes(b"")
    tree = write_report(tmp_path, data, found, limits, about)
    files = sorted(path.name for path in (tmp_path / "pairs").iterdir())
    expected = [
        f"{group}-{rank:02d}-{Path(tree['images'][at]['file']).stem}.png"
        for group in ("best", "worst")
        for rank, at in enumerate(tree[group], 1)
    ]
    assert files == expected
    with Image.open(tmp_path / "pairs" / files[-1]) as image:
        pixels = np.asarray(image).astype(int)
    half = (pixels.shape[1] - 4) // 2
    left, right = pixels[:, :half], pixels[:, half + 4 :]
    assert left.shape == right.shape
    assert np.abs(left - right).max() > 50  # the truth, and what was found


def test_errors_of_some_images_are_numbered_as_in_the_report(
    data: Scenes, found: Evaluation, tmp_path: Path
) -> None:
    limits, places = default_limits(data, found), [2, 3, 11]
    some = Subset(data, places)
    part = score(some, [found.detections[place] for place in places])
    why = ErrorReport.of(some, diagnose(some, part, limits), places=places)
    about = {"verb": "train", "model": "m", "data": data.name, "split": data.split}
    tree = write_report(tmp_path, data, found, limits, about, why)
    assert tree["errors"]["images"] == 3
    rows = [row for row in tree["errors"]["rows"] if row["side"] == "missed"]
    for place in range(len(data)):
        count = sum(row["image"] == place for row in rows)
        assert count == (tree["images"][place]["missed"] if place in places else 0)
    assert sum(tree["images"][place]["missed"] for place in places) > 3
    assert "in 3 images, spaced evenly among all 16" in (tmp_path / "report.html").read_text()


def test_a_perfect_model_has_no_empty_tables(data: Scenes, tmp_path: Path) -> None:
    right = []
    for index in range(len(data)):
        record = data.record(index)
        boxes, labels, size = record.boxes, record.labels, (record.height, record.width)
        scores, queries = np.ones(len(boxes), np.float32), np.arange(len(boxes))
        right.append(Detections(boxes, scores, labels, queries, data.names, size, record.file))
    found = score(data, right)
    limits = default_limits(data, found)
    why = ErrorReport.of(data, diagnose(data, found, limits))
    about = {"verb": "val", "model": "m", "data": data.name, "split": data.split}
    assert write_report(tmp_path, data, found, limits, about, why)["errors"]["rows"] == []
    page = (tmp_path / "report.html").read_text()
    assert "No errors at the thresholds in use." in page
    assert "Causes of errors" not in page
    assert "Gallery" not in page


def test_val_leaves_a_report(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    line = ["val", "--model", "scenes", "--data", "scenes:count=3", "--json", "--quiet"]
    done = CliRunner().invoke(app, line)
    assert done.exit_code == 0, done.output
    said: dict[str, Any] = json.loads(done.stdout)
    folder = tmp_path / "runs" / "val" / "val-1"
    assert Path(said["report"]) == Path("runs/val/val-1/report.html")
    read = json.loads((folder / "report.json").read_text())
    assert read["numbers"]["AP"] == said["numbers"]["AP"]
    assert read["about"]["objects"] == said["read"]["boxes"]
    # its detections are results like any other
    saved = ["--predictions", str(folder / "detections.json"), "--name", "again"]
    done = CliRunner().invoke(app, ["val", *saved, *line[3:]])
    assert done.exit_code == 0, done.output
    assert json.loads(done.stdout)["numbers"]["AP"] == pytest.approx(
        read["numbers"]["AP"], abs=1e-3
    )
    assert (tmp_path / "runs" / "val" / "again" / "report.html").exists()
    both = [*line, "--predictions", str(folder / "detections.json")]
    both = ["val", *both[3:], "--against", str(folder), "--name", "both"]
    done = CliRunner().invoke(app, both)
    assert done.exit_code == 0, done.output
    assert json.loads(done.stdout)["against"]["lost"] == []
    taken = CliRunner().invoke(app, [*line, "--name", "again"])
    assert taken.exit_code != 0


def test_numbers_are_printed_where_no_report_can_be_written(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("not a folder")
    line = ["val", "scenes", "scenes:count=2", "--json", "--project", str(tmp_path / "file")]
    done = CliRunner().invoke(app, line)
    assert done.exit_code == 0, done.output
    said = json.loads(done.stdout)
    assert said["report"] is None
    assert said["numbers"]["AP"] > 0
    assert "no report: " in done.stderr


def test_against_a_better_one_is_more_than_chance_and_against_itself_is_not(
    data: Scenes, found: Evaluation, tmp_path: Path
) -> None:
    limits = default_limits(data, found)
    about = {"verb": "val", "model": "old", "data": data.name, "split": data.split}
    write_report(tmp_path, data, found, limits, about)
    judged = judge(data, found, limits)
    same = compare_with(read_earlier(tmp_path, data), data, found, judged)
    assert same.numbers["AP"].value == pytest.approx(0, abs=1e-4)
    assert not same.numbers["AP"].real
    assert same.won == same.lost == []
    # one object in three is found no more: its detections go
    worse = []
    for index, each in enumerate(found.detections):
        of = judged[index].of_object[::3]
        gone = judged[index].found.queries[of[of >= 0]]
        worse.append(each[~np.isin(each.queries, gone)])
    poor = score(data, worse)
    poor_judged = judge(data, poor, limits)
    loss = compare_with(read_earlier(tmp_path / "report.html", data), data, poor, poor_judged)
    assert loss.numbers["AP"].real
    low, high = loss.numbers["AP"].interval
    assert low < loss.numbers["AP"].value < high < 0
    assert loss.numbers["AP"].this == pytest.approx(poor.ap)
    caught = [sum(int(each.caught.sum()) for each in some) for some in (judged, poor_judged)]
    assert len(loss.won) - len(loss.lost) == caught[1] - caught[0]
    for index, at in loss.lost:
        assert judged[index].caught[at]
        assert not poor_judged[index].caught[at]
    tree = write_report(tmp_path, data, poor, limits, about, against=loss)
    page = (tmp_path / "report.html").read_text()
    assert len(tree["against"]["lost"]) == len(loss.lost)
    table = (tmp_path / "against.csv").read_text().splitlines()
    assert sum(line.startswith("lost,") for line in table) == len(loss.lost)
    assert sum(line.startswith("won,") for line in table) == len(loss.won)
    assert "more than chance" in page
    assert 'id="against"' in page
    for row in tree["against"]["lost"]:  # the other's detection is what found the object
        assert row["other"]["name"] == row["name"]
        assert row["other"]["iou"] >= 0.5
    assert "Lost: only the other finds them" in page
    # wrong classes that only one has: the labels decide which of both is false
    wrong = replace(found.detections[0], labels=(found.detections[0].labels + 1) % 10)
    mixed = score(data, [wrong, *found.detections[1:]])
    other = compare(data, found, judged, mixed, judge(data, mixed, limits), "mixed")
    assert {index for index, _ in (*other.won, *other.extra[0], *other.extra[1])} == {0}
    assert len(other.extra[1]) >= len(other.won) > 0
    rows = other.to_dict(data)
    assert all(row["other"]["name"] != row["name"] for row in rows["won"] if row["other"])
    assert [row["score"] for row in rows["false_only"]["other"]] == sorted(
        (row["score"] for row in rows["false_only"]["other"]), reverse=True
    )


def test_the_interval_of_a_difference_is_paired(data: Scenes, found: Evaluation) -> None:
    """Narrower than that of the number itself: what is hard for both is no difference."""
    limits = default_limits(data, found)
    dropped = [each[np.arange(len(each)) != 1] for each in found.detections]
    other = score(data, dropped)
    judged = judge(data, found, limits)
    compared = compare(data, found, judged, other, judge(data, other, limits), "other")
    low, high = compared.numbers["AP"].interval
    truth, boxes, places = columns(data, found.detections)
    matched = bootstrap.match(truth, boxes, len(data), len(places))
    values = bootstrap.average_precision(matched, bootstrap.resamples(len(data)))
    own = bootstrap.interval(bootstrap.class_means(values))
    assert own is not None
    assert high - low < 0.7 * (own[1] - own[0])


def test_a_report_of_other_data_is_not_compared(
    data: Scenes, found: Evaluation, tmp_path: Path
) -> None:
    limits = default_limits(data, found)
    about = {"verb": "val", "model": "old", "data": data.name, "split": data.split}
    write_report(tmp_path, data, found, limits, about)
    other = Scenes("val", count=16, seed=3)
    with pytest.raises(ValueError, match="is of other images"):
        read_earlier(tmp_path, other)
    with pytest.raises(FileNotFoundError, match="holds no report"):
        detections_of(tmp_path.parent)
    with pytest.raises(FileNotFoundError, match="there is no report"):
        detections_of(tmp_path / "none.json")
