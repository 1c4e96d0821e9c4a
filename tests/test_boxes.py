"""Boxes in numpy are those of torch."""

from __future__ import annotations

import numpy as np
import torch
from torchvision.ops import box_iou

from dabdetr import geometry
from dabdetr.structures.boxes import area, centres, corners, iou, shared_area


def test_iou_by_hand() -> None:
    edges = np.float32([[0, 0, 2, 2], [1, 1, 3, 3], [5, 5, 5, 5]])
    expected = [[1, 1 / 7, 0], [1 / 7, 1, 0], [0, 0, 0]]
    np.testing.assert_allclose(iou(edges[:, None], edges), expected, atol=1e-6)
    assert shared_area(edges[0], edges[1]) == 1
    assert area(np.float32([[0, 0, 2, 3], [4, 4, 2, 2]])).tolist() == [6, 0]


def test_numpy_agrees_with_torch() -> None:
    boxes = torch.rand(2, 7, 4, generator=torch.Generator().manual_seed(0)) * 0.5 + 0.1
    edges = geometry.to_corners(boxes)
    np.testing.assert_allclose(corners(boxes.numpy()), edges, atol=1e-7)
    np.testing.assert_allclose(centres(edges.numpy()), boxes, atol=1e-7)
    one, other = edges.numpy()
    np.testing.assert_allclose(iou(one[:, None], other), box_iou(*edges), atol=1e-6)
