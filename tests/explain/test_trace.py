"""The trace of every member is what the member does: checked against its parts."""

from __future__ import annotations

from dataclasses import fields
from typing import Any

import numpy as np
import pytest
import torch

from dabdetr.explain.attention import DenseAttention, SampledAttention
from dabdetr.explain.trace import Trace, trace
from dabdetr.model.attention import split_heads
from dabdetr.model.deformable import sample
from dabdetr.model.detector import Detector, build
from dabdetr.model.positions import anchor_code
from dabdetr.presets import preset
from dabdetr.structures import Images

DENSE = ("detr-nano", "conditional-detr-nano", "dab-detr-nano", "dn-detr-nano")
SAMPLING = (
    *("deformable-detr-nano", "dab-deformable-detr-nano"),
    *("dn-dab-deformable-detr-nano", "dino-nano"),
)
NAMES = ("owl", "fox", "hen")
PIXELS = [(0.1, 0.2), (0.9, 0.55), (1.0, 1.0)]


def detector(name: str, *assignments: str) -> Detector:
    """A member with every parameter random, so that no part is silent."""
    torch.manual_seed(0)
    config = preset(name).override(["model.queries.count=7", *assignments])
    model = build(config, NAMES).eval()
    with torch.no_grad():
        for parameter in [*model.encoder.parameters(), *model.decoder.parameters()]:
            parameter.add_(0.05 * torch.randn_like(parameter))
    return model


def images(padded: bool) -> Images:
    torch.manual_seed(1)
    pixels, padding = torch.randn(1, 3, 96, 128), None
    if padded:
        padding = torch.zeros((1, 96, 128), dtype=torch.bool)
        padding[:, 72:], padding[:, :, 100:] = True, True
        pixels = pixels.masked_fill(padding[:, None], 0)
    return Images(pixels, padding)


@pytest.fixture(scope="module", params=[*DENSE, *SAMPLING])
def member(request: Any) -> tuple[Detector, Trace]:
    model = detector(request.param)
    return model, trace(model, images(False), PIXELS)


def heard(model: Detector, image: Images) -> list[tuple[Any, Any, Any]]:
    """Every cross- and encoder attention as called: module, inputs, output."""
    calls: list[tuple[Any, Any, Any]] = []
    attentions = [layer.cross_attention for layer in model.decoder.layers]
    attentions += [layer.attention for layer in model.encoder.layers]
    hooks = [
        part.register_forward_hook(lambda *call: calls.append(call))  # pyright: ignore
        for part in attentions
    ]
    with torch.no_grad():
        model(image)
    for hook in hooks:
        hook.remove()
    return sorted(calls, key=lambda call: attentions.index(call[0]))


def test_the_traced_forward_is_the_plain_one(member: tuple[Detector, Trace]) -> None:
    model, traced = member
    with torch.no_grad():
        plain = model(images(False))
    assert torch.equal(plain.logits, traced.predictions.logits)
    assert torch.equal(plain.boxes, traced.predictions.boxes)
    assert not any(module._forward_hooks for module in model.modules())
    np.testing.assert_array_equal(traced.boxes, plain.boxes[:, 0].numpy())
    classes = plain.logits[:, 0]
    softmax = model.config.classifier == "softmax"
    scores = classes.softmax(-1)[..., :-1] if softmax else classes.sigmoid()
    np.testing.assert_allclose(traced.scores, scores.numpy(), rtol=1e-5)
    assert traced.scores.shape == (3, 7, 3)
    assert (traced.layers, traced.queries) == (3, 7)


def test_the_former_name_of_attention_is_accepted_with_a_note(
    member: tuple[Detector, Trace],
) -> None:
    with pytest.warns(DeprecationWarning, match="looks is called attention now"):
        assert member[1].looks is member[1].attention


def test_arrays_are_plain(member: tuple[Detector, Trace]) -> None:
    for owner in (member[1], *member[1].attention, *member[1].encoder):
        for each in fields(owner):
            value = getattr(owner, each.name)
            assert not isinstance(value, torch.Tensor)
            if isinstance(value, np.ndarray):
                assert value.dtype == np.float32
                assert np.isfinite(value).all()


def test_anchors_lead_to_boxes(member: tuple[Detector, Trace]) -> None:
    """The box of each layer is its anchor, moved as the heads say."""
    model, traced = member
    plain = traced.predictions
    if model.config.model.queries.anchor is None:
        assert traced.anchors is None
        return
    assert traced.anchors is not None
    assert len(traced.anchors) == 3
    initial = {"box": 4, "point": 2}[model.config.model.queries.anchor]
    assert traced.anchors[0].shape == (7, initial)
    for given, entered in zip(traced.anchors, plain.anchors, strict=True):
        assert entered is not None
        np.testing.assert_array_equal(given, entered[0].numpy())
    moved = [not np.array_equal(traced.anchors[0][:, :2], later[:, :2]) for later in traced.anchors]
    assert moved == [False, *[model.config.model.decoder.update_anchors] * 2]


