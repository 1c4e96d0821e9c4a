"""What a ``Predictor`` needs of the model behind it, and the options that open one; no torch."""

from __future__ import annotations

import os
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Literal, NamedTuple, Protocol, TypedDict, runtime_checkable

import numpy as np

from dabdetr.structures import Detections

if TYPE_CHECKING:
    import torch

    from dabdetr.config import Config

Precision = Literal["fp32", "bf16", "fp16"]
SetPrecision = Precision | Literal["auto"]
"""auto: bf16 where it is measured to be clearly faster, else fp32."""
Sizes = Sequence[tuple[int, ...]]
"""(height, width) of original images."""


class Outputs(NamedTuple):
    """What a runtime gives for a batch with questions; boxes are cxcywh, 0–1.

    logits   [batch, queries, classes], with ``boxes`` the last layer's for the matching queries
    boxes    [batch, queries, 4]
    answers  [batch, n, classes], logits of the last layer for the questions
    layers   [layers, batch, n, 4], boxes after every layer for the questions
    """

    logits: np.ndarray
    boxes: np.ndarray
    answers: np.ndarray
    layers: np.ndarray


@runtime_checkable
class Runtime(Protocol):
    """A model ready to detect: ``TorchRuntime``, or ``Exported`` for an exported file."""

    @property
    def names(self) -> tuple[str, ...]:
        """Class names, in label order."""
        ...

    @property
    def config(self) -> Config:
        """What the model was built and trained with."""
        ...

    @property
    def prefetches(self) -> bool:
        """Whether a stream is faster with its images read in a thread beside ``detect``."""
        ...

    def prepare(self, image: np.ndarray) -> Any:
        """RGB uint8 [height, width, 3] as ``detect`` takes it; it has a ``shape``."""
        ...

    def detect(
        self, prepared: Sequence[Any], sizes: Sizes, max_det: int, sources: Sequence[str] = ()
    ) -> list[Detections]:
        """The ``max_det`` best detections of each image, neither thresholded nor cut to it."""
        ...

    def check_questions(self) -> None:
        """ValueError where the model cannot be asked about boxes."""
        ...

    def answer(self, prepared: Sequence[Any], boxes: np.ndarray, labels: np.ndarray) -> Outputs:
        """Outputs for the images with boxes [b, n, 4] (cxcywh, 0–1) and labels [b, n] as questions.

        The images are of one prepared size; label −1: the class is not known.
        """
        ...


class ModelChanges(TypedDict, total=False):
    """How a model is changed when it is opened; what is not given stays as it is.

    queries       number of queries, in a copy of the model
    queries_init  anchors of another number of queries: keep, grid, or kmeans:DATA, the k-means of
                  the boxes in DATA's train split
    layers        decoder layers, the first ones
    image_size    shorter side of images in pixels; the longest side scales with it
    compile       compile for every size of input: half a minute each, needs a C++ compiler
    """

    queries: int | None
    queries_init: str
    layers: int | None
    image_size: int | None
    compile: bool


class Opening(ModelChanges, total=False):
    """The options of ``open_model``.

    device     auto, cpu, cuda, cuda:1 or mps
    precision  "bf16" is up to three times as fast as "fp32" where the processor has it; "auto"
               measures both on the first images
    """

    device: str | torch.device
    precision: SetPrecision


def threads() -> int:
    """How many to compute in: OMP_NUM_THREADS, as for torch; 0: the library decides."""
    value = os.environ.get("OMP_NUM_THREADS", "")
    return int(value) if value.isdecimal() else 0
