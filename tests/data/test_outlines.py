"""Boxes fit their own images better than another's, and labels that were shuffled do not."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw

from dabdetr.data.layouts import open_data
from dabdetr.data.outlines import EVIDENCE, outline_fit
from dabdetr.data.records import RecordTable


def write(root: Path) -> None:
    """24 noisy images with a grey disc or two, and YOLO's labels of them."""
    rng = np.random.default_rng(3)
    for split in ("images", "labels"):
        (root / split).mkdir(parents=True)
    for number in range(24):
        noise = rng.integers(90, 140, (120, 160, 3), dtype=np.uint8)
        image, lines = Image.fromarray(noise), []
        pen = ImageDraw.Draw(image)
        for _ in range(1 + number % 2):
            x, y, side = (int(rng.integers(*span)) for span in ((5, 100), (5, 70), (20, 45)))
            pen.ellipse((x, y, x + side, y + side), fill=(200, 190, 180))
            middle = (x + side / 2) / 160, (y + side / 2) / 120
            lines.append(f"0 {middle[0]} {middle[1]} {side / 160} {side / 120}")
        image.save(root / "images" / f"{number:02d}.png")
        (root / "labels" / f"{number:02d}.txt").write_text("\n".join(lines))


def test_labels_of_other_images_do_not_fit(tmp_path: Path) -> None:
    write(tmp_path)
    data = open_data(tmp_path)
    assert isinstance(data, RecordTable)
    assert outline_fit(data) > EVIDENCE
    moved = [outline_fit(data.moved(np.roll(np.arange(24), step))) for step in range(1, 24)]
    assert max(moved) < EVIDENCE / 2


def test_few_images_are_no_evidence(tmp_path: Path) -> None:
    write(tmp_path)
    for number in range(3, 24):
        (tmp_path / "images" / f"{number:02d}.png").unlink()
    assert outline_fit(open_data(tmp_path)) == 0
