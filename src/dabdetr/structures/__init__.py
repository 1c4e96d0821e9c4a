"""Data structures shared by all parts: images, targets, features, queries, predictions, detections.

Torch is not imported here, so that ``Detections`` work without it.
"""

from dabdetr.structures.answers import Answers
from dabdetr.structures.detections import Detections, Results
from dabdetr.structures.tensors import (
    Features,
    HeadSamples,
    Images,
    Memory,
    Predictions,
    Queries,
    QueryGroup,
    Questions,
    Targets,
)

__all__ = [
    "Answers",
    "Detections",
    "Features",
    "HeadSamples",
    "Images",
    "Memory",
    "Predictions",
    "Queries",
    "QueryGroup",
    "Questions",
    "Results",
    "Targets",
]
