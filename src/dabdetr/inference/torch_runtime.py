"""Detectors of torch at work: what ``Predictor`` and ``evaluate`` run where nothing is exported."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from dabdetr.config import Config
from dabdetr.data.augmentation import prepare
from dabdetr.data.loader import pad, unpad
from dabdetr.inference.acceleration import AcceleratedModel, Forward
from dabdetr.inference.device import choose_device, takes_every_core
from dabdetr.inference.postprocess import detections
from dabdetr.inference.questions import refuse_unable
from dabdetr.inference.runtime import Outputs, Precision, SetPrecision, Sizes
from dabdetr.model.detector import Detector
from dabdetr.structures import Detections, Images, Predictions, Questions


class TorchRuntime:
    """The runtime of a ``Detector``; it is put into evaluation mode."""

    def __init__(
        self,
        model: Detector,
        device: str | torch.device = "auto",
        precision: SetPrecision = "fp32",
        compile: bool = False,
    ) -> None:
        self.model, self.device = placed(model, device)
        self.forward = AcceleratedModel(self.model, precision, compile)

    @property
    def precision(self) -> Precision:
        """What the model computes in; fp32 until "auto" has seen an image."""
        return self.forward.precision or "fp32"

    @property
    def names(self) -> tuple[str, ...]:
        """Class names, in label order."""
        return self.model.names

    @property
    def config(self) -> Config:
        """What the model was built and trained with."""
        return self.model.config

    @property
    def prefetches(self) -> bool:
        """Not where torch takes every core."""
        return not takes_every_core(self.device.type)

    def prepare(self, image: np.ndarray) -> Tensor:
        """The image as the model takes it."""
        return prepare(image, self.config.image)

    def detect(
        self, prepared: Sequence[Tensor], sizes: Sizes, max_det: int, sources: Sequence[str] = ()
    ) -> list[Detections]:
        """The ``max_det`` best detections of each prepared image."""
        if self.model.training:
            self.model.eval()
        images = pad(prepared).to(self.device)
        return detect_batch(self.model, images, sizes, max_det, sources, forward=self.forward)

    def check_questions(self) -> None:
        """ValueError for a member that cannot be asked about boxes."""
        refuse_unable(self.config)

    def answer(self, prepared: Sequence[Tensor], boxes: np.ndarray, labels: np.ndarray) -> Outputs:
        """Outputs for images of one size with questions."""
        if self.model.training:
            self.model.eval()
        asked = Questions(torch.from_numpy(boxes), torch.from_numpy(labels)).to(self.device)
        predictions = self.forward(pad(prepared).to(self.device), asked)
        _, answers = predictions.groups[0]
        tensors = predictions.logits[-1], predictions.boxes[-1], answers.logits[-1], answers.boxes
        return Outputs(*(each.float().cpu().numpy() for each in tensors))


def placed(model: Detector, device: str | torch.device) -> tuple[Detector, torch.device]:
    """The model on its device; it stays where it is unless another is asked for."""
    if str(device) == "auto":
        return model, next(model.parameters()).device
    chosen = choose_device(device)
    return model.to(chosen), chosen


def detect_batch(
    model: Detector,
    images: Images,
    sizes: Sizes,
    max_det: int,
    sources: Sequence[str] = (),
    forward: Forward | None = None,
) -> list[Detections]:
    """The ``max_det`` best detections of each image, neither thresholded nor cut to the image.

    ``sizes`` are (height, width) of the original images. The model should be in evaluation mode
    and on the device of ``images``; ``forward`` calls it, where it is not called as it is. Padding
    changes nothing: images of different sizes go through the model one size after the other, as a
    backbone sees across their borders.
    """
    sources = sources or [""] * len(sizes)
    found: dict[int, Detections] = {}
    for rows, alike in unpad(images):
        # not inference_mode: what modules remember for the next call must serve in training as well
        with torch.no_grad():
            predictions = (forward or model)(alike)
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
    """What decoder layer ``layer`` (0 is the first, −1 the last) found in each image of a batch.

    As many as ``detect_batch`` gives, in the same form; ValueError where an answer is not finite.
    """
    logits, boxes = predictions.logits[layer], predictions.boxes[layer]
    logits, boxes = (part.detach().float().cpu().numpy() for part in (logits, boxes))
    plain = [(int(size[0]), int(size[1])) for size in sizes]
    return detections(
        logits,
        boxes,
        plain,
        max_det,
        names=model.names,
        classifier=model.config.classifier,
        sources=sources,
        calibration=model.config.inference.calibration,
    )
