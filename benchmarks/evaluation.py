"""AP of 5,000 images × 100 detections beside pycocotools: ``-m benchmarks.evaluation``."""

from __future__ import annotations

import contextlib
import io
from dataclasses import dataclass
from typing import Any

import numpy as np

from benchmarks.timing import Row, alternate, plain, ratio, table, typical
from dabdetr.data.dataset import DetectionDataset, ImageRecord
from dabdetr.evaluation.evaluate import Evaluation, score
from dabdetr.structures import Detections

CLASSES, SIDES = 80, (480, 640)


@dataclass
class Made(DetectionDataset):
    """Random annotations, seven objects an image on average, held in memory."""

    images: int

    def __post_init__(self) -> None:
        rng = np.random.default_rng(0)
        self.name, self.split = "made", "val"
        self.names = tuple(f"class {number}" for number in range(CLASSES))
        self.category_ids = tuple(range(1, CLASSES + 1))
        self.records = [_record(rng, number) for number in range(self.images)]

    def __len__(self) -> int:
        return self.images

    def record(self, index: int) -> ImageRecord:
        return self.records[index]

    def image(self, index: int) -> np.ndarray:
        raise NotImplementedError("what is measured needs no pixels")


def measure(images: int = 5000, detections: int = 100, rounds: int = 1) -> list[Row]:
    """How many times as fast ``score`` is as loading results into pycocotools and evaluating."""
    data = Made(images)
    rng = np.random.default_rng(1)
    found = [_detections(rng, record, detections, data.names) for record in data.records]
    truth = _as_coco(data)
    rows = [
        row
        for record, each in zip(data.records, found, strict=True)
        for row in each.to_coco(record.image_id, data.category_ids)
    ]
    result: dict[str, Any] = {}

    def ours() -> Evaluation:
        result["ours"] = score(data, found)
        return result["ours"]

    def peer() -> None:
        result["peer"] = _pycocotools(truth, rows)

    times = alternate({"ours": ours, "peer": peer}, rounds, warmup=0)
    gap = np.abs(np.array(list(result["ours"].numbers.values())) - result["peer"]).max()
    if not gap < 1e-9:
        raise AssertionError(f"the twelve numbers differ by {gap:g}")
    what = f"evaluation of {images:,} images × {detections} detections"
    detail = (
        f"{typical(times, 'ours'):.2f} s beside {typical(times, 'peer'):.1f}; AP "
        f"{result['ours'].ap:.3f}, largest difference of the twelve numbers {gap:.0e}"
    )
    return [Row(what, ratio(times, "peer", "ours"), bar=10, goal=30, detail=detail)]


def _record(rng: np.random.Generator, number: int) -> ImageRecord:
    count = int(rng.poisson(7))
    sides = rng.uniform(10, 200, (count, 2))
    corners = rng.uniform(0, 1, (count, 2)) * (np.array(SIDES[::-1]) - sides)
    return ImageRecord(
        image_id=number + 1,
        file=f"{number}.jpg",
        width=SIDES[1],
        height=SIDES[0],
        boxes=np.concatenate((corners, corners + sides), 1).astype(np.float32),
        labels=rng.integers(0, CLASSES, count),
        crowd=rng.random(count) < 0.01,
        areas=0.7 * sides.prod(1),
        annotated=np.concatenate((corners, sides), 1),
    )


def _detections(
    rng: np.random.Generator, record: ImageRecord, count: int, names: tuple[str, ...]
) -> Detections:
    """Most of them near objects, seven tenths of the right class."""
    labels, boxes = rng.integers(0, CLASSES, count), rng.uniform(0, 200, (count, 4))
    boxes[:, 2:] += boxes[:, :2] + 1
    if len(record.labels):
        of = rng.integers(0, len(record.labels), count)
        boxes = record.boxes[of] + rng.normal(0, 8, (count, 4))
        boxes[:, 2:] = np.maximum(boxes[:, 2:], boxes[:, :2] + 1)
        labels = np.where(rng.random(count) < 0.7, record.labels[of], labels)
    scores = np.sort(rng.random(count))[::-1].astype(np.float32)
    return Detections(boxes.astype(np.float32), scores, labels, np.arange(count), names, SIDES)


def _as_coco(data: Made) -> dict[str, Any]:
    """The annotations in the form that pycocotools reads."""
    annotations = [
        {"image_id": r.image_id, "category_id": int(label) + 1, "bbox": box.tolist()}
        | {"area": float(area), "iscrowd": int(crowd)}
        for r in data.records
        for label, box, area, crowd in zip(r.labels, r.annotated, r.areas, r.crowd, strict=True)
    ]
    return {
        "images": [{"id": r.image_id, "height": r.height, "width": r.width} for r in data.records],
        "annotations": [row | {"id": id} for id, row in enumerate(annotations, start=1)],
        "categories": [{"id": id, "name": str(id)} for id in data.category_ids],
    }


def _pycocotools(truth: dict[str, Any], rows: list[dict[str, Any]]) -> np.ndarray:
    from pycocotools.coco import COCO
    from pycocotools.cocoeval import COCOeval

    with contextlib.redirect_stdout(io.StringIO()):
        coco = COCO()
        coco.dataset = truth
        coco.createIndex()
        run = COCOeval(coco, coco.loadRes(rows), "bbox")
        run.evaluate()
        run.accumulate()
        run.summarize()
    return run.stats


def found(threads: int, smoke: bool) -> list[dict[str, Any]]:
    """``measure`` as plain values; it takes one thread whatever there are."""
    return plain(measure(20, 10) if smoke else measure())


if __name__ == "__main__":
    print(table(measure()))
