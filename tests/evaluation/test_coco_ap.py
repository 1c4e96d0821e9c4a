"""Our numbers against pycocotools on the same detections, to 1e-9."""

import contextlib
import io
import json
from dataclasses import dataclass

import numpy as np
import pytest
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval
from rich.console import Console

from dabdetr.evaluation.evaluate import NUMBERS, class_map, score
from dabdetr.structures import Detections


@dataclass
class Row:
    """One image's annotations; ``annotated`` is x, y, width, height."""

    image_id: int
    annotated: np.ndarray
    labels: np.ndarray
    crowd: np.ndarray
    areas: np.ndarray
    file: str = "x.png"
    width: int = 300
    height: int = 200


def xywh(boxes):
    boxes = np.asarray(boxes, float).reshape(-1, 4)
    return np.concatenate((boxes[:, :2], boxes[:, 2:] - boxes[:, :2]), 1)


def xyxy(boxes):
    return np.concatenate((boxes[:, :2], boxes[:, :2] + boxes[:, 2:]), 1)


class Made:
    """A data set held in memory: what ``score`` asks for."""

    name, split = "made", "val"

    def __init__(self, rows, names, category_ids):
        self.rows, self.names, self.category_ids = rows, tuple(names), tuple(category_ids)

    def __len__(self):
        return len(self.rows)

    def record(self, index):
        return self.rows[index]


def found(boxes, scores, labels, names):
    boxes = np.asarray(boxes, np.float32).reshape(-1, 4)
    order = np.argsort(-np.asarray(scores, np.float32), kind="stable")
    return Detections(
        boxes[order],
        np.asarray(scores, np.float32)[order],
        np.asarray(labels, np.int64)[order],
        np.arange(len(scores)),
        tuple(names),
        (200, 300),
    )


def random_boxes(rng, count):
    centre = rng.uniform((0, 0), (300, 200), (count, 2))
    size = rng.choice([12, 40, 110], (count, 1)) * rng.uniform(0.6, 1.5, (count, 2))
    return np.concatenate((centre - size / 2, centre + size / 2), 1).astype(np.float32)


def random_case(seed, names=("owl", "fox", "hen", "never"), ids=(3, 90, 17, 44), ties=False):
    """Crowds, images without objects or without detections, ids in no order, a class unused."""
    rng = np.random.default_rng(seed)
    rows, detections = [], []
    for index in range(25):
        count = 0 if index % 6 == 0 else int(rng.integers(1, 9))
        boxes = random_boxes(rng, count)
        sides = boxes[:, 2:] - boxes[:, :2]
        areas = sides.prod(1) * rng.uniform(0.5, 1, count)
        labels = rng.integers(0, len(names) - 1, count)
        image_id = 1000 - 7 * index
        annotated = xywh(boxes).round(2)
        crowd = rng.random(count) < 0.15
        rows.append(Row(image_id, annotated, labels, crowd, areas))
        hit = rng.random(count) < 0.8
        near = boxes[hit] + rng.normal(0, 3, (hit.sum(), 4)).astype(np.float32)
        guesses = np.concatenate((near, random_boxes(rng, int(rng.integers(0, 160)))))
        guessed = rng.integers(0, len(names), len(guesses))
        guessed[: len(near)] = labels[hit]
        scores = rng.random(len(guesses))
        scores[len(near) :] *= 0.7
        if ties:
            scores = scores.round(1)
        if index % 5 == 4:
            guesses, guessed, scores = guesses[:0], guessed[:0], scores[:0]
        detections.append(found(guesses, scores, guessed, names))
    return Made(rows, names, ids), detections


