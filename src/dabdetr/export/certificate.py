"""Certificates: comparison of an exported file's detections and answers with torch's on images."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from itertools import islice
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from scipy.optimize import linear_sum_assignment

from dabdetr.config import Config
from dabdetr.export.ap_loss import Loss
from dabdetr.export.batches import BATCHES, Batch, batches
from dabdetr.export.plain import Plain, rounded, without_options
from dabdetr.export.tracing import Answer
from dabdetr.inference.exported import Exported
from dabdetr.inference.metadata import Metadata
from dabdetr.inference.outputs import LEAST, POSTS
from dabdetr.inference.postprocess import Ranked, class_scores, ranked
from dabdetr.inference.runtime import Precision
from dabdetr.structures.boxes import corners
from dabdetr.text import counted

PLAIN = 2
"""Batches that are compared with a client without options."""
COMPARED = 100
"""Best detections of torch per image that need a match in the exported file's."""
NOISE = 1e-5
"""Largest change of normalised pixels in the test whether rounding decides torch's own output."""
DRAWS = 8
"""Random changes of an image's pixels in that test."""
MOST_TIED = 0.25
"""Share of images that differ up to which that test is made."""
ROUNDED: dict[str, Precision] = {"fp16": "fp16", "bf16": "bf16", "int8": "bf16"}
"""Precision of a file → that in which torch shows how sensitive the model is to rounding."""
BEYOND = 1.5
"""A file may lose more than torch: runtimes compute more in a lower precision than torch does."""
_FAR = 1e4  # pixels; the difference for outputs that are not finite, and for missing matches


