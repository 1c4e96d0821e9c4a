"""Why objects were missed and detections are false: planted errors of every cause."""

from __future__ import annotations

import re
import time
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch

from dabdetr.asking.changed import Changed, Edit
from dabdetr.data.dataset import DetectionDataset
from dabdetr.data.scenes import Scenes
from dabdetr.evaluation.attribution import Attribution
from dabdetr.evaluation.causes import CAUSES, Decoded, of_detections
from dabdetr.evaluation.error_report import advice
from dabdetr.evaluation.errors import Diagnosed, diagnose, evaluate_with_errors
from dabdetr.evaluation.evaluate import batch_order, score
from dabdetr.evaluation.judged import Judged
from dabdetr.evaluation.suspicions import Suspicion
from dabdetr.geometry import to_corners
from dabdetr.inference.opening import torch_runtime
from dabdetr.inference.postprocess import class_thresholds
from dabdetr.inference.torch_runtime import TorchRuntime
from dabdetr.model.detector import build
from dabdetr.presets import preset
from dabdetr.structures import Detections, Images, Predictions, Questions
from dabdetr.structures.boxes import iou

COUNT = 40
SIZE = 160


@pytest.fixture(scope="module")
def data() -> Scenes:
    return Scenes("val", size=SIZE, count=COUNT, seed=11)


@pytest.fixture(scope="module")
def runtime() -> TorchRuntime:
    return torch_runtime("scenes", device="cpu")


@pytest.fixture(scope="module")
def limits(runtime: TorchRuntime, data: Scenes) -> np.ndarray:
    return class_thresholds(runtime.config.inference, data.names)


@pytest.fixture(scope="module")
def plain(runtime: TorchRuntime, data: Scenes, limits: np.ndarray) -> Diagnosed:
    return evaluate_with_errors(runtime, data, limits)


Change = Callable[[Predictions, int, int, int], Predictions]
"""Predictions of a batch, the row of an image in it, the image's index, a query → others."""


class Disturbed:
    """A forward pass whose predictions are changed for one query of every image."""

    def __init__(self, forward: Any, order: list[int], chosen: dict[int, int], change: Change):
        self.forward, self.order, self.chosen, self.change = forward, iter(order), chosen, change

    @property
    def running(self) -> Any:
        return self.forward.running

    def __call__(self, images: Images, questions: Questions | None = None) -> Predictions:
        found = self.forward(images, questions)
        found = replace(found, boxes=found.boxes.clone(), logits=found.logits.clone())
        for row in range(len(images.pixels)):
            index = next(self.order)
            if index in self.chosen:
                found = self.change(found, row, index, self.chosen[index])
        return found


def caught(plain: Diagnosed, sure: float = 0.6) -> dict[int, tuple[int, int]]:
    """Of every image the surest right detection that overlaps no other object: object and query."""
    chosen = {}
    for index, each in enumerate(plain.judged):
        for at in np.flatnonzero(each.caught):
            found = each.of_object[at]
            apart = iou(each.boxes[at], np.delete(each.boxes, at, axis=0)).max(initial=0) == 0
            if apart and each.found.scores[found] >= sure:
                chosen[index] = (int(at), int(each.found.queries[found]))
                break
    assert len(chosen) > COUNT / 2
    return chosen


def spare(plain: Diagnosed, index: int) -> int:
    """A query that found nothing."""
    return int(np.setdiff1d(np.arange(40), plain.judged[index].found.queries)[0])


def disturbed(
    runtime: TorchRuntime, data: DetectionDataset, limits: np.ndarray, plain: Diagnosed, do: Change
) -> Diagnosed:
    """The evaluation of ``runtime`` with the chosen queries changed."""
    chosen = {index: query for index, (_, query) in caught(plain).items()}
    forward = runtime.forward
    order = batch_order(data, runtime.config.image)
    runtime.forward = Disturbed(forward, order, chosen, do)  # pyright: ignore[reportAttributeAccessIssue]
    try:
        return evaluate_with_errors(runtime, data, limits)
    finally:
        runtime.forward = forward


