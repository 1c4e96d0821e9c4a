"""Explanations of images: detections, the trace of every layer, and figures and pages of both."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from dabdetr.data.dataset import DetectionDataset
from dabdetr.data.loader import pad
from dabdetr.explain.trace import ExplainedImage, Trace, trace
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

if TYPE_CHECKING:
    from matplotlib.figure import Figure

CANDIDATES = 5
"""The number of best queries shown if nothing was found."""

PLACES = 48
"""The approximate number of places that are asked about in advance, each with a few box sizes."""


class Explanation(ExplainedImage):
    """One image's detections and their trace, with figures and a page to save."""

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
    detector = runtime.model
    if detector.training:
        detector.eval()

    asks = ask and can_be_asked(runtime.config)

    def traced(
        prepared: Sequence[Any], sizes: Sizes, names: Sequence[str]
    ) -> list[tuple[Trace, Trace | None, Detections]]:
        images = pad(prepared).to(runtime.device)
        with autocast(runtime.precision, runtime.device):
            queries_trace = trace(detector, images, pixels)
            grid = question_grid((sizes[0][0], sizes[0][1])).to(runtime.device) if asks else None
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
    labels = [runtime.names.index(name) for name in data.names]
    objects = ~record.crowd
    named = replace(found, detections=replace(found.detections, source=record.file))
    return named.with_truth(
        record.boxes[objects], [labels[label] for label in record.labels[objects]]
    )


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
