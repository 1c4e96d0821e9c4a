"""Objects followed through a video: the last frame's boxes are this frame's questions.

The decoder itself moves each question to where its object now is. Where questions compete for one
object, or one has lost its own, they are assigned to the frame's detections: by where each was
expected and by where its answer lies. There is no second model.
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
"""IoU from which a detection is an object that is followed already, or two answers are one."""
KEEP = 0.5
"""Share of a class's threshold that suffices for an object that is followed."""
STEADY = 0.6
"""Share of the last motion that the expected motion keeps."""
CLAIM = 0.3
"""IoU with a detection from which it is the track's: that of the expected box plus the answer's."""
APART = 0.2
"""IoU of two tracks' boxes from which they are too close to learn a motion from."""
TOGETHER = 3
"""Tracks from which the camera's motion is taken, at least."""


@dataclass
class Track:
    """One object: where it was seen last, how it moves, and for how many frames it is lost.

    box     [4] float32, x0 y0 x1 y1 in pixels
    motion  [2] float32, pixels a frame
    """

    number: int
    label: int
    box: np.ndarray
    motion: np.ndarray = field(default_factory=lambda: np.zeros(2, np.float32))
    lost: int = 0

    def expected(self) -> np.ndarray:
        """[4] where it should be in the next frame."""
        return self.box + np.tile(self.motion, 2)

    def seen(self, box: np.ndarray, alone: bool) -> None:
        """It is at ``box`` now; beside others, its box may be theirs and tells no motion."""
        if alone:
            moved = (box - self.box).reshape(2, 2).mean(0)
            self.motion = STEADY * self.motion + (1 - STEADY) * moved
        self.box, self.lost = box, 0


