"""Faster layers, sums and masks on CPUs give torch's own numbers and gradients."""

import copy
import math
from types import SimpleNamespace

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from dabdetr import kernels
from dabdetr.config import Config
from dabdetr.kernels import Linear, sum_rows, use_cpu_kernels, zero_rows
from dabdetr.model.detector import build

onednn = pytest.mark.skipif(not kernels.onednn_wins(), reason="torch's own choice is kept here")


@onednn
@pytest.mark.parametrize("shape", [(7,), (1, 7), (5, 7), (2, 5, 7), (2, 3, 5, 7)])
@pytest.mark.parametrize("bias", [True, False])
def test_same_numbers_and_gradients(shape, bias):
    torch.manual_seed(0)
    plain = nn.Linear(7, 6, bias=bias)
    x = torch.randn(shape, requires_grad=True)
    sources = [x, *plain.parameters()]
    expected = plain(x)
    seed = torch.randn_like(expected)
    gradients = torch.autograd.grad(expected, sources, seed)
    use_cpu_kernels(plain)
    assert type(plain) is Linear
    found = plain(x)
    assert type(found.grad_fn).__name__ == "_OneDnnLinearBackward"
    torch.testing.assert_close(found, expected)
    for mine, theirs in zip(torch.autograd.grad(found, sources, seed), gradients, strict=True):
        torch.testing.assert_close(mine, theirs)
    with torch.no_grad():
        torch.testing.assert_close(plain(x), expected.detach())


@onednn
def test_scattered_numbers_and_frozen_weights():
    torch.manual_seed(0)
    layer = Linear(7, 6)
    x = torch.randn(5, 7, 2).transpose(1, 2)[:, :1]  # neither dense nor in order
    layer.weight.requires_grad = False
    out = layer(x)
    torch.testing.assert_close(out, nn.functional.linear(x, layer.weight, layer.bias))
    out.transpose(0, 1).square().sum().backward()  # a gradient that is not dense either
    assert layer.weight.grad is None
    torch.testing.assert_close(layer.bias.grad, 2 * out.detach().sum((0, 1)))


@pytest.mark.parametrize("slope", [0.25, 0.0, -0.5, 1.5])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_prelu_bends_and_learns_as_torch_does(slope, dtype):
    torch.manual_seed(0)
    plain = nn.PReLU(init=slope)
    x = torch.randn(3, 5, 16, dtype=dtype)
    x[0, 0, 0] = 0.0
    x.requires_grad_()
    seed = torch.randn_like(x)
    exact = nn.PReLU(init=slope).double()(x.double())
    expected = torch.autograd.grad(nn.functional.prelu(x, plain.weight.to(dtype)), x, seed)[0]
    use_cpu_kernels(plain)
    assert type(plain) is kernels.PReLU
    found = plain(x)
    assert type(found.grad_fn).__name__ == "_FastPReLUBackward"
    rounding = 1e-2 if dtype == torch.bfloat16 else 1e-6
    torch.testing.assert_close(found.double(), exact, atol=1e-6, rtol=rounding)
    of_x, of_slope = torch.autograd.grad(found, (x, plain.weight), seed)
    torch.testing.assert_close(of_x, expected)
    below = (x.detach().double().clamp_max(0) * seed.double()).sum()
    torch.testing.assert_close(of_slope.double(), below[None], rtol=rounding, atol=1e-2)
    with torch.no_grad(), torch.autocast("cpu", torch.bfloat16, dtype == torch.bfloat16):
        assert torch.equal(plain(x), found.detach())


def test_prelu_of_many_slopes_and_frozen_ones():
    many, one = nn.PReLU(4), nn.PReLU()
    use_cpu_kernels(nn.Sequential(many, one))
    assert (type(many), type(one)) == (nn.PReLU, kernels.PReLU)
    one.weight.requires_grad = False
    x = torch.tensor([-2.0, 3.0], requires_grad=True)
    one(x).sum().backward()
    assert x.grad.tolist() == [0.25, 1.0]
    assert one.weight.grad is None


def test_nothing_in_and_lower_precision():
    layer = Linear(7, 6)
    assert layer(torch.zeros(0, 7)).shape == (0, 6)
    with torch.autocast("cpu", torch.bfloat16):
        assert layer(torch.zeros(3, 7)).dtype == torch.bfloat16
    exported = torch.export.export(layer, (torch.zeros(3, 7),))
    called = [str(n.target) for n in exported.graph.nodes if n.op == "call_function"]
    assert called == ["aten.linear.default"]


