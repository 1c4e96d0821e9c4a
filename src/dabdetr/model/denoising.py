"""Denoising: noisy copies of the true objects are queries whose objects are known from the start.

DN-DETR asks for the object behind each copy. DINO also makes copies that lie farther off, and asks
for "nothing" there. Both make one query group, present in training only. What it has taught the
decoder also serves questions: what is at this box, and where does it end?
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
from jaxtyping import Float, Int64
from torch import Tensor, nn

from dabdetr import config
from dabdetr.geometry import inverse_sigmoid, to_centres, to_corners
from dabdetr.structures import Queries, QueryGroup, Questions, Targets

Part = config.Denoising | config.ContrastiveDenoising

COUNTS_OBJECTS = 50
"""From this ``number`` on, contrastive denoising counts copies; below it, half the groups."""


@dataclass(frozen=True)
class Noise:
    """The random numbers behind one batch of copies; all that denoising ever draws.

    chance  [copies, objects] uniform in 0–1: below ``label_noise`` a random class is drawn
    labels  [copies, objects] int64, uniform over the classes: the class drawn
    shift   [copies, objects, 4] uniform in −1–1: how far the box moves, and which way
    """

    chance: Float[Tensor, "copies objects"]
    labels: Int64[Tensor, "copies objects"]
    shift: Float[Tensor, "copies objects 4"]


def draw_noise(copies: int, objects: int, classes: int, device: torch.device) -> Noise:
    """Fresh numbers from torch's own generator of ``device``."""
    shape = (copies, objects)
    chance = torch.rand(shape, device=device)
    labels = torch.randint(classes, shape, device=device)
    shift = 2 * torch.rand((*shape, 4), device=device) - 1
    return Noise(chance, labels, shift)


def content_width(part: Part | None, width: int) -> int:
    """Content channels besides the indicator channel, which only kind "dn" has."""
    return width - (part is not None and part.kind == "dn")


