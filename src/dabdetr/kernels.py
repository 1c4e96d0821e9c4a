"""Linear layers, PReLU, attention and sums of rows: the faster form of each, on CPUs above all."""

from __future__ import annotations

from functools import cache
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn
from torch.autograd.function import once_differentiable


class Linear(nn.Linear):
    """``nn.Linear``, whose float32 products on CPUs with AVX-512 are made by oneDNN.

    torch hands them to MKL, which takes no AVX-512 on processors that are not Intel's. Measured on
    two AMD cores, 300 to 6,400 rows, 256 to 2,048 wide: 0.19 TFLOP/s by MKL, 0.42 by oneDNN.
    Lower precisions are oneDNN's anyway; a traced graph is for other runtimes.
    """

    def forward(self, input: Float[Tensor, "*shape n"]) -> Float[Tensor, "*shape m"]:
        if not (self._plain(input) and onednn_wins()):
            return super().forward(input)
        if torch.is_grad_enabled():
            return _Product.apply(input, self.weight, self.bias)  # pyright: ignore[reportReturnType]
        return _product(input, self.weight, self.bias)

    def _plain(self, input: Tensor) -> bool:
        """Whether this is an eager product in float32 on the CPU."""
        return (
            not torch.compiler.is_compiling()
            and input.dtype == self.weight.dtype == torch.float32
            and input.device.type == "cpu"
            and input.numel() > 0
            and not torch.is_autocast_enabled("cpu")
            and not torch.jit.is_tracing()  # pyright: ignore[reportPrivateImportUsage]
        )


class PReLU(nn.PReLU):
    """``nn.PReLU`` of one slope, whose gradients on CPUs are made in whole vectors.

    torch makes them number by number: 3.7 ms for 2 × 300 × 2,048 in bf16, 0.5 ms here.
    """

    def forward(self, input: Float[Tensor, "*shape"]) -> Float[Tensor, "*shape"]:
        learning = torch.is_grad_enabled() and not torch.compiler.is_compiling()
        if not (learning and input.device.type == "cpu"):
            return super().forward(input)
        return _Bend.apply(input, self.weight)  # pyright: ignore[reportReturnType]


def use_cpu_kernels(module: nn.Module) -> None:
    """Make every plain linear layer and PReLU of ``module`` one of these; parameters stay."""
    for part in module.modules():
        if type(part) is nn.Linear:
            part.__class__ = Linear
        elif type(part) is nn.PReLU and part.num_parameters == 1:
            part.__class__ = PReLU


@cache
def onednn_wins() -> bool:
    """Whether float32 products are made by oneDNN here."""
    there = torch.backends.mkldnn.is_available() and hasattr(torch.ops.mkldnn, "_linear_pointwise")
    return there and torch.backends.cpu.get_cpu_capability().startswith("AVX512")


