"""Image → maps of a timm network, with frozen norms folded into the convolutions before them."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import timm
import torch
import torch.nn.functional as F
from jaxtyping import Float
from timm.layers.conv2d_same import Conv2dSame
from timm.layers.norm import LayerNorm2d
from timm.layers.padding import pad_same
from torch import Tensor, nn

from dabdetr import config
from dabdetr.structures import Features, Images


class FrozenNorm(nn.Module):
    """A batch norm that never changes: four buffers, under the names that checkpoints use."""

    weight: Tensor
    bias: Tensor
    running_mean: Tensor
    running_var: Tensor

    def __init__(self, channels: int, eps: float, after: nn.Module | None = None) -> None:
        super().__init__()
        self.eps = eps
        self.folded = False  # the convolution before it already applies it
        self.after = after or nn.Identity()  # the activation of timm's norm-and-activation layers
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
        return self.after(x)


class FoldedConv2d(nn.Conv2d):
    """A convolution that applies the frozen norm behind it: one pass over the map, not three.

    Its parameters keep their names and values; the product with the norm's scale is remembered as
    long as neither changes and no gradient is asked for.
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
        self.same = isinstance(conv, Conv2dSame)  # TensorFlow's padding, which depends on the size
        self._norm = (norm,)  # in a tuple, so that the norm stays registered at its own place only
        self._folded: tuple[object, Tensor, Tensor] | None = None
        self._settled = False
        norm.folded = True

    @torch.no_grad()
    def settle(self) -> None:
        """Take the product with the norm as own weights, for good: a graph is traced next."""
        weight, bias = self._fold()
        self.weight, self.bias = nn.Parameter(weight.clone()), nn.Parameter(bias.clone())
        self._settled = True

    def _fold(self) -> tuple[Tensor, Tensor]:
        if self._settled and self.bias is not None:
            return self.weight, self.bias
        (norm,) = self._norm
        learning = torch.is_grad_enabled() and self.weight.requires_grad
        sources = (self.weight, norm.weight, norm.bias, norm.running_mean, norm.running_var)
        state = tuple((t.data_ptr(), t._version) for t in sources)
        if not learning and self._folded is not None and self._folded[0] == state:
            return self._folded[1:]
        # Remembered weights must serve a later backward pass of other layers as well.
        with torch.inference_mode(False):
            scale, shift = norm.scale_and_shift()
            weight = self.weight * scale[:, None, None, None]
            bias = shift if self.bias is None else shift + self.bias * scale
        if not learning:
            weight, bias = weight.detach(), bias.detach()
        self._folded = None if learning else (state, weight, bias)
        return weight, bias

    def _pads(self) -> list[int]:
        """TensorFlow's padding (left, right, top, bottom) where the stride divides the size.

        In whole cells it does; a graph of any size cannot ask.
        """
        pads: list[int] = []
        axes = zip(self.kernel_size, self.stride, self.dilation, strict=True)
        for kernel, stride, dilation in reversed(list(axes)):
            total = max(0, (kernel - 1) * dilation + 1 - stride)
            pads += [total // 2, total - total // 2]
        return pads

    def forward(self, input: Float[Tensor, "b c h w"]) -> Float[Tensor, "b d y x"]:
        weight, bias = self._fold()
        if self.same:
            if self._settled:
                input = F.pad(input, self._pads())
            else:
                input = pad_same(input, self.kernel_size, self.stride, self.dilation)  # pyright: ignore
            return F.conv2d(input, weight, bias, self.stride, 0, self.dilation, self.groups)
        return self._conv_forward(input, weight, bias)


def freeze_norms(module: nn.Module) -> None:
    """Replace every batch norm below ``module`` by a frozen one, folded where a conv precedes it.

    timm registers a convolution and the norm that follows it one after the other; a test holds the
    result against the unfolded network.
    """
    before: tuple[str, nn.Module] | None = None
    for name, child in list(module.named_children()):
        if isinstance(child, nn.BatchNorm2d):
            act = nn.Sequential(*child.children()) if len(list(child.children())) else None
            frozen = FrozenNorm(child.num_features, child.eps, act)
            frozen.load_state_dict(child.state_dict(), strict=False)
            if not frozen.weight.any():  # timm starts residual branches at 0; frozen, it would stay
                frozen.weight.fill_(1.0)
            setattr(module, name, frozen)
            if before is not None and _foldable(before[1], child):
                setattr(module, before[0], FoldedConv2d(before[1], frozen))  # pyright: ignore
        else:
            freeze_norms(child)
        before = (name, child)


def _foldable(conv: nn.Module, norm: nn.BatchNorm2d) -> bool:
    return type(conv) in (nn.Conv2d, Conv2dSame) and conv.out_channels == norm.num_features  # pyright: ignore


class TimmBackbone(nn.Module):
    """A timm network read at the strides of the config.

    ``channels`` and ``strides`` describe the maps it returns.
    """

    def __init__(self, part: config.Backbone) -> None:
        super().__init__()
        try:
            self.body, stages = _create(part)
        except (RuntimeError, TypeError, ValueError) as error:
            if part.output_stride != 32 and "output_stride" in str(error):
                raise ValueError(
                    f"backbone.output_stride is {part.output_stride}, and timm cannot dilate "
                    f"{part.name!r}; set it to 32"
                ) from None
            raise ValueError(
                f"backbone.name {part.name!r} with backbone.options {part.options} cannot be built "
                f"by timm as a feature network: {error}"
            ) from None
        self.part = part
        self.channels = [stage["num_chs"] for stage in stages]
        self.strides = [stage["reduction"] for stage in stages]
        self.nhwc = getattr(self.body, "output_fmt", None) == "NHWC"
        self.norms = nn.ModuleList(
            LayerNorm2d(n, eps=1e-5) if part.map_norm else nn.Identity() for n in self.channels
        )
        if part.norm == "frozen":
            freeze_norms(self.body)
        self._freeze(part.freeze_stride)
        self.cell = _cell(self.body, part.output_stride)
        self.to(memory_format=torch.channels_last)  # pyright: ignore[reportCallIssue]

    def _freeze(self, stride: int) -> None:
        """Stop training up to the deepest stage of this stride (modules stand in their order)."""
        ends = [s["module"] for s in self.body.feature_info.info if s["reduction"] <= stride]  # pyright: ignore
        if not ends:
            return
        names = [name.replace("_", ".") for name, _ in self.body.named_modules()]
        end = ends[-1].replace("_", ".")
        last = max(i for i, n in enumerate(names) if n == end or n.startswith(end + "."))
        for _, module in list(self.body.named_modules())[: last + 1]:
            for parameter in module.parameters(recurse=False):
                parameter.requires_grad = False

    def forward(self, images: Images) -> Features:
        pixels, padding = fill_cells(images, self.cell)
        maps = self.body(pixels.contiguous(memory_format=torch.channels_last))
        if self.nhwc:
            maps = [m.permute(0, 3, 1, 2) for m in maps]
        maps = [norm(m) for norm, m in zip(self.norms, maps, strict=True)]
        return Features(maps, [shrink(padding, m.shape[-2:]) for m in maps], padding)

    def pretrained(self, file: Path) -> dict[str, Tensor]:
        """Tensors of one of timm's files under the names of ``body``."""
        overlay = {"file": str(file), "custom_load": False}
        body, _ = _create(self.part, pretrained=True, pretrained_cfg_overlay=overlay)
        return body.state_dict()


def _create(part: config.Backbone, **loading: Any) -> tuple[Any, list[dict[str, Any]]]:
    """The timm feature network cut at the deepest stage of each stride, and those stages.

    ``loading`` are timm's arguments of where weights come from.
    """
    options = dict(part.options)
    if part.output_stride != 32:
        options["output_stride"] = part.output_stride
    with torch.random.fork_rng(devices=[]):  # looking at the stages must not move the random state
        whole: Any = timm.create_model(part.name, features_only=True, **options)
        stages = whole.feature_info.info
    strides = [stage["reduction"] for stage in stages]
    if len(strides) > 1 and len(set(strides)) == 1:
        raise ValueError(f"all its maps have stride {strides[0]}; set backbone.kind to 'vit'")
    missing = [stride for stride in part.strides if stride not in strides]
    if missing:
        raise ValueError(f"it has no map of stride {missing[0]}; it has {sorted(set(strides))}")
    if any(getattr(m, "strict_img_size", False) for m in whole.modules()):
        options["strict_img_size"] = False
    if any(hasattr(m, "always_partition") for m in whole.modules()):
        options["always_partition"] = True  # else the last stages of Swin never shift windows
    chosen = tuple(len(strides) - 1 - strides[::-1].index(stride) for stride in part.strides)
    body: Any = timm.create_model(
        part.name, features_only=True, out_indices=chosen, **loading, **options
    )
    _prune(body, stages[chosen[-1]]["module"])
    for module in body.modules():
        if hasattr(module, "_attn") and hasattr(module, "shift_size"):
            module._attn = partial(_shift_whole_windows, module._attn, module)
    return body, [stages[i] for i in chosen]


def _shift_whole_windows(attend: Callable[[Tensor], Tensor], block: Any, x: Tensor) -> Tensor:
    """Shifted windows of a map that is filled up to whole windows first, as Swin's detectors do.

    timm shifts first and fills up afterwards: its mask then lets the first rows and columns of a
    picture, which the shift brings behind the last ones, see those.
    """
    height, width = x.shape[1:3]
    down, right = -height % block.window_size[0], -width % block.window_size[1]
    return attend(F.pad(x, (0, 0, 0, right, 0, down)))[:, :height, :width]


def _cell(body: nn.Module, stride: int) -> int:
    """Pixels that an input's sides must be multiples of.

    TensorFlow's padding depends on the size, and a picture's grid would shift with the batch it is
    in; convolutions whose steps are as long as they are wide (ConvNeXt) would leave out the last
    pixels of a picture. Networks of windows fill up their maps themselves, once patches are whole.
    """
    for module in body.modules():
        if getattr(module, "strict_img_size", None) is False:
            return max(module.patch_size)  # pyright: ignore[reportArgumentType, reportCallIssue]
    shifting = any(isinstance(m, Conv2dSame) or getattr(m, "same", 0) for m in body.modules())
    leaving = any(
        isinstance(m, nn.Conv2d) and 1 < m.kernel_size[0] == m.stride[0] for m in body.modules()
    )
    return stride if shifting or leaving else 1


def _prune(body: nn.Module, last: str) -> None:
    """Drop the blocks behind the last map (``blocks.4``): some timm networks compute them all."""
    parent, _, index = last.rpartition(".")
    try:
        blocks = body.get_submodule(parent)
    except AttributeError:  # timm flattened and cut this network itself
        return
    if parent and index.isdigit() and isinstance(blocks, nn.Sequential):
        del blocks[int(index) + 1 :]


def fill_cells(images: Images, cell: int) -> tuple[Tensor, Tensor | None]:
    """Pixels and padding enlarged at the bottom and right to multiples of ``cell``."""
    pixels, padding = images.pixels, images.padding
    down, right = (-side % cell for side in pixels.shape[-2:])
    if down or right:
        if padding is None:
            padding = torch.zeros_like(pixels[:, 0], dtype=torch.bool)
        pixels = F.pad(pixels, (0, right, 0, down))
        padding = F.pad(padding, (0, right, 0, down), value=True)
    return pixels, padding


def shrink(padding: Tensor | None, size: torch.Size) -> Tensor | None:
    """The padding of a map: nearest pixel, as in all published DETR code."""
    if padding is None:
        return None
    return F.interpolate(padding[:, None].float(), size=tuple(size), mode="nearest")[:, 0].bool()