def pycoco(data, detections, path):
    """Numbers and per-class numbers of pycocotools, from files."""
    annotations = []
    for row in data.rows:
        for box, label, crowd, area in zip(
            row.annotated, row.labels, row.crowd, row.areas, strict=True
        ):
            annotations.append(
                {
                    "id": len(annotations) + 1,
                    "image_id": row.image_id,
                    "category_id": data.category_ids[label],
                    "bbox": box.tolist(),
                    "area": float(area),
                    "iscrowd": int(crowd),
                }
            )
    truth = {
        "images": [{"id": row.image_id, "height": 200, "width": 300} for row in data.rows],
        "annotations": annotations,
        "categories": [
            {"id": id, "name": name} for id, name in zip(data.category_ids, data.names, strict=True)
        ],
    }
    (path / "truth.json").write_text(json.dumps(truth))
    with contextlib.redirect_stdout(io.StringIO()):
        coco = COCO(str(path / "truth.json"))
        rows = [
            row
            for record, each in zip(data.rows, detections, strict=True)
            for row in each.to_coco(record.image_id, data.category_ids)
        ]
        results = coco.loadRes(rows) if rows else COCO()
        if not rows:
            results.dataset = truth | {"annotations": []}
            results.createIndex()
        run = COCOeval(coco, results, "bbox")
        run.evaluate()
        run.accumulate()
        run.summarize()
    per_class = {}
    for place, id in enumerate(run.params.catIds):
        parts = {
            "AP": run.eval["precision"][:, :, place, 0, 2],
            "AP50": run.eval["precision"][0, :, place, 0, 2],
            "AR100": run.eval["recall"][:, place, 0, 2],
        }
        name = data.names[data.category_ids.index(id)]
        per_class[name] = {
            key: values[values > -1].mean() if (values > -1).any() else -1
            for key, values in parts.items()
        }
    return dict(zip(NUMBERS, run.stats, strict=True)), per_class


def assert_equal(data, detections, path):
    ours = score(data, detections)
    numbers, per_class = pycoco(data, detections, path)
    assert ours.numbers == pytest.approx(numbers, abs=1e-9)
    assert set(ours.per_class) == set(data.names)
    for name, row in per_class.items():
        counted = sum(((r.labels == data.names.index(name)) & ~r.crowd).sum() for r in data.rows)
        assert ours.per_class[name] == pytest.approx(row | {"objects": counted}, abs=1e-9)
    return ours


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("ties", [False, True])
def test_equals_pycocotools(seed, ties, tmp_path, capfd):
    ours = assert_equal(*random_case(seed, ties=ties), tmp_path)
    assert 0.02 < ours.ap < 0.98
    assert ours.per_class["never"]["AP"] == -1
    assert capfd.readouterr().out == ""


def test_many_overlapping_objects_of_one_class(tmp_path):
    """Detections that could be many objects', equal boxes and objects just inside an area."""
    rng = np.random.default_rng(9)
    rows, detections = [], []
    for index in range(12):
        boxes = (20 + rng.integers(0, 6, (8, 2)) * 4).repeat(2, 1).reshape(-1, 4).astype(float)
        boxes = np.concatenate((boxes[:, ::2], boxes[:, ::2] + rng.choice([32, 40, 96], (8, 1))), 1)
        sides = boxes[:, 2:] - boxes[:, :2]
        crowd = rng.random(8) < 0.2
        rows.append(Row(index, xywh(boxes), np.zeros(8, int), crowd, sides.prod(1)))
        guesses = boxes[rng.integers(0, 8, 110)] + rng.integers(-4, 5, (110, 4))
        scores = rng.random(110).round(1)
        detections.append(found(guesses, scores, np.zeros(110, int), ["a"]))
    assert 0.01 < assert_equal(Made(rows, ["a"], [7]), detections, tmp_path).ap < 0.9


def test_no_detections_at_all_is_zero(tmp_path):
    data, detections = random_case(1)
    ours = assert_equal(data, [each[:0] for each in detections], tmp_path)
    assert ours.ap == 0


def test_no_objects_at_all_is_undefined(tmp_path):
    data, detections = random_case(2)
    empty = np.zeros(0, np.int64)
    for row in data.rows:
        row.labels, row.areas, row.annotated = empty, np.zeros(0), np.zeros((0, 4))
        row.crowd = empty.astype(bool)
    ours = assert_equal(data, detections, tmp_path)
    assert set(ours.numbers.values()) == {-1}
    told = json.loads(json.dumps(ours.to_dict()))
    assert set(told["numbers"].values()) == {None}
    assert "–" in rendered(ours)


def test_perfect_detections_are_one(tmp_path):
    data, _ = random_case(3)
    detections = [
        found(xyxy(r.annotated), np.ones(len(r.labels)), r.labels, data.names) for r in data.rows
    ]
    assert assert_equal(data, detections, tmp_path).ap == 1


