"""What all tests share: shape checks, property-test settings, a tiny data set, a tiny detector."""

from __future__ import annotations

import atexit
import gc
import hashlib
import json
import os
import shutil
import signal
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import typer.testing
from hypothesis import settings
from jaxtyping import install_import_hook

# Before anything imports them: shapes in signatures are checked at every call under pytest.
install_import_hook(["dabdetr.geometry", "dabdetr.model"], "beartype.beartype")

# Tests start processes too: several with as many threads as cores would wait for one another.
os.environ["OMP_NUM_THREADS"] = "1"

# What is kept of files between runs must not come from other runs, nor stay behind.
os.environ["DABDETR_CACHE"] = tempfile.mkdtemp(prefix="dabdetr-cache-")
atexit.register(shutil.rmtree, os.environ["DABDETR_CACHE"], ignore_errors=True)

# A shell's background jobs ignore Ctrl-C, and so would all that they start.
if signal.getsignal(signal.SIGINT) == signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)

# CliRunner would build the tree of verbs and options at every call, 60 ms each.
typer.testing._get_command = cache(typer.testing._get_command)

# Imports of torch leave very many objects: looking for garbage would take a tenth of the time.
gc.set_threshold(20_000, 20, 50)

settings.register_profile("dabdetr", deadline=None, derandomize=True, max_examples=50)
settings.load_profile("dabdetr")


@pytest.fixture(scope="session", autouse=True)
def _one_thread() -> None:
    """Small tensors are faster on one thread, and sums do not depend on the machine."""
    import torch

    torch.set_num_threads(1)


def write_coco(folder: Path, split: str, data: Any, count: int) -> Path:
    """Write the first ``count`` images of ``data`` as ``folder``'s ``split`` in COCO's layout."""
    from PIL import Image

    (folder / split).mkdir(parents=True)
    (folder / "annotations").mkdir(exist_ok=True)
    images, annotations = [], []
    for index in range(count):
        record = data.record(index)
        file = f"{index:03d}.png"
        Image.fromarray(np.asarray(data.image(index))).save(folder / split / file)
        images.append(
            {"id": index + 1, "file_name": file, "width": record.width, "height": record.height}
        )
        for box, label in zip(record.boxes.tolist(), record.labels.tolist(), strict=True):
            x0, y0, x1, y1 = box
            annotations.append(
                {
                    "id": len(annotations) + 1,
                    "image_id": index + 1,
                    "category_id": data.category_ids[label],
                    "bbox": [x0, y0, x1 - x0, y1 - y0],
                    "area": (x1 - x0) * (y1 - y0),
                    "iscrowd": 0,
                }
            )
    categories = [
        {"id": number, "name": name}
        for number, name in zip(data.category_ids, data.names, strict=True)
    ]
    path = folder / "annotations" / f"instances_{split}.json"
    path.write_text(
        json.dumps({"images": images, "annotations": annotations, "categories": categories})
    )
    return folder


@pytest.fixture(scope="session")
def coco_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Eight training and four validation scenes on disk, in COCO's layout. Do not write into it."""
    from dabdetr.data.layouts import open_data

    folder = tmp_path_factory.mktemp("digits")
    for split, count in (("train", 8), ("val", 4)):
        write_coco(folder, split, open_data("scenes", split), count)
    return folder


@pytest.fixture(scope="session")
def tiny_config() -> Any:
    """The smallest preset made smaller still: a run of it takes seconds."""
    from dabdetr.presets import preset

    return preset("dab-detr-nano").override(
        [
            "model.encoder.layers=1",
            "model.decoder.layers=2",
            "model.queries.count=12",
            "image.size=96",
            "image.max_size=96",
            "training.batch=2",
            "training.effective_batch=2",
            "training.epochs=1",
            "training.warmup=0",
        ]
    )


@pytest.fixture(scope="session")
def tiny_detector(tiny_config: Any) -> Any:
    """A detector of ``tiny_config`` for the ten digits, with its initial weights."""
    import torch

    from dabdetr.model.detector import build

    torch.manual_seed(0)
    return build(tiny_config, [str(digit) for digit in range(10)]).eval()


@pytest.fixture(scope="session")
def tiny_weights(tiny_detector: Any, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """``tiny_detector`` saved in the project's own format."""
    from dabdetr.checkpoints.native import save_model

    path = tmp_path_factory.mktemp("weights") / "tiny.safetensors"
    save_model(path, tiny_detector)
    return path


class Graphs(dict[Any, Any]):
    """Graphs that exports keep, by what a detector is: config, names and weights."""

    @contextmanager
    def shared(self) -> Iterator[None]:
        """Exports inside ``with`` that keep no graphs of their own keep them here."""
        from dabdetr.export import formats

        make = formats._graph
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(
                formats,
                "_graph",
                lambda detector, metadata, graphs: make(
                    detector, metadata, self if graphs is None else graphs
                ),
            )
            yield

    @staticmethod
    def _content(key: tuple[Any, ...]) -> tuple[Any, ...]:
        detector, *options = key
        digest = hashlib.blake2b(repr((detector.config, detector.names)).encode())
        for name, tensor in detector.state_dict().items():
            digest.update(name.encode())
            digest.update(tensor.numpy().tobytes())
        return (digest.digest(), *options)

    def __contains__(self, key: Any) -> bool:
        return super().__contains__(self._content(key))

    def __getitem__(self, key: Any) -> Any:
        return super().__getitem__(self._content(key))

    def __setitem__(self, key: Any, item: Any) -> None:
        super().__setitem__(self._content(key), item)


@pytest.fixture(scope="session")
def graphs() -> Graphs:
    """A graph takes ten seconds, and most tests are of what follows."""
    return Graphs()
