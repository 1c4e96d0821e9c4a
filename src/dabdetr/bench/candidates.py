"""What competes in a bench, what was measured of each candidate, and which of them to use."""

from __future__ import annotations

import os
import shlex
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import median

from scipy.optimize import linear_sum_assignment

from dabdetr.export.formats import FORMATS as EXPORTS
from dabdetr.inference.opening import is_exported
from dabdetr.structures import Detections
from dabdetr.structures.boxes import iou

_EXPORTED = {name: each for name, each in EXPORTS.items() if each.timed}
FORMATS = {"torch": "PyTorch"} | {name: each.title for name, each in _EXPORTED.items()}
"""What --formats calls them, and what people do."""
PRECISIONS = {"torch": ("fp32", "bf16")} | {name: each.timed for name, each in _EXPORTED.items()}
"""What is timed on a CPU."""
AP_DROP = 0.5
"""Points of AP that may be lost where the user does not say."""
DISAGREEMENT = 0.02
"""Share of the boxes that may differ where no boxes are annotated."""
SAME_BOX = 0.9
"""IoU from which two boxes of a class are the same."""
NOISE = 0.03
"""Share of the time that is no difference: of candidates so close, the more faithful is best."""


@dataclass(frozen=True)
class Candidate:
    """A runtime in a precision; ``compiled`` by torch.compile."""

    format: str
    precision: str
    compiled: bool = False

    @property
    def name(self) -> str:
        """For tables."""
        ending = ", compiled" if self.compiled else ""
        return f"{FORMATS[self.format]} {self.precision}{ending}"

    @property
    def key(self) -> str:
        """For names of files."""
        return f"{self.format}-{self.precision}" + ("-compiled" if self.compiled else "")

    def export_options(self, model: str, calibration: str) -> list[str]:
        """The words after ``dabdetr`` that make its file; empty where weights are enough."""
        if self.format == "torch":
            return []
        precision = {
            "fp32": [],
            "fp16": ["--half"],
            "bf16": ["--bf16"],
            "int8": ["--int8", calibration],
        }[self.precision]
        return ["export", "--model", model, "--format", self.format, *precision]

    def commands(self, model: str, calibration: str) -> list[str]:
        """What to type to have it: the making of its file, if any, and the use of it."""
        use = ["dabdetr", "predict", "--model"]
        if self.format == "torch":
            options = ["--precision", self.precision] if self.precision != "fp32" else []
            options += ["--compile"] if self.compiled else []
            return [shlex.join([*use, model, *options, "IMAGES"])]
        file = f"{Path(model).stem}-{self.precision}{EXPORTS[self.format].suffix}"
        make = ["dabdetr", *self.export_options(model, calibration), "--output", file]
        return [shlex.join(make), shlex.join([*use, file, "IMAGES"])]


REFERENCE = Candidate("torch", "fp32")
"""What the others are compared with; it always competes."""


def candidates(formats: Sequence[str], device: str = "cpu") -> list[Candidate]:
    """Those of the ``formats``, the reference first, on a kind of ``device`` (cpu, cuda, mps)."""
    found = [Candidate(each, kind) for each in FORMATS for kind in PRECISIONS[each]]
    if device != "cpu":
        found.append(Candidate("torch", "fp16"))
    found += [Candidate("torch", kind, compiled=True) for kind in PRECISIONS["torch"]]
    chosen = [each for each in found if each.format in formats and each != REFERENCE]
    return [REFERENCE, *sorted(chosen, key=lambda each: list(FORMATS).index(each.format))]


