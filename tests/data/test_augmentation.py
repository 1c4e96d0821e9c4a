"""Boxes move with pixels, sizes keep their bounds, and nothing random comes from outside."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from dabdetr.config import Augment, Image
from dabdetr.data.augmentation import Augmentation, CropShape, Example, prepare
from dabdetr.data.preprocessing import SHORTEST, input_size

PLAIN = Image(size=64, max_size=128, mean=(0, 0, 0), std=(1, 1, 1))
"""No normalisation to speak of: pixels come out as 0–1."""


def planted(height: int, width: int, box: tuple[int, int, int, int]) -> np.ndarray:
    """A black image with a white rectangle."""
    image = np.zeros((height, width, 3), np.uint8)
    x0, y0, x1, y1 = box
    image[y0:y1, x0:x1] = 255
    return image


def seen_box(pixels: torch.Tensor) -> list[float]:
    """The rectangle, to the pixel: columns and rows that are brighter than one half."""
    columns, rows = (np.flatnonzero(pixels[0].amax(axis).numpy() > 0.5) for axis in (0, 1))
    return [columns[0], rows[0], columns[-1] + 1, rows[-1] + 1]


@st.composite
def scenes(draw: st.DrawFn) -> tuple[np.ndarray, tuple[int, int, int, int]]:
    """An image of up to 120 pixels a side and the box of the rectangle in it."""
    height, width = draw(st.integers(40, 120)), draw(st.integers(40, 120))
    x0, y0 = draw(st.integers(0, width - 16)), draw(st.integers(0, height - 16))
    x1, y1 = draw(st.integers(x0 + 16, width)), draw(st.integers(y0 + 16, height))
    return planted(height, width, (x0, y0, x1, y1)), (x0, y0, x1, y1)


def augmented(
    image: np.ndarray, boxes: object, augment: Augment | None, seed: int, settings: Image = PLAIN
) -> Example:
    boxes = np.array(boxes, dtype=np.float32).reshape(-1, 4)
    labels = np.arange(len(boxes))
    return Augmentation(augment, settings)(image, boxes, labels, np.random.default_rng(seed))


@given(scenes(), st.integers(0, 2**32 - 1))
@settings(max_examples=150)
def test_boxes_move_with_pixels(
    scene: tuple[np.ndarray, tuple[int, int, int, int]], seed: int
) -> None:
    image, box = scene
    augment = Augment(flip=0.5, crop=0.7, sizes=(48, 64, 96), crop_scale=(0.3, 1.0))
    pixels, boxes, labels = augmented(image, box, augment, seed)
    assert labels.tolist() == [0]
    assert pixels.dtype == torch.float32
    height, width = pixels.shape[1:]
    x0, y0, x1, y1 = boxes[0].tolist()
    assert 0 <= x0 < x1 <= width
    assert 0 <= y0 < y1 <= height
    assume(min(x1 - x0, y1 - y0) > 4)  # thinner than the filter's reach, brightness fades
    # An edge seen at half brightness lies within a pixel of where the box has it, each axis scaled.
    assert seen_box(pixels) == pytest.approx([x0, y0, x1, y1], abs=1.01)


@given(scenes())
def test_two_flips_are_none(scene: tuple[np.ndarray, tuple[int, int, int, int]]) -> None:
    image, box = scene
    settings = Image(size=min(image.shape[:2]), max_size=120, mean=(0, 0, 0), std=(1, 1, 1))
    always = Augment(flip=1, crop=0)
    once = augmented(image, box, always, 0, settings)
    again = (once.pixels * 255).round().to(torch.uint8).permute(1, 2, 0).numpy()
    twice = augmented(again, once.boxes.numpy(), always, 1, settings)
    assert not torch.equal(once.pixels, torch.from_numpy(image).permute(2, 0, 1) / 255) or (
        box[0] == image.shape[1] - box[2]
    )
    torch.testing.assert_close(twice.pixels, torch.from_numpy(image).permute(2, 0, 1) / 255)
    torch.testing.assert_close(twice.boxes, torch.tensor([box], dtype=torch.float32))


def test_several_boxes_keep_their_labels() -> None:
    image = planted(100, 100, (0, 0, 50, 100))
    boxes = [[0, 0, 50, 100], [60, 0, 70, 10], [0, 90, 100, 100]]
    pixels, moved, labels = augmented(image, boxes, Augment(flip=1, crop=0), 0)
    assert pixels.shape == (3, 64, 64)
    wanted = torch.tensor([[50, 0, 100, 100], [30, 0, 40, 10], [0, 90, 100, 100]]) * 0.64
    torch.testing.assert_close(moved, wanted)
    assert labels.tolist() == [0, 1, 2]


def test_crop_keeps_objects_and_drops_slivers() -> None:
    image = planted(200, 200, (90, 90, 110, 110))
    augmentation = Augmentation(Augment(flip=0), PLAIN)
    boxes = np.float32([[90, 90, 110, 110], [0, 0, 20, 20], [0, 0, 200, 200]])
    kept_all = 0
    for seed in range(60):
        rng = np.random.default_rng(seed)
        example = augmentation(image, boxes, np.array([4, 5, 6]), rng, CropShape(0.5, 0.5))
        assert example.labels.tolist()[-1] == 6  # the large one covers any crop
        low, high = example.boxes.split(2, 1)
        assert (high > low).all()
        rest = (high - low).prod(1) * (100 / 64) ** 2
        whole = torch.tensor([{4: 400, 5: 400, 6: 40000}[v] for v in example.labels.tolist()])
        assert ((rest >= 0.1 * whole - 0.1) | (rest >= 0.01 * 100 * 100)).all()
        kept_all += len(example.labels) == 3
    assert 0 < kept_all < 60


def test_a_crop_without_any_object_is_not_made() -> None:
    image = planted(200, 200, (0, 0, 2, 2))
    augmentation = Augmentation(Augment(flip=0), PLAIN)
    box = np.float32([[0, 0, 2, 2]])
    whole = augmentation(image, box, np.array([0]), np.random.default_rng(0), CropShape(0.1, 0.2))
    assert whole.labels.tolist() == [0]
    assert whole.pixels.shape == (3, 64, 64)
    none = np.empty((0, 4), np.float32)
    empty = augmentation(
        image, none, np.empty(0, np.int64), np.random.default_rng(0), CropShape(0.1, 0.2)
    )
    assert empty.pixels.shape == (3, 64, 128)
    assert empty.boxes.shape == (0, 4)


def test_probabilities_are_those_of_the_config() -> None:
    image = planted(64, 64, (0, 0, 16, 64))
    augmentation = Augmentation(Augment(flip=0.3, crop=0.4, crop_scale=(0.6, 0.8)), PLAIN)
    rng = np.random.default_rng(0)
    crops = [augmentation.draw_crop(rng) for _ in range(1000)]
    whole = np.array([crop == (1, 1) for crop in crops])
    assert 0.35 < (~whole).mean() < 0.45
    sides = np.array([side for crop in crops if crop != (1, 1) for side in crop])
    assert sides.min() >= 0.6
    assert sides.max() <= 0.8
    flips = sum(
        augmented(image, [0, 0, 16, 64], Augment(flip=0.3, crop=0), seed).boxes[0, 0].item() > 0
        for seed in range(300)
    )
    assert 60 < flips < 120


def test_without_augmentation_training_sees_what_evaluation_sees() -> None:
    image = np.random.default_rng(0).integers(0, 256, (90, 130, 3), dtype=np.uint8)
    settings = Image(size=64, max_size=128)
    for seed in range(3):
        example = augmented(image, [1, 2, 30, 40], None, seed, settings)
        assert torch.equal(example.pixels, prepare(image, settings))


def test_normalisation() -> None:
    image = np.full((64, 64, 3), (255, 0, 51), np.uint8)
    settings = Image(size=64, max_size=64, mean=(0.5, 0.25, 0.1), std=(0.5, 0.25, 0.2))
    pixels = prepare(image, settings)
    torch.testing.assert_close(pixels[:, 5, 5], torch.tensor([1.0, -1.0, 0.5]))
    assert pixels.is_contiguous()


def test_colour_changes_pixels_not_boxes() -> None:
    image = np.random.default_rng(0).integers(60, 190, (64, 64, 3), dtype=np.uint8)
    plain = augmented(image, [5, 6, 40, 50], Augment(flip=0, crop=0), 3)
    loud = augmented(image, [5, 6, 40, 50], Augment(flip=0, crop=0, colour=1), 3)
    assert (plain.pixels - loud.pixels).abs().mean() > 0.01
    torch.testing.assert_close(plain.boxes, loud.boxes)
    assert loud.pixels.min() >= 0
    assert loud.pixels.max() <= 1


def test_the_callers_random_state_and_image_are_left_alone() -> None:
    image = np.random.default_rng(0).integers(0, 256, (80, 80, 3), dtype=np.uint8)
    copy = image.copy()
    torch.manual_seed(1)
    np.random.seed(1)  # noqa: NPY002
    before, numpy_before = torch.get_rng_state(), np.random.get_state()[1].copy()  # noqa: NPY002  # pyright: ignore
    augmented(image, [5, 6, 40, 50], Augment(flip=1, crop=1, colour=1, sizes=(64, 80)), 3)
    prepare(image, Image(size=80, max_size=80))
    assert torch.equal(before, torch.get_rng_state())
    np.testing.assert_array_equal(numpy_before, np.random.get_state()[1])  # noqa: NPY002  # pyright: ignore
    np.testing.assert_array_equal(image, copy)
    image.flags.writeable = False
    prepare(image, Image(size=64, max_size=80))


@pytest.mark.parametrize(
    ("height", "width", "size", "longest", "wanted"),
    [
        (480, 640, 800, 1333, (800, 1066)),  # DETR's own arithmetic
        (640, 480, 800, 1333, (1066, 800)),
        (427, 640, 800, 1333, (800, 1199)),
        (500, 375, 800, 1333, (1066, 800)),
        (300, 1000, 800, 1333, (400, 1333)),
        (800, 800, 800, 1333, (800, 800)),
        (1, 1, 384, 512, (384, 384)),
        (10, 20000, 384, 512, (SHORTEST, 512)),
        (20000, 10, 384, 512, (512, SHORTEST)),
        (10, 20000, 16, 512, (16, 512)),
    ],
)
def test_input_sizes(
    height: int, width: int, size: int, longest: int, wanted: tuple[int, int]
) -> None:
    assert input_size(height, width, Image(size=size, max_size=longest)) == wanted


@given(
    st.integers(1, 30000),
    st.integers(1, 30000),
    st.integers(32, 1000),
    st.floats(1, 3),
    st.one_of(st.none(), st.integers(32, 1500)),
)
@settings(max_examples=300)
def test_input_sizes_keep_their_bounds(
    height: int, width: int, size: int, slack: float, shorter: int | None
) -> None:
    settings = Image(size=size, max_size=int(size * slack) + 1)
    high, wide = input_size(height, width, settings, shorter)
    side = shorter or size
    assert SHORTEST <= min(high, wide) <= max(side, SHORTEST)
    assert max(high, wide) <= max(settings.max_size, round(settings.max_size * side / size))
    assert (high >= wide) if height > width else (high <= wide)
    assert input_size(width, height, settings, shorter) == (wide, high)
    if min(high, wide) > 64:
        assert high / wide == pytest.approx(height / width, rel=0.02)


def test_extreme_images_go_through() -> None:
    settings = Image(size=64, max_size=128)
    for height, width in ((1, 1), (10, 20000), (20000, 10)):
        image = np.zeros((height, width, 3), np.uint8)
        pixels = prepare(image, settings)
        assert pixels.shape[1:] == input_size(height, width, settings)
        example = augmented(image, [0, 0, width, height], Augment(crop=1), 0, settings)
        assert min(example.pixels.shape[1:]) >= SHORTEST
        assert (example.boxes[:, 2:] > example.boxes[:, :2]).all()