def test_every_linear_layer_of_a_detector():
    kinds = {type(m) for m in build(Config(), ["thing"]).modules() if isinstance(m, nn.Linear)}
    assert nn.Linear not in kinds
    assert Linear in kinds


@pytest.mark.parametrize(
    ("kernel", "stride", "padding"),
    [
        (5, 1, 2),
        (5, 2, 2),
        (3, 2, 1),
        (7, 1, 3),
        ((5, 3), (2, 1), (0, 1)),
        ((1, 9), 1, (0, 4)),
        (4, 4, 0),
    ],
)
@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("precision", [torch.float32, torch.bfloat16])
def test_large_depthwise_convolutions_have_torch_s_gradients(
    kernel, stride, padding, bias, precision
):
    torch.manual_seed(0)
    plain = nn.Conv2d(6, 6, kernel, stride, padding, groups=6, bias=bias)
    x = torch.randn(2, 6, 13, 14).contiguous(memory_format=torch.channels_last).requires_grad_()
    sources = [x, *plain.parameters()]
    expected = plain(x)
    seed = torch.randn_like(expected)
    gradients = torch.autograd.grad(expected, sources, seed)
    use_cpu_kernels(plain)
    with torch.autocast("cpu", torch.bfloat16, precision == torch.bfloat16):
        found = plain(x)
    assert found.dtype == precision
    assert type(found.grad_fn).__name__ == "_DepthwiseConv2dBackward"
    rounding = 2e-2 if precision == torch.bfloat16 else 1e-5
    torch.testing.assert_close(found.float(), expected, rtol=rounding, atol=rounding)
    mine = torch.autograd.grad(found, sources, seed.to(precision))
    for one, other in zip(mine, gradients, strict=True):
        assert one.dtype == other.dtype
        torch.testing.assert_close(one, other, rtol=rounding, atol=rounding * other.abs().max())


@pytest.mark.parametrize("mode", ["reflect", "zeros"])
def test_other_convolutions_are_torch_s_own(mode):
    torch.manual_seed(0)
    padded = nn.Conv2d(4, 4, 5, padding=2, groups=4, padding_mode=mode)
    layers = [nn.Conv2d(4, 4, 3, groups=4), nn.Conv2d(4, 8, 5, groups=4), nn.Conv2d(4, 4, 5)]
    layers += [nn.Conv2d(4, 4, 5, groups=4, dilation=2), nn.Conv2d(4, 4, 5, padding="same"), padded]
    x = torch.randn(2, 4, 11, 11)
    for layer in layers:
        expected = layer(x)
        use_cpu_kernels(layer)
        assert torch.equal(layer(x), expected)
    padded.requires_grad_(False)
    assert padded(x.requires_grad_()).grad_fn.name() == "ConvolutionBackward0"


