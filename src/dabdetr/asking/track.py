"""Tracking of objects through a video: the last frame's boxes are this frame's questions.

The decoder moves each question to its object's new place. If questions compete for an object, or
one has lost its object, tracks are assigned to the frame's detections by the IoU with the expected
box and with the answer. A track remembers its object's size and motion, so that it also knows where
an object is that is partly or wholly hidden. There is no second model.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from itertools import repeat
from typing import Any

import numpy as np
from scipy.optimize import linear_sum_assignment

from dabdetr.inference.video import is_video
from dabdetr.predictor import Predictor
from dabdetr.structures import Answers, Detections
from dabdetr.structures.boxes import area, iou, shared_area

SAME = 0.5
"""IoU from which a detection is a tracked object, or two answers are the same."""
KEEP = 0.5
"""Share of a class's threshold that suffices for a tracked object."""
CLAIM = 0.3
"""Least sum of a detection's IoU with a track's expected box and with its answer for a match."""
OTHER = 0.5
"""Weight of a claim on a detection of another class: classes flicker too."""
OWN, CAMERA = 0.4, 0.2
"""Weights of the newest motion, an object's own and the camera's, in the moving average.

The camera's is lower, as a shaking camera returns.
"""
GROW = 0.2
"""Weight of the newest size in the moving average."""
INSIDE = 0.9
"""Share of a box's area in another one from which it lies in it; one around two is so larger."""
TOGETHER = 3
"""The fewest tracks from which the camera's motion is estimated."""
VOTES = 16
"""The number of answers whose motions may be the camera's."""


