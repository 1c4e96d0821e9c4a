"""Assignment: the hand-checked table, brute force, and every awkward batch."""

from __future__ import annotations

from itertools import permutations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from dabdetr.config import Loss
from dabdetr.structures import Predictions, Targets
from dabdetr.training.matching import assign, pair_costs


def predictions_of(logits: torch.Tensor, boxes: torch.Tensor) -> Predictions:
    return Predictions(logits=logits, boxes=boxes, anchors=boxes)


def random_case(
    seed: int, layers: int, queries: int, counts: tuple[int, ...], classes: int = 3
) -> tuple[Predictions, Targets]:
    generator = torch.Generator().manual_seed(seed)
    batch, objects = len(counts), sum(counts)
    logits = 3 * torch.randn(layers, batch, queries, classes, generator=generator)
    boxes = torch.rand(layers, batch, queries, 4, generator=generator) * 0.5 + 0.1
    targets = Targets(
        labels=torch.randint(0, classes, (objects,), generator=generator),
        boxes=torch.rand(objects, 4, generator=generator) * 0.5 + 0.1,
        counts=counts,
    )
    return predictions_of(logits, boxes), targets


def golden() -> tuple[Predictions, Targets]:
    """One layer and image, values recorded from the released code."""
    logits = torch.tensor([[2, -1, 0], [-3, 1, 0.5], [0, 0, -2]])
    boxes = torch.tensor([[0.5, 0.5, 0.2, 0.2], [0.3, 0.4, 0.2, 0.3], [0.7, 0.6, 0.4, 0.4]])
    targets = Targets(
        labels=torch.tensor([1, 0]),
        boxes=torch.tensor([[0.32, 0.42, 0.2, 0.3], [0.52, 0.5, 0.25, 0.2]]),
        counts=(2,),
    )
    return predictions_of(logits[None, None], boxes[None, None]), targets


def test_golden_costs_and_pairs() -> None:
    predictions, targets = golden()
    expected = [[2.505881, -2.267002, 4.905846], [-3.724183, 4.316353, 2.864193]]
    costs = pair_costs(predictions, targets, Loss())
    np.testing.assert_allclose(costs[0].numpy(), expected, atol=2e-6)
    assignment = assign(predictions, targets, Loss())
    assert assignment.query.tolist() == [1, 0]
    assert assignment.target.tolist() == [0, 1]


@settings(deadline=None, max_examples=40)
@given(
    seed=st.integers(0, 10_000),
    queries=st.integers(1, 5),
    counts=st.lists(st.integers(0, 5), min_size=1, max_size=3),
)
def test_equals_brute_force(seed: int, queries: int, counts: list[int]) -> None:
    predictions, targets = random_case(seed, 2, queries, tuple(counts))
    assignment = assign(predictions, targets, Loss())
    costs = pair_costs(predictions, targets, Loss()).double()
    start = 0
    for image, count in enumerate(counts):
        for layer in range(2):
            mine = (assignment.image == image) & (assignment.layer == layer)
            query, target = assignment.query[mine], assignment.target[mine]
            pairs = min(queries, count)
            assert len(query) == len(set(query.tolist())) == len(set(target.tolist())) == pairs
            assert all(start <= t < start + count for t in target.tolist())
            got = costs[layer, target, query].sum().item()
            block = costs[layer, start : start + count]
            assert got == pytest.approx(cheapest(block), abs=1e-5)
        start += count


def cheapest(block: torch.Tensor) -> float:
    """Least total over all ways to pair, by trying each."""
    if block.shape[0] > block.shape[1]:
        block = block.T
    rows, columns = block.shape
    return min(
        sum(block[row, column].item() for row, column in enumerate(chosen))
        for chosen in permutations(range(columns), rows)
    )


def test_batch_mates_change_nothing() -> None:
    predictions, targets = random_case(3, 3, 12, (4, 0, 7))
    together = assign(predictions, targets, Loss())
    alone = predictions_of(predictions.logits[:, 2:], predictions.boxes[:, 2:])
    single = assign(
        alone, Targets(labels=targets.labels[4:], boxes=targets.boxes[4:], counts=(7,)), Loss()
    )
    mine = together.image == 2
    assert together.query[mine].tolist() == single.query.tolist()
    assert (together.target[mine] - 4).tolist() == single.target.tolist()


@pytest.mark.parametrize("bad", [float("nan"), float("inf"), float("-inf"), 3e38])
def test_any_input_gives_pairs(bad: float) -> None:
    predictions, targets = random_case(0, 2, 6, (3, 2))
    predictions.logits[0, 0, 1] = bad
    predictions.boxes[0, 0, 2] = bad
    predictions.boxes[1, 1] = bad  # a whole image
    assignment = assign(predictions, targets, Loss())
    assert len(assignment) == 2 * 5
    first = (assignment.layer == 0) & (assignment.image == 0)
    if not np.isfinite(bad):
        assert 2 not in assignment.query[first].tolist()


def test_everything_broken_gives_pairs() -> None:
    predictions, targets = random_case(0, 1, 4, (4,))
    predictions.logits.fill_(float("nan"))
    assert sorted(assign(predictions, targets, Loss()).query.tolist()) == [0, 1, 2, 3]


def test_degenerate_boxes_without_eps() -> None:
    predictions, targets = random_case(0, 1, 4, (2,))
    predictions.boxes[..., 2:] = 0
    targets.boxes[..., 2:] = 0
    assert len(assign(predictions, targets, Loss(iou_eps=0))) == 2


def test_no_objects_at_all() -> None:
    predictions, targets = random_case(0, 2, 4, (0, 0))
    assignment = assign(predictions, targets, Loss())
    assert len(assignment) == 0
    assert assignment.query.dtype == torch.int64


def test_more_objects_than_queries() -> None:
    predictions, targets = random_case(1, 2, 3, (9, 1))
    assignment = assign(predictions, targets, Loss())
    assert len(assignment) == 2 * (3 + 1)
    crowded = (assignment.layer == 0) & (assignment.image == 0)
    assert sorted(assignment.query[crowded].tolist()) == [0, 1, 2]


def test_float32_for_half_predictions() -> None:
    predictions, targets = random_case(1, 2, 8, (3,))
    half = predictions_of(predictions.logits.bfloat16(), predictions.boxes)
    assert pair_costs(half, targets, Loss()).dtype == torch.float32


def test_costs_are_of_own_objects_only() -> None:
    predictions, targets = random_case(1, 2, 8, (3, 0, 4))
    assert pair_costs(predictions, targets, Loss()).shape == (2, 7, 8)
