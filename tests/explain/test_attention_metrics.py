"""Concentration of attention: maps made by hand, then the shipped model against even attention."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from dabdetr import Predictor, build
from dabdetr.data.layouts import open_data
from dabdetr.explain.attention_metrics import centres, extent, finders, measure, share_inside
from dabdetr.presets import preset


def hill(x: float, y: float, wide: float, tall: float, cells: int = 40) -> np.ndarray:
    """A normal distribution over a map."""
    at = (np.arange(cells) + 0.5) / cells
    across, down = np.exp(-0.5 * ((at - x) / wide) ** 2), np.exp(-0.5 * ((at - y) / tall) ** 2)
    heat = down[:, None] * across[None]
    return heat / heat.sum()


def test_share_inside_counts_parts_of_cells() -> None:
    even = np.full((4, 8), 1 / 32)
    assert share_inside(even, np.array([0, 0, 1, 1])) == pytest.approx(1)
    assert share_inside(even, np.array([0.1, 0.2, 0.15, 0.9])) == pytest.approx(0.05 * 0.7)
    one = np.zeros((4, 8))
    one[1, 2] = 2  # x 0.25 to 0.375, y 0.25 to 0.5; need not sum to 1
    assert share_inside(one, np.array([0.25, 0.25, 0.375, 0.5])) == pytest.approx(1)
    assert share_inside(one, np.array([0.3125, 0.25, 1, 0.375])) == pytest.approx(0.25)
    assert share_inside(one, np.array([0.5, 0.5, 0.9, 0.9])) == 0


def test_centres_are_peaks_of_some_height() -> None:
    first, second = hill(0.3, 0.3, 0.05, 0.05), hill(0.7, 0.6, 0.05, 0.05)
    assert centres(first) == 1
    assert centres(first + 0.8 * second) == 2
    assert centres(first + 0.2 * second) == 1
    assert centres(np.full((5, 5), 0.04)) == 1  # a plateau is one


def test_extent_grows_with_the_hill_and_not_with_outliers() -> None:
    wide, tall = extent(hill(0.5, 0.5, 0.1, 0.05))
    assert wide == pytest.approx(2 * 0.6745 * 0.1, rel=0.02)
    assert tall == pytest.approx(2 * 0.6745 * 0.05, rel=0.05)
    outlier = hill(0.5, 0.5, 0.1, 0.05) + 0.05 * hill(0.02, 0.98, 0.01, 0.01)
    assert extent(outlier)[0] == pytest.approx(wide, rel=0.1)
    assert extent(np.full((8, 4), 1 / 32)) == pytest.approx((0.5, 0.5))


def test_every_object_has_a_query_of_its_own() -> None:
    """Two objects and two queries, both of which fit the first object best."""
    objects = np.float32([[0, 0, 0.4, 0.4], [0.2, 0, 0.6, 0.4]])
    predicted = np.float32([[0.2, 0.2, 0.4, 0.4], [0.28, 0.2, 0.4, 0.4], [0.9, 0.9, 0.1, 0.1]])
    pairs = finders(predicted, objects, 0.3)
    assert [query for query, _ in pairs] == [0, 1]
    np.testing.assert_array_equal(pairs[1][1], objects[1])
    assert [query for query, _ in finders(predicted, objects, 0.99)] == [0]
    assert finders(predicted, objects[:0], 0.5) == []


def test_the_shipped_model_looks_at_what_it_finds() -> None:
    predictor, data = Predictor("scenes", device="cpu"), open_data("scenes:seed=2022", "test")
    whole = measure(predictor, data, most=6)
    assert (whole.model, whole.part, whole.layer) == ("dab-detr-nano", "all", 3)
    assert whole.objects == 15
    assert whole.found >= 12
    assert whole.inside > 5 * whole.by_chance
    unsized, sized = (
        measure(predictor, data, part, most=6) for part in ("unmodulated", "position")
    )
    assert sized.inside > unsized.inside  # size modulation fits attention to the box
    assert sized.centres < measure(predictor, data, "content", most=6).centres
    assert measure(predictor, data, layer=0, most=1).layer == 1


def test_nothing_found_is_no_number() -> None:
    torch.manual_seed(0)
    predictor = Predictor(build(preset("detr-nano"), "ab"), device="cpu")
    data = open_data("scenes:seed=2022", "test")
    none = measure(predictor, data, least_iou=0.99, most=2)
    assert (none.objects, none.found) == (3, 0)
    assert all(math.isnan(v) for v in (none.inside, none.centres, none.width_fit, none.height_fit))
