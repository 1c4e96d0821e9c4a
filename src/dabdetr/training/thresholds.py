"""Thresholds and calibration of a finished training, stored in its weights."""

from __future__ import annotations

from pathlib import Path

import torch

from dabdetr.checkpoints.native import load_model, save_model
from dabdetr.checkpoints.reading import read
from dabdetr.config import Config
from dabdetr.data.dataset import DetectionDataset
from dabdetr.evaluation.evaluate import evaluate
from dabdetr.evaluation.operating_point import with_operating_point
from dabdetr.evaluation.result import Evaluation


def choose_thresholds(
    weights: Path, data: DetectionDataset, device: torch.device, batch: int
) -> tuple[str, Config, Evaluation]:
    """Store thresholds and calibration for ``data`` in the weights; return a line about them.

    Also returns the config of the weights, and their evaluation with it.
    """
    detector, about = load_model(weights).model, read(weights).metadata
    detector.config = detector.config.override(["inference.calibration=null"])
    found = evaluate(detector, data, device=device, batch=batch)
    try:
        chosen = with_operating_point(detector.config, data, found)
    except ValueError as error:
        line = f"the threshold stays at {detector.config.inference.conf}: {error}"
        return line, detector.config, found
    detector.config = chosen.config
    save_model(weights, detector, metadata={k: about[k] for k in ("epoch", "AP") if k in about})
    return str(chosen), chosen.config, chosen.calibrated(found)
