"""Certificates pass sound files, and only these; they say where a graph goes wrong."""

import copy
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

import dabdetr
from dabdetr.data.dataset import Subset
from dabdetr.data.layouts import open_data
from dabdetr.data.preprocessing import padded
from dabdetr.evaluation.evaluate import evaluate
from dabdetr.export.ap_loss import Loss, compare_ap
from dabdetr.export.batches import batches
from dabdetr.export.certificate import (
    ROUNDED,
    TOLERANCES,
    _agreement,
    certify,
    common_shift,
    paired,
)
from dabdetr.export.divergence import first_difference
from dabdetr.export.export import Uncertified, export
from dabdetr.export.formats import OnnxFile, ProgramFile
from dabdetr.export.plain import rounded
from dabdetr.export.tracing import Answer, example
from dabdetr.inference.exported import Exported
from dabdetr.inference.postprocess import Ranked


def test_pairs_are_of_one_class_and_one_to_one():
    box = np.array([[0, 0, 10, 10], [0, 0, 10, 10]], np.float32)
    one = Ranked(box, np.array([0.9, 0.8]), np.array([0, 1]), np.array([0, 1]))
    other = Ranked(box + 2, np.array([0.5, 0.7]), np.array([0, 0]), np.array([0, 1]))
    gaps = paired(one, other)
    assert gaps[0].tolist() == pytest.approx([2.0, 2.0, 2.0, 2.0, -0.2, 0.9])
    assert gaps[1].tolist() == [1e4, 1e4, 1e4, 1e4, 1.0, 0.8]


def faulty(path, target, change):
    """A copy of an ONNX file with something changed in its graph."""
    import onnx

    model = onnx.load(path)
    change(onnx, model.graph)
    onnx.save(model, target)
    return target


def behind_boxes(onnx, graph, kind, constant):
    """Put one more node of two inputs behind the boxes."""
    for node in graph.node:
        for place, name in enumerate(node.output):
            if name == "boxes":
                node.output[place] = "boxes_before"
    graph.initializer.append(onnx.numpy_helper.from_array(constant, "fault"))
    options = {"axis": 2} if kind == "Gather" else {}
    node = onnx.helper.make_node(kind, ["boxes_before", "fault"], ["boxes"], **options)
    graph.node.append(node)


def shift(onnx, graph):
    """Half a pixel of an input 96 wide."""
    behind_boxes(onnx, graph, "Add", np.array([0.5 / 96, 0, 0, 0], np.float32))


def swap(onnx, graph):
    """Width for height."""
    behind_boxes(onnx, graph, "Gather", np.array([0, 1, 3, 2]))


def weigh(onnx, graph):
    """Another weight in the encoder."""
    (weight,) = [w for w in graph.initializer if w.name.endswith("layers.0.feedforward.expand.bias")
                 and "encoder" in w.name]  # fmt: skip
    changed = onnx.numpy_helper.to_array(weight) + 0.5
    weight.CopyFrom(onnx.numpy_helper.from_array(changed, weight.name))


@pytest.mark.parametrize("precision", ["fp32", "fp16", "bf16", "int8"])
@pytest.mark.parametrize("fault", [shift, swap, weigh])
def test_planted_faults_fail_the_certificate(
    fault, precision, detector, exported, images, tmp_path
):
    path = faulty(exported.path, tmp_path / "faulty.onnx", fault)
    file = Exported(path)
    file.metadata = replace(file.metadata, precision=precision)  # which allows more differences
    proof = certify(Answer(detector), file, images)
    assert proof.finite
    assert not proof.passed
    if precision != "fp32":
        rounded = Answer(detector, ROUNDED[precision])
        assert not certify(Answer(detector), file, images, in_precision=rounded).passed
    if fault is shift:
        assert proof.shift == pytest.approx(0.44, abs=0.07)  # at 96 pixels, and at 72


def test_the_sound_file_passes_once_more(detector, exported, images):
    proof = certify(Answer(detector), Exported(exported.path), images)
    assert proof.passed
    assert proof.shift < 1e-4


class Tied:
    """Torch's answers, but other ones for images that are ``given`` bit for bit.

    As where two proposals score alike, and the last bit decides which comes first.
    """

    def __init__(self, detector, given):
        self.answer, self.given = Answer(detector), given

    def __call__(self, pixels, padding):
        logits, boxes = self.answer(pixels, padding)
        for row, image in enumerate(pixels):
            if any(image.shape == each.shape and torch.equal(image, each) for each in self.given):
                boxes[row] = boxes[row].flip(0)
        return logits, boxes


