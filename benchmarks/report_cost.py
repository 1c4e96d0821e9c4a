"""What a report of 5,000 made-up images with 80 classes takes: processor seconds and memory."""

from __future__ import annotations

import argparse
import tempfile
import time
from pathlib import Path

import numpy as np

from dabdetr.data.dataset import DetectionDataset, ImageRecord
from dabdetr.evaluation.error_report import ErrorReport
from dabdetr.evaluation.errors import diagnose
from dabdetr.evaluation.evaluate import score
from dabdetr.evaluation.judged import default_limits
from dabdetr.measure import peak_memory_mib
from dabdetr.report.write import write_report
from dabdetr.structures import Detections

WIDTH, HEIGHT = 640, 480


class MadeUp(DetectionDataset):
    """Boxes at random, classes as uneven as COCO's; images are noise."""

    def __init__(self, images: int, classes: int) -> None:
        self.name, self.split = "made-up", "val"
        self.names = tuple(f"class {label}" for label in range(classes))
        self.category_ids = tuple(range(1, classes + 1))
        share = 1 / np.arange(1, classes + 1)
        rng = np.random.default_rng(0)
        self.records = [self._made(rng, index, share / share.sum()) for index in range(images)]

    def _made(self, rng: np.random.Generator, index: int, share: np.ndarray) -> ImageRecord:
        count = int(rng.integers(0, 15))
        corner, side = rng.uniform(0, 400, (count, 2)), rng.uniform(10, 200, (count, 2))
        low = corner.astype(np.float32)
        boxes = np.concatenate((low, np.minimum(corner + side, (WIDTH, HEIGHT))), 1)
        sides = boxes[:, 2:] - boxes[:, :2]
        return ImageRecord(
            image_id=index + 1,
            file=f"{index}.jpg",
            width=WIDTH,
            height=HEIGHT,
            boxes=boxes.astype(np.float32),
            labels=rng.choice(len(share), count, p=share).astype(np.int64),
            crowd=np.zeros(count, bool),
            areas=sides.prod(1),
            annotated=np.concatenate((boxes[:, :2], sides), 1),
        )

    def __len__(self) -> int:
        return len(self.records)

    def record(self, index: int) -> ImageRecord:
        """As made."""
        return self.records[index]

    def image(self, index: int) -> np.ndarray:
        """Noise."""
        rng = np.random.default_rng(index)
        return rng.integers(0, 255, (HEIGHT, WIDTH, 3), dtype=np.uint8)

    def shape(self, index: int) -> tuple[int, int]:
        """The same for all."""
        return HEIGHT, WIDTH


def found(data: MadeUp, index: int, count: int) -> Detections:
    """``count`` detections: the objects shifted, 15 % with another class, and background."""
    rng, record = np.random.default_rng([1, index]), data.record(index)
    real, classes = len(record.labels), len(data.names)
    moved = record.boxes + rng.normal(0, 6, record.boxes.shape)
    other = rng.integers(0, classes, real)
    labels = np.where(rng.random(real) < 0.85, record.labels, other)
    corner = rng.uniform(0, 440, (count - real, 2))
    nothing = np.concatenate((corner, corner + rng.uniform(10, 200, corner.shape)), 1)
    boxes = np.concatenate((moved, nothing)).astype(np.float32)
    labels = np.concatenate((labels, rng.integers(0, classes, count - real)))
    scores = np.concatenate((rng.beta(4, 2, real), rng.beta(1, 8, count - real)))
    order = np.argsort(-scores)
    size = (HEIGHT, WIDTH)
    return Detections(
        boxes[order],
        scores[order].astype(np.float32),
        labels[order].astype(np.int64),
        np.arange(count),
        data.names,
        size,
        record.file,
    )


def main() -> None:
    """Print what each part takes."""
    options = argparse.ArgumentParser(description=__doc__)
    options.add_argument("--images", type=int, default=5000)
    options.add_argument("--classes", type=int, default=80)
    options.add_argument("--detections", type=int, default=100, help="of an image")
    given = options.parse_args()
    data = MadeUp(given.images, given.classes)
    every = [found(data, index, given.detections) for index in range(len(data))]
    before, started = peak_memory_mib(), time.process_time()
    evaluation = score(data, every)
    limits = default_limits(data, evaluation)
    scored = time.process_time()
    why = ErrorReport.of(data, diagnose(data, evaluation, limits))
    told = time.process_time()
    with tempfile.TemporaryDirectory() as folder:
        about = {"verb": "val", "model": "none", "data": data.name, "split": data.split}
        write_report(Path(folder), data, evaluation, limits, about, why)
        size = Path(folder, "report.html").stat().st_size / 1e6
    written = time.process_time()
    print(f"matching {scored - started:.1f} s, causes {told - scored:.1f} s, ", end="")
    print(f"report {written - told:.1f} s of processor time; page {size:.1f} MB; ", end="")
    print(f"memory {peak_memory_mib():.0f} MiB, {before:.0f} before")


if __name__ == "__main__":
    main()
