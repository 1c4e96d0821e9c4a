"""Tracking of objects through a video: the last frame's boxes are this frame's questions.

The decoder moves each question to its object's new place. If questions compete for an object, or
one has lost its object, tracks are assigned to the frame's detections by the IoU with the expected
box and with the answer. There is no second model.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from itertools import repeat
from typing import Any

import numpy as np
from scipy.optimize import linear_sum_assignment

from dabdetr.inference.video import is_video
from dabdetr.predictor import Predictor
from dabdetr.structures import Answers, Detections
from dabdetr.structures.boxes import area, iou

SAME = 0.5
"""IoU from which a detection is a tracked object, or two answers are the same."""
KEEP = 0.5
"""Share of a class's threshold that suffices for a tracked object."""
STEADY = 0.6
"""Weight of the previous motion in the moving average."""
CLAIM = 0.3
"""Least sum of a detection's IoU with a track's expected box and with its answer for a match."""
APART = 0.2
"""IoU of two tracks' boxes from which neither updates its motion."""
TOGETHER = 3
"""The fewest tracks from which the camera's motion is estimated."""


@dataclass
class Track:
    """A tracked object.

    box     [4] float32, the last x0 y0 x1 y1 in pixels
    motion  [2] float32, pixels per frame
    lost    number of frames since it was last found
    """

    number: int
    label: int
    box: np.ndarray
    motion: np.ndarray = field(default_factory=lambda: np.zeros(2, np.float32))
    lost: int = 0

    def expected(self) -> np.ndarray:
        """[4] the expected box in the next frame."""
        return self.box + np.tile(self.motion, 2)

    def move_to(self, box: np.ndarray, alone: bool) -> None:
        """Set the box; update the motion only if ``alone``, as a box near others may be theirs."""
        if alone:
            moved = (box - self.box).reshape(2, 2).mean(0)
            self.motion = STEADY * self.motion + (1 - STEADY) * moved
        self.box, self.lost = box, 0


class Tracker:
    """The tracks of a video: ``asked`` returns the next questions, ``update`` takes their answers.

    ``limits`` [classes] are the thresholds from which a detection without a track starts a new one.
    A track that is lost for more than ``patience`` frames ends.
    """

    def __init__(self, limits: np.ndarray, patience: int = 15) -> None:
        if patience < 0:
            raise ValueError(f"patience should be at least 0 frames; got {patience}")
        self.limits, self.patience = limits, patience
        self.tracks: list[Track] = []
        self.count = 0

    def asked(self, size: tuple[int, int]) -> np.ndarray:
        """[tracks, 4] float32: boxes to ask about; tracks outside an image of ``size`` end."""
        limit = np.tile(size[::-1], 2)
        self.tracks = [t for t in self.tracks if area(t.expected().clip(0, limit)) > 1]
        boxes = [each.expected().clip(0, limit) for each in self.tracks]
        return np.array(boxes, np.float32).reshape(-1, 4)

    def update(self, answers: Answers) -> Detections:
        """The frame's objects with their tracks; ``answers`` are those to ``asked``."""
        assert len(answers) == len(self.tracks)
        found = answers.detections
        labels = np.array([each.label for each in self.tracks], np.int64)
        answer_scores = answers.class_scores[np.arange(len(labels)), labels]
        placed: dict[int, tuple[np.ndarray, float]] = {}  # track → its box and score
        for row, at in self._claimed(answers, labels).items():
            near = iou(answers.boxes[row], found.boxes[at]) >= SAME
            box = answers.boxes[row] if near else found.boxes[at]
            placed[row] = box, float(max(answer_scores[row] if near else 0, found.scores[at]))
        for row in np.argsort(-answer_scores, kind="stable").tolist():
            box = answers.boxes[row]
            sure = answer_scores[row] >= KEEP * self.limits[labels[row]] and area(box) > 0
            if row not in placed and sure and self._is_free(box, int(labels[row]), placed):
                placed[row] = box, float(answer_scores[row])
        self._move(placed)
        rows = [(self.tracks[row], score) for row, (_, score) in sorted(placed.items())]
        for at in range(len(found)):
            box, label = found.boxes[at], int(found.labels[at])
            boxes = np.array([each.box for each, _ in rows], np.float32).reshape(-1, 4)
            if found.scores[at] < self.limits[label] or iou(boxes, box).max(initial=0) >= SAME:
                continue
            self.count += 1
            self.tracks.append(Track(self.count, label, box))
            rows.append((self.tracks[-1], float(found.scores[at])))
        self.tracks = [each for each in self.tracks if each.lost <= self.patience]
        scores = np.array([score for _, score in rows], np.float32)
        ranked = np.argsort(-scores, kind="stable")
        return replace(
            found,
            boxes=np.array([each.box for each, _ in rows], np.float32).reshape(-1, 4)[ranked],
            scores=scores[ranked],
            labels=np.array([each.label for each, _ in rows], np.int64)[ranked],
            queries=np.full(len(rows), -1, np.int64),
            tracks=np.array([each.number for each, _ in rows], np.int64)[ranked],
        )

    def _claimed(self, answers: Answers, labels: np.ndarray) -> dict[int, int]:
        """Track → the detection of its object in this frame; ``labels`` are those of the tracks.

        First with the expected boxes; then with these shifted by the median motion, the camera's.
        """
        found = answers.detections
        same = labels[:, None] == found.labels
        fits = same & (found.scores >= KEEP * self.limits[found.labels])
        expected = np.array([each.expected() for each in self.tracks], np.float32).reshape(-1, 4)
        answered = iou(answers.boxes[:, None], found.boxes) if len(found) else np.zeros(fits.shape)
        lost = np.array([each.lost > 0 for each in self.tracks], bool)
        shift = np.zeros(2, np.float32)
        pairs: dict[int, int] = {}
        for _ in range(2):
            shifted = expected + np.tile(shift, 2)
            overlap = iou(shifted[:, None], found.boxes) if len(found) else np.zeros(fits.shape)
            # Lost tracks have a lower priority.
            claims = np.where(fits, overlap + answered - 0.1 * lost[:, None], 0)
            chosen = zip(*linear_sum_assignment(-claims), strict=True)
            pairs = {int(r): int(at) for r, at in chosen if claims[r, at] >= CLAIM}
            followed = [row for row in pairs if not lost[row]]
            if len(followed) < TOGETHER:
                break
            moved = found.boxes[[pairs[row] for row in followed]] - expected[followed]
            shift = np.median(moved.reshape(-1, 2, 2).mean(1), axis=0)
        return pairs

    def _is_free(self, box: np.ndarray, label: int, placed: dict[int, Any]) -> bool:
        """Whether no track of the class has this object."""
        same = [other for row, (other, _) in placed.items() if self.tracks[row].label == label]
        return iou(np.array(same).reshape(-1, 4), box).max(initial=0) < SAME

    def _move(self, placed: dict[int, tuple[np.ndarray, float]]) -> None:
        """Move each track to its new box; one without is lost and keeps its motion."""
        expected = np.array([each.expected() for each in self.tracks], np.float32).reshape(-1, 4)
        for row, each in enumerate(self.tracks):
            if row in placed:
                others = np.delete(expected, row, axis=0)
                each.move_to(placed[row][0], iou(others, expected[row]).max(initial=0) < APART)
            else:
                each.lost, each.box = each.lost + 1, expected[row]


