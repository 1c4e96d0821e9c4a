"""What travels between the parts: images, targets, features, queries, predictions, detections.

Torch is never imported here, so that ``Detections`` also serve where torch is not installed.
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
