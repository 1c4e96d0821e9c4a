"""Batches as steps of updates, in one process or in several."""

from __future__ import annotations

import math

import pytest
import torch

from dabdetr.structures import Images, Targets
from dabdetr.training.accumulation import AccumulatedBatches, Batch


def batch(objects: int) -> tuple[Images, Targets]:
    targets = Targets(torch.zeros(objects, dtype=torch.long), torch.rand(objects, 4), (objects,))
    return Images(torch.zeros(1, 3, 8, 8)), targets


def of_rank(counts: list[int], gathered: int, rank: int, world_size: int) -> list[Batch]:
    """As the loader deals an epoch's batches out: the first one again where one is missing."""
    own = counts[rank::world_size]
    own += counts[:1] * (math.ceil(len(counts) / world_size) - len(own))
    return list(
        AccumulatedBatches([batch(n) for n in own], gathered, rank, world_size, len(counts))
    )


@pytest.mark.parametrize("world_size", [1, 2, 3])
@pytest.mark.parametrize(("gathered", "batches"), [(4, 10), (4, 8), (1, 3), (8, 3), (3, 4), (1, 1)])
def test_every_step_is_a_mean_over_its_batches(
    gathered: int, batches: int, world_size: int
) -> None:
    """Of all its batches alike, and divided by the mean number of objects of them all."""
    counts = [(7 * n) % 5 for n in range(batches)]
    every = [of_rank(counts, gathered, rank, world_size) for rank in range(world_size)]
    assert len({len(steps) for steps in every}) == 1  # or one would wait for ever
    for first in range(0, len(every[0]), gathered):
        update = [step for steps in every for step in steps[first : first + gathered]]
        members = counts[first * world_size : (first + gathered) * world_size]
        scales = [step.loss_scale / (gathered * world_size) for step in update if step.loss_scale]
        assert scales == pytest.approx([1 / len(members)] * len(members))
        objects = [steps[first].objects for steps in every]
        assert sum(objects) / world_size == pytest.approx(sum(members) / len(members))
        seen = [sum(step.targets.counts) for step in update if step.loss_scale]
        assert sorted(seen) == sorted(members)


def test_alone_there_is_nothing_to_wait_with() -> None:
    steps = list(AccumulatedBatches([batch(n) for n in (1, 2, 6)], 2))
    assert [step.objects for step in steps] == [1.5, 1.5, 6]
    assert [step.loss_scale for step in steps] == [1, 1, 2]