def moved(found: Predictions, row: int, query: int, layer: int, by: float) -> None:
    """The query's box of a layer moved by ``by`` of its width, inwards."""
    box = found.boxes[layer, row, query]
    box[0] += by * box[2] * (1 if box[0] < 0.5 else -1)


def near(found: Predictions, row: int, query: int) -> torch.Tensor:
    """Queries that are on the object of ``query`` after any layer."""
    boxes = to_corners(found.boxes[:, row]).numpy()
    on = iou(boxes, boxes[-1, query]) >= 0.3
    return torch.from_numpy(on.any(0)).nonzero()[:, 0]


def alone(found: Predictions, row: int, query: int) -> None:
    """Take all other queries away from the object."""
    for other in near(found, row, query).tolist():
        if other != query:
            found.boxes[:, row, other] = torch.tensor([0.01, 0.01, 0.01, 0.01])
            found.logits[:, row, other] = -9


def no_query(found: Predictions, row: int, index: int, query: int) -> Predictions:
    alone(found, row, query)
    found.boxes[:, row, query] = torch.tensor([0.01, 0.01, 0.01, 0.01])
    found.logits[:, row, query] = -9
    return found


def left(found: Predictions, row: int, index: int, query: int) -> Predictions:
    alone(found, row, query)
    moved(found, row, query, -1, 1.5)
    found.logits[-1, row, query] -= 9
    return found


def loose(found: Predictions, row: int, index: int, query: int) -> Predictions:
    alone(found, row, query)
    moved(found, row, query, -1, 0.5)
    return found


def wrong_class(found: Predictions, row: int, index: int, query: int) -> Predictions:
    alone(found, row, query)
    own = found.logits[-1, row, query]
    best = int(own.argmax())
    other = (best + 3) % len(own)
    own[[best, other]] = own[[other, best]]
    return found


def under_threshold(found: Predictions, row: int, index: int, query: int) -> Predictions:
    alone(found, row, query)
    found.logits[-1, row, query] -= 5
    return found


PLANTED: dict[str, Change] = {
    "no_query": no_query,
    "left": left,
    "loose": loose,
    "wrong_class": wrong_class,
    "under_threshold": under_threshold,
}


ADVICE = {
    "no_query": "more queries (--queries)",
    "left": "had a query that moved away",
    "loose": "train longer, at a larger --imgsz",
    "wrong_class": "have the wrong class, most often",
    "under_threshold": "right but under the threshold",
}
"""Words of what to do about each."""


def test_advice_for_small_objects_and_for_too_little_training(
    runtime: TorchRuntime, data: Scenes, limits: np.ndarray, plain: Diagnosed
) -> None:
    tiny = runtime.config.override(["image.size=32"])  # an object is smaller than a cell there
    result = diagnose(data, score(data, [each[1:] for each in plain.evaluation.detections]), limits)
    (small,) = (s for s in advice(data, result, tiny) if "smaller than one cell" in s)
    assert re.search(r"at stride \d+: --imgsz (64|96|128), or --tiles", small), small
    assert not any("smaller than one cell" in s for s in advice(data, result, runtime.config))
    nothing = diagnose(
        data, score(data, [each[:0] for each in plain.evaluation.detections]), limits
    )
    (only,) = advice(data, nothing, runtime.config)
    assert only == "AP50 is 0.000: the model finds almost nothing yet; train longer"


@pytest.mark.parametrize("cause", list(PLANTED))
def test_planted_misses_have_their_cause(
    runtime: TorchRuntime, data: Scenes, limits: np.ndarray, plain: Diagnosed, cause: str
) -> None:
    result = disturbed(runtime, data, limits, plain, PLANTED[cause])
    chosen = caught(plain)
    causes = {
        (error.image, error.object): error for error in result.errors if error.side == "missed"
    }
    told = [causes.get((index, at)) for index, (at, _) in chosen.items()]
    right = [error is not None and error.cause == cause for error in told]
    assert np.mean(right) >= 0.9, [error and (error.cause, error.why) for error in told]
    words = ADVICE[cause]
    assert any(words in sentence for sentence in advice(data, result, runtime.config)), words
    last = runtime.config.model.decoder.layers
    for error, (_, query) in zip(told, chosen.values(), strict=True):
        if error is None or error.cause != cause or cause == "no_query":
            continue
        assert error.query == query
        if cause in ("left", "wrong_class"):
            assert error.layer == last  # the one that was disturbed


