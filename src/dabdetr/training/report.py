"""The report of a finished training, from its last validation."""

from __future__ import annotations

import hashlib
from typing import Any

import numpy as np
import torch
import yaml

from dabdetr.data.augmentation import Transform
from dabdetr.data.dataset import DetectionDataset, Subset, evenly
from dabdetr.data.views import contact_sheet, first_batch
from dabdetr.evaluation.error_report import ErrorReport
from dabdetr.evaluation.errors import evaluate_with_errors
from dabdetr.evaluation.judged import judge
from dabdetr.evaluation.result import Evaluation
from dabdetr.explain.gallery import write_pages
from dabdetr.inference.opening import torch_runtime
from dabdetr.inference.postprocess import class_thresholds
from dabdetr.report.earlier import compare_with, read_earlier
from dabdetr.report.page import PAGE
from dabdetr.report.training import TrainingRecord
from dabdetr.report.write import write_report
from dabdetr.text import counted
from dabdetr.training.planning import EXPLAINED
from dabdetr.training.run import Run

SHOWN = 12
"""Images of the first batch that are drawn."""


def write_run_report(
    run: Run,
    data: tuple[DetectionDataset, DetectionDataset],
    prints: dict[str, Any],
    found: Evaluation,
    transform: Transform | None,
    device: torch.device,
    against: str | None = None,
) -> str:
    """Write the report of a run into its folder; returns a line about it.

    data       train and val split; ``prints`` is the fingerprint of the train split
    found      the evaluation of the run's weights on the val split; ``run.config`` is theirs
    transform  the user's own augmentation
    device     where the causes of errors are computed
    against    an earlier run or report to compare with

    Where the report cannot be written, or compared, the line says so, and the run stays as it is.
    """
    config, (train_data, val_data) = run.config, data
    about = {
        "verb": "train",
        "model": f"{config.name} ({run.folder.name})",
        "data": val_data.name,
        "split": val_data.split,
        "trained on": f"{counted(len(train_data), 'image')}, fingerprint {_digest(prints)}",
        "epochs": len(run.rows),
        "config": yaml.safe_dump(config.model_dump(mode="json"), sort_keys=False),
    }
    limits = class_thresholds(config.inference, val_data.names)
    try:
        batch = contact_sheet(first_batch(train_data, config, SHOWN, transform))
    except (OSError, ValueError):  # removed since the training
        batch = None
    trained = TrainingRecord(run.rows, batch)
    lines, compared = [], None
    if against is not None:
        try:
            judged = judge(val_data, found, limits)
            compared = compare_with(read_earlier(against, val_data), val_data, found, judged)
            lines.append(compared.sentence)
        except (OSError, ValueError) as error:
            lines.append(f"not compared: {error}")
    try:
        why, links = _why(run, val_data, limits, device)
        lines += [f"advice: {sentence}" for sentence in why.summary["advice"]]
        parts = {"trained": trained, "against": compared}
        write_report(run.folder, val_data, found, limits, about, why, links, **parts)
    except OSError as error:
        return "\n".join((*lines, f"no report: {error}; weights and curves are in {run.folder}"))
    return "\n".join((*lines, f"report: {run.folder / PAGE}"))


def _why(
    run: Run, data: DetectionDataset, limits: np.ndarray, device: torch.device
) -> tuple[ErrorReport, dict[int, str]]:
    """The causes of errors, and the addresses of explain pages by error index."""
    places = evenly(len(data), EXPLAINED)
    some = Subset(data, places)
    runtime = torch_runtime(run.weights, device=device)
    diagnosed = evaluate_with_errors(runtime, some, limits, run.config.training.batch)
    why = ErrorReport.of(some, diagnosed, run.config, places)
    return why, write_pages(runtime, why, run.folder)


def _digest(prints: dict[str, Any]) -> str:
    """Sixteen digits that identify a data set's fingerprint."""
    known = hashlib.blake2b(digest_size=8)
    for key, value in sorted(prints.items()):
        content = value.numpy().tobytes() if hasattr(value, "numpy") else repr(value).encode()
        known.update(key.encode() + content)
    return known.hexdigest()
