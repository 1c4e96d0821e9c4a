"""Removal of queries and layers from trained weights, as far as AP allows it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

from dabdetr.checkpoints.resize import with_layers, with_only, with_queries
from dabdetr.data.dataset import DetectionDataset
from dabdetr.data.loader import pad
from dabdetr.evaluation.against import Comparison, compare
from dabdetr.evaluation.evaluate import evaluate
from dabdetr.evaluation.judged import judge
from dabdetr.evaluation.per_layer import evaluate_layers
from dabdetr.evaluation.result import Evaluation
from dabdetr.inference.acceleration import seconds_in_turn
from dabdetr.inference.postprocess import class_thresholds
from dabdetr.inference.torch_runtime import TorchRuntime
from dabdetr.model.detector import Detector
from dabdetr.model.queries import LearnedQueries
from dabdetr.text import counted

WITHIN = 0.001
"""AP (0–1) that may be lost: 0.1 points."""
TURNS = 15
"""Timed forward passes of each model; the two models alternate."""
FASTER = 1.05
"""Ratio of times from which the smaller model is faster; two runs of one model differ by less."""


@dataclass(frozen=True)
class Pruned:
    """A smaller detector, and the AP that it loses and the time that it gains.

    comparison  of the pruned model with the whole one, on ``images`` images of the data
    queries, layers  number before and after
    milliseconds  median time of one image before and after
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
    def times_as_fast(self) -> float:
        """Time of one image before, divided by that after."""
        return self.milliseconds[0] / self.milliseconds[1]

    @property
    def faster(self) -> bool:
        """Whether time is gained, and not only queries removed."""
        return self.times_as_fast >= FASTER

    @property
    def sentence(self) -> str:
        """What was removed, and what that costs in AP."""
        ap = self.comparison.numbers["AP"]
        low, high = ap.interval
        return (
            f"queries {self.queries[0]} → {self.queries[1]}, layers {self.layers[0]} → "
            f"{self.layers[1]}: AP {ap.other:.4f} → {ap.this:.4f} (95 % of paired resamples: "
            f"{low:+.4f} to {high:+.4f})"
        )

    @property
    def gain(self) -> str:
        """The time gained, in one sentence."""
        before, after = self.milliseconds
        times = f"{before:.1f} → {after:.1f} ms an image"
        if self.faster:
            return f"{times}: {self.times_as_fast:.2f} times as fast"
        return (
            f"{times}: no time is gained, as the same model differs by as much from run to run; "
            "keep the whole model, or allow more with --within"
        )

    def certificate(self) -> dict[str, Any]:
        """Plain values: the sizes before and after, and the measurements."""
        ap = self.comparison.numbers["AP"]
        return {
            "queries": list(self.queries),
            "layers": list(self.layers),
            "milliseconds": [round(value, 3) for value in self.milliseconds],
            "times_as_fast": round(self.times_as_fast, 3),
            "faster": self.faster,
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
    """``detector`` with the fewest layers, then the fewest queries, for a loss of ``within`` AP.

    Learned queries are removed in the order of their right detections, weighted by score, the least
    useful first; of queries proposed by the encoder, those that it ranks last. AP is measured on
    the same images that the choice is made on; evaluate on another split for an unbiased number.
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
    while low < high:  # bisection for the fewest queries that keep AP
        count = (low + high) // 2
        if order is None:
            smaller = with_queries(layered, count)
        else:
            smaller = with_only(layered, order[:count].tolist())
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
        _times(detector, best, data, device),
    )


def _order(detector: Detector, found: Evaluation, data: DetectionDataset) -> np.ndarray | None:
    """Learned queries, the most useful first; None if queries are the encoder's proposals."""
    if not isinstance(detector.queries, LearnedQueries):
        return None
    count = detector.config.model.queries.count
    usefulness = np.zeros(count)
    limits = np.zeros(len(data.names), np.float32)
    for each in judge(data, found, limits):
        rows = each.of_object[each.caught]
        np.add.at(usefulness, each.found.queries[rows] % count, each.found.scores[rows])
    return np.argsort(-usefulness, kind="stable")


def _times(
    before: Detector, after: Detector, data: DetectionDataset, device: str
) -> tuple[float, float]:
    """Median milliseconds of the first image for both models, measured in alternation."""
    one, other = (TorchRuntime(each, device) for each in (before, after))
    images = pad([one.prepare(data.image(0))]).to(one.device)
    first, second = seconds_in_turn(one.forward, other.forward, images, rounds=TURNS)
    return 1e3 * first, 1e3 * second