@pytest.mark.parametrize("name", [*DENSE, *SAMPLING])
@pytest.mark.parametrize("padded", [False, True])
def test_attention_gives_the_output_of_its_module(name: str, padded: bool) -> None:
    """Weights sum to 1, and with the values they make what each layer's attention gave."""
    model = detector(name)
    traced = trace(model, images(padded), PIXELS)
    calls = heard(model, images(padded))
    assert len(calls) == len(traced.attention) + len(traced.encoder) == 3 + 2
    for look, (module, inputs, output) in zip(
        (*traced.attention, *traced.encoder), calls, strict=True
    ):
        memory, from_encoder = inputs[2], look in traced.encoder
        tokens = inputs[0] if from_encoder else memory.tokens
        values = module.value(tokens)
        if isinstance(look, DenseAttention):
            weights = torch.from_numpy(look.weights())
            np.testing.assert_allclose(weights.sum(-1), 1, atol=1e-5)
            read = weights.transpose(0, 1) @ split_heads(values, look.heads)[0]
            read = read.transpose(0, 1).flatten(1)[None]
        else:
            np.testing.assert_allclose(look.weights.sum((-1, -2)), 1, atol=1e-5)
            if memory.padding is not None:
                values = values.masked_fill(memory.padding[..., None], 0)
            values = values.unflatten(-1, (look.heads, -1))
            framed = torch.from_numpy(look.locations)[None] * memory.ratios[:, None, None, :, None]
            weights = torch.from_numpy(look.weights)[None]
            read = sample(values, memory.shapes, framed, weights)
        if from_encoder:
            seen = np.ones((12, 16), bool)
            if memory.padding is not None:
                seen = ~memory.padding[0, :192].numpy().reshape(12, 16)
            (rows, columns), end = seen.nonzero(), 1e-4
            size = (columns.max() + 1, rows.max() + 1)
            chosen = [(int((x - end) * size[0]), int((y - end) * size[1])) for x, y in PIXELS]
            output = output[:, [row * 16 + column for column, row in chosen]]
        torch.testing.assert_close(module.output(read), output, atol=2e-4, rtol=1e-4)


def test_parts_add_up() -> None:
    model = detector("dab-detr-nano")
    for look in trace(model, images(False)).attention:
        assert isinstance(look, DenseAttention)
        both = look.logits(part="content") + look.logits(part="position")
        np.testing.assert_allclose(both, look.logits(), rtol=1e-4, atol=1e-4)
        for part in look.parts:
            np.testing.assert_allclose(look.weights(part=part).sum(-1), 1, atol=1e-5)
            assert look.heat(2, part).shape == (12, 16)
            alone = look.weights([2], part)[0, 1].reshape(12, 16)
            np.testing.assert_array_equal(look.heat(2, part, head=1), alone)
    (first, *_) = trace(detector("detr-nano"), images(False)).attention
    assert isinstance(first, DenseAttention)
    assert first.added
    assert first.parts == ("all", "content", "position")
    with pytest.raises(
        ValueError, match="no part 'unmodulated' here; give one of all, content, pos"
    ):
        first.logits(part="unmodulated")


