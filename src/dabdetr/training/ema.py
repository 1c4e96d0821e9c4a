"""Averaged weights (EMA): what is evaluated and saved, while the raw weights go on training."""

from __future__ import annotations

from typing import Any

import torch
from pytorch_lightning import LightningModule, Trainer
from pytorch_lightning.callbacks import WeightAveraging
from torch import Tensor, nn

from dabdetr.model.detector import Detector


class Averaging(WeightAveraging):
    """The engine's callback that keeps an average of the model, see ``MovingAverage``."""

    def __init__(self, decay: float) -> None:
        super().__init__(use_buffers=True)
        self.decay = decay

    @property
    def detector(self) -> Detector:
        """The averaged model."""
        assert self._average_model is not None
        return self._average_model.module.detector  # pyright: ignore

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        super().setup(trainer, pl_module, stage)
        self.detector.requires_grad_(False)

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self.average = MovingAverage(self.detector, pl_module.detector, self.decay)  # pyright: ignore

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        if trainer.global_step == self._latest_update_step:
            return  # gradients are still being gathered
        self._latest_update_step = trainer.global_step
        assert self._average_model is not None
        self.average.update(int(self._average_model.n_averaged))
        self._average_model.n_averaged += 1

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Nothing: the raw weights stay raw, so that a finished run's checkpoint is like any."""


class MovingAverage:
    """Moving average of parameters and buffers, in place and with a short memory at the start.

    Before update n, counted from 0, lies n times the decay min(decay, (1 + n) / (10 + n)): runs of
    a few hundred updates would otherwise average in their random start. Batch statistics are
    averaged alike. What is frozen is left alone: ``average`` begins as a copy of ``model``.
    """

    def __init__(self, average: nn.Module, model: nn.Module, decay: float) -> None:
        self.decay = decay
        own = dict(average.named_parameters()) | dict(average.named_buffers())
        learning = [(name, p) for name, p in model.named_parameters() if p.requires_grad]
        # Paired once: walking through the modules takes longer than averaging.
        pairs = [(own[name], tensor) for name, tensor in (*learning, *model.named_buffers())]
        self._moving = _columns([pair for pair in pairs if pair[1].is_floating_point()])
        self._counting = _columns([pair for pair in pairs if not pair[1].is_floating_point()])

    @torch.no_grad()
    def update(self, n: int) -> None:
        """Take in the model as it now is; the first time (``n`` 0) nothing else is remembered."""
        weight = 1 - min(self.decay, (1 + n) / (10 + n)) if n else 1.0
        for average, current in zip(*self._counting, strict=True):
            average.copy_(current)
        torch._foreach_lerp_(*self._moving, weight)  # pyright: ignore[reportPrivateImportUsage]


def _columns(pairs: list[tuple[Tensor, Tensor]]) -> tuple[list[Tensor], list[Tensor]]:
    return [mine for mine, _ in pairs], [theirs for _, theirs in pairs]
