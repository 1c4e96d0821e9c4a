"""Files that take questions: their answers are torch's, with and without questions."""

from __future__ import annotations

import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from dabdetr.export.certificate import certify, comparable
from dabdetr.export.export import Export, export
from dabdetr.export.tracing import Answer
from dabdetr.inference.exported import Exported
from dabdetr.predictor import Predictor
from dabdetr.structures import Answers

LARGE = np.array([[5.0, 4, 40, 50], [10, 10, 30, 20], [-20, 0, 900, 30]])


@pytest.fixture(scope="module")
def model(shake: Any) -> Any:
    """A member that can be asked, with calibrated scores."""
    return shake("dn-detr-nano", "inference.calibration=[1.3,-0.2]")


@pytest.fixture(
    scope="module",
    params=["onnx", "openvino", pytest.param("torch", marks=pytest.mark.slow)],
)
def made(request: pytest.FixtureRequest, model: Any, tmp_path_factory: Any) -> Export:
    if request.param != "torch":
        pytest.importorskip(request.param, reason="needs the packages of dabdetr[export]")
    suffix = {"onnx": ".onnx", "openvino": "_openvino", "torch": ".pt2"}[request.param]
    target = tmp_path_factory.mktemp("asked") / f"asked{suffix}"
    return export(model, target, format=request.param, with_questions=True)


def assert_alike(expected: Answers, found: Answers) -> None:
    np.testing.assert_array_equal(found.questions, expected.questions)
    np.testing.assert_array_equal(found.asked, expected.asked)
    assert found.layers.shape == expected.layers.shape
    # The images are resized by Pillow there and by torchvision here, within a grey level.
    np.testing.assert_allclose(found.layers, expected.layers, atol=0.5)
    np.testing.assert_allclose(found.class_scores, expected.class_scores, atol=0.02)
    np.testing.assert_allclose(found.detections.scores, expected.detections.scores, atol=0.02)


def test_a_file_answers_as_torch_does(made: Export, model: Any, images: list[np.ndarray]) -> None:
    torch_side, file = Predictor(model, batch=3), Predictor(made.path, batch=3)
    boxes: list[Any] = [LARGE, [], LARGE[:1], [[20, 20]], LARGE[:2], [[0, 0, 400, 9]]]
    labels = [["3", None, 7], None, None, None, [1, 2], None]
    sides = [list(each.ask_all(images, boxes, labels, conf=0.0)) for each in (torch_side, file)]
    assert [len(each) for each in sides[1]] == [3, 0, 1, 4, 2, 1]
    for expected, found in zip(*sides, strict=True):
        assert_alike(expected, found)
    assert np.ptp(sides[1][0].class_scores, axis=0).max() > 0.01  # they are not all alike


def test_a_question_is_answered_alike_alone_and_among_hundreds(
    made: Export, images: list[np.ndarray]
) -> None:
    file = Predictor(made.path)
    rng = np.random.default_rng(0)
    low = rng.uniform(0, 50, (600, 2))  # more than go into one pass
    many = np.concatenate((low, low + rng.uniform(3, 25, (600, 2))), axis=1)
    together = file.ask(images[0], many)
    for row in (0, 599):
        alone = file.ask(images[0], many[row : row + 1])
        np.testing.assert_allclose(alone.layers[:, 0], together.layers[:, row], atol=1e-3)
        np.testing.assert_allclose(alone.class_scores[0], together.class_scores[row], atol=1e-4)


def test_detections_are_those_without_questions(
    made: Export, model: Any, images: list[np.ndarray], tmp_path: Path
) -> None:
    file = Predictor(made.path)
    plain = file.one(images[0], conf=0.0)
    beside = file.ask(images[0], LARGE, conf=0.0).detections
    np.testing.assert_allclose(beside.boxes, plain.boxes, atol=1e-3)
    np.testing.assert_allclose(beside.scores, plain.scores, atol=1e-5)
    expected = Predictor(model).one(images[0], conf=0.0)
    np.testing.assert_allclose(plain.scores, expected.scores, atol=0.02)


def test_the_certificate_covers_answers(made: Export, model: Any, images: list[np.ndarray]) -> None:
    proof = made.certificate
    assert proof.questions is not None
    assert proof.questions.count == 2 * (2 * 1 + 5 * 40)
    assert "answers to questions agree" in str(proof)
    written = Exported(made.path).metadata.certificate
    assert written is not None
    assert written["questions"]["within"] == 1.0
    answer = Answer(model, metadata=comparable(Exported(made.path).metadata))

    def fail(part: int, change: float) -> Any:
        file = Exported(made.path)
        compute = file._engine

        def wrong(*inputs: np.ndarray) -> Any:
            outputs = [np.array(each) for each in compute(*inputs)]
            outputs[part] += np.float32(change)
            return outputs

        return certify(answer, file.over(wrong), images[:2])

    for part, change in ((2, 1.0), (3, 0.01)):  # logits and boxes of answers
        broken = fail(part, change)
        assert broken.within == 1.0
        assert not broken.passed
        assert broken.questions.within < 0.1


