"""Where a data set may lie, and what is said of those that are not there."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import numpy as np
import pytest

from dabdetr.data.layouts import open_data, splits

REAL = Path(os.environ.get("DABDETR_DATA", Path(__file__).parents[3] / "shared" / "data"))
SETS = {  # images and boxes of each split, and classes: counted when the sets were gathered
    "bccd": ({"train": (205, 2804), "val": (87, 1137), "test": (72, 945)}, 3),
    "coco128": ({"train": (128, 939), "val": (128, 903)}, 80),
    "deeppcb": ({"train": (1000, 6873), "val": (500, 3140)}, 6),
    "foda": ({"train": (3198, 3250), "val": (722, 737)}, 31),
    "raccoon": ({"train": (160, 173), "val": (40, 44)}, 1),
}


@pytest.mark.parametrize("name", SETS)
def test_real_sets_open(name: str) -> None:
    if not (REAL / name).is_dir():
        pytest.skip(f"no real data at {REAL / name}; set DABDETR_DATA to the folder that has them")
    sizes, classes = SETS[name]
    assert splits(REAL / name) == list(sizes)
    for split, (images, boxes) in sizes.items():
        data = open_data(REAL / name, split)
        records = [data.record(i) for i in range(len(data))]
        assert (data.name, data.split, len(data.names)) == (name, split, classes)
        assert (len(data), sum(len(record.labels) for record in records)) == (images, boxes)
        for index in range(0, len(data), max(1, len(data) // 5)):
            assert data.image(index).shape == (*data.shape(index), 3)


def test_coco128_has_its_crowds_and_sparse_ids() -> None:
    if not (REAL / "coco128").is_dir():
        pytest.skip(f"no real data at {REAL / 'coco128'}; set DABDETR_DATA to a folder that has it")
    data = open_data(REAL / "coco128", "train")
    assert sum(data.record(i).crowd.sum() for i in range(len(data))) == 10
    assert (data.names[-1], data.category_ids[-1]) == ("toothbrush", 90)


@pytest.mark.parametrize(
    ("json", "folder"),
    [
        ("instances_train.json", "train"),
        ("instances_train.json", "images/train"),
        ("instances_train2017.json", "train2017"),
        ("instances_train2017.json", "images/train2017"),
        ("instances_train2017.json", "train"),
        ("instances_train.json", "train2017"),
        ("instances_train.json", "images"),
    ],
)
def test_layouts(coco_folder: Path, tmp_path: Path, json: str, folder: str) -> None:
    (tmp_path / "annotations").mkdir()
    shutil.copy(
        coco_folder / "annotations" / "instances_train.json", tmp_path / "annotations" / json
    )
    shutil.copytree(coco_folder / "train", tmp_path / folder)
    assert splits(tmp_path) == ["train"]
    assert open_data(tmp_path, "train").image(0).shape == (160, 160, 3)
    assert len(open_data(str(tmp_path), "train2017")) == 8


def test_json_and_images_given_apart(coco_folder: Path) -> None:
    json = coco_folder / "annotations" / "instances_val.json"
    data = open_data(None, "val", annotations=json, images=coco_folder / "val")
    whole = open_data(coco_folder, "val")
    assert len(data) == len(whole) == 4
    for index in range(4):
        np.testing.assert_array_equal(data.record(index).boxes, whole.record(index).boxes)
        np.testing.assert_array_equal(data.image(index), whole.image(index))
    with pytest.raises(ValueError, match="go together; only annotations was given"):
        open_data(None, "val", annotations=json)
    with pytest.raises(FileNotFoundError, match=r"no image folder .*nowhere"):
        open_data(None, "val", annotations=json, images=coco_folder / "nowhere")
    with pytest.raises(FileNotFoundError, match=r"no annotation file .*none\.json"):
        open_data(None, "val", annotations=coco_folder / "none.json", images=coco_folder / "val")


def test_a_set_written_and_read_again_is_the_same(coco_folder: Path) -> None:
    scenes, data = open_data("scenes", "train"), open_data(coco_folder, "train")
    assert (data.names, data.category_ids) == (scenes.names, scenes.category_ids)
    for index in range(8):
        np.testing.assert_array_equal(data.image(index), scenes.image(index))
        np.testing.assert_array_equal(data.record(index).boxes, scenes.record(index).boxes)
        np.testing.assert_array_equal(data.record(index).labels, scenes.record(index).labels)


def test_split_that_is_not_there(coco_folder: Path) -> None:
    with pytest.raises(ValueError, match=r"no split 'test'; choose one of: train, val"):
        open_data(coco_folder, "test")


def test_no_data(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="no data folder"):
        open_data(tmp_path / "nowhere")
    with pytest.raises(
        ValueError, match=r"has no annotations that are known\. Looked for: annotations/"
    ):
        open_data(tmp_path)
    (tmp_path / "photo.txt").touch()
    with pytest.raises(ValueError, match=r"labelme, .* other tools\. There is: photo\.txt\.$"):
        open_data(tmp_path)  # nothing of the message is cut
    (tmp_path / "data.yaml").touch()
    for yolo in (tmp_path, tmp_path / "data.yaml"):
        with pytest.raises(ValueError, match=r"data\.yaml has no names"):
            open_data(yolo)
    (tmp_path / "file").touch()
    with pytest.raises(ValueError, match="is a file"):
        open_data(tmp_path / "file")
    with pytest.raises(ValueError, match="no data: give"):
        open_data()
    (tmp_path / "annotations").mkdir()
    text = '{"images": [{"id": 1, "file_name": "a.png"}], "annotations": [], "categories": [{}]}'
    (tmp_path / "annotations" / "instances_train.json").write_text(text)
    with pytest.raises(FileNotFoundError, match=r"none of 1 image .* 'a.png', which does"):
        open_data(tmp_path)
