"""The candidates of a bench, their measurements, and the choice of the best one."""

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
"""Name for --formats → title."""
COMPILED = "compile"
"""Name for --formats of PyTorch compiled by torch.compile, which takes minutes to start."""
PRECISIONS = {"torch": ("fp32", "bf16")} | {name: each.timed for name, each in _EXPORTED.items()}
"""Format → the precisions that are timed on a CPU."""
AP_DROP = 0.5
"""Points of AP that may be lost by default."""
DISAGREEMENT = 0.02
"""Share of the boxes that may differ if there are no annotations."""
SAME_BOX = 0.9
"""IoU from which two boxes of a class are the same."""
NOISE = 0.03
"""Relative difference of time that is noise: of such candidates the most accurate is best."""


@dataclass(frozen=True)
class Candidate:
    """A runtime in a precision; ``compiled`` by torch.compile."""

    format: str
    precision: str
    compiled: bool = False

    @property
    def name(self) -> str:
        """Name in tables."""
        ending = ", compiled" if self.compiled else ""
        return f"{FORMATS[self.format]} {self.precision}{ending}"

    @property
    def key(self) -> str:
        """Name within file names."""
        return f"{self.format}-{self.precision}" + ("-compiled" if self.compiled else "")

    def commands(self, model: str, calibration: str) -> list[str]:
        """The commands to export its file, if it needs one, and to use it."""
        use = ["dabdetr", "predict", "--model"]
        if self.format == "torch":
            options = ["--precision", self.precision] if self.precision != "fp32" else []
            options += ["--compile"] if self.compiled else []
            return [shlex.join([*use, model, *options, "IMAGES"])]
        file = f"{Path(model).stem}-{self.precision}{EXPORTS[self.format].suffix}"
        precision = {
            "fp32": [],
            "fp16": ["--half"],
            "bf16": ["--bf16"],
            "int8": ["--int8", calibration],
        }[self.precision]
        export = ["dabdetr", "export", "--model", model, "--format", self.format, *precision]
        export += ["--output", file]
        return [shlex.join(export), shlex.join([*use, file, "IMAGES"])]


REFERENCE = Candidate("torch", "fp32")
"""The candidate that the others are compared with; it always takes part."""


def candidates(formats: Sequence[str], device: str = "cpu") -> list[Candidate]:
    """The candidates of the ``formats``, reference first; ``device`` is a type: cpu, cuda, mps."""
    every = [Candidate(each, kind) for each in FORMATS for kind in PRECISIONS[each]]
    if device != "cpu":
        every.append(Candidate("torch", "fp16"))
    every += [Candidate("torch", kind, compiled=True) for kind in PRECISIONS["torch"]]
    chosen = [
        each
        for each in every
        if (COMPILED if each.compiled else each.format) in formats and each != REFERENCE
    ]
    return [REFERENCE, *sorted(chosen, key=lambda each: list(FORMATS).index(each.format))]


@dataclass(frozen=True)
class Plan:
    """The user's choices; ValueError if they contradict each other.

    data, source  annotated images, or images without annotations: one of the two
    max_ap_drop   points of 100 that the best candidate may lose; for annotated images only
    formats       see ``candidates``; the reference, torch fp32, always takes part
    images        the most images for AP, or for agreement with the reference
    threads       number of threads; None: each runtime's default
    """

    model: str
    data: str | None = None
    source: str | None = None
    split: str = "val"
    max_ap_drop: float | None = None
    formats: tuple[str, ...] = tuple(FORMATS)
    batch: int = 1
    threads: int | None = None
    rounds: int = 5
    images: int = 100
    device: str = "auto"

    def __post_init__(self) -> None:
        if (self.data is None) == (self.source is None):
            given = "none" if self.data is None else "both"
            raise ValueError(
                f"give annotated data (--data) or images (--source) to time on; got {given}"
            )
        known = (*FORMATS, COMPILED)
        unknown = [each for each in self.formats if each not in known]
        if unknown or not self.formats:
            given = ", ".join(unknown) or "nothing"
            raise ValueError(f"--formats takes some of {', '.join(known)}; got {given}")
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
        """How much lower than the reference's the quality may be, 0–1."""
        if self.data is None:
            return DISAGREEMENT
        return (AP_DROP if self.max_ap_drop is None else self.max_ap_drop) / 100

    @property
    def calibration(self) -> str:
        """The images from which int8 ranges are calibrated."""
        return str(self.data or self.source)

    def environment(self, folder: Path) -> dict[str, str]:
        """The environment variables of every candidate's process.

        They set an empty compiler cache, so that start-up includes torch.compile's first
        compilation.
        """
        variables = {"TORCHINDUCTOR_CACHE_DIR": str(folder / "compiled")}
        if self.threads is not None:
            variables["OMP_NUM_THREADS"] = str(self.threads)
        return dict(os.environ) | variables


