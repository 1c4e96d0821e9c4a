"""Image → feature maps of a timm network, at the strides of the config."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import timm
import torch
import torch.nn.functional as F
from timm.layers.conv2d_same import Conv2dSame
from timm.layers.norm import LayerNorm2d
from torch import Tensor, nn

from dabdetr import config
from dabdetr.model.frozen_norm import freeze_norms
from dabdetr.structures import Features, Images
from dabdetr.text import exhausted, reason, shown


class TimmBackbone(nn.Module):
    """A timm network with feature maps at the strides of the config.

    ``channels`` and ``strides`` describe the maps that ``forward`` returns.
    """

    def __init__(self, part: config.Backbone) -> None:
        super().__init__()
        try:
            self.body, stages = create_body(part)
        except Exception as error:  # timm's networks raise many kinds of errors for wrong options
            if part.output_stride != 32 and "output_stride" in str(error):
                raise ValueError(
                    f"model.backbone.output_stride is {part.output_stride}, and timm cannot dilate "
                    f"{part.name!r}; set it to 32"
                ) from None
            raise not_built(part, error, "a feature network") from None
        self.part = part
        self.channels = [stage["num_chs"] for stage in stages]
        self.strides = [stage["reduction"] for stage in stages]
        self.nhwc = getattr(self.body, "output_fmt", None) == "NHWC"
        self.norms = nn.ModuleList(
            LayerNorm2d(n, eps=1e-5) if part.map_norm else nn.Identity() for n in self.channels
        )
        if part.norm == "frozen":
            freeze_norms(self.body)
        self._frozen_modules = self._freeze(part.freeze_stride)
        self.cell = _cell(self.body, part.output_stride)
        self.to(memory_format=torch.channels_last)  # pyright: ignore[reportCallIssue]

    def train(self, mode: bool = True) -> TimmBackbone:
        """Set the training mode; frozen stages stay in eval mode, with fixed batch statistics."""
        super().train(mode)
        for name in self._frozen_modules:
            self.body.get_submodule(name).eval()
        return self

    def _freeze(self, stride: int) -> list[str]:
        """Freeze all modules up to the deepest stage of this stride (modules are in order).

        Returns the names of the innermost frozen modules.
        """
        ends = [s["module"] for s in self.body.feature_info.info if s["reduction"] <= stride]  # pyright: ignore
        if not ends:
            return []
        names = [name.replace("_", ".") for name, _ in self.body.named_modules()]
        end = ends[-1].replace("_", ".")
        last = max(i for i, n in enumerate(names) if n == end or n.startswith(end + "."))
        frozen = list(self.body.named_modules())[: last + 1]
        for _, module in frozen:
            for parameter in module.parameters(recurse=False):
                parameter.requires_grad = False
        return [name for name, module in frozen if not list(module.children())]

    def forward(self, images: Images) -> Features:
        pixels, padding = fill_cells(images, self.cell)
        maps = self.body(pixels.contiguous(memory_format=torch.channels_last))
        if self.nhwc:
            maps = [m.permute(0, 3, 1, 2) for m in maps]
        maps = [norm(m) for norm, m in zip(self.norms, maps, strict=True)]
        return Features(maps, [shrink(padding, m.shape[-2:]) for m in maps], padding)


def not_built(part: config.Backbone | config.Vit, error: Exception, what: str) -> Exception:
    """The error to raise where timm could not build ``part`` as ``what``.

    Exhausted memory stays that; but torch's TypeError, as for 10³⁰ channels, is a wrong option.
    """
    if not isinstance(error, TypeError) and (full := exhausted(error)):
        return full
    return ValueError(
        f"model.backbone.name {shown(part.name)} with options {shown(part.options)} cannot be "
        f"built by timm as {what}: {reason(error)}"
    )


def create_body(part: config.Backbone, **loading: Any) -> tuple[Any, list[dict[str, Any]]]:
    """The timm feature network, cut after the deepest stage of each stride, and those stages.

    ``loading`` are timm's arguments about pretrained weights.
    """
    options = dict(part.options)
    if part.output_stride != 32:
        options["output_stride"] = part.output_stride
    with torch.random.fork_rng(devices=[]):  # probing the stages must not change the random state
        whole: Any = timm.create_model(part.name, features_only=True, **options)
        stages = whole.feature_info.info
    strides = [stage["reduction"] for stage in stages]
    if len(strides) > 1 and len(set(strides)) == 1:
        raise ValueError(f"all its maps have stride {strides[0]}; set model.backbone.kind to 'vit'")
    missing = [stride for stride in part.strides if stride not in strides]
    if missing:
        raise ValueError(f"it has no map of stride {missing[0]}; it has {sorted(set(strides))}")
    if any(getattr(m, "strict_img_size", False) for m in whole.modules()):
        options["strict_img_size"] = False
    if any(hasattr(m, "always_partition") for m in whole.modules()):
        options["always_partition"] = True  # otherwise the last stages of Swin never shift windows
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
    """Pad the map to whole windows before shifting them, as Swin's detectors do.

    timm shifts first and pads afterwards. Its mask then lets the first rows and columns of an
    image, which the shift moves to the end, attend to the last ones.
    """
    height, width = x.shape[1:3]
    down, right = -height % block.window_size[0], -width % block.window_size[1]
    return attend(F.pad(x, (0, 0, 0, right, 0, down)))[:, :height, :width]


def _cell(body: nn.Module, stride: int) -> int:
    """The side lengths of the input must be multiples of this number of pixels.

    TensorFlow's padding depends on the input size, so an image's grid would shift with its batch.
    Convolutions whose kernel is as large as their stride (ConvNeXt) would drop the last pixels of
    an image. Window transformers pad their maps themselves, once the patches are whole.
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
    """Remove the blocks after the last map (``blocks.4``), which some networks would compute."""
    parent, _, index = last.rpartition(".")
    try:
        blocks = body.get_submodule(parent)
    except AttributeError:  # timm has flattened and cut this network already
        return
    if parent and index.isdigit() and isinstance(blocks, nn.Sequential):
        del blocks[int(index) + 1 :]


def fill_cells(images: Images, cell: int) -> tuple[Tensor, Tensor | None]:
    """Pad pixels and padding mask at the bottom and right to multiples of ``cell``."""
    pixels, padding = images.pixels, images.padding
    down, right = (-side % cell for side in pixels.shape[-2:])
    if down or right:
        if padding is None:
            padding = torch.zeros_like(pixels[:, 0], dtype=torch.bool)
        pixels = F.pad(pixels, (0, right, 0, down))
        padding = F.pad(padding, (0, right, 0, down), value=True)
    return pixels, padding


def shrink(padding: Tensor | None, size: torch.Size) -> Tensor | None:
    """The padding mask at the size of a map: nearest pixel, as in all published DETR code."""
    if padding is None:
        return None
    return F.interpolate(padding[:, None].float(), size=tuple(size), mode="nearest")[:, 0].bool()
