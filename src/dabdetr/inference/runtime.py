"""``Runtime``, the interface between ``Predictor`` and a model, and the options of opening one.

This file does not import torch.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Literal, NamedTuple, Protocol, TypedDict, runtime_checkable

import numpy as np

from dabdetr.structures import Detections

if TYPE_CHECKING:
    import torch

    from dabdetr.config import Config

Precision = Literal["fp32", "bf16", "fp16"]
SetPrecision = Precision | Literal["auto"]
"""auto: bf16 where a measurement shows that it is clearly faster, else fp32."""
Sizes = Sequence[tuple[int, int]]
"""(height, width) of original images."""


class Outputs(NamedTuple):
    """A model's outputs for a batch with questions; boxes are cxcywh, 0–1.

    logits   [batch, queries, classes], of the last layer for the matching queries
    boxes    [batch, queries, 4], of the last layer for the matching queries
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
        """The config that the model was built and trained with."""
        ...

    @property
    def workers(self) -> int:
        """Threads that make a stream faster.

        0: none; 1: images are read in a thread while ``detect`` runs; more: ``detect`` runs in as
        many threads at a time, and images are read in a further one.
        """
        ...

    def for_streams(self) -> Runtime:
        """The model as it is fastest for many images, with the ``workers`` for it.

        A single image may take longer. The detections are the same but for rounding.
        """
        ...

    def prepare(self, image: np.ndarray) -> Any:
        """The input of ``detect`` for an image RGB uint8 [height, width, 3]; it has a ``shape``."""
        ...

    def detect(
        self, prepared: Sequence[Any], sizes: Sizes, max_det: int, sources: Sequence[str] = ()
    ) -> list[Detections]:
        """The ``max_det`` best detections of each image, neither thresholded nor clipped to it."""
        ...

    def check_questions(self) -> None:
        """ValueError where the model cannot be asked about boxes."""
        ...

    def answer(self, prepared: Sequence[Any], boxes: np.ndarray, labels: np.ndarray) -> Outputs:
        """Outputs for the images with boxes [b, n, 4] (cxcywh, 0–1) and labels [b, n] as questions.

        The images have one prepared size. Label −1 means an unknown class.
        """
        ...


class ModelChanges(TypedDict, total=False):
    """Changes of a model when it is opened; options that are not given change nothing.

    queries       number of queries, in a copy of the model
    queries_init  anchors for another number of queries: keep, grid, or kmeans:DATA, the k-means of
                  the boxes in DATA's train split
    layers        number of decoder layers to keep, from the first
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
    precision  "bf16" is up to three times as fast as "fp32" on processors that support it; "auto"
               measures both on the first images
    """

    device: str | torch.device
    precision: SetPrecision
