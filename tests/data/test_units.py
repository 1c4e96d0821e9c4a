"""Units of boxes: pixels, 0–1 and percents, of a whole data set, of one split or of some images."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.data.making import dump, image, text

from dabdetr.data.box_formats import percents, tell_format, to_pixels
from dabdetr.data.layouts import open_data, open_every, open_training
from dabdetr.data.records import RecordTable

ORDERS = {
    "xywh": lambda low, high: (low, high - low),
    "xyxy": lambda low, high: (low, high),
    "cxcywh": lambda low, high: ((low + high) / 2, high - low),
}
Corners = np.ndarray


def corners(count: int, size: tuple[int, int], seed: int = 0) -> Corners:
    """[count, 4] boxes all over images of ``size``."""
    rng = np.random.default_rng(seed)
    sides = rng.uniform(0.05, 0.4, (count, 2))
    low = rng.uniform(0, 1, (count, 2)) * (1 - sides)
    return np.concatenate((low, low + sides), 1) * np.tile(size, 2)


def numbers(boxes: Corners, size: tuple[int, int], order: str, unit: str) -> np.ndarray:
    scale = {"": 1.0, "relative": np.array(size), "percent": np.array(size) / 100}[unit]
    first, second = ORDERS[order](boxes[:, :2] / scale, boxes[:, 2:] / scale)
    return np.concatenate((first, second), 1)


def coco(root: Path, size: tuple[int, int], boxes: dict[str, Any], split: str = "train") -> None:
    """A json of the numbers of each image, and the images."""
    images, annotations = [], []
    for index, (name, rows) in enumerate(boxes.items()):
        image(root / split / name, size)
        images.append({"id": index, "file_name": name, "width": size[0], "height": size[1]})
        annotations += [
            {"id": len(annotations) + n, "image_id": index, "category_id": 1, "bbox": list(row)}
            for n, row in enumerate(rows)
        ]
    tree = {"images": images, "annotations": annotations, "categories": [{"id": 1, "name": "a"}]}
    dump(root / "annotations" / f"instances_{split}.json", tree)


def yolo(root: Path, size: tuple[int, int], boxes: dict[str, Any]) -> None:
    for name, rows in boxes.items():
        image(root / "images" / "train" / name, size)
        file = (root / "labels" / "train" / name).with_suffix(".txt")
        text(file, "".join("0 " + " ".join(f"{v:.6f}" for v in row) + "\n" for row in rows))
    (root / "data.yaml").write_text("train: images/train\nnames: [a]\n")


def voc(root: Path, size: tuple[int, int], boxes: dict[str, Any]) -> None:
    for name, rows in boxes.items():
        image(root / "JPEGImages" / name, size)
        objects = "".join(
            f"<object><name>a</name><bndbox><xmin>{a}</xmin><ymin>{b}</ymin><xmax>{c}</xmax>"
            f"<ymax>{d}</ymax></bndbox></object>"
            for a, b, c, d in rows
        )
        file = (root / "Annotations" / name).with_suffix(".xml")
        sides = f"<size><width>{size[0]}</width><height>{size[1]}</height></size>"
        text(file, f"<annotation><filename>{name}</filename>{sides}{objects}</annotation>")


def shared_out(rows: np.ndarray, images: int) -> dict[str, Any]:
    return {f"{n}.png": part.tolist() for n, part in enumerate(np.array_split(rows, images))}


def kinds(data: Any) -> dict[str, int]:
    return {each.kind.name: each.count for each in data.findings if each.kind.name != "split-only"}


def boxes_of(data: Any) -> np.ndarray:
    return np.concatenate([data.record(index).boxes for index in range(len(data))])


@pytest.mark.parametrize("order", ORDERS)
@given(seed=st.integers(0, 2**32))
def test_percents_are_told_over_the_whole_set(order: str, seed: int) -> None:
    size = (640, 480)
    own = corners(60, size, seed)
    given = numbers(own, size, order, "percent")
    frames = np.tile(np.array(size, float), (60, 1))
    for said in (order, f"{order}-relative"):
        told = tell_format(given, frames, said)  # pyright: ignore[reportArgumentType]
        assert told == f"{order}-percent"
        found = to_pixels(given, frames, told)
        np.testing.assert_allclose(found[:, :2] + found[:, 2:], own[:, 2:], atol=1e-6)


@given(
    seed=st.integers(0, 2**32),
    count=st.integers(1, 60),
    size=st.sampled_from([(640, 480), (160, 120), (100, 100), (90, 64), (1920, 1080)]),
    whole=st.booleans(),
)
def test_pixels_all_over_images_are_never_percents(
    seed: int, count: int, size: tuple[int, int], whole: bool
) -> None:
    own = corners(count, size, seed)
    own = own.round() if whole else own
    frames = np.tile(np.array(size, float), (count, 1))
    given = numbers(own, size, "xywh", "")
    assert not tell_format(given, frames, "xywh").endswith("percent")


@pytest.mark.parametrize("whole", [True, False])
def test_objects_that_stay_in_the_upper_left_are_pixels(whole: bool) -> None:
    """A logo, a clock, a feeder: one place, in images of any size."""
    rng = np.random.default_rng(1)
    low = np.array([20.0, 18.0]) + rng.normal(0, 3, (200, 2))
    own = np.concatenate((low, low + rng.normal((70, 65), 2, (200, 2))), 1)
    own = own.round() if whole else own
    frames = np.tile([[1920.0, 1080.0]], (200, 1))
    given = numbers(own, (1920, 1080), "xywh", "")
    assert tell_format(given, frames, "xywh") == "xywh"
    assert percents(given, frames, "xywh") == "likely"


@pytest.mark.parametrize(
    ("write", "order"), [(coco, "xywh"), (yolo, "cxcywh"), (voc, "xyxy"), (coco, "xyxy")]
)
def test_percents_are_mended_and_said(write: Any, order: str, tmp_path: Path) -> None:
    size = (640, 480)
    own = corners(24, size)
    write(tmp_path, size, shared_out(numbers(own, size, order, "percent"), 6))
    data = open_data(tmp_path)
    assert kinds(data) == {"box-percent": 24}
    np.testing.assert_allclose(boxes_of(data), own, atol=0.01)


def test_what_may_be_percents_is_asked_for(tmp_path: Path) -> None:
    size = (160, 120)
    own = np.array([[20, 10, 70, 60], [64, 60, 130, 110], [48, 36, 160, 96], [8, 6, 96, 90.0]])
    given = numbers(own, size, "xywh", "percent")
    given[:, :2] += 0.25
    coco(tmp_path, size, shared_out(given, 2))
    assert kinds(open_data(tmp_path)) == {"box-percent-perhaps": 4}
    told = open_data(tmp_path, box_format="xywh-percent")
    assert kinds(told) == {}
    np.testing.assert_allclose(boxes_of(told)[0], [20.4, 10.3, 70.4, 60.3], atol=0.01)


def test_shares_in_some_images_of_a_set_in_pixels_are_mended_and_counted(tmp_path: Path) -> None:
    size = (160, 120)
    own = corners(12, size)
    rows = shared_out(numbers(own, size, "xywh", ""), 6)
    rows["2.png"] = numbers(own[4:6], size, "xywh", "relative").tolist()
    coco(tmp_path, size, rows)
    data = open_data(tmp_path)
    assert kinds(data) == {"box-relative": 2}
    np.testing.assert_allclose(boxes_of(data), own, atol=0.01)
    rows["2.png"][0] = [10, 10, 30, 30]  # an image of both: which of them is wrong?
    coco(tmp_path, size, rows)
    data = open_data(tmp_path)
    assert kinds(data) == {"box-first-pixel": 1}
    assert len(boxes_of(data)) == 12
    coco(tmp_path, size, rows | {"3.png": [[0, 0, 1, 1]]})
    assert kinds(open_data(tmp_path)) == {"box-first-pixel": 2}


def test_pixels_in_some_files_of_yolos_are_mended_and_counted(tmp_path: Path) -> None:
    size = (160, 120)
    own = corners(12, size)
    rows = shared_out(numbers(own, size, "cxcywh", "relative"), 6)
    rows["2.png"] = numbers(own[4:6], size, "cxcywh", "").tolist()
    yolo(tmp_path, size, rows)
    data = open_data(tmp_path)
    assert kinds(data) == {"box-pixels": 2}
    np.testing.assert_allclose(boxes_of(data), own, atol=0.01)


def test_each_split_has_a_unit_of_its_own(tmp_path: Path) -> None:
    size = (160, 120)
    own = corners(12, size)
    coco(tmp_path, size, shared_out(numbers(own, size, "xywh", ""), 4))
    coco(tmp_path, size, shared_out(numbers(own, size, "xywh", "relative"), 4), "val")
    train, val = open_training(tmp_path)
    assert kinds(train) == {}
    assert val is not None
    assert kinds(val) == {"box-relative": 12}
    np.testing.assert_allclose(boxes_of(val), own, atol=0.01)


@pytest.mark.parametrize("small", ["train", "val"])
def test_a_split_too_small_to_tell_has_the_format_of_the_other(small: str, tmp_path: Path) -> None:
    size = (160, 120)
    own = corners(20, size)
    large = {"train": "val", "val": "train"}[small]
    coco(tmp_path, size, shared_out(numbers(own, size, "xyxy", ""), 4), large)
    two = np.array([[10, 20, 40, 60], [30, 30, 70, 80.0]])
    coco(tmp_path, size, {"a.png": two.tolist()}, small)
    alone = [open_data(tmp_path, split) for split in ("train", "val")]
    for opened in (open_every(tmp_path), open_training(tmp_path), alone):
        for each in opened:
            assert isinstance(each, RecordTable)
            assert kinds(each) == {"box-corners": len(each.labels)}
            if each.split == small:
                np.testing.assert_array_equal(boxes_of(each), two)
