"""Pictures in, detections out: one at a time or in a stream that never fills the memory."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import torch

from dabdetr.config import Config
from dabdetr.data.augment import prepare
from dabdetr.data.batching import pad, unpad
from dabdetr.inference.decoding import Decoded, decode
from dabdetr.inference.device import choose_device
from dabdetr.inference.elastic import with_queries
from dabdetr.inference.reading import (
    OnError,
    Picture,
    Prepared,
    Unreadable,
    ahead,
    check,
    groups,
)
from dabdetr.inference.sources import attempts
from dabdetr.inference.tiles import AT_ONCE, Tiling, merge
from dabdetr.model.detector import Detector
from dabdetr.model.weights import load_model
from dabdetr.structures import Detections, Images, Predictions

if TYPE_CHECKING:
    from dabdetr.explain.explanation import Explanation

Precision = Literal["fp32", "bf16", "fp16"]
_TYPES = {"bf16": torch.bfloat16, "fp16": torch.float16}


class Predictor:
    """A model ready to detect: a file, folder or name of weights, or a ``Detector``.

    ``batch`` pictures of one prepared size go through the model together; the detections are those
    of each picture alone. The model is put into evaluation mode. ``queries`` changes how many there
    are in a copy of it (see ``with_queries``).

    >>> for found in Predictor("scenes")("pictures/", conf=0.5):
    ...     print(found.source, len(found))
    """

    def __init__(
        self,
        model: str | Path | Detector,
        device: str | torch.device = "auto",
        batch: int = 1,
        precision: Precision = "fp32",
        queries: int | None = None,
        queries_init: str = "keep",
    ) -> None:
        if batch < 1:
            raise ValueError(f"batch should be at least 1; got {batch}")
        autocast(precision, torch.device("cpu"))  # an unknown name is told before any loading
        model, self.device = ready(model, device)
        self.model = with_queries(model, queries, queries_init)
        self.batch = batch
        self.precision: Precision = precision

    @property
    def names(self) -> tuple[str, ...]:
        """Class names, in label order."""
        return self.model.names

    @property
    def config(self) -> Config:
        """What the model was built and trained with."""
        return self.model.config

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
        """Detections of every picture of ``source`` (see ``read_sources``), in order, as a stream.

        Boxes are cut to their picture. ``conf`` and ``max_det`` are the config's if not given;
        ``classes`` keeps only those names. An unreadable picture raises a ValueError that names it,
        unless ``on_error`` says otherwise. Wrong arguments raise here, not at the first picture.
        ``tiles`` looks at large pictures in overlapping tiles, of so many pixels, or with True of
        as many as the model takes. ``stride`` leaves out frames of videos.

        The next pictures are read in a thread while the model works on these.
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
        """Detections of a single picture; options as in a call."""
        found = list(self(image, **options))
        if len(found) != 1:
            raise ValueError(
                f"one() takes a single picture; got {len(found)}; call the predictor itself"
            )
        return found[0]

    def explain(
        self,
        image: Any,
        conf: float | None = None,
        max_det: int | None = None,
        pixels: Sequence[tuple[float, float]] = (),
    ) -> Explanation:
        """One picture's detections and how they came about: trace, figures, a page to save.

        ``pixels`` (x, y, 0–1 of the picture) are those whose encoder attention is wanted.
        """
        from dabdetr.explain.explanation import explain

        found = list(explain(self, image, conf, max_det, pixels))
        if len(found) != 1:
            raise ValueError(
                f"explain() takes a single picture; got {len(found)}; call it for each of them"
            )
        return found[0]

    def _tiling(self, tiles: bool | int | Tiling) -> Tiling | None:
        if isinstance(tiles, bool):
            return Tiling(self.config.image.size) if tiles else None
        return tiles if isinstance(tiles, Tiling) else Tiling(tiles)

    def _prepared(
        self, items: Iterator[Picture | Unreadable], tiling: Tiling | None
    ) -> Iterator[Prepared | Unreadable]:
        """Every view of every picture as the model takes it."""
        for item in items:
            if isinstance(item, Unreadable):
                yield item
                continue
            height, width = item.array.shape[:2]
            views = tiling.views(height, width) if tiling else [(0, 0, width, height)]
            for number, (x0, y0, x1, y1) in enumerate(views):
                pixels = prepare(item.array[y0:y1, x0:x1], self.config.image)
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
        self.model.eval()
        most = max(self.batch, AT_ONCE) if tiling else self.batch
        parts: list[Detections] = []
        for group in groups(ahead(items, most + 1), most, on_error):
            images = pad([each.pixels for each in group]).to(self.device)
            sizes = [(y1 - y0, x1 - x0) for x0, y0, x1, y1 in (each.view for each in group)]
            sources = [each.picture.name for each in group]
            found = detect_batch(self.model, images, sizes, max_det, sources, self.precision)
            for each, detections in zip(group, found, strict=True):
                # a part must lose also against a whole object that itself scores too little
                parts.append(clipped(detections).above(conf / 2 if tiling else conf))
                if len(parts) == len(each.views):
                    picture = each.picture
                    if tiling:
                        parts = [merge(parts, each.views, tiling)[:max_det]]
                    yield replace(
                        parts.pop().above(conf, classes),
                        size=picture.array.shape[:2],
                        image=picture.array if keep_images else None,
                        frame=picture.frame,
                        time=picture.time,
                    )

    def _none_found(self) -> Detections:
        empty = np.zeros(0, np.int64)
        return Detections(
            np.zeros((0, 4), np.float32), empty.astype(np.float32), empty, empty, self.names, (0, 0)
        )


