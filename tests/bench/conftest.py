"""Rows of a bench that never ran, to choose among and to show."""

from __future__ import annotations

from typing import Any

import pytest

from dabdetr.bench.candidates import REFERENCE, Contender
from dabdetr.bench.choice import Row
from dabdetr.bench.growth import Growth, Point
from dabdetr.bench.plan import Plan
from dabdetr.bench.result import Bench


def row(key: str, seconds: float, quality: float) -> Row:
    """Of the contender "format-precision", with three rounds around ``seconds``, file to boxes."""
    format, precision = key.split("-")
    turns = tuple((0.8 * x * seconds, x * seconds) for x in (1.0, 1.2, 0.9))
    return Row(Contender(format, precision), turns, 2.0, 500.0, 17.2, quality)


@pytest.fixture
def rows() -> list[Row]:
    return [
        row("openvino-int8", 0.010, 0.490),
        row("openvino-bf16", 0.020, 0.5166),
        row("onnx-fp32", 0.050, 0.518),
        row("torch-fp32", 0.080, 0.518),
    ]


@pytest.fixture
def make_row() -> Any:
    """``row``, for tests that make their own."""
    return row


@pytest.fixture
def bench(rows: list[Row]) -> Bench:
    """Annotated data, growth, and a contender that could not run."""
    points = {
        "pixels": (Point(320, 0.1, 500.0), Point(640, 0.4, 900.0)),
        "batch": (Point(1, 0.1, 500.0), Point(2, problem="out of memory")),
    }
    growth = Growth(points, 4e9, {"fp32": 2e11, "bf16": 1e12})
    assert rows[-1].contender == REFERENCE
    return Bench(
        Plan("my cells.safetensors", data="cells"),
        device="cpu",
        rows=tuple(rows),
        absent=((Contender("onnx", "fp16"), "it needs the package onnx"),),
        timed=12,
        judged=72,
        data="cells val",
        notes=("AP is of 72 of the 364 images, from all over the data",),
        growth=growth,
    )
