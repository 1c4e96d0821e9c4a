"""Images in, detections out: one at a time or in a stream that never fills the memory."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from dabdetr.config import Config
from dabdetr.inference.exported import Compile, Runtime, SetPrecision, open_runtime
from dabdetr.inference.sources import attempts
from dabdetr.inference.stream import (
    OnError,
    Prepared,
    SourceImage,
    Unreadable,
    ahead,
    check,
    groups,
)
from dabdetr.inference.tiling import AT_ONCE, Tiling, merge
from dabdetr.structures import Detections

if TYPE_CHECKING:
    import torch

    from dabdetr.explain.explanation import Explanation
    from dabdetr.inference.torch_runtime import TorchRuntime
    from dabdetr.model.detector import Detector


class Predictor:
    """A model ready to detect: a file, folder or name of weights, or a ``Detector``.

    Or an exported file (``.onnx``, OpenVINO's folder, ``.pt2``): the first two never import torch.

    ``batch`` images of one prepared size go through the model together; the detections are those
    of each image alone. The model is put into evaluation mode. ``queries`` changes how many there
    are in a copy of it (see ``with_queries``).

    ``precision`` "bf16" is up to three times as fast as "fp32" where the processor has it; "auto"
    measures both on the first images. ``compile`` compiles for every size of input (half a minute
    each, a C++ compiler needed), "auto" for sizes that come so often that it pays. What was chosen
    is told to the logger ``dabdetr``. All but "fp32" uncompiled takes a copy of the weights.

    >>> for found in Predictor("scenes")("images/", conf=0.5):
    ...     print(found.source, len(found))
    """

    def __init__(
        self,
        model: str | Path | Detector,
        device: str | torch.device = "auto",
        batch: int = 1,
        precision: SetPrecision = "fp32",
        queries: int | None = None,
        queries_init: str = "keep",
        compile: Compile = False,
    ) -> None:
        if batch < 1:
            raise ValueError(f"batch should be at least 1; got {batch}")
        self.runtime: Runtime = open_runtime(
            model, device, precision, queries, queries_init, compile
        )
        self.batch = batch

    @property
    def live(self) -> TorchRuntime:
        """The runtime of a ``Detector`` itself; ValueError where the model is an exported file."""
        from dabdetr.inference.torch_runtime import TorchRuntime

        if not isinstance(self.runtime, TorchRuntime):
            raise ValueError("an exported file shows its answers only; take the weights it is of")
        return self.runtime

    @property
    def names(self) -> tuple[str, ...]:
        """Class names, in label order."""
        return self.runtime.names

    @property
    def config(self) -> Config:
        """What the model was built and trained with."""
        return self.runtime.config

    def __call__(
        self,
        source: Any,
        conf: float | None = None,
        max_det: int | None = None,
        classes: Sequence[str] | None = None,
        keep_images: bool = False,
        on_error: OnError = "raise",
        tiles: bool | int | Tiling = False,
        stride: int = 1,
    ) -> Iterator[Detections]:
        """Detections of every image of ``source`` (see ``read_sources``), in order, as a stream.

        Boxes are cut to their image. ``conf`` and ``max_det`` are the config's if not given;
        ``classes`` keeps only those names. An unreadable image raises a ValueError that names it,
        unless ``on_error`` says otherwise. Wrong arguments raise here, not at the first image.
        ``tiles`` looks at large images in overlapping tiles, of so many pixels, or with True of
        as many as the model takes. ``stride`` leaves out frames of videos.

        The next images are read in a thread while the model works on these, where that is faster.
        """
        conf = self.config.inference.conf if conf is None else conf
        max_det = self.config.inference.max_det if max_det is None else max_det
        if not 0 <= conf <= 1:
            raise ValueError(f"conf should lie between 0 and 1; got {conf}")
        if max_det < 1:
            raise ValueError(f"max_det should be at least 1; got {max_det}")
        classes = [classes] if isinstance(classes, str) else classes
        self._none_found().above(conf, classes)  # an unknown class is told now
        check(on_error)
        tiling = self._tiling(tiles)
        items = self._prepared(attempts(source, stride), tiling)
        return self._stream(items, tiling, conf, max_det, classes, keep_images, on_error)

    def one(self, image: Any, **options: Any) -> Detections:
        """Detections of a single image; options as in a call."""
        found = list(self(image, **options))
        if len(found) != 1:
            raise ValueError(
                f"one() takes a single image; got {len(found)}; call the predictor itself"
            )
        return found[0]

    def explain(
        self,
        image: Any,
        conf: float | None = None,
        max_det: int | None = None,
        pixels: Sequence[tuple[float, float]] = (),
    ) -> Explanation:
        """One image's detections and how they came about: trace, figures, a page to save.

        ``pixels`` (x, y, 0–1 of the image) are those whose encoder attention is wanted.
        """
        from dabdetr.explain.explanation import explain

        found = list(explain(self, image, conf, max_det, pixels))
        if len(found) != 1:
            raise ValueError(
                f"explain() takes a single image; got {len(found)}; call it for each of them"
            )
        return found[0]

    def _tiling(self, tiles: bool | int | Tiling) -> Tiling | None:
        if isinstance(tiles, bool):
            return Tiling(self.config.image.size) if tiles else None
        return tiles if isinstance(tiles, Tiling) else Tiling(tiles)

    def _prepared(
        self, items: Iterator[SourceImage | Unreadable], tiling: Tiling | None
    ) -> Iterator[Prepared | Unreadable]:
        """Every view of every image as the model takes it."""
        for item in items:
            if isinstance(item, Unreadable):
                yield item
                continue
            height, width = item.array.shape[:2]
            views = tiling.views(height, width) if tiling else [(0, 0, width, height)]
            for number, (x0, y0, x1, y1) in enumerate(views):
                pixels = self.runtime.prepare(item.array[y0:y1, x0:x1])
                yield Prepared(item, views, number, pixels)
            del item

    def _stream(
        self,
        items: Iterator[Prepared | Unreadable],
        tiling: Tiling | None,
        conf: float,
        max_det: int,
        classes: Sequence[str] | None,
        keep_images: bool,
        on_error: OnError,
    ) -> Iterator[Detections]:
        most = max(self.batch, AT_ONCE) if tiling else self.batch
        parts: list[Detections] = []
        items = ahead(items, most + 1) if self.runtime.read_ahead else items
        for group in groups(items, most, on_error):
            pixels = [each.pixels for each in group]
            sizes = [(y1 - y0, x1 - x0) for x0, y0, x1, y1 in (each.view for each in group)]
            sources = [each.image.name for each in group]
            found = self.runtime.detect(pixels, sizes, max_det, sources)
            for each, detections in zip(group, found, strict=True):
                # a part must lose also against a whole object that itself scores too little
                parts.append(clipped(detections).above(conf / 2 if tiling else conf))
                if len(parts) == len(each.views):
                    image = each.image
                    if tiling:
                        parts = [merge(parts, each.views, tiling)[:max_det]]
                    yield replace(
                        parts.pop().above(conf, classes),
                        size=image.array.shape[:2],
                        image=image.array if keep_images else None,
                        frame=image.frame,
                        time=image.time,
                    )

    def _none_found(self) -> Detections:
        empty = np.zeros(0, np.int64)
        return Detections(
            np.zeros((0, 4), np.float32), empty.astype(np.float32), empty, empty, self.names, (0, 0)
        )


def clipped(found: Detections) -> Detections:
    """Boxes cut to their image."""
    height, width = found.size
    limits = np.array([width, height, width, height], np.float32)
    return replace(found, boxes=found.boxes.clip(0, limits))