def test_bad_questions_are_told_as_torch_tells_them(
    made: Export, model: Any, images: list[np.ndarray]
) -> None:
    bad: list[tuple[Any, Any]] = [
        ([[200, 200, 300, 300]], None),
        ([[5, 5, 5, 9]], None),
        ([[9, 9, 5, 5]], None),
        ([[np.nan, 0, 5, 5]], None),
        ([[1, 2, 3]], None),
        ([[1, 1, 5, 5]], ["zebra"]),
    ]
    for boxes, labels in bad:
        told = []
        for side in (Predictor(model), Predictor(made.path)):
            with pytest.raises(ValueError, match=r"box|questions|class") as error:
                side.ask(images[0], boxes, labels)
            told.append(str(error.value))
        assert told[0] == told[1]


def test_asking_a_file_imports_no_torch(made: Export, images: list[np.ndarray]) -> None:
    if made.path.suffix == ".pt2":
        pytest.skip("a program of torch needs torch")
    code = (
        "import sys, numpy as np\n"
        "from dabdetr import Predictor\n"
        f"file = Predictor({str(made.path)!r})\n"
        "print(len(file.ask(np.zeros((60, 80, 3), np.uint8), [[5, 5, 40, 40]])))\n"
        "assert 'torch' not in sys.modules\n"
    )
    ran = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert (ran.returncode, ran.stdout) == (0, "1\n"), ran.stderr


def test_other_clients_leave_questions_out(model: Any, made: Export) -> None:
    if made.path.suffix != ".onnx":
        pytest.skip("inputs can be left out in ONNX")
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    session: Any = onnxruntime.InferenceSession(made.path, options, ["CPUExecutionProvider"])
    axes = {each.name: each.shape for each in session.get_overridable_initializers()}
    assert axes["questions"] == ["batch", "questions", 4]
    pixels = np.random.default_rng(0).normal(size=(2, 3, 64, 96)).astype(np.float32)
    logits, _, answers, layers = session.run(None, {"pixels": pixels})
    assert (answers.shape, layers.shape) == ((2, 0, 10), (2, 2, 0, 4))
    boxes = np.full((2, 3, 4), 0.4, np.float32)
    labels = np.zeros((2, 3), np.int64)
    given = {"pixels": pixels, "questions": boxes, "question_labels": labels}
    beside, _, answers, _ = session.run(None, given)
    assert answers.shape == (2, 3, 10)
    np.testing.assert_allclose(beside, logits, atol=1e-4)


@pytest.mark.slow
@pytest.mark.parametrize("padding", [True, False])
def test_a_fixed_size_takes_any_number_of_questions(
    padding: bool, model: Any, images: list[np.ndarray], tmp_path: Path
) -> None:
    pytest.importorskip("openvino", reason="needs the packages of dabdetr[export]")
    target = tmp_path / "fixed_openvino"
    options: Any = {"format": "openvino", "size": (96, 128), "padding": padding}
    export(model, target, with_questions=True, **options)
    file = Predictor(target)
    for count in (0, 1, 3):
        assert len(file.ask(images[0], LARGE[:count])) == count


def test_a_file_without_questions_names_the_option(
    exported: Any, made: Export, images: list[np.ndarray]
) -> None:
    plain = Exported(made.path)
    plain.metadata = replace(plain.metadata, questions=False)
    with pytest.raises(ValueError, match=r"again with --with-questions$"):
        Predictor(plain).ask(images[0], LARGE)
    with pytest.raises(ValueError, match=r"anchors are not boxes|without denoising"):
        Predictor(exported.path).ask(images[0], LARGE)


def test_wishes_that_do_not_go_with_questions(detector: Any, model: Any, tmp_path: Path) -> None:
    target = tmp_path / "none.onnx"
    with pytest.raises(ValueError, match="without denoising"):
        export(detector, target, with_questions=True)
    with pytest.raises(ValueError, match=r"leave out post"):
        export(model, target, with_questions=True, post="boxes")
    with pytest.raises(ValueError, match=r"leave out the format for transformers\.js"):
        export(model, tmp_path / "folder", format="transformers-js", with_questions=True)