@dataclass(frozen=True)
class Row:
    """One candidate's measurements.

    turns    seconds per image in each round: prepared pixels to boxes, and file to boxes
    start    seconds from the start of a process to the boxes of its first image
    memory_mib  peak of the process, libraries included; None: the system does not report it
    file_mib    size of its file or files
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
        """Seconds per image, prepared pixels to boxes: the median of all rounds."""
        return median(model for model, _ in self.turns)

    @property
    def whole(self) -> float:
        """Seconds per image, file to boxes: the median of all rounds."""
        return median(whole for _, whole in self.turns)

    def gain(self, reference: Row) -> float:
        """Speed relative to the reference in the same round, file to boxes; median of rounds."""
        pairs = zip(reference.turns, self.turns, strict=True)
        return median(theirs[1] / ours[1] for theirs, ours in pairs)


@dataclass(frozen=True)
class BenchResult:
    """The result of a bench.

    rows    the candidates that finished, the fastest first
    absent  the candidates that did not, each with the reason as a sentence
    timed   number of images in a turn
    judged  number of images for AP or agreement
    data    name and split of annotated data; "" if quality is agreement
    notes   caveats about the numbers
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
        """The row of the candidate to use."""
        return best(self.rows, self.plan.drop)

    @property
    def reference(self) -> Row:
        """The row that the others are compared with."""
        return reference_of(self.rows)

    @property
    def measure(self) -> str:
        """The measure of quality."""
        return "AP" if self.data else "agreement"

    def commands(self, candidate: Candidate) -> list[str]:
        """The commands to export and use a candidate."""
        return candidate.commands(self.plan.model, self.plan.calibration)


def reference_of(rows: Sequence[Row]) -> Row:
    """The row that the others are compared with."""
    return next(row for row in rows if row.candidate == REFERENCE)


def best(rows: Sequence[Row], drop: float) -> Row:
    """The fastest row, file to boxes, whose quality is at most ``drop`` below the reference's.

    Of the rows within ``NOISE`` of the fastest, the one with the highest quality. The reference
    always qualifies.
    """
    floor = reference_of(rows).quality - drop - 1e-9
    allowed = [row for row in rows if row.quality >= floor]
    fastest = min(row.whole for row in allowed)
    near = [row for row in allowed if row.whole <= fastest * (1 + NOISE)]
    return max(near, key=lambda row: (row.quality, -row.whole))


def agreement(reference: Sequence[Detections], found: Sequence[Detections], conf: float) -> float:
    """Share of the boxes from ``conf`` on, of both sides, that the other side has as well.

    Boxes are matched one for one, by class and IoU. 1 if there are none.
    """
    shown = same = 0
    for one, other in zip(reference, found, strict=True):
        one, other = one.above(conf), other.above(conf)
        shown += len(one) + len(other)
        same += 2 * _pairs(one, other)
    return same / shown if shown else 1.0


def _pairs(one: Detections, other: Detections) -> int:
    """The number of boxes of an image that are the same on both sides."""
    same = (iou(one.boxes[:, None], other.boxes) >= SAME_BOX) & (
        one.labels[:, None] == other.labels
    )
    rows, columns = linear_sum_assignment(same, maximize=True)
    return int(same[rows, columns].sum())