class Tracker:
    """The tracks of one video; ``asked`` are the next frame's questions, ``update`` its answers.

    ``limits`` [classes] are scores from which a detection that no track claims begins a new one.
    A track whose answer says "nothing" waits for ``patience`` frames, then it ends.
    """

    def __init__(self, limits: np.ndarray, patience: int = 15) -> None:
        if patience < 0:
            raise ValueError(f"patience should be at least 0 frames; got {patience}")
        self.limits, self.patience = limits, patience
        self.tracks: list[Track] = []
        self.count = 0

    def asked(self, size: tuple[int, int]) -> np.ndarray:
        """[tracks, 4] float32: boxes to ask; tracks that have left an image of ``size`` end."""
        limit = np.tile(size[::-1], 2)
        self.tracks = [t for t in self.tracks if area(t.expected().clip(0, limit)) > 1]
        boxes = [each.expected().clip(0, limit) for each in self.tracks]
        return np.array(boxes, np.float32).reshape(-1, 4)

    def update(self, answers: Answers) -> Detections:
        """The objects of the frame, with their tracks; ``answers`` are to ``asked``."""
        assert len(answers) == len(self.tracks)
        found = answers.detections
        own = np.array([each.label for each in self.tracks], np.int64)
        sure = answers.class_scores[np.arange(len(own)), own]
        claimed = self._claimed(answers, own)
        seen: dict[int, tuple[np.ndarray, float]] = {}
        for row, at in claimed.items():
            near = iou(answers.boxes[row], found.boxes[at]) >= SAME
            box = answers.boxes[row] if near else found.boxes[at]
            seen[row] = box, float(max(sure[row] if near else 0, found.scores[at]))
        for row in np.argsort(-sure, kind="stable").tolist():
            box = answers.boxes[row]
            there = sure[row] >= KEEP * self.limits[own[row]] and area(box) > 0
            if row not in seen and there and self._is_free(box, int(own[row]), seen):
                seen[row] = box, float(sure[row])
        self._move(seen)
        rows = [(self.tracks[row], score) for row, (_, score) in sorted(seen.items())]
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

    def _claimed(self, answers: Answers, own: np.ndarray) -> dict[int, int]:
        """Track → the detection that is its object in this frame.

        First by boxes as expected; then with the motion that all of them share, the camera's.
        """
        found = answers.detections
        fits = (own[:, None] == found.labels) & (found.scores >= KEEP * self.limits[found.labels])
        expected = np.array([each.expected() for each in self.tracks], np.float32).reshape(-1, 4)
        answered = iou(answers.boxes[:, None], found.boxes) if len(found) else np.zeros(fits.shape)
        lost = np.array([each.lost > 0 for each in self.tracks], bool)
        shift = np.zeros(2, np.float32)
        pairs: dict[int, int] = {}
        for _ in range(2):
            placed = expected + np.tile(shift, 2)
            there = iou(placed[:, None], found.boxes) if len(found) else np.zeros(fits.shape)
            # A track that is lost yields to one that is not.
            claims = np.where(fits, there + answered - 0.1 * lost[:, None], 0)
            chosen = zip(*linear_sum_assignment(-claims), strict=True)
            pairs = {int(r): int(at) for r, at in chosen if claims[r, at] >= CLAIM}
            steady = [row for row in pairs if not lost[row]]
            if len(steady) < TOGETHER:
                break
            moved = found.boxes[[pairs[row] for row in steady]] - expected[steady]
            shift = np.median(moved.reshape(-1, 2, 2).mean(1), axis=0)
        return pairs

    def _is_free(self, box: np.ndarray, label: int, seen: dict[int, Any]) -> bool:
        """Whether no track of the class has this object."""
        alike = [other for row, (other, _) in seen.items() if self.tracks[row].label == label]
        return iou(np.array(alike).reshape(-1, 4), box).max(initial=0) < SAME

    def _move(self, seen: dict[int, tuple[np.ndarray, float]]) -> None:
        """Each track to where it was seen; one that was not is lost, and goes on as it went."""
        expected = np.array([each.expected() for each in self.tracks], np.float32).reshape(-1, 4)
        for row, each in enumerate(self.tracks):
            if row in seen:
                others = np.delete(expected, row, axis=0)
                each.seen(seen[row][0], iou(others, expected[row]).max(initial=0) < APART)
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
    """Every frame's objects with their ``tracks``; each video starts counting at 1.

    ``source`` are videos or a camera, as a call takes them. Images are taken for
    frames in order.
    """
    followed = _Followed(predictor.class_thresholds(conf), patience)
    alone = Predictor(predictor.runtime)  # frame by frame: the next questions need these answers
    answered = alone.ask_all(
        source,
        repeat(followed.asked),
        conf=conf,
        keep_images=keep_images,
        stride=stride,
        on_error=on_error,
    )
    return (followed.tracker.update(answers) for answers in answered)


class _Followed:
    """The tracker of the current video; another video has one of its own."""

    def __init__(self, limits: np.ndarray, patience: int) -> None:
        self.limits, self.patience = limits, patience
        self.tracker, self.source = Tracker(limits, patience), ""

    def asked(self, size: tuple[int, int], source: str) -> np.ndarray:
        """The questions of the next frame, which is of ``source``."""
        if source != self.source and (is_video(source) or is_video(self.source)):
            self.tracker = Tracker(self.limits, self.patience)
        self.source = source
        return self.tracker.asked(size)


def mot_lines(found: Detections) -> str:
    """Lines of a MOTChallenge result file: frame, track, left, top, width, height, score, −1 …

    Frames and pixels count from 1.
    """
    if found.tracks is None or found.frame is None:
        raise ValueError("MOT files hold tracks of videos; these detections are of an image")
    rows = zip(found.tracks.tolist(), found.boxes.tolist(), found.scores.tolist(), strict=True)
    return "".join(
        f"{found.frame + 1},{number},{x0 + 1:.2f},{y0 + 1:.2f},{x1 - x0:.2f},{y1 - y0:.2f},"
        f"{score:.4f},-1,-1,-1\n"
        for number, (x0, y0, x1, y1), score in rows
    )
