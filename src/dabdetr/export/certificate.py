"""Proof that an exported file detects what torch detects, on real images, and with which AP."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from itertools import islice
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from scipy.optimize import linear_sum_assignment

from dabdetr.config import Config
from dabdetr.data.preprocessing import padded
from dabdetr.export.ap_loss import Loss
from dabdetr.export.plain import Plain, rounded, without_options
from dabdetr.export.tracing import Answer
from dabdetr.inference.exported import Exported, prepare_for
from dabdetr.inference.metadata import Metadata
from dabdetr.inference.outputs import LEAST, POSTS
from dabdetr.inference.postprocess import Ranked, class_scores, ranked
from dabdetr.structures.boxes import corners
from dabdetr.text import counted

BATCHES = (1, 2, 5)
QUESTIONS = (0, 1, 40)
"""Questions about each image of these batches, where the file takes questions."""
PLAIN = 2
"""Batches that are compared with a client without options."""
SMALLER = 0.75
"""The second size at which files for any size are tried, of the first."""
COMPARED = 100
"""Torch's best detections of an image: each needs its like in the exported file's answer."""
NOISE = 1e-5
"""By how much normalised pixels are changed to see whether torch's own answer hangs on rounding."""
DRAWS = 8
"""How often that is tried for an image."""
MOST_TIED = 0.25
"""Share of the images up to which it is tried at all."""
_FAR = 1e4  # pixels that stand for an answer that is no number, or for none


class Tolerance(NamedTuple):
    """What an exported file may be off by.

    pixels, score  of the input, of one detection
    share          of the detections that must keep to both
    shift          pixels that all boxes together may lie to one side: rounding goes either way
    """

    pixels: float
    score: float
    share: float
    shift: float


TOLERANCES = {
    "fp32": Tolerance(0.05, 1e-3, 0.99, 0.02),
    "fp16": Tolerance(1.0, 0.02, 0.98, 0.25),
    "bf16": Tolerance(4.0, 0.05, 0.95, 0.25),
    "int8": Tolerance(12.0, 0.15, 0.9, 0.25),
}


@dataclass(frozen=True)
class Agreement:
    """How far the answers to questions lie from torch's; terms as in ``Certificate``.

    pixels are of the boxes after every layer, scores of every class
    """

    count: int
    within: float
    pixels: tuple[float, float]
    scores: tuple[float, float]

    def __str__(self) -> str:
        return (
            f"{self.within:.2%} of {counted(self.count, 'answer')} to questions "
            f"{'agrees' if self.count == 1 else 'agree'} as well; largest differences: "
            f"{self.pixels[0]:.3g} px, score {self.scores[0]:.2g}"
        )


@dataclass(frozen=True)
class Certificate:
    """How far an exported file's detections lie from torch's (float32).

    detections  compared, over all ``batches``, ``sizes`` (height, width) and images
    within      share of them inside the tolerances
    pixels      largest and median distance of a box's side, in pixels of the input
    scores      largest and median difference
    shift       pixels by which one side of all boxes lies off, at most: the median with its sign
    plain       the same of a client without options, where its default may not be ``precision``
    questions   how far its answers to questions lie off, where it takes questions
    ap          AP of torch and of the file, where the data are annotated
    diverges    the first node of the graph whose values differ, where the file failed
    tied        images that agree with torch on pixels changed by up to ``NOISE`` only: where two
                proposals score alike, rounding decides which comes first
    """

    precision: str
    images: int
    batches: tuple[int, ...]
    sizes: tuple[tuple[int, int], ...]
    detections: int
    within: float
    pixels: tuple[float, float]
    scores: tuple[float, float]
    shift: float
    tolerance: Tolerance
    finite: bool = True
    plain: Plain | None = None
    questions: Agreement | None = None
    ap: Loss | None = None
    diverges: str | None = None
    tied: int = 0

    @property
    def passed(self) -> bool:
        """Whether enough detections and answers agree, none is no number, boxes lie true, and AP
        is kept."""
        alike = self.within >= self.tolerance.share and self.shift <= self.tolerance.shift
        if self.questions is not None:
            alike &= self.questions.within >= self.tolerance.share
        return self.finite and alike and (self.ap is None or self.ap.passed)

    def to_dict(self) -> dict[str, Any]:
        """Plain values, ready for JSON."""
        own = {"passed": self.passed, "ap": None if self.ap is None else self.ap.to_dict()}
        return asdict(self) | {"tolerance": self.tolerance._asdict()} | own

    def __str__(self) -> str:
        allowed = self.tolerance
        lines = [
            f"{self.within:.2%} of {counted(self.detections, 'detection')} of "
            f"{counted(self.images, 'image')} {'agrees' if self.detections == 1 else 'agree'} "
            f"with torch within {allowed.pixels:g} px and a score of {allowed.score:g} "
            f"({allowed.share:.0%} must)",
            f"largest differences: {self.pixels[0]:.3g} px, score {self.scores[0]:.2g}; median: "
            f"{self.pixels[1]:.2g} px, {self.scores[1]:.2g}; all together {self.shift:.2g} px to "
            f"one side ({allowed.shift:g} allowed)",
        ]
        if self.tied:
            lines.append(
                f"proposals score alike in {counted(self.tied, 'input')}: compared with torch on "
                f"pixels changed by {NOISE:g}"
            )
        if not self.finite:
            lines.append("the file's answers are not all finite: it overflows in its precision")
        if self.questions is not None:
            lines.append(str(self.questions))
        if self.plain is not None:
            lines.append(str(self.plain))
        if self.ap is not None:
            lines.append(str(self.ap))
        if self.diverges is not None:
            lines.append(f"first differs at {self.diverges}")
        return "\n".join(lines)


