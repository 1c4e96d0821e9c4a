"""How much AP an exported file loses beside torch, on annotated images."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from dabdetr.data.dataset import DetectionDataset, Subset
from dabdetr.evaluation.evaluate import evaluate, score
from dabdetr.model.detector import Detector
from dabdetr.text import counted

LOST = 0.005
"""AP (0–1) that an exported file may lose, in any precision."""
EVALUATED = 200
"""Images that AP is measured on, at most: the first of the data."""
PARTS = 10
"""Parts of the data that are left out in turn, to see how much AP hangs on the images."""


@dataclass(frozen=True)
class Loss:
    """COCO's AP of torch (float32) and of the file, every detection counted.

    noise  standard error of the difference, from leaving out each tenth of the images in turn;
           NaN where there are fewer than 10
    """

    torch: float
    file: float
    data: str
    images: int
    noise: float

    @property
    def passed(self) -> bool:
        """Whether the file loses no more than ``LOST`` on these images."""
        return self.torch - self.file <= LOST

    def to_dict(self) -> dict[str, Any]:
        """Plain values, ready for JSON."""
        noise = None if np.isnan(self.noise) else self.noise
        return asdict(self) | {"noise": noise, "allowed": LOST}

    def __str__(self) -> str:
        chance = "too few for an error" if np.isnan(self.noise) else f"± {self.noise:.4f}"
        return (
            f"AP {self.file:.4f}, torch {self.torch:.4f}: {self.file - self.torch:+.4f} ({chance}) "
            f"on the first {counted(self.images, 'image')} of {self.data}; {LOST:g} may be lost"
        )


def compare_ap(
    detector: Detector, path: Path, data: DetectionDataset, progress: bool = False
) -> Loss:
    """Measure both sides on the first ``EVALUATED`` images of ``data``."""
    part = Subset(data, range(min(EVALUATED, len(data))))
    live = evaluate(detector, part, progress=progress)
    exported = evaluate(path, part, progress=progress)
    gaps = []
    for turn in range(PARTS if len(part) >= PARTS else 0):
        kept = [n for n in range(len(part)) if n % PARTS != turn]
        sides = (
            score(Subset(part, kept), [found.detections[n] for n in kept]).ap
            for found in (live, exported)
        )
        gaps.append(next(sides) - next(sides))
    noise = float(np.sqrt((PARTS - 1) * np.var(gaps))) if gaps else float("nan")
    return Loss(live.ap, exported.ap, f"{data.name} {data.split}", len(part), noise)
