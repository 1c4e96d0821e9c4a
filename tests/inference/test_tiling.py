"""Tiles cover an image, and every object on it is found once, wherever tiles cut it."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from dabdetr.data import scenes
from dabdetr.inference.tiling import Tiling, View, merge
from dabdetr.predictor import Predictor
from dabdetr.structures import Detections

NAMES = ("cat", "dog", "part")
PART = 2


@given(st.integers(1, 400), st.integers(1, 400), st.integers(32, 130), st.floats(0, 0.8))
def test_tiles_cover_the_image_and_overlap(h: int, w: int, size: int, overlap: float) -> None:
    *tiles, whole = Tiling(size, overlap).views(h, w)
    assert whole == (0, 0, w, h)
    if max(h, w) <= size:
        assert tiles == []
        return
    covered = np.zeros((h, w), bool)
    for x0, y0, x1, y1 in tiles:
        assert (x1 - x0, y1 - y0) == (min(size, w), min(size, h))
        covered[y0:y1, x0:x1] = True
    assert covered.all()
    for side, low in ((w, 0), (h, 1)):
        starts = sorted({tile[low] for tile in tiles})
        if len(starts) > 1:  # whoever is no larger than the overlap is whole in one of them
            assert max(np.diff(starts)) <= max(size - math.floor(overlap * size), 1)
            steps = max(size - math.ceil(overlap * size), 1)
            assert len(starts) <= 1 + math.ceil((side - size) / steps)


@pytest.mark.parametrize(
    ("size", "overlap", "message"),
    [(31, 0.2, "at least 32 pixels wide; got 31"), (64, 0.9, "from 0 to 0.9; got 0.9")],
)
def test_tilings_that_cannot_be(size: int, overlap: float, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Tiling(size, overlap)


def view_of(
    view: View, objects: list[tuple[int, ...]], rng: np.random.Generator, least: float = 0.25
) -> Detections:
    """What a good detector finds in a view: boxes up to a pixel off, cut ones as parts.

    Objects of which it sees less than ``least`` are missed.
    """
    rows: list[tuple[float, ...]] = []
    for *box, label in objects:
        low, high = np.maximum(box[:2], view[:2]), np.minimum(box[2:], view[2:])
        area = (high - low).clip(0).prod() / ((box[2] - box[0]) * (box[3] - box[1]))
        if area > least:
            seen = np.concatenate((low, high)) - np.tile(view[:2], 2) + rng.uniform(-1, 1, 4)
            looks = label if area > 0.99 or rng.random() < 0.5 else PART
            rows.append((*seen, rng.uniform(0.7, 0.95), looks))
    table = np.array(rows).reshape(-1, 6)
    size = (view[3] - view[1], view[2] - view[0])
    boxes = table[:, :4].astype(np.float32).clip(0, (size[1], size[0]) * 2)
    numbers = np.arange(len(table))
    return Detections(boxes, table[:, 4], table[:, 5].astype(int), numbers, NAMES, size)


def plant(rng: np.random.Generator, least: int, most: int, side: int) -> list[tuple[int, ...]]:
    """Objects that do not touch, up to a dozen."""
    found: list[tuple[int, ...]] = []
    for _ in range(60):
        w, h = rng.integers(least, most + 1, 2)
        x, y = rng.integers(0, side - w), rng.integers(0, side - h)
        apart = all(
            x > b[2] + 4 or x + w < b[0] - 4 or y > b[3] + 4 or y + h < b[1] - 4 for b in found
        )
        if apart and len(found) < 12:
            found.append((int(x), int(y), int(x + w), int(y + h), int(rng.integers(2))))
    return found


def assert_once_each(found: Detections, objects: list[tuple[int, ...]], iou: float) -> None:
    rows = [(*box, label) for box, label in zip(found.boxes, found.labels, strict=True)]
    assert len(rows) == len(objects)
    for *box, label in objects:
        low = np.maximum([row[:2] for row in rows], box[:2])
        high = np.minimum([row[2:4] for row in rows], box[2:])
        common = (high - low).clip(0).prod(1)
        sides = np.array([(row[2] - row[0]) * (row[3] - row[1]) for row in rows])
        ious = common / (sides + (box[2] - box[0]) * (box[3] - box[1]) - common)
        assert ious.max() > iou
        assert rows[int(ious.argmax())][4] == label


@given(st.integers(0, 10**6))
def test_objects_on_seams_appear_once(seed: int) -> None:
    rng = np.random.default_rng(seed)
    tiling = Tiling(128, 0.25)
    objects = plant(rng, 16, 30, 400)
    views = tiling.views(400, 400)
    assert len(views) > 10
    found = merge([view_of(view, objects, rng) for view in views], views, tiling)
    assert_once_each(found, objects, 0.75)
    assert (np.diff(found.scores) <= 0).all()
    assert found.size == (400, 400)


@given(st.integers(0, 10**6))
def test_objects_larger_than_the_overlap_come_from_the_whole_image(seed: int) -> None:
    rng = np.random.default_rng(seed)
    tiling = Tiling(128, 0.25)
    objects = plant(rng, 20, 170, 400)
    views = tiling.views(400, 400)
    found = merge([view_of(view, objects, rng) for view in views], views, tiling)
    assert_once_each(found, objects, 0.75)


@pytest.mark.parametrize("box", [(40, 60, 230, 110), (90, 20, 130, 300), (80, 80, 250, 260)])
def test_parts_that_no_view_shows_whole_are_joined(box: tuple[int, ...]) -> None:
    rng = np.random.default_rng(0)
    tiling = Tiling(128, 0.25)
    views = tiling.views(320, 320)
    parts = [view_of(view, [(*box, 0)], rng, 0.02) for view in views[:-1]]
    parts = [replace(part, labels=part.labels * 0) for part in parts]
    found = merge([*parts, view_of(views[-1], [], rng)], views, tiling)
    assert_once_each(found, [(*box, 0)], 0.9)


def test_within_one_view_nothing_is_merged() -> None:
    tiling = Tiling(64)
    views = tiling.views(64, 100)
    double = view_of(views[0], [(20, 20, 32, 32, 0), (21, 20, 33, 32, 0)], np.random.default_rng(0))
    none = double[:0]
    found = merge([double, none, replace(none, size=(64, 100))], views, tiling)
    assert len(found) == 2
    assert merge([double], views[:1], tiling) is double


def canvas(side: int, places: list[tuple[int, int]], seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Digits of 20 to 36 pixels centred at ``places`` on the ground of a scene; their boxes."""
    rng = np.random.default_rng(seed)
    ground, brightness = scenes._ground(rng, side)
    boxes = []
    for x, y in places:
        row, digit = scenes._random_glyph(rng, "test")
        ink, (left, upper, right, lower) = scenes._warp(rng, row, rng.uniform(20, 34))
        w, h = right - left, lower - upper
        x0, y0 = x - w // 2, y - h // 2
        ink_colour = scenes._colour(rng, brightness)
        scenes._paint(ground, ink, x0 - left, y0 - upper, ink_colour)
        boxes.append((x0, y0, x0 + w, y0 + h, digit))
    return ground.clip(0, 255).astype(np.uint8), np.array(boxes)


