"""One way to open a model of any kind, and what cannot be changed any more."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from dabdetr.checkpoints.native import load_model
from dabdetr.checkpoints.resize import with_layers
from dabdetr.evaluation.evaluate import evaluate
from dabdetr.inference.opening import is_exported, open_model, torch_runtime
from dabdetr.inference.torch_runtime import TorchRuntime
from dabdetr.predictor import Predictor

IMAGE = np.random.default_rng(0).integers(0, 256, (64, 80, 3), dtype=np.uint8)


def test_weights_detectors_runtimes_and_predictors_open_alike() -> None:
    detector = load_model("scenes").model
    expected = Predictor("scenes").one(IMAGE, conf=0.0)
    predictor = Predictor(detector)
    for source in ("scenes", detector, predictor.runtime, predictor):
        found = Predictor(open_model(source)).one(IMAGE, conf=0.0)
        np.testing.assert_array_equal(found.boxes, expected.boxes)
        np.testing.assert_array_equal(found.scores, expected.scores)
    assert open_model(predictor) is predictor.runtime


def test_changes_are_made_in_a_copy() -> None:
    detector = load_model("scenes").model
    size, layers = detector.config.image.size, detector.config.model.decoder.layers
    changed = Predictor(detector, queries=12, layers=2, image_size=96)
    assert changed.config.image.size == 96
    assert changed.config.image.max_size == round(detector.config.image.max_size * 96 / size)
    assert changed.config.model.queries.count == 12
    assert changed.config.model.decoder.layers == 2
    assert detector.config.image.size == size
    assert detector.config.model.decoder.layers == layers
    assert max(changed.runtime.prepare(IMAGE).shape) == 96
    shorter = Predictor(with_layers(detector, 2)).one(IMAGE, conf=0.0)
    found = Predictor("scenes", layers=2).one(IMAGE, conf=0.0)
    np.testing.assert_array_equal(found.boxes, shorter.boxes)


def test_an_open_model_and_an_exported_file_cannot_be_changed(tmp_path: Path) -> None:
    runtime = open_model("scenes")
    with pytest.raises(ValueError, match="the model is open already: its layers, image_size can"):
        open_model(runtime, layers=2, image_size=96)
    assert open_model(runtime, layers=None, queries_init="keep", precision="fp32") is runtime
    file = tmp_path / "a.onnx"
    with pytest.raises(ValueError, match=r"a\.onnx is exported: its queries cannot be changed"):
        open_model(file, queries=3)
    with pytest.raises(FileNotFoundError, match="there is no exported model"):
        open_model(file)


def test_a_folder_is_exported_where_it_holds_openvino_s_model(tmp_path: Path) -> None:
    assert not is_exported(tmp_path)
    (tmp_path / "model.onnx").touch()  # beside weights, in folders of the hub
    assert not is_exported(tmp_path)
    (tmp_path / "model.xml").touch()
    assert is_exported(tmp_path)


def test_the_detector_itself() -> None:
    assert isinstance(torch_runtime("scenes"), TorchRuntime)
    runtime = Predictor("scenes").live
    assert torch_runtime(runtime) is runtime


@pytest.mark.parametrize("workers", [1, 3])
def test_workers_change_nothing(workers: int) -> None:
    data = "scenes:seed=1,count=9"
    expected, found = evaluate("scenes", data), evaluate("scenes", data, workers=workers)
    assert found.numbers == expected.numbers
    for one, other in zip(found.detections, expected.detections, strict=True):
        np.testing.assert_array_equal(one.boxes, other.boxes)
