"""Reading of an earlier report, or of any detector's saved detections, to compare with."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
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
from dabdetr.structures import Detections
from dabdetr.text import parse_json

NUMBERS, DETECTIONS = "report.json", "detections.json"


def detections_of(place: str | Path) -> Path:
    """The detections file of a run folder, of one of a report's files, or ``place`` itself.

    FileNotFoundError if there is none.
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


def check_earlier(place: str | Path) -> None:
    """Raise if ``place`` has no detections, or they are not JSON; they may be of any data set."""
    path = detections_of(place)
    parse_json(read_bytes(path), str(path))


@dataclass(frozen=True)
class Earlier:
    """The detections to compare with, one item for each image of the data set.

    name    name in the comparison
    limits  [classes] thresholds of the earlier report; None: those with the best F1 are used
    """

    name: str
    detections: list[Detections]
    limits: np.ndarray | None


def read_earlier(place: str | Path, data: DetectionDataset) -> Earlier:
    """The detections at ``place``; ValueError if they are of other images than ``data``."""
    path = detections_of(place)
    detections, _ = read_results(path, data)
    limits = _limits(path.with_name(NUMBERS), data) if path.name == DETECTIONS else None
    name = str(path.parent if path.name == DETECTIONS else path)
    return Earlier(name, detections, limits)


def compare_with(
    earlier: Earlier, data: DetectionDataset, found: Evaluation, judged: Sequence[Judged]
) -> Comparison:
    """``found`` compared with the earlier detections on the same data."""
    other = score(data, earlier.detections, found.most)
    limits = default_limits(data, other) if earlier.limits is None else earlier.limits
    return compare(data, found, judged, other, judge(data, other, limits), earlier.name)


def _limits(path: Path, data: DetectionDataset) -> np.ndarray | None:
    """The thresholds [classes] of a report on the same data; None if there is no such file."""
    if not path.is_file():
        return None
    tree = parse_json(read_bytes(path), str(path))
    try:
        print_, rows = tree["about"]["fingerprint"], tree["per_class"]
        limits = {row["name"]: float(row["threshold"]) for row in rows}
    except (TypeError, LookupError, ValueError):
        raise ValueError(f"{path} is not a report of dabdetr; give another one") from None
    if print_ != fingerprint(data) or set(limits) != set(data.names):
        raise ValueError(
            f"the report in {path.parent} is of other images, labels or classes than {data.name} "
            f"{data.split}: evaluate both on the same data"
        )
    return np.array([limits[name] for name in data.names], np.float32)
