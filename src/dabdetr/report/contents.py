"""The whole content of a report as plain values, from which page, figures and tables are made."""

from __future__ import annotations

import hashlib
import platform
import sys
from datetime import UTC, datetime
from typing import Any

import numpy as np

from dabdetr.data.dataset import DetectionDataset
from dabdetr.evaluation import bootstrap
from dabdetr.evaluation.breakdown import breakdowns
from dabdetr.evaluation.coco_ap import Boxes, right_at
from dabdetr.evaluation.curves import class_curve, confusion, reliability
from dabdetr.evaluation.evaluate import columns
from dabdetr.evaluation.judged import Judged, judge
from dabdetr.evaluation.result import Evaluation
from dabdetr.measure import machine
from dabdetr.packages import installed_versions

PACKAGES = ("dabdetr", "torch", "torchvision", "timm", "numpy", "onnxruntime", "openvino")
WORST, BEST = 24, 12
"""The most images that the page shows as worst and as best."""


def contents(
    data: DetectionDataset,
    found: Evaluation,
    limits: np.ndarray,
    about: dict[str, Any],
    judged: list[Judged] | None = None,
) -> dict[str, Any]:
    """The report's tree; ``about`` describes the model and the run, and comes first."""
    judged = judge(data, found, limits) if judged is None else judged
    truth, boxes, class_rows = columns(data, found.detections)
    intervals = _intervals(truth, boxes, len(data), class_rows, found.most)
    curves, calibration = _curves(data, truth, boxes, class_rows)
    return {
        "about": {**about, **environment(data)},
        "numbers": found.to_dict()["numbers"] | {"interval": intervals[0]},
        "notes": list(found.notes),
        "per_class": _per_class(data, found, limits, intervals[1], curves),
        "curves": curves,
        "confusion": _confusion(data, judged),
        "calibration": calibration,
        "breakdown": breakdowns(truth, boxes, len(class_rows), found.most),
        **_images(data, judged),
    }


def environment(data: DetectionDataset) -> dict[str, Any]:
    """The data's fingerprint, versions, the machine and the time."""
    records = (data.record(index) for index in range(len(data)))
    return {
        "images": len(data),
        "objects": sum(int((~record.crowd).sum()) for record in records),
        "fingerprint": fingerprint(data),
        "versions": {"python": platform.python_version(), **installed_versions(PACKAGES)},
        "machine": machine(),
        "command": " ".join(["dabdetr", *sys.argv[1:]]) if "dabdetr" in sys.argv[0] else None,
        "time": datetime.now(UTC).isoformat(timespec="seconds"),
    }


def fingerprint(data: DetectionDataset) -> str:
    """A hash of the images' ids and sizes, the objects and the classes; sixteen hex digits."""
    digest = hashlib.blake2b("\n".join(data.names).encode(), digest_size=8)
    for index in range(len(data)):
        record = data.record(index)
        size = f"{record.image_id} {record.width} {record.height}"
        digest.update(size.encode(errors="surrogatepass") + record.boxes.astype("<f4").tobytes())
        digest.update(record.labels.astype("<i8").tobytes() + record.crowd.tobytes())
    return digest.hexdigest()


def _intervals(
    truth: Boxes, found: Boxes, images: int, class_rows: np.ndarray, most: int
) -> tuple[dict[str, Any], list[list[float] | None]]:
    """The intervals of AP and AP50 over all classes, and of each class's AP in the data's order."""
    matched = bootstrap.match(truth, found, images, len(class_rows), most)
    values = bootstrap.average_precision(matched, bootstrap.resamples(images))
    whole = {
        "AP": bootstrap.interval(bootstrap.class_means(values)),
        "AP50": bootstrap.interval(bootstrap.class_means(values[..., :1])),
        "level": bootstrap.LEVEL,
        "resamples": bootstrap.RESAMPLES,
    }
    return whole, [bootstrap.interval(values[:, place].mean(-1)) for place in class_rows]


def _curves(
    data: DetectionDataset, truth: Boxes, found: Boxes, class_rows: np.ndarray
) -> tuple[dict[str, Any], dict[str, Any]]:
    """Each class's curves with its best point, and the calibration of all scores."""
    right, counted = right_at(truth, found, len(class_rows))
    curves = {}
    for name, label in zip(data.names, class_rows, strict=True):
        rows = counted & (found.label == label)
        objects = int(((truth.label == label) & ~truth.crowd).sum())
        curve = class_curve(found.score[rows], right[rows], objects)
        point = None
        if curve.best is not None:
            values = (curve.scores, curve.precision, curve.recall, curve.f1)
            keys = ("threshold", "precision", "recall", "f1")
            point = {key: float(each[curve.best]) for key, each in zip(keys, values, strict=True)}
        curves[name] = {**curve.thinned(), "best": point}
    return curves, reliability(found.score[counted], right[counted])


def _per_class(
    data: DetectionDataset,
    found: Evaluation,
    limits: np.ndarray,
    intervals: list[list[float] | None],
    curves: dict[str, Any],
) -> list[dict[str, Any]]:
    rows = []
    plain = found.to_dict()["per_class"]
    for name, limit, interval in zip(data.names, limits.tolist(), intervals, strict=True):
        best = curves[name]["best"]
        rows.append(
            {
                "name": name,
                **plain[name],
                "interval": interval,
                "threshold": round(limit, 4),
                "best_threshold": best and best["threshold"],
                "best_f1": best and best["f1"],
            }
        )
    return rows


def _confusion(data: DetectionDataset, judged: list[Judged]) -> dict[str, Any]:
    """The confusion matrix: rows are true classes, columns found ones; background is the last."""
    background, pairs = len(data.names), []
    for each in judged:
        hit = each.of_object >= 0
        pairs.append((each.labels[hit], each.found.labels[each.of_object[hit]]))
        missed, unpaired = each.labels[~hit], each.found.labels[each.of_found < 0]
        pairs.append((missed, np.full(len(missed), background)))
        pairs.append((np.full(len(unpaired), background), unpaired))
    matrix = confusion(pairs, background)
    return {"names": [*data.names, "background"], "matrix": matrix.tolist()}


def _images(data: DetectionDataset, judged: list[Judged]) -> dict[str, Any]:
    """Every image's counts and objects, and the images that the page shows as worst and best."""
    rows, objects = [], []
    for index, each in enumerate(judged):
        record = data.record(index)
        rows.append(
            {
                "file": record.file,
                "image_id": record.image_id,
                "objects": len(each.labels),
                "found": int(each.caught.sum()),
                "missed": each.missed,
                "false": each.false,
            }
        )
        for label, box, detection, caught in zip(
            each.labels.tolist(), each.boxes, each.of_object, each.caught, strict=True
        ):
            score = round(float(each.found.scores[detection]), 4) if caught else None
            name = data.names[label]
            corners = [round(float(edge), 1) for edge in box]
            objects.append({"image": index, "name": name, "box": corners, "score": score})
    order = sorted(range(len(rows)), key=lambda at: -(rows[at]["missed"] + rows[at]["false"]))
    worst = [at for at in order if rows[at]["missed"] + rows[at]["false"]][:WORST]
    rest = [at for at in order if at not in set(worst)]
    # best: the fewest errors; of equals, the most objects
    rest.sort(key=lambda at: (rows[at]["missed"] + rows[at]["false"], -rows[at]["objects"]))
    return {"images": rows, "objects": objects, "worst": worst, "best": rest[:BEST]}
