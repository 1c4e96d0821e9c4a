"""Numbers in the wrong places all over: x for y, width for height, two formats in one file."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from tests.data.making import dump, text

from dabdetr.data.layouts import open_data, open_training

WIDTH, HEIGHT = 200, 100
Box = tuple[float, float, float, float]


def boxes(seed: int, many: int = 12) -> list[Box]:
    """x, y, width, height all over an image."""
    rng = np.random.default_rng(seed)
    made: list[Box] = []
    for number in range(many):
        width, height = int(rng.integers(20, 90)), int(rng.integers(10, 40))
        x, y = int(rng.integers(1, WIDTH - width)), int(rng.integers(1, HEIGHT - height))
        if number % 3 == 0:  # cut off by the image's edge
            y = HEIGHT - height
        made.append((x, y, width, height))
    return made


def image(path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.effect_noise((WIDTH, HEIGHT), 90).save(path)


def coco(
    root: Path, change: Callable[[int, Box], list[float]], size: tuple[int, int] = (WIDTH, HEIGHT)
) -> None:
    for split, images in (("train", 5), ("val", 1)):
        rows: list[dict[str, Any]] = []
        annotations: list[dict[str, Any]] = []
        for number in range(images):
            image(root / split / f"{number}.png")
            rows.append({"id": number, "file_name": f"{number}.png"})
            rows[-1] |= {"width": size[0], "height": size[1]}
            for box in boxes(number + 10 * images, 12 if images > 1 else 3):
                numbers = change(len(annotations), box)
                row = {"id": len(annotations), "image_id": number, "category_id": 1}
                annotations.append(row | {"bbox": numbers})
        tree = {"images": rows, "annotations": annotations}
        tree["categories"] = [{"id": 1, "name": "cat"}]
        dump(root / "annotations" / f"instances_{split}.json", tree)


def yolo(root: Path, line: Callable[[float, float, float, float], tuple[float, ...]]) -> None:
    for split, images in (("train", 5), ("val", 1)):
        for number in range(images):
            image(root / "images" / split / f"{number}.png")
            lines = [
                " ".join(map(str, (0, *line(x + w / 2, y + h / 2, w, h))))
                for x, y, w, h in boxes(number + 10 * images, 12 if images > 1 else 3)
            ]
            text(root / "labels" / split / f"{number}.txt", "\n".join(lines))
    (root / "data.yaml").write_text("train: images/train\nval: images/val\nnames: [cat]\n")


def check(root: Path, kind: str) -> None:
    train, val = open_training(root)
    assert val is not None
    for data, images in ((train, 5), (val, 1)):
        for index in range(images):
            expected = np.array(boxes(index + 10 * images, 12 if images > 1 else 3), float)
            expected[:, 2:] += expected[:, :2]
            np.testing.assert_allclose(data.record(index).boxes, expected, atol=0.01)
        assert data.findings.count(kind)
        assert not {each.kind.name for each in data.findings} & {"box-cut", "box-outside"}


COCO: dict[str, Callable[[Box], list[float]]] = {
    "y x height width": lambda b: [b[1], b[0], b[3], b[2]],
    "y0 x0 y1 x1": lambda b: [b[1], b[0], b[1] + b[3], b[0] + b[2]],
    "x y height width": lambda b: [b[0], b[1], b[3], b[2]],
}


@pytest.mark.parametrize("order", COCO)
def test_boxes_in_another_order_are_read_as_they_fit(order: str, tmp_path: Path) -> None:
    coco(tmp_path, lambda _, box: COCO[order](box))
    check(tmp_path, "box-transposed")


def test_width_and_height_of_images_swapped_are_no_other_order(tmp_path: Path) -> None:
    coco(tmp_path, lambda _, box: [*box], (HEIGHT, WIDTH))
    check(tmp_path, "size-taken")


YOLO: dict[str, Callable[[float, float, float, float], tuple[float, ...]]] = {
    "by the other side": lambda x, y, w, h: (x / HEIGHT, y / WIDTH, w / HEIGHT, h / WIDTH),
    "height width": lambda x, y, w, h: (x / WIDTH, y / HEIGHT, h / HEIGHT, w / WIDTH),
}


@pytest.mark.parametrize("order", YOLO)
def test_lines_in_another_order_are_read_as_they_fit(order: str, tmp_path: Path) -> None:
    yolo(tmp_path, YOLO[order])
    check(tmp_path, "box-transposed")


@pytest.mark.parametrize("wide", [(0.97, 0.5, 0.2, 0.05), (1.0, 0.5, 0.2, 0.2)])
def test_boxes_that_are_not_cut_at_one_edge_are_no_other_order(
    wide: tuple[float, ...], tmp_path: Path
) -> None:
    rng = np.random.default_rng(0)
    lines = [(*rng.uniform(0.2, 0.6, 2), *rng.uniform(0.05, 0.3, 2)) for _ in range(34)]
    image(tmp_path / "images" / "a.png")
    rows = [" ".join(map(str, (0, *each))) for each in (*lines, *(wide,) * 6)]
    rows = [f"{row}{n:03}" for n, row in enumerate(rows)]  # no two are alike
    text(tmp_path / "labels" / "a.txt", "\n".join(rows))
    text(tmp_path / "classes.txt", "cat")
    data = open_data(tmp_path)
    assert data.findings.count("box-cut") == 6
    assert not data.findings.count("box-transposed")


def test_two_formats_in_one_file_are_said(tmp_path: Path) -> None:
    def change(row: int, box: Box) -> list[float]:
        x, y, width, height = box
        return [x, y, x + width, y + height] if row % 2 else [*box]

    coco(tmp_path, change)
    train, _ = open_training(tmp_path)
    (found,) = (each for each in train.findings if each.kind.name == "box-mixed")
    assert 3 <= found.count < 30
    assert found.kind.action == "kept"


def test_boxes_past_the_edge_are_no_other_format(tmp_path: Path) -> None:
    """Sloppy boxes, some of which reach out of the image to the right and below."""

    def change(row: int, box: Box) -> list[float]:
        x, y, width, height = box
        return [x, y, width + (WIDTH - x - width + 5) * (row % 4 == 0), height]

    coco(tmp_path, change)
    train, _ = open_training(tmp_path)
    kinds = {each.kind.name for each in train.findings}
    assert "box-cut" in kinds
    assert not kinds & {"box-transposed", "box-mixed", "box-corners", "box-centres"}
