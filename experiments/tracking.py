"""Tracks by questions beside ByteTrack on the same detections, in videos whose truth is planted.

    OMP_NUM_THREADS=1 python -m experiments.tracking --data DATA --split test

Needs ``pip install trackers``. Cells are cut out of the photographs of DATA and moved over a
ground of their colour, or the photographs themselves are panned, zoomed and shaken. Both trackers
get what the model finds in the same passes, and start tracks from the lowest threshold of its
classes. The first frame does not count, as ByteTrack numbers no object there. Prints the table of
``docs/results.md``.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from importlib import import_module
from itertools import repeat

import numpy as np
from experiments.asking import arguments
from PIL import Image
from scipy.ndimage import gaussian_filter
from scipy.optimize import linear_sum_assignment

from dabdetr.asking.track import Tracker, track
from dabdetr.data.dataset import DetectionDataset
from dabdetr.data.layouts import open_data
from dabdetr.predictor import Predictor
from dabdetr.structures import Detections
from dabdetr.structures.boxes import area, iou

FRAMES, SIZE = 30, (480, 640)
PATIENCE = 15
VISIBLE = 0.4
"""Share of an object that is seen, from which it counts."""
LOWEST = 0.1
"""Score from which ByteTrack gets detections; it uses weak ones for tracks that it has."""
SAME = 0.5

Frame = tuple[np.ndarray, np.ndarray]
"""Numbers [n] and boxes [n, 4] (x0 y0 x1 y1 in pixels) of the objects in a frame."""
Video = tuple[list[np.ndarray], list[Frame]]


@dataclass(frozen=True)
class Scores:
    """Measures of tracks over a video: IDF1 and HOTA 0–1, and the number of identity switches."""

    idf1: float
    hota: float
    switches: int


def scores(truth: Sequence[Frame], found: Sequence[Frame]) -> Scores:
    """IDF1 (Ristani et al. 2016), HOTA (Luiten et al. 2021), switches as CLEAR MOT counts them."""
    known, seen = (np.unique(np.concatenate([n for n, _ in side])) for side in (truth, found))
    overlaps = []
    for (numbers, boxes), (others, places) in zip(truth, found, strict=True):
        pairs = iou(boxes[:, None], places) if len(boxes) and len(places) else np.zeros((0, 0))
        rows, columns = np.searchsorted(known, numbers), np.searchsorted(seen, others)
        overlaps.append((rows, columns, pairs.reshape(len(rows), len(columns))))
    counts = [
        np.bincount(np.concatenate([each[side] for each in overlaps]), minlength=len(ids))
        for side, ids in ((0, known), (1, seen))
    ]
    together = np.zeros((len(known), len(seen)))
    alike = np.zeros_like(together)
    for rows, columns, pairs in overlaps:
        together[np.ix_(rows, columns)] += pairs >= SAME
        both = pairs.sum(0) + pairs.sum(1)[:, None] - pairs
        alike[np.ix_(rows, columns)] += pairs / both.clip(1e-9)
    best = together[linear_sum_assignment(-together)].sum()
    idf1 = 2 * best / max(counts[0].sum() + counts[1].sum(), 1)
    alignment = alike / (counts[0][:, None] + counts[1] - alike).clip(1e-9)
    return Scores(float(idf1), _hota(overlaps, alignment, counts), _switches(overlaps))


def _hota(overlaps: list[tuple[np.ndarray, ...]], alignment: np.ndarray, counts: list) -> float:
    """The mean over 19 thresholds of √(detection accuracy × association accuracy)."""
    thresholds = np.arange(0.05, 0.99, 0.05)
    matched = np.zeros((len(thresholds), *alignment.shape))
    for rows, columns, pairs in overlaps:
        row, column = linear_sum_assignment(-alignment[np.ix_(rows, columns)] * pairs)
        for at, least in enumerate(thresholds):
            kept = pairs[row, column] >= least - 1e-9
            np.add.at(matched[at], (rows[row[kept]], columns[column[kept]]), 1)
    values = []
    for each in matched:
        hits = each.sum()
        detection = hits / max(counts[0].sum() + counts[1].sum() - hits, 1)
        shared = each / (counts[0][:, None] + counts[1] - each).clip(1)
        association = (each * shared).sum() / max(hits, 1)
        values.append(np.sqrt(detection * association))
    return float(np.mean(values))


def _switches(overlaps: list[tuple[np.ndarray, ...]]) -> int:
    """How often an object is matched by another track than the last that matched it."""
    last: dict[int, int] = {}
    count = 0
    for rows, columns, pairs in overlaps:
        kept = np.array([[last.get(int(r)) == int(c) for c in columns] for r in rows], bool)
        worth = np.where(pairs >= SAME, pairs + 1000 * kept.reshape(pairs.shape), 0)
        for row, column in zip(*linear_sum_assignment(-worth), strict=True):
            if worth[row, column] > 0:
                before = last.get(int(rows[row]))
                count += before is not None and before != int(columns[column])
                last[int(rows[row])] = int(columns[column])
    return count


# Videos


def cutouts(data: DetectionDataset, count: int, rng: np.random.Generator) -> list[np.ndarray]:
    """Objects that touch no other one and no edge, RGBA with an elliptic, soft outline."""
    found: list[np.ndarray] = []
    for index in rng.permutation(len(data)):
        record, image = data.record(int(index)), data.image(int(index))
        for row in rng.permutation(len(record.boxes)):
            box = record.boxes[row]
            x0, y0, x1, y1 = box.round().astype(int).tolist()
            inside = x0 > 3 and y0 > 3 and x1 < record.width - 3 and y1 < record.height - 3
            others = np.delete(record.boxes, row, axis=0)
            if not inside or min(x1 - x0, y1 - y0) < 70 or iou(others, box).max(initial=0) > 0.02:
                continue
            patch = image[y0:y1, x0:x1].astype(float)
            y, x = np.ogrid[-1 : 1 : patch.shape[0] * 1j, -1 : 1 : patch.shape[1] * 1j]
            alpha = ((1 - np.hypot(x, y)) / 0.08).clip(0, 1)
            found.append(np.dstack((patch, alpha)))
            break
        if len(found) == count:
            break
    return found


def moved(
    objects: Sequence[np.ndarray],
    places: np.ndarray,
    rng: np.random.Generator,
    bar: tuple[int, int] | None = None,
    contrast: np.ndarray | None = None,
    change: Callable[[np.ndarray, int], np.ndarray] | None = None,
) -> Video:
    """Objects with their centres at ``places`` [frames, objects, 2]; ``bar`` hides columns.

    ``contrast`` [frames, objects] is 1 for an object as it is and 0 for one that cannot be seen.
    """
    ground = np.array([232.0, 226, 236])  # a smear's, where there is no cell
    noise = gaussian_filter(rng.normal(0, 8, (*SIZE, 3)), (1.5, 1.5, 0))
    frames, truth = [], []
    for frame, centres in enumerate(places):
        canvas = ground + noise
        numbers, boxes = [], []
        for number, (each, (x, y)) in enumerate(zip(objects, centres, strict=True)):
            height, width = each.shape[:2]
            left, upper = round(x - width / 2), round(y - height / 2)
            box = np.array([left, upper, left + width, upper + height])
            seen = box.clip(0, [SIZE[1], SIZE[0]] * 2)
            x0, y0, x1, y1 = seen.tolist()
            if x1 <= x0 or y1 <= y0:
                continue
            part = each[y0 - upper : y1 - upper, x0 - left : x1 - left]
            alpha = part[..., 3:] * (1 if contrast is None else contrast[frame, number])
            canvas[y0:y1, x0:x1] += alpha * (part[..., :3] - canvas[y0:y1, x0:x1])
            hidden = 0
            if bar is not None:
                hidden = max(0, min(x1, bar[1]) - max(x0, bar[0])) / (x1 - x0)
            if area(seen) * (1 - hidden) >= VISIBLE * width * height:
                numbers.append(number)
                boxes.append(seen)
        if bar is not None:
            canvas[:, bar[0] : bar[1]] = (90, 90, 100)
        canvas = canvas if change is None else change(canvas, frame)
        frames.append(canvas.clip(0, 255).astype(np.uint8))
        truth.append((np.array(numbers, int), np.array(boxes, float).reshape(-1, 4)))
    return frames, truth


def _lines(starts: np.ndarray, ends: np.ndarray) -> np.ndarray:
    """[FRAMES, n, 2] straight ways."""
    share = np.linspace(0, 1, FRAMES)[:, None, None]
    return starts + (ends - starts) * share


def in_motion(data: DetectionDataset, rng: np.random.Generator) -> Video:
    """Four objects in lanes of their own."""
    y = np.array([70, 185, 300, 415.0])
    starts = np.stack((rng.uniform(80, 250, 4), y), 1)
    return moved(cutouts(data, 4, rng), _lines(starts, starts + np.array((300, 0))), rng)


def _crossing_ways(rng: np.random.Generator) -> np.ndarray:
    y = np.repeat([90, 240, 390.0], 2) + np.tile([0, 30], 3)
    left, right = rng.uniform(80, 160, 3), rng.uniform(480, 560, 3)
    x = np.stack((left, right), 1).ravel()
    other = np.stack((right, left), 1).ravel()
    return _lines(np.stack((x, y), 1), np.stack((other, y), 1))


def crossing(data: DetectionDataset, rng: np.random.Generator) -> Video:
    """Three pairs that cross, each with some overlap."""
    ways = _crossing_ways(rng)
    return moved(cutouts(data, 6, rng), ways, rng)


def occluded(data: DetectionDataset, rng: np.random.Generator) -> Video:
    """Objects that pass behind a bar."""
    y = np.array([90, 240, 390.0])
    starts = np.stack((rng.uniform(70, 130, 3), y), 1)
    ways = _lines(starts, starts + np.array((450, 0)))
    return moved(cutouts(data, 3, rng), ways, rng, bar=(280, 400))


def leaving(data: DetectionDataset, rng: np.random.Generator) -> Video:
    """Objects that leave the image while others enter it."""
    y = np.array([80, 80, 240, 240, 400, 400.0])
    x = np.array([500, -60, 420, -120, 140, 700]) + rng.uniform(-20, 20, 6)
    way = np.array([260, 260, 300, 300, -300, -300.0])
    starts = np.stack((x, y), 1)
    ends = starts + np.stack((way, np.zeros(6)), 1)
    return moved(cutouts(data, 6, rng), _lines(starts, ends), rng)


def flickering(data: DetectionDataset, rng: np.random.Generator) -> Video:
    """As in motion, every third frame dark and blurred, so that detections fail."""

    def change(canvas: np.ndarray, frame: int) -> np.ndarray:
        if frame % 3 != 2:
            return canvas
        return 0.55 * gaussian_filter(canvas, (5, 5, 0)) + rng.normal(0, 12, canvas.shape)

    y = np.array([70, 185, 300, 415.0])
    starts = np.stack((rng.uniform(80, 250, 4), y), 1)
    ways = _lines(starts, starts + np.array((300, 0)))
    return moved(cutouts(data, 4, rng), ways, rng, change=change)


def fading(data: DetectionDataset, rng: np.random.Generator) -> Video:
    """As crossing, each object faint for 2–4 frames in a row at times, as if out of focus."""
    ways = _crossing_ways(rng)
    contrast = np.ones(ways.shape[:2])
    for of_object in contrast.T:
        at = int(rng.integers(3, 8))
        while at < FRAMES:
            length = int(rng.integers(2, 5))
            of_object[at : at + length] = rng.uniform(0.05, 0.2)
            at += length + int(rng.integers(4, 8))
    return moved(cutouts(data, 6, rng), ways, rng, contrast=contrast)


def windows(data: DetectionDataset, places: np.ndarray, rng: np.random.Generator) -> Video:
    """A photograph through windows x0 y0 x1 y1 of shares, [frames, 4]."""
    counts = np.array([len(data.record(index).boxes) for index in range(len(data))])
    index = int(rng.choice(np.argsort(-counts)[:15]))  # those with most labels miss the fewest
    record, image = data.record(index), Image.fromarray(data.image(index))
    frames, truth = [], []
    for place in places * np.tile((record.width, record.height), 2):
        scale = np.tile(SIZE[::-1] / (place[2:] - place[:2]), 2)
        frames.append(np.asarray(image.resize((SIZE[1], SIZE[0]), box=tuple(place))))
        boxes = (record.boxes - np.tile(place[:2], 2)) * scale
        cut = boxes.clip(0, np.tile(SIZE[::-1], 2))
        kept = np.flatnonzero(area(cut) >= VISIBLE * area(boxes))
        truth.append((kept, cut[kept]))
    return frames, truth


def panned(data: DetectionDataset, rng: np.random.Generator) -> Video:
    """A photograph, the camera moving across it and closer."""
    side = np.linspace(0.7, 0.55, FRAMES)[:, None]
    low = np.linspace(0, 1, FRAMES)[:, None] * np.array([0.4, 0.3])
    return windows(data, np.concatenate((low, low + side), 1), rng)


def shaken(data: DetectionDataset, rng: np.random.Generator) -> Video:
    """A photograph, the camera shaking by up to 5 % of its sides from frame to frame."""
    low = 0.15 + rng.uniform(-0.05, 0.05, (FRAMES, 2))
    return windows(data, np.concatenate((low, low + 0.7), 1), rng)


VIDEOS = {
    "in motion": in_motion,
    "crossing": crossing,
    "behind a bar": occluded,
    "leaving and entering": leaving,
    "detections flicker": flickering,
    "crossing, objects fade": fading,
    "photograph, panned and zoomed": panned,
    "photograph, shaken": shaken,
}


# Trackers


def followed(
    predictor: Predictor, frames: list[np.ndarray], conf: float, patience: int = PATIENCE
) -> tuple[list[Frame], list[Detections]]:
    """Tracks by questions, and what the model found in the same passes."""
    tracker = Tracker(np.full(len(predictor.names), conf, np.float32), patience)
    asked = repeat(lambda size, _: tracker.asked(size))
    tracks, found = [], []
    for answers in predictor.ask_all(frames, asked, conf=LOWEST):
        seen = tracker.update(answers)
        assert seen.tracks is not None
        tracks.append((seen.tracks, seen.boxes.astype(float)))
        found.append(answers.detections)
    return tracks, found


def byte_track(found: Sequence[Detections], conf: float, patience: int = PATIENCE) -> list[Frame]:
    """ByteTrack of the package trackers on detections, frame by frame.

    It numbers a detection when it has found it again, thus none in a video's first frame.
    """
    supervision, trackers = import_module("supervision"), import_module("trackers")
    tracker = trackers.ByteTrackTracker(
        lost_track_buffer=patience,
        track_activation_threshold=conf,
        high_conf_det_threshold=conf,
        minimum_consecutive_frames=1,
    )
    frames = []
    for each in found:
        seen = tracker.update(
            supervision.Detections(xyxy=each.boxes, confidence=each.scores, class_id=each.labels)
        )
        numbers = np.array([] if seen.tracker_id is None else seen.tracker_id, int)
        own = numbers >= 0
        frames.append((numbers[own], np.array(seen.xyxy, float).reshape(-1, 4)[own]))
    return frames


def spent(work: Callable[[], object]) -> float:
    """Processor seconds."""
    started = time.process_time()
    work()
    return time.process_time() - started


def main() -> None:
    """Make the videos, follow, print."""
    parser = arguments(__doc__)
    parser.add_argument("--seeds", type=int, default=2)
    parser.add_argument("--only", nargs="*", default=list(VIDEOS))
    args = parser.parse_args()
    predictor, data = Predictor(args.model), open_data(args.data, args.split)
    conf = float(predictor.class_thresholds().min())
    print("| video | IDF1, questions | ByteTrack | HOTA | ByteTrack | switches | ByteTrack |")
    print("| --- | --- | --- | --- | --- | --- | --- |")
    frames: list[np.ndarray] = []
    for name in args.only:
        rows = []
        for seed in range(args.seed, args.seed + args.seeds):
            frames, truth = VIDEOS[name](data, np.random.default_rng(seed))
            own, found = followed(predictor, frames, conf)
            sides = own, byte_track(found, conf)
            rows.append([scores(truth[1:], each[1:]) for each in sides])
        cells = []
        for measure in ("idf1", "hota", "switches"):
            values = np.array([[getattr(side, measure) for side in row] for row in rows])
            both = values.sum(0) if measure == "switches" else values.mean(0)
            cells += [f"{v:.0f}" if measure == "switches" else f"{v:.3f}" for v in both]
        print(f"| {name} | {' | '.join(cells)} |", flush=True)
    plain = spent(lambda: list(predictor(frames)))
    print(f"tracking: {spent(lambda: list(track(predictor, frames))) / plain:.2f} times as long")


if __name__ == "__main__":
    main()
