"""One training in several processes, on one machine or many, as torchrun starts them."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass, field
from datetime import timedelta
from pathlib import Path
from typing import Any, TypeVar

import torch
from torch import distributed

from dabdetr.inference.device import choose_device

T = TypeVar("T")
PATIENCE = timedelta(hours=12)
"""How long processes wait while the first one evaluates and writes."""


@dataclass(frozen=True)
class Processes:
    """Those that train together, and which this is: ``rank`` of ``count``, ``here`` on its machine.

    device  this one's own. The first process evaluates, writes and speaks.
    """

    device: torch.device = field(default_factory=lambda: torch.device("cpu"))
    rank: int = 0
    count: int = 1
    here: int = 1

    @property
    def first(self) -> bool:
        """Whether this is the one that writes."""
        return self.rank == 0

    def share(self, value: T) -> T:
        """The first process's ``value``, in all of them."""
        if self.count == 1:
            return value
        box = [value]
        distributed.broadcast_object_list(box, device=_where())
        return box[0]

    def gather(self, value: T) -> list[T]:
        """The ``value`` of each, in their order, in all of them."""
        if self.count == 1:
            return [value]
        box: list[Any] = [None] * self.count
        distributed.all_gather_object(box, value)
        return box

    @contextmanager
    def one_folder(self, new: AbstractContextManager[Path]) -> Iterator[Path]:
        """The folder that the first process makes, on a disk that all of them see."""
        if not self.first:
            yield self.share(Path())
            return
        with new as folder:
            yield self.share(folder)


@contextmanager
def together(device: str | torch.device) -> Iterator[Processes]:
    """All that torchrun started, able to speak to one another; else this process alone."""
    place = choose_device(device)
    if not launched():
        yield Processes(place)
        return
    if place.type == "mps":
        raise ValueError("training in several processes needs CUDA or the CPU; add --device cpu")
    if place.type == "cuda":
        place = choose_device(f"cuda:{os.environ['LOCAL_RANK']}")
        torch.cuda.set_device(place)
    distributed.init_process_group("nccl" if place.type == "cuda" else "gloo", timeout=PATIENCE)
    try:
        rank, count, here = (int(os.environ[n]) for n in ("RANK", "WORLD_SIZE", "LOCAL_WORLD_SIZE"))
        yield Processes(place, rank, count, here)
    finally:
        distributed.destroy_process_group()


def launched() -> bool:
    """Whether torchrun started this process."""
    return distributed.is_available() and distributed.is_torchelastic_launched()


def silent() -> bool:
    """Whether another process speaks for this one."""
    return launched() and os.environ["RANK"] != "0"


def _where() -> torch.device | None:
    nccl = distributed.get_backend() == "nccl"
    return torch.device("cuda", torch.cuda.current_device()) if nccl else None