def track(
    predictor: Predictor,
    source: Any,
    conf: float | None = None,
    patience: int = 15,
    keep_images: bool = False,
    stride: int = 1,
    on_error: Any = "raise",
) -> Iterator[Detections]:
    """Every frame's objects with their ``tracks``, counted from 1 in each video.

    ``source`` is one or more videos or a camera, as for a predictor. Images are treated as the
    frames of one video.
    """
    tracking = _Tracking(predictor.class_thresholds(conf), patience)
    # batches of one frame, as the next questions depend on these answers
    by_frame = Predictor(predictor.runtime)
    answered = by_frame.ask_all(
        source,
        repeat(tracking.asked),
        conf=conf,
        keep_images=keep_images,
        stride=stride,
        on_error=on_error,
    )
    return (tracking.tracker.update(answers) for answers in answered)


class _Tracking:
    """The tracker of the current video, replaced by a new one when another video begins."""

    def __init__(self, limits: np.ndarray, patience: int) -> None:
        self.limits, self.patience = limits, patience
        self.tracker, self.source = Tracker(limits, patience), ""

    def asked(self, size: tuple[int, int], source: str) -> np.ndarray:
        """The questions for the next frame, from ``source``."""
        if source != self.source and (is_video(source) or is_video(self.source)):
            self.tracker = Tracker(self.limits, self.patience)
        self.source = source
        return self.tracker.asked(size)


def mot_lines(found: Detections) -> str:
    """Lines of a MOTChallenge result file: frame, track, left, top, width, height, score, −1 …

    Frames and pixels count from 1. ValueError for detections without tracks.
    """
    if found.tracks is None or found.frame is None:
        raise ValueError("MOT files contain tracks of videos; these detections are of an image")
    rows = zip(found.tracks.tolist(), found.boxes.tolist(), found.scores.tolist(), strict=True)
    return "".join(
        f"{found.frame + 1},{number},{x0 + 1:.2f},{y0 + 1:.2f},{x1 - x0:.2f},{y1 - y0:.2f},"
        f"{score:.4f},-1,-1,-1\n"
        for number, (x0, y0, x1, y1), score in rows
    )
