"""EMA: averaged weights for evaluation and saving; training continues with the raw ones."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from pytorch_lightning import LightningModule, Trainer
from pytorch_lightning.callbacks import WeightAveraging
from torch import Tensor

from dabdetr.model.detector import Detector

Tensors = tuple[Tensor, ...] | list[Tensor]


class MovingAverage(WeightAveraging):
    """Lightning's callback with a moving average of parameters and buffers (``ema_update``)."""

    def __init__(self, decay: float) -> None:
        super().__init__(use_buffers=True, multi_avg_fn=ema_update(decay))

    @property
    def detector(self) -> Detector:
        """The averaged model."""
        assert self._average_model is not None
        return self._average_model.module.detector  # pyright: ignore

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        super().setup(trainer, pl_module, stage)
        self.detector.requires_grad_(False)

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Do nothing: the raw weights stay, so a finished run's checkpoint has the usual form."""


def ema_update(decay: float) -> Callable[[Tensors, Tensors, Any], None]:
    """The update that torch's ``AveragedModel`` calls for all tensors of one device and dtype.

    The decay of update n, counted from 1, is min(decay, (1 + n) / (10 + n)): otherwise runs of a
    few hundred steps would average in their random start. Batch statistics are averaged too;
    integers are copied.
    """

    @torch.no_grad()
    def update(averages: Tensors, current: Tensors, n: Any) -> None:
        if not averages[0].is_floating_point():
            torch._foreach_copy_(averages, current)  # pyright: ignore[reportPrivateImportUsage]
            return
        weight = 1 - min(decay, (1 + int(n)) / (10 + int(n)))
        torch._foreach_lerp_(averages, current, weight)  # pyright: ignore[reportPrivateImportUsage]

    return update
