"""Detectors of torch at work: what ``Predictor`` and ``evaluate`` run where nothing is exported."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from dabdetr.config import Config
from dabdetr.data.augment import prepare
from dabdetr.data.batching import pad, unpad
from dabdetr.inference.decoding import detections
from dabdetr.inference.device import choose_device
from dabdetr.inference.elastic import with_queries
from dabdetr.inference.runtimes import Precision, Sizes
from dabdetr.model.detector import Detector
from dabdetr.model.weights import load_model
from dabdetr.structures import Detections, Images, Predictions

_TYPES = {"bf16": torch.bfloat16, "fp16": torch.float16}


class Live:
    """The runtime of a ``Detector``; it is put into evaluation mode."""

    def __init__(
        self,
        model: str | Path | Detector,
        device: str | torch.device = "auto",
        precision: Precision = "fp32",
        queries: int | None = None,
        queries_init: str = "keep",
    ) -> None:
        autocast(precision, torch.device("cpu"))  # an unknown name is told before any loading
        model, self.device = ready(model, device)
        self.model = with_queries(model, queries, queries_init)
        self.precision: Precision = precision

    @property
    def names(self) -> tuple[str, ...]:
        """Class names, in label order."""
        return self.model.names

    @property
    def config(self) -> Config:
        """What the model was built and trained with."""
        return self.model.config

    def prepare(self, picture: np.ndarray) -> Tensor:
        """The picture as the model takes it."""
        return prepare(picture, self.config.image)

    def detect(
        self, prepared: Sequence[Tensor], sizes: Sizes, max_det: int, sources: Sequence[str] = ()
    ) -> list[Detections]:
        """The ``max_det`` best detections of each prepared picture."""
        if self.model.training:
            self.model.eval()
        images = pad(prepared).to(self.device)
        return detect_batch(self.model, images, sizes, max_det, sources, self.precision)


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
    sizes: Sizes,
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
    sizes: Sizes,
    max_det: int,
    sources: Sequence[str] = (),
    layer: int = -1,
) -> list[Detections]:
    """What decoder layer ``layer`` (0 is the first, −1 the last) found in each picture of a batch.

    As many as ``detect_batch`` gives, in the same form; ValueError where an answer is not finite.
    """
    logits, boxes = predictions.logits[layer], predictions.boxes[layer]
    logits, boxes = (part.detach().float().cpu().numpy() for part in (logits, boxes))
    plain = [(int(size[0]), int(size[1])) for size in sizes]
    classifier = model.config.model.classifier
    return detections(logits, boxes, plain, max_det, model.names, classifier, sources)


def autocast(precision: Precision, device: torch.device) -> AbstractContextManager[Any]:
    """The context in which a model computes in ``precision``."""
    if precision == "fp32":
        return nullcontext()
    if precision not in _TYPES:
        raise ValueError(f"there is no precision {precision!r}; use fp32, {', '.join(_TYPES)}")
    return torch.autocast(device.type, dtype=_TYPES[precision])