@pytest.mark.parametrize("learning", [True, False])
@pytest.mark.parametrize("precision", [torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("groups", [1, 6])
@pytest.mark.parametrize("most", [None, 1.5, math.inf])
def test_padding_of_two_sides_and_clamping_change_no_number(learning, precision, groups, most):
    torch.manual_seed(0)
    x = torch.randn(2, 6, 12, 16).to(memory_format=torch.channels_last)
    weight, bias = torch.randn(6, 6 // groups, 3, 5), torch.randn(6)
    for source in (x, weight, bias):
        source.requires_grad_(learning)
    lower = precision != torch.float32
    with torch.autocast("cpu", precision if lower else torch.bfloat16, lower):
        padded = F.pad(x, (1, 2, 0, 1))
        expected = F.conv2d(padded, weight, bias, (2, 2), groups=groups)
        if most is not None:
            expected = expected.clamp(0, most)
        sides = (2, 2), ((0, 1), (1, 2)), (1, 1)
        found = kernels.conv2d(x, weight, bias, *sides, groups, most)
    assert found.dtype == precision
    assert torch.equal(found, expected)
    if learning:
        seed = torch.randn_like(found)
        mine, theirs = (
            torch.autograd.grad(out, (x, weight, bias), seed) for out in (found, expected)
        )
        rounding = 2e-2 if lower else 1e-5
        for one, other in zip(mine, theirs, strict=True):
            torch.testing.assert_close(one, other, rtol=rounding, atol=rounding * other.abs().max())


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("of_x", [True, False])
def test_group_norm_of_channels_last_has_torch_s_gradients(dtype, of_x):
    torch.manual_seed(0)
    plain = nn.GroupNorm(3, 12, eps=1e-3)
    nn.init.normal_(plain.weight)
    nn.init.normal_(plain.bias)
    x = (torch.randn(2, 12, 5, 7) + 0.5).to(dtype).to(memory_format=torch.channels_last)
    exact = copy.deepcopy(plain).double()
    wide = x.double().requires_grad_(of_x)
    seed = torch.randn_like(x)
    expected = exact(wide)
    expected.backward(seed.double())
    use_cpu_kernels(plain)
    found = plain(x.requires_grad_(of_x))
    assert type(found.grad_fn).__name__ == "_GroupNormBackward"
    found.backward(seed)
    rounding = 1e-2 if dtype == torch.bfloat16 else 1e-5
    gradients = ([p.grad for p in m.parameters()] for m in (plain, exact))
    pairs = [(found, expected), *zip(*gradients, strict=True)]
    for one, other in pairs + ([(x.grad, wide.grad)] if of_x else []):
        atol = rounding * other.abs().max().item()
        torch.testing.assert_close(one.double(), other, rtol=rounding, atol=atol)
    assert x.grad is None or x.grad.dtype == dtype


def test_other_group_norms_are_torch_s_own() -> None:
    layer = nn.GroupNorm(2, 4)
    use_cpu_kernels(layer)
    for x in (torch.randn(2, 4), torch.randn(2, 4, 3, 3), torch.randn(2, 4, 1, 1)):
        found = layer(x.requires_grad_())
        assert found.grad_fn.name() == "NativeGroupNormBackward0"
        assert torch.equal(found, F.group_norm(x, 2, layer.weight, layer.bias))
    with torch.no_grad():
        x = torch.randn(2, 4, 3, 3).to(memory_format=torch.channels_last)
        assert torch.equal(layer(x), F.group_norm(x, 2, layer.weight, layer.bias))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_rows_of_zeros_are_a_masked_fill(
    dtype: torch.dtype, monkeypatch: pytest.MonkeyPatch
) -> None:
    rows = torch.tensor([[False, True, False], [True, True, True]])
    found = []
    for traced in (False, True):
        monkeypatch.setattr(torch.compiler, "is_compiling", lambda traced=traced: traced)
        x = (torch.arange(24, dtype=dtype).view(2, 3, 4) + 1).requires_grad_()
        out = zero_rows(x, rows)
        out.square().sum().backward()
        found.append((out, x.grad))
    assert found[0][0][0, 0].tolist() == [1, 2, 3, 4]
    assert not found[0][0][rows].any()
    for a, b in zip(*found, strict=True):
        assert torch.equal(a, b)


def test_gradients_of_sums_of_no_rows() -> None:
    rows, shares = torch.ones(3, 2, requires_grad=True), torch.ones(0, 4, requires_grad=True)
    sum_rows(rows, torch.zeros(0, 4, dtype=torch.int32), shares).sum().backward()
    assert rows.grad is not None
    assert not rows.grad.any()
    assert shares.grad is not None
    assert shares.grad.shape == (0, 4)


def test_types_that_onednn_does_not_compute_here_are_not_fused(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    called: list[object] = []
    x, weight = torch.randn(1, 2, 4, 4), torch.randn(2, 2, 1, 1)
    operators = SimpleNamespace(
        _convolution_pointwise=lambda *given: called.append(given),
        _is_mkldnn_bf16_supported=lambda: False,
    )
    monkeypatch.setattr(torch.ops, "mkldnn", operators)
    kernels._fuses.cache_clear()
    sides = (1, 1), (0, 0), (1, 1)
    try:
        for dtype in (torch.bfloat16, torch.float16):
            half = x.to(dtype), weight.to(dtype)
            expected = F.conv2d(*half).clamp(0, 6)
            assert torch.equal(kernels.conv2d(*half, None, *sides, 1, 6.0), expected)
        assert not called
        kernels.conv2d(x, weight, None, *sides, 1, 6.0)
        assert len(called) == torch.backends.mkldnn.is_available()
    finally:
        kernels._fuses.cache_clear()
