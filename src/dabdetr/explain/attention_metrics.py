"""Metrics of how concentrated attention is on the object found, over a data set."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import torch

from dabdetr.data.dataset import DetectionDataset
from dabdetr.evaluation.per_layer import matched
from dabdetr.explain.attention import centres, extent, share_inside
from dabdetr.explain.explanation import explain
from dabdetr.inference.opening import torch_runtime
from dabdetr.inference.torch_runtime import TorchRuntime
from dabdetr.model.detector import Detector
from dabdetr.structures.boxes import corners


@dataclass(frozen=True)
class Concentration:
    """Attention of the queries that found an object, compared with the object's box.

    model    the member's name
    part     the part of attention measured: one of ``PARTS``
    layer    the decoder layer, counted from 1
    objects  number of objects in the data, without crowds
    found    number of objects with a query whose last box has IoU ``least_iou`` or more; the
             following are means over these
    inside   share of the weight inside the object's box
    by_chance  share of the image that the box covers: ``inside`` for uniform attention
    centres  number of peaks of a head's map that are at least half as high as its highest one
    width_fit, height_fit  correlation of the logarithms of the map's extent and the box's side: 1
             if maps are as wide as their objects, 0 if size makes no difference
    """

    model: str
    part: str
    layer: int
    objects: int
    found: int
    inside: float
    by_chance: float
    centres: float
    width_fit: float
    height_fit: float

    def to_dict(self) -> dict[str, Any]:
        """Plain values, ready for JSON."""
        return asdict(self)


def measure(
    model: Detector | TorchRuntime | Any,
    data: DetectionDataset,
    part: str = "all",
    layer: int = -1,
    least_iou: float = 0.5,
    most: int | None = None,
) -> Concentration:
    """The metrics of decoder layer ``layer`` (0 is the first, −1 the last) on ``data``.

    On the first ``most`` images if given. NaN if no object was found. ``model`` is a ``Detector``,
    weights, or a ``Predictor`` of either.
    """
    runtime = torch_runtime(model)
    rows, objects, depth = [], 0, 0
    for index in range(min(len(data), len(data) if most is None else most)):
        record = data.record(index)
        boxes = record.boxes[~record.crowd]
        objects += len(boxes)
        if not len(boxes):
            continue
        (explanation,) = explain(runtime, data.image(index))
        trace = explanation.trace
        depth = range(trace.layers)[layer] + 1
        scale = np.array([record.width, record.height] * 2, np.float32)
        for query, box in finders(trace.boxes[-1], boxes / scale, least_iou):
            rows.append(_row(trace.attention[layer].maps(query, part), box))
    table = np.array(rows, np.float64).reshape(-1, 7)
    inside, chance, peaks, *sides = table.T
    return Concentration(
        model=runtime.config.name,
        part=part,
        layer=depth,
        objects=objects,
        found=len(table),
        inside=_mean(inside),
        by_chance=_mean(chance),
        centres=_mean(peaks),
        width_fit=_correlation(sides[0], sides[1]),
        height_fit=_correlation(sides[2], sides[3]),
    )


def finders(
    predicted: np.ndarray, objects: np.ndarray, least_iou: float
) -> list[tuple[int, np.ndarray]]:
    """The query matched to each object that was found, and the object's box.

    ``predicted`` [queries, 4] cxcywh, ``objects`` [n, 4] x0 y0 x1 y1 in the same unit; the matching
    is one for one.
    """
    queries, rows, overlaps = matched(*map(torch.from_numpy, (corners(predicted), objects)))
    good = overlaps >= least_iou
    return [(int(q), objects[n]) for q, n in zip(queries[good], rows[good], strict=True)]


def _row(maps: np.ndarray, box: np.ndarray) -> list[float]:
    """inside, by_chance, centres, then the map's extent and the box's side along x and along y."""
    mean, (x0, y0, x1, y1) = maps.mean(0), box
    width, height = extent(mean)
    area = (x1 - x0) * (y1 - y0)
    peaks = float(np.mean([centres(each) for each in maps]))
    return [share_inside(mean, box), area, peaks, width, x1 - x0, height, y1 - y0]


def _mean(values: np.ndarray) -> float:
    return float(values.mean()) if len(values) else float("nan")


def _correlation(a: np.ndarray, b: np.ndarray) -> float:
    """Of the logarithms; NaN if it is undefined."""
    a, b = np.log(a.clip(1e-6)), np.log(b.clip(1e-6))
    if len(a) < 2 or not a.std() or not b.std():
        return float("nan")
    return float(np.corrcoef(a, b)[0, 1])
