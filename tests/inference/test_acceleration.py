"""Ready-made weights, chosen precisions, compiled code: the same answers, sooner."""

import logging
import subprocess
import sys

import pytest
import torch

from dabdetr.inference import acceleration
from dabdetr.inference.acceleration import AcceleratedModel, autocast, choose, inference_copy
from dabdetr.model.detector import build
from dabdetr.predictor import Predictor
from dabdetr.presets import PRESETS
from dabdetr.structures import Images

SMALL = ("dab-detr-nano", "deformable-detr-nano", "vit-dino-nano")


@pytest.fixture
def images():
    generator = torch.Generator().manual_seed(1)
    return Images(torch.randn(1, 3, 64, 96, generator=generator))


def detector(preset="dab-detr-nano"):
    torch.manual_seed(0)
    model = build(PRESETS[preset], ["cat", "dog"]).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.02 * torch.randn_like(parameter))
    return model


@pytest.mark.parametrize("preset", SMALL)
@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_settled_weights_answer_as_the_model_does(preset, precision, images):
    model = detector(preset)
    ready = inference_copy(model, precision)
    with torch.no_grad(), autocast(precision, torch.device("cpu")):
        expected, found = model(images), ready(images)
    torch.testing.assert_close(found.logits, expected.logits, rtol=0, atol=1e-5)
    torch.testing.assert_close(found.boxes, expected.boxes, rtol=0, atol=1e-6)
    if precision == "bf16":
        assert ready.encoder.layers[0].feedforward.expand.weight.dtype == torch.bfloat16
        assert ready.encoder.layers[0].feedforward_norm.weight.dtype == torch.float32
    assert all(p.dtype == torch.float32 for p in model.parameters())
    assert model.encoder.layers[0].feedforward.expand.weight.requires_grad


def test_float32_sees_weights_change_and_copies_do_not(images):
    model = detector()
    live, copied = AcceleratedModel(model), AcceleratedModel(model, "bf16")
    before = live(images).logits[-1], copied(images).logits[-1]
    with torch.no_grad():
        model.get_parameter("decoder.heads.classes.0.bias").add_(1.0)
    torch.testing.assert_close(live(images).logits[-1], before[0] + 1)
    assert torch.equal(copied(images).logits[-1], before[1])


def test_auto_takes_the_faster_and_says_so_once_measured(images, caplog, monkeypatch):
    monkeypatch.setattr(acceleration, "_chosen", {})
    caplog.set_level(logging.INFO, "dabdetr")
    model = detector()
    for threshold, expected in ((0.0, "bf16"), (1e9, "fp32")):
        acceleration._chosen.clear()
        monkeypatch.setattr(acceleration, "_ENOUGH", threshold)
        forward = AcceleratedModel(model, "auto")
        assert forward.precision is None
        forward(images)
        assert forward.precision == expected
        assert caplog.records[-1].getMessage().startswith(f"computing in {expected}: a batch takes")
    monkeypatch.setattr(acceleration, "_ENOUGH", 0.0)
    assert choose(model, images) == "fp32"  # remembered: nothing is measured again
    assert len(caplog.records) == 3


def test_wrong_choices_are_told_before_any_loading():
    with pytest.raises(ValueError, match="there is no precision 'int3'; use auto, fp32, bf16"):
        Predictor("scenes", precision="int3")  # pyright: ignore[reportArgumentType]
    with pytest.raises(ValueError, match="compile should be True or False; got 'yes'"):
        Predictor("scenes", compile="yes")  # pyright: ignore[reportArgumentType]


def test_without_a_compiler_it_says_so_and_detects(images, caplog, monkeypatch):
    caplog.set_level(logging.INFO, "dabdetr")
    monkeypatch.setenv("PATH", "")
    model = detector()
    expected = AcceleratedModel(model)(images)
    forward = AcceleratedModel(model, compile=True)
    for _ in range(3):
        assert torch.equal(forward(images).boxes, expected.boxes)
    told = [record.getMessage() for record in caplog.records]
    assert told == ["not compiled: there is no C++ compiler; install g++, or leave --compile out"]


def test_a_predictor_passes_on_what_it_is_told(monkeypatch):
    image = torch.zeros(64, 96, 3, dtype=torch.uint8).numpy()
    monkeypatch.setattr(acceleration, "_chosen", {})
    predictor = Predictor(detector(), precision="auto")
    predictor.one(image)
    assert predictor.live.precision in ("fp32", "bf16")
    assert predictor.live.precision == predictor.live.forward.precision
    exact = Predictor(predictor.live.model).one(image, conf=0.0)
    rough = Predictor(predictor.live.model, precision="bf16").one(image, conf=0.0)
    assert abs(exact.scores - rough.scores).max() < 0.02
    assert (exact.scores != rough.scores).any()


def test_compiled_code_is_called_where_it_won(images):
    model, other = detector(), detector()
    with torch.no_grad():
        other.get_parameter("decoder.heads.classes.0.bias").add_(1.0)
    forward = AcceleratedModel(model, compile=True)
    forward._compiled[images.pixels.shape] = torch.compile(inference_copy(other))
    with torch.compiler.set_stance("force_eager"):  # it is called all the same
        found = forward(images)
    expected = AcceleratedModel(other)(images)
    torch.testing.assert_close(found.logits, expected.logits, rtol=0, atol=1e-5)


COMPILED = """
import logging, torch
from dabdetr.inference.acceleration import AcceleratedModel
from dabdetr.checkpoints.native import load_model
from dabdetr.structures import Images
logging.basicConfig(level=logging.INFO, format="%(name)s: %(message)s")
model = load_model("scenes").model
images = Images(torch.randn(1, 3, 128, 160, generator=torch.Generator().manual_seed(1)))
expected = AcceleratedModel(model, "{precision}")(images)
forward = AcceleratedModel(model, "{precision}", compile=True)
print((forward(images).boxes[-1] - expected.boxes[-1]).abs().max().item())
packed = torch._dynamo.utils.counters["inductor"]["mkldnn_linear_weight_pack_matcher_count"]
print(packed)
with torch.no_grad():
    model.get_parameter("decoder.heads.classes.0.bias").add_(1.0)
# must not be answered by the first one's code
other = AcceleratedModel(model, "{precision}", compile=True)
print((other(images).logits[-1] - expected.logits[-1]).mean().item())
"""


@pytest.mark.slow
@pytest.mark.parametrize(("precision", "gap"), [("fp32", 1e-4), ("bf16", 0.05)])
def test_compiled_code_answers_as_the_model_does(precision, gap):
    """In a process of its own: shapes are not checked there, which a compiler cannot trace.

    oneDNN packs the weights of bf16 on processors with AVX-512; on others nothing is packed.
    """
    if acceleration.no_compiler(torch.device("cpu")):
        pytest.skip("there is no C++ compiler")
    command = [sys.executable, "-c", COMPILED.format(precision=precision)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert "dabdetr: compiled" in done.stderr, done.stderr
    apart, packed, raised = map(float, done.stdout.split())
    assert apart < gap
    packs = precision == "bf16" and torch.ops.mkldnn._is_mkldnn_bf16_supported()
    assert (packed > 0) == packs
    assert raised == pytest.approx(1.0, abs=gap)
