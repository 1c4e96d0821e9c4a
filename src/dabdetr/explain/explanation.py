"""One image explained: what was found in it, and the trace of how."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from dabdetr.data.loader import pad
from dabdetr.explain.trace import Trace, trace
from dabdetr.inference.acceleration import autocast
from dabdetr.inference.sources import SourceImage, read_sources
from dabdetr.inference.stream import OnError
from dabdetr.inference.torch_runtime import to_detections
from dabdetr.predictor import Predictor, clipped
from dabdetr.structures import Detections
from dabdetr.structures.boxes import corners, iou

if TYPE_CHECKING:
    from matplotlib.figure import Figure

CANDIDATES = 5
"""Queries shown where nothing was found."""


@dataclass(frozen=True, eq=False)
class Truth:
    """The objects that are really there.

    boxes   [n, 4] x0 y0 x1 y1 in pixels of the image
    labels  [n] index into the model's class names
    """

    boxes: np.ndarray
    labels: np.ndarray


@dataclass(frozen=True, eq=False)
class Explanation:
    """What a model found in one image, and why.

    image       RGB [height, width, 3] uint8
    detections  scoring at least ``conf``, best first, cut to the image
    candidates  the best queries' detections, whatever they score: shown where nothing was found
    trace       every layer's anchors, boxes, scores and attention
    conf        lowest score of ``detections``
    truth       the objects that are there, where they are known
    """

    image: np.ndarray
    detections: Detections
    candidates: Detections
    trace: Trace
    conf: float
    truth: Truth | None = None

    @property
    def shown(self) -> Detections:
        """``detections``, or where there is none, ``candidates``."""
        return self.detections if len(self.detections) else self.candidates

    @property
    def size(self) -> tuple[int, int]:
        """(height, width) of the image."""
        return self.image.shape[0], self.image.shape[1]

    def query(self, detection: int = 0) -> int:
        """The decoder slot behind detection number ``detection`` of ``shown``."""
        if not 0 <= detection < len(self.shown):
            raise ValueError(
                f"there are {len(self.shown)} detections, counted from 0; got {detection}"
            )
        return int(self.shown.queries[detection])

    def in_pixels(self, boxes: np.ndarray) -> np.ndarray:
        """cxcywh (or x, y) of 0–1 → the same in pixels of the image."""
        height, width = self.size
        return boxes * np.tile([width, height], boxes.shape[-1] // 2).astype(np.float32)

    def with_truth(self, boxes: Any, labels: Any) -> Explanation:
        """The same with the objects that are there: x0 y0 x1 y1 in pixels, and class indices."""
        boxes = np.asarray(boxes, np.float32).reshape(-1, 4)
        labels = np.asarray(labels, np.int64).reshape(-1)
        classes = len(self.trace.names)
        if len(boxes) != len(labels) or not ((labels >= 0) & (labels < classes)).all():
            raise ValueError(
                f"the truth should be as many labels from 0 to {classes - 1} as boxes; got "
                f"{len(boxes)} boxes and the labels {labels.tolist()}"
            )
        wrong = np.flatnonzero(~(boxes[:, 2:] > boxes[:, :2]).all(1))
        if len(wrong):
            raise ValueError(
                "boxes of the truth should be x0 y0 x1 y1 in pixels with x0 < x1 and y0 < y1; "
                f"box {wrong[0]} is {boxes[wrong[0]].tolist()}"
            )
        return replace(self, truth=Truth(boxes, labels))

    def truth_of(self, query: int) -> int | None:
        """Which known object the query's last box fits best; None where no object is known."""
        if self.truth is None or not len(self.truth.boxes):
            return None
        last = corners(self.in_pixels(self.trace.boxes[-1:, query]))
        return int(iou(last, self.truth.boxes).argmax())

    def iou_with_truth(self, query: int) -> np.ndarray | None:
        """IoU [layers] of the query's boxes with the object that its last box fits best.

        None where no object is known.
        """
        best = self.truth_of(query)
        if self.truth is None or best is None:
            return None
        boxes = corners(self.in_pixels(self.trace.boxes[:, query]))
        return iou(boxes, self.truth.boxes[best])

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
    predictor: Predictor,
    source: Any,
    conf: float | None = None,
    max_det: int | None = None,
    pixels: Sequence[tuple[float, float]] = (),
    on_error: OnError = "raise",
) -> Iterator[Explanation]:
    """An explanation of every image of ``source`` (see ``read_sources``), as a stream.

    ``conf`` and ``max_det`` are the config's if not given; ``pixels`` as in ``trace``; ``on_error``
    says what an unreadable image does. What is found is what the predictor itself finds. Wrong
    arguments raise here, not at the first image.
    """
    inference = predictor.config.inference
    conf = inference.conf if conf is None else conf
    max_det = inference.max_det if max_det is None else max_det
    if not 0 <= conf <= 1:
        raise ValueError(f"conf should lie between 0 and 1; got {conf}")
    if max_det < 1:
        raise ValueError(f"max_det should be at least 1; got {max_det}")
    images = read_sources(source, on_error)
    return (_explained(predictor, each, conf, max_det, pixels) for each in images)


def _explained(
    predictor: Predictor,
    image: SourceImage,
    conf: float,
    max_det: int,
    pixels: Sequence[tuple[float, float]],
) -> Explanation:
    live = predictor.live
    model = live.model.eval()
    images = pad([live.prepare(image.array)]).to(live.device)
    with autocast(live.precision, live.device):
        traced = trace(model, images, pixels)
    sizes, sources = [image.array.shape[:2]], [image.name]
    (found,) = to_detections(model, traced.predictions, sizes, max_det, sources)
    found = clipped(found)
    _, first = np.unique(found.queries, return_index=True)  # a query once, with its best class
    return Explanation(
        image=image.array,
        detections=found.above(conf),
        candidates=found[np.sort(first)[:CANDIDATES]],
        trace=traced,
        conf=conf,
    )
