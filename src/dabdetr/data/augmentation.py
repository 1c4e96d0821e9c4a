"""From an image to the network's input: size, random changes, normalisation.

Boxes move with the pixels (``torchvision.tv_tensors``). Nothing here touches torch's own random
state: all random numbers come from the numpy generator that is passed in.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
import torch
from jaxtyping import Float, Int64
from torch import Tensor
from torchvision import tv_tensors
from torchvision.transforms.v2 import functional as change

from dabdetr.config import Augment, Image
from dabdetr.data.preprocessing import input_size

_TRIES = 10  # positions tried for a crop before the whole image is used
_SLIVER = (0.1, 0.01)  # remaining share of the box, share of the crop: below both, dropped
_JITTER = 0.4  # largest change of brightness, contrast and saturation


class Example(NamedTuple):
    """An image ready for a batch, and its objects.

    pixels  [3, height, width] float32, normalised
    boxes   [objects, 4] float32, x0 y0 x1 y1 in pixels of ``pixels``
    labels  [objects] int64
    """

    pixels: Float[Tensor, "3 height width"]
    boxes: Float[Tensor, "objects 4"]
    labels: Int64[Tensor, " objects"]


Transform = Callable[
    [np.ndarray, np.ndarray, np.ndarray, np.random.Generator],
    tuple[np.ndarray, np.ndarray, np.ndarray],
]
"""A user's own augmentation: image (RGB uint8 [height, width, 3]), boxes (float32 [objects, 4],
x0 y0 x1 y1 in pixels), labels (int64 [objects]) and a random generator → image, boxes, labels."""


def transformed(
    transform: Transform,
    image: np.ndarray,
    boxes: np.ndarray,
    labels: np.ndarray,
    rng: np.random.Generator,
    file: str,
    classes: int,
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """The image, boxes and labels that ``transform`` returns; boxes are clipped to the image.

    Boxes without area after clipping are dropped. ValueError, naming the image's ``file``, if the
    result is not that of a ``Transform``.
    """
    wrong = f"{file}: the transform should return image, boxes and labels"
    result: Any = transform(image.copy(), boxes.copy(), labels.copy(), rng)
    if not isinstance(result, tuple | list) or len(result) != 3:
        raise ValueError(f"{wrong}; got {type(result).__name__}")
    image, boxes, labels = (np.asarray(each) for each in result)
    if image.ndim != 3 or image.shape[2] != 3 or image.dtype != np.uint8 or not image.size:
        raise ValueError(
            f"{wrong}; the image should be uint8 [height, width, 3]; got {image.dtype} "
            f"{list(image.shape)}"
        )
    if not boxes.size:
        boxes, labels = np.zeros((0, 4)), np.zeros(0)
    if boxes.ndim != 2 or boxes.shape[1] != 4 or not np.isfinite(boxes).all():
        raise ValueError(
            f"{wrong}; the boxes should be finite numbers [objects, 4]; got {boxes.dtype} "
            f"{list(boxes.shape)}"
        )
    if labels.shape != boxes.shape[:1] or not np.isin(labels, np.arange(classes)).all():
        raise ValueError(
            f"{wrong}; the labels should be one of 0 … {classes - 1} for each of {len(boxes)} "
            f"boxes; got {labels.tolist()[:5]}"
        )
    height, width = image.shape[:2]
    boxes = boxes.clip(0, [width, height, width, height]).astype(np.float32)
    inside = (boxes[:, 2:] > boxes[:, :2]).all(axis=1)
    return np.ascontiguousarray(image), boxes[inside], labels[inside].astype(np.int64)


def prepare(array: np.ndarray, image: Image) -> Float[Tensor, "3 height width"]:
    """The model input for an RGB uint8 [height, width, 3] image in evaluation and prediction."""
    pixels = _tensor(array)
    size = input_size(array.shape[0], array.shape[1], image)
    return _normalise(_resize(pixels, size), image)


class CropShape(NamedTuple):
    """Height and width of a crop as shares of the image's; (1, 1) is no crop."""

    height: float
    width: float


