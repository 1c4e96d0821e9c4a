"""One image explained: what was found in it, the trace of how, and ways to show it."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from dabdetr.data.loader import pad
from dabdetr.explain.trace import ExplainedImage, Trace, trace
from dabdetr.inference.acceleration import autocast
from dabdetr.inference.opening import torch_runtime
from dabdetr.inference.postprocess import thresholds
from dabdetr.inference.questions import batched, can_be_asked, questions
from dabdetr.inference.runtime import Sizes
from dabdetr.inference.sources import attempts
from dabdetr.inference.stream import OnError, check_on_error, run, views
from dabdetr.inference.torch_runtime import TorchRuntime, to_detections
from dabdetr.model.detector import Detector
from dabdetr.structures import Detections, Questions

if TYPE_CHECKING:
    from matplotlib.figure import Figure

CANDIDATES = 5
"""Queries shown where nothing was found."""

PLACES = 48
"""About as many places of an image are asked in advance, each with a few sizes of boxes."""


class Explanation(ExplainedImage):
    """What a model found in one image, and why; with figures, and a page to save."""

    def save(self, path: str | Path) -> None:
        """Write the page: one file, opened in any browser, no network."""
        from dabdetr.explain.page import write_page

        write_page(self, Path(path))

    def story(self, detection: int = 0) -> Figure:
        """One detection's way: anchor, the box after each layer, score and IoU."""
        from dabdetr.explain import figures

        return figures.story(self, self.query(detection), int(self.shown.labels[detection]))

    def attention(self, detection: int = 0, part: str | None = None) -> Figure:
        """Where the detection's query looked in each layer: all parts, or the one given."""
        from dabdetr.explain import figures

        return figures.attention(self, self.query(detection), part)

    def animation(self, path: str | Path) -> None:
        """Write the boxes' way from layer to layer as GIF."""
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

    ``model`` is a ``Detector``, weights, or a ``Predictor`` of either; what is found is what the
    predictor finds. ``conf`` and ``max_det`` are the config's if not given; ``pixels`` as in
    ``trace``; ``on_error`` says what an unreadable image does. With ``ask``, models that can be
    asked about boxes are asked about a grid of them, which the page answers clicks with. Wrong
    arguments raise here, not at the first image.
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
            seen = trace(detector, images, pixels)
            grid = question_grid((sizes[0][0], sizes[0][1])).to(runtime.device) if asks else None
            asked = None if grid is None else trace(detector, images, questions=grid)
        return [(seen, asked, to_detections(detector, seen.predictions, sizes, max_det, names)[0])]

    prepared = views(runtime, attempts(source, bits=runtime.config.image.bits))
    results = run(traced, prepared, on_error=on_error, ahead=runtime.prefetches)
    return (
        _explanation(each.image.array, seen, asked, found.clipped(), conf)
        for each, (seen, asked, found) in results
    )


def question_grid(size: tuple[int, int]) -> Questions:
    """Questions about boxes all over an image of ``size`` (height, width): at the centres of about
    ``PLACES`` cells that are nearly square, one of each of the sides that a click is tried with."""
    height, width = size
    rows = min(PLACES, max(1, round((PLACES * height / width) ** 0.5)))
    columns = max(1, round(PLACES / rows))
    x, y = np.meshgrid((np.arange(columns) + 0.5) / columns, (np.arange(rows) + 0.5) / rows)
    clicks = np.stack((x.ravel() * width, y.ravel() * height), axis=1)
    boxes, labels = batched([questions(clicks, None, size, ())], [size])
    return Questions(torch.from_numpy(boxes), torch.from_numpy(labels))


def _explanation(
    image: np.ndarray, seen: Trace, asked: Trace | None, found: Detections, conf: float
) -> Explanation:
    found = found.best_of_query()
    return Explanation(
        image=image,
        detections=found.above(conf),
        candidates=found[:CANDIDATES],
        trace=seen,
        conf=conf,
        asked=asked,
    )
