"""What a question gives back: rough boxes and clicks at known objects, and boxes on background.

    OMP_NUM_THREADS=1 python experiments/asking.py --model blood-cells --data DATA --split test

Each object is asked about from boxes that are wrong in several ways, all in one pass of its image;
prints the table of ``docs/results.md``.
"""

from __future__ import annotations

import argparse
import time
from collections import defaultdict
from collections.abc import Callable

import numpy as np

from dabdetr.data.layouts import open_data
from dabdetr.inference.questions import SIDES, Asked, ask, questions
from dabdetr.predictor import Predictor
from dabdetr.structures import Answers
from dabdetr.structures.boxes import iou

BACKGROUND = 0.1
"""IoU with every object below which a box lies on background."""


def jittered(amount: float) -> Callable[[np.ndarray, np.random.Generator], np.ndarray]:
    """Edges moved by up to ``amount`` half sides, as denoising moves them."""

    def disturb(boxes: np.ndarray, rng: np.random.Generator) -> np.ndarray:
        half = np.tile((boxes[:, 2:] - boxes[:, :2]) / 2, 2)
        return boxes + rng.uniform(-1, 1, boxes.shape) * half * amount

    return disturb


def halved(boxes: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """One half of each object: left, right, upper or lower."""
    cut, side = boxes.copy(), rng.integers(4, size=len(boxes))
    rows, other = np.arange(len(boxes)), (side + 2) % 4
    cut[rows, side] = (boxes[rows, side] + boxes[rows, other]) / 2
    return cut


def grown(boxes: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Boxes with a margin around the object, 1.4 times as wide and as tall."""
    half = np.tile((boxes[:, 2:] - boxes[:, :2]) / 2, 2)
    return boxes + np.array([-1, -1, 1, 1]) * 0.4 * half


WAYS = {
    "edges moved by up to 0.27 half sides": jittered(0.27),
    "edges moved by up to 0.54": jittered(0.54),
    "edges moved by up to 0.86": jittered(0.86),
    "half of the object": halved,
    "a margin of a fifth on each side": grown,
}


def background(boxes: np.ndarray, size: tuple[int, int], rng: np.random.Generator) -> np.ndarray:
    """As many boxes as objects, of their sizes, where nothing is annotated."""
    found = []
    for side in (boxes[:, 2:] - boxes[:, :2]).clip(8):
        for _ in range(50):
            low = rng.uniform(0, 1, 2) * (np.array(size[::-1]) - side).clip(1)
            box = np.concatenate((low, low + side))
            if iou(box, boxes).max(initial=0) < BACKGROUND:
                found.append(box)
                break
    return np.array(found).reshape(-1, 4)


def area_under_curve(real: np.ndarray, other: np.ndarray) -> float:
    """Chance that a real box scores more than one on background."""
    order = np.concatenate((real, other)).argsort().argsort()
    return (order[: len(real)].sum() - len(real) * (len(real) - 1) / 2) / len(real) / len(other)


def arguments(what: str | None) -> argparse.ArgumentParser:
    """Which model is asked about which data; a caller adds its own."""
    parser = argparse.ArgumentParser(description=what)
    parser.add_argument("--model", default="blood-cells")
    parser.add_argument("--data", required=True)
    parser.add_argument("--split", default="test")
    parser.add_argument("--seed", type=int, default=0)
    return parser


def main() -> None:
    """Ask, and print the table."""
    parser = arguments(__doc__)
    parser.add_argument("--images", type=int, default=10**9)
    args = parser.parse_args()
    predictor, data = Predictor(args.model), open_data(args.data, args.split)
    classes, rng = len(predictor.names), np.random.default_rng(args.seed)
    kept: dict[str, list[tuple[np.ndarray, ...]]] = defaultdict(list)
    spent = [0.0, 0.0]
    for index in range(min(len(data), args.images)):
        record, image = data.record(index), data.image(index)
        real = record.boxes[~record.crowd].astype(float)
        wanted = record.labels[~record.crowd]
        if not len(real):
            continue
        size = (record.height, record.width)

        def answered(asked: Asked, image: np.ndarray = image, size: tuple = size) -> Answers:
            pixels = [predictor.runtime.prepare(image)]
            return ask(predictor.runtime, pixels, [size], [""], [asked], 300, 0.3)[0]

        for way, disturb in WAYS.items():
            rough = disturb(real, rng).clip(0, np.tile(size[::-1], 2))
            rough = np.where((rough[:, 2:] > rough[:, :2]).all(1)[:, None], rough, real)
            asked = questions(rough, None, size, predictor.names)
            before = iou(rough, real)
            contents = {"mean": -1, "unknown": classes}
            for name, label in contents.items():
                plain = Asked(asked.boxes, np.full(len(asked), label), asked.questions)
                got = answered(plain)
                kept[f"{way}|{name}"].append(
                    (before, iou(got.boxes, real), got.labels == wanted, got.scores)
                )
            each = Asked(
                np.tile(asked.boxes, (classes, 1)),
                np.repeat(np.arange(classes), len(real)),
                np.tile(asked.questions, classes),
            )
            got = answered(each)
            best = got.scores.reshape(classes, -1).argmax(0) * len(real) + np.arange(len(real))
            got = got[best]
            kept[f"{way}|best of classes"].append(
                (before, iou(got.boxes, real), got.labels == wanted, got.scores)
            )
        centre, half = (real[:, :2] + real[:, 2:]) / 2, (real[:, 2:] - real[:, :2]) / 2
        off = centre + rng.uniform(-0.5, 0.5, centre.shape) * half
        for way, clicks in (("click in the centre", centre), ("click up to half way out", off)):
            got = answered(questions(clicks, None, size, predictor.names)).best()
            before = np.zeros(len(real))
            kept[f"{way}|mean"].append(
                (before, iou(got.boxes, real), got.labels == wanted, got.scores)
            )
        nothing = background(real, size, rng)
        if len(nothing):
            got = answered(questions(nothing, None, size, predictor.names))
            kept["background"].append((got.scores, iou(got.boxes[:, None], real).max(1)))
        for at, boxes in enumerate((np.zeros((0, 4)), np.tile(real, (100, 1))[:100])):
            asked = questions(boxes, None, size, predictor.names)
            started = time.perf_counter()
            answered(asked)
            spent[at] += time.perf_counter() - started
    print(f"clicks: squares of {SIDES}")
    print("| asked from | content | IoU before | IoU after | class right | score | AUC |")
    print("| --- | --- | --- | --- | --- | --- | --- |")
    nothing = np.concatenate([scores for scores, _ in kept["background"]])
    overlap = np.concatenate([overlap for _, overlap in kept["background"]])
    for key, rows in kept.items():
        if "|" in key:
            columns = [np.concatenate(column) for column in zip(*rows, strict=True)]
            before, after, right, score = (float(c.mean()) for c in columns)
            area = area_under_curve(columns[3], nothing)
            print(
                f"| {key.replace('|', ' | ')} | {before:.2f} | {after:.2f} | {100 * right:.1f} % | "
                f"{score:.2f} | {area:.3f} |"
            )
    still = overlap < SAME_OBJECT
    print(f"background: {len(nothing)} boxes, score {nothing.mean():.2f}")
    print(f"{100 * (~still).mean():.0f} % of these answers have moved to an object")
    print(f"score of the others: {nothing[still].mean():.2f}")
    print(f"100 questions: {spent[1] / spent[0]:.2f} times the time of none")


SAME_OBJECT = 0.5

if __name__ == "__main__":
    main()
