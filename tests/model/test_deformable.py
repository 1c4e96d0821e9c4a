"""Deformable attention: both forms are the textbook's sum, padding is never seen."""

from __future__ import annotations

import math
from collections.abc import Callable

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor
from torch.testing import assert_close

from dabdetr.model import deformable
from dabdetr.model.deformable import (
    DeformableAttention,
    encoder_references,
    sample,
    sample_by_gather,
    sample_by_grid,
    valid_ratios,
)

Shapes = tuple[tuple[int, int], ...]
SHAPES: Shapes = ((4, 7), (3, 2), (1, 1))
FORMS = (sample_by_grid, sample_by_gather)
Inputs = tuple[Tensor, Tensor, Tensor]


def _inputs(
    shapes: Shapes, batch: int = 2, queries: int = 5, heads: int = 2, points: int = 3, seed: int = 0
) -> Inputs:
    """Values, locations in and around the map, weights."""
    generator = torch.Generator().manual_seed(seed)
    tokens, split = sum(h * w for h, w in shapes), (batch, queries, heads, len(shapes), points)
    values = torch.randn((batch, tokens, heads, 4), generator=generator)
    locations = torch.rand((*split, 2), generator=generator) * 1.6 - 0.3
    return values, locations, torch.rand(split, generator=generator)


def _slowly(values: Tensor, shapes: Shapes, locations: Tensor, weights: Tensor) -> Tensor:
    """The definition, one cell after another."""
    batch, queries, heads, levels, points, _ = locations.shape
    out = torch.zeros(batch, queries, heads, values.shape[-1])
    for b, q, m, level, k in torch.cartesian_prod(
        *(torch.arange(n) for n in (batch, queries, heads, levels, points))
    ).tolist():
        h, w = shapes[level]
        start = sum(a * c for a, c in shapes[:level])
        x, y = (locations[b, q, m, level, k].double() * torch.tensor([w, h]) - 0.5).tolist()
        for row in range(h):
            for column in range(w):
                share = max(0.0, 1 - abs(x - column)) * max(0.0, 1 - abs(y - row))
                value = values[b, start + row * w + column, m]
                out[b, q, m] += weights[b, q, m, level, k] * share * value
    return out.flatten(2)


