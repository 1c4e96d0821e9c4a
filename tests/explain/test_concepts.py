"""Figures of training's helpers show what the helpers really do."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from matplotlib.colors import to_hex
from matplotlib.patches import Rectangle

from dabdetr.config import ContrastiveDenoising, Denoising
from dabdetr.explain import concepts
from dabdetr.model.duplicates import IOU, SHARPNESS, STRENGTH, DuplicateRemoval
from dabdetr.structures import Detections

IMAGE = np.zeros((160, 200, 3), np.uint8)
BOXES = np.array([[10, 20, 60, 70], [100, 40, 180, 140]], np.float32)


def frames(panel) -> list[tuple[np.ndarray, str, str]]:
    """Corners, colour and line of every box."""
    found = [patch for patch in panel.patches if isinstance(patch, Rectangle)]
    return [
        (
            np.reshape(patch.get_bbox().get_points(), 4),
            to_hex(patch.get_edgecolor()),
            patch.get_ls(),
        )
        for patch in found
    ]


def test_copies_lie_around_their_objects_and_groups_see_themselves() -> None:
    state = torch.get_rng_state()
    figure = concepts.noisy_copies(IMAGE, BOXES, Denoising(groups=3), matching=5)
    assert torch.equal(state, torch.get_rng_state())
    copies, mask = figure.axes
    shown = frames(copies)
    assert len(shown) == 3 * 2 + 2
    np.testing.assert_allclose([box for box, *_ in shown[-2:]], BOXES, atol=1e-3)
    assert {line for _, _, line in shown} == {"-"}
    for slot, (box, _, _) in enumerate(shown[:-2]):
        own, half = BOXES[slot % 2], (BOXES[slot % 2, 2:] - BOXES[slot % 2, :2]) / 2
        centre = (box[:2] + box[2:]) / 2 - (own[:2] + own[2:]) / 2
        assert (abs(centre) <= 0.4 * half + 1e-3).all()
    hidden = np.asarray(mask.images[0].get_array()).astype(bool)
    assert hidden.shape == (11, 11)
    assert not hidden[:2, :2].any()
    assert hidden[:2, 2:6].all()
    assert hidden[-5:, :6].all()
    assert not hidden[:, -5:].any()


def test_far_copies_are_dotted() -> None:
    figure = concepts.noisy_copies(IMAGE, BOXES, ContrastiveDenoising(number=1))
    lines = [line for _, _, line in frames(figure.axes[0])[:-2]]
    assert lines == ["-", "-", ":", ":"] * 2
    with pytest.raises(ValueError, match="give at least one box"):
        concepts.noisy_copies(IMAGE, BOXES[:0], Denoising())


def test_places_around_a_box_reach_its_border() -> None:
    figure = concepts.sampling_locations(heads=4, points=2, cells=20)
    points, boxes = (
        [np.concatenate([dots.get_offsets() for dots in axes.collections]) for axes in row]
        for row in (figure.axes[:4], figure.axes[4:])
    )
    for places in points:  # whatever the box: two cells of twenty away at most
        np.testing.assert_allclose(places, points[0])
        assert abs(places - 0.5).max() == pytest.approx(0.1)
    wide, tall = boxes[0], boxes[1]
    np.testing.assert_allclose(abs(wide - 0.5).max(0), (0.3, 0.075), atol=1e-6)
    np.testing.assert_allclose(abs(tall - 0.5).max(0), (0.075, 0.3), atol=1e-6)


def test_many_cells_answer_for_an_object() -> None:
    figure = concepts.positives(IMAGE, BOXES)
    one, many = figure.axes[:2]
    assert len(one.collections) == len(BOXES)
    places = np.concatenate([dots.get_offsets() for dots in many.collections])
    colours = np.concatenate([dots.get_facecolors() for dots in many.collections])
    assert len(places) > 2 * len(BOXES)
    for place, colour in zip(places, colours, strict=True):
        owner = concepts.COLOURS.index(to_hex(colour))
        assert (place > BOXES[owner, :2]).all()
        assert (place < BOXES[owner, 2:]).all()
    assert f"{len(places)} cells" in many.get_title()


def test_duplicates_are_counted_and_the_curve_is_the_modules() -> None:
    image = np.zeros((40, 60, 3), np.uint8)
    boxes = np.array([[2, 2, 30, 30], [3, 2, 30, 30]], np.float32)
    scores, labels = np.array([0.9, 0.8], np.float32), np.zeros(2, np.int64)
    twice = Detections(boxes, scores, labels, np.arange(2), ("a",), (40, 60), image=image)
    once = twice.above(0.85)
    before, after, curve = concepts.duplicates(twice, once, DuplicateRemoval(2)).axes
    assert (before.get_title(), after.get_title()) == (
        "without the removal: 2 detections",
        "with it: 1 detection",
    )
    assert [line.get_label() for line in curve.lines] == ["layer 1", "layer 2"]
    overlap, lost = curve.lines[0].get_data()
    expected = STRENGTH / (1 + np.exp(-SHARPNESS * (overlap - IOU)))
    np.testing.assert_allclose(lost[1:], expected[1:], atol=1e-3)
    assert lost[0] == 0  # no overlap: nothing is lost
