"""One training in several processes, on one or more machines, as started by torchrun."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import timedelta
from typing import Any, TypeVar

import torch
from torch import distributed

from dabdetr.inference.device import choose_device

T = TypeVar("T")
TIMEOUT = timedelta(hours=12)
"""How long other ranks wait while the main one evaluates and writes."""


@dataclass(frozen=True)
class World:
    """The processes of one training, and the position of this one: ``rank`` of ``size``.

    device      this rank's own; rank 0 is the main one, which evaluates, writes and prints
    local_size  processes on this machine
    """

    device: torch.device = field(default_factory=lambda: torch.device("cpu"))
    rank: int = 0
    size: int = 1
    local_size: int = 1

    @property
    def is_main(self) -> bool:
        """Whether this is the rank that evaluates, writes and prints."""
        return self.rank == 0

    def broadcast(self, value: T) -> T:
        """The main rank's ``value``, on all ranks."""
        if self.size == 1:
            return value
        box, nccl = [value], distributed.get_backend() == "nccl"
        device = torch.device("cuda", torch.cuda.current_device()) if nccl else None
        distributed.broadcast_object_list(box, device=device)
        return box[0]

    def gather(self, value: T) -> list[T]:
        """The ``value`` of each rank in order, on all ranks."""
        if self.size == 1:
            return [value]
        box: list[Any] = [None] * self.size
        distributed.all_gather_object(box, value)
        return box


@contextmanager
def init_distributed(device: str | torch.device) -> Iterator[World]:
    """All processes started by torchrun, connected; without torchrun this process alone."""
    place = choose_device(device)
    if not launched():
        yield World(place)
        return
    if place.type == "mps":
        raise ValueError("training in several processes needs CUDA or the CPU; add --device cpu")
    if place.type == "cuda":
        place = choose_device(f"cuda:{os.environ['LOCAL_RANK']}")
        torch.cuda.set_device(place)
    distributed.init_process_group("nccl" if place.type == "cuda" else "gloo", timeout=TIMEOUT)
    try:
        rank, size, local = (int(os.environ[n]) for n in ("RANK", "WORLD_SIZE", "LOCAL_WORLD_SIZE"))
        yield World(place, rank, size, local)
    finally:
        distributed.destroy_process_group()


def launched() -> bool:
    """Whether torchrun started this process."""
    return distributed.is_available() and distributed.is_torchelastic_launched()


def silent() -> bool:
    """Whether another rank prints for this process."""
    return launched() and os.environ["RANK"] != "0"
