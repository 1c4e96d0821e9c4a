"""COCO's json: what is read, and one sentence for each fault."""

from __future__ import annotations

import io
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from dabdetr.data.box_formats import tell_format, to_pixels
from dabdetr.data.layouts import open_data
from dabdetr.data.loader import training_loader
from dabdetr.data.records import RecordTable
from dabdetr.data.shapes import around_segmentation
from dabdetr.presets import derive, preset


def sound() -> dict[str, Any]:
    """Three images of 100x80; the second has no object, the third a crowd; sparse ids."""
    return {
        "images": [
            {"id": 7, "file_name": "a.png", "width": 100, "height": 80},
            {"id": 3, "file_name": "b.png", "width": 100, "height": 80},
            {"id": 900, "file_name": "sub/c.png", "width": 100, "height": 80},
        ],
        "annotations": [
            {"id": 1, "image_id": 900, "category_id": 90, "bbox": [1, 2, 30, 40], "iscrowd": 1},
            {"id": 2, "image_id": 7, "category_id": 90, "bbox": [10, 20, 30.5, 40], "area": 77.5},
            {"id": 5, "image_id": 900, "category_id": 4, "bbox": [-5, 70, 20, 20], "iscrowd": 0},
        ],
        "categories": [
            {"id": 90, "name": "cat"},
            {"id": 4, "name": "dog"},
            {"id": 6, "name": "ox"},
        ],
    }


def write(folder: Path, tree: Any) -> Path:
    (folder / "train" / "sub").mkdir(parents=True, exist_ok=True)
    (folder / "annotations").mkdir(exist_ok=True)
    for number, name in enumerate(("a.png", "b.png", "sub/c.png")):
        Image.new("RGB", (100, 80), (number, 0, 0)).save(folder / "train" / name)
    text = tree if isinstance(tree, str) else json.dumps(tree)
    (folder / "annotations" / "instances_train.json").write_text(text)
    return folder


def opened(folder: Path, tree: Any) -> RecordTable:
    data = open_data(write(folder, tree), "train")
    assert isinstance(data, RecordTable)
    return data


def test_records(tmp_path: Path) -> None:
    data = opened(tmp_path, sound())
    assert data.names == ("dog", "ox", "cat")
    assert data.category_ids == (4, 6, 90)
    assert [data.record(i).image_id for i in range(len(data))] == [7, 3, 900]
    first, empty, last = (data.record(i) for i in range(3))
    assert first.file == str(tmp_path / "train" / "a.png")
    assert (first.width, first.height) == (100, 80)
    np.testing.assert_array_equal(first.boxes, np.float32([[10, 20, 40.5, 60]]))
    assert (first.labels.tolist(), first.areas.tolist()) == ([2], [77.5])
    assert empty.boxes.shape == (0, 4)
    assert len(empty.labels) == 0
    assert last.crowd.tolist() == [True, False]
    np.testing.assert_array_equal(last.boxes, [[1, 2, 31, 42], [0, 70, 15, 80]])
    np.testing.assert_array_equal(last.annotated, [[1, 2, 30, 40], [-5, 70, 20, 20]])
    assert last.areas.tolist() == [1200, 400]
    assert last.boxes.dtype == np.float32
    assert last.labels.dtype == np.int64


def test_images(tmp_path: Path) -> None:
    data = opened(tmp_path, sound())
    assert [data.image(i)[0, 0, 0] for i in range(3)] == [0, 1, 2]
    assert data.shape(0) == data.image(0).shape[:2] == (80, 100)
    with pytest.raises(IndexError):
        data.record(3)


def test_sizes_are_optional(tmp_path: Path) -> None:
    tree = sound()
    del tree["images"][0]["width"]
    assert opened(tmp_path, tree).shape(0) == (80, 100)


def test_a_turned_image_is_read_in_the_frame_of_its_boxes(tmp_path: Path) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6
    file = io.BytesIO()
    Image.new("RGB", (80, 100)).save(file, "JPEG", exif=exif)
    for size in ((100, 80), (80, 100)):
        tree = sound()
        tree["images"][0] |= {"file_name": "turned.jpg", "width": size[0], "height": size[1]}
        write(tmp_path, tree)
        (tmp_path / "train" / "turned.jpg").write_bytes(file.getvalue())
        assert open_data(tmp_path).image(0).shape == (size[1], size[0], 3)


def found(data: RecordTable) -> dict[str, int]:
    """Findings by kind."""
    return {each.kind.name: each.count for each in data.findings}