def _product(x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    """x · weightᵀ + bias."""
    return torch.ops.mkldnn._linear_pointwise(x, weight, bias, "none", [], "")


class _Product(torch.autograd.Function):
    """``_product`` and its gradients, which are such products too."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        ctx.save_for_backward(x, weight)
        return _product(x, weight, bias)

    @staticmethod
    @once_differentiable
    def backward(  # pyright: ignore[reportIncompatibleMethodOverride]
        ctx: Any, grad: Tensor
    ) -> tuple[Tensor | None, Tensor | None, Tensor | None]:
        x, weight = ctx.saved_tensors
        rows = grad.reshape(-1, grad.shape[-1])
        of_x = of_weight = of_bias = None
        if ctx.needs_input_grad[0]:
            of_x = _product(rows, weight.t(), None).view_as(x)
        if ctx.needs_input_grad[1]:
            of_weight = _product(rows.t(), x.reshape(-1, x.shape[-1]).t(), None)
        if ctx.needs_input_grad[2]:
            of_bias = rows.sum(0)
        return of_x, of_weight, of_bias


class _Bend(torch.autograd.Function):
    """x above 0, slope · x below, and its gradients."""

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
        of_x = of_slope = None
        if ctx.needs_input_grad[0]:
            of_x = torch.ops.aten.leaky_relu_backward(grad, x, slope.item(), False)
        if ctx.needs_input_grad[1]:
            total = x.clamp_max(0).mul_(grad).sum(dtype=torch.float32)
            of_slope = total.to(slope.dtype).reshape(slope.shape)
        return of_x, of_slope


AttentionMask = Bool[Tensor, "*broadcast k"] | Float[Tensor, "*broadcast k"] | None
"""Of the keys for each query: True gets no weight; numbers are added to the logits."""


def attend(
    query: Float[Tensor, "b heads q d"],
    key: Float[Tensor, "b heads k d"],
    value: Float[Tensor, "b heads k e"],
    mask: AttentionMask,
    dropout: float = 0.0,
    exact: bool = False,
) -> Float[Tensor, "b q c"]:
    """softmax(query · keyᵀ / √d) · value, by torch's fused kernel or by plain matrix products.

    ``exact``: where nothing is learned, the products in float32 at any precision, as fused kernels
    have them; a training step would take a twentieth longer.
    """
    query, key = query.to(value.dtype), key.to(value.dtype)
    biased = mask is not None and mask.dtype != torch.bool
    if biased or _products_win(query, key, value):  # a graph of any size takes no bias when fused
        exact = exact and value.dtype != torch.float32 and not torch.is_grad_enabled()
        logits = _logits(query, key, exact)  # [b, heads, q, k]
        if mask is not None:
            logits = logits + mask if biased else logits.masked_fill(mask, float("-inf"))
        out = F.dropout(logits.softmax(-1), dropout).to(value.dtype) @ value
    else:
        seen = None if mask is None else ~mask  # torch's own has True where there is weight
        out = F.scaled_dot_product_attention(query, key, value, attn_mask=seen, dropout_p=dropout)
    return out.transpose(1, 2).flatten(2)  # [b, heads, q, e] → [b, q, heads · e]


def _logits(
    query: Float[Tensor, "b heads q d"], key: Float[Tensor, "b heads k d"], widened: bool
) -> Float[Tensor, "b heads q k"]:
    """query · keyᵀ / √d, in float32 where ``widened``."""
    scale = query.shape[-1] ** -0.5
    if not widened:
        return (query * scale) @ key.transpose(-1, -2)
    with torch.autocast(query.device.type, enabled=False):
        return (query.float() * scale) @ key.float().transpose(-1, -2)


def _products_win(query: Tensor, key: Tensor, value: Tensor) -> bool:
    """Whether plain matrix products beat the fused kernel: measured on CPUs.

    The fused kernel takes no bf16 products there and no value of another width; it wins again where
    the weights outgrow the cache. A traced graph is for any size: there sizes are not asked.
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
    traced = torch.compiler.is_compiling() or torch.jit.is_tracing()  # pyright: ignore[reportPrivateImportUsage]
    if traced or rows.device.type != "cpu":
        return (F.embedding(index, rows) * shares.unsqueeze(-1)).sum(1)
    return _SumRows.apply(rows, index, shares)  # pyright: ignore[reportReturnType]


_CACHED = 2**20
"""How many numbers to gather at once on a CPU: what its cache holds."""


def _scatter_rows(
    count: int,
    index: Int[Tensor, "n k"],
    shares: Float[Tensor, "n k"],
    values: Float[Tensor, "n d"],
) -> Float[Tensor, "{count} d"]:
    """The transpose of ``sum_rows``: row index[n, k] of the result gets shares[n, k] · values[n].

    A product with a sparse matrix, which scipy makes six times as fast for all tokens as sorting
    the index and summing runs of it would be; for a decoder's few queries they are alike.
    """
    from scipy.sparse import csc_array

    ends = np.arange(0, index.numel() + 1, index.shape[1], dtype=np.int32)
    cells = (shares.detach().flatten().numpy(), index.flatten().numpy(), ends)
    matrix = csc_array(cells, shape=(count, len(index)))
    return torch.from_numpy(matrix @ values.numpy())


class _SumRows(torch.autograd.Function):
    """``sum_rows`` that never holds all rows it reads.

    Autograd of the same kernel takes 1.4 to 1.8 times as long, and gathering all rows 2 to 7 times.
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
            shares_grad = torch.empty_like(shares)
            few = max(1, _CACHED // (index.shape[1] * rows.shape[1]))
            buffer = rows.new_empty(few * index.shape[1], rows.shape[1])
            parts = (x.split(few) for x in (index, grad, shares_grad))
            for part, upstream, result in zip(*parts, strict=True):
                read = buffer[: part.numel()]
                torch.index_select(rows, 0, part.flatten(), out=read)
                products = read.view(*part.shape, -1).mul_(upstream.unsqueeze(1))
                torch.sum(products, dim=-1, out=result)
        return rows_grad, None, shares_grad
