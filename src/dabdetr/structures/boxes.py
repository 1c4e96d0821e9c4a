"""Operations on numpy boxes [.., 4], broadcast over leading dimensions; see ``geometry`` for torch.

Edges are (x0, y0, x1, y1); other boxes are (centre x, centre y, width, height), in the same unit.
"""

from __future__ import annotations

import numpy as np


def corners(boxes: np.ndarray) -> np.ndarray:
    """(cx, cy, w, h) → edges."""
    centre, half = boxes[..., :2], boxes[..., 2:] / 2
    return np.concatenate((centre - half, centre + half), axis=-1)


def centres(edges: np.ndarray) -> np.ndarray:
    """Edges → (cx, cy, w, h)."""
    low, high = edges[..., :2], edges[..., 2:]
    return np.concatenate(((low + high) / 2, high - low), axis=-1)


def area(edges: np.ndarray) -> np.ndarray:
    """Width times height; 0 if an edge is beyond its opposite."""
    return (edges[..., 2:] - edges[..., :2]).clip(min=0).prod(-1)


def shared_area(one: np.ndarray, other: np.ndarray) -> np.ndarray:
    """Area of the intersection."""
    low = np.maximum(one[..., :2], other[..., :2])
    high = np.minimum(one[..., 2:], other[..., 2:])
    return (high - low).clip(min=0).prod(-1)


def iou(one: np.ndarray, other: np.ndarray) -> np.ndarray:
    """Intersection over union of edges; 0 for two boxes without area."""
    shared = shared_area(one, other)
    joint = area(one) + area(other) - shared
    return np.divide(shared, joint, out=np.zeros_like(joint), where=joint > 0)
