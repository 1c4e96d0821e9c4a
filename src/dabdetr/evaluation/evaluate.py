"""Average precision and recall as COCO defines them, overall and per class."""

from __future__ import annotations

import json
import math
import time
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from dabdetr.data.dataset import DetectionDataset
from dabdetr.data.layouts import anchors, open_data
from dabdetr.evaluation.coco_ap import Boxes, precision_and_recall
from dabdetr.evaluation.detecting import detect_exported, detect_live
from dabdetr.files import write_atomically
from dabdetr.inference.exported import Compile, SetPrecision, is_exported, open_runtime
from dabdetr.structures import Detections

if TYPE_CHECKING:
    import torch
    from rich.console import Group

    from dabdetr.model.detector import Detector

NUMBERS = (
    *("AP", "AP50", "AP75", "APS", "APM", "APL"),
    *("AR1", "AR10", "AR100", "ARS", "ARM", "ARL"),
)
"""COCO's twelve, in its order; S, M, L are objects below 32² px, up to 96² px, above."""


@dataclass(frozen=True)
class Evaluation:
    """How well detections fit a data set; a number is −1 where there are no such objects.

    numbers     the twelve of COCO by name, 0–1
    per_class   class name → AP, AP50, AR100 and how many objects (crowds are not counted)
    images      images evaluated
    seconds     time taken, prediction included where there was one
    notes       what a reader of the numbers should know, one sentence each
    detections  of every image in the data's order, labels counting in the data's classes
    """

    numbers: dict[str, float]
    per_class: dict[str, dict[str, float]]
    images: int
    seconds: float = 0.0
    notes: tuple[str, ...] = ()
    detections: tuple[Detections, ...] = field(default=(), repr=False, compare=False)
    image_ids: tuple[int, ...] = field(default=(), repr=False)
    category_ids: tuple[int, ...] = field(default=(), repr=False)

    @property
    def ap(self) -> float:
        """Mean over IoU 0.50, 0.55 … 0.95 and all classes."""
        return self.numbers["AP"]

    @property
    def ap50(self) -> float:
        """At IoU 0.50."""
        return self.numbers["AP50"]

    @property
    def ap75(self) -> float:
        """At IoU 0.75."""
        return self.numbers["AP75"]

    def to_dict(self) -> dict[str, Any]:
        """Plain values, ready for JSON; null stands where there are no such objects."""
        return {
            "numbers": _nulls(self.numbers),
            "per_class": {name: _nulls(row) for name, row in self.per_class.items()},
            "images": self.images,
            "seconds": self.seconds,
            "notes": list(self.notes),
        }

    def to_coco(self) -> list[dict[str, Any]]:
        """All detections as rows of a COCO results file, in the data set's own ids."""
        return [
            row
            for image_id, found in zip(self.image_ids, self.detections, strict=True)
            for row in found.to_coco(image_id, self.category_ids)
        ]

    def save_results(self, path: str | Path) -> None:
        """Write ``to_coco()`` as JSON, the form that COCO's tools and servers read."""
        write_atomically(path, json.dumps(self.to_coco()).encode())

    def table(self) -> Group:
        """For a rich console: the twelve numbers, then the classes."""
        from dabdetr.evaluation.result import tables

        return tables(self)


def evaluate(
    model: Detector | str | Path,
    data: DetectionDataset | str | Path,
    split: str = "val",
    batch: int = 4,
    device: str | torch.device = "auto",
    max_det: int | None = None,
    precision: SetPrecision = "fp32",
    workers: int = 0,
    progress: bool = False,
    queries: int | None = None,
    queries_init: str = "keep",
    compile: Compile = False,
) -> Evaluation:
    """COCO's numbers of a model (or file, folder, name of weights) on a split of a data set.

    Of an exported file as well, without torch: .onnx or OpenVINO's folder.
    Every detection counts, down to the lowest score; ``max_det`` an image are kept, by default as
    many as the config says. Classes are compared by name, which is checked before any image is
    read. A model in training mode is in it again afterwards. ``queries`` changes how many there are
    in a copy of it (see ``with_queries``); ``precision`` and ``compile`` are as in ``Predictor``.
    """
    started = time.perf_counter()
    for name, value in (("batch", batch), ("max_det", 1 if max_det is None else max_det)):
        if value < 1:
            raise ValueError(f"{name} should be at least 1; got {value}")
    data = open_data(data, split) if isinstance(data, str | Path) else data
    if isinstance(model, str | Path) and is_exported(model):
        runtime = open_runtime(model, device, precision, queries, queries_init, compile)
        class_map(runtime.names, data.names)
        most = runtime.config.inference.max_det if max_det is None else max_det
        found = detect_exported(runtime, data, batch, most, progress)
    else:
        from dabdetr.inference.torch_runtime import ready
        from dabdetr.model.resize import with_queries

        detector, place = ready(model, device)
        detector = with_queries(detector, queries, anchors(queries_init))
        class_map(detector.names, data.names)
        was_training = detector.training
        detector.eval()
        try:
            found = detect_live(
                detector, data, batch, place, max_det, precision, workers, progress, compile
            )
        finally:
            detector.train(was_training)
    return replace(score(data, found), seconds=time.perf_counter() - started)


