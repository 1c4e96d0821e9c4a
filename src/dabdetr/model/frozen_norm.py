"""Frozen norms, folded into the convolutions before them."""

from __future__ import annotations

from math import inf, prod

import torch
from jaxtyping import Float
from timm.layers.conv2d_same import Conv2dSame
from torch import Tensor, nn

from dabdetr.kernels import Conv2d, Padding, clamp, conv2d


class FrozenNorm(nn.Module):
    """A batch norm with fixed statistics: four buffers, under the names that checkpoints use."""

    weight: Tensor
    bias: Tensor
    running_mean: Tensor
    running_var: Tensor

    def __init__(self, channels: int, eps: float, after: nn.Module | None = None) -> None:
        super().__init__()
        self.eps = eps
        self.folded = False  # already applied by the convolution before it
        self.clamped = False  # and so is the activation
        self.after = after or nn.Identity()  # in timm's norm-and-activation layers
        for name, value in (("weight", 1.0), ("bias", 0.0)):
            self.register_buffer(name, torch.full((channels,), value))
        for name, value in (("running_mean", 0.0), ("running_var", 1.0)):
            self.register_buffer(name, torch.full((channels,), value))

    def scale_and_shift(self) -> tuple[Float[Tensor, " channels"], Float[Tensor, " channels"]]:
        """The norm as y = x · scale + shift."""
        scale = self.weight * (self.running_var + self.eps).rsqrt()
        return scale, self.bias - self.running_mean * scale

    def forward(self, x: Float[Tensor, "b c h w"]) -> Float[Tensor, "b c h w"]:
        if not self.folded:
            scale, shift = self.scale_and_shift()
            x = x * scale[:, None, None] + shift[:, None, None]
        return x if self.clamped else self.after(x)


