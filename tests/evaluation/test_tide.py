"""TIDE's kinds of errors against the authors' own package, on the same detections."""

from __future__ import annotations

import warnings
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from dabdetr.data.dataset import DetectionDataset, ImageRecord
from dabdetr.data.scenes import Scenes
from dabdetr.evaluation.tide import KINDS, tide_points
from dabdetr.structures import Detections

THEIRS = {
    "class": "Cls",
    "box": "Loc",
    "both": "Both",
    "duplicate": "Dupe",
    "background": "Bkg",
    "missed": "Miss",
}


class Crowded(Scenes):
    """Scenes in which one object in six is a crowd."""

    def record(self, index: int) -> ImageRecord:
        record = super().record(index)
        random = np.random.default_rng(index)
        return replace(record, crowd=random.random(len(record.labels)) < 1 / 6)


def disturbed(data: DetectionDataset, seed: int) -> list[Detections]:
    """Detections with errors of every kind."""
    random = np.random.default_rng(seed)
    every = []
    for index in range(len(data)):
        record = data.record(index)
        count = len(record.labels)
        picked = random.integers(0, count, 2 * count) if count else np.zeros(0, int)
        boxes, labels = record.boxes[picked].astype(float), record.labels[picked]
        sides = np.tile(boxes[:, 2:] - boxes[:, :2], 2)
        boxes = boxes + random.normal(0, 0.13, boxes.shape) * sides
        boxes = np.concatenate((np.minimum(boxes[:, :2], boxes[:, 2:] - 1), boxes[:, 2:]), 1)
        wrong = random.random(len(labels)) < 0.25
        labels = np.where(wrong, random.integers(0, len(data.names), len(labels)), labels)
        corner = random.uniform(0, 120, (3, 2))
        boxes = np.concatenate((boxes, np.concatenate((corner, corner + 30), 1)))
        labels = np.concatenate((labels, random.integers(0, len(data.names), 3)))
        scores = random.random(len(labels))
        order = np.argsort(-scores)
        every.append(
            Detections(
                boxes[order].astype(np.float32),
                scores[order].astype(np.float32),
                labels[order].astype(np.int64),
                np.arange(len(order)),
                tuple(data.names),
                (record.height, record.width),
            )
        )
    return every


def theirs(data: DetectionDataset, every: list[Detections]) -> Any:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        tidecv = pytest.importorskip(
            "tidecv", reason="tidecv (or what OpenCV needs) is not installed", exc_type=ImportError
        )
    truth, found = tidecv.Data("truth"), tidecv.Data("found")
    for index, each in enumerate(every):
        record = data.record(index)
        truth.add_image(index, str(index))
        rows = zip(record.annotated, record.labels.tolist(), record.crowd.tolist(), strict=True)
        for box, label, crowd in rows:
            add = truth.add_ignore_region if crowd else truth.add_ground_truth
            add(index, label, box.astype(float).tolist())
        for (x0, y0, x1, y1), label, score in zip(
            each.boxes.astype(float), each.labels.tolist(), each.scores.tolist(), strict=True
        ):
            found.add_detection(index, label, score, [x0, y0, x1 - x0, y1 - y0])
    tide = tidecv.TIDE()
    run = tide.evaluate(truth, found, mode=tidecv.TIDE.BOX)
    counts = {error.short_name: n for error, n in run.count_errors().items()}
    return run.ap / 100, counts, {k: v / 100 for k, v in tide.get_main_errors()["found"].items()}


@pytest.mark.parametrize("kind", [Scenes, Crowded])
@pytest.mark.parametrize("seed", [0, 1])
def test_kinds_and_gains_equal_tidecv(kind: type[Scenes], seed: int) -> None:
    data = kind("val", count=24, seed=seed)
    every = disturbed(data, seed)
    points = tide_points(data, every)
    ap, counts, gains = theirs(data, every)
    assert points.ap50 == pytest.approx(ap, abs=1e-9)
    assert points.counts() == {name: counts[THEIRS[name]] for name in KINDS}
    assert min(points.counts().values()) > 0
    assert points.gains() == pytest.approx({n: gains[THEIRS[n]] for n in KINDS}, abs=1e-9)


def test_without_objects_or_detections() -> None:
    data = Scenes("val", count=4)
    every = [each[:0] for each in disturbed(data, 0)]
    points = tide_points(data, every)
    assert points.ap50 == 0
    objects = sum(len(data.record(index).labels) for index in range(4))
    assert points.counts()["missed"] == objects
