"""Faster linear layers, convolutions, norms, PReLU, attention and sums of rows, mainly for CPUs."""

from __future__ import annotations

import math
import warnings
from functools import cache
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn
from torch.autograd.function import once_differentiable


class Linear(nn.Linear):
    """``nn.Linear`` that computes float32 products by oneDNN on CPUs with AVX-512.

    torch uses MKL for them, which does not use AVX-512 on processors other than Intel's. Measured
    on two AMD cores, 300 to 6,400 rows, 256 to 2,048 wide: 0.19 TFLOP/s by MKL, 0.42 by oneDNN.
    torch uses oneDNN for lower precisions anyway; a traced graph is for other runtimes.
    """

    def forward(self, input: Float[Tensor, "*shape n"]) -> Float[Tensor, "*shape m"]:
        float32 = input.dtype == self.weight.dtype == torch.float32
        float32 = float32 and not torch.is_autocast_enabled("cpu")
        if not (_is_eager_on_cpu(input) and float32 and onednn_wins()):
            return super().forward(input)
        if torch.is_grad_enabled():
            return _OneDnnLinear.apply(input, self.weight, self.bias)  # pyright: ignore[reportReturnType]
        return _onednn_linear(input, self.weight, self.bias)


class PReLU(nn.PReLU):
    """``nn.PReLU`` with one slope and vectorised gradients on CPUs.

    torch's own are not vectorised: 3.7 ms for 2 × 300 × 2,048 in bf16, 0.5 ms here.
    """

    def forward(self, input: Float[Tensor, "*shape"]) -> Float[Tensor, "*shape"]:
        learning = torch.is_grad_enabled() and not torch.compiler.is_compiling()
        if not (learning and input.device.type == "cpu"):
            return super().forward(input)
        return _FastPReLU.apply(input, self.weight)  # pyright: ignore[reportReturnType]


class Conv2d(nn.Conv2d):
    """``nn.Conv2d`` that computes by ``conv2d`` of this file."""

    def _conv_forward(
        self, input: Float[Tensor, "b c h w"], weight: Tensor, bias: Tensor | None
    ) -> Float[Tensor, "b d y x"]:
        if self.padding_mode != "zeros" or isinstance(self.padding, str):
            return super()._conv_forward(input, weight, bias)
        sides = self.stride, self.padding, self.dilation
        return conv2d(input, weight, bias, *sides, self.groups)  # pyright: ignore[reportArgumentType]


class GroupNorm(nn.GroupNorm):
    """``nn.GroupNorm`` with vectorised gradients for maps with the channels last, on CPUs."""

    def forward(self, input: Float[Tensor, "b c h w"]) -> Float[Tensor, "b c h w"]:
        last = input.ndim == 4 and input.is_contiguous(memory_format=torch.channels_last)
        learning = torch.is_grad_enabled() and self.affine and _is_eager_on_cpu(input)
        if not (last and learning and not input.is_contiguous()):
            return super().forward(input)
        return _GroupNorm.apply(input, self.weight, self.bias, self.num_groups, self.eps)  # pyright: ignore[reportReturnType]


def use_cpu_kernels(module: nn.Module) -> None:
    """Turn the plain layers of ``module`` that this file has into this file's, in place.

    Parameters stay the same objects.
    """
    for part in module.modules():
        if type(part) is nn.Linear:
            part.__class__ = Linear
        elif type(part) is nn.Conv2d:
            part.__class__ = Conv2d
        elif type(part) is nn.GroupNorm:
            part.__class__ = GroupNorm
        elif type(part) is nn.PReLU and part.num_parameters == 1:
            part.__class__ = PReLU


def _is_eager_on_cpu(x: Tensor) -> bool:
    """Whether ``x`` has numbers, on the CPU, and no graph is being recorded."""
    return (
        not torch.compiler.is_compiling()
        and x.device.type == "cpu"
        and x.numel() > 0
        and not torch.jit.is_tracing()  # pyright: ignore[reportPrivateImportUsage]
    )


@cache
def onednn_wins() -> bool:
    """Whether oneDNN is available and its float32 products are faster on this CPU (AVX-512)."""
    present = torch.backends.mkldnn.is_available() and hasattr(
        torch.ops.mkldnn, "_linear_pointwise"
    )
    return present and torch.backends.cpu.get_cpu_capability().startswith("AVX512")


