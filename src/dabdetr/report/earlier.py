"""An earlier report, or saved detections of any detector, to compare with."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from dabdetr.data.dataset import DetectionDataset
from dabdetr.data.textfiles import read_bytes
from dabdetr.evaluation.against import Comparison, compare
from dabdetr.evaluation.evaluate import score
from dabdetr.evaluation.judged import Judged, default_limits, judge
from dabdetr.evaluation.result import Evaluation
from dabdetr.evaluation.saved import read_results
from dabdetr.report.contents import fingerprint
from dabdetr.report.page import PAGE
from dabdetr.text import parse_json

NUMBERS, DETECTIONS = "report.json", "detections.json"


def detections_of(place: str | Path) -> Path:
    """The detections of a run folder, of one of a report's files, or ``place`` itself.

    FileNotFoundError where there are none.
    """
    path = Path(place)
    folder = path.parent if path.name in (PAGE, NUMBERS) else path
    if path.is_dir() or folder != path:
        found = folder / DETECTIONS
        if not found.is_file():
            raise FileNotFoundError(
                f"{folder} holds no report to compare with: it has no {DETECTIONS}; give a run "
                "folder of val or train, or a COCO results file"
            )
        return found
    if not path.is_file():
        raise FileNotFoundError(f"there is no report or results file {path} to compare with")
    return path


def compare_with(
    place: str | Path, data: DetectionDataset, found: Evaluation, judged: Sequence[Judged]
) -> Comparison:
    """``found`` against what ``place`` holds; ValueError where that is of other images.

    A report's thresholds are those that it was made with; of other detections, that of the best F1.
    """
    path = detections_of(place)
    detections, _ = read_results(path, data)
    other = score(data, detections, found.most)
    limits = _limits(path.with_name(NUMBERS), data) if path.name == DETECTIONS else None
    if limits is None:
        limits = default_limits(data, other)
    name = str(path.parent if path.name == DETECTIONS else path)
    return compare(data, found, judged, other, judge(data, other, limits), name)


def _limits(path: Path, data: DetectionDataset) -> np.ndarray | None:
    """The thresholds of a report of the same data; None where there is no such file."""
    if not path.is_file():
        return None
    tree = parse_json(read_bytes(path), str(path))
    try:
        print_, rows = tree["about"]["fingerprint"], tree["per_class"]
        limits = {row["name"]: float(row["threshold"]) for row in rows}
    except (TypeError, LookupError, ValueError):
        raise ValueError(f"{path} is no report of dabdetr; give another one") from None
    if print_ != fingerprint(data) or set(limits) != set(data.names):
        raise ValueError(
            f"the report in {path.parent} is of other images, labels or classes than {data.name} "
            f"{data.split}: evaluate both on the same data"
        )
    return np.array([limits[name] for name in data.names], np.float32)
