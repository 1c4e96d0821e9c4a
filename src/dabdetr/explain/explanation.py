"""Explanations of images: detections, the trace of every layer, and figures and pages of both."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from dabdetr.data.dataset import DetectionDataset
from dabdetr.data.loader import pad
from dabdetr.evaluation.suspicions import label_map
from dabdetr.explain.trace import Trace, trace
from dabdetr.inference.acceleration import autocast
from dabdetr.inference.opening import torch_runtime
from dabdetr.inference.postprocess import thresholds
from dabdetr.inference.questions import batched, can_be_asked, questions
from dabdetr.inference.runtime import Sizes
from dabdetr.inference.sources import attempts, expand
from dabdetr.inference.stream import OnError, check_on_error, run, views
from dabdetr.inference.torch_runtime import TorchRuntime, to_detections
from dabdetr.model.detector import Detector
from dabdetr.structures import Detections, Questions
from dabdetr.structures.boxes import corners, iou
from dabdetr.text import counted

if TYPE_CHECKING:
    from matplotlib.figure import Figure

CANDIDATES = 5
"""The number of best queries shown if nothing was found."""

PLACES = 48
"""The approximate number of places that are asked about in advance, each with a few box sizes."""


@dataclass(frozen=True, eq=False)
class Truth:
    """The labelled objects of an image.

    boxes   [n, 4] x0 y0 x1 y1 in pixels of the image
    labels  [n] index into the model's class names
    """

    boxes: np.ndarray
    labels: np.ndarray


@dataclass(frozen=True, eq=False)
class Explanation:
    """One image with its detections and the trace of every layer, with figures and a page to save.

    image       RGB [height, width, 3] uint8
    detections  detections with a score of at least ``conf``, best first, clipped to the image
    candidates  the best queries' detections of any score, shown if there are no ``detections``
    trace       every layer's anchors, boxes, scores and attention
    conf        the threshold of ``detections``
    truth       the labelled objects; None if they are unknown
    asked       a second trace of the image, whose queries are questions: boxes on a grid, so that a
                page without a model can answer clicks; None for members that cannot be asked
    """

    image: np.ndarray
    detections: Detections
    candidates: Detections
    trace: Trace
    conf: float
    truth: Truth | None = None
    asked: Trace | None = None

    @property
    def shown(self) -> Detections:
        """``detections``, or ``candidates`` if there are none."""
        return self.detections if len(self.detections) else self.candidates

    @property
    def size(self) -> tuple[int, int]:
        """(height, width) of the image."""
        return self.image.shape[0], self.image.shape[1]

    def query(self, detection: int = 0) -> int:
        """The decoder slot of detection number ``detection`` of ``shown``."""
        if not 0 <= detection < len(self.shown):
            raise ValueError(
                f"the image has {counted(len(self.shown), 'detection')}, counted from 0; got "
                f"{detection}"
            )
        return int(self.shown.queries[detection])

    def in_pixels(self, boxes: np.ndarray) -> np.ndarray:
        """cxcywh (or x, y) of 0–1 → the same in pixels of the image."""
        height, width = self.size
        return boxes * np.tile([width, height], boxes.shape[-1] // 2).astype(np.float32)

    def with_truth(self, boxes: Any, labels: Any) -> Explanation:
        """The explanation with labelled objects: x0 y0 x1 y1 in pixels, and class indices."""
        boxes = np.asarray(boxes, np.float32).reshape(-1, 4)
        labels = np.asarray(labels, np.int64).reshape(-1)
        classes = len(self.trace.names)
        if len(boxes) != len(labels) or not ((labels >= 0) & (labels < classes)).all():
            raise ValueError(
                f"the truth should have one label from 0 to {classes - 1} for each box; got "
                f"{counted(len(boxes), 'box', 'boxes')} and the labels {labels.tolist()}"
            )
        wrong = np.flatnonzero(~(boxes[:, 2:] > boxes[:, :2]).all(1))
        if len(wrong):
            raise ValueError(
                "boxes of the truth should be x0 y0 x1 y1 in pixels with x0 < x1 and y0 < y1; "
                f"box {wrong[0]} is {boxes[wrong[0]].tolist()}"
            )
        return replace(self, truth=Truth(boxes, labels))

    def truth_of(self, query: int) -> int | None:
        """The labelled object that the query's last box overlaps most; None if there is none."""
        if self.truth is None or not len(self.truth.boxes):
            return None
        last = corners(self.in_pixels(self.trace.boxes[-1:, query]))
        return int(iou(last, self.truth.boxes).argmax())

    def iou_with_truth(self, query: int) -> np.ndarray | None:
        """IoU [layers] of the query's boxes with the object that its last box overlaps most.

        None without labelled objects.
        """
        best = self.truth_of(query)
        if self.truth is None or best is None:
            return None
        boxes = corners(self.in_pixels(self.trace.boxes[:, query]))
        return iou(boxes, self.truth.boxes[best])

    def save(self, path: str | Path) -> None:
        """Write the page: one file for any browser, without network access."""
        from dabdetr.explain.page import write_page

        write_page(self, Path(path))

    def story(self, detection: int = 0) -> Figure:
        """One detection through the layers: anchor, the box after each layer, score and IoU."""
        from dabdetr.explain import figures

        return figures.story(self, self.query(detection), int(self.shown.labels[detection]))

    def attention(self, detection: int = 0, part: str | None = None) -> Figure:
        """Attention of the detection's query in each layer: all parts, or ``part``."""
        from dabdetr.explain import figures

        return figures.attention(self, self.query(detection), part)

    def animation(self, path: str | Path) -> None:
        """Write the boxes' motion from layer to layer as a GIF."""
        from dabdetr.explain import figures

        figures.animation(self, path)

    def _repr_html_(self) -> str:
        """The page, inside a notebook."""
        from html import escape

        from dabdetr.explain.page import page

        frame = "width:100%;height:760px;border:0"
        return f'<iframe srcdoc="{escape(page(self))}" style="{frame}"></iframe>'


