"""What a bench is asked to do."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

from dabdetr.bench.candidates import FORMATS
from dabdetr.inference.exported import is_exported

AP_DROP = 0.5
"""Points of AP that may be lost where the user does not say."""
DISAGREEMENT = 0.02
"""Share of the boxes that may differ where no boxes are annotated."""


@dataclass(frozen=True)
class Plan:
    """The user's choices; ValueError where they contradict each other.

    data, source  annotated images, or others: one of the two
    max_ap_drop   points of 100 that the best contender may lose; for annotated images only
    formats       see ``contenders``; the reference, torch fp32, always competes
    images      how many AP, or else agreement with the reference, is measured on, at most
    threads       to compute in; None: as many as each runtime likes
    """

    model: str
    data: str | None = None
    source: str | None = None
    split: str = "val"
    max_ap_drop: float | None = None
    formats: tuple[str, ...] = tuple(FORMATS)
    batch: int = 1
    threads: int | None = None
    rounds: int = 7
    images: int = 200
    device: str = "auto"
    scaling: bool = False

    def __post_init__(self) -> None:
        if (self.data is None) == (self.source is None):
            given = "none" if self.data is None else "both"
            raise ValueError(
                f"give annotated data (--data) or images (--source) to time on; got {given}"
            )
        unknown = [each for each in self.formats if each not in FORMATS]
        if unknown or not self.formats:
            given = ", ".join(unknown) or "nothing"
            raise ValueError(f"--formats takes some of {', '.join(FORMATS)}; got {given}")
        for name in ("batch", "rounds", "images", "threads"):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise ValueError(f"{name} should be at least 1; got {value}")
        if self.max_ap_drop is not None and self.data is None:
            raise ValueError("--max-ap-drop needs AP, so annotated images: give --data as well")
        if self.max_ap_drop is not None and not 0 <= self.max_ap_drop <= 100:
            raise ValueError(f"max_ap_drop is in points, 0 to 100; got {self.max_ap_drop}")
        if is_exported(self.model):
            raise ValueError(
                f"{self.model} is exported; give the weights: the bench makes exports of its own"
            )

    @property
    def drop(self) -> float:
        """How much lower than the reference's a quality may be, 0–1."""
        if self.data is None:
            return DISAGREEMENT
        return (AP_DROP if self.max_ap_drop is None else self.max_ap_drop) / 100

    @property
    def calibration(self) -> str:
        """Where int8 takes its ranges from."""
        return str(self.data or self.source)

    def environment(self, folder: Path) -> dict[str, str]:
        """That of every contender.

        With a cache of its own, so that start-up is what torch.compile takes at a first start.
        """
        told = {"TORCHINDUCTOR_CACHE_DIR": str(folder / "compiled")}
        if self.threads is not None:
            told["OMP_NUM_THREADS"] = str(self.threads)
        return dict(os.environ) | told
