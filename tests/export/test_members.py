"""Every member and kind of backbone can be exported; OpenVINO in every precision."""

import numpy as np
import pytest

from dabdetr import Predictor
from dabdetr.evaluation.coco import evaluate
from dabdetr.export.run import export
from dabdetr.presets import PRESETS

pytestmark = pytest.mark.slow
NANO = sorted(name for name in PRESETS if name.endswith("-nano"))
EVERYTHING = {"conf": 0.0, "max_det": 50}


@pytest.mark.parametrize("name", [*NANO, "dab-lite"])
def test_every_member_passes_its_certificate(name, shake, tmp_path):
    made = export(shake(name), tmp_path / "member.onnx")
    assert made.certificate.detections >= 16 * 12
    assert made.certificate.scores[0] < 1e-3


@pytest.mark.parametrize("precision", ["fp32", "fp16", "bf16", "int8"])
def test_openvino_in_every_precision(precision, tmp_path):
    pytest.importorskip("openvino")
    made = export(
        "scenes",
        tmp_path / "model_openvino",
        "openvino",
        precision,
        data="scenes:count=16",
        calibration="scenes:count=16" if precision == "int8" else None,
    )
    loss = made.certificate.ap
    assert loss is not None
    assert loss.torch > 0.5
    assert evaluate(made.path, "scenes:count=16").ap == loss.file
    predictor = Predictor(made.path)
    assert predictor.runtime.card.precision == precision  # pyright: ignore[reportAttributeAccessIssue]
    picture = np.full((64, 96, 3), 90, np.uint8)
    assert len(predictor.one(picture, **EVERYTHING)) == 50