@dataclass
class Track:
    """A tracked object.

    box     [4] float32, the whole object's x0 y0 x1 y1 in pixels, with hidden parts and those
            outside the image
    motion  [2] float32, pixels per frame
    found   number of frames in which it was found
    lost    number of frames since it was last found
    """

    number: int
    label: int
    box: np.ndarray
    motion: np.ndarray = field(default_factory=lambda: np.zeros(2, np.float32))
    found: int = 1
    lost: int = 0

    def expected(self) -> np.ndarray:
        """[4] the expected box in the next frame."""
        return self.box + np.tile(self.motion, 2)

    def move_to(self, seen: np.ndarray, camera: np.ndarray, size: tuple[int, int]) -> None:
        """Correct box and motion by the box ``seen`` in an image of ``size``.

        An object that moves shifts both edges of its box alike. If something hides a part of it,
        or a neighbour's box merges with its own, one edge is wrong. So the object has moved beyond
        expectation as far as both edges agree: by the median of their two shifts and none. An edge
        at the image's border is where the view ends and says nothing; then the other one counts.
        The rest of the shifts is a change of size, which is averaged over several frames.
        """
        border = np.array([[0, 0], size[::-1]])
        expected, edges = self.expected().reshape(2, 2), seen.reshape(2, 2)  # low and high, x and y
        cut, beyond = edges == border, edges - expected
        speaking = np.where(cut & ~cut[::-1], beyond[::-1], beyond)
        moved = np.median([*speaking, np.zeros(2)], axis=0)
        # first a mean, so that a young track soon has its motion
        own, common = max(OWN, 1 / self.found), max(CAMERA, 1 / self.found)
        self.motion = (self.motion + own * (moved - camera) + common * camera).astype(np.float32)
        box = expected + moved + np.where(cut, 0, GROW * (beyond - moved))
        low, high = np.where(cut, (np.minimum(box, edges)[0], np.maximum(box, edges)[1]), box)
        self.box = np.concatenate((low, high)).astype(np.float32)
        self.found, self.lost = self.found + 1, 0

    def pass_by(self, camera: np.ndarray) -> None:
        """Move on unseen, as expected and with the camera."""
        self.box, self.lost = self.expected() + np.tile(camera, 2), self.lost + 1


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
        inside = area(self._expected(size)) > 1
        self.tracks = [each for each, kept in zip(self.tracks, inside, strict=True) if kept]
        return self._expected(size)

    def update(self, answers: Answers) -> Detections:
        """The frame's objects with their tracks; ``answers`` are those to ``asked``."""
        assert len(answers) == len(self.tracks)
        found = answers.detections
        camera = self._camera(answers)
        expected = self._expected(found.size, camera)
        claimed = self._claimed(answers, expected)
        placed = self._placed(answers, expected, claimed)
        for row, each in enumerate(self.tracks):
            if row in placed:
                each.move_to(placed[row][0], camera, found.size)
            else:
                each.pass_by(camera)
        rows = [(self.tracks[row], *placed[row]) for row in sorted(placed)]
        for at in sorted(set(range(len(found))) - set(claimed.values())):
            box, score, label = found.boxes[at], float(found.scores[at]), int(found.labels[at])
            if score >= self.limits[label] and _is_new(box, [other for _, other, _ in rows]):
                self.count += 1
                self.tracks.append(Track(self.count, label, box))
                rows.append((self.tracks[-1], box, score))
        self.tracks = [each for each in self.tracks if each.lost <= self.patience]
        scores = np.array([score for _, _, score in rows], np.float32)
        ranked = np.argsort(-scores, kind="stable")
        return replace(
            found,
            boxes=np.array([box for _, box, _ in rows], np.float32).reshape(-1, 4)[ranked],
            scores=scores[ranked],
            labels=np.array([each.label for each, _, _ in rows], np.int64)[ranked],
            queries=np.full(len(rows), -1, np.int64),
            tracks=np.array([each.number for each, _, _ in rows], np.int64)[ranked],
        )

    def _expected(self, size: tuple[int, int], camera: Any = (0, 0)) -> np.ndarray:
        """[tracks, 4] float32: the expected boxes moved by ``camera``, clipped to the image."""
        boxes = np.array([each.expected() for each in self.tracks], np.float32).reshape(-1, 4)
        return (boxes + np.tile(camera, 2).astype(np.float32)).clip(0, np.tile(size[::-1], 2))

    def _camera(self, answers: Answers) -> np.ndarray:
        """[2] float32: the motion that tracks have in common beyond the expected one, in pixels.

        It is the motion of one of the surest answers, or none: that with which the tracks' boxes
        coincide best with detections.
        """
        found = answers.detections
        none = np.zeros((1, 2), np.float32)
        if len(answers) < TOGETHER or len(found) == 0:
            return none[0]
        surest = np.argsort(-answers.class_scores.max(1), kind="stable")[:VOTES]
        moved = (answers.boxes - answers.asked)[surest].reshape(-1, 2, 2).mean(1)
        motions = np.concatenate((none, moved))
        overlaps = [
            iou(self._expected(found.size, each)[:, None], found.boxes).max(1).sum()
            for each in motions
        ]
        return motions[np.argmax(overlaps)]

    def _claimed(self, answers: Answers, expected: np.ndarray) -> dict[int, int]:
        """Track → the detection of its object in this frame."""
        found = answers.detections
        if len(found) == 0:
            return {}
        labels = np.array([each.label for each in self.tracks], np.int64)
        lost = np.array([each.lost > 0 for each in self.tracks], bool)
        # An answer counts less the farther the camera has moved from what was asked.
        asked = iou(answers.asked, expected)[:, None]
        claims = iou(expected[:, None], found.boxes)
        claims = claims + asked * iou(answers.boxes[:, None], found.boxes)
        claims -= 0.1 * lost[:, None]  # Lost tracks have a lower priority.
        claims[labels[:, None] != found.labels] *= OTHER
        claims[:, found.scores < KEEP * self.limits[found.labels]] = 0
        pairs = zip(*linear_sum_assignment(-claims), strict=True)
        return {int(row): int(at) for row, at in pairs if claims[row, at] >= CLAIM}

    def _placed(
        self, answers: Answers, expected: np.ndarray, claimed: dict[int, int]
    ) -> dict[int, tuple[np.ndarray, float]]:
        """Track → its object's box and score, if it was found.

        The box is the answer if it coincides with the claimed detection, or else the detection. In
        a box that is around two objects, each is where it was expected. Without a detection a sure
        answer suffices if no other track has the object.
        """
        found = answers.detections
        labels = np.array([each.label for each in self.tracks], np.int64)
        scores = answers.class_scores[np.arange(len(labels)), labels]
        placed: dict[int, tuple[np.ndarray, float]] = {}
        for row, at in claimed.items():
            near = iou(answers.boxes[row], found.boxes[at]) >= SAME
            box = answers.boxes[row] if near else found.boxes[at]
            placed[row] = box, float(max(scores[row] if near else 0, found.scores[at]))
        for row, at in _merged(claimed, expected, answers).items():
            placed[row] = expected[row], float(found.scores[at])
        for row in np.argsort(-scores, kind="stable").tolist():
            box = answers.boxes[row]
            sure = scores[row] >= KEEP * self.limits[labels[row]] and area(box) > 0
            others = np.array([other for other, _ in placed.values()]).reshape(-1, 4)
            if row not in placed and sure and iou(others, box).max(initial=0) < SAME:
                placed[row] = box, float(scores[row])
        return placed


