"""Boxes and clicks as questions: alone or together, of members that can, and what is refused."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from dabdetr.data.layouts import open_data
from dabdetr.model.denoising import Denoising
from dabdetr.model.detector import build
from dabdetr.predictor import Predictor
from dabdetr.presets import preset
from dabdetr.structures import Answers, Images, Questions
from dabdetr.structures.boxes import centres, iou

ROOT = Path(__file__).resolve().parents[2]
BCCD = ROOT / ".." / "shared" / "data" / "bccd"
NAMES = ("owl", "fox", "hen")
SMALL = ("image.size=96", "image.max_size=128")
LITE = ("model.queries.count=20", "model.decoder.layers=2", "model.backbone.strides=[16,32]")
MEMBERS = {
    "dab-lite": (*SMALL, *LITE, "model.encoder.levels=2"),
    "dino-nano": SMALL,
    "dn-detr-nano": SMALL,
}
BOXES = np.array([[5, 5, 60, 50], [40, 20, 110, 80], [-9, 30, 25, 99], [0, 0, 120, 90]], np.float32)


def detector(member: str) -> Any:
    torch.manual_seed(3)
    model = build(preset(member).override(list(MEMBERS[member])), NAMES)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "heads" in name or "queries" in name or "denoising" in name:
                parameter.add_(torch.randn_like(parameter) * 0.1)
    return model.eval()


@pytest.fixture(scope="module", params=MEMBERS)
def predictor(request: Any) -> Predictor:
    return Predictor(detector(request.param))


@pytest.fixture(scope="module")
def image() -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (90, 120, 3), dtype=np.uint8)


def assert_same(one: Answers, other: Answers) -> None:
    """Alike, up to rounding that differs between sizes of products."""
    np.testing.assert_allclose(one.boxes, other.boxes, atol=5e-3)
    np.testing.assert_allclose(one.layers, other.layers, atol=5e-3)
    np.testing.assert_allclose(one.class_scores, other.class_scores, atol=2e-5)
    np.testing.assert_array_equal(one.asked, other.asked)


def test_a_question_has_one_answer_alone_and_among_others(
    predictor: Predictor, image: np.ndarray
) -> None:
    labels = [None, "fox", 2, None]
    together = predictor.ask(image, BOXES, labels)
    for row, (box, label) in enumerate(zip(BOXES, labels, strict=True)):
        assert_same(predictor.ask(image, [box], [label]), together[row])
    many = predictor.ask(image, np.tile(BOXES, (126, 1)))  # several passes
    assert len(many) == 504
    assert_same(many[:4], many[-4:])
    assert_same(many[:4], predictor.ask(image, BOXES))


def test_answers_stand_where_the_decoder_put_them(predictor: Predictor, image: np.ndarray) -> None:
    answers = predictor.ask(image, BOXES)
    height, width = image.shape[:2]
    layers = predictor.config.model.decoder.layers
    assert answers.layers.shape == (layers, 4, 4)
    limits = np.array([width, height, width, height])
    np.testing.assert_array_equal(answers.boxes, answers.layers[-1].clip(0, limits))
    np.testing.assert_array_equal(answers.asked, BOXES.clip(0, limits))
    np.testing.assert_allclose(answers.moved, iou(answers.asked, answers.boxes))
    assert answers.class_scores.shape == (4, 3)
    assert (answers.scores == answers.class_scores.max(1)).all()
    runtime = predictor.live
    asked = Questions(
        torch.from_numpy(centres(answers.asked) / limits)[None].float(), torch.full((1, 4), -1)
    )
    with torch.no_grad():
        images = Images(runtime.prepare(image)[None])
        plain, beside = runtime.model(images), runtime.model(images, questions=asked)
    group, found = beside.groups[0]
    assert group.name == "questions"
    np.testing.assert_allclose(
        answers.class_scores, found.logits[-1, 0].sigmoid().numpy(), atol=2e-6
    )
    torch.testing.assert_close(plain.logits, beside.logits, atol=2e-5, rtol=1e-5)
    torch.testing.assert_close(plain.boxes, beside.boxes, atol=2e-5, rtol=1e-5)
    assert not plain.groups


def test_detections_beside_questions_are_the_plain_ones(
    predictor: Predictor, image: np.ndarray
) -> None:
    plain = predictor.one(image, conf=0.0)
    beside = predictor.ask(image, BOXES, conf=0.0).detections
    none = predictor.ask(image, [], conf=0.0)
    assert len(plain) == predictor.config.model.queries.count
    assert len(none) == 0
    np.testing.assert_array_equal(plain.boxes, none.detections.boxes)
    rows = plain.queries.argsort(), beside.queries.argsort()  # those that score alike may swap
    np.testing.assert_allclose(plain.boxes[rows[0]], beside.boxes[rows[1]], atol=5e-3)
    np.testing.assert_allclose(plain.scores[rows[0]], beside.scores[rows[1]], atol=2e-5)


def test_what_an_answer_coincides_with(predictor: Predictor, image: np.ndarray) -> None:
    answers = predictor.ask(image, BOXES, conf=0.0)
    overlap = iou(answers.boxes[:, None], answers.detections.boxes)
    for row, found in enumerate(answers.found):
        assert (found == -1) == (overlap[row].max() < 0.5)
        assert found == -1 or found == overlap[row].argmax()


def test_a_batch_of_images_each_with_its_own_boxes(predictor: Predictor, image: np.ndarray) -> None:
    images = [image, image[::-1].copy(), image[:, ::-1].copy(), image[:60]]
    boxes = [BOXES, BOXES[:1], np.zeros((0, 4)), BOXES[1:2]]
    pairs = zip(images, boxes, strict=True)
    alone = [predictor.ask(each, some) for each, some in pairs]
    together = list(Predictor(predictor.live.model, batch=3).ask_all(images, boxes))
    assert [len(each) for each in together] == [4, 1, 0, 1]
    for one, other in zip(alone, together, strict=True):
        assert_same(one, other)
        assert one.detections.size == other.detections.size
    with pytest.raises(ValueError, match="more images than entries"):
        list(predictor.ask_all(images, boxes[:2]))


def test_a_skipped_image_takes_its_boxes_with_it(
    predictor: Predictor, image: np.ndarray, tmp_path: Path
) -> None:
    (tmp_path / "broken.png").write_bytes(b"")
    sources, boxes = [str(tmp_path / "broken.png"), image], [BOXES, BOXES[:2]]
    answers = list(predictor.ask_all(sources, boxes, on_error="skip"))
    assert len(answers) == 1
    assert_same(answers[0], predictor.ask(image, BOXES[:2]))


def test_clicks_are_tried_with_several_anchors_the_best_first(
    predictor: Predictor, image: np.ndarray
) -> None:
    clicks = [[30, 40], [0, 0], [120, 90]]
    answers = predictor.ask(image, clicks)
    assert answers.questions.tolist() == [0] * 4 + [1] * 4 + [2] * 4
    holds = np.array(
        [
            (box[:2] <= clicks[q]).all() and (clicks[q] <= box[2:]).all()
            for q, box in zip(answers.questions, answers.boxes, strict=True)
        ]
    )
    for click in range(3):
        rows = answers.questions == click
        keys = list(zip(~holds[rows], -answers.scores[rows], strict=True))
        assert keys == sorted(keys)
    assert len(answers.best()) == 3
    given = predictor.ask(image, clicks[:1], ["hen"], sizes=[[50, 20]])
    np.testing.assert_array_equal(given.asked, [[5, 30, 55, 50]])
    assert_same(given, predictor.ask(image, [[5, 30, 55, 50]], ["hen"]))


def test_answers_as_plain_values_and_as_detections(image: np.ndarray) -> None:
    predictor = Predictor(detector("dino-nano"))
    answers = predictor.ask(image, BOXES)
    written = json.loads(json.dumps(answers.to_dict()))
    assert [each["question"] for each in written["answers"]] == [0, 1, 2, 3]
    assert written["answers"][1]["name"] == NAMES[answers.labels[1]]
    found = answers.to_detections()
    assert (np.diff(found.scores) <= 0).all()
    np.testing.assert_array_equal(found.boxes, answers.boxes[found.queries])


@pytest.mark.parametrize(
    ("boxes", "labels", "message"),
    [
        ([[1, 2, 3]], None, r"got an array of \[1, 3\]"),
        ([[50, 10, 20, 40]], None, "box 0 is .* should be x0 y0 x1 y1 with x0 < x1"),
        ([[5, 5, 9, 9], [10, 10, 10, 40]], None, "box 1 is .* x0 < x1"),
        ([[200, 10, 240, 40]], None, "box 0 is .* lies outside; the image is 120×90 pixels"),
        ([[0, 0, np.nan, 4]], None, "box 0 is .* not finite"),
        ([[130, 4]], None, "click 0 is .* lies outside"),
        ([[np.nan, 4]], None, "click 0 is"),
        ([[5, 5, 9, 9]], ["cow"], "does not know the class cow"),
        ([[5, 5, 9, 9]], [3], "does not know the class 3"),
        ([[5, 5, 9, 9]], [], "for each of 1 box; got 0"),
        (
            [[5, 5, 9, 9]],
            "RBC",
            "a list with a class or None for each of 1 box; got the text 'RBC'",
        ),
    ],
)
def test_what_cannot_be_asked(image: np.ndarray, boxes: Any, labels: Any, message: str) -> None:
    predictor = Predictor(detector("dino-nano"))
    with pytest.raises(ValueError, match=message):
        predictor.ask(image, boxes, labels)


def test_sizes_of_clicks_are_checked(image: np.ndarray) -> None:
    with pytest.raises(ValueError, match="at least one width and height above 0"):
        Predictor(detector("dino-nano")).ask(image, [[5, 5]], sizes=[[0, 4]])


@pytest.mark.parametrize(
    ("member", "message"),
    [
        ("dab-detr-nano", "trained without denoising"),
        ("conditional-detr-nano", "its anchors are not boxes"),
        ("detr-nano", "its anchors are not boxes"),
    ],
)
def test_members_that_cannot_be_asked(image: np.ndarray, member: str, message: str) -> None:
    predictor = Predictor(build(preset(member), NAMES))
    with pytest.raises(ValueError, match=message):
        predictor.ask(image, BOXES)


@pytest.mark.parametrize("member", ["dino-nano", "dn-detr-nano"])
def test_content_is_a_row_of_the_label_table_or_their_mean(member: str) -> None:
    config = preset(member).model
    assert config.denoising is not None
    part = Denoising(config.denoising, 3, 8)
    boxes = torch.rand(2, 3, 4) * 0.5 + 0.2
    labels = torch.tensor([[0, -1, 2], [-1, 1, 1]])
    group = part.questions(Questions(boxes, labels))
    rows = part.labels.weight.detach()
    wanted = torch.stack([*rows[:3], rows[:3].mean(0)])[torch.where(labels < 0, 3, labels)]
    torch.testing.assert_close(group.content[..., : rows.shape[1]], wanted)
    if part.indicator:
        assert (group.content[..., -1] == 1).all()
    torch.testing.assert_close(group.anchors, boxes, atol=1e-5, rtol=1e-5)
    assert group.attention_mask.tolist() == (~torch.eye(3, dtype=torch.bool)).tolist()


@pytest.mark.skipif(not BCCD.exists(), reason="shared/data/bccd is not here")
def test_the_shipped_model_mends_rough_boxes_and_takes_clicks() -> None:
    data, predictor = open_data(BCCD, "test"), Predictor("blood-cells")
    rng = np.random.default_rng(0)
    record, image = data.record(0), data.image(0)
    sides = np.tile(record.boxes[:, 2:] - record.boxes[:, :2], 2)
    rough = record.boxes + rng.uniform(-0.27, 0.27, sides.shape) * sides
    limits = np.array([record.width, record.height] * 2)
    before = iou(rough.clip(0, limits), record.boxes)
    answers = predictor.ask(image, rough)
    after = iou(answers.boxes, record.boxes)
    assert before.mean() < 0.65
    assert after.mean() > max(0.7, before.mean() + 0.1)
    assert (answers.labels == record.labels).all()
    clicks = (record.boxes[:, :2] + record.boxes[:, 2:]) / 2
    clicked = predictor.ask(image, clicks).best()
    assert iou(clicked.boxes, record.boxes).mean() > 0.7
    # where nothing is, little is said
    assert predictor.ask(image, [[0, 0, 4, 4]]).scores[0] < 0.3


def test_a_figure_shows_what_was_asked_and_every_layer(image: np.ndarray) -> None:
    from dabdetr.explain import figures

    predictor = Predictor(detector("dino-nano"))
    answers = predictor.ask(image, BOXES)
    with pytest.raises(ValueError, match="needs the image"):
        figures.questions(answers)
    figure = figures.questions(answers, image)
    layers = predictor.config.model.decoder.layers
    assert len(figure.axes[0].patches) == 4 * (layers + 1)
    assert len(figure.axes[0].texts) == 4
    x, y = figure.axes[0].patches[0].get_xy()
    assert (x, y) == tuple(answers.asked[0, :2])
