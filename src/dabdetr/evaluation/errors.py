"""An evaluation with the causes of errors, from each query's boxes and scores in the same pass."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np

from dabdetr.data.dataset import DetectionDataset
from dabdetr.evaluation.attribution import Attribution, settled
from dabdetr.evaluation.causes import Decoded, Error, of_detections
from dabdetr.evaluation.coco_ap import MOST
from dabdetr.evaluation.evaluate import batch_order, class_map, in_classes, run_on, score
from dabdetr.evaluation.judged import Judged, judge, judge_image
from dabdetr.evaluation.operating_point import LOWEST
from dabdetr.evaluation.result import Evaluation
from dabdetr.evaluation.suspicions import doubts, label_map
from dabdetr.inference.postprocess import class_scores
from dabdetr.inference.questions import MOST as MOST_QUESTIONS
from dabdetr.inference.questions import Asked, answers, batched, can_be_asked
from dabdetr.inference.runtime import Sizes
from dabdetr.structures import Answers, Detections
from dabdetr.structures.boxes import corners

if TYPE_CHECKING:
    from dabdetr.config import Config
    from dabdetr.inference.torch_runtime import TorchRuntime
    from dabdetr.structures import Predictions


@dataclass(frozen=True)
class Diagnosed:
    """An evaluation with the cause of every missed object and every false detection.

    ``limits`` [classes] are the thresholds of the detections in ``judged``.
    """

    evaluation: Evaluation
    judged: list[Judged]
    errors: list[Error]
    limits: np.ndarray


def diagnose(data: DetectionDataset, found: Evaluation, limits: np.ndarray) -> Diagnosed:
    """Causes from detections alone, without those that need decoder layers."""
    judged = judge(data, found, limits)
    errors = [
        error
        for index, (each, pairs) in enumerate(zip(found.detections, judged, strict=True))
        for error in Attribution(index, pairs, of_detections(each), limits).errors()
    ]
    return Diagnosed(found, judged, settled(errors, judged, len(data.names)), limits)


def evaluate_with_errors(
    runtime: TorchRuntime,
    data: DetectionDataset,
    limits: np.ndarray,
    batch: int = 4,
    max_det: int | None = None,
    nms: float | None = None,
    workers: int = 0,
    progress: bool = False,
) -> Diagnosed:
    """``evaluate``, with causes of errors from the decoder's layers in the same pass.

    ``limits`` [classes of the data] are the thresholds of shown detections. Members that can answer
    questions about boxes are asked about every object as well.
    """
    import torch

    from dabdetr.inference.torch_runtime import to_detections, with_answers

    started = time.perf_counter()
    config = runtime.config
    most = config.inference.max_det if max_det is None else max_det
    nms = config.inference.nms if nms is None else nms
    labels = class_map(runtime.names, data.names)
    columns = label_map(data, runtime.names)
    order = iter(batch_order(data, config.image))

    def read(
        prepared: Sequence[Any], sizes: Sizes, names: Sequence[str]
    ) -> list[tuple[Detections, list[Error]]]:
        indices = [next(order) for _ in prepared]
        asked = _questions(data, indices) if can_be_asked(config) else None
        questions = () if asked is None else batched(asked, sizes)
        with _self_attention(runtime.forward.running) as attention:
            predictions = runtime.predict(prepared, *questions)
        answered: list[Answers] | None = None
        if asked is not None:
            outputs = with_answers(predictions)
            answered = answers(outputs, asked, sizes, config, runtime.names, names, most, LOWEST)
        detections = to_detections(runtime.model, predictions, sizes, most, names)
        layers = _decoded(predictions, config, columns, sizes)
        results = []
        for at, (index, found, decoded) in enumerate(zip(indices, detections, layers, strict=True)):
            found = found if nms is None else found.without_overlaps(nms)
            judged = judge_image(data.record(index), in_classes(found, labels, data.names), limits)
            against = None if answered is None else doubts(data, index, answered[at])
            errors = Attribution(index, judged, decoded, limits, against).errors()
            if attention:  # the queries of groups come first
                queries = len(decoded.slots)
                errors = _with_attention(errors, attention[0][at, -queries:, -queries:])
            results.append((found, errors))
        return results

    with torch.no_grad():
        results = dict(run_on(data, runtime, read, batch, workers, progress))
    ordered = [results[index] for index in range(len(data))]
    evaluation = score(data, [found for found, _ in ordered], max(MOST[-1], max_det or 0))
    evaluation = replace(evaluation, seconds=time.perf_counter() - started)
    judged = judge(data, evaluation, limits)
    errors = [error for _, of_image in ordered for error in of_image]
    return Diagnosed(evaluation, judged, settled(errors, judged, len(data.names)), limits)


def _decoded(
    predictions: Predictions,
    config: Config,
    columns: np.ndarray,
    sizes: Sizes,
) -> list[Decoded]:
    """Each image's boxes and scores of every layer; ``columns`` are the data's classes, in order.

    ``sizes`` are the heights and widths of the images in pixels.
    """
    logits = predictions.logits.float().cpu().numpy()
    scores = class_scores(logits, config.classifier, config.inference.calibration)
    boxes = predictions.boxes.float().cpu().numpy()
    first = predictions.anchors[0]
    anchors = None if first is None else first.float().cpu().numpy()
    layers = []
    for at, (height, width) in enumerate(sizes):
        extent = np.array((width, height, width, height), np.float32)
        start = None
        if anchors is not None:  # boxes, or points
            boxed = anchors.shape[2] == 4
            start = corners(anchors[at]) * extent if boxed else anchors[at] * extent[:2]
        layers.append(
            Decoded(
                corners(boxes[:, at]) * extent,
                scores[:, at][:, :, columns],
                np.arange(boxes.shape[2]),
                start,
            )
        )
    return layers


def _questions(data: DetectionDataset, indices: Sequence[int]) -> list[Asked] | None:
    """Every image's objects as questions; None if a batch has none, or an image has too many."""
    asked = []
    for index in indices:
        record = data.record(index)
        extent = np.array((record.width, record.height) * 2, np.float32)
        boxes = record.boxes[~record.crowd].astype(np.float32).clip(0, extent)
        count = len(boxes)
        asked.append(Asked(boxes, np.full(count, -1, np.int64), np.arange(count)))
    return asked if 0 < max(map(len, asked)) <= MOST_QUESTIONS else None


@contextmanager
def _self_attention(detector: Any) -> Iterator[list[np.ndarray]]:
    """A list that receives the last layer's self-attention weights when it runs.

    [images, queries, queries] for each call.
    """
    module = detector.decoder.layers[-1].self_attention
    weights: list[np.ndarray] = []

    def record(module: Any, inputs: tuple[Any, ...], _: Any) -> None:
        weights.append(module.attention_weights(*inputs).float().cpu().numpy())

    handle = module.register_forward_hook(record)
    try:
        yield weights
    finally:
        handle.remove()


def _with_attention(errors: Sequence[Error], attention: np.ndarray) -> list[Error]:
    """``errors``, the duplicates completed by how much their query attends to the other one.

    attention  [queries, queries] the last layer's self-attention
    """
    completed = []
    for error in errors:
        if error.other is not None and error.query is not None:
            share = float(attention[error.query, error.other])
            why = f"{error.why}; {share:.0%} of its self-attention in the last layer"
            error = replace(error, attention=share, why=why)
        completed.append(error)
    return completed
