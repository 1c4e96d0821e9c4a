"""Fewer queries and layers for trained weights, as far as AP allows it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
import torch

from dabdetr.checkpoints.resize import with_layers, with_only, with_queries
from dabdetr.data.dataset import DetectionDataset
from dabdetr.data.loader import pad
from dabdetr.evaluation.against import Comparison, compare
from dabdetr.evaluation.evaluate import evaluate
from dabdetr.evaluation.judged import judge
from dabdetr.evaluation.per_layer import evaluate_layers
from dabdetr.evaluation.result import Evaluation
from dabdetr.inference.postprocess import class_thresholds
from dabdetr.inference.torch_runtime import TorchRuntime
from dabdetr.measure import seconds
from dabdetr.model.detector import Detector
from dabdetr.model.queries import LearnedQueries
from dabdetr.text import counted

WITHIN = 0.001
"""AP (0–1) that may be lost: 0.1 points."""
TURNS = 15
"""Passes that are timed of each model, in turn."""


@dataclass(frozen=True)
class Pruned:
    """A smaller detector, and the certificate of what it costs and gains.

    comparison  of the pruned one with the whole one, on ``images`` of the data
    queries, layers  before and after
    milliseconds  of one image, before and after: medians of turns
    """

    detector: Detector
    comparison: Comparison
    images: int
    queries: tuple[int, int]
    layers: tuple[int, int]
    milliseconds: tuple[float, float]

    @property
    def smaller(self) -> bool:
        """Whether anything was removed."""
        return self.queries[1] < self.queries[0] or self.layers[1] < self.layers[0]

    @property
    def sentence(self) -> str:
        """What came out."""
        before, after = self.milliseconds
        ap = self.comparison.numbers["AP"]
        low, high = ap.interval
        return (
            f"queries {self.queries[0]} → {self.queries[1]}, layers {self.layers[0]} → "
            f"{self.layers[1]}: {before:.1f} → {after:.1f} ms an image, AP {ap.other:.4f} → "
            f"{ap.this:.4f} (95 % of paired resamples: {low:+.4f} to {high:+.4f})"
        )

    def certificate(self) -> dict[str, Any]:
        """Plain values: what was kept and what it was measured on."""
        ap = self.comparison.numbers["AP"]
        return {
            "queries": list(self.queries),
            "layers": list(self.layers),
            "milliseconds": [round(value, 3) for value in self.milliseconds],
            "AP": [round(ap.other, 5), round(ap.this, 5)],
            "interval": [round(value, 5) for value in ap.interval],
            "images": self.images,
            "won": len(self.comparison.won),
            "lost": len(self.comparison.lost),
        }


def prune(
    detector: Detector,
    data: DetectionDataset,
    within: float = WITHIN,
    batch: int = 4,
    device: str = "auto",
    tell: Callable[[str], None] = lambda _: None,
) -> Pruned:
    """The fewest layers, then the fewest queries, with which AP on ``data`` is not below that of
    ``detector`` by more than ``within``.

    Learned queries go in the order of how seldom they are right about an object; where the encoder
    proposes queries, those that it ranks last. What is chosen on these images is measured on them:
    another split tells how it does elsewhere.
    """
    detector.eval()
    options = {"batch": batch, "device": device}
    whole = evaluate(detector, data, **options)
    floor = whole.ap - within
    best, found = detector, whole
    scores = evaluate_layers(TorchRuntime(detector, device), data, batch=batch).rows
    enough = next((row.layer for row in scores if floor <= row.AP), len(scores))
    if enough < len(scores):
        smaller = with_layers(detector, enough)
        result = evaluate(smaller, data, **options)
        if result.ap >= floor:
            best, found = smaller, result
            tell(f"{counted(enough, 'layer')}: AP {result.ap:.4f}")
    order = _order(best, found, data)
    low, high, layered = 1, best.config.model.queries.count, best
    while low < high:  # the fewest that still do
        count = (low + high) // 2
        smaller = _with(layered, order, count)
        result = evaluate(smaller, data, **options)
        tell(f"{counted(count, 'query', 'queries')}: AP {result.ap:.4f}")
        if result.ap >= floor:
            best, found, high = smaller, result, count
        else:
            low = count + 1
    sides = [
        judge(data, each, class_thresholds(detector.config.inference, data.names))
        for each in (found, whole)
    ]
    comparison = compare(data, found, sides[0], whole, sides[1], "the whole model")
    before, after = detector.config.model, best.config.model
    return Pruned(
        best,
        comparison,
        len(data),
        (before.queries.count, after.queries.count),
        (before.decoder.layers, after.decoder.layers),
        _paces(detector, best, data, device),
    )


def _order(detector: Detector, found: Evaluation, data: DetectionDataset) -> np.ndarray | None:
    """Anchors, the most useful first; None where queries are the encoder's proposals."""
    if not isinstance(detector.queries, LearnedQueries):
        return None
    count = detector.config.model.queries.count
    worth = np.zeros(count)
    limits = np.zeros(len(data.names), np.float32)
    for each in judge(data, found, limits):
        rows = each.of_object[each.caught]
        np.add.at(worth, each.found.queries[rows] % count, each.found.scores[rows])
    return np.argsort(-worth, kind="stable")


def _with(detector: Detector, order: np.ndarray | None, count: int) -> Detector:
    if order is None:
        return with_queries(detector, count)
    return with_only(detector, order[:count].tolist())


def _paces(
    before: Detector, after: Detector, data: DetectionDataset, device: str
) -> tuple[float, float]:
    """Milliseconds of the first image, medians of turns one after the other."""
    runtimes = [TorchRuntime(each, device) for each in (before, after)]
    pixels = [pad([each.prepare(data.image(0))]).to(each.device) for each in runtimes]
    taken: tuple[list[float], list[float]] = ([], [])
    with torch.no_grad():
        for _ in range(TURNS + 2):
            for runtime, images, times in zip(runtimes, pixels, taken, strict=True):
                forward = partial(runtime.forward, images)
                times.append(1e3 * seconds(lambda run=forward: run().boxes.cpu()))
    middles = [float(np.median(times[2:])) for times in taken]
    return middles[0], middles[1]
