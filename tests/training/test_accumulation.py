"""Batches as steps of updates, in one process or in several."""

from __future__ import annotations

import math

import pytest
import torch

from dabdetr.structures import Images, Targets
from dabdetr.training.accumulation import Batch, Step, Updates


def batch(objects: int) -> Batch:
    targets = Targets(torch.zeros(objects, dtype=torch.long), torch.rand(objects, 4), (objects,))
    return Images(torch.zeros(1, 3, 8, 8)), targets


def of_process(counts: list[int], gathered: int, turn: int, turns: int) -> list[Step]:
    """As the loader deals an epoch's batches out: the first one again where one is missing."""
    own = counts[turn::turns]
    own += counts[:1] * (math.ceil(len(counts) / turns) - len(own))
    return list(Updates([batch(n) for n in own], gathered, turn, turns, len(counts)))


@pytest.mark.parametrize("turns", [1, 2, 3])
@pytest.mark.parametrize(("gathered", "batches"), [(4, 10), (4, 8), (1, 3), (8, 3), (3, 4), (1, 1)])
def test_every_update_is_a_mean_over_its_batches(gathered: int, batches: int, turns: int) -> None:
    """Of all its batches alike, and divided by the mean number of objects of them all."""
    counts = [(7 * n) % 5 for n in range(batches)]
    every = [of_process(counts, gathered, turn, turns) for turn in range(turns)]
    assert len({len(steps) for steps in every}) == 1  # or one would wait for ever
    for first in range(0, len(every[0]), gathered):
        update = [step for steps in every for step in steps[first : first + gathered]]
        members = counts[first * turns : (first + gathered) * turns]
        worths = [step.worth / (gathered * turns) for step in update if step.worth]
        assert worths == pytest.approx([1 / len(members)] * len(members))
        objects = [steps[first].objects for steps in every]
        assert sum(objects) / turns == pytest.approx(sum(members) / len(members))
        seen = [sum(step.targets.counts) for step in update if step.worth]
        assert sorted(seen) == sorted(members)


def test_alone_there_is_nothing_to_wait_with() -> None:
    steps = list(Updates([batch(n) for n in (1, 2, 6)], 2))
    assert [step.objects for step in steps] == [1.5, 1.5, 6]
    assert [step.worth for step in steps] == [1, 1, 2]
