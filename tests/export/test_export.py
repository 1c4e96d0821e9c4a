"""Exported files answer as torch does, carry what they need, and run without torch."""

import copy
import json
import subprocess
import sys
from concurrent.futures import ProcessPoolExecutor, ThreadPoolExecutor
from functools import partial
from multiprocessing import get_context

import numpy as np
import pytest
import torch
from PIL import Image
from typer.testing import CliRunner

from dabdetr import Predictor
from dabdetr.checkpoints.native import save_model
from dabdetr.cli import app
from dabdetr.data.augmentation import prepare
from dabdetr.data.preprocessing import fitted_size, input_size, prepare_array
from dabdetr.evaluation.evaluate import evaluate
from dabdetr.export.export import export
from dabdetr.export.tracing import example, program
from dabdetr.inference.exported import Exported
from dabdetr.structures import Images


def rows(found):
    """(query, label) → score and box."""
    parts = zip(
        found.queries.tolist(), found.labels.tolist(), found.scores, found.boxes, strict=True
    )
    return {(query, label): (score, box) for query, label, score, box in parts}


def assert_alike(one, other, pixels, score):
    """The same queries say the same classes."""
    for a, b in zip(one, other, strict=True):
        assert (a.size, a.names, len(a)) == (b.size, b.names, len(b))
        a, b = rows(a), rows(b)
        assert a.keys() == b.keys()
        for key in a:
            assert a[key][0] == pytest.approx(b[key][0], abs=score)
            np.testing.assert_allclose(a[key][1], b[key][1], atol=pixels)


def test_the_predictor_detects_as_with_the_weights(detector, exported, images):
    everything = {"conf": 0.0, "max_det": 100}
    predictor = Predictor(exported.path, batch=2)
    assert predictor.names == detector.names
    assert predictor.config == detector.config
    assert len({found.scores.max() for found in predictor(images, **everything)}) > 3
    # preprocessing differs by a grey level here and there
    live = list(Predictor(detector)(images, **everything))
    assert_alike(live, list(predictor(images, **everything)), 0.3, 5e-3)


def test_a_file_holds_no_lines_of_the_source(exported):
    import onnx

    graph = onnx.load(exported.path).graph
    assert not any(node.metadata_props or node.doc_string for node in graph.node)
    assert b'.py", line' not in exported.path.read_bytes()


@pytest.mark.slow
def test_graphs_fill_inputs_up_to_whole_cells(detector, exported, tmp_path):
    import onnxruntime

    celled = copy.deepcopy(detector)
    celled.backbone.cell = 32
    traced = torch.onnx.export(program(celled), dynamo=True, optimize=False, verbose=False)
    traced.save(tmp_path / "celled.onnx")
    session = onnxruntime.InferenceSession(tmp_path / "celled.onnx")
    pixels, padding = example((61, 75))
    pixels = torch.randn_like(pixels)
    with torch.no_grad():
        live = celled(Images(pixels, padding))
    names = [each.name for each in session.get_inputs()]
    given = dict(zip(names, (pixels.numpy(), padding.numpy()), strict=True))
    answers = zip((live.logits[-1], live.boxes[-1]), session.run(None, given), strict=True)
    for wanted, found in answers:
        np.testing.assert_allclose(found, wanted, atol=1e-4)


def test_the_certificate_travels_in_the_file(exported):
    proof = exported.certificate
    assert proof.passed
    assert proof.batches == (1, 2, 5)
    assert len(proof.sizes) >= 2
    metadata = Exported(exported.path).metadata
    assert metadata.certificate == json.loads(json.dumps(proof.to_dict()))
    assert metadata.versions.keys() == {
        "dabdetr",
        "torch",
        "onnx",
        "onnxscript",
        "onnxruntime",
        "opset",
    }
    thresholds = json.loads(metadata.to_strings()["thresholds"])
    assert (thresholds["conf"], thresholds["max_det"]) == (0.3, 100)


