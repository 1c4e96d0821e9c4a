"""Thresholds and calibration: by hand, and against scikit-learn's own curves."""

from __future__ import annotations

import numpy as np
import pytest
from sklearn.metrics import precision_recall_curve

from dabdetr.config import Config
from dabdetr.data.scenes import Scenes
from dabdetr.evaluation.coco_ap import Boxes, right_at
from dabdetr.evaluation.evaluate import score as score_of
from dabdetr.evaluation.judged import default_limits
from dabdetr.evaluation.operating_point import (
    ENOUGH,
    FLAT,
    calibrate,
    calibration_error,
    operating_points,
    with_operating_point,
)
from dabdetr.structures import Detections


def boxes(rows: list[tuple[int, int, float]], score: list[float] | None = None) -> Boxes:
    """Rows of (image, label, x): boxes 10 wide and high, far apart where x differs by 20."""
    image, label, x = (np.array(column) for column in zip(*rows, strict=True))
    sides = np.full(len(rows), 10.0)
    whole = np.stack((x.astype(float), np.zeros(len(rows)), sides, sides), 1)
    score_of = np.zeros(0) if score is None else np.array(score)
    return Boxes(image, label, whole, sides**2, np.zeros(len(rows), bool), score_of)


TRUTH = boxes([(0, 0, 0), (0, 0, 20), (1, 0, 0), (1, 1, 40)])
FOUND = boxes(
    [(1, 0, 0), (0, 0, 0), (0, 0, 1), (0, 0, 100), (0, 0, 20), (1, 1, 100)],
    [0.6, 0.9, 0.8, 0.5, 0.4, 0.3],
)


def test_right_at_half_by_hand() -> None:
    right, counted = right_at(TRUTH, FOUND, 2)
    assert right.tolist() == [True, True, False, False, True, False]
    assert counted.all()


def test_the_best_threshold_by_hand() -> None:
    whole, own = operating_points(TRUTH, FOUND, 2)
    assert whole is not None
    # F1 by cut: .4 (1 of 1 shown), .33, .57 (2 of 3), .5, .67 (3 of 5), .6
    assert whole.conf == pytest.approx(0.35)
    assert (whole.precision, whole.recall) == (3 / 5, 3 / 4)
    assert whole.f1 == pytest.approx(2 * 3 / (5 + 4))
    assert own == {}  # no class has enough objects


def test_crowds_count_neither_way() -> None:
    truth = boxes([(0, 0, 0), (0, 0, 20)])
    truth.crowd[1] = True
    found = boxes([(0, 0, 0), (0, 0, 20), (0, 0, 20)], [0.5, 0.9, 0.8])
    whole, _ = operating_points(truth, found, 1)
    assert whole is not None
    assert (whole.precision, whole.recall) == (1, 1)


def test_nothing_right_gives_no_threshold() -> None:
    assert operating_points(TRUTH, boxes([(0, 0, 200)], [0.9]), 2) == (None, {})
    assert calibrate(TRUTH, boxes([(0, 0, 200)], [0.9]), 2) is None


def drawn(seed: int, scale: float, shift: float) -> tuple[Boxes, Boxes, np.ndarray]:
    """Objects and detections, one of each an image, right as often as the curve says."""
    rng = np.random.default_rng(seed)
    score = rng.uniform(0.06, 0.98, 4000)
    chance = 1 / (1 + np.exp(-(scale * np.log(score / (1 - score)) + shift)))
    right = rng.random(4000) < chance
    image = np.arange(4000)
    truth = boxes([(int(i), 0, 0) for i in image])
    found = boxes([(int(i), 0, 0 if r else 50) for i, r in zip(image, right, strict=True)])
    return (
        truth,
        Boxes(found.image, found.label, found.boxes, found.area, found.crowd, score),
        right,
    )


