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
from dabdetr.data.batching import pad
from dabdetr.inference.decoding import Decoded, decode
from dabdetr.inference.device import choose_device
from dabdetr.inference.elastic import with_queries
from dabdetr.inference.sources import OnError, Picture, read_sources
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
    ) -> Iterator[Detections]:
        """Detections of every picture of ``source`` (see ``read_sources``), in order, as a stream.

        Boxes are cut to their picture. ``conf`` and ``max_det`` are the config's if not given;
        ``classes`` keeps only those names. An unreadable picture raises a ValueError that names it,
        unless ``on_error`` says otherwise. Wrong arguments raise here, not at the first picture.
        """
        conf = self.config.inference.conf if conf is None else conf
        max_det = self.config.inference.max_det if max_det is None else max_det
        if not 0 <= conf <= 1:
            raise ValueError(f"conf should lie between 0 and 1; got {conf}")
        if max_det < 1:
            raise ValueError(f"max_det should be at least 1; got {max_det}")
        classes = [classes] if isinstance(classes, str) else classes
        self._none_found().above(conf, classes)  # an unknown class is told now
        pictures = read_sources(source, on_error)
        return self._stream(pictures, conf, max_det, classes, keep_images)

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

    def _stream(
        self,
        pictures: Iterator[Picture],
        conf: float,
        max_det: int,
        classes: Sequence[str] | None,
        keep_images: bool,
    ) -> Iterator[Detections]:
        self.model.eval()
        for group in self._groups(pictures):
            images = pad([pixels for _, pixels in group]).to(self.device)
            sizes = [picture.array.shape[:2] for picture, _ in group]
            sources = [picture.name for picture, _ in group]
            found = detect_batch(self.model, images, sizes, max_det, sources, self.precision)
            for (picture, _), each in zip(group, found, strict=True):
                kept = replace(each, image=picture.array) if keep_images else each
                yield clipped(kept).above(conf, classes)

    def _groups(self, pictures: Iterator[Picture]) -> Iterator[list[tuple[Picture, torch.Tensor]]]:
        """Neighbours of one prepared size, ``batch`` at most, so that none needs padding."""
        group: list[tuple[Picture, torch.Tensor]] = []
        for picture in pictures:
            pixels = prepare(picture.array, self.config.image)
            if group and (len(group) == self.batch or group[0][1].shape != pixels.shape):
                yield group
                group = []
            group.append((picture, pixels))
        if group:
            yield group

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
    and on the device of ``images``.
    """
    # not inference_mode: what modules remember for the next call must serve in training as well
    with torch.no_grad(), autocast(precision, images.pixels.device):
        predictions = model(images)
    return to_detections(model, predictions, sizes, max_det, sources)


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