def certify(
    reference: Answer,
    exported: Exported,
    images: Sequence[np.ndarray],
    begins: Callable[[str], None] = lambda _: None,
) -> Certificate:
    """Compare detections in batches of 1, 2 and 5 at two sizes (one where it is fixed).

    Where the file takes questions, there are none, one and 40 about each of their images, and their
    answers are compared as well. ``reference`` is of ``comparable(exported.metadata)``;
    ``begins`` hears of every batch.
    """
    gaps: list[np.ndarray] = []
    answers: list[np.ndarray] = []
    unlike: list[_Unlike] = []
    sizes: set[tuple[int, int]] = set()
    finite, tolerance = True, TOLERANCES[exported.metadata.precision]
    for batch in batches(exported, images):
        begins("comparing with torch")
        sizes.add(batch[0].shape[2:])
        off = _gaps(reference, exported, *batch)
        for row, (pairs, found) in enumerate(zip(off.detections, off.found, strict=True)):
            if _agreement(pairs, tolerance)[1] < tolerance.share:
                unlike.append(_Unlike(len(gaps), batch, row, found))
            gaps.append(pairs)
        answers.append(off.answers)
        finite &= off.finite
    tied = 0
    if len(unlike) <= MOST_TIED * len(gaps):
        for each in unlike:
            again = _beside_noise(reference, exported.metadata, each)
            if again is not None:
                gaps[each.number], tied = again, tied + 1
    proof = _summary(exported.metadata.precision, len(images), sizes, np.concatenate(gaps), finite)
    proof = replace(proof, tied=tied)
    if not exported.metadata.questions:
        return proof
    return replace(
        proof, questions=Agreement(*_agreement(np.concatenate(answers), proof.tolerance))
    )


def certify_plain(
    reference: Answer,
    exported: Exported,
    images: Sequence[np.ndarray],
    traced: torch.export.ExportedProgram,
    measured: bool,
) -> Plain:
    """Compare with a client without options: OpenVINO's (``measured``), else ``traced`` in bf16."""
    path, metadata = Path(exported.path), exported.metadata
    client = exported.over(without_options(path, metadata) if measured else rounded(traced))
    gaps: list[np.ndarray] = []
    for batch in islice(batches(exported, images), PLAIN):
        gaps += _gaps(reference, client, *batch).detections
    off = np.abs(np.concatenate(gaps))
    return Plain(float(off[:, :4].max()), float(off[:, 4].max()), measured)


def comparable(metadata: Metadata) -> Metadata:
    """The metadata of what a file with these is compared with: all that torch has to say."""
    return replace(metadata, precision="fp32", size=None, padding=True, post="none", top=None)


class _Gaps(NamedTuple):
    """How far a batch is off.

    detections  of each image, as ``paired`` gives it
    found       the file's detections of each image
    answers     [images × questions, 5], in the form of ``paired``
    finite      whether all that the file gives is
    """

    detections: list[np.ndarray]
    found: list[Ranked]
    answers: np.ndarray
    finite: bool


class _Unlike(NamedTuple):
    """An image whose detections differ: its number, its batch, its row there, the file's answer."""

    number: int
    batch: Batch
    row: int
    found: Ranked