def test_a_wrong_size_is_said_when_the_image_is_read(tmp_path: Path) -> None:
    tree = sound()
    tree["images"][0] |= {"width": 640, "height": 480}
    with pytest.raises(ValueError, match=r"a\.png is 100x80 pixels, .* made for 640x480"):
        opened(tmp_path, tree).image(0)


def test_sizes_are_checked_before_images_are_read(tmp_path: Path) -> None:
    """Of another scale: boxes move with it. Of another shape: by whether the boxes fit."""
    tree = sound()
    tree["images"][0] |= {"width": 200, "height": 160}
    tree["annotations"][1]["bbox"] = [100, 60, 50, 80]
    data = opened(tmp_path, tree).checked()
    np.testing.assert_array_equal(data.record(0).boxes, [[50, 30, 75, 70]])
    np.testing.assert_array_equal(data.record(0).annotated, [[50, 30, 25, 40]])
    assert data.record(0).areas.tolist() == [77.5 / 4]
    assert data.image(0).shape == (80, 100, 3)
    assert found(data) == {"box-cut": 1, "size-scaled": 1}
    tree["images"][0] |= {"width": 640, "height": 480}
    tree["annotations"][1]["bbox"] = [10, 20, 30.5, 40]
    data = opened(tmp_path, tree).checked()
    assert (found(data)["size-taken"], len(data)) == (1, 3)
    np.testing.assert_array_equal(data.record(0).boxes, np.float32([[10, 20, 40.5, 60]]))
    tree["annotations"][1]["bbox"] = [400, 20, 30.5, 40]
    data = opened(tmp_path, tree).checked()
    assert (found(data)["image-size-other"], len(data)) == (1, 2)
    assert [data.record(i).image_id for i in range(2)] == [3, 900]
    assert [len(data.record(i).boxes) for i in range(2)] == [0, 2]


def test_sizes_that_are_wrong_where_many_boxes_fit_the_images(tmp_path: Path) -> None:
    tree = sound()
    tree["images"][0] |= {"width": 200, "height": 160}
    row = tree["annotations"][1]
    tree["annotations"] += [row | {"id": 10 + n, "bbox": [n, n, 40, 30]} for n in range(14)]
    data = opened(tmp_path, tree).checked()
    assert found(data) == {"box-cut": 1, "size-taken": 1}
    np.testing.assert_array_equal(data.record(0).boxes[0], np.float32([10, 20, 40.5, 60]))


def test_damaged_images_are_left_out(tmp_path: Path) -> None:
    folder = write(tmp_path, sound())
    file = tmp_path / "train" / "a.png"
    file.write_bytes(file.read_bytes()[:-30])
    data = open_data(folder, "train").checked()
    assert [data.record(i).image_id for i in range(len(data))] == [3, 900]
    (finding,) = data.findings.of("skipped")
    assert (finding.kind.name, finding.count) == ("image-damaged", 1)
    assert "a.png is damaged" in finding.examples[0]
    (tmp_path / "train" / "b.png").write_bytes(b"none")
    (tmp_path / "train" / "sub" / "c.png").write_bytes(b"")
    with pytest.raises(ValueError, match=r"none of 3 images .* can be used: images that are d"):
        open_data(folder, "train").checked()


def test_boxes_that_are_cut_are_counted(tmp_path: Path) -> None:
    tree = sound()
    tree["annotations"][1]["bbox"] = [90, 20, 30, 40]
    (finding,) = opened(tmp_path, tree).findings
    assert str(finding) == (
        "boxes that reach past their image: 2, cut to it (first: "
        f"{tmp_path}/annotations/instances_train.json: annotation 2: [90, 20, 30, 40])"
    )
    assert len(finding.examples) == 2
    tree["annotations"][1]["bbox"] = [70, 20, 30.5, 40]  # rounded
    tree["annotations"][2]["bbox"] = [-1, 70, 20, 10]
    assert not found(opened(tmp_path, tree))


def test_a_box_one_pixel_off_is_moved_in(tmp_path: Path) -> None:
    tree = sound()
    tree["annotations"][0]["bbox"] = [100, 79, 1, 1]  # coordinates that count from 1
    data = opened(tmp_path, tree)
    np.testing.assert_array_equal(data.record(2).boxes[0], [99, 79, 100, 80])
    assert found(data) == {"box-moved": 1, "box-cut": 1}


def edit(*path: Any, value: Any = None) -> Callable[[dict[str, Any]], None]:
    """A change of the sound tree: what lies at ``path`` becomes ``value``; None removes it."""

    def change(tree: Any) -> None:
        *parents, last = path
        for key in parents:
            tree = tree[key]
        if value is None:
            del tree[last]
        else:
            tree[last] = value

    return change


