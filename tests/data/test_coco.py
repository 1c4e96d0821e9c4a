"""COCO's json: what is read, and one sentence for each fault."""

from __future__ import annotations

import io
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from dabdetr.data.coco import CocoData
from dabdetr.data.layouts import open_data
from dabdetr.data.loader import training_loader
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


def opened(folder: Path, tree: Any) -> CocoData:
    data = open_data(write(folder, tree), "train")
    assert isinstance(data, CocoData)
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


def test_a_wrong_size_is_said_when_the_image_is_read(tmp_path: Path) -> None:
    tree = sound()
    tree["images"][0] |= {"width": 640, "height": 480}
    with pytest.raises(ValueError, match=r"a\.png is 100x80 pixels, .* made for 640x480"):
        opened(tmp_path, tree).image(0)


def test_boxes_that_are_cut_are_told(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    tree = sound()
    opened(tmp_path, tree)
    (said,) = caplog.messages
    assert said.endswith(
        "instances_train.json: 1 box reaches past its image and was cut to it (first: annotation 5)"
    )
    caplog.clear()
    tree["annotations"][1]["bbox"] = [90, 20, 30, 40]
    opened(tmp_path, tree)
    assert (
        "2 boxes reach past their images and were cut to them (first: annotation 2)"
        in (caplog.messages[0])
    )
    caplog.clear()
    tree["annotations"][1]["bbox"] = [70, 20, 30.5, 40]  # rounded
    tree["annotations"][2]["bbox"] = [-1, 70, 20, 10]
    opened(tmp_path, tree)
    assert not caplog.messages


def test_a_box_outside_the_size_of_the_json_blames_the_json(tmp_path: Path) -> None:
    tree = sound()
    tree["images"][0] |= {"width": 20, "height": 15}
    with pytest.raises(
        ValueError, match=r"image 7 should be of 20x15 pixels, but .*a\.png has 100x80; correct"
    ):
        opened(tmp_path, tree)


def test_more_annotations_of_one_fault_are_counted(tmp_path: Path) -> None:
    faults = {
        "bbox": ([500, 500, 9, 9], [1, 2, 0, 4], [1, 2, float("nan"), 4], [1, 2, 3]),
        "category_id": (77,),
    }
    for key, values in faults.items():
        for value in values:
            tree = sound()
            for row in tree["annotations"]:
                row[key] = value
            with pytest.raises(ValueError, match=r"annotation 1 .*\(and 2 more such\)"):
                opened(tmp_path, tree)


def test_a_box_one_pixel_off_is_moved_in(tmp_path: Path) -> None:
    tree = sound()
    tree["annotations"][0]["bbox"] = [100, 79, 1, 1]  # coordinates that count from 1
    boxes = opened(tmp_path, tree).record(2).boxes
    np.testing.assert_array_equal(boxes[0], [99, 79, 100, 80])


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


FAULTS = [
    (edit("images"), "has no list 'images'"),
    (edit("annotations"), "has no list 'annotations'"),
    (edit("categories"), "has no list 'categories'"),
    (edit("images", value=[]), "lists no images"),
    (edit("categories", value=[]), "lists no categories"),
    (edit("annotations", value=[]), "no annotation at all"),
    (
        edit("annotations", 1, "bbox", value=[10, 20, 0, 40]),
        "annotation 2 .* width 0 and height 40",
    ),
    (edit("annotations", 1, "bbox", value=[10, 20, 30, -4]), "annotation 2 .* height -4"),
    (edit("annotations", 1, "bbox", value=[10, 20, 1e-9, 4]), "annotation 2 .* above zero"),
    (edit("annotations", 1, "bbox", value=[10, 20, 3e400, 4]), "annotation 2 .* not finite"),
    (edit("annotations", 1, "bbox", value=[float("nan"), 20, 3, 4]), "annotation 2 .* not finite"),
    (edit("annotations", 1, "bbox", value=[10, 20, 30]), "annotation 2 .* four numbers"),
    (edit("annotations", 1, "bbox", value=[1, 2, 3, 10**400]), "annotation 2 .* four numbers"),
    (edit("annotations", 1, "bbox", value="wide"), "annotation 2 .* four numbers"),
    (edit("annotations", 1, "bbox"), "annotation 2 .* four numbers"),
    (
        edit("annotations", 1, "bbox", value=[102, 2, 9, 9]),
        "annotation 2 .* outside .* 100x80 pixels, as the",
    ),
    (edit("annotations", 1, "bbox", value=[2, -20, 9, 9]), "annotation 2 .* outside .* 100x80"),
    (edit("annotations", 1, "category_id", value=5), "annotation 2 has category_id 5, .* not in"),
    (edit("annotations", 1, "image_id", value=5), "annotation 2 has image_id 5, .* not in"),
    (edit("annotations", 1, "image_id"), "annotation 2 should have an integer image_id"),
    (edit("annotations", 1, "id"), "annotation number 2 should have an integer id"),
    (edit("annotations", 1, "id", value=5), "annotation id 5 occurs twice"),
    (edit("images", 1, "id", value=900), "image id 900 occurs twice"),
    (edit("images", 1, "id", value="x"), "image number 2 should have an integer id; it has 'x'"),
    (edit("images", 1, "width", value=0), "image 3 should have a width and height"),
    (edit("images", 1, "file_name"), "image 3 has no file_name"),
    (edit("categories", 1, "id", value=90), "category id 90 occurs twice"),
    (edit("categories", 1, "name", value="cat"), "two categories are called 'cat'"),
    (edit("categories", 1, "name"), "category 4 has no name"),
]


@pytest.mark.parametrize(("change", "message"), FAULTS, ids=[message for _, message in FAULTS])
def test_each_fault_is_one_sentence(
    tmp_path: Path, change: Callable[[dict[str, Any]], None], message: str
) -> None:
    tree = sound()
    change(tree)
    with pytest.raises(ValueError, match=message) as caught:
        opened(tmp_path, tree)
    assert "instances_train.json" in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("name", ["gone.png", "nowhere/a.png"])
def test_a_missing_image(tmp_path: Path, name: str) -> None:
    tree = sound()
    tree["images"][1]["file_name"] = name
    with pytest.raises(FileNotFoundError, match=f"image 3 names the image .*{name}, which does"):
        opened(tmp_path, tree)


@pytest.mark.parametrize("text", ["", '{"images": [', "[]", "\ufeff{}"])
def test_json_that_is_none(tmp_path: Path, text: str) -> None:
    with pytest.raises(
        ValueError, match=r"instances_train.json (is not readable JSON|has no list)"
    ):
        opened(tmp_path, text)


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