def _merged(claimed: dict[int, int], expected: np.ndarray, answers: Answers) -> dict[int, int]:
    """Track → the detection that is around this object and another one.

    Where objects overlap, the decoder may find one box around both. One track claims it, the other
    has none, though its answer is this box too. The box is larger than either object, and the hull
    of their expected boxes fits it better than one of them.
    """
    merged: dict[int, int] = {}
    low, high = expected[:, :2], expected[:, 2:]
    for row, at in claimed.items():
        box = answers.detections.boxes[at]
        hulls = np.concatenate((np.minimum(low, low[row]), np.maximum(high, high[row])), 1)
        alone = iou(expected, box)
        better = iou(hulls, box) - np.maximum(alone, alone[row])
        better[list(claimed)] = 0
        better[iou(answers.boxes, box) < SAME] = 0
        better[np.maximum(area(expected), area(expected[row])) > INSIDE * area(box)] = 0
        if better.max() > 0:
            merged |= {row: at, int(better.argmax()): at}
    return merged


def _is_new(box: np.ndarray, others: Sequence[np.ndarray]) -> bool:
    """Whether none of the tracked boxes is this one, and it is not around two of them."""
    boxes = np.array(others, np.float32).reshape(-1, 4)
    inside = shared_area(boxes, box) >= INSIDE * area(boxes)
    return bool(iou(boxes, box).max(initial=0) < SAME and inside.sum() < 2)


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

    ``source`` is one or more videos or a camera, as for a predictor. The images of a folder are
    treated as the frames of a video, and so are images in memory.
    """
    limits = predictor.class_thresholds(conf)
    tracking = _Tracking(limits, patience)
    # batches of one frame, as the next questions depend on these answers
    by_frame = Predictor(predictor.runtime)
    answered = by_frame.ask_all(
        source,
        repeat(tracking.asked),
        conf=KEEP * float(limits.min()),  # weak detections are found for tracked objects
        keep_images=keep_images,
        stride=stride,
        on_error=on_error,
    )
    return (tracking.tracker.update(answers) for answers in answered)


class _Tracking:
    """The tracker of the current video, replaced by a new one when another video begins."""

    def __init__(self, limits: np.ndarray, patience: int) -> None:
        self.limits, self.patience = limits, patience
        self.tracker, self.video = Tracker(limits, patience), ""

    def asked(self, size: tuple[int, int], source: str) -> np.ndarray:
        """The questions for the next frame, from ``source``."""
        if (video := video_of(source)) != self.video:
            self.tracker, self.video = Tracker(self.limits, self.patience), video
        return self.tracker.asked(size)


def video_of(source: str) -> str:
    """The video that a frame is of; for an image, its folder."""
    return source if is_video(source) else os.path.dirname(source)


def mot_lines(found: Detections, frame: int | None = None) -> str:
    """Lines of a MOTChallenge result file: frame, track, left, top, width, height, score, −1 …

    ``frame`` counts from 0, by default that of ``found``; in the lines frames and pixels count from
    1. ValueError for detections without tracks.
    """
    frame = found.frame if frame is None else frame
    if found.tracks is None or frame is None:
        raise ValueError("MOT files contain tracks of videos; these detections are of an image")
    rows = zip(found.tracks.tolist(), found.boxes.tolist(), found.scores.tolist(), strict=True)
    return "".join(
        f"{frame + 1},{number},{x0 + 1:.2f},{y0 + 1:.2f},{x1 - x0:.2f},{y1 - y0:.2f},"
        f"{score:.4f},-1,-1,-1\n"
        for number, (x0, y0, x1, y1), score in rows
    )