def _with_gradients(form: Callable[..., Tensor], shapes: Shapes, inputs: Inputs) -> list[Tensor]:
    """The form's result and the gradients of values, locations, weights."""
    leaves = [x.detach().clone().requires_grad_() for x in inputs]
    values, locations, weights = leaves
    out = form(values, shapes, locations, weights)
    out.backward(torch.randn(out.shape, generator=torch.Generator().manual_seed(1)).to(out.dtype))
    return [out.detach(), *(leaf.grad for leaf in leaves if leaf.grad is not None)]


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("shapes", [SHAPES, ((1, 1),), ((5, 3),), ((1, 6), (6, 1))])
@pytest.mark.parametrize("points", [1, 3])
def test_forms_are_the_definition(form: Callable[..., Tensor], shapes: Shapes, points: int) -> None:
    values, locations, weights = _inputs(shapes, points=points)
    expected = _slowly(values, shapes, locations, weights)
    assert_close(form(values, shapes, locations, weights), expected, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("traced", [False, True])
def test_forms_agree_backwards(traced: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.compiler, "is_compiling", lambda: traced)
    inputs = _inputs(SHAPES, queries=9)
    grid = _with_gradients(sample_by_grid, SHAPES, inputs)
    gather = _with_gradients(sample_by_gather, SHAPES, inputs)
    assert len(grid) == 4
    for a, b in zip(grid, gather, strict=True):
        assert a.abs().max() > 0.1
        assert_close(a, b, rtol=1e-5, atol=1e-5)


@given(
    shapes=st.lists(st.tuples(st.integers(1, 6), st.integers(1, 6)), min_size=1, max_size=3),
    batch=st.integers(1, 2),
    queries=st.integers(1, 4),
    heads=st.integers(1, 3),
    points=st.integers(1, 3),
    seed=st.integers(0, 1000),
)
def test_forms_agree_at_any_size(
    shapes: list[tuple[int, int]], batch: int, queries: int, heads: int, points: int, seed: int
) -> None:
    inputs = _inputs(tuple(shapes), batch, queries, heads, points, seed)
    found = (_with_gradients(form, tuple(shapes), inputs) for form in FORMS)
    for a, b in zip(*found, strict=True):
        assert_close(a, b, rtol=1e-4, atol=1e-5)


@given(x=st.floats(0, 1), y=st.floats(0, 1), seed=st.integers(0, 100))
def test_a_ramp_reads_its_own_place(x: float, y: float, seed: int) -> None:
    """Values that are their cell's centre give back the location, up to the outermost centres."""
    shape = (4, 7)
    values = encoder_references((shape,), torch.ones(1, 1, 2))  # [1, 28, 1, 2], one head
    locations = torch.tensor([x, y]).view(1, 1, 1, 1, 1, 2).repeat(1, 1, 1, 1, 3, 1)
    weights = torch.rand(1, 1, 1, 1, 3, generator=torch.Generator().manual_seed(seed))
    weights = weights / weights.sum()
    half = torch.tensor([0.5 / 7, 0.5 / 4])
    inside = (torch.tensor([x, y]) >= half) & (torch.tensor([x, y]) <= 1 - half)
    for form in FORMS:
        found = form(values, (shape,), locations, weights)[0, 0]
        if inside.all():
            assert_close(found, torch.tensor([x, y]), rtol=0, atol=1e-5)
        assert (found <= 1).all()


@pytest.mark.parametrize("shapes", [((4, 4),), ((1, 1),), ((2, 8), (1, 4))])
def test_borders_and_centres_agree(shapes: Shapes) -> None:
    """Exactly on the border, half a cell outside of it, on centres of cells, and far away."""
    h, w = shapes[0]
    special = [0, 1, 0.5, -0.5 / w, -0.5 / h, 1 + 0.5 / w, 1 + 0.5 / h, 0.5 / w, 1 - 0.5 / h]
    places = torch.tensor([*special, -1e6, 1e6, 1e30])
    locations = torch.cartesian_prod(places, places)[None, :, None, None, None]
    locations = locations.repeat(1, 1, 2, len(shapes), 1, 1)
    values, _, _ = _inputs(shapes, batch=1)
    inputs = (values, locations, torch.ones(locations.shape[:-1]))
    far = locations.abs().amax((-1, -2, -3, -4)).view(-1) > 2
    for form in FORMS:
        assert not form(values, shapes, locations, inputs[2])[0, far].any()
    near = (inputs[0], locations[:, ~far], inputs[2][:, ~far])
    assert_close(
        sample_by_gather(values, shapes, *near[1:]),
        _slowly(values, shapes, *near[1:]),
        rtol=1e-5,
        atol=1e-5,
    )
    found = (_with_gradients(form, shapes, near) for form in FORMS)
    for a, b in zip(*found, strict=True):
        assert_close(a, b, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("form", FORMS)
def test_bfloat16_values_are_read_at_exact_places(form: Callable[..., Tensor]) -> None:
    values, locations, weights = _inputs(((60, 80),), queries=40)
    exact = _with_gradients(form, ((60, 80),), (values.bfloat16().float(), locations, weights))
    coarse = _with_gradients(form, ((60, 80),), (values.bfloat16(), locations, weights.bfloat16()))
    assert coarse[0].dtype == coarse[1].dtype == torch.bfloat16
    assert coarse[2].dtype == torch.float32
    for a, b in zip(exact, coarse, strict=True):
        assert_close(b.float(), a, rtol=0.02, atol=0.01 * float(a.abs().max()))


@pytest.mark.parametrize("traced", [False, True])
def test_nan_places_stay_nan(traced: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """A training that diverges is to say so, not to fail at an index."""
    monkeypatch.setattr(torch.compiler, "is_compiling", lambda: traced)
    values, locations, weights = _inputs(SHAPES)
    locations[0, 2, :, 1, 0] = torch.nan
    found = sample_by_gather(values, SHAPES, locations, weights).isnan()
    assert found[0, 2].all()
    assert found.sum() == found[0, 2].numel()


def test_gradients_of_some_inputs_only() -> None:
    values, locations, weights = _inputs(SHAPES)
    everything = _with_gradients(sample_by_gather, SHAPES, (values, locations, weights))
    upstream = torch.randn(everything[0].shape, generator=torch.Generator().manual_seed(1))
    for index in range(3):
        inputs = [values, locations, weights]
        inputs[index] = inputs[index].clone().requires_grad_()
        sample_by_gather(inputs[0], SHAPES, *inputs[1:]).backward(upstream)
        grad = inputs[index].grad
        assert grad is not None
        assert_close(grad, everything[1 + index], rtol=1e-6, atol=1e-6)


def test_cpu_gathers_other_devices_use_the_grid(monkeypatch: pytest.MonkeyPatch) -> None:
    used = []
    for name in ("sample_by_grid", "sample_by_gather"):

        def watched(values: Tensor, _: Shapes, locations: Tensor, *__: Tensor, name=name) -> Tensor:
            used.append(name)
            return values.new_zeros(*locations.shape[:2], 8)

        monkeypatch.setattr(deformable, name, watched)
    values, locations, weights = _inputs(SHAPES)
    sample(values, SHAPES, locations, weights)
    sample(values.to("meta"), SHAPES, locations.to("meta"), weights.to("meta"))
    assert used == ["sample_by_gather", "sample_by_grid"]


def _attention(levels: int = 3, seed: int = 0) -> DeformableAttention:
    """Attention all of whose parameters are random."""
    torch.manual_seed(seed)
    attention = DeformableAttention(8, 2, levels, 3)
    for parameter in attention.parameters():
        torch.nn.init.normal_(parameter, std=0.5)
    return attention


def _call(frame: int, batch: int = 2, queries: int = 5) -> tuple[Tensor, Tensor, Tensor]:
    tokens = sum(h * w for h, w in SHAPES)
    references = torch.rand(batch, queries, len(SHAPES), frame)
    return torch.randn(batch, queries, 8), references, torch.randn(batch, tokens, 8)


@pytest.mark.parametrize("frame", [2, 4])
def test_attention_is_the_definition(frame: int) -> None:
    attention = _attention()
    query, references, tokens = _call(frame)
    padding = torch.zeros(tokens.shape[:2], dtype=torch.bool)
    padding[1, [2, 20, 30]] = True
    offsets = attention.offsets(query).view(2, 5, 2, 3, 3, 2)
    weights = attention.weights(query).view(2, 5, 2, 9).softmax(-1).view(2, 5, 2, 3, 3)
    locations = torch.zeros_like(offsets)
    for level, (h, w) in enumerate(SHAPES):
        for axis, size in enumerate((w, h)):
            step = 1 / size
            if frame == 4:
                step = references[:, :, None, level, None, 2 + axis] / 3 * 0.5
            centre = references[:, :, None, level, None, axis]
            locations[:, :, :, level, :, axis] = centre + offsets[:, :, :, level, :, axis] * step
    values = torch.where(padding[..., None], 0, attention.value(tokens)).view(2, -1, 2, 4)
    expected = attention.output(_slowly(values, SHAPES, locations, weights))
    found = attention(query, references, tokens, SHAPES, padding)
    assert_close(found, expected, rtol=1e-5, atol=1e-5)
    unpadded = attention(query, references, tokens, SHAPES, None)
    assert_close(unpadded[0], found[0])
    assert not torch.allclose(unpadded[1], found[1])


def test_padding_is_never_seen() -> None:
    attention = _attention()
    query, references, tokens = _call(2)
    padding = torch.zeros(tokens.shape[:2], dtype=torch.bool)
    padding[0, ::2] = True
    padding[1] = True
    before = attention(query, references, tokens, SHAPES, padding)
    changed = torch.where(padding[..., None], 1e4, tokens).requires_grad_()
    after = attention(query, references, changed, SHAPES, padding)
    assert after.equal(before)
    assert_close(before[1], attention.output.bias.expand(5, -1))
    (grad,) = torch.autograd.grad(after.sum(), changed)
    assert not grad[padding].any()
    assert grad[~padding].any()


@pytest.mark.parametrize("frame", [2, 4])
def test_gradients_reach_all(frame: int) -> None:
    """Also from the initial weights: equal attention and no influence of content on places."""
    torch.manual_seed(0)
    attention = DeformableAttention(8, 2, 3, 3)
    query, references, tokens = (x.requires_grad_() for x in _call(frame))
    attention(query, references, tokens, SHAPES, None).square().sum().backward()
    for name, parameter in attention.named_parameters():
        assert parameter.grad is not None, name
        assert parameter.grad.abs().max() > 1e-6, name
    assert references.grad is not None
    assert references.grad.any()


def test_autocast_keeps_places_in_float32(monkeypatch: pytest.MonkeyPatch) -> None:
    seen = []

    def watched(values: Tensor, shapes: Shapes, locations: Tensor, weights: Tensor) -> Tensor:
        seen.extend((values.dtype, locations.dtype))
        return sample_by_gather(values, shapes, locations, weights)

    attention = _attention()
    query, references, tokens = _call(4)
    exact = attention(query, references, tokens, SHAPES, None).detach()
    monkeypatch.setattr(deformable, "sample", watched)
    with torch.autocast("cpu", torch.bfloat16):
        coarse = attention(query, references, tokens, SHAPES, None)
    coarse.float().sum().backward()
    coarse = coarse.detach()
    assert seen == [torch.bfloat16, torch.float32]
    assert_close(coarse.float(), exact, rtol=0.05, atol=0.05 * float(exact.abs().max()))


def test_exported_graph_is_elementary_and_agrees() -> None:
    attention = _attention().eval()
    query, references, tokens = _call(4)

    class Fixed(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.attention = attention

        def forward(self, query: Tensor, references: Tensor, tokens: Tensor) -> Tensor:
            return self.attention(query, references, tokens, SHAPES, None)

    with torch.no_grad():
        program = torch.export.export(Fixed(), (query, references, tokens), strict=False)
        names = {str(node.target) for node in program.graph.nodes}
        assert "aten.embedding.default" in names
        assert not any("embedding_bag" in name or "grid" in name for name in names)
        found = program.module()(query, references, tokens)
        assert_close(found, attention(query, references, tokens, SHAPES, None))


def test_initial_weights() -> None:
    attention = DeformableAttention(16, 8, 2, 4)
    assert not attention.offsets.weight.any()
    bias = attention.offsets.bias.view(8, 2, 4, 2)
    for head in range(8):
        x, y = math.cos(2 * math.pi * head / 8), math.sin(2 * math.pi * head / 8)
        longest = max(abs(x), abs(y))
        for point in range(4):
            expected = torch.tensor([x, y]) / longest * (point + 1)
            assert_close(bias[head, :, point], expected.expand(2, 2), rtol=0, atol=1e-5)
    assert not attention.weights.weight.any()
    assert not attention.weights.bias.any()
    limit = math.sqrt(6 / 32)
    for layer in (attention.value, attention.output):
        assert not layer.bias.any()
        assert 0.8 * limit < layer.weight.abs().max() <= limit


def test_reset_brings_the_initial_weights_back() -> None:
    attention, fresh = _attention(), DeformableAttention(8, 2, 3, 3)
    torch.manual_seed(3)
    attention.reset()
    torch.manual_seed(3)
    fresh.reset()
    for a, b in zip(attention.parameters(), fresh.parameters(), strict=True):
        assert a.equal(b)


def test_valid_ratios() -> None:
    padding = torch.ones(3, 4, 6, dtype=torch.bool)
    padding[0, :3, :2] = False
    padding[1] = False
    ratios = valid_ratios([padding, None], 3, "cpu")  # the third image is nothing but padding
    assert_close(ratios[:, 0], torch.tensor([[2 / 6, 3 / 4], [1, 1], [1 / 6, 1 / 4]]))
    assert_close(ratios[:, 1], torch.ones(3, 2))


def test_encoder_references() -> None:
    """A token's place in the unpadded image, times the ratio of the level that is read."""
    shapes = ((2, 4), (1, 2))
    ratios = torch.tensor([[[1.0, 1.0], [1.0, 1.0]], [[0.75, 0.5], [0.5, 1.0]]])
    found = encoder_references(shapes, ratios)
    assert found.shape == (2, 10, 2, 2)
    for image in range(2):
        token = 0
        for level, (h, w) in enumerate(shapes):
            rw, rh = ratios[image, level]
            for i in range(h):
                for j in range(w):
                    place = torch.stack(((j + 0.5) / (rw * w), (i + 0.5) / (rh * h)))
                    assert_close(found[image, token], place * ratios[image])
                    token += 1
