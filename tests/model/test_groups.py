"""Query groups: who sees whom, and that everybody gets back what is theirs."""

from __future__ import annotations

import copy
from itertools import accumulate, pairwise
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from dabdetr.kernels import attend
from dabdetr.model.groups import QueryGroup, join, split
from dabdetr.structures import Memory, Predictions, Queries


def _group(hidden: torch.Tensor, batch: int = 2, width: int = 8, seed: int = 0) -> QueryGroup:
    """Random queries under this mask; no pairs."""
    rng = torch.Generator().manual_seed(seed)
    n, nothing = len(hidden), torch.zeros(0, dtype=torch.long)
    content = torch.randn(batch, n, width, generator=rng)
    anchors = torch.rand(batch, n, 4, generator=rng) * 0.6 + 0.2
    supervised = torch.ones(batch, n, dtype=torch.bool)
    return QueryGroup("test", content, anchors, hidden, nothing, nothing, nothing, 1, supervised)


def _open(n: int, **keywords: Any) -> QueryGroup:
    return _group(torch.zeros(n, n, dtype=torch.bool), **keywords)


def _matching(n: int, batch: int = 2, width: int = 8, seed: int = 99) -> Queries:
    group = _open(n, batch=batch, width=width, seed=seed)
    return Queries(group.content, group.anchors)


def _predictions(queries: int, boxes: bool = True) -> Predictions:
    """Each query's number everywhere, so that mixed-up columns show."""
    number = torch.arange(queries).float()
    wide = lambda n: number[None, None, :, None].expand(3, 2, -1, n)  # noqa: E731
    anchors = tuple(wide(4)) if boxes else (None, None, None)
    return Predictions(wide(5), wide(4), anchors)


def test_mask_by_hand() -> None:
    """Two groups of 3 and 2 and two matching queries; the first group hides its first from all."""
    x = True
    own = torch.tensor([[False, x, x], [x, False, False], [x, False, False]])
    _, hidden = join(_matching(2), [_group(own), _open(2)])
    expected = torch.tensor(
        [
            [0, 1, 1, 1, 1, 0, 0],
            [1, 0, 0, 1, 1, 0, 0],
            [1, 0, 0, 1, 1, 0, 0],
            [1, 1, 1, 0, 0, 0, 0],
            [1, 1, 1, 0, 0, 0, 0],
            [1, 1, 1, 1, 1, 0, 0],
            [1, 1, 1, 1, 1, 0, 0],
        ],
        dtype=torch.bool,
    )
    assert hidden is not None
    assert torch.equal(hidden, expected)


def test_groups_come_first_and_in_order() -> None:
    first, second, matching = _open(3, seed=1), _open(2, seed=2), _matching(4)
    queries, _ = join(matching, [first, second])
    assert matching.anchors is not None
    assert queries.anchors is not None
    contents = (first.content, second.content, matching.content)
    assert torch.equal(queries.content, torch.cat(contents, dim=1))
    anchors = (first.anchors, second.anchors, matching.anchors)
    assert torch.equal(queries.anchors, torch.cat(anchors, dim=1))


def test_without_groups_nothing_changes() -> None:
    matching, predictions = _matching(4), _predictions(4)
    queries, hidden = join(matching, [])
    assert queries is matching
    assert hidden is None
    of_groups, rest = split(predictions, [])
    assert of_groups == []
    assert torch.equal(rest.logits, predictions.logits)
    assert torch.equal(rest.boxes, predictions.boxes)


@pytest.mark.parametrize("boxes", [True, False])
def test_split_gives_back_what_was_joined(boxes: bool) -> None:
    (first, empty, second), matching = split(_predictions(9, boxes), [3, 0, 2])
    expected = ((first, [0, 1, 2]), (empty, []), (second, [3, 4]), (matching, [5, 6, 7, 8]))
    for part, numbers in expected:
        wanted = torch.tensor(numbers).float().expand(3, 2, -1)
        assert torch.equal(part.logits, wanted[..., None].expand(-1, -1, -1, 5))
        assert torch.equal(part.boxes, wanted[..., None].expand(-1, -1, -1, 4))
        assert len(part.anchors) == 3
        for anchors in part.anchors:
            if boxes:
                assert anchors is not None
                assert torch.equal(anchors, wanted[0, ..., None].expand(-1, -1, 4))
            else:
                assert anchors is None


