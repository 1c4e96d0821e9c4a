"""The AP that an exported file loses compared with torch, on annotated images."""

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
"""Largest allowed loss of AP (0–1), in any precision."""
EVALUATED = 200
"""Most images that AP is measured on: the first of the data."""
PARTS = 10
"""Parts of the images that are left out in turn to estimate the error of the difference."""


@dataclass(frozen=True)
class Loss:
    """COCO's AP of torch (float32) and of the file, over all detections.

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
        """A dictionary for JSON."""
        noise = None if np.isnan(self.noise) else self.noise
        return asdict(self) | {"noise": noise, "allowed": LOST}

    def __str__(self) -> str:
        error = "too few for an error" if np.isnan(self.noise) else f"± {self.noise:.4f}"
        return (
            f"AP {self.file:.4f}, torch {self.torch:.4f}: {self.file - self.torch:+.4f} ({error}) "
            f"on the first {counted(self.images, 'image')} of {self.data}; {LOST:g} may be lost"
        )


def compare_ap(
    detector: Detector, path: Path, data: DetectionDataset, progress: bool = False
) -> Loss:
    """Evaluate the detector and the file on the first ``EVALUATED`` images of ``data``."""
    subset = Subset(data, range(min(EVALUATED, len(data))))
    of_torch = evaluate(detector, subset, progress=progress)
    of_file = evaluate(path, subset, progress=progress)
    gaps = []
    for left_out in range(PARTS if len(subset) >= PARTS else 0):
        kept = [n for n in range(len(subset)) if n % PARTS != left_out]
        torch_ap, file_ap = (
            score(Subset(subset, kept), [found.detections[n] for n in kept]).ap
            for found in (of_torch, of_file)
        )
        gaps.append(torch_ap - file_ap)
    noise = float(np.sqrt((PARTS - 1) * np.var(gaps))) if gaps else float("nan")
    return Loss(of_torch.ap, of_file.ap, f"{data.name} {data.split}", len(subset), noise)