def box(value: Any = None) -> Callable[[dict[str, Any]], None]:
    """Another box of the annotation 2, which is the only one of image 7."""
    return edit("annotations", 1, "bbox", value=value)


POLYGON = [[10, 20, 40, 20, 40, 60, 10, 60]]
ODD = [
    # change, kind of finding, boxes of image 7 that are left
    (box([10, 20, 0, 40]), "box-empty", 0),
    (box([10, 20, 1e-9, 4]), "box-empty", 0),
    (box([10, 60, 30, -40]), "box-swapped", 1),
    (box([10, 20, 3e400, 4]), "box-infinite", 0),
    (box([float("nan"), 20, 3, 4]), "box-infinite", 0),
    (box([-1e308, 20, 3, 4]), "box-infinite", 0),
    (box([10, 20, 30]), "box-unreadable", 0),
    (box([1, 2, 3, 10**400]), "box-unreadable", 0),
    (box([1, 2, True, 4]), "box-unreadable", 0),
    (box([[1], 2, 3, 4]), "box-unreadable", 0),
    (box("wide"), "box-unreadable", 0),
    (box(), "box-unreadable", 0),
    (box(["10", "20", "30", "40"]), "box-text", 1),
    (box([102, 2, 9, 9]), "box-outside", 0),
    (box([2, -20, 9, 9]), "box-outside", 0),
    (
        edit(
            "annotations",
            1,
            value={"id": 2, "image_id": 7, "category_id": 4, "segmentation": POLYGON},
        ),
        "box-from-shape",
        1,
    ),
    (edit("annotations", 1, "category_id", value=5), "class-unknown", 0),
    (edit("annotations", 1, "category_id"), "class-unknown", 0),
    (edit("annotations", 1, "category_id", value=[90]), "class-unknown", 0),
    (edit("annotations", 1, "category_id", value="90"), "id-text", 1),
    (edit("annotations", 1, "category_id", value=90.0), "id-text", 1),
    (edit("annotations", 1, "image_id", value=5), "image-unknown", 0),
    (edit("annotations", 1, "image_id"), "image-unknown", 0),
    (edit("annotations", 1, "image_id", value="7"), "id-text", 1),
    (edit("annotations", 1, "image_id", value="a.png"), "id-text", 1),
    (edit("annotations", 1, value=17), "row-unreadable", 0),
    (edit("annotations", 1, "id"), "annotation-id", 1),
    (edit("annotations", 1, "id", value=5), "annotation-id", 1),
    (edit("annotations", 1, "image_id", value="x" * 5000), "image-unknown", 0),
    (edit("annotations", 1, "iscrowd", value=200.0), "crowd-odd", 1),
    (edit("annotations", 1, "iscrowd", value="perhaps"), "crowd-odd", 1),
    (edit("annotations", 1, "area", value="=cmd()"), "area-odd", 1),
    (edit("annotations", 1, "area", value=-4), "area-odd", 1),
    (edit("images", 1, "id", value="3"), "id-text", 1),
    (edit("images", 1, "width", value=0), "size-odd", 1),
    (edit("images", 1, "width", value=1e300), "size-odd", 1),
    (edit("images", 1, "height", value=2**31), "size-odd", 1),
    (edit("images", 1, "height", value="high"), "size-odd", 1),
    (edit("images", 1, "file_name"), "image-unnamed", 1),
    (edit("images", 1, "file_name", value="gone.png"), "image-missing", 1),
    (edit("images", 1, "file_name", value="nowhere/x" * 2000), "image-missing", 1),
    (edit("images", 1, "file_name", value="/dev/zero"), "image-missing", 1),
    (edit("images", 1, "file_name", value="../../../etc/passwd"), "image-missing", 1),
    (edit("images", 1, "file_name", value="a.png"), "image-twice", 1),
    (edit("images", 1, "file_name", value="C:\\me\\b.png"), "name-cleaned", 1),
    (edit("images", 1, "file_name", value="/home/me/train/b%2Epng"), "name-cleaned", 1),
    (edit("images", 2, "file_name", value="elsewhere/c.png"), "name-base", 1),
    (edit("images", 2, "file_name", value="elsewhere/C.JPG"), "name-case", 1),
    (edit("categories", 1, "id", value=90), "class-id-repeated", 1),
    (edit("categories", 1, "name", value="cat"), "class-name-repeated", 1),
    (edit("categories", 1, "name"), "class-name-odd", 1),
    (edit("categories", 1, "name", value="\ud800"), "class-name-odd", 1),
]


