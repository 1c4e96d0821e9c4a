"""Measures of tracks, by hand."""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import pytest

sys.path.insert(0, str(Path(__file__).parents[2]))
from experiments.tracking import Frame, scores

LEFT, RIGHT = [0.0, 0, 10, 10], [50.0, 0, 60, 10]


def frame(*rows: tuple[int, list[float]]) -> Frame:
    return (
        np.array([number for number, _ in rows], int),
        np.array([box for _, box in rows], float).reshape(-1, 4),
    )


TRUTH = [frame((0, LEFT), (1, RIGHT))] * 10


def test_perfect_tracks() -> None:
    found = scores(TRUTH, [frame((7, RIGHT), (9, LEFT))] * 10)
    assert (found.idf1, found.switches) == (1, 0)
    assert found.hota == pytest.approx(1)


def test_numbers_that_change_places_halfway() -> None:
    swapped = [frame((1, LEFT), (2, RIGHT))] * 5 + [frame((2, LEFT), (1, RIGHT))] * 5
    found = scores(TRUTH, swapped)
    assert (found.idf1, found.switches) == (0.5, 2)
    # each pair shares 5 frames of 10 + 10 - 5
    assert found.hota == pytest.approx(np.sqrt(5 / 15))


def test_a_missed_object_and_one_too_many() -> None:
    found = scores(TRUTH, [frame((1, LEFT), (2, [200, 0, 210, 10]))] * 10)
    assert (found.idf1, found.switches) == (0.5, 0)
    assert found.hota == pytest.approx(np.sqrt(10 / 30))


def test_a_gap_is_a_switch_where_the_number_is_new() -> None:
    first, later = [frame((1, LEFT), (2, RIGHT))] * 4, [frame((3, LEFT), (2, RIGHT))] * 4
    found = scores(TRUTH, [*first, frame(), frame(), *later])
    assert found.switches == 1
    assert found.idf1 == pytest.approx(2 * (4 + 8) / (20 + 16))


def test_boxes_count_for_hota_alone() -> None:
    shifted = [frame((1, [0, 0, 10, 7.7]), (2, [50, 0, 60, 7.7]))] * 10  # an IoU of 0.77
    found = scores(TRUTH, shifted)
    assert found.idf1 == 1
    assert found.hota == pytest.approx(15 / 19)


def test_nothing_found() -> None:
    found = scores(TRUTH, [frame()] * 10)
    assert (found.idf1, found.hota, found.switches) == (0, 0, 0)