class Tolerance(NamedTuple):
    """Largest allowed differences of an exported file.

    pixels  of a side of a box, in pixels of the input
    score   of a detection
    share   least share of detections within both, of those that score more than ``score``
    shift   of all boxes in one direction, in pixels (see ``common_shift``): rounding has none
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
    """Differences between the file's answers to questions and torch's, as in ``Certificate``.

    ``pixels`` are of the boxes after every layer, ``scores`` of every class.
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
    """Differences between an exported file's detections and torch's (float32).

    detections  number compared, over all ``batches``, ``sizes`` (height, width) and images
    within      share of them within the tolerances
    pixels      largest and median difference of a side of a box, in pixels of the input
    scores      largest and median difference of scores
    shift       of all boxes in one direction, in pixels (see ``common_shift``)
    plain       differences of a client without options, if its default may be another precision
    questions   differences of the answers to questions, if the file takes questions
    ap          AP of torch and of the file, if the data are annotated
    diverges    the first node of the graph whose values differ, if the file failed
    tied        images that agree with torch only on pixels changed by up to ``NOISE``: where two
                proposals have almost equal scores, rounding decides which ranks first
    of_torch    what ``within`` is for torch in the file's precision; None where it is not needed
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
    of_torch: float | None = None

    @property
    def required(self) -> float:
        """Least share of detections within the tolerances.

        For a model that is sensitive to rounding it is reduced by ``BEYOND`` times the share that
        torch itself loses in this precision.
        """
        lost = 0.0 if self.of_torch is None else 1 - self.of_torch
        return self.tolerance.share - BEYOND * lost

    @property
    def passed(self) -> bool:
        """Whether outputs are finite, and differences, shift and loss of AP are allowed."""
        agrees = self.within >= self.required and self.shift <= self.tolerance.shift
        if self.questions is not None:
            agrees &= self.questions.within >= self.required
        return self.finite and agrees and (self.ap is None or self.ap.passed)

    def to_dict(self) -> dict[str, Any]:
        """A dictionary for JSON."""
        return asdict(self) | {
            "tolerance": self.tolerance._asdict(),
            "passed": self.passed,
            "ap": None if self.ap is None else self.ap.to_dict(),
        }

    def __str__(self) -> str:
        limits, required = self.tolerance, f"{self.required:.0%} are required"
        if self.of_torch is not None:
            required += f", as torch in {ROUNDED[self.precision]} has {self.of_torch:.2%}"
        lines = [
            f"{self.within:.2%} of {counted(self.detections, 'detection')} of "
            f"{counted(self.images, 'image')} {'agrees' if self.detections == 1 else 'agree'} "
            f"with torch within {limits.pixels:g} px and a score of {limits.score:g} ({required})",
            f"largest differences: {self.pixels[0]:.3g} px, score {self.scores[0]:.2g}; median: "
            f"{self.pixels[1]:.2g} px, score {self.scores[1]:.2g}",
            f"common shift of all boxes: {self.shift:.2g} px (at most {limits.shift:g} is allowed)",
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
    in_precision: Answer | None = None,
) -> Certificate:
    """Compare detections in batches of 1, 2 and 5 at two sizes (one where it is fixed).

    If the file takes questions, the images of these batches get none, one and 40 each, and the
    answers are compared as well. ``reference`` is made for ``comparable(exported.metadata)``;
    ``begins`` is called at every batch with a description. ``in_precision`` is torch in the
    precision of ``ROUNDED``; where the file differs too much, it gives ``Certificate.of_torch``.
    """
    gaps: list[np.ndarray] = []
    answers: list[np.ndarray] = []
    differing: list[tuple[int, Batch, int, Ranked]] = []
    sizes: set[tuple[int, int]] = set()
    finite, tolerance = True, TOLERANCES[exported.metadata.precision]
    for batch in batches(exported, images):
        begins("comparing with torch")
        sizes.add(batch[0].shape[2:])
        of_batch = _gaps(reference, exported, *batch)
        for row, (pairs, found) in enumerate(zip(of_batch.detections, of_batch.found, strict=True)):
            if _agreement(pairs, tolerance)[1] < tolerance.share:
                differing.append((len(gaps), batch, row, found))
            gaps.append(pairs)
        answers.append(of_batch.answers)
        finite &= of_batch.finite
    tied = 0
    if len(differing) <= MOST_TIED * len(gaps):
        for number, batch, row, found in differing:
            pairs = _gaps_with_noise(reference, exported.metadata, batch, row, found)
            if pairs is not None:
                gaps[number], tied = pairs, tied + 1
    every = np.concatenate(gaps)
    agreement, questions, of_torch = _agreement(every, tolerance), None, None
    if in_precision is not None and agreement[1] < tolerance.share:
        of_torch = _share_of_torch(reference, in_precision, exported, images)
    if exported.metadata.questions:
        questions = Agreement(*_agreement(np.concatenate(answers), tolerance))
    return Certificate(
        exported.metadata.precision,
        len(images),
        BATCHES,
        tuple(sorted(sizes)),
        *agreement,
        common_shift(every[:, :4]),
        tolerance,
        finite,
        questions=questions,
        tied=tied,
        of_torch=of_torch,
    )


def common_shift(sides: np.ndarray) -> float:
    """The largest over the four sides of |median difference|, as far as chance does not explain it.

    ``sides`` [n, 4] are signed differences in pixels. Three standard errors of the median are
    subtracted: in a lower precision boxes differ by pixels, and their median by a part of one.
    """
    median = np.median(sides, axis=0)
    spread = 1.4826 * np.median(np.abs(sides - median), axis=0)  # the deviation, if it is normal
    return float((np.abs(median) - 3 * 1.2533 * spread / len(sides) ** 0.5).clip(min=0).max())


def _share_of_torch(
    reference: Answer, in_precision: Answer, exported: Exported, images: Sequence[np.ndarray]
) -> float:
    """The share of detections within the file's tolerances for torch in its precision."""
    metadata, gaps = exported.metadata, []
    for batch in batches(exported, images):
        frames = [_frame(each) for each in batch[1]]
        expected = _expected(_torch_outputs(reference, *batch), frames, metadata)
        found = _ranked(_finite(_torch_outputs(in_precision, *batch)), frames, metadata)
        gaps += [paired(a, b) for a, b in zip(expected, found, strict=True)]
    return _agreement(np.concatenate(gaps), TOLERANCES[metadata.precision])[1]


