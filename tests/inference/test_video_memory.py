"""Long videos need no more memory than short ones, all the way from file to file."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jaxtyping
import numpy as np
import pytest

from dabdetr.cli.predict import _Summary
from dabdetr.cli.saving import Saver
from dabdetr.inference.video import VideoWriter
from dabdetr.predictor import Predictor
from dabdetr.structures import Detections

pytest.importorskip("av")
MEMORY = Path("/proc/self/statm")
MEGABYTE = 2**20


def _memory() -> float:
    """Of this process, in MB."""
    return int(MEMORY.read_text().split()[1]) * 4096 / MEGABYTE


def _grown(found: Iterator[Detections], saver: Saver, start: int) -> tuple[int, float]:
    """Frames that came, and how much the memory grew after the first ``start`` of them."""
    seen, most, least, count = _Summary(keep=False, lines=False), 0.0, 0.0, 0
    for each in found:
        count += 1
        saver.add(each)
        seen.add(each)
        if count == start:
            least = _memory()
        if count % 20 == 0 and count > start:
            most = max(most, _memory())
    saver.close()
    return count, most - least


@pytest.fixture
def fast() -> Iterator[None]:
    """Without checks of shapes, which take longer here than the model itself."""
    before = jaxtyping.config.jaxtyping_disable
    jaxtyping.config.update("jaxtyping_disable", True)
    yield
    jaxtyping.config.update("jaxtyping_disable", before)


@pytest.mark.usefixtures("fast")
@pytest.mark.skipif(not MEMORY.exists(), reason="memory is measured as Linux tells it")
@pytest.mark.parametrize(
    ("frames", "side"),
    [(130, 640), pytest.param(10_000, 64, marks=[pytest.mark.slow, pytest.mark.timeout(3600)])],
)
def test_memory_does_not_grow(frames: int, side: int, tiny_detector: Any, tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    images = rng.integers(0, 256, (4, side // 8, side // 8, 3), np.uint8)
    images = images.repeat(8, 1).repeat(8, 2)
    with VideoWriter(tmp_path / "long.mp4", "") as writer:
        for number in range(frames):
            writer.add(images[number % 4], number / 25)
    (tmp_path / "out").mkdir()
    saver = Saver(tmp_path / "out", draw=True, crops=False)
    found = Predictor(tiny_detector)(tmp_path / "long.mp4", conf=0.1, max_det=5, keep_images=True)
    count, grown = _grown(found, saver, start=40)
    assert count == frames
    assert (frames - 40) * side**2 * 3 / MEGABYTE > 80  # what keeping the frames would take
    assert grown < 30
