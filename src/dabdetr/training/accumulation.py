"""Which batches make an update together, and what each of their losses counts."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from itertools import islice
from typing import NamedTuple

from dabdetr.structures import Images, Targets

Batch = tuple[Images, Targets]


class Step(NamedTuple):
    """A batch as a part of an update.

    objects  mean number of objects of the update's batches: what losses are divided by, so that
             an update gives the same however it is divided (as over the processes of the papers)
    worth    what the loss is multiplied by, as the engine divides each by the number of batches
             that an update should have; 0: a batch of another process, to wait with
    """

    images: Images
    targets: Targets
    objects: float
    worth: float


class Updates:
    """The batches of an epoch that this process has, as steps of updates.

    An update is ``gathered`` batches of each of ``turns`` processes; process ``turn`` has every
    ``turns``-th of the ``whole`` epoch's batches. The last update has what is left. Averaged over
    processes, ``objects`` are those of the whole update.
    """

    def __init__(
        self,
        batches: Iterable[Batch],
        gathered: int,
        turn: int = 0,
        turns: int = 1,
        whole: int | None = None,
    ) -> None:
        self.batches, self.gathered = batches, gathered
        self.turn, self.turns = turn, turns
        self.whole = len(self) if whole is None else whole

    def __len__(self) -> int:
        return len(self.batches)  # pyright: ignore[reportArgumentType]

    def __iter__(self) -> Iterator[Step]:
        batches, first, planned = iter(self.batches), 0, self.gathered * self.turns
        while update := list(islice(batches, self.gathered)):
            gathered = min(planned, self.whole - first)
            ours = [first + self.turn + i * self.turns < self.whole for i in range(len(update))]
            found = (sum(b[1].counts) for b, own in zip(update, ours, strict=True) if own)
            objects = sum(found) * self.turns / gathered
            for (images, targets), own in zip(update, ours, strict=True):
                yield Step(images, targets, objects, planned / gathered if own else 0.0)
            first += planned
