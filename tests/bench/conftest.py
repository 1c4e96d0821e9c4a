"""Rows of a bench that never ran, to choose among and to show."""

from __future__ import annotations

from typing import Any

import pytest

from dabdetr.bench.candidates import REFERENCE, BenchResult, Candidate, Plan, Row


def row(key: str, seconds: float, quality: float) -> Row:
    """Of the candidate "format-precision", with three rounds around ``seconds``, file to boxes."""
    format, precision = key.split("-")
    turns = tuple((0.8 * x * seconds, x * seconds) for x in (1.0, 1.2, 0.9))
    return Row(Candidate(format, precision), turns, 2.0, 500.0, 17.2, quality)


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
def bench(rows: list[Row]) -> BenchResult:
    """Annotated data, and a candidate that could not run."""
    assert rows[-1].candidate == REFERENCE
    return BenchResult(
        Plan("my cells.safetensors", data="cells"),
        device="cpu",
        rows=tuple(rows),
        absent=((Candidate("onnx", "fp16"), "it needs the package onnx"),),
        timed=12,
        judged=72,
        data="cells val",
        notes=("AP is of 72 of the 364 images, from all over the data",),
    )