class FoldedConv2d(Conv2d):
    """A convolution that also applies the frozen norm after it: one pass over the map, not three.

    It also applies a ReLU or ReLU6 that timm has in the norm.
    Its parameters keep their names and values. In eval mode the product with the norm's scale is
    cached until a weight changes or training begins. It is not cached in training: a fused
    optimiser changes weights without increasing their version counters. While the layer trains and
    has more weights than its map has elements (the last stage of a ResNet), the map is scaled
    instead: a twentieth of a training step, and no copy of the weights.
    """

    def __init__(self, conv: nn.Conv2d, norm: FrozenNorm) -> None:
        super().__init__(
            conv.in_channels,
            conv.out_channels,
            conv.kernel_size,  # pyright: ignore[reportArgumentType]
            conv.stride,  # pyright: ignore[reportArgumentType]
            conv.padding,  # pyright: ignore[reportArgumentType]
            conv.dilation,  # pyright: ignore[reportArgumentType]
            conv.groups,
            bias=conv.bias is not None,
        )
        self.weight, self.bias = conv.weight, conv.bias
        self.same = isinstance(conv, Conv2dSame)  # TensorFlow's padding
        self._norm = (norm,)  # in a tuple, so that the norm is not registered twice
        self._folded: tuple[object, Tensor, Tensor] | None = None
        self._is_folded = False
        norm.folded = True
        self._most = _upper_limit(norm.after)
        norm.clamped = self._most is not None

    @torch.no_grad()
    def fold(self) -> None:
        """Replace the weights by their product with the norm, for good: a graph is traced next."""
        weight, bias = self._fold()
        self.weight, self.bias = nn.Parameter(weight.clone()), nn.Parameter(bias.clone())
        self._is_folded = True

    def _fold(self) -> tuple[Tensor, Tensor]:
        if self._is_folded and self.bias is not None:
            return self.weight, self.bias
        (norm,) = self._norm
        learning = self._learning
        sources = (self.weight, norm.weight, norm.bias, norm.running_mean, norm.running_var)
        state = tuple((t.data_ptr(), t._version) for t in sources)
        if not learning and self._folded is not None and self._folded[0] == state:
            return self._folded[1:]
        # Cached weights must also serve a later backward pass of other layers.
        with torch.inference_mode(False):
            scale, shift = norm.scale_and_shift()
            weight = self.weight * scale[:, None, None, None]
            bias = shift if self.bias is None else shift + self.bias * scale
        if not learning:
            weight, bias = weight.detach(), bias.detach()
        if not learning and not self.training:
            self._folded = state, weight, bias
        return weight, bias

    def _sides(self, size: torch.Size) -> Padding:
        """The padding of a map of this size; TensorFlow's has more at the end than at the start.

        Once folded for good, the sides of the map are taken to be multiples of the stride: inputs
        are padded to whole cells, and an exported graph of any size cannot check it.
        """
        if not self.same:
            return self.padding  # pyright: ignore[reportReturnType]
        totals: list[int] = []
        axes = zip(size, self.kernel_size, self.stride, self.dilation, strict=True)
        for side, kernel, stride, dilation in axes:
            last = stride if self._is_folded else side % stride or stride
            totals.append(max(0, (kernel - 1) * dilation + 1 - last))
        rows, columns = ((total // 2, total - total // 2) for total in totals)
        return rows, columns

    def train(self, mode: bool = True) -> FoldedConv2d:
        """Set the training mode; the cached product is computed again."""
        self._folded = None
        return super().train(mode)

    @property
    def _learning(self) -> bool:
        return torch.is_grad_enabled() and self.weight.requires_grad

    def forward(self, input: Float[Tensor, "b c h w"]) -> Float[Tensor, "b d y x"]:
        if self._learning:
            self._folded = None
        cells = input.numel() // (self.in_channels * prod(self.stride))
        if self._learning and self.weight[0].numel() > cells:
            scale, shift = (x[:, None, None] for x in self._norm[0].scale_and_shift())
            out = self._convolve(input, self.weight, self.bias, None)
            out = torch.addcmul(shift, out.float(), scale).to(out.dtype)
            return out if self._most is None else clamp(out, self._most)
        return self._convolve(input, *self._fold(), self._most)

    def _convolve(
        self,
        input: Float[Tensor, "b c h w"],
        weight: Tensor,
        bias: Tensor | None,
        most: float | None,
    ) -> Float[Tensor, "b d y x"]:
        sides = self.stride, self._sides(input.shape[2:]), self.dilation
        return conv2d(input, weight, bias, *sides, self.groups, most)  # pyright: ignore[reportArgumentType]


def freeze_norms(module: nn.Module) -> None:
    """Freeze every batch norm below ``module``, folded into the convolution before it.

    timm registers a convolution and its norm one after the other; a test compares the result with
    the unfolded network.
    """
    before: tuple[str, nn.Module] | None = None
    for name, child in list(module.named_children()):
        if isinstance(child, nn.BatchNorm2d):
            act = nn.Sequential(*child.children()) if len(list(child.children())) else None
            frozen = FrozenNorm(child.num_features, child.eps, act)
            frozen.load_state_dict(child.state_dict(), strict=False)
            if not frozen.weight.any():  # timm's start of residual branches; it would stay 0
                frozen.weight.fill_(1.0)
            setattr(module, name, frozen)
            if before is not None and _foldable(before[1], child):
                setattr(module, before[0], FoldedConv2d(before[1], frozen))  # pyright: ignore
        else:
            freeze_norms(child)
        before = (name, child)


def _upper_limit(act: nn.Module) -> float | None:
    """The upper limit of a ReLU or ReLU6 that stands alone; None for any other module."""
    layers = [m for m in act.modules() if not isinstance(m, nn.Sequential | nn.Identity)]
    limits = {nn.ReLU: inf, nn.ReLU6: 6.0}
    return limits.get(type(layers[0])) if len(layers) == 1 else None


def _foldable(conv: nn.Module, norm: nn.BatchNorm2d) -> bool:
    if isinstance(getattr(conv, "padding", None), str):
        return False
    return type(conv) in (nn.Conv2d, Conv2dSame) and conv.out_channels == norm.num_features  # pyright: ignore
