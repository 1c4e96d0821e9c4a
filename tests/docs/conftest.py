"""Where a reader of the documentation is: with data, images and a video of one's own."""

from __future__ import annotations

import shutil
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
sys.path.insert(0, str(ROOT / "docs" / "tools"))


@pytest.fixture(scope="session")
def reader(coco_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Data in mydata, images, a video, and a first run on those data. Copy it."""
    import dabdetr
    from dabdetr.inference.sources import read_sources
    from dabdetr.inference.video import VideoWriter

    root = tmp_path_factory.mktemp("reader")
    shutil.copytree(coco_folder, root / "mydata")
    shutil.copytree(coco_folder / "val", root / "images")
    shutil.copy(root / "images" / "000.png", root / "aerial.jpg")
    with VideoWriter(root / "clip.mp4", "") as writer:
        for number, image in enumerate(read_sources(root / "images")):
            writer.add(image.array, number / 10)
    runs = root / "runs" / "train"
    dabdetr.train(root / "mydata", epochs=1, imgsz=96, name="first", project=runs, quiet=True)
    return root
