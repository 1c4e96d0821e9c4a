"""The usual layouts of annotated images: each gives what the same set gives in COCO's."""

from __future__ import annotations

import json
import logging
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from dabdetr.data.dataset import DetectionDataset
from dabdetr.data.layouts import is_data, open_data, splits

Write = Callable[[DetectionDataset, Path, str], None]


def write_yolo(data: DetectionDataset, root: Path, split: str) -> None:
    """Images in images/SPLIT, boxes 0–1 in labels/SPLIT."""
    for kind in ("images", "labels"):
        (root / kind / split).mkdir(parents=True)
    for index in range(len(data)):
        record = data.record(index)
        shutil.copy(record.file, root / "images" / split)
        extent = np.array([record.width, record.height] * 2)
        low, high = np.split(record.boxes.astype(float) / extent, 2, axis=1)
        rows = np.concatenate(((low + high) / 2, high - low), axis=1)
        lines = [
            " ".join(map(str, (label, *row)))
            for label, row in zip(record.labels.tolist(), rows.tolist(), strict=True)
        ]
        file = root / "labels" / split / Path(record.file).with_suffix(".txt").name
        file.write_text("\n".join(lines) + "\n")
    (root / "data.yaml").write_text(
        f"path: .\ntrain: images/train\nval: images/val\nnames: {json.dumps(data.names)}\n"
    )


def scene(name: str, record: Any, names: tuple[str, ...]) -> str:
    """VOC's XML: pixels counted from 1, the last one within."""
    objects = "".join(
        f"<object><name>{names[label]}</name><difficult>0</difficult><bndbox><xmin>{x0 + 1}</xmin>"
        f"<ymin>{y0 + 1}</ymin><xmax>{x1}</xmax><ymax>{y1}</ymax></bndbox></object>"
        for (x0, y0, x1, y1), label in zip(
            record.boxes.tolist(), record.labels.tolist(), strict=True
        )
    )
    return f"<annotation><filename>{name}</filename>{objects}</annotation>"


def write_voc(data: DetectionDataset, root: Path, split: str) -> None:
    for folder in ("JPEGImages", "Annotations", "ImageSets/Main"):
        (root / folder).mkdir(parents=True, exist_ok=True)
    stems = []
    for index in range(len(data)):
        record = data.record(index)
        stem = f"{split}_{index}"
        shutil.copy(record.file, root / "JPEGImages" / f"{stem}.png")
        text = scene(f"{stem}.png", record, data.names)
        (root / "Annotations" / f"{stem}.xml").write_text(text)
        stems.append(stem)
    (root / "ImageSets" / "Main" / f"{split}.txt").write_text("\n".join(stems) + "\n")
    (root / "ImageSets" / "Main" / f"cat_{split}.txt").write_text("a class's own list")


def write_flat_voc(data: DetectionDataset, root: Path, split: str) -> None:
    """As exporters pack it: XML beside the images, and valid for val."""
    folder = root / ("valid" if split == "val" else split)
    folder.mkdir(parents=True)
    for index in range(len(data)):
        record = data.record(index)
        shutil.copy(record.file, folder)
        name = Path(record.file)
        text = scene(name.name, record, data.names)
        (folder / name.with_suffix(".xml").name).write_text(text)


def write_packed_coco(data: DetectionDataset, root: Path, split: str) -> None:
    folder = root / ("valid" if split == "val" else split)
    source = Path(data.record(0).file).parent
    shutil.copytree(source, folder)
    file = source.parent / "annotations" / f"instances_{split}.json"
    shutil.copy(file, folder / "_annotations.coco.json")


@pytest.mark.parametrize("write", [write_yolo, write_voc, write_flat_voc, write_packed_coco])
def test_every_layout_gives_the_same(coco_folder: Path, tmp_path: Path, write: Write) -> None:
    root = tmp_path / "mine"
    for split in ("train", "val"):
        write(open_data(coco_folder, split), root, split)
    assert splits(root) == ["train", "val"]
    assert is_data(root)
    for split in ("train", "val"):
        theirs, ours = open_data(coco_folder, split), open_data(root, split)
        assert (ours.name, ours.split, len(ours)) == ("mine", split, len(theirs))
        used = {theirs.names[label] for i in range(8) for label in labels(coco_folder, i)}
        assert set(ours.names) in (set(theirs.names), used)
        for index in range(len(theirs)):
            one, other = theirs.record(index), ours.record(index)
            np.testing.assert_allclose(other.boxes, one.boxes, atol=1e-3)
            assert [ours.names[n] for n in other.labels] == [theirs.names[n] for n in one.labels]
            np.testing.assert_array_equal(ours.image(index), theirs.image(index))
            assert ours.shape(index) == theirs.shape(index)