def test_an_answer_that_hangs_on_rounding_is_compared_beside_it(detector, exported, images):
    file = Exported(exported.path)
    every = [torch.from_numpy(image) for batch in batches(file, images) for image in batch[0]]
    proof = certify(Tied(detector, every[:2]), file, images)
    assert proof.passed
    assert proof.tied == sum(
        any(each.shape == image.shape and torch.equal(each, image) for image in every[:2])
        for each in every
    )
    assert f"proposals score alike in {proof.tied} inputs: compared with torch on pix" in str(proof)
    assert certify(Answer(detector), file, images).tied == 0
    most = certify(Tied(detector, every[: len(every) // 2]), file, images)
    assert not most.passed  # of too many images it is no accident
    assert most.tied == 0


class Sensitive:
    """Torch's answers, but every eighth box is elsewhere: it depends on rounding."""

    def __init__(self, detector):
        self.answer = Answer(detector)

    def __call__(self, pixels, padding):
        logits, boxes = self.answer(pixels, padding)
        boxes[:, ::8, 0] += 0.5
        return logits, boxes


def test_a_file_may_differ_as_much_as_torch_does_in_its_precision(detector, exported, images):
    file = Exported(exported.path)
    file.metadata = replace(file.metadata, precision="bf16")
    in_fp32, in_bf16 = Sensitive(detector), Answer(detector)
    assert not certify(in_fp32, file, images).passed
    assert not certify(in_fp32, file, images, in_precision=in_fp32).passed  # torch does not
    proof = certify(in_fp32, file, images, in_precision=in_bf16)
    assert proof.passed
    assert 0.8 < proof.of_torch < 0.95
    assert proof.within == pytest.approx(proof.of_torch, abs=0.01)
    assert proof.required == pytest.approx(0.95 - 1.5 * (1 - proof.of_torch))
    assert replace(proof, of_torch=1.0).required == 0.95
    assert not replace(proof, within=proof.required - 0.01).passed
    assert f"as torch in bf16 has {proof.of_torch:.2%}" in str(proof)
    assert certify(in_bf16, file, images, in_precision=in_bf16).of_torch is None  # not needed


def test_detections_that_score_less_than_the_tolerance_may_be_missing():
    gaps = np.array([[0, 0, 0, 0, 0, 0.9], [99, 0, 0, 0, 0, 0.04], [0, 0, 0, 0, 0.2, 0.8]])
    tolerance = TOLERANCES["bf16"]
    assert _agreement(gaps, tolerance)[:2] == (2, 0.5)
    assert _agreement(gaps[1:2], tolerance)[:2] == (1, 0.0)  # there is none that scores more


def test_ap_may_fall_by_half_a_point(exported):
    proof = exported.certificate
    for lost, passed in ((-0.1, True), (0.0049, True), (0.0051, False)):
        loss = Loss(0.5, 0.5 - lost, "scenes val", 87, 0.001)
        assert replace(proof, ap=loss).passed is passed
    assert "the first 87 images of scenes val; 0.005 may be lost" in str(loss)


def test_ap_of_both_sides_is_of_the_same_images(detector, exported):
    data = open_data("scenes:count=11", "val")
    loss = compare_ap(detector, exported.path, data)
    assert (loss.images, loss.data) == (11, "scenes val")
    assert loss.torch == evaluate(detector, data).ap
    assert loss.file == pytest.approx(loss.torch, abs=1e-3)
    assert 0 <= loss.noise < 1e-3
    assert np.isnan(compare_ap(detector, exported.path, Subset(data, range(3))).noise)


def named(inputs):
    return dict(zip(("pixels", "padding"), inputs, strict=True))


@pytest.mark.slow
def test_the_first_node_that_differs_is_named(detector, exported, images, tmp_path):
    traced = OnnxFile(detector, Exported(exported.path).metadata).traced
    inputs = padded([Exported(exported.path).prepare(images[0])])
    assert first_difference(traced, exported.path, named(inputs)) is None
    path = faulty(exported.path, tmp_path / "faulty.onnx", weigh)
    found = first_difference(traced, path, named(inputs))
    assert found is not None
    assert "encoder.layers.0.feedforward.expand" in found


@pytest.mark.slow
def test_a_convolution_that_took_in_its_batch_norm_is_not_blamed(
    detector, exported, images, tmp_path
):
    """The values of the merged node are others than torch's, in a sound file too."""
    traced = OnnxFile(detector, Exported(exported.path).metadata).traced
    inputs = padded([Exported(exported.path).prepare(images[0])])
    path = faulty(exported.path, tmp_path / "faulty.onnx", shift)
    assert "conv" not in str(first_difference(traced, path, named(inputs)))


@pytest.mark.slow
@pytest.mark.parametrize("format", ["openvino", "torch"])
def test_the_first_node_that_differs_is_named_in_every_format(format, detector, tmp_path):
    other = copy.deepcopy(detector)
    with torch.no_grad():
        other.encoder.layers[0].feedforward.expand.bias.add_(0.5)
    made = export(other, tmp_path / ("x_openvino" if format == "openvino" else "x.pt2"), format)
    metadata = replace(Exported(made.path).metadata, precision="fp32")
    kind = OnnxFile if format == "openvino" else ProgramFile  # OpenVINO's is made from ONNX's
    same, traced = (kind(each, metadata).traced for each in (other, detector))
    pixels, padding = (part.numpy() for part in example((61, 75)))
    assert first_difference(same, made.path, named((pixels, padding))) is None
    found = first_difference(traced, made.path, named((pixels, padding)))
    assert found is not None
    assert "encoder.layers.0.feedforward" in found


@pytest.mark.slow
def test_an_overflow_in_half_precision_is_caught_and_nothing_is_kept(detector, tmp_path):
    hot = copy.deepcopy(detector)
    layer = hot.encoder.layers[0].feedforward
    with torch.no_grad():  # the same function in float32
        layer.expand.weight.mul_(1e6)
        layer.expand.bias.mul_(1e6)
        layer.contract.weight.mul_(1e-6)
    with pytest.raises(Uncertified) as caught:
        export(hot, tmp_path / "hot.onnx", precision="fp16")
    assert not caught.value.certificate.passed
    assert caught.value.certificate.diverges is not None
    assert "feedforward" in caught.value.certificate.diverges
    assert list(tmp_path.iterdir()) == []


def test_a_graph_rounded_to_bf16_computes_as_its_layers_in_bf16_do() -> None:
    class Pair(torch.nn.Module):
        def __init__(self, layers: torch.nn.Module) -> None:
            super().__init__()
            self.layers = layers

        def forward(self, given: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
            return self.layers(given), given

    torch.manual_seed(0)
    layers = torch.nn.Sequential(torch.nn.Linear(8, 16), torch.nn.ReLU(), torch.nn.Linear(16, 4))
    given = torch.randn(5, 8)
    traced = torch.export.export(Pair(layers), (given,))
    found, _ = rounded(traced)(given.numpy())
    with torch.no_grad():
        low = copy.deepcopy(layers).bfloat16()(given.bfloat16()).float().numpy()
        exact = layers(given).numpy()
    np.testing.assert_allclose(found, low, atol=4e-3)  # a product may round the other way
    assert np.abs(found - exact).max() > 1e-3


@pytest.mark.parametrize(("count", "moved"), [(100, 0.0), (1600, 0.0), (400, 1.0)])
def test_a_shift_is_what_chance_does_not_explain(count: int, moved: float) -> None:
    """Differences of bf16 are random: the median of a few is not a shift, a whole pixel is."""
    rng = np.random.default_rng(0)
    draws = rng.normal(np.array([0, 0, moved, 0]), 2, (20, count, 4))
    found = [common_shift(each) for each in draws]
    assert max(np.abs(np.median(draws, axis=1)).ravel()) > 0.25 or count > 100
    assert sum(shift <= 0.25 for shift in found) == (0 if moved else 20)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("format", "precision"), [("openvino", "bf16"), ("openvino", "int8"), ("onnx", "fp16")]
)
def test_the_default_model_is_exported_in_lower_precisions(format, precision, tmp_path):
    # the best hundred proposals of an image, which all are compared, hang on rounding
    photos = Path(dabdetr.__file__).parent / "photos"
    calibration = photos if precision == "int8" else None
    output = tmp_path / ("cells.onnx" if format == "onnx" else "cells")
    made = export("blood-cells", output, format, precision, images=photos, calibration=calibration)
    assert made.certificate.passed
    assert made.certificate.shift < 0.25