def _onednn_linear(x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    """x · weightᵀ + bias."""
    return torch.ops.mkldnn._linear_pointwise(x, weight, bias, "none", [], "")


class _OneDnnLinear(torch.autograd.Function):
    """``_onednn_linear`` and its gradients, which are computed by oneDNN too."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        ctx.save_for_backward(x, weight)
        return _onednn_linear(x, weight, bias)

    @staticmethod
    @once_differentiable
    def backward(  # pyright: ignore[reportIncompatibleMethodOverride]
        ctx: Any, grad: Tensor
    ) -> tuple[Tensor | None, Tensor | None, Tensor | None]:
        x, weight = ctx.saved_tensors
        rows = grad.reshape(-1, grad.shape[-1])
        x_grad = weight_grad = bias_grad = None
        if ctx.needs_input_grad[0]:
            x_grad = _onednn_linear(rows, weight.t(), None).view_as(x)
        if ctx.needs_input_grad[1]:
            weight_grad = _onednn_linear(rows.t(), x.reshape(-1, x.shape[-1]).t(), None)
        if ctx.needs_input_grad[2]:
            bias_grad = rows.sum(0)
        return x_grad, weight_grad, bias_grad


class _FastPReLU(torch.autograd.Function):
    """PReLU (x above 0, slope · x below) and its gradients."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, slope: Tensor) -> Tensor:
        ctx.save_for_backward(x, slope)
        return F.prelu(x, slope.to(x.dtype))

    @staticmethod
    @once_differentiable
    def backward(  # pyright: ignore[reportIncompatibleMethodOverride]
        ctx: Any, grad: Tensor
    ) -> tuple[Tensor | None, Tensor | None]:
        x, slope = ctx.saved_tensors
        x_grad = slope_grad = None
        if ctx.needs_input_grad[0]:
            x_grad = torch.ops.aten.leaky_relu_backward(grad, x, slope.item(), False)
        if ctx.needs_input_grad[1]:
            total = x.clamp_max(0).mul_(grad).sum(dtype=torch.float32)
            slope_grad = total.to(slope.dtype).reshape(slope.shape)
        return x_grad, slope_grad


class _GroupNorm(torch.autograd.Function):
    """A group norm of maps with the channels last, as convolutions leave them, and its gradients.

    torch's gradients are not vectorised for them: 11 ms for 4 maps of 128 × 36 × 48 in bf16, 1.6
    ms here; in fp32 2.3 and 1.5.
    """

    @staticmethod
    def forward(
        ctx: Any, x: Tensor, weight: Tensor, bias: Tensor, groups: int, eps: float
    ) -> Tensor:
        sizes = len(x), x.shape[1], x[0, 0].numel()
        out, mean, rstd = torch.native_group_norm(x, weight, bias, *sizes, groups, eps)
        ctx.save_for_backward(x, weight, mean.float(), rstd.float())
        return out

    @staticmethod
    @once_differentiable
    def backward(  # pyright: ignore[reportIncompatibleMethodOverride]
        ctx: Any, grad: Tensor
    ) -> tuple[Tensor | None, ...]:
        x, weight, mean, rstd = ctx.saved_tensors  # mean and rstd [b, groups]
        size = x.shape[1] // mean.shape[1]
        mean, rstd = (s.repeat_interleave(size, 1) for s in (mean, rstd))  # [b, c]
        grads = grad.sum((2, 3), dtype=torch.float32)  # Σ grad, [b, c]
        products = ((grad * x).sum((2, 3), dtype=torch.float32) - mean * grads) * rstd  # Σ grad · x̂
        x_grad = None
        if ctx.needs_input_grad[0]:
            cells = size * x[0, 0].numel()

            def group_mean(sums: Tensor) -> Tensor:
                of_groups = (sums * weight).unflatten(1, (-1, size)).sum(-1) / cells
                return of_groups.repeat_interleave(size, 1)

            # rstd · (weight · grad − mean of it − x̂ · mean of weight · grad · x̂)
            of_x = -rstd.square() * group_mean(products)
            rest = -rstd * group_mean(grads) - of_x * mean
            of_grad, of_x, rest = (
                v[:, :, None, None].to(x.dtype) for v in (rstd * weight, of_x, rest)
            )
            x_grad = torch.addcmul(torch.addcmul(rest, x, of_x), grad, of_grad)
        return x_grad, products.sum(0), grads.sum(0), None, None


Pair = tuple[int, int]
"""A number for rows and one for columns."""
Padding = Pair | tuple[Pair, Pair]
"""Zeros at both ends of rows and of columns; or (before, after) of rows and of columns."""


def conv2d(
    input: Float[Tensor, "b c h w"],
    weight: Float[Tensor, "d c_of_group k l"],
    bias: Float[Tensor, " d"] | None,
    stride: Pair,
    padding: Padding,
    dilation: Pair,
    groups: int,
    most: float | None = None,
) -> Float[Tensor, "b d y x"]:
    """``F.conv2d``, then clamped to 0 … ``most`` if that is given.

    On CPUs gradients of depthwise convolutions are faster. Where nothing learns, the map is
    clamped in the same pass, and a depthwise convolution needs no padded copy of it: together a
    quarter of the time of EfficientNet-Lite0's frozen stages in bf16.
    """
    eager = _is_eager_on_cpu(input)
    sources = (input, weight) if bias is None else (input, weight, bias)
    learning = torch.is_grad_enabled() and any(x.requires_grad for x in sources)
    depthwise = groups == len(weight) == input.shape[1] and dilation == (1, 1)
    (top, bottom), (left, right) = ((p, p) if isinstance(p, int) else p for p in padding)
    if (top, left) != (bottom, right):
        if eager and depthwise and not learning and top <= bottom and left <= right:
            weight = F.pad(weight, (right - left, 0, bottom - top, 0))  # zeros for the added pixels
            top, left = bottom, right
        else:
            input = F.pad(input, (left, right, top, bottom))
            top = left = 0
    slow = learning and weight.requires_grad and depthwise
    slow = slow and (max(weight.shape[2:]) > 3 or max(stride) > 1)
    autocast = torch.is_autocast_enabled("cpu")
    dtype = torch.get_autocast_dtype("cpu") if autocast else input.dtype
    fused = most is not None and not learning and _fuses(dtype)
    if not (eager and (slow or fused)):
        out = F.conv2d(input, weight, bias, stride, (top, left), dilation, groups)
        return out if most is None else clamp(out, most)
    if autocast:
        input, weight = input.to(dtype), weight.to(dtype)
        bias = None if bias is None else bias.to(dtype)
    if fused:
        sides = (top, left), stride, dilation
        return torch.ops.mkldnn._convolution_pointwise(
            input, weight, bias, *sides, groups, "hardtanh", [0.0, most], ""
        )
    out = _DepthwiseConv2d.apply(input, weight, bias, stride, (top, left))
    return out if most is None else clamp(out, most)  # pyright: ignore[reportReturnType, reportArgumentType]


def clamp(x: Float[Tensor, "*shape"], most: float) -> Float[Tensor, "*shape"]:
    """``x`` itself, clamped to 0 … ``most`` (ReLU where that is infinite)."""
    return F.relu(x, inplace=True) if most == math.inf else F.hardtanh(x, 0.0, most, inplace=True)


@cache
def _fuses(dtype: torch.dtype) -> bool:
    """Whether oneDNN computes convolutions of this type here, and torch has the fused operator."""
    operators = torch.ops.mkldnn
    if not (torch.backends.mkldnn.is_available() and hasattr(operators, "_convolution_pointwise")):
        return False
    half = dtype == torch.bfloat16 and hasattr(operators, "_is_mkldnn_bf16_supported")
    return dtype == torch.float32 or (half and operators._is_mkldnn_bf16_supported())


class _DepthwiseConv2d(torch.autograd.Function):
    """A depthwise convolution whose gradients avoid two slow paths of torch.

    The weight gradient is fast for kernels up to 3 × 3 only, so it is computed in pieces of 3 × 3.
    On one core, for 5 × 5 weights and 4 maps of 1152 × 8 × 12, that takes 1.5 ms for 35 in bf16,
    and 2.3 ms for 5 in fp32. The input gradient of a stride above 1 is slow in bf16 (16 ms where
    fp32 takes 0.5), so it is computed in fp32.
    """

    @staticmethod
    def forward(
        ctx: Any, x: Tensor, weight: Tensor, bias: Tensor | None, stride: Pair, padding: Pair
    ) -> Tensor:
        ctx.save_for_backward(x, weight)
        ctx.stride, ctx.padding = stride, padding
        return F.conv2d(x, weight, bias, stride, padding, groups=len(weight))

    @staticmethod
    @once_differentiable
    def backward(  # pyright: ignore[reportIncompatibleMethodOverride]
        ctx: Any, grad: Tensor
    ) -> tuple[Tensor | None, ...]:
        x, weight = ctx.saved_tensors
        x_grad = weight_grad = bias_grad = None
        if ctx.needs_input_grad[0]:
            dtype = torch.float32 if max(ctx.stride) > 1 else x.dtype
            like_x, sides = torch.empty_like(x, dtype=dtype), (ctx.stride, ctx.padding)
            wanted = [True, False, False]
            found = _convolution_backward(grad.to(dtype), like_x, weight.to(dtype), *sides, wanted)
            x_grad = found[0].to(x.dtype)
        if ctx.needs_input_grad[1]:
            weight_grad = _in_pieces(grad, x, weight, ctx.stride, ctx.padding)
        if ctx.needs_input_grad[2]:
            bias_grad = grad.sum((0, 2, 3))
        return x_grad, weight_grad, bias_grad, None, None


def _in_pieces(grad: Tensor, x: Tensor, weight: Tensor, stride: Pair, padding: Pair) -> Tensor:
    """The weight gradient of a depthwise convolution; pieces of 3 × 3 weights may overlap."""
    total = torch.empty_like(weight)
    x = F.pad(x, (padding[1], padding[1], padding[0], padding[0]))
    height, width = (min(3, size) for size in weight.shape[2:])
    rows, columns = ((n - 1) * step for n, step in zip(grad.shape[2:], stride, strict=True))
    for top in _starts(weight.shape[2]):
        for left in _starts(weight.shape[3]):
            seen = x[:, :, top : top + rows + height, left : left + columns + width]
            part = total[:, :, top : top + height, left : left + width]
            wanted = [False, True, False]
            part.copy_(_convolution_backward(grad, seen, part, stride, (0, 0), wanted)[1])
    return total


def _starts(size: int) -> list[int]:
    """Where pieces of at most three begin that cover ``size`` weights."""
    return [*range(0, size - 3, 3), max(0, size - 3)]


def _convolution_backward(
    grad: Tensor, x: Tensor, weight: Tensor, stride: Pair, padding: Pair, wanted: list[bool]
) -> tuple[Tensor, ...]:
    """Gradients of a depthwise convolution: of the input, the weight and the bias, as wanted."""
    return torch.ops.aten.convolution_backward(
        grad, x, weight, None, stride, padding, (1, 1), False, (0, 0), len(weight), wanted
    )


AttentionMask = Bool[Tensor, "*broadcast k"] | Float[Tensor, "*broadcast k"] | None
"""Mask of the keys for each query: boolean, True gets no weight; float, added to the logits."""


def attend(
    query: Float[Tensor, "b heads q d"],
    key: Float[Tensor, "b heads k d"],
    value: Float[Tensor, "b heads k e"],
    mask: AttentionMask,
    dropout: float = 0.0,
    exact: bool = False,
) -> Float[Tensor, "b q c"]:
    """softmax(query · keyᵀ / √d) · value, by torch's fused kernel or by plain matrix products.

    ``exact``: without gradients, query · keyᵀ is computed in float32 at any precision, as fused
    kernels do. With gradients it is not: a training step would take a twentieth longer.
    """
    query, key = query.to(value.dtype), key.to(value.dtype)
    biased = mask is not None and mask.dtype != torch.bool
    # the fused kernel takes no bias in a graph of dynamic shape
    if biased or _products_win(query, key, value):
        exact = exact and value.dtype != torch.float32 and not torch.is_grad_enabled()
        logits = _logits(query, key, exact)  # [b, heads, q, k]
        if mask is not None:
            logits = logits + (mask if biased else _bias(mask, logits.dtype))
        out = F.dropout(logits.softmax(-1), dropout).to(value.dtype) @ value
    else:
        keep = None if mask is None else ~mask  # in torch's convention True means attended
        out = F.scaled_dot_product_attention(query, key, value, attn_mask=keep, dropout_p=dropout)
    return out.transpose(1, 2).flatten(2)  # [b, heads, q, e] → [b, q, heads · e]


def _bias(mask: Bool[Tensor, "*broadcast k"], dtype: torch.dtype) -> Float[Tensor, "*broadcast k"]:
    """The mask as an addend of logits: broadcasting a sum is faster than a ``masked_fill``."""
    return torch.zeros_like(mask, dtype=dtype).masked_fill(mask, float("-inf"))


def zero_rows(x: Float[Tensor, "b n c"], rows: Bool[Tensor, "b n"]) -> Float[Tensor, "b n c"]:
    """``x`` with zeros in ``rows``.

    On a CPU by index: a ``masked_fill`` whose mask is broadcast takes ten times as long.
    """
    if not _is_eager_on_cpu(x):
        return x.masked_fill(rows.unsqueeze(-1), 0)
    places = rows.flatten().nonzero().squeeze(-1)
    return x.flatten(0, 1).index_fill(0, places, 0).view_as(x)


def _logits(
    query: Float[Tensor, "b heads q d"], key: Float[Tensor, "b heads k d"], in_float32: bool
) -> Float[Tensor, "b heads q k"]:
    """query · keyᵀ / √d."""
    scale = query.shape[-1] ** -0.5
    if not in_float32:
        return (query * scale) @ key.transpose(-1, -2)
    with torch.autocast(query.device.type, enabled=False):
        return (query.float() * scale) @ key.float().transpose(-1, -2)


def _products_win(query: Tensor, key: Tensor, value: Tensor) -> bool:
    """Whether plain matrix products are faster than the fused kernel, as measured on CPUs.

    On CPUs the fused kernel supports neither bf16 products nor a value that is not as wide as the
    query; it is still faster where the attention weights outgrow the cache. In a traced graph,
    which is for any size, the sizes are not read.
    """
    unfit = query.dtype == torch.bfloat16 or query.shape[-1] != value.shape[-1]
    if query.device.type != "cpu" or not unfit or torch.compiler.is_compiling():
        return query.device.type == "cpu" and unfit
    batch, heads, queries, _ = query.shape
    return batch * heads * queries * key.shape[2] <= 2**24


def sum_rows(
    rows: Float[Tensor, "rows d"], index: Int[Tensor, "n k"], shares: Float[Tensor, "n k"]
) -> Float[Tensor, "n d"]:
    """Σ_k shares[n, k] · rows[index[n, k]]."""
    if torch.compiler.is_exporting():  # runtimes multiply and add faster as a product of matrices
        return (shares.unsqueeze(1) @ F.embedding(index, rows)).squeeze(1)
    traced = torch.compiler.is_compiling() or torch.jit.is_tracing()  # pyright: ignore[reportPrivateImportUsage]
    if traced or rows.device.type != "cpu":
        return (F.embedding(index, rows) * shares.unsqueeze(-1)).sum(1)
    return _SumRows.apply(rows, index, shares)  # pyright: ignore[reportReturnType]


def _scatter_rows(
    count: int,
    index: Int[Tensor, "n k"],
    shares: Float[Tensor, "n k"],
    values: Float[Tensor, "n d"],
) -> Float[Tensor, "{count} d"]:
    """The transpose of ``sum_rows``: shares[n, k] · values[n] is added to row index[n, k].

    A product with a scipy sparse matrix: for all tokens six times as fast as sorting the index and
    summing its runs; for the few queries of a decoder equally fast.
    """
    from scipy.sparse import csc_array

    ends = np.arange(0, index.numel() + 1, index.shape[1], dtype=np.int32)
    cells = (shares.detach().flatten().numpy(), index.flatten().numpy(), ends)
    matrix = csc_array(cells, shape=(count, len(index)))
    return torch.from_numpy(matrix @ values.numpy())


def _sampled_products(
    values: Float[Tensor, "n d"], rows: Float[Tensor, "rows d"], index: Int[Tensor, "n k"]
) -> Float[Tensor, "n k"]:
    """values[n] · rows[index[n, k]].

    As a product that is computed only at the cells of a sparse matrix. Gathering the rows and
    multiplying takes 1.6 (all tokens) to 4 times (queries of a decoder) as long.
    """
    if index.shape[1] > len(rows):  # more than a sparse matrix holds
        return (F.embedding(index, rows) * values.unsqueeze(1)).sum(-1)
    ends = torch.arange(0, index.numel() + 1, index.shape[1], dtype=index.dtype)
    zeros = values.new_zeros(index.numel())
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Sparse CSR tensor support")
        cells = torch.sparse_csr_tensor(
            ends, index.flatten(), zeros, (len(values), len(rows)), check_invariants=False
        )
    products = torch.sparse.sampled_addmm(cells, values, rows.t())
    return products.values().view_as(index)


class _SumRows(torch.autograd.Function):
    """``sum_rows`` that never gathers its rows in memory.

    torch's own backward of ``embedding_bag`` takes more than 1.4 times as long.
    """

    @staticmethod
    def forward(ctx: Any, rows: Tensor, index: Tensor, shares: Tensor) -> Tensor:
        ctx.save_for_backward(rows, index, shares)
        return F.embedding_bag(index, rows, per_sample_weights=shares, mode="sum")

    @staticmethod
    @once_differentiable
    def backward(  # pyright: ignore[reportIncompatibleMethodOverride]
        ctx: Any, grad: Tensor
    ) -> tuple[Tensor | None, None, Tensor | None]:
        rows, index, shares = ctx.saved_tensors
        grad = grad.contiguous()
        rows_grad = shares_grad = None
        if ctx.needs_input_grad[0]:
            rows_grad = _scatter_rows(len(rows), index, shares, grad)
        if ctx.needs_input_grad[2]:
            shares_grad = _sampled_products(grad, rows, index)
        return rows_grad, None, shares_grad