class Denoising(nn.Module):
    """Targets → a group of noisy copies, with a table of what each class looks like as content.

    The table has one row more than classes: "unknown". With kind "dn" the last channel of content
    is no class but an indicator: 1 for copies, 0 for the matching queries.
    """

    def __init__(
        self, part: Part, classes: int, width: int, eps: float = 1e-3, unknown: bool = False
    ) -> None:
        """``unknown``: the matching queries start from the content of no class (DN-DETR)."""
        super().__init__()
        if classes < 1:
            raise ValueError(
                f"model.denoising disturbs labels and needs at least one class; got {classes}; "
                "name the classes or set model.denoising to null"
            )
        self.part, self.classes, self.width, self.eps = part, classes, width, eps
        self.indicator, self.unknown = part.kind == "dn", unknown
        self.signs = 1 if part.kind == "dn" else 2  # in a group: positives, then negatives
        self.labels = nn.Embedding(classes + 1, content_width(part, width))

    def beside_copies(self, queries: Queries) -> Queries:
        """The matching queries with indicator 0; content "unknown" added if they start from it."""
        content = queries.content
        content = nn.functional.pad(content, (0, self.width - content.shape[-1]))
        if self.unknown:
            row = torch.tensor(self.classes, device=content.device)
            content = content + self._content(row, copy=0.0)
        return replace(queries, content=content)

    def forward(self, targets: Targets, noise: Noise | None = None) -> QueryGroup | None:
        """The group of a batch; None where no image has an object.

        The queries are ordered copy by copy. Each copy has a slot for every object of the fullest
        image, in target order. Slots without an object have content 0 and the anchor (.5, .5, .5,
        .5).
        """
        if not len(targets.labels):
            return None
        objects, most = len(targets.labels), max(targets.counts)
        groups = _group_count(self.part, most)
        copies, device = groups * self.signs, targets.labels.device
        if noise is None:
            noise = draw_noise(copies, objects, self.classes, device)
        image, place = _places(targets, device)
        number = torch.arange(copies, device=device)[:, None]  # within the copy
        slots = (image.expand(copies, -1), number * most + place)

        known = self._content(self._noisy_labels(targets.labels, noise), 1.0)
        content = known.new_zeros(len(targets.counts), copies * most, self.width)
        boxes = self._noisy_anchors(targets.boxes, noise)
        anchors = boxes.new_full((*content.shape[:2], 4), 0.5)
        filled = torch.zeros(content.shape[:2], dtype=torch.bool, device=device)
        filled[slots] = True
        group = torch.arange(copies * most, device=device) // (self.signs * most)
        positive = slice(None, None, self.signs)
        return QueryGroup(
            name="denoising",
            content=content.index_put(slots, known),
            anchors=anchors.index_put(slots, boxes),
            attention_mask=group[:, None] != group,
            image=slots[0][positive].flatten(),
            query=slots[1][positive].flatten(),
            target=torch.arange(objects, device=device).repeat(groups),
            copies=groups,
            # DINO supervises negatives and padding as background; DN-DETR ignores padding.
            supervised=filled if self.part.kind == "dn" else torch.ones_like(filled),
        )

    def questions(self, asked: Questions) -> QueryGroup:
        """A group with one query per box. Each attends to the matching queries and to itself only.

        Its content is the table's row of the presumed class, or the mean of all classes' rows where
        no class was given.
        """
        rows = self.labels.weight
        table = torch.cat((rows, rows[: self.classes].mean(0, keepdim=True)))
        labels = asked.labels.where(asked.labels >= 0, self.classes + 1)
        number = torch.arange(labels.shape[1], device=labels.device)
        none = number[:0]
        return QueryGroup(
            name="questions",
            content=self._marked(nn.functional.embedding(labels, table), 1.0),
            anchors=inverse_sigmoid(asked.boxes, self.eps).sigmoid(),
            attention_mask=number[:, None] != number,
            image=none,
            query=none,
            target=none,
            copies=1,
            supervised=torch.zeros_like(labels, dtype=torch.bool),
        )

    def _content(self, labels: Int64[Tensor, "*shape"], copy: float) -> Float[Tensor, "*shape c"]:
        """Rows of the table; with an indicator, also whether they are copies."""
        return self._marked(self.labels(labels), copy)

    def _marked(self, content: Tensor, copy: float) -> Tensor:
        """Content with the indicator channel, where the kind has one."""
        return nn.functional.pad(content, (0, 1), value=copy) if self.indicator else content

    def _noisy_labels(
        self, labels: Int64[Tensor, " objects"], noise: Noise
    ) -> Int64[Tensor, "copies objects"]:
        """Labels with some classes replaced by random ones, which may equal the true one."""
        return torch.where(noise.chance < self.part.label_noise, noise.labels, labels)

    @torch.no_grad()
    def _noisy_anchors(
        self, boxes: Float[Tensor, "objects 4"], noise: Noise
    ) -> Float[Tensor, "copies objects 4"]:
        """Moved boxes in logit space, each number clamped to 0–1 and kept off the ends by eps."""
        boxes, shift, amount = boxes.float(), noise.shift.float(), self.part.box_noise
        size = boxes[:, 2:]
        if self.part.kind == "dn":
            reach = torch.cat((size / 2, size), dim=-1)
            moved = boxes + shift * reach * amount
        else:
            # Every other copy is negative: its edges move one more half side the same way.
            far = (torch.arange(len(shift), device=shift.device) % self.signs)[:, None, None]
            shift = torch.copysign(shift.abs() + far, shift)
            reach = torch.cat((size / 2, size / 2), dim=-1)
            # Edges may change places; the side is then clamped to the smallest allowed one.
            moved = to_centres((to_corners(boxes) + shift * reach * amount).clamp(0, 1))
        return inverse_sigmoid(moved, self.eps).sigmoid()


def _group_count(part: Part, most: int) -> int:
    """Copies for a batch whose fullest image has ``most`` objects (the reference's rule)."""
    if part.kind == "dn":
        return part.groups
    if part.number < COUNTS_OBJECTS:
        return 2 * part.number
    return max(1, part.number // most)


def _places(
    targets: Targets, device: torch.device
) -> tuple[Int64[Tensor, " objects"], Int64[Tensor, " objects"]]:
    """The image of each object, and its index among the objects of that image."""
    counts = torch.tensor(targets.counts)
    image = torch.arange(len(counts)).repeat_interleave(counts)
    first = counts.cumsum(0) - counts
    place = torch.arange(len(image)) - first[image]
    return image.to(device), place.to(device)