@dataclass(frozen=True)
class Plan:
    """The user's choices; ValueError where they contradict each other.

    data, source  annotated images, or others: one of the two
    max_ap_drop   points of 100 that the best candidate may lose; for annotated images only
    formats       see ``candidates``; the reference, torch fp32, always competes
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
        """That of every candidate.

        With a cache of its own, so that start-up is what torch.compile takes at a first start.
        """
        told = {"TORCHINDUCTOR_CACHE_DIR": str(folder / "compiled")}
        if self.threads is not None:
            told["OMP_NUM_THREADS"] = str(self.threads)
        return dict(os.environ) | told


@dataclass(frozen=True)
class Row:
    """One candidate's measures.

    turns    seconds an image in each round: prepared pixels to boxes, and file to boxes
    start    seconds from the start of a process to the boxes of its first image
    memory_mib  that the process held at most, libraries included; None: the system does not say
    file_mib    of its file or files
    quality  AP on annotated data, otherwise agreement with the reference; 0–1
    """

    candidate: Candidate
    turns: tuple[tuple[float, float], ...]
    start: float
    memory_mib: float | None
    file_mib: float | None
    quality: float

    @property
    def model(self) -> float:
        """Seconds an image, prepared pixels to boxes: the median of all rounds."""
        return median(model for model, _ in self.turns)

    @property
    def whole(self) -> float:
        """Seconds an image, file to boxes: the median of all rounds."""
        return median(whole for _, whole in self.turns)

    def gain(self, reference: Row) -> float:
        """How many times as fast as the reference in the same round, file to boxes; median."""
        pairs = zip(reference.turns, self.turns, strict=True)
        return median(theirs[1] / own[1] for theirs, own in pairs)


@dataclass(frozen=True)
class BenchResult:
    """What a bench found: rows of candidates that came to the end, reasons of those that did not.

    rows    the fastest first
    absent  each with its reason, a sentence
    timed   images in a turn; ``judged``: images that AP or agreement is of
    data    name and split of annotated data; "" where quality is agreement
    """

    plan: Plan
    device: str
    rows: tuple[Row, ...]
    absent: tuple[tuple[Candidate, str], ...]
    timed: int
    judged: int
    data: str = ""
    notes: tuple[str, ...] = ()

    @property
    def best(self) -> Row:
        """The one to use."""
        return best(self.rows, self.plan.drop)

    @property
    def reference(self) -> Row:
        """The row that the others are compared with."""
        return reference_of(self.rows)

    @property
    def measure(self) -> str:
        """What quality is."""
        return "AP" if self.data else "agreement"

    def commands(self, candidate: Candidate) -> list[str]:
        """What to type to have and use a candidate."""
        return candidate.commands(self.plan.model, self.plan.calibration)


def reference_of(rows: Sequence[Row]) -> Row:
    """The row that the others are compared with."""
    return next(row for row in rows if row.candidate == REFERENCE)


def best(rows: Sequence[Row], drop: float) -> Row:
    """The fastest, file to boxes, whose quality is at most ``drop`` below the reference's.

    Of those as fast as it but for noise, the one of the highest quality. The reference itself
    always qualifies.
    """
    floor = reference_of(rows).quality - drop - 1e-9
    allowed = [row for row in rows if row.quality >= floor]
    fastest = min(row.whole for row in allowed)
    near = [row for row in allowed if row.whole <= fastest * (1 + NOISE)]
    return max(near, key=lambda row: (row.quality, -row.whole))


def agreement(reference: Sequence[Detections], found: Sequence[Detections], conf: float) -> float:
    """Of all boxes that either side shows at ``conf``, the share that the other shows as well.

    Boxes go one to one, by class and IoU. Where neither side shows any, 1.
    """
    shown = alike = 0
    for one, other in zip(reference, found, strict=True):
        one, other = one.above(conf), other.above(conf)
        shown += len(one) + len(other)
        alike += 2 * _pairs(one, other)
    return alike / shown if shown else 1.0


def _pairs(one: Detections, other: Detections) -> int:
    """Boxes of one image that are the same on both sides."""
    same = (iou(one.boxes[:, None], other.boxes) >= SAME_BOX) & (
        one.labels[:, None] == other.labels
    )
    rows, columns = linear_sum_assignment(same, maximize=True)
    return int(same[rows, columns].sum())
