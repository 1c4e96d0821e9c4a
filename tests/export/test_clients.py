"""Folders for transformers.js and Triton: what their readers expect, and our boxes."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from dabdetr.export.export import export
from dabdetr.inference.opening import is_exported
from dabdetr.predictor import Predictor

CALIBRATED = "inference.calibration=[1.3,-0.2]"


@pytest.fixture(scope="module", params=["dab-detr-nano", "detr-nano"])
def folders(request: pytest.FixtureRequest, shake: Any, tmp_path_factory: Any) -> tuple[Path, Any]:
    """For transformers.js, of a sigmoid and of a softmax member with calibrated scores."""
    detector = shake(request.param, CALIBRATED)
    root = tmp_path_factory.mktemp("clients")
    return export(detector, root / "tj", "transformers-js", size=(96, 128)).path, detector


def test_a_folder_for_transformers_js(folders: tuple[Path, Any], images: list[np.ndarray]) -> None:
    folder, detector = folders
    model = json.loads((folder / "config.json").read_text())
    assert model["id2label"] == {str(n): name for n, name in enumerate(detector.names)}
    preparation = json.loads((folder / "preprocessor_config.json").read_text())
    assert preparation["size"] == {"height": 96, "width": 128}
    assert tuple(preparation["image_mean"]) == detector.config.image.mean
    stretched = [np.asarray(Image.fromarray(each).resize((128, 96))) for each in images[:3]]
    everything = {"conf": 0.05, "max_det": 100}
    live = list(Predictor(detector)(stretched, **everything))
    found = list(Predictor(folder)(stretched, **everything))
    assert sum(map(len, found)) > 20
    for a, b in zip(live, found, strict=True):
        # of each query the best class; images are of the input's size, so nothing is resized
        assert len(a) == len(b)
        order = np.argsort(a.queries), np.argsort(b.queries)
        np.testing.assert_array_equal(a.queries[order[0]], b.queries[order[1]])
        np.testing.assert_allclose(a.scores[order[0]], b.scores[order[1]], atol=1e-3)
        np.testing.assert_array_equal(a.labels[order[0]], b.labels[order[1]])
        np.testing.assert_allclose(a.boxes[order[0]], b.boxes[order[1]], atol=0.05)


@pytest.mark.slow
def test_transformers_js_gives_our_boxes(
    folders: tuple[Path, Any], images: list[np.ndarray], tmp_path: Path
) -> None:
    folder, _ = folders
    if shutil.which("node") is None or shutil.which("npm") is None:
        pytest.skip("needs node and npm")
    install = ["npm", "install", "--ignore-scripts", "--no-audit", "--no-fund"]
    done = subprocess.run(
        [*install, "@huggingface/transformers"], cwd=tmp_path, capture_output=True, text=True
    )
    if done.returncode:
        pytest.skip(f"npm cannot install @huggingface/transformers: {done.stderr[-200:]}")
    shutil.copytree(folder, tmp_path / "model")
    Image.fromarray(images[0]).resize((128, 96)).save(tmp_path / "a.png")
    (tmp_path / "detect.mjs").write_text(
        'import { env, pipeline } from "@huggingface/transformers";\n'
        "env.allowRemoteModels = false;\n"
        'env.localModelPath = "./";\n'
        'const detect = await pipeline("object-detection", "model", { dtype: "fp32" });\n'
        'console.log(JSON.stringify(await detect("a.png", { threshold: 0.05 })));\n'
    )
    done = subprocess.run(["node", "detect.mjs"], cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    rows = sorted(json.loads(done.stdout), key=lambda row: -row["score"])
    found = Predictor(folder).one(tmp_path / "a.png", conf=0.05)
    assert len(rows) == len(found) > 3
    np.testing.assert_allclose([row["score"] for row in rows], found.scores, atol=1e-4)
    for row, box in zip(rows, found.boxes, strict=True):
        corners = [row["box"][side] for side in ("xmin", "ymin", "xmax", "ymax")]
        limits = [128, 96, 128, 96]
        # whole pixels, rounded towards 0
        np.testing.assert_allclose(np.clip(corners, 0, limits), np.floor(box), atol=1)


@pytest.mark.parametrize(
    "options",
    [
        {"post": "boxes"},
        pytest.param({}, marks=pytest.mark.slow),
        pytest.param(
            {"post": "boxes", "padding": False, "size": (96, 128)}, marks=pytest.mark.slow
        ),
    ],
)
def test_a_folder_for_triton(options: dict[str, Any], detector: Any, tmp_path: Path) -> None:
    """Its settings name what the graph takes and gives, all of it, without the batch."""
    import onnx
    import onnxruntime

    folder = export(detector, tmp_path / "models_tiny", "triton", **options).path
    assert sorted(str(each.relative_to(folder)) for each in folder.rglob("*.*")) == [
        "1/model.onnx",
        "config.pbtxt",
    ]
    text = (folder / "config.pbtxt").read_text()
    assert 'platform: "onnxruntime_onnx"' in text
    assert "dynamic_batching { }" in text
    row = re.compile(r'name: "(\w+)", data_type: TYPE_(\w+), dims: \[ ([-\d, ]+) \]')
    said = {
        side: {
            name: (kind, [int(axis) for axis in axes.split(",")])
            for name, kind, axes in row.findall(text.split(f"{side} [")[1].split("\n]")[0])
        }
        for side in ("input", "output")
    }
    graph = onnx.load(folder / "1" / "model.onnx").graph
    kinds = {1: "FP32", 7: "INT64", 9: "BOOL"}
    for side, values in (("input", graph.input), ("output", graph.output)):
        expected = {}
        for value in values:
            batch, *axes = value.type.tensor_type.shape.dim
            assert batch.dim_param == "batch"
            sides = [axis.dim_value or -1 for axis in axes]
            expected[value.name] = (kinds[value.type.tensor_type.elem_type], sides)
        assert said[side] == expected
    run = onnxruntime.InferenceSession(folder / "1" / "model.onnx")
    assert {each.name for each in run.get_inputs()} == set(said["input"])
    assert is_exported(folder)
    image = np.random.default_rng(0).integers(0, 256, (96, 128, 3), dtype=np.uint8)
    found = Predictor(folder).one(image, conf=0.0)
    np.testing.assert_allclose(
        found.boxes, Predictor(detector).one(image, conf=0.0).boxes, atol=0.05
    )


def test_transformers_js_has_its_own_answer(detector: Any, tmp_path: Path) -> None:
    for options in ({"post": "boxes"}, {"padding": False}):
        with pytest.raises(ValueError, match="its own postprocessing and no padding"):
            export(detector, tmp_path / "a", "transformers-js", **options)


def test_weights_beside_a_graph_are_weights(tmp_path: Path) -> None:
    (tmp_path / "onnx").mkdir()
    (tmp_path / "onnx" / "model.onnx").touch()
    assert is_exported(tmp_path)
    (tmp_path / "model.safetensors").touch()
    assert not is_exported(tmp_path)
