"""Another number of queries, or fewer decoder layers, for a model that is trained already."""

from __future__ import annotations

import copy

import numpy as np
import torch

from dabdetr.model.detector import Detector


def with_queries(
    detector: Detector, count: int | None = None, init: str | np.ndarray = "keep"
) -> Detector:
    """A copy with ``count`` queries, or the detector itself where nothing is to change.

    ``init`` says where anchors lie: 'keep', 'grid', or boxes [n, 4] (cxcywh, 0–1) whose k-means
    they are (see ``LearnedQueries.resize``).
    """
    if count is None and isinstance(init, str) and init == "keep":
        return detector
    changed = copy.deepcopy(detector)
    count = detector.config.model.queries.count if count is None else count
    changed.set_queries(count, init if isinstance(init, str) else torch.as_tensor(init))
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
