"""Averaged weights (EMA): what is evaluated and saved, while the raw weights go on training."""

from __future__ import annotations

from typing import Any

import torch
from pytorch_lightning import LightningModule, Trainer
from pytorch_lightning.callbacks import WeightAveraging
from torch import Tensor

from dabdetr.model.detector import Detector


class Averaging(WeightAveraging):
    """Moving average of all parameters and buffers, with a short memory at the start.

    After n updates the decay is min(decay, (1 + n) / (10 + n)): runs of a few hundred updates
    would otherwise average in their random start. Batch statistics are averaged alike.
    """

    def __init__(self, decay: float) -> None:
        super().__init__(use_buffers=True, multi_avg_fn=moving_average(decay))

    @property
    def detector(self) -> Detector:
        """The averaged model."""
        assert self._average_model is not None
        return self._average_model.module.detector  # pyright: ignore

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        super().setup(trainer, pl_module, stage)
        self.detector.requires_grad_(False)

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Nothing: the raw weights stay raw, so that a finished run's checkpoint is like any."""


def moving_average(decay: float) -> Any:
    @torch.no_grad()
    def update(average: list[Tensor], current: list[Tensor], updates: Tensor) -> None:
        n = int(updates)
        weight = 1 - min(decay, (1 + n) / (10 + n))
        if average[0].is_floating_point():
            torch._foreach_lerp_(average, current, weight)  # pyright: ignore[reportPrivateImportUsage]
        else:
            torch._foreach_copy_(average, current)  # pyright: ignore[reportPrivateImportUsage]

    return update
