"""Linear layers and PReLU, where torch's own kernels leave most of a CPU idle."""

from __future__ import annotations

from functools import cache
from typing import Any

import torch
import torch.nn.functional as F
from jaxtyping import Float
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


def quicken(module: nn.Module) -> None:
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
