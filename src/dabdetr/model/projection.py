"""From maps to tokens of one width, with their positions."""

from __future__ import annotations

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn

from dabdetr import config
from dabdetr.model.backbones import shrink
from dabdetr.model.deformable import valid_ratios
from dabdetr.model.positions import map_code
from dabdetr.structures import Features, Memory


class Projection(nn.Module):
    """The single map of a dense member as tokens, row by row."""

    def __init__(self, channels: int, model: config.Model) -> None:
        super().__init__()
        self.model = model
        self.project = nn.Conv2d(channels, model.width, kernel_size=1)

    def forward(self, features: Features) -> Memory:
        (fine,), (padding,) = features.maps, features.paddings
        tokens = self.project(fine).flatten(2).transpose(1, 2)  # [b, c, h, w] → [b, h · w, c]
        code = _code(self.model, fine, padding).flatten(1, 2)
        flat = None if padding is None else padding.flatten(1)
        return Memory(tokens, code, flat, ((fine.shape[-2], fine.shape[-1]),))


class Pyramid(nn.Module):
    """Several maps as the tokens of all levels, fine to coarse (Deformable DETR, appendix A.4).

    Each level beyond the backbone's maps is half the size of the one before; the first of them is
    made from the backbone's last map before projection.
    """

    def __init__(self, channels: list[int], model: config.Model, levels: int) -> None:
        super().__init__()
        self.model = model
        self.project = nn.ModuleList(_level(n, model.width, 1) for n in channels)
        for extra in range(levels - len(channels)):
            self.project.append(_level(model.width if extra else channels[-1], model.width, 3))
        self.levels = nn.Parameter(torch.randn(levels, model.width))

    def forward(self, features: Features) -> Memory:
        maps = [project(m) for project, m in zip(self.project, features.maps, strict=False)]
        paddings = list(features.paddings)
        for project in list(self.project)[len(maps) :]:
            further = len(maps) > len(features.maps)
            maps.append(project(maps[-1] if further else features.maps[-1]))
            paddings.append(shrink(features.padding, maps[-1].shape[-2:]))
        codes = [
            (_code(self.model, m, p) + level).flatten(1, 2)
            for m, p, level in zip(maps, paddings, self.levels, strict=True)
        ]
        shown = [p.flatten(1) for p in paddings if p is not None]
        return Memory(
            torch.cat([m.flatten(2).transpose(1, 2) for m in maps], dim=1),  # [b, all h · w, c]
            torch.cat(codes, dim=1),
            torch.cat(shown, dim=1) if shown else None,
            tuple((m.shape[-2], m.shape[-1]) for m in maps),
            valid_ratios(paddings, maps[0].shape[0], maps[0].device),
        )


def _level(channels: int, width: int, kernel: int) -> nn.Sequential:
    """A convolution (kernel 1 keeps the size, 3 halves it) and a group norm."""
    stride, padding = (1, 0) if kernel == 1 else (2, 1)
    conv = nn.Conv2d(channels, width, kernel, stride, padding)
    nn.init.xavier_uniform_(conv.weight)
    nn.init.zeros_(conv.bias)  # pyright: ignore[reportArgumentType]
    groups = 32 if width % 32 == 0 else 4
    return nn.Sequential(conv, nn.GroupNorm(groups, width))


def _code(
    model: config.Model, fine: Float[Tensor, "b c h w"], padding: Bool[Tensor, "b h w"] | None
) -> Float[Tensor, "#b h w width"]:
    """Position codes of a map; shared by all images if none is padded."""
    if padding is None:
        padding = torch.zeros((1, *fine.shape[-2:]), dtype=torch.bool, device=fine.device)
    height, width = model.position_temperature, model.position_temperature_width
    return map_code(padding, model.width, height, model.position_offset, width)
