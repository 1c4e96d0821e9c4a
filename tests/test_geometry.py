"""Box frames, inverse sigmoid, anchor moves, GIoU: hand-computed tables and properties."""

from __future__ import annotations

import math

import pytest
import torch
import torchvision.ops
from hypothesis import given
from hypothesis import strategies as st

from dabdetr.geometry import generalized_iou, inverse_sigmoid, move, to_centres, to_corners

unit = st.floats(0.0, 1.0, width=32)
probability = st.floats(0.001953125, 0.998046875, width=32)
side = st.floats(0.03125, 1.0, width=32)
box = st.tuples(unit, unit, side, side)


def test_frames_by_hand() -> None:
    centres = torch.tensor([[0.5, 0.25, 0.5, 0.25]])
    corners = torch.tensor([[0.25, 0.125, 0.75, 0.375]])
    assert torch.equal(to_corners(centres), corners)
    assert torch.equal(to_centres(corners), centres)


@given(st.lists(box, max_size=5))
def test_frames_round_trip(boxes: list[tuple[float, ...]]) -> None:
    centres = torch.tensor(boxes).reshape(-1, 4)
    torch.testing.assert_close(to_centres(to_corners(centres)), centres, atol=2e-7, rtol=0)


@pytest.mark.parametrize("eps", [1e-3, 1e-5])
def test_inverse_sigmoid_holds_both_ends(eps: float) -> None:
    logits = inverse_sigmoid(torch.tensor([-1.0, 0.0, 0.5, 1.0, 2.0], dtype=torch.float64), eps)
    # Numerator and denominator are clamped apart: at 0 the value is log(eps / 1).
    expected = [math.log(eps), math.log(eps), 0.0, -math.log(eps), -math.log(eps)]
    assert logits.tolist() == pytest.approx(expected, rel=1e-12)


@given(st.lists(probability, min_size=1))
def test_inverse_sigmoid_undoes_the_sigmoid(values: list[float]) -> None:
    x = torch.tensor(values)
    torch.testing.assert_close(inverse_sigmoid(x).sigmoid(), x, atol=1e-6, rtol=0)


@given(st.tuples(probability, probability, probability, probability))
def test_no_delta_moves_nothing(anchor: tuple[float, ...]) -> None:
    anchors = torch.tensor([anchor])
    torch.testing.assert_close(move(anchors, torch.zeros(1, 4)), anchors, atol=1e-6, rtol=0)


def test_move_shifts_in_logit_space() -> None:
    anchors = torch.tensor([[0.5, 0.5, 0.25, 0.2]])
    deltas = torch.tensor([[math.log(3.0), -math.log(3.0), math.log(3.0), math.log(4.0)]])
    expected = torch.tensor([[0.75, 0.25, 0.5, 0.5]])
    torch.testing.assert_close(move(anchors, deltas), expected)


def test_move_of_a_point_takes_its_sides_from_the_deltas() -> None:
    points = torch.tensor([[0.25, 0.75]])
    deltas = torch.tensor([[0.0, 0.0, 0.0, math.log(3.0)]])
    torch.testing.assert_close(move(points, deltas), torch.tensor([[0.25, 0.75, 0.5, 0.75]]))


def test_move_is_float32_whatever_comes() -> None:
    anchors = torch.tensor([[0.3, 0.6, 0.1, 0.2]])
    deltas = torch.tensor([[0.1, -0.2, 0.3, 0.4]])
    halves = anchors.bfloat16(), deltas.bfloat16()
    moved = move(*halves)
    assert moved.dtype == torch.float32
    assert torch.equal(moved, move(halves[0].float(), halves[1].float()))


@pytest.mark.parametrize(
    ("a", "b", "expected"),
    [
        ([0.0, 0.0, 2.0, 2.0], [0.0, 0.0, 2.0, 2.0], 1.0),
        ([0.0, 0.0, 2.0, 2.0], [1.0, 0.0, 3.0, 2.0], 1 / 3),
        ([0.0, 0.0, 2.0, 2.0], [1.0, 1.0, 3.0, 3.0], 1 / 7 - 2 / 9),
        ([0.0, 0.0, 1.0, 1.0], [2.0, 0.0, 3.0, 1.0], -1 / 3),
        ([0.0, 0.0, 4.0, 4.0], [1.0, 1.0, 3.0, 3.0], 1 / 4),
    ],
)
def test_giou_by_hand(a: list[float], b: list[float], expected: float) -> None:
    first, second = torch.tensor(a), torch.tensor(b)
    assert generalized_iou(first, second, eps=0.0).item() == pytest.approx(expected, abs=1e-6)
    assert generalized_iou(second, first, eps=0.0).item() == pytest.approx(expected, abs=1e-6)


@given(st.lists(box, min_size=1, max_size=4), st.lists(box, min_size=1, max_size=4))
def test_giou_without_eps_is_torchvisions(a: list, b: list) -> None:
    first, second = to_corners(torch.tensor(a)), to_corners(torch.tensor(b))
    ours = generalized_iou(first[:, None], second[None], eps=0.0)
    theirs = torchvision.ops.generalized_box_iou(first, second)
    torch.testing.assert_close(ours, theirs, atol=1e-5, rtol=1e-5)


def test_eps_keeps_two_empty_boxes_finite_and_lowers_small_ones() -> None:
    nothing = torch.tensor([0.5, 0.5, 0.5, 0.5])
    assert generalized_iou(nothing, nothing).item() == 0.0
    small = torch.tensor([0.5, 0.5, 0.501, 0.501])
    assert generalized_iou(small, small).item() == pytest.approx(0.5, abs=1e-4)


def test_giou_of_nothing_is_nothing() -> None:
    assert generalized_iou(torch.zeros(3, 1, 4), torch.zeros(1, 0, 4)).shape == (3, 0)
