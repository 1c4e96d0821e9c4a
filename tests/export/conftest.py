"""A detector as small as can be with answers that differ, and its exports."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jaxtyping
import numpy as np
import pytest
import torch
from PIL import Image
from tests.conftest import Graphs

NAMES = tuple("0123456789")
"""Of the generated scenes."""
TINY = (
    "model.encoder.layers=1",
    "model.decoder.layers=2",
    "model.queries.count=12",
    "image.size=96",
    "image.max_size=128",
)
"""Makes every preset at teaching size smaller still."""


@pytest.fixture(scope="package", autouse=True)
def _shapes_are_free() -> Iterator[None]:
    """No checks of shapes: while a graph of any size is traced, an int may be a symbol."""
    before = jaxtyping.config.jaxtyping_disable
    jaxtyping.config.update("jaxtyping_disable", True)
    yield
    jaxtyping.config.update("jaxtyping_disable", before)


@pytest.fixture(scope="package", autouse=True)
def _graphs_are_shared(graphs: Graphs) -> Iterator[None]:
    with graphs.shared():
        yield


def shaken(name: str, *overrides: str) -> Any:
    """A preset made tiny, with random heads and queries: its scores and boxes differ."""
    from dabdetr.model.detector import build
    from dabdetr.presets import preset

    torch.manual_seed(0)
    detector = build(preset(name).override([*TINY, *overrides]), NAMES).eval()
    with torch.no_grad():
        for key, parameter in detector.named_parameters():
            if "heads" in key or "queries" in key:
                parameter.add_(torch.randn_like(parameter) * 0.1)
            if "heads.classes" in key and key.endswith("bias"):
                parameter.fill_(-1.0)
    return detector


@pytest.fixture(scope="package")
def shake() -> Any:
    """``shaken``, for tests that choose the preset."""
    return shaken


@pytest.fixture(scope="package")
def detector() -> Any:
    """The dense member."""
    return shaken("dab-detr-nano")


@pytest.fixture(scope="package")
def exported(detector: Any, tmp_path_factory: pytest.TempPathFactory) -> Any:
    """The detector exported to ONNX; with the traced graph. Do not write into its folder."""
    for package in ("onnx", "onnxscript", "onnxruntime"):
        pytest.importorskip(package, reason=f"needs {package}: pip install 'dabdetr[export]'")
    from dabdetr.export.export import export

    folder: Path = tmp_path_factory.mktemp("exports")
    return export(detector, folder / "tiny.onnx")


SHAPES = [(60, 80), (60, 80), (80, 60), (120, 160), (50, 50), (9, 400)]


@pytest.fixture(scope="package")
def images() -> list[np.ndarray]:
    """Of several shapes, smooth enough to be like images."""
    rng = np.random.default_rng(0)
    coarse = [rng.integers(0, 256, (9, 9, 3), dtype=np.uint8) for _ in SHAPES]
    large = [Image.fromarray(c).resize(s[::-1]) for c, s in zip(coarse, SHAPES, strict=True)]
    return [np.asarray(each) for each in large]