def certify_plain(
    reference: Answer,
    exported: Exported,
    images: Sequence[np.ndarray],
    traced: torch.export.ExportedProgram,
    measured: bool,
) -> Plain:
    """Compare a client without options with torch.

    The client is OpenVINO where ``measured``; else it is emulated by ``traced`` rounded to bf16.
    """
    path, metadata = Path(exported.path), exported.metadata
    client = exported.over(without_options(path, metadata) if measured else rounded(traced))
    gaps: list[np.ndarray] = []
    for batch in islice(batches(exported, images), PLAIN):
        gaps += _gaps(reference, client, *batch).detections
    sizes = np.abs(np.concatenate(gaps))
    return Plain(float(sizes[:, :4].max()), float(sizes[:, 4].max()), measured)


def comparable(metadata: Metadata) -> Metadata:
    """Metadata of torch's reference for a file: float32, any size, outputs of all queries."""
    return replace(metadata, precision="fp32", size=None, padding=True, post="none", top=None)


class _Gaps(NamedTuple):
    """Differences between the file and torch in a batch.

    detections  result of ``paired`` for each image
    found       the file's detections of each image
    answers     [images × questions, 6], in the form of ``paired``
    finite      whether all outputs of the file are finite
    """

    detections: list[np.ndarray]
    found: list[Ranked]
    answers: np.ndarray
    finite: bool


def _gaps_with_noise(
    reference: Answer, metadata: Metadata, batch: Batch, row: int, found: Ranked
) -> np.ndarray | None:
    """``paired`` of the file and torch's output for pixels that are changed by up to ``NOISE``.

    None if the file agrees with none of ``DRAWS`` such outputs: the cause is not rounding.
    ``found`` are the file's detections of the image in a ``row`` of the batch.
    """
    pixels, padding, asked = batch
    frames, tolerance = [_frame(each) for each in padding], TOLERANCES[metadata.precision]
    rng = np.random.default_rng(0)
    for _ in range(DRAWS):
        changed = pixels + rng.uniform(-NOISE, NOISE, pixels.shape).astype(np.float32)
        truth = _torch_outputs(reference, changed, padding, asked)
        pairs = paired(_expected(truth, frames, metadata)[row], found)
        if _agreement(pairs, tolerance)[1] >= tolerance.share:
            return pairs
    return None


def _torch_outputs(
    reference: Answer,
    pixels: np.ndarray,
    padding: np.ndarray,
    asked: tuple[np.ndarray, np.ndarray] | None,
) -> list[np.ndarray]:
    with torch.no_grad():
        inputs = map(torch.from_numpy, (pixels, padding, *(asked or ())))
        return [each.numpy() for each in reference(*inputs)]


def _finite(outputs: Sequence[np.ndarray]) -> list[np.ndarray]:
    """The outputs with far values in place of those that are not finite."""
    return [np.nan_to_num(x, nan=-_FAR, posinf=_FAR, neginf=-_FAR) for x in outputs]


def _expected(
    truth: Sequence[np.ndarray], frames: Sequence[tuple[int, int]], metadata: Metadata
) -> list[Ranked]:
    """Torch's detections of every image that the file should have as well."""
    return [_promised(each, metadata) for each in _ranked(truth, frames, metadata)]


def _ranked(
    outputs: Sequence[np.ndarray], frames: Sequence[tuple[int, int]], metadata: Metadata
) -> list[Ranked]:
    """All detections of every image, from torch's outputs."""
    return ranked(
        *outputs[:2],
        sizes=frames,
        max_det=outputs[0][0].size,
        classifier=metadata.classifier,
        calibration=metadata.config.inference.calibration,
    )