def ready(
    model: str | Path | Detector, device: str | torch.device = "auto"
) -> tuple[Detector, torch.device]:
    """The model on its device; a ``Detector`` stays where it is unless another is asked for."""
    if isinstance(model, Detector):
        if str(device) == "auto":
            return model, next(model.parameters()).device
        chosen = choose_device(device)
        return model.to(chosen), chosen
    chosen = choose_device(device)
    return load_model(model, device=chosen).model.to(chosen), chosen


def detect_batch(
    model: Detector,
    images: Images,
    sizes: Sequence[tuple[int, ...]],
    max_det: int,
    sources: Sequence[str] = (),
    precision: Precision = "fp32",
) -> list[Detections]:
    """The ``max_det`` best detections of each picture, neither thresholded nor cut to the picture.

    ``sizes`` are (height, width) of the original pictures. The model should be in evaluation mode
    and on the device of ``images``. Padding changes nothing: pictures of different sizes go through
    the model one size after the other, as a backbone sees across their borders.
    """
    sources = sources or [""] * len(sizes)
    found: dict[int, Detections] = {}
    for rows, alike in unpad(images):
        # not inference_mode: what modules remember for the next call must serve in training as well
        with torch.no_grad(), autocast(precision, images.pixels.device):
            predictions = model(alike)
        names = [sources[row] for row in rows]
        each = to_detections(model, predictions, [sizes[row] for row in rows], max_det, names)
        found.update(zip(rows, each, strict=True))
    return [found[row] for row in range(len(sizes))]


def to_detections(
    model: Detector,
    predictions: Predictions,
    sizes: Sequence[tuple[int, ...]],
    max_det: int,
    sources: Sequence[str] = (),
    layer: int = -1,
) -> list[Detections]:
    """What decoder layer ``layer`` (0 is the first, −1 the last) found in each picture of a batch.

    As many as ``detect_batch`` gives, in the same form; ValueError where an answer is not finite.
    """
    sources = sources or [""] * len(sizes)
    logits, boxes = predictions.logits[layer].float(), predictions.boxes[layer].float()
    plain = [(int(size[0]), int(size[1])) for size in sizes]
    finite = logits.isfinite().flatten(1).all(1) & boxes.isfinite().flatten(1).all(1)
    if not finite.all():
        name = sources[int(finite.int().argmin())] or "a picture"
        raise ValueError(
            f"the model's answer for {name} is not finite; its weights are broken (did the "
            "training diverge?): take another checkpoint"
        )
    decoded = decode(logits, boxes, plain, max_det, model.config.model.classifier)
    return [
        _detections(each, model.names, size, source)
        for each, size, source in zip(decoded, plain, sources, strict=True)
    ]


def autocast(precision: Precision, device: torch.device) -> AbstractContextManager[Any]:
    """The context in which a model computes in ``precision``."""
    if precision == "fp32":
        return nullcontext()
    if precision not in _TYPES:
        raise ValueError(f"there is no precision {precision!r}; use fp32, {', '.join(_TYPES)}")
    return torch.autocast(device.type, dtype=_TYPES[precision])


def _detections(
    found: Decoded, names: tuple[str, ...], size: tuple[int, int], source: str
) -> Detections:
    boxes, scores, labels, queries = (part.cpu().numpy() for part in found)
    return Detections(boxes, scores, labels, queries, names, size, source)


def clipped(found: Detections) -> Detections:
    """Boxes cut to their picture."""
    height, width = found.size
    limits = np.array([width, height, width, height], np.float32)
    return replace(found, boxes=found.boxes.clip(0, limits))