def _beside_noise(reference: Answer, metadata: Metadata, unlike: _Unlike) -> np.ndarray | None:
    """How far the file is off torch's answer to pixels that differ by up to ``NOISE``.

    None where it agrees with none of ``DRAWS`` such answers: then it is not rounding.
    """
    pixels, padding, asked = unlike.batch
    frames, tolerance = [_frame(each) for each in padding], TOLERANCES[metadata.precision]
    rng = np.random.default_rng(0)
    for _ in range(DRAWS):
        changed = pixels + rng.uniform(-NOISE, NOISE, pixels.shape).astype(np.float32)
        truth = _answer_of(reference, changed, padding, asked)
        expected = _expected(truth, frames, metadata)[unlike.row]
        pairs = paired(expected, unlike.found)
        if _agreement(pairs, tolerance)[1] >= tolerance.share:
            return pairs
    return None


def _answer_of(
    reference: Answer,
    pixels: np.ndarray,
    padding: np.ndarray,
    asked: tuple[np.ndarray, np.ndarray] | None,
) -> list[np.ndarray]:
    """All that torch gives for a batch."""
    with torch.no_grad():
        given = map(torch.from_numpy, (pixels, padding, *(asked or ())))
        return [each.numpy() for each in reference(*given)]


def _expected(
    truth: Sequence[np.ndarray], frames: Sequence[tuple[int, int]], metadata: Metadata
) -> list[Ranked]:
    """Torch's detections of every image, as far as the file is to give them."""
    every = ranked(
        *truth[:2],
        sizes=frames,
        max_det=truth[0][0].size,
        classifier=metadata.classifier,
        calibration=metadata.config.inference.calibration,
    )
    return [_promised(each, metadata) for each in every]


def _gaps(
    reference: Answer,
    exported: Exported,
    pixels: np.ndarray,
    padding: np.ndarray,
    asked: tuple[np.ndarray, np.ndarray] | None,
) -> _Gaps:
    """Torch's answer for a batch beside the file's."""
    truth = _answer_of(reference, pixels, padding, asked)
    frames = [_frame(each) for each in padding]
    answer = exported.predict(pixels, padding, frames, asked)
    finite = all(bool(np.isfinite(part).all()) for part in answer)
    known = [np.nan_to_num(x, nan=-_FAR, posinf=_FAR, neginf=-_FAR) for x in answer]
    found = exported.rank(known, frames, answer[0].size)
    expected = _expected(truth, frames, exported.metadata)
    pairs = [paired(a, b) for a, b in zip(expected, found, strict=True)]
    answers = np.zeros((0, 5))
    if asked is not None:
        answers = _off(truth[2:], known[-2:], frames, exported.config)
    return _Gaps(pairs, found, answers, finite)


def _off(
    expected: Sequence[np.ndarray],
    found: Sequence[np.ndarray],
    frames: Sequence[tuple[int, int]],
    config: Config,
) -> np.ndarray:
    """[images × questions, 5]: how far answers are off, in the form of ``paired``.

    Of the boxes after every layer, and of the classes, those that are farthest off.
    """
    calibration = config.inference.calibration
    scores = [class_scores(each[0], config.classifier, calibration) for each in (expected, found)]
    boxes = [corners(each[1]) for each in (expected, found)]
    extents = np.array([(width, height, width, height) for height, width in frames])
    sides = (boxes[1] - boxes[0]) * extents[:, None, None]  # [b, layers, questions, 4]
    off = (_farthest(sides, 1), _farthest(scores[1] - scores[0], 2)[..., None])
    return np.concatenate(off, axis=2).reshape(-1, 5)


def _farthest(off: np.ndarray, axis: int) -> np.ndarray:
    """The number that is largest with either sign, along an axis."""
    return np.take_along_axis(off, np.abs(off).argmax(axis, keepdims=True), axis).squeeze(axis)


def _promised(expected: Ranked, metadata: Metadata) -> Ranked:
    """Torch's best detections of an image, as far as the file is to give them.

    Where the file ranks them itself and gives fewer than are compared, those near its last rank may
    as well be just behind it, within the tolerance.
    """
    if POSTS[metadata.post].single:
        firsts = np.unique(expected.queries, return_index=True)[1]
        rows = np.sort(firsts[expected.scores[firsts] > 2 * LEAST])
        return Ranked(*(each[rows[:COMPARED]] for each in expected))
    rows = np.arange(min(COMPARED, len(expected.scores)))
    if metadata.top is not None and metadata.top < len(expected.scores):
        last = expected.scores[metadata.top - 1]
        margin = TOLERANCES[metadata.precision].score
        clear = np.flatnonzero(expected.scores > last + margin)
        rows = np.intersect1d(rows, clear if len(clear) else rows[: metadata.top])
    return Ranked(*(each[rows] for each in expected))