class Augmentation:
    """Random flip, crop, resize and colour of training images; ``augment=None`` only resizes."""

    def __init__(self, augment: Augment | None, image: Image) -> None:
        self.augment, self.image = augment, image

    def draw_crop(self, rng: np.random.Generator) -> CropShape:
        """The shape of a crop; drawn in advance so that a batch can group similar shapes."""
        if self.augment is None or rng.random() >= self.augment.crop:
            return CropShape(1.0, 1.0)
        return CropShape(*rng.uniform(*self.augment.crop_scale, 2).tolist())

    def draw_side(self, rng: np.random.Generator) -> int:
        """The shorter side in pixels, the same for the whole batch."""
        if self.augment is None or not self.augment.sizes:
            return self.image.size
        return int(rng.choice(self.augment.sizes))

    def __call__(
        self,
        image: np.ndarray,
        boxes: np.ndarray,
        labels: np.ndarray,
        rng: np.random.Generator,
        crop: CropShape | None = None,
        side: int | None = None,
    ) -> Example:
        """The augmented example; ``image`` is RGB uint8, ``boxes`` [n, 4] x0 y0 x1 y1 in pixels."""
        crop = self.draw_crop(rng) if crop is None else crop
        side = self.draw_side(rng) if side is None else side
        pixels, classes = _tensor(image), torch.from_numpy(np.array(labels, dtype=np.int64))
        frame = (image.shape[0], image.shape[1])
        corners = torch.from_numpy(np.array(boxes, dtype=np.float32).reshape(-1, 4))
        objects = _objects(corners, frame)
        if crop != (1.0, 1.0):
            pixels, objects, classes = _crop(pixels, objects, classes, crop, rng)
        size = input_size(pixels.shape[-2], pixels.shape[-1], self.image, side)
        pixels, objects = _resize(pixels, size), change.resize(objects, list(size))
        if self.augment is not None:
            if rng.random() < self.augment.flip:
                pixels, objects = change.horizontal_flip(pixels), change.horizontal_flip(objects)
            if rng.random() < self.augment.colour:
                pixels = _recolour(pixels, rng)
        objects = change.clamp_bounding_boxes(objects)  # scaling may round to just outside
        return Example(_normalise(pixels, self.image), objects.as_subclass(Tensor), classes)


def _crop(
    pixels: Tensor,
    objects: tv_tensors.BoundingBoxes,
    labels: Tensor,
    shape: CropShape,
    rng: np.random.Generator,
) -> tuple[Tensor, tv_tensors.BoundingBoxes, Tensor]:
    """Crop at a random position; the whole image if no tried position keeps an object.

    An object is kept if a tenth of its box is inside the crop, or if the part inside covers a
    hundredth of the crop.
    """
    full_height, full_width = pixels.shape[-2:]
    height = min(full_height, max(1, round(full_height * shape.height)))
    width = min(full_width, max(1, round(full_width * shape.width)))
    full = _areas(objects)
    for _ in range(_TRIES):
        top = int(rng.integers(full_height - height + 1))
        left = int(rng.integers(full_width - width + 1))
        moved = change.crop(objects, top, left, height, width)
        inside = _areas(moved)
        keep = (inside >= _SLIVER[0] * full) | (inside >= _SLIVER[1] * height * width)
        if keep.any() or not len(objects):
            cropped = _objects(moved.as_subclass(Tensor)[keep], (height, width))
            return pixels[:, top : top + height, left : left + width], cropped, labels[keep]
    return pixels, objects, labels


def _objects(corners: Tensor, frame: tuple[int, int]) -> tv_tensors.BoundingBoxes:
    return tv_tensors.BoundingBoxes(  # pyright: ignore[reportCallIssue]
        corners, format=tv_tensors.BoundingBoxFormat.XYXY, canvas_size=frame
    )


def _areas(boxes: Tensor) -> Tensor:
    low, high = boxes.as_subclass(Tensor).split(2, dim=-1)
    return (high - low).clamp(min=0).prod(-1)


def _recolour(pixels: Tensor, rng: np.random.Generator) -> Tensor:
    brightness, contrast, saturation = rng.uniform(1 - _JITTER, 1 + _JITTER, 3).tolist()
    pixels = change.adjust_brightness(pixels, brightness)
    pixels = change.adjust_contrast(pixels, contrast)
    return change.adjust_saturation(pixels, saturation)


def _tensor(image: np.ndarray) -> Tensor:
    """[3, height, width] uint8; shares memory with ``image`` if that is writeable."""
    image = image if image.flags.writeable else image.copy()
    return torch.from_numpy(image).permute(2, 0, 1)


def _resize(pixels: Tensor, size: tuple[int, int]) -> Tensor:
    """uint8 → uint8, antialiased; torch has a fast path for uint8."""
    if tuple(pixels.shape[-2:]) == size:
        return pixels
    return change.resize(pixels, list(size), antialias=True)


def _normalise(pixels: Tensor, image: Image) -> Tensor:
    mean = torch.tensor(image.mean).view(3, 1, 1) * 255
    std = torch.tensor(image.std).view(3, 1, 1) * 255
    return pixels.to(torch.float32, memory_format=torch.contiguous_format).sub_(mean).div_(std)