@pytest.mark.parametrize(
    ("change", "kind", "left"), ODD, ids=[f"{n}-{o[1]}" for n, o in enumerate(ODD)]
)
def test_each_odd_row_is_counted_and_refuses_nothing(
    tmp_path: Path, change: Callable[[dict[str, Any]], None], kind: str, left: int
) -> None:
    tree = sound()
    change(tree)
    data = opened(tmp_path, tree)
    assert found(data)[kind] == 1, found(data)
    assert set(found(data)) <= {kind, "box-cut", "class-unknown", "image-unlisted"}
    by_id = {data.record(i).image_id: data.record(i) for i in range(len(data))}
    assert len(by_id[7].boxes) == left
    assert data.image(0).shape == (80, 100, 3)
    (finding,) = (each for each in data.findings if each.kind.name == kind)
    assert finding.examples
    assert max(map(len, finding.examples)) <= 160
    assert finding.examples[0].isprintable()


def test_boxes_of_a_repeated_image_id_are_given_to_no_image(tmp_path: Path) -> None:
    tree = sound()
    first = tree["images"][0]
    tree["images"].append(dict(first))  # the same image again
    assert found(opened(tmp_path / "same", tree))["line-twice"] == 1
    tree["images"][1]["id"] = first["id"]
    data = opened(tmp_path / "others", tree)
    assert (len(data), found(data)["image-id-repeated"]) == (1, 3)
    assert "image-unlisted" not in found(data)
    assert first["id"] not in data.image_ids
    for row in tree["images"]:
        row["id"] = 0
    with pytest.raises(ValueError, match="whose id another image has: 4, left out"):
        opened(tmp_path / "all", tree)


FATAL = [
    (edit("images"), "has no list 'images'"),
    (edit("annotations"), "has no list 'annotations'"),
    (edit("categories", value=5), "has no list 'categories'"),
    (edit("images", value=[]), "lists no images"),
]


@pytest.mark.parametrize(("change", "message"), FATAL, ids=[message for _, message in FATAL])
def test_what_no_data_can_be_read_from(
    tmp_path: Path, change: Callable[[dict[str, Any]], None], message: str
) -> None:
    tree = sound()
    change(tree)
    with pytest.raises(ValueError, match=message) as caught:
        opened(tmp_path, tree)
    assert "instances_train.json" in str(caught.value)
    assert "\n" not in str(caught.value)


def test_no_image_at_all(tmp_path: Path) -> None:
    tree = sound()
    for row in tree["images"]:
        del row["file_name"]
    with pytest.raises(ValueError, match="images without a file name: 3"):
        opened(tmp_path, tree)
    tree = sound()
    for row in tree["images"]:
        row["file_name"] = "gone/" + row["file_name"].replace(".", "_")
    with pytest.raises(FileNotFoundError, match=r"none of 3 images .* image 7 names 'gone/a_png"):
        opened(tmp_path, tree)


@pytest.mark.parametrize("text", ["", '{"images": [', "[]", "\ufeff{}", "[" * 100_000])
def test_json_that_is_none(tmp_path: Path, text: str) -> None:
    with pytest.raises(
        ValueError, match=r"instances_train.json (is (not readable|nested too deep)|has no list)"
    ) as caught:
        opened(tmp_path, text)
    assert len(str(caught.value)) < 500


def test_ids_as_text(tmp_path: Path) -> None:
    tree = sound()
    for row in tree["images"]:
        row["id"] = f"image {row['id']}"
    for row in tree["annotations"]:
        row["image_id"] = f"image {row['image_id']}"
    for row in tree["categories"]:
        row["id"] = f"c{row['id']}"
    for row in tree["annotations"]:
        row["category_id"] = f"c{row['category_id']}"
    data = opened(tmp_path, tree)
    assert [data.record(i).image_id for i in range(3)] == [1, 2, 3]
    assert [len(data.record(i).boxes) for i in range(3)] == [1, 0, 2]
    assert [data.names[label] for label in data.record(2).labels] == ["cat", "dog"]
    assert found(data)["id-numbered"] == 3


def test_the_root_that_only_groups_classes_is_left_out(tmp_path: Path) -> None:
    """As Roboflow writes them; a class of that name that owns a box stays."""
    tree = sound()
    for row in tree["categories"]:
        row["supercategory"] = "pets"
    tree["categories"].append({"id": 0, "name": "pets", "supercategory": "none"})
    data = opened(tmp_path, tree)
    assert data.names == ("dog", "ox", "cat")
    assert found(data)["class-grouping"] == 1
    tree["annotations"][1]["category_id"] = 0
    assert opened(tmp_path, tree).names == ("pets", "dog", "ox", "cat")


