"""Proof that an exported file says what torch says, on real pictures."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

import numpy as np
import torch
from scipy.optimize import linear_sum_assignment

from dabdetr.export.graph import Answer
from dabdetr.inference.decoding import Decoded, decode
from dabdetr.inference.runtimes import Exported, padded, prepare_for

BATCHES = (1, 2, 5)
SMALLER = 0.75
"""The second size at which files for any size are tried, of the first."""
COMPARED = 100
"""Torch's best detections of a picture: each needs its like in the exported file's answer."""
TOLERANCES = {
    "fp32": (0.05, 1e-3, 0.99),
    "fp16": (1.0, 0.02, 0.98),
    "bf16": (4.0, 0.05, 0.95),
    "int8": (12.0, 0.15, 0.9),
}
"""Precision → pixels of the input, score, and the share of detections that must keep to them."""
LOST = 0.02
"""AP that may be lost, where the data are annotated; on few pictures it is a rough number."""
_FAR = 1e4  # pixels that stand for an answer that is no number


@dataclass(frozen=True)
class Certificate:
    """How far an exported file's detections lie from torch's (float32).

    detections  compared, over all ``batches``, ``sizes`` (height, width) and pictures
    within      share of them inside the tolerances
    pixels      largest and median distance of a box's side, in pixels of the input
    scores      largest and median difference
    ap          COCO's AP of torch and of the file, where the data are annotated
    diverges    the first node of the graph whose values differ, where the file failed
    """

    precision: str
    pictures: int
    batches: tuple[int, ...]
    sizes: tuple[tuple[int, int], ...]
    detections: int
    within: float
    pixels: tuple[float, float]
    scores: tuple[float, float]
    tolerance: tuple[float, float, float]
    finite: bool = True
    ap: tuple[float, float] | None = None
    diverges: str | None = None

    @property
    def passed(self) -> bool:
        """Whether enough detections agree, every answer is a number, and AP is kept."""
        lost = 0.0 if self.ap is None else self.ap[0] - self.ap[1]
        return self.finite and self.within >= self.tolerance[2] and lost <= LOST

    def to_dict(self) -> dict[str, Any]:
        """Plain values, ready for JSON."""
        return asdict(self) | {"passed": self.passed}

    def __str__(self) -> str:
        pixels, score, share = self.tolerance
        lines = [
            f"{self.within:.2%} of {self.detections} detections of {self.pictures} pictures agree "
            f"with torch within {pixels:g} px and a score of {score:g} ({share:.0%} must)",
            f"largest differences: {self.pixels[0]:.3g} px, score {self.scores[0]:.2g}; median: "
            f"{self.pixels[1]:.2g} px, {self.scores[1]:.2g}",
        ]
        if not self.finite:
            lines.append("the file's answers are not all finite: it overflows in its precision")
        if self.ap is not None:
            lines.append(f"AP {self.ap[1]:.3f}, torch {self.ap[0]:.3f}")
        if self.diverges is not None:
            lines.append(f"first differs at {self.diverges}")
        return "\n".join(lines)


def certify(reference: Answer, exported: Exported, pictures: Sequence[np.ndarray]) -> Certificate:
    """Compare detections in batches of 1, 2 and 5 at two sizes (one where it is fixed)."""
    gaps: list[np.ndarray] = []
    sizes: set[tuple[int, int]] = set()
    finite = True
    for pixels, padding in batches(exported, pictures):
        sizes.add((pixels.shape[2], pixels.shape[3]))
        with torch.no_grad():
            truth = reference(torch.from_numpy(pixels), torch.from_numpy(padding))
        answer = exported.answer(pixels, padding)
        finite &= all(bool(np.isfinite(part).all()) for part in answer)
        frames = [_frame(each) for each in padding]
        classifier = exported.card.classifier
        expected = decode(truth[0], truth[1], frames, COMPARED, classifier)
        logits, boxes = (np.nan_to_num(x, nan=-_FAR, posinf=_FAR, neginf=-_FAR) for x in answer)
        found = decode(logits, boxes, frames, logits[0].size, classifier)
        gaps += [paired(a, b) for a, b in zip(expected, found, strict=True)]
    tolerance = TOLERANCES[exported.card.precision]
    every = np.concatenate(gaps)
    within = (every <= tolerance[:2]).all(1)
    largest, median = every.max(0).tolist(), np.median(every, axis=0).tolist()
    return Certificate(
        exported.card.precision,
        len(pictures),
        BATCHES,
        tuple(sorted(sizes)),
        len(every),
        float(within.mean()),
        (largest[0], median[0]),
        (largest[1], median[1]),
        tolerance,
        finite,
    )


def batches(
    exported: Exported, pictures: Sequence[np.ndarray]
) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Pixels and padding of every batch that is compared; pictures take turns."""
    turn = 0
    image = exported.config.image
    size = max(round(image.size * SMALLER), 16)
    most = max(round(image.max_size * SMALLER), size)
    less = exported.config.override([f"image.size={size}", f"image.max_size={most}"])
    lesser = replace(exported.card, config=less)
    for small in (False, True) if exported.card.size is None else (False,):
        for count in BATCHES:
            chosen = [pictures[(turn + n) % len(pictures)] for n in range(count)]
            turn += count
            if small:
                ready = [prepare_for(lesser, picture) for picture in chosen]
            else:
                ready = [exported.prepare(picture) for picture in chosen]
            yield padded(ready, exported.card.size)


def paired(expected: Decoded, found: Decoded) -> np.ndarray:
    """[expected, 2]: how many pixels and how much score each detection is off its like.

    Likes are of one class and one to one; so that boxes and scores are at least cost together.
    """
    gaps = np.full((len(expected.scores), 2), (_FAR, 1.0))
    for label in np.unique(expected.labels):
        rows = np.flatnonzero(expected.labels == label)
        columns = np.flatnonzero(found.labels == label)
        away = np.abs(expected.boxes[rows, None] - found.boxes[columns]).max(-1, initial=0)
        off = np.abs(expected.scores[rows, None] - found.scores[columns])
        row, column = linear_sum_assignment(away + 100 * off)
        gaps[rows[row]] = np.stack((away[row, column], off[row, column]), axis=1)
    return gaps


def _frame(padding: np.ndarray) -> tuple[int, int]:
    """(height, width) of what is no padding."""
    return int((~padding).any(1).sum()), int((~padding).any(0).sum())
