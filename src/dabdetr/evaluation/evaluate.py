"""Average precision and recall as COCO defines them; torch is imported only to run weights."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar, Unpack

import numpy as np

from dabdetr.data.dataset import DetectionDataset
from dabdetr.data.layouts import open_data
from dabdetr.data.preprocessing import input_size
from dabdetr.evaluation.coco_ap import MOST, Boxes, precision_and_recall
from dabdetr.evaluation.result import NUMBERS, Evaluation
from dabdetr.inference.opening import open_model
from dabdetr.inference.runtime import ModelChanges, Runtime, SetPrecision, Sizes
from dabdetr.inference.stream import Prepared, SourceImage, in_threads, run
from dabdetr.steps import tracked
from dabdetr.structures import Detections
from dabdetr.text import counted

if TYPE_CHECKING:
    import torch

    from dabdetr.config import Image
    from dabdetr.model.detector import Detector

Result = TypeVar("Result")


def evaluate(
    model: Detector | Runtime | str | Path,
    data: DetectionDataset | str | Path,
    split: str = "val",
    batch: int = 4,
    device: str | torch.device = "auto",
    max_det: int | None = None,
    precision: SetPrecision = "fp32",
    workers: int = 0,
    progress: bool = False,
    nms: float | None = None,
    **changes: Unpack[ModelChanges],
) -> Evaluation:
    """COCO's numbers of a model (or a file, folder or name of weights) on a split of a data set.

    An exported file (.onnx or OpenVINO's folder) is evaluated without torch.
    Detections of all scores count. At most ``max_det`` an image are kept; the default is the
    config's. More than 100 of a class count for AP only if ``max_det`` is above 100. Of two boxes
    of one class whose IoU is at least ``nms`` (the default is the config's), the one with the lower
    score is removed. Classes are matched by name; ValueError before any image is read if one is
    missing. A model in training mode is returned to it afterwards. ``device``, ``precision`` and
    ``changes`` are those of ``open_model``; ``workers`` threads read the images.

    >>> from dabdetr import evaluate
    >>> found = evaluate("scenes", "demo/data", progress=False)
    >>> found.images, found.ap50 > 0.5
    (4, True)
    """
    started = time.perf_counter()
    for name, value in (("batch", batch), ("max_det", 1 if max_det is None else max_det)):
        if value < 1:
            raise ValueError(f"{name} should be at least 1; got {value}")
    data = open_data(data, split) if isinstance(data, str | Path) else data
    detector: Any = getattr(model, "model", model)
    training = getattr(detector, "training", False)
    runtime = open_model(model, device=device, precision=precision, **changes).for_streams()
    class_map(runtime.names, data.names)
    most = runtime.config.inference.max_det if max_det is None else max_det
    nms = runtime.config.inference.nms if nms is None else nms

    def detect(pixels: Sequence[Any], sizes: Sizes, names: Sequence[str]) -> list[Detections]:
        found = runtime.detect(pixels, sizes, most, names)
        return found if nms is None else [each.without_overlaps(nms) for each in found]

    try:
        found = dict(run_on(data, runtime, detect, batch, workers, progress))
    finally:
        if training:
            detector.train()
    ordered = [found[index] for index in range(len(data))]
    most = max(MOST[-1], max_det or 0)
    return replace(score(data, ordered, most), seconds=time.perf_counter() - started)


SUPPRESSION = 0.7
"""IoU of the non-maximum suppression whose gain is measured."""


def suppression_gain(data: DetectionDataset, found: Evaluation) -> float:
    """AP50 that non-maximum suppression at ``SUPPRESSION`` would add to ``found`` on ``data``.

    0 for a detector that finds each object once.
    """
    kept = [each.without_overlaps(SUPPRESSION) for each in found.detections]
    return score(data, kept, found.most).ap50 - found.ap50


def run_on(
    data: DetectionDataset,
    runtime: Runtime,
    work: Callable[[Sequence[Any], Sizes, Sequence[str]], Sequence[Result]],
    batch: int,
    workers: int = 0,
    progress: bool = False,
    title: str = "evaluating",
) -> Iterator[tuple[int, Result]]:
    """The index of every image of a data set and the result of ``work`` (see ``stream.run``).

    Images are sorted by input size, so that batches are full; results come in that order, not in
    the data set's. They are read in ``workers`` threads, or as the runtime prefers; it also decides
    how many calls of ``work`` run at a time. ``progress`` shows a bar with ``title`` on a terminal.
    """
    image = runtime.config.image
    data.bits = image.bits  # as in training

    def prepare(index: int) -> Prepared:
        array = data.image(index)
        view = (0, 0, array.shape[1], array.shape[0])
        pixels = runtime.prepare(array)
        return Prepared(SourceImage(array, data.record(index).file), [view], 0, pixels)

    order = batch_order(data, image)
    prepared = in_threads(prepare, order, workers) if workers else map(prepare, order)
    ahead = 0 if workers and runtime.workers == 1 else runtime.workers
    results = run(work, iter(prepared), batch, workers=ahead)
    results = tracked(results, title, len(data), shown=progress)
    for index, (_, result) in zip(order, results, strict=True):
        yield index, result


def batch_order(data: DetectionDataset, image: Image) -> list[int]:
    """The indices of a data set in the order in which ``run_on`` takes its images."""
    return sorted(range(len(data)), key=lambda index: input_size(*data.shape(index), image))


def score(
    data: DetectionDataset, detections: Sequence[Detections], most: int = MOST[-1]
) -> Evaluation:
    """COCO's numbers for ``detections``, one item for each image of ``data`` in its order.

    Classes are matched by name. Crowds are ignored as in COCO: detections on them count neither
    way. Objects are small, medium or large by the annotations' areas. Of a class in an image the
    ``most`` best detections count for AP; AR100 always counts 100.
    """
    started = time.perf_counter()
    if len(detections) != len(data) or not len(data):
        raise ValueError(
            f"expected detections for {counted(len(data), 'image')} of {data.name} {data.split}, "
            f"at least one; got {len(detections)}; give one Detections (it may be empty) an image"
        )
    known = {found.names: class_map(found.names, data.names) for found in detections}
    detections = tuple(in_classes(found, known[found.names], data.names) for found in detections)
    numbers, per_class = _measured(data, detections, most)
    notes = []
    for names in known:
        if extra := [name for name in names if name not in data.names]:
            more = f" and {len(extra) - 8} more" if len(extra) > 8 else ""
            noun = "the class" if len(extra) == 1 else f"the {len(extra)} classes"
            listed = f"{noun} {', '.join(extra[:8])}{more}"
            notes.append(f"the data set lacks {listed}, whose detections were left out")
    return Evaluation(
        numbers,
        per_class,
        images=len(data),
        seconds=time.perf_counter() - started,
        notes=(*notes, *_too_many_objects(data, most)),
        most=most,
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


def _too_many_objects(data: DetectionDataset, most: int) -> list[str]:
    """A note if images have more objects of a class than detections count."""
    labels = (record.labels[~record.crowd] for record in map(data.record, range(len(data))))
    counts = [int(np.bincount(each).max()) for each in labels if len(each)]
    over = [count for count in counts if count > most]
    if not over:
        return []
    return [
        f"up to {max(over)} objects of a class in {counted(len(over), 'image')}: AP counts the "
        f"{counted(most, 'best detection')}"
        + (" as COCO does" if most == MOST[-1] else "")
        + f"; --max-det {max(over)} counts more"
    ]


def in_classes(found: Detections, labels: np.ndarray, names: Sequence[str]) -> Detections:
    """``found`` in the classes ``names``: ``labels`` maps its labels; −1 drops a detection."""
    mapped = replace(found, labels=labels[found.labels], names=tuple(names))
    return mapped[mapped.labels >= 0]


def columns(
    data: DetectionDataset, detections: Sequence[Detections]
) -> tuple[Boxes, Boxes, np.ndarray]:
    """The objects of ``data`` and the ``detections`` of all its images as columns, and a label map.

    Both number classes and images in the order of the data set's own ids, as COCO's tools do. The
    map [classes] holds the number of each of the data set's labels in the columns.
    """
    records = [data.record(index) for index in range(len(data))]
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
    return truth, found, labels


def _measured(
    data: DetectionDataset, detections: Sequence[Detections], most: int
) -> tuple[dict[str, float], dict[str, dict[str, float]]]:
    """COCO's twelve numbers, and those of each class; ``detections`` have the data set's labels."""
    truth, found, labels = columns(data, detections)
    precision, recall = precision_and_recall(truth, found, len(labels), (*MOST, most))
    objects = np.bincount(truth.label[~truth.crowd], minlength=len(labels))
    per_class = {
        name: {
            "AP": _mean(precision[:, :, label, 0]),
            "AP50": _mean(precision[0, :, label, 0]),
            "AR100": _mean(recall[:, label, 0, 2]),
            "objects": int(objects[label]),
        }
        for name, label in zip(data.names, labels, strict=True)
    }
    parts = [precision[..., 0], precision[0, ..., 0], precision[5, ..., 0]]
    parts += [precision[..., area] for area in (1, 2, 3)]
    parts += [recall[..., 0, place] for place in (0, 1, 2)]
    parts += [recall[..., area, -1] for area in (1, 2, 3)]
    return dict(zip(NUMBERS, map(_mean, parts), strict=True)), per_class


def _joined(columns: list[np.ndarray]) -> np.ndarray:
    """The columns concatenated; empty ones are skipped, as their type may differ."""
    return np.concatenate([column for column in columns if len(column)] or columns[:1])


def _mean(values: np.ndarray) -> float:
    """Mean of the defined values; −1 (undefined) if there are none."""
    values = values[values > -1]
    return float(values.mean()) if values.size else -1.0
