"""Files whose graph ranks its boxes, that need no mask, in an opset of choice; read by others."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from dabdetr.export.export import Uncertified, export
from dabdetr.export.formats import OnnxFile
from dabdetr.inference.exported import Exported
from dabdetr.inference.metadata import Metadata
from dabdetr.predictor import Predictor
from dabdetr.structures import Detections

EVERYTHING: dict[str, Any] = {"conf": 0.0, "max_det": 40, "multi_label": True}
CALIBRATED = "inference.calibration=[1.3,-0.2]"


def assert_same(expected: list[Detections], found: list[Detections], score: float = 1e-5) -> None:
    """The same detections in the same order, queries and all, where ranks do not tie."""
    for a, b in zip(expected, found, strict=True):
        assert (len(a), a.size, a.names) == (len(b), b.size, b.names)
        np.testing.assert_allclose(b.scores, a.scores, atol=score)
        clear = np.ones(len(a), bool)
        close = np.abs(np.diff(a.scores)) < 2 * score
        clear[1:][close] = clear[:-1][close] = False
        assert clear.sum() > len(a) // 2
        np.testing.assert_array_equal(b.labels[clear], a.labels[clear])
        np.testing.assert_array_equal(b.queries[clear], a.queries[clear])
        np.testing.assert_allclose(b.boxes[clear], a.boxes[clear], atol=0.02)


def session(path: Path) -> Any:
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    options.log_severity_level = 3
    return onnxruntime.InferenceSession(path, options, ["CPUExecutionProvider"])


@pytest.fixture(scope="module", params=["sigmoid", "softmax"])
def pair(request: pytest.FixtureRequest, shake: Any, tmp_path_factory: Any) -> tuple[Path, Path]:
    """One detector with calibrated scores: exported plainly, and with its boxes ranked."""
    preset = {"sigmoid": "dab-detr-nano", "softmax": "detr-nano"}[request.param]
    detector = shake(preset, CALIBRATED)
    folder = tmp_path_factory.mktemp("posts")
    ranked = export(detector, folder / "ranked.onnx", post="boxes", max_det=40, opset=18)
    return export(detector, folder / "plain.onnx").path, ranked.path


def test_a_file_that_ranks_its_boxes_detects_the_same(
    pair: tuple[Path, Path], images: list[np.ndarray]
) -> None:
    expected, found = (list(Predictor(each, batch=3)(images, **EVERYTHING)) for each in pair)
    assert {len(each) for each in found} == {min(40, len(expected[0]))}
    assert_same(expected, found)
    few = list(Predictor(pair[1])(images[:2], **EVERYTHING | {"max_det": 3}))
    assert_same([each[:3] for each in expected[:2]], few)


def test_clients_leave_out_padding_and_sizes(
    pair: tuple[Path, Path], images: list[np.ndarray]
) -> None:
    """Pixels are enough; boxes then lie in the resized image."""
    exported = Exported(pair[1])
    pixels = np.stack([exported.prepare(image) for image in images[:2]])  # of one size
    run = session(pair[1])
    assert [each.name for each in run.get_inputs()] == ["pixels"]
    boxes, scores, labels, queries = run.run(None, {"pixels": pixels})
    assert boxes.shape == (2, *scores.shape[1:], 4)
    assert (labels.dtype, queries.dtype) == (np.int64, np.int64)
    expected = list(Predictor(pair[0])(images[:2], **EVERYTHING))
    height, width = pixels.shape[2:]
    for row, each in enumerate(expected):
        scale = np.array([width, height] * 2) / np.array([each.size[1], each.size[0]] * 2)
        np.testing.assert_allclose(scores[row], each.scores, atol=1e-5)
        limits = np.array([width, height] * 2)
        np.testing.assert_allclose(
            np.clip(boxes[row][0], 0, limits), each.boxes[0] * scale, atol=0.02
        )
    sizes = np.array([each.size for each in expected])
    in_originals = run.run(["boxes"], {"pixels": pixels, "sizes": sizes})[0]
    np.testing.assert_allclose(in_originals[0, 0].clip(0), expected[0].boxes[0], atol=0.02)
    logits, _ = session(pair[0]).run(None, {"pixels": pixels})
    assert len(logits) == 2


def test_axes_have_names(pair: tuple[Path, Path]) -> None:
    import onnx

    for path in pair:
        graph = onnx.load(path).graph
        axes = {
            value.name: [d.dim_param or d.dim_value for d in value.type.tensor_type.shape.dim]
            for value in (*graph.input, *graph.output)
        }
        assert axes["pixels"] == ["batch", 3, "height", "width"]
        assert axes["padding"] == ["batch", "height", "width"]
        assert axes["boxes"][0] == "batch"
        assert "CastLike" not in {node.op_type for node in graph.node}
    ranked, plain = (onnx.load(path).opset_import for path in reversed(pair))
    assert (ranked[0].version, plain[0].version) == (18, 20)


def test_the_metadata_say_what_goes_in_and_comes_out(pair: tuple[Path, Path]) -> None:
    for path, outputs in zip(
        pair, ({"logits", "boxes"}, {"boxes", "scores", "labels", "queries"}), strict=True
    ):
        run = session(path)
        strings = run.get_modelmeta().custom_metadata_map
        assert json.loads(strings["outputs"]).keys() == outputs
        assert {each.name for each in run.get_outputs()} == outputs
        taken = {each.name for each in (*run.get_inputs(), *run.get_overridable_initializers())}
        assert json.loads(strings["inputs"]).keys() == taken
        steps = " ".join(json.loads(strings["preprocessing"])["steps"])
        for number in ("96", "128", "0.485", "0.229"):
            assert number in steps
        assert "keep scores of at least 0.3" in json.loads(strings["reading"])


@pytest.mark.parametrize(
    "format",
    ["openvino", *(pytest.param(each, marks=pytest.mark.slow) for each in ("onnx", "torch"))],
)
def test_without_padding(
    format: str, detector: Any, images: list[np.ndarray], tmp_path: Path
) -> None:
    """Images of several sizes go one by one, and detect the same."""
    if format == "openvino":
        pytest.importorskip("openvino", reason="needs openvino: pip install 'dabdetr[export]'")
    from dabdetr.export.formats import FORMATS

    target = tmp_path / f"a{FORMATS[format].suffix}"
    made = export(detector, target, format, post="boxes", max_det=40, padding=False)
    exported = Exported(made.path)
    assert tuple(exported.metadata.inputs) == ("pixels", "sizes")
    found = list(Predictor(made.path, batch=4)(images, **EVERYTHING))
    live = list(Predictor(detector)(images, **EVERYTHING))
    for a, b in zip(live, found, strict=True):
        # preprocessing differs by a grey level here and there
        np.testing.assert_allclose(b.scores, a.scores, atol=5e-3)


@pytest.mark.parametrize("opset", [pytest.param(21, marks=pytest.mark.slow), 25])
def test_a_fixed_size_without_padding_in_an_opset_of_choice(
    opset: int, detector: Any, images: list[np.ndarray], tmp_path: Path
) -> None:
    import onnx

    made = export(detector, tmp_path / "a.onnx", size=(96, 128), padding=False, opset=opset)
    exported = Exported(made.path)
    assert exported.prepare(images[2]).shape == (3, 96, 128)
    steps = json.loads(exported.metadata.to_strings()["preprocessing"])["steps"]
    assert "resize: stretch to height 96 and width 128" in steps
    found = list(Predictor(made.path)(images[:3], **EVERYTHING))
    assert [each.size for each in found] == [image.shape[:2] for image in images[:3]]
    versions = {each.version for each in onnx.load(made.path).opset_import if not each.domain}
    assert versions == {opset}
    assert exported.metadata.versions["opset"] == str(opset)


@pytest.mark.slow
def test_only_an_export_is_overwritten(detector: Any, tmp_path: Path) -> None:
    precious = tmp_path / "photographs" / "one.txt"
    precious.parent.mkdir()
    precious.write_text("kept")
    for format in ("openvino", "triton", "transformers-js"):
        with pytest.raises(FileExistsError, match="photographs holds no export"):
            export(detector, precious.parent, format=format, force=True)
    assert precious.read_text() == "kept"


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"post": "box"}, "one of none, boxes"),
        ({"max_det": 5}, "add post='boxes'"),
        ({"post": "boxes", "max_det": 0}, "at least 1"),
        ({"opset": 3}, "18 to 25; got 3"),
        ({"size": (0, 0)}, "at least 16 pixels; got 0 x 0"),
        ({"size": (64, -1)}, "at least 16 pixels; got 64 x -1"),
        ({"opset": 26}, "18 to 25; got 26"),
        ({"opset": 20, "format": "torch"}, "has none"),
    ],
)
def test_wrong_options(
    options: dict[str, Any], message: str, detector: Any, tmp_path: Path
) -> None:
    ending = ".pt2" if options.get("format") == "torch" else ".onnx"
    with pytest.raises(ValueError, match=message):
        export(detector, tmp_path / f"a{ending}", **options)
    assert not list(tmp_path.iterdir())


def test_a_ranking_that_is_wrong_fails_the_certificate(
    detector: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A graph that gives each box the label of the next."""
    sound = OnnxFile.write

    def write(self: Any, path: Path, metadata: Metadata) -> None:
        import onnx

        for node in self.proto.graph.node:
            node.output[:] = ["before" if each == "labels" else each for each in node.output]
        shifted = onnx.helper.make_node("Concat", ["tail", "head"], ["labels"], axis=1)
        cut = onnx.helper.make_node("Split", ["before", "parts"], ["head", "tail"], axis=1)
        parts = onnx.numpy_helper.from_array(np.array([1, 99]), "parts")
        self.proto.graph.initializer.append(parts)
        self.proto.graph.node.extend([cut, shifted])
        sound(self, path, metadata)

    monkeypatch.setattr(OnnxFile, "write", write)
    with pytest.raises(Uncertified) as caught:
        export(detector, tmp_path / "a.onnx", post="boxes")
    assert caught.value.certificate.within < 0.9
    assert not list(tmp_path.iterdir())