def test_predicting_imports_no_torch(exported, images, tmp_path):
    Image.fromarray(images[0]).save(tmp_path / "a.png")
    code = (
        "import sys; from dabdetr import Predictor\n"
        f"found = Predictor({str(exported.path)!r}).one({str(tmp_path / 'a.png')!r}, conf=0.0)\n"
        "assert len(found) > 10, len(found)\n"
        "print([m for m in ('torch', 'torchvision', 'timm', 'scipy') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_resizing_without_torch_is_within_a_grey_level(detector):
    settings = detector.config.image
    spread = np.array(settings.std, np.float32).reshape(3, 1, 1) * 255
    rng = np.random.default_rng(1)
    for height, width in ((60, 80), (333, 211), (96, 96), (700, 40), (9, 400)):
        image = rng.integers(0, 256, (height, width, 3), dtype=np.uint8)
        ours = prepare_array(image, input_size(height, width, settings), settings)
        gap = np.abs(prepare(image, settings).numpy() - ours) * spread
        assert gap.max() <= 1.001
        assert gap.mean() < 0.25  # noise: the worst image there is


def test_an_image_fits_into_a_fixed_frame():
    assert fitted_size(60, 80, (96, 96)) == (72, 96)
    assert fitted_size(500, 3, (96, 128)) == (96, 1)


def test_an_exported_file_is_evaluated_as_its_weights(detector, exported):
    live = evaluate(detector, "scenes:count=4")
    found = evaluate(exported.path, "scenes:count=4", batch=3)
    assert found.numbers == pytest.approx(live.numbers, abs=1e-3)
    assert_alike(live.detections, found.detections, 0.3, 5e-3)


def test_evaluating_imports_no_torch(exported, coco_folder):
    code = (
        "import sys; from dabdetr.cli import main\n"
        "try: main()\n"
        "except SystemExit as done: assert not done.code, done.code\n"
        "print([m for m in ('torch', 'torchvision', 'timm') if m in sys.modules])"
    )
    line = ["val", "--model", str(exported.path), "--data", str(coco_folder), "--json"]
    done = subprocess.run([sys.executable, "-c", code, *line], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    told, _, modules = done.stdout.strip().rpartition("\n")
    assert modules == "[]"
    assert json.loads(told)["images"] == 4
    line += ["--per-layer"]
    done = CliRunner().invoke(app, line)
    assert done.exit_code == 2
    assert "gives its last layer only" in done.stderr


def test_the_command_writes_a_file_of_fixed_size(detector, images, tmp_path, monkeypatch):
    pytest.importorskip("onnxruntime")
    monkeypatch.chdir(tmp_path)
    save_model("tiny.safetensors", detector)
    line = ["export", "--model", "tiny.safetensors", "--size", "64", "96", "--half", "--json"]
    done = CliRunner().invoke(app, line)
    assert done.exit_code == 0, done.stderr
    assert done.stderr.endswith("next: dabdetr predict --model tiny.onnx IMAGES\n")
    told = json.loads(done.stdout)
    assert told["file"] == "tiny.onnx"
    assert told["certificate"]["sizes"] == [[64, 96]]
    metadata = Exported("tiny.onnx").metadata
    assert (metadata.size, metadata.precision) == ((64, 96), "fp16")
    found = list(Predictor("tiny.onnx", batch=3)(images, conf=0.0))
    assert [each.size for each in found] == [each.shape[:2] for each in images]
    again = CliRunner().invoke(app, line)
    assert again.exit_code == 2
    assert "tiny.onnx exists and is not overwritten; " in again.stderr
    assert "--force" in again.stderr
    assert "exporting" not in again.stderr


@pytest.mark.slow
def test_a_program_of_torch(detector, images, tmp_path):
    made = export(detector, tmp_path / "tiny.pt2", "torch")
    everything = {"conf": 0.0, "max_det": 100}
    live = list(Predictor(detector)(images, **everything))
    assert_alike(live, list(Predictor(made.path)(images, **everything)), 0.3, 5e-3)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"format": "tflite"}, "no export of format 'tflite' in 'fp32'; onnx: fp32, fp16"),
        ({"precision": "bf16"}, "no export of format 'onnx' in 'bf16'"),
        ({"format": "openvino", "precision": "int8"}, "int8 and calibration data go together"),
        ({"output": "model.bin"}, "should end in .onnx"),
        ({"output": "t.onnx", "format": "openvino"}, "is a folder; .* such as t_openvino"),
        ({"output": "nowhere/model.onnx"}, "there is no folder nowhere"),
    ],
)
def test_wrong_wishes_are_told(detector, options, message):
    with pytest.raises((ValueError, FileNotFoundError), match=message):
        export(detector, **options)


def test_what_is_no_export_is_told(exported, tmp_path):
    import onnx

    model = onnx.load(exported.path)
    del model.metadata_props[:]
    onnx.save(model, tmp_path / "bare.onnx")
    with pytest.raises(ValueError, match="is not an export of dabdetr"):
        Predictor(tmp_path / "bare.onnx")
    (tmp_path / "broken.onnx").write_bytes(b"nothing")
    with pytest.raises(ValueError, match="is not an ONNX file, or is cut short"):
        Predictor(tmp_path / "broken.onnx")
    with pytest.raises(FileNotFoundError, match="no exported model"):
        Predictor(tmp_path / "none.onnx")
    with pytest.raises(ValueError, match="is exported: its precision cannot be changed"):
        Predictor(exported.path, precision="bf16")
    with pytest.raises(ValueError, match="gives its last layer only"):
        _ = Predictor(exported.path).live


@pytest.mark.parametrize("format", ["onnx", "openvino"])
def test_a_predictor_of_an_exported_file_goes_to_other_processes_and_threads(
    format, detector, exported, images, tmp_path
):
    pytest.importorskip(format)
    own = format != "onnx"
    path = export(detector, tmp_path / "x", format).path if own else exported.path
    predictor = Predictor(path)
    (expected,) = predictor(images[0], conf=0)
    with ProcessPoolExecutor(1, get_context("spawn")) as pool:
        found = pool.submit(predictor.one, images[0], conf=0).result()
    np.testing.assert_array_equal(found.boxes, expected.boxes)
    np.testing.assert_array_equal(found.scores, expected.scores)
    alone = [predictor.one(image, conf=0) for image in images]
    with ThreadPoolExecutor(8) as pool:
        for _ in range(4):
            beside = pool.map(partial(predictor.one, conf=0), images)
            for found, expected in zip(beside, alone, strict=True):
                np.testing.assert_allclose(found.scores, expected.scores, atol=1e-5)
                np.testing.assert_allclose(found.boxes, expected.boxes, atol=1e-3)