@pytest.mark.parametrize("seed", [0, 1])
def test_the_shipped_model_finds_every_digit_of_a_large_image_once(seed: int) -> None:
    side, tiling = 400, Tiling(160, 0.3)
    starts = sorted({view[0] for view in tiling.views(side, side)[:-1]})
    seams = sorted({edge for s in starts for edge in (s, s + 160) if 0 < edge < side})
    lines = [*seams, side // 2 + 65, 27, side - 27]
    lines = [x for n, x in enumerate(sorted(lines)) if n == 0 or x - sorted(lines)[n - 1] > 40]
    places = [(x, y) for x in lines for y in lines]
    image, truth = canvas(side, places, seed)
    predictor = Predictor("scenes", device="cpu", batch=8)
    found = predictor.one(image, conf=0.5, tiles=tiling, max_det=300)
    small = predictor.one(image, conf=0.5, max_det=300)
    hits = matches(found, truth)
    assert len(truth) == 36
    assert (hits.sum(0) <= 1).all(), "a digit is found twice"
    assert (hits.sum(0) == 1).sum() >= 34, "digits are missed"
    assert (hits.sum(1) == 0).sum() <= 2, "what is found is no digit"
    assert (matches(small, truth).sum(0) == 1).sum() < 18, "shrunken they are hard to read"
    assert found.size == (side, side)


def matches(found: Detections, truth: np.ndarray) -> np.ndarray:
    """[detections, objects]: of one class and an IoU above a half."""
    a, b = found.boxes[:, None], truth[None, :, :4]
    sides = np.minimum(a[..., 2:], b[..., 2:]) - np.maximum(a[..., :2], b[..., :2])
    common = sides.clip(0).prod(-1)
    area = (a[..., 2:] - a[..., :2]).prod(-1) + (b[..., 2:] - b[..., :2]).prod(-1)
    alike = found.labels[:, None] == truth[None, :, 4]
    return np.asarray((common / (area - common) > 0.5) & alike)


def test_small_images_are_as_without_tiles() -> None:
    predictor = Predictor("scenes", device="cpu")
    image = scenes.Scenes("test").image(0)
    plain, tiled = predictor.one(image), predictor.one(image, tiles=True)
    np.testing.assert_array_equal(plain.boxes, tiled.boxes)
    np.testing.assert_array_equal(plain.scores, tiled.scores)