def labels(folder: Path, index: int) -> list[int]:
    """Of image ``index``, in every split that has so many."""
    every = (open_data(folder, split) for split in ("train", "val"))
    return [n for data in every if index < len(data) for n in data.record(index).labels.tolist()]


@pytest.fixture
def yolo(coco_folder: Path, tmp_path: Path) -> Path:
    for split in ("train", "val"):
        write_yolo(open_data(coco_folder, split), tmp_path, split)
    return tmp_path


def test_data_yaml_itself_and_what_exporters_write_in_it(yolo: Path) -> None:
    """A path that is not there, ../ for the file's own folder, names by number, lists of files."""
    expected = [open_data(yolo, "train").record(i).boxes for i in range(8)]
    names = {n: str(n) for n in range(10)}
    listed = [f"./images/train/{path.name}" for path in sorted(yolo.glob("images/train/*"))]
    (yolo / "train.txt").write_text("\n".join(listed))
    for where in ("../images/train", "train.txt", "[images/train]", str(yolo / "images" / "train")):
        text = f"path: /nowhere\ntrain: {where}\nvalid: ../images/val\nnc: 10\nnames: {names}\n"
        (yolo / "other.yaml").write_text(text)
        assert splits(yolo / "other.yaml") == ["train", "val"]
        data = open_data(str(yolo / "other.yaml"), "train")
        for index, boxes in enumerate(expected):
            np.testing.assert_array_equal(data.record(index).boxes, boxes)


def test_polygons_backgrounds_and_lines_twice(yolo: Path, caplog: pytest.LogCaptureFixture) -> None:
    files = sorted((yolo / "labels" / "train").iterdir())
    files[0].write_text(
        "3 0.1 0.2 0.5 0.2 0.5 0.6 0.1 0.6\n\n4 0.5 0.5 0.25 0.5\n4 0.5 0.5 0.25 0.5\n"
    )
    files[1].write_text("")
    files[2].unlink()
    with caplog.at_level(logging.WARNING):
        data = open_data(yolo, "train")
    assert "1 lines occur twice" in caplog.text
    first, *others = (data.record(i) for i in range(3))
    expected = [[16, 32, 80, 96], [60, 40, 100, 120]]
    np.testing.assert_allclose(first.boxes, expected, atol=1e-4)
    assert first.labels.tolist() == [3, 4]
    assert [len(other.boxes) for other in others] == [0, 0]


def test_boxes_of_a_turned_photo_are_of_it_as_it_is_seen(yolo: Path) -> None:
    photo = Image.new("RGB", (200, 100), "white")
    photo.paste("black", (0, 0, 20, 20))
    exif = Image.Exif()
    exif[0x0112] = 6  # to be turned clockwise: what was at the top left is seen at the top right
    photo.save(yolo / "images" / "train" / "000.png", exif=exif)
    (yolo / "labels" / "train" / "000.txt").write_text("0 0.9 0.05 0.2 0.1\n")
    data = open_data(yolo, "train")
    assert data.shape(0) == (200, 100)
    x0, y0, x1, y1 = data.record(0).boxes[0].round().astype(int)
    assert (data.image(0)[y0:y1, x0:x1] == 0).all()