def test_planted_duplicates_and_backgrounds(
    runtime: TorchRuntime, data: Scenes, limits: np.ndarray, plain: Diagnosed
) -> None:
    def duplicate(found: Predictions, row: int, index: int, query: int) -> Predictions:
        other = spare(plain, index)
        found.boxes[:, row, other] = found.boxes[:, row, query]
        found.logits[:, row, other] = found.logits[:, row, query] - 0.1
        return found

    def background(found: Predictions, row: int, index: int, query: int) -> Predictions:
        other, record = spare(plain, index), data.record(index)
        grid = np.stack(np.meshgrid(*(np.linspace(0.1, 0.9, 9),) * 2), -1).reshape(-1, 2)
        places = np.concatenate((grid - 0.08, grid + 0.08), 1) * SIZE
        objects = np.concatenate((record.boxes, plain.judged[index].found.boxes))
        free = iou(places[:, None], objects).max(1, initial=0).argmin()
        found.boxes[-1, row, other] = torch.tensor([*grid[free], 0.16, 0.16])
        found.logits[-1, row, other] = found.logits[-1, row, query]
        return found

    for cause, change in (("duplicate", duplicate), ("background", background)):
        result = disturbed(runtime, data, limits, plain, change)
        told = {}
        for index, (_, query) in caught(plain).items():
            of = {spare(plain, index), query}
            for error in result.errors:
                if error.side == "false" and error.image == index and error.query in of:
                    told[index] = error
        assert len(told) >= 0.9 * len(caught(plain))
        right = [error.cause == cause for error in told.values()]
        assert np.mean(right) >= 0.9, [(each.cause, each.why) for each in told.values()]
        if cause == "duplicate":
            assert all(e.attention is not None for e in told.values() if e.cause == cause)


def test_planted_labels_are_found(
    runtime: TorchRuntime, data: Scenes, limits: np.ndarray, plain: Diagnosed
) -> None:
    """A label that is left out, and one of another class."""
    edits: dict[int, list[Edit]] = {}
    chosen = caught(plain)
    for number, (index, (at, _)) in enumerate(chosen.items()):
        record = data.record(index)
        box, label = record.boxes[at].tolist(), int(record.labels[at])
        other = Edit(at, box, (label + 3) % 10)
        edits[index] = [Edit(at, None) if number % 2 else other]
    result = evaluate_with_errors(runtime, Changed(data, edits), limits)
    told = []
    for number, (index, (at, _)) in enumerate(chosen.items()):
        box = data.record(index).boxes[at]
        of = [
            error
            for error in result.errors
            if error.image == index
            and error.side == ("false" if number % 2 else "missed")
            and iou(np.array(error.box), box) >= 0.5
        ]
        told.append(of[0] if of else None)
    right = [error is not None and error.cause == "label" for error in told]
    assert np.mean(right) >= 0.9, [error and (error.cause, error.why) for error in told]


def test_labels_are_not_to_blame_for_a_habit(
    runtime: TorchRuntime, data: Scenes, limits: np.ndarray
) -> None:
    """Where all objects of a class are taken for another one, the model is wrong."""
    edits = {}
    for index in range(len(data)):
        record = data.record(index)
        rows = np.flatnonzero(record.labels == 3).tolist()
        edits[index] = [Edit(row, record.boxes[row].tolist(), 4) for row in rows]
        rows = np.flatnonzero(record.labels == 4).tolist()
        edits[index] += [Edit(row, record.boxes[row].tolist(), 3) for row in rows]
    result = evaluate_with_errors(runtime, Changed(data, edits), limits)
    causes = [e.cause for e in result.errors if e.side == "missed" and e.label in (3, 4)]
    assert len(causes) > 20
    assert causes.count("wrong_class") >= 0.9 * len(causes)


