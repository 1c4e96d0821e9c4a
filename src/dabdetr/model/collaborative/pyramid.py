"""A batch in the form of classic detectors: a pyramid of maps, and corner boxes in pixels."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import torch
from jaxtyping import Bool, Float, Int64
from torch import Tensor, nn
from torchvision.models.detection.anchor_utils import AnchorGenerator

from dabdetr.geometry import inverse_sigmoid, to_centres, to_corners
from dabdetr.model.positions import anchor_code
from dabdetr.structures import HeadSamples, Images, Memory, QueryGroup, Targets

LEAST_SIDE = 0.01
"""Pixels; a narrower object overlaps with no anchor and is not a target."""
NOTHING, IGNORED = -1, -2
"""In place of an object's row: background; not used in the loss."""
LEAST = 9
"""Smallest number of queries of a group, if there are fewer positives."""


@dataclass(frozen=True)
class HeadInputs:
    """Maps of the encoder, and the objects of every image.

    maps     each [batch, width, h, w] float32, fine to coarse
    strides  pixels between cells, one for each map
    sizes    [batch, 2] float32, width and height of the unpadded images
    boxes    of each image: [objects, 4] float32, corners in pixels
    rows     of each image: [objects] int64, rows of ``targets``
    """

    maps: list[Tensor]
    strides: tuple[int, ...]
    sizes: Tensor
    boxes: list[Tensor]
    rows: list[Tensor]
    targets: Targets

    @cached_property
    def shapes(self) -> list[tuple[int, int]]:
        """(height, width) of every unpadded image."""
        return [(int(height), int(width)) for width, height in self.sizes.tolist()]

    def labels(self, image: int) -> Int64[Tensor, " objects"]:
        """Class labels of an image's objects."""
        return self.targets.labels[self.rows[image]]

    def anchors(self, generator: AnchorGenerator) -> list[Float[Tensor, "places 4"]]:
        """The anchors of every map, cell by cell, from the image's top left corner."""
        generator.set_cell_anchors(torch.float32, self.sizes.device)
        shapes = [list(level.shape[-2:]) for level in self.maps]
        return generator.grid_anchors(shapes, [[s, s] for s in self.strides])  # pyright: ignore

    def shown(self, anchors: Float[Tensor, "places 4"]) -> Bool[Tensor, "batch places"]:
        """Whether each anchor's centre lies in the image rather than in its padding."""
        return (centres(anchors) < self.sizes[:, None]).all(-1)

    def relative(self, boxes: Float[Tensor, "n 4"], image: int) -> Float[Tensor, "n 4"]:
        """Corners in pixels → cxcywh, 0–1 of the unpadded image."""
        return to_centres(boxes / self.sizes[image].repeat(2))


@dataclass(frozen=True)
class Found:
    """Output of one collaborative head: samples for the losses, places for the decoder.

    samples   for the losses, by loss table
    places    of each image: [places, 4] float32, corners in pixels
    rows      of each image: [places] int64, the row of ``Targets`` behind it, or NOTHING, IGNORED
    features  of each image: [places, width], what the maps show there
    """

    samples: tuple[HeadSamples, ...]
    places: list[Tensor]
    rows: list[Tensor]
    features: list[Tensor]


def centres(boxes: Float[Tensor, "n 4"]) -> Float[Tensor, "n 2"]:
    """Centres of corner boxes."""
    return (boxes[:, :2] + boxes[:, 2:]) / 2


def maps_of(memory: Memory) -> list[Float[Tensor, "b c h w"]]:
    """Tokens reshaped to maps, fine to coarse."""
    levels = memory.tokens.float().split([h * w for h, w in memory.shapes], dim=1)
    return [
        level.transpose(1, 2).unflatten(2, shape)
        for level, shape in zip(levels, memory.shapes, strict=True)
    ]


def sizes_of(images: Images) -> Float[Tensor, "batch 2"]:
    """Width and height of every unpadded image, at least 1 pixel each."""
    height, width = images.pixels.shape[-2:]
    if images.padding is None:
        size = torch.tensor([width, height], device=images.pixels.device)
        return size.expand(len(images.pixels), 2).float()
    seen = ~images.padding
    return torch.stack((seen.any(1).sum(1), seen.any(2).sum(1)), dim=-1).clamp(min=1).float()


def head_inputs(
    maps: list[Tensor], strides: tuple[int, ...], images: Images, targets: Targets
) -> HeadInputs:
    """The batch in pixels; objects without area are left out."""
    sizes = sizes_of(images)
    boxes, rows, start = [], [], 0
    for size, count in zip(sizes, targets.counts, strict=True):
        own = to_corners(targets.boxes[start : start + count].float()) * size.repeat(2)
        wide = (own[:, 2:] - own[:, :2] > LEAST_SIDE).all(-1)
        boxes.append(own[wide])
        rows.append(start + wide.nonzero()[:, 0])
        start += count
    return HeadInputs(maps, strides, sizes, boxes, rows, targets)


class PositiveQueries(nn.Module):
    """Places where a head has positives become queries with the same objects.

    Images with fewer positives than others get additional places without an object.
    """

    def __init__(self, name: str, width: int, most: int, features: bool, eps: float) -> None:
        super().__init__()
        self.name, self.width, self.most, self.eps = name, width, most, eps
        self.place = nn.Sequential(nn.Linear(2 * width, width), nn.LayerNorm(width))
        self.feature: nn.Sequential | None = None
        if features:
            self.feature = nn.Sequential(nn.Linear(width, width), nn.LayerNorm(width))

    def forward(self, inputs: HeadInputs, found: Found) -> QueryGroup:
        """A group whose queries attend to one another only, with the head's assignment."""
        positives = max(int((rows >= 0).sum()) for rows in found.rows)
        count = min(self.most, max(LEAST, positives))
        batch, device = len(found.rows), inputs.sizes.device
        anchors = torch.full((batch, count, 4), 0.5, device=device)
        features = torch.zeros(batch, count, self.width, device=device)
        rows = torch.full((batch, count), NOTHING, device=device)
        filled = torch.zeros(batch, count, dtype=torch.bool, device=device)
        for image in range(batch):
            chosen = choose(found.rows[image], count)
            slots = slice(0, len(chosen))
            anchors[image, slots] = inputs.relative(found.places[image][chosen], image)
            features[image, slots] = found.features[image][chosen].to(features.dtype)
            rows[image, slots] = found.rows[image][chosen]
            filled[image, slots] = True
        anchors = inverse_sigmoid(anchors.detach(), self.eps).sigmoid()
        content = self.place(anchor_code(anchors, self.width))
        if self.feature is not None:
            content = content + self.feature(features)
        image, query = (rows >= 0).nonzero(as_tuple=True)
        return QueryGroup(
            name=f"{self.name}_queries",
            content=content * filled[..., None],
            anchors=anchors,
            attention_mask=torch.zeros(count, count, dtype=torch.bool, device=device),
            image=image,
            query=query,
            target=rows[image, query],
            # Losses are divided by the positives; queries without an object do not count (SPEC).
            copies=max(1, len(query)) / max(1, len(inputs.targets.labels)),
            supervised=filled,
            sees_matching=False,
        )


def choose(rows: Int64[Tensor, " places"], count: int) -> Int64[Tensor, " chosen"]:
    """Up to ``count`` random places: those with objects first, then those without."""
    chosen = _some((rows >= 0).nonzero()[:, 0], count)
    return torch.cat((chosen, _some((rows == NOTHING).nonzero()[:, 0], count - len(chosen))))


def _some(places: Tensor, count: int) -> Tensor:
    return places[torch.randperm(len(places), device=places.device)[:count]]