@pytest.mark.parametrize(
    ("line", "told"),
    [
        ("0 0.5 0.5 0.1", "line 2 should be a class and cx cy width height .* it has 4 numbers"),
        ("0 0.5 0.5 0.1 0.1 0.9", "it has 6 numbers"),
        ("cat 0.5 0.5 0.1 0.1", "line 2 should hold numbers only; it has 'cat 0.5 0.5 0.1 0.1'"),
        ("10 0.5 0.5 0.1 0.1", r"line 2 has class 10, but data\.yaml names 10 classes, 0 to 9"),
        ("0 80 80 16 16", r"line 2 should have numbers 0–1 of the image; it has \['80', '80'"),
        ("0 0.5 nan 0.1 0.1", "should have numbers 0–1"),
        ("0 0.5 0.5 0 0.1", "line 2 has a box without width or height"),
    ],
)
def test_bad_lines_of_yolo(yolo: Path, line: str, told: str) -> None:
    file = yolo / "labels" / "train" / "003.txt"
    file.write_text(f"1 0.5 0.5 0.1 0.1\n{line}\n")
    with pytest.raises(ValueError, match=rf"003\.txt, {told}" if "line" in told else told):
        open_data(yolo, "train")


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("train: images/train", r"data\.yaml has no names"),
        ("[1", "not readable YAML"),
        ("names: [a, a]\ntrain: images/train", "different class names"),
        ("names: {x: a}\ntrain: images/train", "different class names"),
        ("names: [a, b]\nnc: 3\ntrain: images/train", "says nc: 3, but has 2 names"),
        ("names: [a]", "names no images"),
        ("names: [a]\ntrain: labels", "there is no image"),
        ("names: [a]\ntrain: nowhere", "nowhere, which does not exist"),
        ("names: [a]\ntrain: bare", r"none of 1 images has a file of boxes; .*bare/x\.txt"),
    ],
)
def test_bad_data_yaml(yolo: Path, text: str, told: str) -> None:
    (yolo / "bare").mkdir()
    Image.new("RGB", (8, 8)).save(yolo / "bare" / "x.png")
    (yolo / "data.yaml").write_text(text)
    with pytest.raises((ValueError, FileNotFoundError), match=told):
        open_data(yolo, "train")


@pytest.fixture
def voc(coco_folder: Path, tmp_path: Path) -> Path:
    write_voc(open_data(coco_folder, "val"), tmp_path, "train")
    return tmp_path


def box(*numbers: float, more: str = "") -> str:
    edges = zip(("xmin", "ymin", "xmax", "ymax"), numbers, strict=True)
    inside = "".join(f"<{edge}>{number}</{edge}>" for edge, number in edges)
    return f"<object><name>cat</name>{more}<bndbox>{inside}</bndbox></object>"


def test_pixels_from_one_or_from_zero_and_what_is_difficult(voc: Path) -> None:
    files = sorted((voc / "Annotations").iterdir())
    difficult = box(9, 9, 20, 30, more="<difficult>1</difficult>")
    files[0].write_text(f"<a><object/>{box(1, 1, 10, 20)}</a>".replace("<object/>", difficult))
    data = open_data(voc)
    assert data.record(0).boxes.tolist() == [[8, 8, 20, 30], [0, 0, 10, 20]]
    assert data.record(0).crowd.tolist() == [True, False]
    assert "cat" in data.names
    files[0].write_text(f"<a>{box(0, 1, 10, 20)}</a>")
    assert open_data(voc).record(0).boxes.tolist() == [[0, 1, 10, 20]]


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("<a>", "not readable XML"),
        ("<a><object><name>cat</name></object></a>", "object 1 should have a name and a bndbox"),
        (f"<a>{box(5, 5, 3, 9)}</a>", "object 1 has a box without width or height"),
        ("<a><filename>none.jpg</filename></a>", None),  # the image of the file's own name
    ],
)
def test_bad_xml(voc: Path, text: str, told: str | None) -> None:
    (voc / "Annotations" / "train_1.xml").write_text(text)
    if told is None:
        assert len(open_data(voc).record(1).boxes) == 0
        (voc / "JPEGImages" / "train_1.png").unlink()
        with pytest.raises(FileNotFoundError, match=r"train_1\.xml has no image none\.jpg in"):
            open_data(voc)
    else:
        with pytest.raises(ValueError, match=rf"train_1\.xml.*{told}"):
            open_data(voc)


def test_a_list_of_voc_that_names_what_is_not_there(voc: Path) -> None:
    (voc / "ImageSets" / "Main" / "test.txt").write_text("unknown\n")  # VOC keeps these itself
    assert splits(voc) == ["train"]
    (voc / "ImageSets" / "Main" / "val.txt").write_text("unknown 1\n")
    with pytest.raises(FileNotFoundError, match=r"val\.txt lists unknown, but there is no"):
        splits(voc)


def test_images_alone_are_no_data(coco_folder: Path, tmp_path: Path) -> None:
    assert not is_data(coco_folder / "train")
    assert not is_data(tmp_path / "nowhere")
    assert is_data("scenes:count=3")