def test_crowds_are_ignored(tmp_path):
    box = [[10, 10, 60, 60]]
    one = np.ones(1)
    annotated = np.array([[10.0, 10, 50, 50], [100, 10, 190, 180]])
    crowd = np.array([False, True])
    rows = [Row(1, annotated, np.zeros(2, int), crowd, np.array([2500.0, 30000]))]
    data = Made(rows, ["a"], [5])
    on_crowd = found([*box, [120, 20, 180, 80], [200, 20, 280, 80]], [0.5, 0.9, 0.8], [0] * 3, "a")
    assert assert_equal(data, [on_crowd], tmp_path).ap == 1
    crowd[:] = False
    assert assert_equal(data, [on_crowd], tmp_path).ap < 0.5
    assert score(data, [found(box, one, [0], "a")]).per_class["a"]["objects"] == 2


def test_more_than_100_of_a_class_count_only_the_best(tmp_path):
    rng = np.random.default_rng(0)
    box = np.array([[10.0, 10, 50, 50]])
    row = Row(1, box, np.zeros(1, int), np.zeros(1, bool), np.ones(1))
    boxes = np.concatenate((random_boxes(rng, 120), [[10, 10, 60, 60]]))
    scores = np.append(np.full(120, 0.9), 0.1)
    data = Made([row], ["a"], [1])
    low = assert_equal(data, [found(boxes, scores, np.zeros(121, int), ["a"])], tmp_path)
    high = assert_equal(data, [found(boxes, 1 - scores, np.zeros(121, int), ["a"])], tmp_path)
    assert (low.ap, high.ap) == (0, 1)


def test_classes_meet_by_name():
    data, detections = random_case(0)
    order = [2, 0, 3, 1]
    names = tuple(data.names[label] for label in order)
    renamed = [
        found(d.boxes, d.scores, [order.index(label) for label in d.labels], names)
        for d in detections
    ]
    assert score(data, renamed).numbers == score(data, detections).numbers
    assert score(data, renamed).notes == ()


def test_classes_beyond_the_data_are_dropped_and_said():
    data, detections = random_case(0)
    names = ("cow", *data.names)
    more = [
        found(
            np.concatenate((d.boxes, [[0, 0, 9, 9]])),
            np.append(d.scores, 1.0),
            np.append(d.labels + 1, 0),
            names,
        )
        for d in detections
    ]
    ours = score(data, more)
    assert ours.numbers == score(data, detections).numbers
    assert ours.notes == ("the data set lacks the class cow, whose detections were left out",)
    assert "cow" in rendered(ours)
    assert ours.detections[0].names == data.names


def test_classes_that_the_model_lacks_are_an_error():
    with pytest.raises(ValueError, match=r"model does not know fox; the data do not have dog;"):
        class_map(("owl", "dog"), ("owl", "fox"))


def test_every_image_needs_its_detections():
    data, detections = random_case(0)
    with pytest.raises(ValueError, match=r"detections for 25 images .* got 24"):
        score(data, detections[:-1])
    with pytest.raises(ValueError, match=r"0 images"):
        score(Made([], ["a"], [1]), [])


def test_results_file_gives_the_same_numbers_elsewhere(tmp_path):
    data, detections = random_case(5)
    ours = score(data, detections)
    ours.save_results(tmp_path / "results.json")
    numbers, _ = pycoco(data, detections, tmp_path)
    with contextlib.redirect_stdout(io.StringIO()):
        coco = COCO(str(tmp_path / "truth.json"))
        run = COCOeval(coco, coco.loadRes(str(tmp_path / "results.json")), "bbox")
        run.evaluate()
        run.accumulate()
        run.summarize()
    assert dict(zip(NUMBERS, run.stats, strict=True)) == pytest.approx(numbers, abs=1e-9)
    assert ours.numbers == pytest.approx(numbers, abs=1e-9)


def rendered(evaluation):
    console = Console(file=io.StringIO(), width=100)
    console.print(evaluation.table())
    return console.file.getvalue()


def test_table_shows_numbers_and_classes():
    data, detections = random_case(0)
    ours = score(data, detections)
    text = rendered(ours)
    for name in data.names:
        assert name in text
    for value in ours.numbers.values():
        assert f"{value:.3f}" in text
    assert ours.ap == ours.numbers["AP"]
    assert ours.ap50 == ours.numbers["AP50"]
