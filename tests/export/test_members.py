"""Every member and kind of backbone can be exported; OpenVINO in every precision."""

import numpy as np
import pytest

from dabdetr import Predictor
from dabdetr.evaluation.evaluate import evaluate
from dabdetr.export.export import export
from dabdetr.export.plain import has_bf16
from dabdetr.inference.exported import Exported
from dabdetr.presets import PRESETS

pytestmark = pytest.mark.slow
NANO = sorted(name for name in PRESETS if name.endswith("-nano"))
EVERYTHING = {"conf": 0.0, "max_det": 50, "multi_label": True}


@pytest.mark.parametrize("name", [*NANO, "dab-lite"])
def test_every_member_passes_its_certificate(name, shake, tmp_path):
    made = export(shake(name), tmp_path / "member.onnx")
    assert made.certificate.detections >= 16 * 12
    assert made.certificate.scores[0] < 1e-3


BODIES = {
    "convnext": "{kind: timm, name: convnext_atto, strides: [32], norm: trained}",
    "vit": "{kind: vit, name: vit_tiny_patch16_224, strides: [8], channels: 48, window: 6, "
    "global_blocks: 1, options: {patch_size: 8, img_size: 96, embed_dim: 48, depth: 2, "
    "num_heads: 3}}",
    "swin": "{kind: timm, name: swin_tiny_patch4_window7_224, strides: [32], norm: trained, "
    "options: {embed_dim: 24, depths: [2, 2, 2, 2], num_heads: [1, 2, 2, 2]}}",
}
"""Kinds of backbones, small."""


@pytest.mark.parametrize(
    ("body", "format", "size"),
    [
        ("convnext", "onnx", None),
        ("vit", "onnx", None),
        ("vit", "torch", None),
        ("swin", "onnx", (96, 128)),
        ("swin", "torch", (96, 128)),
    ],
)
def test_kinds_of_backbones_pass_their_certificate(body, format, size, shake, tmp_path):
    detector = shake("dab-detr-nano", f"model.backbone={BODIES[body]}")
    made = export(detector, tmp_path / f"x.{format.replace('torch', 'pt2')}", format, size=size)
    assert made.certificate.detections >= 8 * 12
    assert made.certificate.scores[0] < 1e-4


def test_shifted_windows_need_a_size(shake, tmp_path):
    detector = shake("dab-detr-nano", f"model.backbone={BODIES['swin']}")
    with pytest.raises(
        ValueError, match=r"windows are shifted .* fixed size; add size=\(height, wi"
    ):
        export(detector, tmp_path / "x.onnx")
    assert not list(tmp_path.iterdir())


def _check_plain_clients(path, hint):
    """The file itself says what to compute in, to OpenVINO without dabdetr and its options."""
    import openvino

    core = openvino.Core()
    model = core.read_model(path / "model.xml")
    assert model.get_rt_info(["runtime_options", "INFERENCE_PRECISION_HINT"]).astype(str) == hint
    marks = ("DisablePrecisionConversion_0", "precise_0")  # one mark, as its versions call it
    computed = [
        op
        for op in model.get_ops()
        if op.get_type_name() not in ("Constant", "Parameter", "Result")
    ]
    marked = [op for op in computed if any(mark in op.get_rt_info() for mark in marks)]
    assert len(marked) == (len(computed) if hint == "f32" else 0)
    if hint == "f32":
        rng = np.random.default_rng(0)
        pixels, padding = rng.normal(size=(1, 3, 96, 128)), np.zeros((1, 96, 128), bool)
        inputs = {"pixels": pixels.astype(np.float32), "padding": padding}
        asked = ({}, {"INFERENCE_PRECISION_HINT": "f32"}, {"INFERENCE_PRECISION_HINT": "bf16"})
        plain, *others = (core.compile_model(model, "CPU", each)(inputs) for each in asked)
        for other in others:
            np.testing.assert_allclose(plain["logits"], other["logits"], atol=1e-3)


def _check_what_the_certificate_says_of_plain_clients(made, exact):
    plain = made.certificate.plain
    assert (plain is not None) == exact
    if plain is not None:
        assert plain.measured == has_bf16()
        assert plain.score > 10 * made.certificate.scores[0] or plain.measured
        assert plain.score < 0.2
        assert "INFERENCE_PRECISION_HINT=f32" in str(made.certificate)
        assert Exported(made.path).metadata.certificate["plain"]["score"] == plain.score


@pytest.mark.parametrize("precision", ["fp32", "fp16", "bf16", "int8"])
def test_openvino_in_every_precision(precision, tmp_path):
    pytest.importorskip("openvino")
    exact = precision in ("fp32", "fp16")  # the others lose more AP on scenes than data would let
    made = export(
        "scenes",
        tmp_path / "model_openvino",
        "openvino",
        precision,
        data="scenes:count=16" if exact else None,
        calibration="scenes:count=16" if precision == "int8" else None,
    )
    found = evaluate(made.path, "scenes:count=16").ap
    assert found > 0.8
    if exact:
        assert made.certificate.ap is not None
        assert made.certificate.ap.file == found
    _check_plain_clients(made.path, "f32" if exact else "bf16")
    _check_what_the_certificate_says_of_plain_clients(made, exact)
    predictor = Predictor(made.path)
    assert predictor.runtime.metadata.precision == precision  # pyright: ignore[reportAttributeAccessIssue]
    image = np.full((64, 96, 3), 90, np.uint8)
    assert len(predictor.one(image, **EVERYTHING)) == 50
