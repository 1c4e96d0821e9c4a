"""An exported file detects in several images of a stream at a time."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from dabdetr import Predictor
from dabdetr.export.export import export
from dabdetr.inference.exported import MOST_AT_ONCE, Exported, calls_at_once


@pytest.fixture(scope="module", params=["onnx", "openvino"])
def file(
    request: Any, exported: Any, detector: Any, tmp_path_factory: pytest.TempPathFactory
) -> Path:
    if request.param == "onnx":
        return exported.path
    pytest.importorskip("openvino", reason="needs openvino: pip install 'dabdetr[export]'")
    return export(detector, tmp_path_factory.mktemp("streams") / "tiny", "openvino").path


@pytest.fixture(autouse=True)
def _two_threads(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OMP_NUM_THREADS", "2")


def test_a_stream_finds_what_single_images_give(file: Path, images: list[np.ndarray]) -> None:
    predictor = Predictor(file)
    alone = [predictor.one(image, conf=0.0) for image in images]
    together = list(predictor(images, conf=0.0))
    for one, other in zip(alone, together, strict=True):
        np.testing.assert_allclose(one.scores, other.scores, atol=1e-4)
        np.testing.assert_allclose(one.boxes, other.boxes, atol=1e-2)


@contextmanager
def calls(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[tuple[Any, str]]]:
    """The runtime and the thread of every call of ``detect``."""
    made: list[tuple[Any, str]] = []
    before = Exported.detect

    def detect(self: Exported, *args: Any, **named: Any) -> Any:
        made.append((self, threading.current_thread().name))
        return before(self, *args, **named)

    with monkeypatch.context() as patch:
        patch.setattr(Exported, "detect", detect)
        yield made


def test_only_streams_share_the_threads_among_calls(
    file: Path, images: list[np.ndarray], monkeypatch: pytest.MonkeyPatch
) -> None:
    predictor = Predictor(file)
    with calls(monkeypatch) as made:
        predictor.one(images[0])
        assert [(runtime, name) for runtime, name in made] == [(predictor.runtime, "MainThread")]
        made.clear()
        list(predictor(images))
    streaming = predictor.runtime.for_streams()
    assert streaming is not predictor.runtime
    assert streaming.workers == 2
    assert {runtime for runtime, _ in made} == {streaming}
    assert all("dabdetr" in name for _, name in made)


def test_one_thread_has_one_call(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    runtime = Exported(file)
    assert runtime.for_streams().workers == runtime.workers == 1
    monkeypatch.setenv("OMP_NUM_THREADS", "64")
    assert calls_at_once() == MOST_AT_ONCE


def test_a_file_that_is_gone_or_replaced_is_not_loaded_again(
    exported: Any, images: list[np.ndarray], tmp_path: Path
) -> None:
    file = tmp_path / "model.onnx"
    file.write_bytes(exported.path.read_bytes())
    predictor = Predictor(file)
    file.write_bytes(b"another model")
    assert len(list(predictor(images[:2], conf=0.0))) == 2
    other = tmp_path / "other.onnx"
    other.write_bytes(exported.path.read_bytes())
    predictor = Predictor(other)
    other.unlink()
    assert len(list(predictor(images[:2], conf=0.0))) == 2
