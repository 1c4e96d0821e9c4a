"""A format is a row and a writer in one table, and what runs it in another: nothing else."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pytest
from typer.testing import CliRunner

from dabdetr.cli import app
from dabdetr.export.export import export
from dabdetr.export.formats import FORMATS, Format, OnnxFile, check_format, quantised
from dabdetr.inference.exported import ENGINES
from dabdetr.inference.metadata import Metadata
from dabdetr.predictor import Predictor


class ToyFile(OnnxFile):
    """A line of metadata, then a graph of ONNX."""

    def write(self, path: Path, metadata: Metadata) -> None:
        head = json.dumps(metadata.to_strings()).encode()
        path.write_bytes(head + b"\n" + self.proto.SerializeToString())


class ToyEngine:
    """Runs a ``ToyFile``."""

    in_folder: ClassVar = False
    workers = 1

    def __init__(self, path: Path, device: str) -> None:
        import onnxruntime

        head, graph = path.read_bytes().split(b"\n", 1)
        self.strings: Mapping[str, str] = json.loads(head)
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = 1
        self.session = onnxruntime.InferenceSession(graph, options, ["CPUExecutionProvider"])

    def for_streams(self) -> ToyEngine:
        return self

    def start(self, metadata: Metadata) -> None:
        assert metadata.runtime == "toy"

    def __call__(self, pixels: np.ndarray, padding: np.ndarray) -> Any:
        return self.session.run(["logits", "boxes"], {"pixels": pixels, "padding": padding})


@pytest.fixture
def toy(monkeypatch: pytest.MonkeyPatch) -> Format:
    row = Format(
        title="Toy", suffix=".toy", in_folder=False, precisions=("fp32",), timed=(), make=ToyFile
    )
    monkeypatch.setitem(FORMATS, "toy", row)
    monkeypatch.setitem(ENGINES, ".toy", ToyEngine)
    return row


def test_a_new_format_exports_and_predicts(
    toy: Format, detector: Any, exported: Any, tmp_path: Path
) -> None:
    made = export(detector, tmp_path / "a.toy", "toy")
    assert made.certificate.passed
    image = np.random.default_rng(0).integers(0, 256, (70, 90, 3), dtype=np.uint8)
    found = Predictor(made.path).one(image, conf=0.0)
    expected = Predictor(exported.path).one(image, conf=0.0)
    np.testing.assert_allclose(found.boxes, expected.boxes, atol=1e-4)
    assert Predictor(made.path).names == detector.names


def test_a_new_format_is_known_to_the_command(toy: Format, tmp_path: Path) -> None:
    line = ["export", "--model", "scenes", "--format", "toy", "--half"]
    done = CliRunner().invoke(app, line)
    assert done.exit_code == 2
    assert "format 'toy' in 'fp16'" in done.stderr
    assert "toy: fp32" in done.stderr
    line = ["export", "--model", "scenes", "--format", "toy", "--output", str(tmp_path / "a.onnx")]
    done = CliRunner().invoke(app, line)
    assert done.exit_code == 2
    assert "should end in .toy" in done.stderr


@pytest.mark.parametrize("name", FORMATS)
def test_what_a_format_says_of_itself_fits(name: str) -> None:
    row = FORMATS[name]
    assert check_format(name, "fp32") is row
    assert set(row.timed) <= set(row.precisions)
    assert row.in_folder or row.suffix in ENGINES


def test_quantising_prints_nothing(capfd: pytest.CaptureFixture[str]) -> None:
    """Its package would draw bars and list nodes on stdout, where --json has its document."""
    openvino = pytest.importorskip("openvino", reason="needs openvino")
    pytest.importorskip("nncf", reason="needs nncf")
    ops = openvino.opset13
    pixels = ops.parameter([1, 3, 16, 16], name="pixels")
    kernel = ops.constant(np.ones((4, 3, 3, 3), np.float32))
    convolved = ops.convolution(pixels, kernel, [1, 1], [1, 1], [1, 1], [1, 1])
    model = openvino.Model([convolved], [pixels])
    batch: Any = np.ones((1, 3, 16, 16), np.float32)
    made = quantised(model, lambda: iter([batch]))
    assert any(op.get_type_name() == "FakeQuantize" for op in made.get_ops())
    assert capfd.readouterr().out == ""


def test_half_precision_is_that_of_products_alone() -> None:
    """Values beyond float16's range pass through, as do splits into sequences."""
    onnx, runtime = pytest.importorskip("onnx"), pytest.importorskip("onnxruntime")
    from dabdetr.export.onnx_graph import halved

    graph = onnx.parser.parse_graph(
        "g (float[n, 4] x) => (float[n, 2] y, float[n, 4] z) "
        "<int64 two = {2}, int64 one = {1}, float[2, 2] w = {1.0001, 2, 3, 4}, float[2] b = {1, 2},"
        " float large = {1000000}> {"
        " a = SplitToSequence <axis = 1, keepdims = 1> (x, two)"
        " c = SequenceAt (a, one)"
        " y = Gemm (c, w, b)"
        " z = Mul (x, large) }"
    )
    model = onnx.helper.make_model(graph, opset_imports=[onnx.helper.make_opsetid("", 18)])
    model.ir_version = 10
    x = np.arange(12, dtype=np.float32).reshape(3, 4)

    def run() -> list[np.ndarray]:
        return runtime.InferenceSession(model.SerializeToString()).run(None, {"x": x})

    before = run()
    model = halved(model)
    onnx.checker.check_model(model, full_check=True)
    kinds = {each.name: each.data_type for each in model.graph.initializer}
    assert kinds["w_half"] == kinds["b_half"] == onnx.TensorProto.FLOAT16
    assert not {"w", "b"} & kinds.keys()
    after = run()
    np.testing.assert_array_equal(before[1], after[1])
    np.testing.assert_allclose(before[0], after[0], rtol=1e-3)
    assert (before[0] != after[0]).any()  # 1.0001 is 1 in float16
