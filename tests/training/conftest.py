"""A short way to train the smallest model there is."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from dabdetr.config import Config
from dabdetr.data.layouts import open_data
from dabdetr.training.train import Run, train

Train = Callable[..., Run]


@pytest.fixture(scope="session")
def tiny_file(tiny_config: Config, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """``tiny_config`` as a file, in fp32 and with averaged weights and dropout."""
    config = tiny_config.override(
        ["training.precision=fp32", "training.ema=0.9", "model.dropout=0.1"]
    )
    path = tmp_path_factory.mktemp("config") / "tiny.yaml"
    config.save(path)
    return path


@pytest.fixture(scope="session")
def tiny_train(tiny_file: Path, coco_folder: Path) -> Train:
    """``train`` on eight scenes with the tiny config; options as ``train`` has them."""

    def run(project: Path, *overrides: str, **options: Any) -> Run:
        options.setdefault("data", coco_folder)
        options.setdefault("report", False)
        return train(model=tiny_file, project=project, overrides=overrides, **options)

    return run


@pytest.fixture(scope="session")
def short_run(tiny_train: Train, tmp_path_factory: pytest.TempPathFactory) -> Run:
    """Two epochs, finished. Do not write into its folder."""
    return tiny_train(tmp_path_factory.mktemp("runs"), epochs=2, quiet=True)


@pytest.fixture(scope="session")
def straight_run(tiny_train: Train, tmp_path_factory: pytest.TempPathFactory) -> Run:
    """Four epochs in one go: what an interrupted and resumed run must repeat."""
    project = tmp_path_factory.mktemp("straight")
    return tiny_train(project, "training.effective_batch=6", epochs=4, quiet=True)


@pytest.fixture(scope="session")
def write_coco_scenes() -> Callable[[Path, str, int], Path]:
    """Writes the same few scenes as training and validation split."""
    from tests.conftest import write_coco

    def write(folder: Path, scenes: str, count: int) -> Path:
        for split in ("train", "val"):
            write_coco(folder, split, open_data(scenes, "train"), count)
        return folder

    return write