def score(data: DetectionDataset, detections: Sequence[Detections]) -> Evaluation:
    """COCO's numbers for the ``detections`` of every image of ``data``, in its order.

    Classes are compared by name. Crowds are ignored as in COCO: what lies on them counts neither
    way. Objects are small, medium or large by the annotations' areas.
    """
    started = time.perf_counter()
    if len(detections) != len(data) or not len(data):
        raise ValueError(
            f"expected detections for the {len(data)} images of {data.name} {data.split}, at "
            f"least one; got {len(detections)}; give one Detections (it may be empty) an image"
        )
    known = {found.names: class_map(found.names, data.names) for found in detections}
    detections = tuple(_in_classes(found, known[found.names], data.names) for found in detections)
    numbers, per_class = _measured(data, detections)
    return Evaluation(
        numbers,
        per_class,
        images=len(data),
        seconds=time.perf_counter() - started,
        notes=tuple(note for names in known if (note := _left_out(names, data.names))),
        detections=detections,
        image_ids=tuple(data.record(index).image_id for index in range(len(data))),
        category_ids=tuple(data.category_ids),
    )


def class_map(names: Sequence[str], data_names: Sequence[str]) -> np.ndarray:
    """The data's label for each of the model's, by name; −1 where the data lacks the class."""
    if not set(data_names) <= set(names):
        from dabdetr.checkpoints.native import name_difference

        raise ValueError(name_difference(names, data_names))
    places = {name: label for label, name in enumerate(data_names)}
    return np.array([places.get(name, -1) for name in names], dtype=np.int64)


def _left_out(names: Sequence[str], data_names: Sequence[str]) -> str:
    surplus = [name for name in names if name not in data_names]
    if not surplus:
        return ""
    return f"the data does not name {_some(surplus)}: such detections were left out"


def _some(names: Sequence[str], most: int = 8) -> str:
    more = f" and {len(names) - most} more" if len(names) > most else ""
    noun = "the class" if len(names) == 1 else f"the {len(names)} classes"
    return f"{noun} {', '.join(names[:most])}{more}"


def _in_classes(found: Detections, labels: np.ndarray, names: Sequence[str]) -> Detections:
    """With labels counting in ``names``; those that have none there are dropped."""
    mapped = replace(found, labels=labels[found.labels], names=tuple(names))
    return mapped[mapped.labels >= 0]


def _measured(
    data: DetectionDataset, detections: Sequence[Detections]
) -> tuple[dict[str, float], dict[str, dict[str, float]]]:
    """The twelve numbers, and those of each class; labels of ``detections`` count as the data's."""
    records = [data.record(index) for index in range(len(data))]
    # Equal scores and means are taken in the order of the data set's own ids, as COCO's tools do.
    places = np.argsort([record.image_id for record in records]).argsort()
    labels = np.argsort(data.category_ids).argsort()
    truth = Boxes(
        image=places.repeat([len(record.labels) for record in records]),
        label=labels[_joined([record.labels for record in records])],
        boxes=_joined([record.annotated for record in records]).reshape(-1, 4).astype(float),
        area=_joined([record.areas for record in records]).astype(float),
        crowd=_joined([record.crowd for record in records]),
    )
    corners = _joined([each.boxes for each in detections]).astype(float)
    sides = corners[:, 2:] - corners[:, :2]
    found = Boxes(
        image=places.repeat([len(each) for each in detections]),
        label=labels[_joined([each.labels for each in detections])],
        boxes=np.concatenate((corners[:, :2], sides), 1),
        area=sides.prod(1),
        score=_joined([each.scores for each in detections]),
    )
    precision, recall = precision_and_recall(truth, found, len(labels))
    objects = np.bincount(truth.label[~truth.crowd], minlength=len(labels))
    per_class = {
        name: {
            "AP": _mean(precision[:, :, label, 0]),
            "AP50": _mean(precision[0, :, label, 0]),
            "AR100": _mean(recall[:, label, 0, -1]),
            "objects": int(objects[label]),
        }
        for name, label in zip(data.names, labels, strict=True)
    }
    parts = [precision[..., 0], precision[0, ..., 0], precision[5, ..., 0]]
    parts += [precision[..., area] for area in (1, 2, 3)]
    parts += [recall[..., 0, most] for most in (0, 1, 2)]
    parts += [recall[..., area, -1] for area in (1, 2, 3)]
    return dict(zip(NUMBERS, map(_mean, parts), strict=True)), per_class


def _joined(columns: list[np.ndarray]) -> np.ndarray:
    """One column of all; empty ones have no say in what it holds."""
    return np.concatenate([column for column in columns if len(column)] or columns[:1])


def _mean(values: np.ndarray) -> float:
    """Over what is defined; −1 where nothing is."""
    values = values[values > -1]
    return float(values.mean()) if values.size else -1.0


def _nulls(numbers: dict[str, float]) -> dict[str, float | None]:
    assert all(math.isfinite(value) for value in numbers.values()), numbers
    return {name: None if value < 0 else value for name, value in numbers.items()}
