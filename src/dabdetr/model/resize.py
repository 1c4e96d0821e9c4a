"""Another number of queries, or fewer decoder layers, for a model that is trained already."""

from __future__ import annotations

import copy
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from dabdetr.data.dataset import open_data
from dabdetr.model.detector import Detector

MOST_BOXES = 20_000
"""Boxes that k-means looks at; of more, an even share."""


def with_queries(detector: Detector, count: int | None = None, init: str = "keep") -> Detector:
    """A copy with ``count`` queries, or the detector itself where nothing is to change.

    ``init`` says where anchors lie: 'keep', 'grid', or 'kmeans:DATA', the k-means of the boxes in
    DATA's train split (see ``LearnedQueries.resize``).
    """
    if count is None and init == "keep":
        return detector
    kind, _, data = init.partition(":")
    if init not in ("keep", "grid") and not (kind == "kmeans" and data):
        raise ValueError(
            f"the anchors of queries come by keep, grid or kmeans:DATA; got {init!r}; DATA is a "
            "data folder, or scenes"
        )
    changed = copy.deepcopy(detector)
    count = detector.config.model.queries.count if count is None else count
    changed.set_queries(count, training_boxes(data) if data else init)
    return changed


def with_layers(detector: Detector, layers: int | None = None) -> Detector:
    """A copy that ends after its first ``layers`` decoder layers, or the detector itself if None.

    It answers what those layers of the whole detector do, and can be saved like any other.
    """
    if layers is None:
        return detector
    there = detector.config.model.decoder.layers
    if not 1 <= layers <= there:
        raise ValueError(
            f"the model has {there} decoder layers; got {layers}; give a number from 1 to {there}"
        )
    changed = copy.deepcopy(detector)
    changed.decoder.shorten(layers)
    changed.config = changed.config.override([f"model.decoder.layers={layers}"])
    return changed


def training_boxes(data: str | Path) -> Tensor:
    """[n, 4] float32, cxcywh, 0–1: the boxes of a data set's train split, crowds left out."""
    split, parts = open_data(data, "train"), []
    for index in range(len(split)):
        record = split.record(index)
        corners = record.boxes[~record.crowd] / np.tile((record.width, record.height), 2)
        sides = corners[:, 2:] - corners[:, :2]
        parts.append(np.concatenate((corners[:, :2] + sides / 2, sides), axis=1))
    boxes = np.concatenate(parts)
    return torch.as_tensor(boxes[:: len(boxes) // MOST_BOXES + 1], dtype=torch.float32)
