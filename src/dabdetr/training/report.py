"""What a finished training leaves to look at, made of its last validation."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import yaml

from dabdetr.config import Config
from dabdetr.data.dataset import DetectionDataset
from dabdetr.data.views import contact_sheet, first_batch
from dabdetr.evaluation.judged import judge
from dabdetr.evaluation.result import Evaluation
from dabdetr.inference.postprocess import class_thresholds
from dabdetr.report.earlier import compare_with, read_earlier
from dabdetr.report.page import PAGE
from dabdetr.report.training import Trained
from dabdetr.report.write import write_report
from dabdetr.training.history import Row

SHOWN = 12
"""Images of the first batch."""


def write_run_report(
    folder: Path,
    config: Config,
    data: tuple[DetectionDataset, DetectionDataset],
    found: Evaluation,
    rows: Sequence[Row],
    prints: dict[str, Any],
    against: str | None = None,
) -> str:
    """Write the report of a run into its folder; a line about it.

    ``found`` is what the best weights find in the validation split, ``data`` are both splits and
    ``prints`` the fingerprint of the training data. ``against`` is what it is compared with. Where
    it cannot be written, or compared, the line says so, and the run stays as it is.
    """
    train_data, val_data = data
    about = {
        "verb": "train",
        "model": f"{config.name} ({folder.name})",
        "data": val_data.name,
        "split": val_data.split,
        "trained on": f"{len(train_data)} images, fingerprint {_digest(prints)}",
        "epochs": len(rows),
        "config": yaml.safe_dump(config.model_dump(mode="json"), sort_keys=False),
    }
    limits = class_thresholds(config.inference, val_data.names)
    trained = Trained(rows, _first_batch(train_data, config))
    lines, compared = [], None
    if against is not None:
        try:
            judged = judge(val_data, found, limits)
            compared = compare_with(read_earlier(against, val_data), val_data, found, judged)
            lines.append(compared.sentence)
        except (OSError, ValueError) as error:
            lines.append(f"not compared: {error}")
    try:
        write_report(folder, val_data, found, limits, about, trained=trained, against=compared)
    except OSError as error:
        return "\n".join((*lines, f"no report: {error}; weights and curves are in {folder}"))
    return "\n".join((*lines, f"report: {folder / PAGE}"))


def _first_batch(data: DetectionDataset, config: Config) -> Any:
    try:
        return contact_sheet(first_batch(data, config, SHOWN))
    except (OSError, ValueError):  # gone since it was trained on
        return None


def _digest(prints: dict[str, Any]) -> str:
    """Sixteen digits for a data set's fingerprint."""
    known = hashlib.blake2b(digest_size=8)
    for key, value in sorted(prints.items()):
        content = value.numpy().tobytes() if hasattr(value, "numpy") else repr(value).encode()
        known.update(key.encode() + content)
    return known.hexdigest()
