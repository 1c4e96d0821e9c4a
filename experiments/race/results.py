"""Results of a race, whose members run at several sizes of images."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Self

from dabdetr.compare.results import Result, Results


class RaceResults(Results):
    """All finished runs of a race, in rising order of sizes."""

    @classmethod
    def load(cls, runs: Path, order: Sequence[str] = ()) -> Self:
        """Read the run folders in ``runs``."""
        found = super().load(runs, order)
        return replace(found, finished=tuple(sorted(found.finished, key=size_of)))

    @property
    def sizes(self) -> list[int]:
        """Longer sides of the input images in rising order."""
        return sorted({size_of(result) for result in self.finished})

    def at(self, size: int) -> Self:
        """The runs at one size."""
        return replace(self, finished=tuple(r for r in self.finished if size_of(r) == size))

    def members(self) -> list[str]:
        """The members with a finished run, in order."""
        return list(dict.fromkeys(result.member for result in self.finished))


def size_of(result: Result) -> int:
    """Longer side of the input images in pixels."""
    return result.config.image.max_size


def tokens_of(result: Result) -> int:
    """Number of tokens of a square image on the finest map."""
    return (size_of(result) // result.config.model.backbone.strides[0]) ** 2