def _gaps(
    reference: Answer,
    exported: Exported,
    pixels: np.ndarray,
    padding: np.ndarray,
    asked: tuple[np.ndarray, np.ndarray] | None,
) -> _Gaps:
    """The differences between the file's outputs and torch's for a batch."""
    truth = _torch_outputs(reference, pixels, padding, asked)
    frames = [_frame(each) for each in padding]
    answer = exported.predict(pixels, padding, frames, asked)
    finite = all(bool(np.isfinite(part).all()) for part in answer)
    known = _finite(answer)
    found = exported.rank(known, frames, answer[0].size)
    expected = _expected(truth, frames, exported.metadata)
    pairs = [paired(a, b) for a, b in zip(expected, found, strict=True)]
    answers = np.zeros((0, 6))
    if asked is not None:
        answers = _answer_gaps(truth[2:], known[-2:], frames, exported.config)
    return _Gaps(pairs, found, answers, finite)


def _answer_gaps(
    expected: Sequence[np.ndarray],
    found: Sequence[np.ndarray],
    frames: Sequence[tuple[int, int]],
    config: Config,
) -> np.ndarray:
    """[images × questions, 6]: differences of answers, in the form of ``paired``.

    For each question the largest over the boxes of all layers, and over the scores of all classes;
    all of them count.
    """
    calibration = config.inference.calibration
    scores = [class_scores(each[0], config.classifier, calibration) for each in (expected, found)]
    boxes = [corners(each[1]) for each in (expected, found)]
    extents = np.array([(width, height, width, height) for height, width in frames])
    sides = (boxes[1] - boxes[0]) * extents[:, None, None]  # [b, layers, questions, 4]
    largest = (_largest_signed(sides, 1), _largest_signed(scores[1] - scores[0], 2)[..., None])
    rows = np.concatenate(largest, axis=2).reshape(-1, 5)
    return np.column_stack((rows, np.ones(len(rows))))


def _largest_signed(values: np.ndarray, axis: int) -> np.ndarray:
    """The value of largest magnitude along an axis, with its sign."""
    indices = np.abs(values).argmax(axis, keepdims=True)
    return np.take_along_axis(values, indices, axis).squeeze(axis)


def _promised(expected: Ranked, metadata: Metadata) -> Ranked:
    """Torch's best detections of an image that the file should have as well.

    Where the file ranks detections itself and outputs fewer than are compared, those whose scores
    are within the tolerance of its last one may be missing.
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


def _agreement(
    gaps: np.ndarray, tolerance: Tolerance
) -> tuple[int, float, tuple[float, float], tuple[float, float]]:
    """The number of ``gaps``, the share within the tolerance, and (largest, median) differences.

    These are of pixels, and then of scores. Only detections that score more than the tolerance of
    scores count, if there are any: the file may miss the others.
    """
    clear = gaps[gaps[:, 5] > tolerance.score]
    gaps = clear if len(clear) else gaps
    sizes = np.stack((np.abs(gaps[:, :4]).max(1), np.abs(gaps[:, 4])), axis=1)
    within = (sizes <= (tolerance.pixels, tolerance.score)).all(1)
    largest, median = sizes.max(0).tolist(), np.median(sizes, axis=0).tolist()
    return len(gaps), float(within.mean()), (largest[0], median[0]), (largest[1], median[1])


def paired(expected: Ranked, found: Ranked) -> np.ndarray:
    """[expected, 6]: signed differences of the sides (x0 y0 x1 y1) and the score of each match.

    The last column is the expected score. Detections of one class are matched one to one with the
    least total difference of boxes and scores.
    """
    gaps = np.full((len(expected.scores), 6), (_FAR, _FAR, _FAR, _FAR, 1.0, 0.0))
    gaps[:, 5] = expected.scores
    for label in np.unique(expected.labels):
        rows = np.flatnonzero(expected.labels == label)
        columns = np.flatnonzero(found.labels == label)
        sides = found.boxes[columns] - expected.boxes[rows, None]
        scores = found.scores[columns] - expected.scores[rows, None]
        cost = np.abs(sides).max(-1, initial=0) + 100 * np.abs(scores)
        row, column = linear_sum_assignment(cost)
        gaps[rows[row], :4], gaps[rows[row], 4] = sides[row, column], scores[row, column]
    return gaps


def _frame(padding: np.ndarray) -> tuple[int, int]:
    """(height, width) of the part that is not padding."""
    return int((~padding).any(1).sum()), int((~padding).any(0).sum())