def test_equals_scikit_learn() -> None:
    truth, found, right = drawn(0, 1.0, 0.0)
    whole, own = operating_points(truth, found, 1)
    assert whole is not None
    assert own[0] == whole
    assert len(truth) > ENOUGH
    precision, recall, _ = precision_recall_curve(right, found.score)
    recall = recall * right.sum() / len(truth)  # objects without a detection are missed
    f1 = 2 * precision * recall / np.maximum(precision + recall, 1e-12)
    flat = f1 >= f1.max() - FLAT
    assert f1.max() - FLAT <= whole.f1 < f1.max()
    rows = np.flatnonzero(flat)[::-1]  # from the highest threshold
    middle = rows[len(rows) // 2]
    assert whole.precision == pytest.approx(precision[middle])
    assert whole.recall == pytest.approx(recall[middle])
    shown = found.score >= whole.conf
    assert whole.precision == pytest.approx(right[shown].mean())


def test_a_clearly_separated_class_takes_the_threshold_nearest_to_the_common_one() -> None:
    # Label 0: 100 objects found at scores of 0.95 to 0.80, and two wrong boxes at 0.96. Precision
    # and recall are equal where two right ones are left out, at about 0.80; F1 within 0.01 of the
    # best reaches down to 0. Label 1 moves the common threshold to 0.45.
    clear = [(image, 0, 0) for image in range(100)]
    mixed = [(image, 1, 40) for image in range(200)]
    half = [(image, 1, 40 if image < 100 else 100) for image in range(200)]
    truth = boxes([*clear, *mixed[:100]])
    scores = [0.96, 0.96, *np.linspace(0.95, 0.80, 100), *np.linspace(0.7, 0.5, 100), *[0.4] * 100]
    found = boxes([(0, 0, 200), (1, 0, 200), *clear, *half], scores)
    whole, own = operating_points(truth, found, 2)
    assert whole is not None
    assert whole.conf == pytest.approx(0.5, abs=0.06)
    assert (own[0].precision, own[0].recall) == (100 / 102, 1)
    assert own[0].conf == pytest.approx(0.4)


@pytest.mark.parametrize(("scale", "shift"), [(0.5, -1.0), (2.0, 0.7)])
def test_calibration_finds_the_curve(scale: float, shift: float) -> None:
    truth, found, _ = drawn(1, scale, shift)
    curve = calibrate(truth, found, 1)
    assert curve is not None
    assert (curve.scale, curve.shift) == pytest.approx((scale, shift), abs=0.15)
    assert curve.before > 0.08
    assert curve.error < 0.03


def test_calibration_error_by_hand() -> None:
    score = np.array([0.2] * 10 + [0.8] * 10)
    right = np.array([True] * 4 + [False] * 6 + [True] * 8 + [False] * 2)
    # sorting is stable, so bins of two hold rows of one kind each
    gaps = [0.8, 0.8, 0.2, 0.2, 0.2, 0.2, 0.2, 0.2, 0.2, 0.8]
    assert calibration_error(score, right) == pytest.approx(np.mean(gaps))


def test_a_config_gets_what_its_model_does_on_the_split() -> None:
    data = Scenes("val", count=40, seed=3)
    rng = np.random.default_rng(0)
    found = []
    for index in range(len(data)):
        record = data.record(index)
        score = np.sort(rng.uniform(0.1, 0.9, len(record.labels)).astype(np.float32))[::-1]
        beside = rng.random(len(score)) > score  # the lower the score, the more often wrong
        boxes = record.boxes + 500 * beside[:, None].astype(np.float32)
        queries = np.arange(len(score))
        size = (record.height, record.width)
        found.append(Detections(boxes, score, record.labels, queries, data.names, size))
    chosen = with_operating_point(Config(), data, score_of(data, found))
    inference = chosen.config.inference
    assert inference.calibration is not None
    assert 0 < inference.conf < 1
    assert inference.class_conf.keys() <= set(data.names)
    assert Config.model_validate(chosen.config.model_dump()) == chosen.config
    assert str(chosen).startswith(f"threshold {inference.conf:.2f}: precision 0.")
    few = Scenes("val", count=2, seed=3)
    with pytest.raises(ValueError, match="at least 30 objects and scenes val has"):
        with_operating_point(Config(), few, score_of(few, found[:2]))


def test_of_each_query_the_best_class_counts() -> None:
    data = Scenes("val", count=40, seed=3)
    found, twice = [], []
    for index in range(len(data)):
        record = data.record(index)
        objects, size = len(record.labels), (record.height, record.width)
        score = np.full(objects, 0.8, np.float32)
        queries = np.arange(objects)
        one = Detections(record.boxes, score, record.labels, queries, data.names, size)
        found.append(one)
        other = (record.labels + 1) % len(data.names)
        twice.append(
            Detections(
                np.concatenate((record.boxes, record.boxes)),
                np.concatenate((score, score - 0.1)),
                np.concatenate((record.labels, other)),
                np.concatenate((queries, queries)),
                data.names,
                size,
            )
        )
    point = with_operating_point(Config(), data, score_of(data, twice)).point
    assert point == with_operating_point(Config(), data, score_of(data, found)).point
    assert (point.precision, point.recall) == (1.0, 1.0)
    assert point.conf == pytest.approx(0.4)  # and not between the two scores of a query
    assert default_limits(data, score_of(data, twice))[0] == pytest.approx(0.4)
