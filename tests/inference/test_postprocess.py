"""Top-k over query and class pairs, against a plain loop."""

import numpy as np
import pytest
import torch

from dabdetr.config import Inference
from dabdetr.inference.postprocess import class_thresholds, detections, postprocess


def plain(logits, boxes, size, max_det):
    """The same by sorting a Python list."""
    height, width = size
    rows = []
    for query in range(logits.shape[0]):
        cx, cy, w, h = boxes[query].tolist()
        corners = [(cx - w / 2), (cy - h / 2), (cx + w / 2), (cy + h / 2)]
        pixels = [v * s for v, s in zip(corners, (width, height, width, height), strict=True)]
        for label in range(logits.shape[1]):
            rows.append((torch.sigmoid(logits[query, label]).item(), label, query, pixels))
    return sorted(rows, key=lambda row: -row[0])[:max_det]


@pytest.mark.parametrize("max_det", [1, 7, 15, 300])
def test_equals_a_plain_loop(max_det):
    torch.manual_seed(0)
    logits, boxes = torch.randn(2, 5, 3), torch.rand(2, 5, 4)
    sizes = [(480, 672), (30, 20)]
    for index, found in enumerate(postprocess(logits, boxes, sizes, max_det)):
        expected = plain(logits[index], boxes[index], sizes[index], max_det)
        assert len(found.scores) == min(max_det, 15) == len(expected)
        assert found.scores.tolist() == pytest.approx([row[0] for row in expected], abs=1e-6)
        assert found.labels.tolist() == [row[1] for row in expected]
        assert found.queries.tolist() == [row[2] for row in expected]
        wanted = np.array([row[3] for row in expected])
        np.testing.assert_allclose(found.boxes, wanted, atol=1e-3, rtol=1e-5)


def test_boxes_are_not_clipped():
    logits = torch.zeros(1, 1, 1)
    (found,) = postprocess(logits, torch.tensor([[[0.0, 1.0, 0.5, 0.5]]]), [(100, 200)], 1)
    assert found.boxes.tolist() == [[-50.0, 75.0, 50.0, 125.0]]


def test_half_precision_logits_give_float32():
    (found,) = postprocess(
        np.zeros((1, 2, 2), np.float16), np.zeros((1, 2, 4), np.float16), [(9, 9)], 3
    )
    assert found.scores.dtype == found.boxes.dtype == np.float32
    assert found.scores.tolist() == [0.5, 0.5, 0.5]


def test_empty_batch():
    assert postprocess(torch.zeros(0, 4, 3), torch.zeros(0, 4, 4), [], 10) == []


def test_softmax_gives_each_query_its_best_class_and_nothing_is_no_class() -> None:
    logits = torch.tensor([[[2.0, 1.0, 0.0], [0.0, 3.0, 1.0], [0.0, 0.0, 9.0]]])
    boxes = torch.rand(1, 3, 4)
    (found,) = postprocess(logits, boxes, [(10, 10)], 300, "softmax")
    expected = logits.softmax(-1)[0]
    assert found.queries.tolist() == [1, 0, 2]
    assert found.labels.tolist()[:2] == [1, 0]
    assert found.scores[:2].tolist() == pytest.approx(
        [float(expected[1, 1]), float(expected[0, 0])]
    )
    assert found.scores[2] < 0.01


def test_calibrated_scores_keep_their_order() -> None:
    rng = np.random.default_rng(0)
    logits = rng.normal(0, 3, (1, 6, 2)).astype(np.float32)
    boxes = rng.uniform(0.2, 0.5, (1, 6, 4)).astype(np.float32)
    plain, changed = (
        detections(logits, boxes, [(40, 40)], 12, ("a", "b"), "sigmoid", (), curve)[0]
        for curve in (None, (0.5, -1.0))
    )
    assert changed.queries.tolist() == plain.queries.tolist()
    expected = 1 / (1 + np.exp(-(0.5 * np.sort(logits.ravel())[::-1] - 1.0)))
    np.testing.assert_allclose(changed.scores, expected, rtol=1e-4)


def test_thresholds_of_classes() -> None:
    inference = Inference(conf=0.4, class_conf={"b": 0.7})
    np.testing.assert_allclose(class_thresholds(inference, ("a", "b")), [0.4, 0.7])