def _summary(
    precision: str,
    images: int,
    sizes: set[tuple[int, int]],
    gaps: np.ndarray,
    finite: bool,
) -> Certificate:
    """The certificate of ``paired`` gaps."""
    tolerance = TOLERANCES[precision]
    return Certificate(
        precision,
        images,
        BATCHES,
        tuple(sorted(sizes)),
        *_agreement(gaps, tolerance),
        float(np.abs(np.median(gaps[:, :4], axis=0)).max()),
        tolerance,
        finite,
    )


def _agreement(
    gaps: np.ndarray, tolerance: Tolerance
) -> tuple[int, float, tuple[float, float], tuple[float, float]]:
    """How many ``gaps`` there are, the share within the tolerance, and how far pixels and scores
    are off: largest and median."""
    off = np.stack((np.abs(gaps[:, :4]).max(1), np.abs(gaps[:, 4])), axis=1)
    within = (off <= (tolerance.pixels, tolerance.score)).all(1)
    largest, median = off.max(0).tolist(), np.median(off, axis=0).tolist()
    return (
        len(gaps),
        float(within.mean()),
        (largest[0], median[0]),
        (largest[1], median[1]),
    )


Batch = tuple[np.ndarray, np.ndarray, tuple[np.ndarray, np.ndarray] | None]
"""Pixels, padding, and boxes and labels of questions where they are compared."""


def questions(metadata: Metadata, images: int, count: int) -> tuple[np.ndarray, np.ndarray] | None:
    """Boxes [images, count, 4] and labels [images, count] to ask; None where none are taken.

    All over the image, of all sizes; every other class is not known.
    """
    if not metadata.questions:
        return None
    rng = np.random.default_rng(0)
    sides = rng.uniform(0.05, 0.6, (images, count, 2))
    boxes = np.concatenate((rng.uniform(sides / 2, 1 - sides / 2), sides), axis=2)
    labels = rng.integers(len(metadata.names), size=(images, count))
    labels[:, ::2] = -1
    return boxes.astype(np.float32), labels


def batches(exported: Exported, images: Sequence[np.ndarray]) -> Iterator[Batch]:
    """Every batch that is compared; images take turns."""
    turn = 0
    settings = exported.config.image
    size = max(round(settings.size * SMALLER), 16)
    most = max(round(settings.max_size * SMALLER), size)
    less = exported.config.override([f"image.size={size}", f"image.max_size={most}"])
    lesser = replace(exported.metadata, config=less)
    for small in (False, True) if exported.metadata.size is None else (False,):
        for count, number in zip(BATCHES, QUESTIONS, strict=True):
            chosen = [images[(turn + n) % len(images)] for n in range(count)]
            turn += count
            if small:
                ready = [prepare_for(lesser, image) for image in chosen]
            else:
                ready = [exported.prepare(image) for image in chosen]
            asked = questions(exported.metadata, count, number)
            yield *padded(ready, exported.metadata.size), asked


def paired(expected: Ranked, found: Ranked) -> np.ndarray:
    """[expected, 5]: how far each side (x0 y0 x1 y1) and the score of its like is off, with signs.

    Likes are of one class and one to one; so that boxes and scores are at least cost together.
    """
    gaps = np.full((len(expected.scores), 5), (_FAR, _FAR, _FAR, _FAR, 1.0))
    for label in np.unique(expected.labels):
        rows = np.flatnonzero(expected.labels == label)
        columns = np.flatnonzero(found.labels == label)
        sides = found.boxes[columns] - expected.boxes[rows, None]
        off = found.scores[columns] - expected.scores[rows, None]
        cost = np.abs(sides).max(-1, initial=0) + 100 * np.abs(off)
        row, column = linear_sum_assignment(cost)
        gaps[rows[row], :4], gaps[rows[row], 4] = sides[row, column], off[row, column]
    return gaps


def _frame(padding: np.ndarray) -> tuple[int, int]:
    """(height, width) of what is no padding."""
    return int((~padding).any(1).sum()), int((~padding).any(0).sum())