def test_size_modulation_is_the_ratio_of_reference_to_anchor() -> None:
    """What the code is multiplied with (DAB-DETR eq. 6), from the trace's own numbers."""
    model = detector("dab-detr-nano", "model.decoder.modulate_position=null")
    traced = trace(model, images(False))
    assert traced.reference_sizes is not None
    assert traced.anchors is not None
    assert traced.reference_sizes.shape == (3, 7, 2)
    for index, look in enumerate(traced.attention):
        assert isinstance(look, DenseAttention)
        assert look.query_unmodulated is not None
        anchors = torch.from_numpy(traced.anchors[index])
        code = anchor_code(anchors, 96)[:, :96]
        width, height = torch.from_numpy(traced.reference_sizes[index]).unbind(-1)
        ratio = torch.ones(7, 96)
        ratio[:, :48] = (height / anchors[:, 3])[:, None]  # y features first
        ratio[:, 48:] = (width / anchors[:, 2])[:, None]
        project = model.decoder.layers[index].cross_attention.query_code
        for given, expected in (
            (look.query_unmodulated, code),
            (look.query_position, code * ratio),
        ):
            projected = project(expected).detach().unflatten(-1, (4, -1)).numpy()  # pyright: ignore
            np.testing.assert_allclose(given, projected, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize(
    ("name", "parts", "sized", "words"),
    [
        ("detr-nano", 3, False, ["no anchors", "no size modulation"]),
        ("conditional-detr-nano", 3, False, ["points", "does not move", "no size modulation"]),
        ("dab-detr-nano", 4, True, []),
        ("dab-deformable-detr-nano", 3, False, ["The anchor's own size replaces w_ref"]),
        ("dino-nano", 3, False, ["units of its width and height"]),
        ("deformable-detr-nano", 3, False, ["points", "units of cells"]),
    ],
)
def test_what_is_absent_is_said(name: str, parts: int, sized: bool, words: list[str]) -> None:
    traced = trace(detector(name), images(False))
    assert {len(look.parts) for look in traced.attention} == {parts}
    assert (traced.reference_sizes is not None) == sized
    assert len(traced.absent) == len(words)
    for sentence, word in zip(traced.absent, words, strict=True):
        assert name in sentence
        assert word in sentence
        assert sentence.endswith(".")


def test_places_on_a_map() -> None:
    """One place in a cell's middle, one between four cells, one outside."""
    places = np.array([[0.375, 0.5], [0.5, 0.5], [-0.5, 0.5]], np.float32)
    look = SampledAttention(
        places.reshape(1, 1, 1, 3, 2), np.float32([[[[0.5, 0.25, 0.25]]]]), shapes=((4, 4),)
    )
    expected = np.zeros((4, 4))
    expected[1:3, 1] = 0.25
    expected[1:3, 1:3] += 0.25 / 4
    np.testing.assert_allclose(look.heat(0), expected, atol=1e-6)
    np.testing.assert_allclose(look.heat(0, head=0), expected, atol=1e-6)
    with pytest.raises(ValueError, match="sampled attention has no part 'content'"):
        look.heat(0, "content")


def test_sampling_is_in_the_frame_of_the_image() -> None:
    """With offsets of 0 every place is the anchor's centre, whatever the padding."""
    model = detector("dab-deformable-detr-nano")
    with torch.no_grad():
        for layer in model.decoder.layers:
            layer.cross_attention.offsets.weight.zero_()  # pyright: ignore
            layer.cross_attention.offsets.bias.zero_()  # pyright: ignore
    traced = trace(model, images(True))
    assert traced.anchors is not None
    for look, anchors in zip(traced.attention, traced.anchors, strict=True):
        assert isinstance(look, SampledAttention)
        centres = np.broadcast_to(anchors[:, None, None, None, :2], look.locations.shape)
        np.testing.assert_allclose(look.locations, centres, atol=1e-5)


def test_sampling_is_chosen_by_the_sum_of_content_and_position() -> None:
    """Steps are linear in the query: both parts' steps, less those of neither, are the whole's."""
    model = detector("dab-deformable-detr-nano")
    traced = trace(model, images(True))
    for look, layer in zip(traced.attention, model.decoder.layers, strict=True):
        assert isinstance(look, SampledAttention)
        assert look.parts == ("all", "content", "position")
        module: Any = layer.cross_attention
        locations, weights = look.alone["content"]
        with torch.no_grad():
            module.offsets.weight.zero_()
            module.weights.weight.zero_()
        assert not np.allclose(locations, look.locations)
        assert not np.allclose(weights, look.weights)
        places, _ = look.chosen(3, "content")
        np.testing.assert_array_equal(places, locations[3])
    neither = trace(model, images(True)).attention[0]
    assert isinstance(neither, SampledAttention)
    first: Any = traced.attention[0]
    parts = sum(first.alone[name][0] for name in ("content", "position"))
    np.testing.assert_allclose(parts - neither.locations, first.locations, atol=1e-5)


def test_scores_are_calibrated_as_those_of_detections() -> None:
    model = detector("dab-detr-nano")
    plain = trace(model, images(False)).scores
    model.config = model.config.override(["inference.calibration=[2.0, -1.0]"])
    logits = np.log(plain / (1 - plain))
    expected = 1 / (1 + np.exp(-(2 * logits - 1)))
    np.testing.assert_allclose(trace(model, images(False)).scores, expected, atol=1e-5)


def test_one_layer_and_no_encoder() -> None:
    config = preset("dab-detr-nano").override(["model.decoder.layers=1", "model.encoder.layers=0"])
    traced = trace(build(config, NAMES).eval(), images(False), PIXELS)
    assert traced.boxes.shape == (1, 40, 4)
    assert traced.encoder == ()


def test_wrong_requests() -> None:
    model = detector("dab-detr-nano")
    with pytest.raises(ValueError, match="needs one image; got a batch of 2"):
        trace(model, Images(torch.zeros(2, 3, 64, 64)))
    with pytest.raises(ValueError, match="from 0 to 1 of the image"):
        trace(model, images(False), [(10, 20)])


def test_the_model_s_parts_are_as_before() -> None:
    """Asking again without size leaves the part's own size where it was."""
    model = detector("dab-detr-nano")
    trace(model, images(False))
    assert model.decoder.positions.size is not None
