"""The detections of each decoder query over a data set, and the queries without any; no torch."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from dabdetr.evaluation.judged import Judged
from dabdetr.structures.boxes import centres, iou
from dabdetr.text import counted

OVERLAP = 0.5
"""IoU from which two detections of one class are of one object."""
CELLS = 10
"""Cells of a heat map in each direction."""


@dataclass(frozen=True)
class QueryUse:
    """One query's shown detections.

    query    decoder slot
    count    number of detections
    right    number of detections that are an object of their class
    classes  [classes] number of detections of each class
    centre   mean x and y of the boxes' centres, 0–1 of the image
    spread   standard deviation of x and y
    size     median side (root of the area), 0–1 of the image
    places   [CELLS, CELLS] number of detections with their centre in each cell of the image; rows
             from the top
    """

    query: int
    count: int
    right: int
    classes: np.ndarray
    centre: tuple[float, float]
    spread: tuple[float, float]
    size: float
    places: np.ndarray

    @property
    def entropy(self) -> float:
        """Entropy of its classes in bits; 0: always the same class."""
        share = self.classes[self.classes > 0] / max(self.count, 1)
        return float(-(share * np.log2(share)).sum()) + 0.0


@dataclass(frozen=True)
class LayerUse:
    """All queries' shown detections after one decoder layer.

    layer    counted from 1
    queries  number of queries that find something
    count    number of detections
    right    number of detections that are an object of their class
    entropy  entropy of a query's classes in bits, mean over detections; 0: one class for each query
    spread   standard deviation of a query's centres (root of the summed variances), 0–1 of the
             image, mean over detections
    duplicates  number of further detections of the same object and class
    """

    layer: int
    queries: int
    count: int
    right: int
    entropy: float
    spread: float
    duplicates: int


@dataclass(frozen=True)
class Census:
    """The detections of all queries.

    used        queries that find something, those with the most detections first
    idle        queries that find nothing
    duplicates  two queries that find the same objects, and how often; the most frequent pair first
    names       class names
    images      number of images
    layers      totals after each decoder layer; empty without a decoder
    """

    used: list[QueryUse]
    idle: list[int]
    duplicates: list[tuple[int, int, int]]
    names: tuple[str, ...]
    images: int
    layers: tuple[LayerUse, ...] = ()

    @property
    def sentence(self) -> str:
        """The result in one sentence."""
        queries = counted(len(self.used) + len(self.idle), "query", "queries")
        used, idle = (counted(len(each), "finds", "find") for each in (self.used, self.idle))
        pairs = counted(len(self.duplicates), "pair finds", "pairs find")
        same = f"; {pairs} the same object" if self.duplicates else ""
        images = counted(self.images, "image")
        return f"of {queries}, {used} something in {images} and {idle} nothing{same}"

    def to_dict(self) -> dict[str, Any]:
        """Plain values, ready for JSON."""
        return {
            "sentence": self.sentence,
            "queries": [self._row(use) for use in self.used],
            "idle": self.idle,
            "duplicates": [
                {"query": one, "other": other, "count": count}
                for one, other, count in self.duplicates
            ],
            "layers": [
                asdict(use) | {"entropy": round(use.entropy, 3), "spread": round(use.spread, 4)}
                for use in self.layers
            ],
        }

    def _row(self, use: QueryUse) -> dict[str, Any]:
        order = np.argsort(-use.classes, kind="stable")
        return {
            "query": use.query,
            "count": use.count,
            "right": use.right,
            "entropy": round(use.entropy, 3),
            "centre": [round(value, 4) for value in use.centre],
            "spread": [round(value, 4) for value in use.spread],
            "size": round(use.size, 4),
            "places": use.places.tolist(),
            "classes": {self.names[at]: int(use.classes[at]) for at in order if use.classes[at]},
        }


def census(
    judged: Sequence[Judged], queries: int, layers: Sequence[Sequence[Judged]] = ()
) -> Census:
    """The census of the shown detections of all images; ``queries`` is the number of decoder slots.

    ``layers`` are the same images judged after each decoder layer.
    """
    used, duplicates = _uses(judged)
    busy = {use.query for use in used}
    idle = [query for query in range(queries) if query not in busy]
    pairs = [(*pair, count) for pair, count in duplicates.most_common()]
    names = judged[-1].found.names if judged else ()
    by_layer = tuple(_layer_use(at + 1, each) for at, each in enumerate(layers))
    return Census(used, idle, pairs, names, len(judged), by_layer)


def _uses(judged: Sequence[Judged]) -> tuple[list[QueryUse], Counter[tuple[int, int]]]:
    """The queries that find something, the busiest first, and counts of pairs on one object."""
    columns: list[np.ndarray] = [np.zeros((0, 6))]
    duplicates: Counter[tuple[int, int]] = Counter()
    names: tuple[str, ...] = ()
    for each in judged:
        found, names = each.found, each.found.names
        height, width = found.size
        boxes = centres(found.boxes / np.array((width, height, width, height), np.float32))
        right = np.isin(np.arange(len(found)), each.of_object[each.caught])
        side = np.sqrt(boxes[:, 2:].clip(0).prod(1))
        columns.append(np.column_stack((found.queries, found.labels, right, boxes[:, :2], side)))
        same = found.labels[:, None] == found.labels
        pairs = np.triu(same & (iou(found.boxes[:, None], found.boxes) >= OVERLAP), 1)
        for one, other in zip(*np.nonzero(pairs), strict=True):
            pair = sorted((int(found.queries[one]), int(found.queries[other])))
            duplicates[pair[0], pair[1]] += 1
    rows = np.concatenate(columns)
    used = [_use(query, rows[rows[:, 0] == query], len(names)) for query in np.unique(rows[:, 0])]
    used.sort(key=lambda use: -use.count)
    return used, duplicates


def _layer_use(layer: int, judged: Sequence[Judged]) -> LayerUse:
    used, duplicates = _uses(judged)
    counts = np.array([use.count for use in used])
    count = int(counts.sum())

    def mean(values: list[float]) -> float:
        return float(counts @ np.array(values)) / count if count else 0.0

    return LayerUse(
        layer=layer,
        queries=len(used),
        count=count,
        right=sum(use.right for use in used),
        entropy=mean([use.entropy for use in used]),
        spread=mean([float(np.hypot(*use.spread)) for use in used]),
        duplicates=sum(duplicates.values()),
    )


def _use(query: float, rows: np.ndarray, classes: int) -> QueryUse:
    """The use of a query; ``rows`` hold query, label, right, centre x, centre y and side."""
    centre, spread = rows[:, 3:5].mean(0).tolist(), rows[:, 3:5].std(0).tolist()
    x, y = (rows[:, 3:5] * CELLS).astype(np.int64).clip(0, CELLS - 1).T
    places = np.bincount(y * CELLS + x, minlength=CELLS**2).reshape(CELLS, CELLS)
    return QueryUse(
        int(query),
        len(rows),
        int(rows[:, 2].sum()),
        np.bincount(rows[:, 1].astype(np.int64), minlength=classes),
        (centre[0], centre[1]),
        (spread[0], spread[1]),
        float(np.median(rows[:, 5])),
        places,
    )
