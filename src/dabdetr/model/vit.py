"""Image → maps of a plain vision transformer: one stack of blocks, then a simple feature pyramid.

The transformer is timm's, under timm's parameter names. What a detector needs beyond it is here:
positions stretched over every image, windows, padding, and the pyramid (ViTDet, Li et al., 2022).

An image's maps do not depend on its batch: positions are stretched over its own patches, padding
is never attended to, windows start at its top left, and the pyramid sees zeros around it. What is
left is the rounding of sums that run over more zeros (1e-5 of a map's largest value in float32).
"""

from __future__ import annotations

from typing import Any

import timm
import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Int
from timm.layers.norm import LayerNorm2d
from timm.layers.patch_embed import PatchEmbed
from timm.models.vision_transformer import VisionTransformer
from torch import Tensor, nn

from dabdetr import config
from dabdetr.model.backbones import fill_cells, not_built
from dabdetr.structures import Features, Images
from dabdetr.text import counted


class VitBackbone(nn.Module):
    """A timm ViT and the pyramid over its last map.

    ``channels`` and ``strides`` describe the maps it returns. The input is filled up to whole
    patches; a cell of a map belongs to the image where its first pixel does.
    """

    def __init__(self, part: config.Vit) -> None:
        super().__init__()
        self.part = part
        self.body = create_vit(part)
        self.patch: int = self.body.patch_embed.patch_size[0]
        self.cell = self.patch
        depth = len(self.body.blocks)
        for field in ("global_blocks", "freeze_blocks"):
            if getattr(part, field) > depth:
                raise ValueError(
                    f"model.backbone.{field} is {getattr(part, field)}, more than the "
                    f"{counted(depth, 'block')} of {part.name!r}; lower it"
                )
        spaced = {(i + 1) * depth // part.global_blocks - 1 for i in range(part.global_blocks)}
        self.windows = [None if i in spaced else part.window for i in range(depth)]
        self.strides = list(part.strides)
        self.channels = [part.channels] * len(self.strides)
        self.pyramid = nn.ModuleList(
            PyramidLevel(self.body.embed_dim, self.patch, stride, part.channels)
            for stride in self.strides
        )
        if part.freeze_blocks:
            self.body.requires_grad_(False)
            self.body.blocks[part.freeze_blocks :].requires_grad_(True)
            self.body.norm.requires_grad_(part.freeze_blocks < depth)

    def forward(self, images: Images) -> Features:
        pixels, padding = fill_cells(images, self.patch)
        if padding is not None:
            pixels = pixels.masked_fill(padding[:, None], 0.0)
        of_patches = _every(padding, self.patch)
        fine = self.patches(pixels, of_patches).permute(0, 3, 1, 2)  # [b, h, w, c] → [b, c, h, w]
        paddings = [_every(padding, stride) for stride in self.strides]
        levels = zip(self.pyramid, paddings, strict=True)
        maps = [level(fine, of_patches, of_level) for level, of_level in levels]
        return Features(maps, paddings, padding)

    def patches(
        self, pixels: Float[Tensor, "b 3 y x"], padding: Bool[Tensor, "b h w"] | None
    ) -> Float[Tensor, "b h w c"]:
        """All patch tokens after the last block and the final norm."""
        body = self.body
        x = body.patch_embed(pixels)
        given = [body.cls_token, body.reg_token]
        prefix = torch.cat(
            [x.new_zeros(1, 0, x.shape[-1]), *(t for t in given if t is not None)], 1
        )
        if not body.no_embed_class:
            prefix = prefix + body.pos_embed[:, : prefix.shape[1]]
        prefix = body.norm_pre(body.pos_drop(prefix.expand(x.shape[0], -1, -1)))
        x = body.norm_pre(body.pos_drop(x + self._positions(padding, x)))
        for block, window in zip(body.blocks, self.windows, strict=True):
            prefix, x = _attend(block, prefix, x, padding, window)
        return body.norm(x)

    def _positions(self, padding: Tensor | None, x: Tensor) -> Tensor:
        """The position table, resampled to each image's own patches; [b or 1, h, w, c]."""
        height, width = x.shape[1:3]
        if padding is None:
            padding = torch.zeros((1, height, width), dtype=torch.bool, device=x.device)
        rows, columns = (~padding).any(2).sum(1), (~padding).any(1).sum(1)
        grid = self.body.patch_embed.grid_size
        with torch.autocast(x.device.type, enabled=False):
            table = self.body.pos_embed[0, -grid[0] * grid[1] :].unflatten(0, grid).float()
            down = stretch(grid[0], rows, height)
            right = stretch(grid[1], columns, width)
            return torch.einsum("byi,bxj,ijc->byxc", down, right, table)


def create_vit(part: config.Vit, **loading: Any) -> Any:
    """timm's network without its classifier, for inputs of any size."""
    try:
        body: Any = timm.create_model(
            part.name, num_classes=0, dynamic_img_size=True, **loading, **part.options
        )
    except Exception as error:  # timm's networks raise many kinds of errors for wrong options
        raise not_built(part, error, "a vision transformer") from None
    plain = type(body) is VisionTransformer and type(body.patch_embed) is PatchEmbed
    if not plain or body.pos_embed is None:
        raise ValueError(
            f"model.backbone.name {part.name!r} is a {type(body).__name__}; kind 'vit' takes plain "
            "vision transformers with learned positions; choose a name such as "
            "vit_small_patch14_dinov2, or kind 'timm'"
        )
    patch: int = body.patch_embed.patch_size[0]  # pyright: ignore[reportAssignmentType]
    fitting = [s for s in (patch / 4, patch / 2, patch, 2 * patch) if s == int(s)]
    if wrong := [stride for stride in part.strides if stride not in fitting]:
        raise ValueError(
            f"model.backbone.strides has {wrong[0]}; patches of {part.name!r} are {patch} pixels "
            f"wide, so choose of {', '.join(f'{s:.0f}' for s in fitting)}"
        )
    body.fc_norm = nn.Identity()  # of networks that pool before the norm
    body.reset_classifier(0, "")
    return body


def stretch(cells: int, count: Int[Tensor, " b"], size: int) -> Float[Tensor, "b {size} {cells}"]:
    """Weights that stretch ``cells`` table rows over the first ``count`` of ``size`` places.

    Bicubic and antialiased, as ``F.interpolate`` does it for one image; places behind ``count``
    (padding) repeat the last one.
    """
    ratio = cells / count.clamp(min=1)[:, None, None]
    place = torch.arange(size, device=count.device)[:, None] + 0.5
    centre = (place * ratio).clamp(max=cells - 0.5 * ratio)
    row = torch.arange(cells, device=count.device) + 0.5
    away = ((row - centre) / ratio.clamp(min=1.0)).abs()
    near = (1.5 * away - 2.5) * away * away + 1
    far = ((-0.5 * away + 2.5) * away - 4) * away + 2
    weights = torch.where(away <= 1, near, torch.where(away < 2, far, 0.0))
    return weights / weights.sum(-1, keepdim=True)


def _every(padding: Bool[Tensor, "b y x"] | None, stride: int) -> Bool[Tensor, "b h w"] | None:
    """The padding mask of a map at this stride: that of each cell's first pixel."""
    return None if padding is None else padding[:, ::stride, ::stride]


def _attend(
    block: nn.Module,
    prefix: Float[Tensor, "b p c"],
    x: Float[Tensor, "b h w c"],
    padding: Bool[Tensor, "b h w"] | None,
    window: int | None,
) -> tuple[Float[Tensor, "b p c"], Float[Tensor, "b h w c"]]:
    """Run one block over separate windows, or over all patches.

    Every window has its own copy of the prefix (class and register tokens); the copies are averaged
    afterwards.
    """
    height, width = x.shape[1:3]
    sides = (window, window) if window and window < max(height, width) else (height, width)
    down, right = -height % sides[0], -width % sides[1]
    if padding is None and (down or right):
        padding = torch.zeros((x.shape[0], height, width), dtype=torch.bool, device=x.device)
    cells = _windows(F.pad(x, (0, 0, 0, right, 0, down)), sides)
    copies = prefix[:, None].expand(-1, cells.shape[1], -1, -1)
    visible, share = None, cells.new_ones(cells.shape[:2])
    if padding is not None:
        away = _windows(F.pad(padding, (0, right, 0, down), value=True)[..., None], sides)[..., 0]
        share = (~away.all(2)).to(x.dtype)
        # Some exported softmaxes return NaN for a row without any unmasked key; torch's does not.
        away = away & ~away.all(2, keepdim=True)
        visible = F.pad(~away, (prefix.shape[1], 0), value=True).flatten(0, 1)[:, None, None]
    joined = torch.cat([copies, cells], dim=2)
    joined = block(joined.flatten(0, 1), attn_mask=visible).unflatten(0, joined.shape[:2])
    copies, cells = joined.split([prefix.shape[1], cells.shape[2]], dim=2)
    share = share / share.sum(1, keepdim=True).clamp(min=1.0)
    prefix = (copies * share[:, :, None, None]).sum(1)
    whole = cells.unflatten(1, ((height + down) // sides[0], -1)).unflatten(3, sides)
    whole = whole.transpose(2, 3).flatten(1, 2).flatten(2, 3)
    return prefix, whole[:, :height, :width]


def _windows(x: Tensor, sides: tuple[int, int]) -> Tensor:
    """[b, h, w, c] as [b, windows, cells of a window, c]; h and w are multiples of the window."""
    x = x.unflatten(2, (-1, sides[1])).unflatten(1, (-1, sides[0]))
    return x.transpose(2, 3).flatten(3, 4).flatten(1, 2)


class PyramidLevel(nn.Module):
    """The map of one stride: the last map scaled, then a 1×1 and a 3×3 convolution (ViTDet §3).

    ``stride`` is a quarter of the patch (upsampled in two learned steps), half of it (in one), the
    patch, or twice as much (max-pooled).
    """

    def __init__(self, channels: int, patch: int, stride: int, width: int) -> None:
        super().__init__()
        half, quarter = channels // 2, channels // 4
        self.pooled = stride == 2 * patch
        steps: list[nn.Module] = []
        if 2 * stride <= patch:
            steps.append(nn.ConvTranspose2d(channels, half, 2, 2))
            channels = half
        if 4 * stride == patch:
            steps += [LayerNorm2d(half), nn.GELU(), nn.ConvTranspose2d(half, quarter, 2, 2)]
            channels = quarter
        if self.pooled:
            steps.append(nn.MaxPool2d(2, ceil_mode=True))
        self.scale = nn.Sequential(*steps)
        self.mix = nn.Sequential(nn.Conv2d(channels, width, 1, bias=False), LayerNorm2d(width))
        self.smooth = nn.Sequential(
            nn.Conv2d(width, width, 3, padding=1, bias=False), LayerNorm2d(width)
        )

    def forward(
        self,
        fine: Float[Tensor, "b c h w"],
        padding: Bool[Tensor, "b h w"] | None,
        of_level: Bool[Tensor, "b y x"] | None,
    ) -> Float[Tensor, "b d y x"]:
        """``padding`` is that of the last map, ``of_level`` that of this one; it gets zeros."""
        if padding is None or of_level is None:
            return self.smooth(self.mix(self.scale(fine)))
        lowest = torch.finfo(fine.dtype).min if self.pooled else 0.0
        x = self.scale(fine.masked_fill(padding[:, None], lowest))
        x = self.mix(x.masked_fill(of_level[:, None], 0.0)).masked_fill(of_level[:, None], 0.0)
        return self.smooth(x).masked_fill(of_level[:, None], 0.0)