def test_masks_have_the_box_around_them(tmp_path: Path) -> None:
    from pycocotools import mask as masks

    canvas = np.zeros((80, 100), np.uint8)
    canvas[20:60, 10:40] = 1
    packed = masks.encode(np.asfortranarray(canvas))
    counts = packed["counts"].decode()
    runs = np.diff(np.flatnonzero(np.diff(canvas.T.ravel(), prepend=2, append=2))).tolist()
    for shape in (counts, runs):
        tree = sound()
        del tree["annotations"][1]["bbox"]
        tree["annotations"][1]["segmentation"] = {"size": [80, 100], "counts": shape}
        data = opened(tmp_path, tree)
        np.testing.assert_array_equal(data.record(0).boxes, [[10, 20, 40, 60]])


@given(st.integers(0, 2**32), st.integers(2, 30), st.integers(2, 30))
def test_boxes_of_any_mask_are_those_of_cocos_own_code(seed: int, height: int, width: int) -> None:
    from pycocotools import mask as masks

    rng = np.random.default_rng(seed)
    canvas = (rng.random((height, width)) < rng.choice([0.02, 0.3, 0.97])).astype(np.uint8)
    packed = masks.encode(np.asfortranarray(canvas))
    around = around_segmentation({"size": [height, width], "counts": packed["counts"].decode()})
    if not canvas.any():
        assert around is None
        return
    rows, columns = np.nonzero(canvas)
    expected = (columns.min(), rows.min(), columns.max() + 1, rows.max() + 1)
    # A run that goes over a column's end is taken to fill it: COCO's own toBbox does the same.
    assert around is not None
    assert around[0] == expected[0]
    assert around[2] == expected[2]
    x, y, w, h = masks.toBbox(packed).tolist()
    assert around == (x, y, x + w, y + h)


def test_federated_labels_name_the_classes_that_count(tmp_path: Path) -> None:
    tree = sound()
    tree["images"][0]["neg_category_ids"] = [6]
    tree["images"][2] |= {"neg_category_ids": [6], "not_exhaustive_category_ids": [90]}
    data = opened(tmp_path, tree)
    assert [data.record(i).known for i in range(3)] == [(1, 2), None, (0, 1)]
    config = derive(preset("dab-detr-nano"), "f", augment=None, training__batch=3)
    (batch,) = training_loader(data, config, seed=0, epoch=0)
    known = dict(zip(batch[1].names, batch[1].known.tolist(), strict=True))
    assert known[data.record(0).file] == [False, True, True]
    assert known[data.record(1).file] == [True, True, True]
    whole = opened(tmp_path, sound())
    assert all(b[1].known is None for b in training_loader(whole, config, seed=0, epoch=0))


FORMATS = {
    "xywh": lambda x, y, w, h: (x, y, w, h),
    "xyxy": lambda x, y, w, h: (x, y, x + w, y + h),
    "cxcywh": lambda x, y, w, h: (x + w / 2, y + h / 2, w, h),
}


@pytest.mark.parametrize("relative", [False, True])
@pytest.mark.parametrize("order", FORMATS)
@given(seed=st.integers(0, 2**32))
def test_any_box_format_is_told_over_the_whole_set(order: str, relative: bool, seed: int) -> None:
    rng = np.random.default_rng(seed)
    frames = np.tile([[640.0, 480.0]], (200, 1))
    sides = rng.uniform(0.02, 0.4, (200, 2)) * frames
    low = rng.uniform(0, 1, (200, 2)) * (frames - sides)
    numbers = np.stack(FORMATS[order](*low.T, *sides.T), 1)
    numbers = numbers / np.tile(frames, 2) if relative else numbers
    expected = order + "-relative" * relative
    for said in ("xywh", "cxcywh-relative", "xyxy"):
        told = tell_format(numbers, frames, said)
        boxes = to_pixels(numbers, frames, told)
        if order == said.partition("-")[0] or told == expected:
            assert told == expected
            np.testing.assert_allclose(boxes, np.concatenate((low, sides), 1), atol=1e-6)
        else:  # what is said stands, where it fits as well
            low_, high = boxes[:, :2], boxes[:, :2] + boxes[:, 2:]
            assert ((low_ < -10) | (high > frames + 10)).any(1).mean() < 0.1


def test_ids_and_groups_of_any_json_are_read(tmp_path: Path) -> None:
    tree = sound()
    tree["images"][0]["id"] = 10**30
    tree["categories"][0]["supercategory"] = ["x"]
    assert len(opened(tmp_path, tree)) == len(tree["images"])
