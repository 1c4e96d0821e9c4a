"""Ranked suspicions about labels, from the model's answer about each box and its detections."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from dabdetr.data.dataset import DetectionDataset
from dabdetr.evaluation.suspicions import Suspicion, habits, of_image
from dabdetr.predictor import Predictor

FOUND = 0.05
"""The threshold of detections that may be missing labels."""


def audit(data: DetectionDataset, predictor: Predictor) -> Iterator[list[Suspicion]]:
    """The suspicions of every image, in the order of images."""
    records = [data.record(index) for index in range(len(data))]
    boxes = [record.boxes[~record.crowd] for record in records]
    images = (data.image(index) for index in range(len(data)))
    answered = list(predictor.ask_all(images, boxes, conf=FOUND))
    usual = habits(records, answered)
    for index, (record, answers) in enumerate(zip(records, answered, strict=True)):
        yield of_image(data, index, record, answers, usual[index])


def ranked(suspicions: Sequence[Suspicion]) -> list[Suspicion]:
    """``suspicions`` in falling order of suspicion."""
    return sorted(suspicions, key=lambda each: -each.suspicion)