@given(
    sizes=st.lists(st.integers(0, 5), min_size=1, max_size=4),
    matching=st.integers(1, 5),
    seed=st.integers(0, 1000),
)
def test_no_query_sees_another_groups(sizes: list[int], matching: int, seed: int) -> None:
    """The mask, place by place; and what attention under it depends on."""
    rng = torch.Generator().manual_seed(seed)
    masks = [torch.rand(n, n, generator=rng) < 0.4 for n in sizes]
    for mask in masks:
        mask.fill_diagonal_(False)
    groups = [_group(mask, seed=seed + i) for i, mask in enumerate(masks)]
    queries, hidden = join(_matching(matching), groups)
    assert hidden is not None
    spans = list(pairwise(accumulate([*sizes, matching], initial=0)))
    owner = torch.cat([torch.full((n,), i) for i, n in enumerate([*sizes, matching])])
    start, last = torch.tensor([a for a, _ in spans]), len(sizes)
    for row, of_row in enumerate(owner.tolist()):
        for column, of_column in enumerate(owner.tolist()):
            if of_column == last:
                expected = False
            elif of_row == of_column:
                first = int(start[of_row])
                expected = bool(masks[of_row][row - first, column - first])
            else:
                expected = True
            assert bool(hidden[row, column]) == expected, (row, column)

    content = queries.content[:, None].requires_grad_()
    out = attend(content, content, content, hidden[None, None].expand(2, -1, -1, -1))
    assert out.isfinite().all()
    for which, (a, b) in enumerate(spans):
        if a == b:
            continue
        (reached,) = torch.autograd.grad(out[:, a:b].square().sum(), content, retain_graph=True)
        touched = reached[:, 0].abs().amax((0, 2)) > 0
        allowed = (owner == which) | (owner == last)
        assert not (touched & ~allowed).any()


def _randomised(detector: Any) -> Any:
    """A copy whose every parameter is random: initial box heads hide most mistakes."""
    detector = copy.deepcopy(detector)
    rng = torch.Generator().manual_seed(5)
    with torch.no_grad():
        for parameter in detector.parameters():
            parameter += 0.1 * torch.randn(parameter.shape, generator=rng)
    return detector.eval()


@pytest.fixture(scope="module")
def decoder(tiny_detector: Any) -> Any:
    return _randomised(tiny_detector).decoder


@torch.no_grad()
def test_matching_predictions_are_those_without_groups(decoder: Any, tiny_detector: Any) -> None:
    """And a group's do not depend on whether another one is there."""
    width = tiny_detector.config.model.width
    rng = torch.Generator().manual_seed(3)
    tokens, positions = (torch.randn(2, 12, width, generator=rng) for _ in range(2))
    memory = Memory(tokens, positions, None, ((3, 4),))
    matching = _matching(6, width=width)
    first, second = _open(4, width=width, seed=1), _open(3, width=width, seed=2)

    queries, hidden = join(matching, [first, second])
    (of_first, of_second), together = split(decoder(queries, memory, hidden), [4, 3])
    alone = decoder(matching, memory)
    assert torch.allclose(together.logits, alone.logits, atol=1e-5)
    assert torch.allclose(together.boxes, alone.boxes, atol=1e-6)
    assert alone.boxes.std(2).min() > 0.01  # the comparison has something to compare
    for group, part in ((first, of_first), (second, of_second)):
        queries, hidden = join(matching, [group])
        (only,), _ = split(decoder(queries, memory, hidden), [group.count])
        assert torch.allclose(part.logits, only.logits, atol=1e-5)
        assert torch.allclose(part.boxes, only.boxes, atol=1e-6)
        # Groups do see the matching queries: alone among themselves they say something else.
        lonely = decoder(Queries(group.content, group.anchors), memory)
        assert not torch.allclose(part.logits, lonely.logits, atol=1e-3)
