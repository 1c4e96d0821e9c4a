"""The choice among made-up rows, and how alike two sides' boxes are."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from dabdetr.bench.candidates import Row, agreement, best
from dabdetr.structures import Detections


@pytest.mark.parametrize(
    ("drop", "key"),
    [
        (0.0, "onnx-fp32"),
        (0.001, "onnx-fp32"),
        (0.005, "openvino-bf16"),
        (0.0279, "openvino-bf16"),
        (0.028, "openvino-int8"),
        (1.0, "openvino-int8"),
    ],
)
def test_the_fastest_that_does_not_lose_too_much(rows: list[Row], drop: float, key: str) -> None:
    for order in (rows, rows[::-1]):
        assert best(order, drop).candidate.key == key


def test_a_gain_in_ap_is_no_loss(rows: list[Row], make_row: Any) -> None:
    rows.append(make_row("onnx-fp16", 0.005, 0.6))
    assert best(rows, 0.0).candidate.key == "onnx-fp16"


def test_the_reference_itself_is_best_where_nothing_is_faster(rows: list[Row]) -> None:
    slow = [replace(row, quality=0.1) for row in rows[:-1]]
    assert best([*slow, rows[-1]], 0.005) == rows[-1]


def test_of_equally_fast_ones_the_more_faithful(rows: list[Row], make_row: Any) -> None:
    rows += [make_row("onnx-fp16", 0.0205, 0.5175)]
    assert best(rows, 0.005).candidate.key == "onnx-fp16"  # 2.5 % slower than bf16
    rows += [make_row("openvino-fp32", 0.0207, 0.518)]  # 3.5 %
    assert best(rows, 0.005).candidate.key == "onnx-fp16"


def test_times_are_medians_and_gains_of_the_same_round(rows: list[Row]) -> None:
    row = replace(rows[0], turns=((1.0, 2.0), (1.0, 40.0), (3.0, 4.0)))
    assert (row.model, row.whole) == (1.0, 4.0)
    reference = replace(rows[-1], turns=((0.0, 4.0), (0.0, 120.0), (0.0, 4.0)))
    assert row.gain(reference) == 2.0  # of 2, 3 and 1; medians first would have given 1


def found(*objects: tuple[int, float, list[float]]) -> Detections:
    labels, scores, boxes = zip(*objects, strict=True) if objects else ((), (), ())
    return Detections(
        np.array(boxes, np.float32).reshape(-1, 4),
        np.array(scores, np.float32),
        np.array(labels, np.int64),
        np.zeros(len(objects), np.int64),
        ("owl", "fox"),
        (100, 100),
    )


A, B, C = [0.0, 0, 10, 10], [50.0, 50, 90, 90], [50.0, 50, 90, 85]
ONE = found((0, 0.9, A), (1, 0.8, B), (1, 0.1, A))


@pytest.mark.parametrize(
    ("other", "share"),
    [
        (ONE, 1.0),
        (found((1, 0.8, B), (0, 0.9, A)), 1.0),  # in another order
        (found((0, 0.9, A)), 2 / 3),  # one missing
        (found((0, 0.9, A), (1, 0.29, B)), 2 / 3),  # below the threshold
        (found((0, 0.9, A), (0, 0.8, B)), 0.5),  # of another class
        (found((0, 0.9, A), (1, 0.8, C)), 0.5),  # IoU 0.875
        (found((0, 0.9, A), (0, 0.8, A), (1, 0.8, B)), 0.8),  # twice
        (found(), 0.0),
    ],
)
def test_agreement(other: Detections, share: float) -> None:
    assert agreement([ONE], [other], 0.3) == pytest.approx(share)
    assert agreement([other], [ONE], 0.3) == pytest.approx(share)


def test_agreement_counts_over_all_images() -> None:
    assert agreement([ONE, found()], [ONE, found((0, 0.9, A))], 0.3) == pytest.approx(0.8)
    assert agreement([found()], [found()], 0.3) == 1.0
