"""pytorch-lightning's Trainer, configured for a run, without its own output."""

from __future__ import annotations

import logging
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from pytorch_lightning import Callback, Trainer
from pytorch_lightning.loggers import Logger

from dabdetr.config import Training
from dabdetr.training.checkpoint_file import SealedCheckpointIO
from dabdetr.training.distributed import World

ENGINE_PRECISION: dict[str, Any] = {"fp32": "32-true", "bf16": "bf16-mixed", "fp16": "16-mixed"}

NOISE = (
    ".*treespec, LeafSpec.*",
    ".*GPU available but not used.*",
    r"Found \d+ module\(s\) in eval mode",  # frozen stages are in eval mode on purpose
    "Grad strides do not match bucket view strides",  # of 1×1 convolutions in channels_last
)
"""Warnings by or about Lightning that do not apply here."""


@contextmanager
def quiet_engine() -> Iterator[None]:
    """Suppress pytorch-lightning's banners and the warnings in ``NOISE``."""
    loggers = [logging.getLogger(n) for n in ("pytorch_lightning", "lightning_fabric")]
    before = [logger.level for logger in loggers]
    with warnings.catch_warnings():
        for message in NOISE:
            warnings.filterwarnings("ignore", message)
        for logger in loggers:
            logger.setLevel(logging.ERROR)
        try:
            yield
        finally:
            for logger, level in zip(loggers, before, strict=True):
                logger.setLevel(level)


def make_engine(
    training: Training,
    accumulate: int,
    world: World,
    callbacks: Sequence[Callback],
    loggers: Sequence[Logger],
    folder: Path,
) -> Trainer:
    """pytorch-lightning's Trainer without the output that our callbacks replace."""
    place, many = world.device, world.size > 1
    gpu = place.type == "cuda"
    return Trainer(
        accelerator="gpu" if gpu else place.type,
        devices=[place.index or 0] if gpu and not many else world.local_size,
        num_nodes=world.size // world.local_size,
        strategy="ddp" if many else "auto",
        precision=ENGINE_PRECISION[training.precision],
        max_epochs=training.epochs,
        accumulate_grad_batches=accumulate,
        callbacks=list(callbacks),
        reload_dataloaders_every_n_epochs=1,
        limit_val_batches=0,
        num_sanity_val_steps=0,
        logger=list(loggers) or False,
        log_every_n_steps=1,
        plugins=[SealedCheckpointIO()],
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        use_distributed_sampler=False,
        default_root_dir=folder,
    )