def test_a_question_tells_a_label_on_nothing_from_an_object_that_no_query_reached(
    data: Scenes, limits: np.ndarray, plain: Diagnosed
) -> None:
    judged = plain.judged[0]
    nothing = np.array([[1, 1, 21, 21]], np.float32)
    judged = replace(
        judged,
        found=judged.found[:0],
        labels=np.array([3]),
        boxes=nothing,
        of_found=np.zeros(0, np.int64),
        of_object=np.array([-1]),
    )
    far = np.array([[[60, 60, 90, 90]], [[80, 60, 110, 90]]], np.float32)
    decoded = Decoded(far, np.full((2, 1, 10), 0.01), np.arange(1), far[0])
    for against, cause in ((None, "no_query"), (0.9, "label"), (0.2, "no_query")):
        told = {}
        if against is not None:
            label = {"row": 0, "box": (1, 1, 21, 21), "name": "3", "mend": "remove"}
            answer = {"answer": (1, 1, 21, 21), "answer_name": "3", "score": 0.0}
            about = {"split": "val", "file": "0", "image": 0}
            told[0] = Suspicion("phantom", against, **about, **label, **answer)
        (error,) = Attribution(0, judged, decoded, limits, told).errors()
        assert error.cause == cause
        assert "the nearest anchor starts 91 px from its centre" in error.why


def test_the_pass_changes_no_number(
    runtime: TorchRuntime, data: Scenes, limits: np.ndarray, plain: Diagnosed
) -> None:
    from dabdetr.evaluation.evaluate import evaluate

    alike = evaluate(runtime, data)
    assert plain.evaluation.numbers == pytest.approx(alike.numbers, abs=1e-6)
    missed = sum(each.missed for each in plain.judged)
    false = sum(each.false for each in plain.judged)
    sides = [error.side for error in plain.errors]
    assert (sides.count("missed"), sides.count("false")) == (missed, false)
    assert {error.cause for error in plain.errors} <= set(CAUSES)


def test_detections_alone_tell_the_rest(data: Scenes, limits: np.ndarray, plain: Diagnosed) -> None:
    result = diagnose(data, plain.evaluation, limits)
    whole = {(e.side, e.image, e.object, e.box): e for e in plain.errors}
    assert len(result.errors) == len(plain.errors)
    alike = 0
    for error in result.errors:
        other = whole[error.side, error.image, error.object, error.box]
        assert error.query is None
        assert error.layer is None
        alike += error.cause == other.cause
        if error.cause == "not_found":
            assert other.cause in ("no_query", "left", "label", "under_threshold", "loose")
    assert alike >= 0.8 * len(result.errors)


@pytest.mark.parametrize(
    "name", ["detr-nano", "conditional-detr-nano", "deformable-detr-nano", "dab-detr-nano"]
)
def test_every_member_is_told_of(name: str, data: Scenes) -> None:
    """Without anchors, with points, and with one layer."""
    torch.manual_seed(0)
    few = Scenes("val", size=64, count=2, seed=1)
    config = preset(name).override(["image.size=64", "image.max_size=64"])
    one = torch_runtime(build(config, few.names), device="cpu", layers=1)
    result = evaluate_with_errors(one, few, np.full(10, 0.01, np.float32))
    assert {error.cause for error in result.errors} <= set(CAUSES) - {"left", "not_found"}
    assert any(error.side == "missed" for error in result.errors)
    assert all(error.why for error in result.errors)


def test_a_crowded_image_takes_no_seconds() -> None:
    """300 loose detections of 300 objects: every pair is compared once."""
    at = np.stack(np.meshgrid(np.arange(20), np.arange(15)), -1).reshape(-1, 2) * 30.0
    objects, none = np.hstack((at, at + 20)).astype(np.float32), np.full(300, -1)
    labels, scores = np.zeros(300, np.int64), np.full(300, 0.9, np.float32)
    found = Detections(objects + 8, scores, labels, np.arange(300), ("grain",), (450, 600))
    judged = Judged(found, labels, objects, none, none)
    started = time.process_time()
    errors = Attribution(0, judged, of_detections(found), np.full(1, 0.3, np.float32)).errors()
    assert time.process_time() - started < 1.0
    assert [error.cause for error in errors] == ["loose"] * 600
    assert [error.object for error in errors] == [*range(300)] * 2
