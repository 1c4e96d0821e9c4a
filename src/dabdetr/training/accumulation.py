"""Gradient accumulation: which batches share an optimizer step, and how much each loss counts."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from itertools import islice
from typing import NamedTuple

from dabdetr.config import Training
from dabdetr.data.loader import Loader
from dabdetr.structures import Images, Targets


def accumulated(training: Training, ranks: int) -> int:
    """Batches of each process whose gradients make an update."""
    return max(1, round(training.effective_batch / (training.batch * ranks)))


def updates(training: Training, images: int, ranks: int) -> int:
    """Updates of a training on so many images, by so many processes."""
    batches = math.ceil(min(images, training.epoch_images or images) / training.batch)
    return training.epochs * math.ceil(batches / (ranks * accumulated(training, ranks)))


class Batch(NamedTuple):
    """A batch, and its part in an optimizer step.

    objects     mean number of objects of the step's batches: what losses are divided by, so that
                a step gives the same however it is divided (as over the GPUs of the papers)
    loss_scale  what the loss is multiplied by, as Lightning divides each by the number of batches
                that a step should have; 0: a batch of another rank, which only keeps step
    """

    images: Images
    targets: Targets
    objects: float
    loss_scale: float


class AccumulatedBatches:
    """One rank's batches of an epoch, grouped into optimizer steps.

    A step is ``accumulate`` batches on each of ``world_size`` ranks; rank ``rank`` has every
    ``world_size``-th of the epoch's ``total`` batches. The last step has the remaining ones.
    ``objects`` is the mean over the whole step, all ranks included.

    The state is the number of batches already yielded; Lightning stores it in checkpoints, so a run
    stopped within an epoch continues with the next step.
    """

    def __init__(
        self,
        batches: Loader | Sequence[tuple[Images, Targets]],
        accumulate: int,
        rank: int = 0,
        world_size: int = 1,
        total: int | None = None,
    ) -> None:
        self.batches, self.accumulate = batches, accumulate
        self.rank, self.world_size = rank, world_size
        self.total = len(self) if total is None else total
        self.given = 0

    def __len__(self) -> int:
        return len(self.batches)

    def state_dict(self) -> dict[str, int]:
        """The number of batches already yielded; 0 at the end of the epoch."""
        return {"given": self.given % len(self)}

    def load_state_dict(self, state: dict[str, int]) -> None:
        """Continue after the batches already yielded, a whole number of steps."""
        self.given = state["given"]

    def __iter__(self) -> Iterator[Batch]:
        batches, planned = iter(self.batches[self.given :]), self.accumulate * self.world_size
        first = self.given * self.world_size
        while step := list(islice(batches, self.accumulate)):
            present = min(planned, self.total - first)
            ours = [first + self.rank + i * self.world_size < self.total for i in range(len(step))]
            found = (sum(b[1].counts) for b, own in zip(step, ours, strict=True) if own)
            objects = sum(found) * self.world_size / present
            for (images, targets), own in zip(step, ours, strict=True):
                self.given += 1
                yield Batch(images, targets, objects, planned / present if own else 0.0)
            first += planned
