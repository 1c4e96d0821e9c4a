"""Objects followed through a video: the last frame's boxes are this frame's questions.

The identity of an object is that of its question, which the decoder itself moves to where the
object now is. There is no second model, and no assignment between frames.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from itertools import repeat
from typing import Any

import numpy as np

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

    def seen(self, box: np.ndarray) -> None:
        """It is at ``box`` now."""
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
        order = sorted(range(len(answers)), key=lambda row: -self._claim(answers, row))
        taken: list[int] = []
        for row in order:
            track, box = self.tracks[row], answers.boxes[row]
            score = answers.class_scores[row, track.label]
            there = score >= KEEP * self.limits[track.label] and area(box) > 0
            alike = [r for r in taken if self.tracks[r].label == track.label]
            if there and iou(answers.boxes[alike], box).max(initial=0) < SAME:
                track.seen(box)
                taken.append(row)
            else:
                track.lost += 1
                track.box, track.motion = track.expected(), track.motion * STEADY
        rows = sorted(taken)
        seen = [self.tracks[row] for row in rows]
        scores = [float(answers.class_scores[row, self.tracks[row].label]) for row in rows]
        found = answers.detections
        for at in range(len(found)):
            box, label = found.boxes[at], int(found.labels[at])
            boxes = np.array([each.box for each in seen], np.float32).reshape(-1, 4)
            if found.scores[at] < self.limits[label] or iou(boxes, box).max(initial=0) >= SAME:
                continue
            self.count += 1
            seen.append(Track(self.count, label, box))
            scores.append(float(found.scores[at]))
            self.tracks.append(seen[-1])
        self.tracks = [each for each in self.tracks if each.lost <= self.patience]
        ranked = np.argsort(-np.array(scores), kind="stable") if seen else np.zeros(0, int)
        numbers = np.array([each.number for each in seen], np.int64)
        return replace(
            found,
            boxes=np.array([each.box for each in seen], np.float32).reshape(-1, 4)[ranked],
            scores=np.array(scores, np.float32)[ranked],
            labels=np.array([each.label for each in seen], np.int64)[ranked],
            queries=np.full(len(seen), -1, np.int64),
            tracks=numbers[ranked],
        )

    def _claim(self, answers: Answers, row: int) -> float:
        """How good a claim to its answer a track has: those that are not lost, and moved least."""
        score = answers.class_scores[row, self.tracks[row].label]
        return float(score * (0.1 + answers.moved[row])) - self.tracks[row].lost


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
