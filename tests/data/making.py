"""What makers of data sets share: two boxes of two classes, images to put them on, text files."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

WIDTH, HEIGHT = 160, 120
BOXES = ((113, 53, 44, 39), (10, 20, 30, 40))
CORNERS = [[x, y, x + w, y + h] for x, y, w, h in BOXES]
CLASSES = ("red", "blue")
SPLITS = {"train": ("a", "b"), "val": ("c",)}
Make = Callable[[Path], object]


def image(path: Path, size: tuple[int, int] = (WIDTH, HEIGHT)) -> None:
    """Smooth noise, which differs with the last letter of the name."""
    path.parent.mkdir(parents=True, exist_ok=True)
    pixels = np.random.default_rng(ord(path.stem[-1])).integers(0, 255, (12, 16, 3), dtype=np.uint8)
    Image.fromarray(pixels).resize(size).save(path)


def text(path: Path, content: str, encoding: str = "utf-8") -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(content, encoding)


def dump(path: Path, tree: Any) -> None:
    text(path, json.dumps(tree, ensure_ascii=False))