def explain(
    model: Detector | TorchRuntime | Any,
    source: Any,
    conf: float | None = None,
    max_det: int | None = None,
    pixels: Sequence[tuple[float, float]] = (),
    on_error: OnError = "raise",
    ask: bool = False,
) -> Iterator[Explanation]:
    """An explanation of every image of ``source`` (see ``read_sources``), as a stream.

    ``model`` is a ``Detector``, weights, or a ``Predictor`` of either; the detections are those of
    the predictor. ``conf`` and ``max_det`` default to the config's; ``pixels`` as in ``trace``;
    ``on_error`` as in ``Predictor``. With ``ask``, models that can answer questions are asked about
    a grid of boxes, so that the page can answer clicks. Invalid arguments raise here, not at the
    first image.
    """
    runtime = torch_runtime(model)
    conf, max_det = thresholds(runtime.config.inference, conf, max_det)
    check_on_error(on_error)
    detector = runtime.model.eval()
    asks = ask and can_be_asked(runtime.config)

    def traced(
        prepared: Sequence[Any], sizes: Sizes, names: Sequence[str]
    ) -> list[tuple[Trace, Trace | None, Detections]]:
        images = pad(prepared).to(runtime.device)
        with autocast(runtime.precision, runtime.device):
            queries_trace = trace(detector, images, pixels)
            grid = question_grid(sizes[0]).to(runtime.device) if asks else None
            asked = None if grid is None else trace(detector, images, questions=grid)
        (found,) = to_detections(detector, queries_trace.predictions, sizes, max_det, names)
        return [(queries_trace, asked, found.clipped().best_of_query())]

    prepared = views(runtime, attempts(expand(source), bits=runtime.config.image.bits))
    results = run(traced, prepared, on_error=on_error, workers=runtime.workers)
    return (
        Explanation(
            image=each.image.array,
            detections=found.above(conf),
            candidates=found[:CANDIDATES],
            trace=queries_trace,
            conf=conf,
            asked=asked,
        )
        for each, (queries_trace, asked, found) in results
    )


def explain_record(
    model: Detector | TorchRuntime | Any, data: DetectionDataset, index: int, **options: Any
) -> Explanation:
    """The explanation of image ``index`` of ``data`` with its labelled objects, crowds left out.

    ``options`` are those of ``explain``. ValueError or OSError where the image cannot be read.
    """
    runtime, record = torch_runtime(model), data.record(index)
    (found,) = explain(runtime, data.image(index), **options)
    objects = ~record.crowd
    labels = label_map(data, runtime.names)[record.labels[objects]]
    named = replace(found, detections=replace(found.detections, source=record.file))
    return named.with_truth(record.boxes[objects], labels)


def question_grid(size: tuple[int, int]) -> Questions:
    """A grid of questions over an image of ``size`` (height, width).

    At the centre of each of about ``PLACES`` nearly square cells, a box of each size that a click
    is tried with.
    """
    height, width = size
    rows = min(PLACES, max(1, round((PLACES * height / width) ** 0.5)))
    columns = max(1, round(PLACES / rows))
    x, y = np.meshgrid((np.arange(columns) + 0.5) / columns, (np.arange(rows) + 0.5) / rows)
    clicks = np.stack((x.ravel() * width, y.ravel() * height), axis=1)
    boxes, labels = batched([questions(clicks, None, size, ())], [size])
    return Questions(torch.from_numpy(boxes), torch.from_numpy(labels))
