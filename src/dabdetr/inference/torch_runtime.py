"""``TorchRuntime``, the runtime of a ``Detector``, and detection in a batch."""

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
        if str(device) == "auto":  # the model is not moved
            self.model, self.device = model, next(model.parameters()).device
        else:
            self.device = choose_device(device)
            self.model = model.to(self.device)
        self.forward = AcceleratedModel(self.model, precision, compile)

    @property
    def precision(self) -> Precision:
        """The precision of the model; fp32 before "auto" has measured the first images."""
        return self.forward.precision or "fp32"

    @property
    def names(self) -> tuple[str, ...]:
        """Class names, in label order."""
        return self.model.names

    @property
    def config(self) -> Config:
        """The config that the model was built and trained with."""
        return self.model.config

    @property
    def workers(self) -> int:
        """0 where torch uses every core, else 1."""
        return 0 if takes_every_core(self.device.type) else 1

    def for_streams(self) -> TorchRuntime:
        """This runtime itself."""
        return self

    def prepare(self, image: np.ndarray) -> Tensor:
        """The image as an input of the model."""
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
        return with_answers(self.predict(prepared, boxes, labels))

    def predict(
        self,
        prepared: Sequence[Tensor],
        boxes: np.ndarray | None = None,
        labels: np.ndarray | None = None,
    ) -> Predictions:
        """All predictions for images of one size, with or without questions (see ``answer``)."""
        if self.model.training:
            self.model.eval()
        asked = None
        if boxes is not None and labels is not None:
            asked = Questions(torch.from_numpy(boxes), torch.from_numpy(labels)).to(self.device)
        return self.forward(pad(prepared).to(self.device), asked)


def with_answers(predictions: Predictions) -> Outputs:
    """The last layer's outputs, and the answers, in predictions with questions."""
    _, answers = predictions.groups[0]
    tensors = predictions.logits[-1], predictions.boxes[-1], answers.logits[-1], answers.boxes
    return Outputs(*(each.float().cpu().numpy() for each in tensors))


def detect_batch(
    model: Detector,
    images: Images,
    sizes: Sizes,
    max_det: int,
    sources: Sequence[str] = (),
    forward: Forward | None = None,
) -> list[Detections]:
    """The ``max_det`` best detections of each image, neither thresholded nor clipped to the image.

    ``sizes`` are (height, width) of the original images. The model has to be in evaluation mode and
    on the device of ``images``; ``forward`` is called in its place if given. Padding has no
    influence: as a backbone's convolutions cross the borders of images, images of different sizes
    go through the model in separate batches.
    """
    sources = sources or [""] * len(sizes)
    found: dict[int, Detections] = {}
    for rows, alike in unpad(images):
        # not inference_mode: tensors that modules cache are used in training later
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
    """The detections of decoder layer ``layer`` (0 is the first, −1 the last) in each image.

    Number and form are those of ``detect_batch``. ValueError where an output is not finite.
    """
    logits, boxes = predictions.logits[layer], predictions.boxes[layer]
    logits, boxes = (part.detach().float().cpu().numpy() for part in (logits, boxes))
    return detections(
        logits,
        boxes,
        sizes,
        max_det,
        names=model.names,
        classifier=model.config.classifier,
        sources=sources,
        calibration=model.config.inference.calibration,
    )
