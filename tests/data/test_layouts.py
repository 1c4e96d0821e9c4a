"""The usual layouts of annotated images: each gives what the same set gives in COCO's."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from dabdetr.data.dataset import DetectionDataset
from dabdetr.data.layouts import is_data, open_data, open_training, splits
from dabdetr.data.records import RecordTable
from dabdetr.report import contents
from dabdetr.training.fingerprint import changes, fingerprint

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


def found(data: DetectionDataset) -> dict[str, int]:
    """Findings by kind."""
    counts = {each.kind.name: each.count for each in data.findings}
    counts.pop("pixels-from-one", None)  # of all VOC's data here
    return counts


def test_polygons_backgrounds_and_lines_twice(yolo: Path) -> None:
    files = sorted((yolo / "labels" / "train").iterdir())
    files[0].write_text(
        "3 0.1 0.2 0.5 0.2 0.5 0.6 0.1 0.6\n\n4 0.5 0.5 0.25 0.5\n4 0.5 0.5 0.25 0.5\n"
    )
    files[1].write_text("")
    files[2].unlink()
    data = open_data(yolo, "train")
    assert found(data) == {"line-twice": 1, "label-missing": 1, "box-rotated": 1}
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


LINES = [
    # line, kind of finding, boxes left of it
    ("0 0.5 0.5 0.1", "line-columns", 0),
    ("0 0.5 0.5 0.1 0.1 0.9", "line-confidence", 1),
    ("0 0.5 0.5 0.1 0.1 -1.2", "line-angle", 0),
    ("0 0.5 0.5 0.1 0.1 0.9 17", "line-columns", 0),
    ("0 0.1 0.2 0.5 0.2 0.5 0.6", "line-outline", 1),
    ("0 0.1 0.2 0.5 0.2 0.5 0.6 0.7", "line-confidence", 1),
    ("0 0.1 0.2 0.5 0.2 0.5 0.6 0.1 0.6", "box-rotated", 1),
    ("0 0.5 0.5 0.4 0.4 0.4 0.4 2 0.6 0.6 1", "line-keypoints", 0),
    ("cat 0.5 0.5 0.1 0.1", "line-unreadable", 0),
    ("0x1 0.5 0.5 0.1 0.1", "line-unreadable", 0),
    ("10 0.5 0.5 0.1 0.1", "class-unknown", 0),
    ("-1 0.5 0.5 0.1 0.1", "class-unknown", 0),
    ("0.5 0.5 0.5 0.1 0.1", "class-unknown", 0),
    ("0 80 80 16 16", "box-beyond", 0),
    ("0 0.5 1.02 0.2 0.2", "box-cut", 1),
    ("0 0.5 nan 0.1 0.1", "box-infinite", 0),
    ("0 0.5 inf 0.1 0.1", "box-infinite", 0),
    ("0 0.5 0.5 0 0.1", "box-empty", 0),
    ("0 0.5 0.5 0.1 -0.1", "box-swapped", 1),
    ("0,0.5,0.5,0.1,0.1", "line-separators", 1),
    ("0; 0.5; 0.5; 0.1; 0.1;", "line-separators", 1),
    ("0\t0.5 0.5  0.1 0.1 ", "", 1),
    ("0.0 5e-1 .5 0.1 0.1", "", 1),
]


@pytest.mark.parametrize(("line", "kind", "left"), LINES, ids=[line for line, _, _ in LINES])
def test_odd_lines_of_yolo(yolo: Path, line: str, kind: str, left: int) -> None:
    """Each is counted by its kind, and refuses nothing; other boxes stay as they are."""
    before = open_data(yolo, "train")
    file = yolo / "labels" / "train" / "003.txt"
    file.write_text(f"1 0.5 0.5 0.2 0.2\n{line}\n")
    data = open_data(yolo, "train")
    assert found(data) == ({kind: 1} if kind else {})
    assert len(data.record(3).boxes) == 1 + left
    np.testing.assert_allclose(data.record(3).boxes[0], [64, 64, 96, 96], atol=1e-3)
    for index in (0, 1, 2, 4):
        np.testing.assert_array_equal(data.record(index).boxes, before.record(index).boxes)
    for each in data.findings:
        assert "003.txt, line 2" in each.examples[0]


@pytest.mark.parametrize("encoding", ["utf-8-sig", "utf-16", "gbk", "cp1252"])
def test_text_of_any_encoding(yolo: Path, encoding: str) -> None:
    name = "größe" if encoding == "cp1252" else "红色"
    names = [name, *map(str, range(1, 10))]
    text = f"train: images/train\nval: images/val\nnames: {json.dumps(names, ensure_ascii=False)}\n"
    (yolo / "data.yaml").write_bytes(text.encode(encoding))
    file = yolo / "labels" / "train" / "000.txt"
    file.write_bytes(("0 0.5 0.5 0.1 0.1\r\n1 0.5 0.5 0.2 0.2\r\n").encode(encoding))
    data = open_data(yolo, "train")
    assert data.names == tuple(names)
    assert data.record(0).labels.tolist() == [0, 1]
    assert set(found(data)) <= {"encoding"}
    assert bool(found(data)) == (encoding in ("gbk", "cp1252"))


def test_pixels_in_yolos_lines_are_told_over_the_whole_split(yolo: Path) -> None:
    expected = [open_data(yolo, "train").record(i).boxes for i in range(8)]
    for file in (yolo / "labels" / "train").iterdir():
        rows = [line.split() for line in file.read_text().splitlines()]
        texts = [" ".join([row[0], *(str(float(v) * 160) for v in row[1:])]) for row in rows]
        file.write_text("\n".join(texts))
    data = open_data(yolo, "train")
    assert set(found(data)) == {"box-pixels"}
    assert isinstance(data, RecordTable)
    assert data.box_format == "cxcywh"
    for index, boxes in enumerate(expected):
        np.testing.assert_allclose(data.record(index).boxes, boxes, atol=1e-3)
    wrong = open_data(yolo, "train", box_format="cxcywh-relative")  # as it is asked for
    assert set(found(wrong)) == {"box-beyond"}


def test_keypoints_that_are_declared(yolo: Path) -> None:
    file = yolo / "labels" / "train" / "000.txt"
    file.write_text("0 0.5 0.5 0.2 0.2 0.4 0.4 0.6 0.6 0.5 0.5\n")
    (yolo / "data.yaml").write_text(
        f"train: images/train\nval: images/val\nkpt_shape: [3, 2]\nnames: {list(range(10))}\n"
    )
    data = open_data(yolo, "train")
    assert found(data) == {"line-keypoints-declared": 1}
    np.testing.assert_allclose(data.record(0).boxes, [[64, 64, 96, 96]], atol=1e-3)


def test_label_files_are_shared_or_in_another_case(yolo: Path) -> None:
    images, labels = yolo / "images" / "train", yolo / "labels" / "train"
    shutil.copy(images / "000.png", images / "000.jpg")
    (images / "001.png").rename(images / "cam1.png")
    (labels / "001.txt").rename(labels / "Cam1.txt")
    data = open_data(yolo, "train")
    assert found(data) == {"label-shared": 1, "label-case": 1, "label-missing": 1}
    assert len(data.record(0).boxes) == len(data.record(1).boxes) > 0


def test_an_image_whose_label_file_cannot_be_read_is_no_background(yolo: Path) -> None:
    before = len(open_data(yolo, "train"))
    next((yolo / "labels" / "train").iterdir()).write_bytes(b"\xff\xfe0")
    data = open_data(yolo, "train")
    assert (len(data), found(data)["file-unreadable"]) == (before - 1, 1)
    assert "image-unlisted" not in found(data)


def test_an_empty_image_is_no_unlisted_one(yolo: Path) -> None:
    images = sorted((yolo / "images" / "train").iterdir())
    images[0].write_bytes(b"")
    assert found(open_training(yolo)[0])["image-damaged"] == 1
    assert "image-unlisted" not in found(open_training(yolo)[0])
    for image in images:
        image.write_bytes(b"")
    with pytest.raises(ValueError, match=f"none of {len(images)} images"):
        open_training(yolo)


def test_images_of_every_ending_are_found(yolo: Path) -> None:
    images, labels = yolo / "images" / "train", yolo / "labels" / "train"
    picture = Image.open(images / "000.png").convert("RGB")
    formats = {"avif": "AVIF", "jfif": "JPEG", "JPE": "JPEG", "mpo": "MPO", "webp": "WEBP"}
    for ending, form in formats.items():
        picture.save(images / f"{ending}.{ending}", form)
        shutil.copy(labels / "000.txt", labels / f"{ending}.txt")
    (images / "phone.heic").write_bytes(b"\0\0\0\x18ftypheic")
    data = open_data(yolo, "train")
    assert len(data) == 8 + len(formats)
    (damaged,) = data.findings.of("skipped")
    assert (damaged.kind.name, damaged.count) == ("image-damaged", 1)
    assert "pip install pillow-heif" in damaged.examples[0]


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("train: images/train", r"data\.yaml has no names"),
        ("[1", "not readable YAML"),
        ("names: {x: a}\ntrain: images/train", "different class names"),
        ("names: &n [x, *n]\ntrain: images/train", "not readable YAML|different class names"),
        ("names: [a]", "names no images"),
        ("names: [a]\ntrain: labels", "there is no image"),
        ("names: [a]\ntrain: nowhere", "'nowhere', which does not exist"),
        (f"names: [a]\ntrain: {'a' * 5000}", "which does not exist"),
        ("names: [a]\ntrain: bare", r"none of 1 image has a file of boxes; .*bare/x\.txt"),
    ],
)
def test_bad_data_yaml(yolo: Path, text: str, told: str) -> None:
    (yolo / "bare").mkdir()
    Image.new("RGB", (8, 8)).save(yolo / "bare" / "x.png")
    (yolo / "data.yaml").write_text(text)
    with pytest.raises((ValueError, FileNotFoundError), match=told) as caught:
        open_data(yolo, "train")
    assert len(str(caught.value)) < 500


def test_file_names_that_are_no_unicode_have_fingerprints(yolo: Path) -> None:
    """As files from an old archive have them; checkpoints and reports identify data by these."""
    image = min((yolo / "images" / "train").iterdir())
    try:
        image.rename(os.fsdecode(os.fsencode(image.parent) + b"/\xe9.png"))
    except OSError:
        pytest.skip("this file system has Unicode names only")
    data = open_data(yolo, "train")
    assert any("\udce9" in data.record(row).file for row in range(len(data)))
    assert not changes("train", fingerprint(data), data)
    assert len(contents.fingerprint(data)) == 16


@pytest.mark.parametrize("way", ["../images/train", "{yolo}/images/train", "train.txt"])
def test_images_outside_the_folder_are_said(yolo: Path, way: str) -> None:
    root = yolo / "set"
    root.mkdir()
    way = way.format(yolo=yolo)
    (root / "data.yaml").write_text(f"train: {way}\nval: {way}\nnames: {list('0123456789')}\n")
    images = sorted(map(str, (yolo / "images" / "train").iterdir()))
    (root / "train.txt").write_text("\n".join(images))
    (root / "obj.names").write_text("\n".join("0123456789"))
    (root / "obj.data").write_text("names = obj.names\ntrain = train.txt\n")
    for place in (root, root / "data.yaml", root / "obj.data"):
        if place.suffix != ".data" or way == "train.txt":
            data = open_data(place, "train")
            assert len(data) == len(images)
            assert found(data)["image-outside"] == len(images)
    shutil.move(root / "data.yaml", yolo / "data.yaml")
    shutil.copy(root / "train.txt", yolo)
    assert "image-outside" not in found(open_data(yolo, "train"))


def test_the_whole_file_system_is_no_folder_of_images(yolo: Path) -> None:
    (yolo / "data.yaml").write_text("train: /\nval: images/val\nnames: [a, b, c]\n")
    with pytest.raises(ValueError, match="/ is the whole file system; name a folder of images"):
        open_data(yolo, "train")


@pytest.mark.parametrize(
    ("text", "kind", "names"),
    [
        ("names: [a, a, b]", "class-name-repeated", ("a", "b")),
        ("names: [a, b]\nnc: 3", "class-count", ("a", "b")),
        ("nc: 10", "class-names-missing", tuple("0123456789")),
        ("names: {'0': a, '1': b}", "", ("a", "b")),
        ('names: {0: a, 1: "\\e]0;x\\a"}', "class-name-odd", ("a", "\\x1b]0;x\\x07")),
        ("names: [a, b]\ntest: gone", "split-missing", ("a", "b")),
    ],
)
def test_odd_data_yaml(yolo: Path, text: str, kind: str, names: tuple[str, ...]) -> None:
    (yolo / "data.yaml").write_text(f"train: images/train\nval: images/val\n{text}\n")
    data = open_data(yolo, "train")
    assert data.names == names
    assert set(found(data)) - {"class-unknown"} == ({kind} if kind else set())
    assert splits(yolo) == ["train", "val"]


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


XML = [
    # text, kind of finding, boxes left
    (f"<a>{box(5, 9, 3, 9)}</a>", "box-swapped", 1),
    (f"<a>{box(9, 5, 3, 2)}</a>", "box-swapped", 1),
    ("<a><object><name>cat</name></object></a>", "box-unreadable", 0),
    (f"<a>{box(5, 5, 9, 9).replace('9', 'x')}</a>", "box-unreadable", 0),
    (f"<a>{box(5, 5, 1e308, 9)}</a>", "box-infinite", 0),
    (f"<a>{box(5, 5, float('nan'), 9)}</a>", "box-infinite", 0),
    (f"<a>{box(5, 5, 30, 30).replace('cat', ' ')}</a>", "class-unknown", 0),
    (f"<a>{box(500, 500, 530, 530)}</a>", "box-outside", 0),
    (f"<a>{box(5, 5, 3000, 30)}</a>", "box-cut", 1),
    (
        "<a><object><name>cat</name><robndbox><cx>40</cx><cy>40</cy><w>20</w><h>10</h>"
        "<angle>1.5707963267948966</angle></robndbox></object></a>",
        "box-rotated",
        1,
    ),
    (
        "<a><object><name>cat</name><polygon><x1>3</x1><y1>4</y1><x2>30</x2><y2>4</y2>"
        "<x3>9</x3><y3>40</y3></polygon></object></a>",
        "box-from-shape",
        1,
    ),
    (
        f"<a><size><width>320</width><height>320</height></size>{box(200, 2, 300, 40)}</a>",
        "size-scaled",
        1,
    ),
    (f"<a><size><width>0</width><height>0</height></size>{box(20, 2, 30, 40)}</a>", "", 1),
    ("<a><filename>C:\\x\\train_1.png</filename></a>", "name-cleaned", 0),
    ("<a><filename>none.jpg</filename></a>", "name-case", 0),
    ("<a><filename>TRAIN_1.JPG</filename></a>", "name-case", 0),
    (f"<a><filename>{'a' * 3000}</filename></a>", "name-case", 0),
    ('<!DOCTYPE a [<!ENTITY b "c">]><a>&b;</a>', "file-unreadable", None),
    ("<a>", "file-unreadable", None),
]


@pytest.mark.parametrize(("text", "kind", "left"), XML)
def test_odd_xml(voc: Path, text: str, kind: str, left: int | None) -> None:
    (voc / "Annotations" / "train_1.xml").write_text(text)
    data = open_data(voc)
    beside = {"split-only"} | ({"image-unlisted"} if left is None else set())
    assert set(found(data)) - beside == ({kind} if kind else set())
    if left is None:
        assert [Path(data.record(i).file).stem for i in range(len(data))] == [
            "train_0",
            "train_2",
            "train_3",
        ]
    else:
        assert len(data.record(1).boxes) == left
        assert data.record(1).file.endswith("train_1.png")
    if kind == "box-rotated":
        np.testing.assert_allclose(data.record(1).boxes, [[34, 29, 45, 50]], atol=1e-3)
    if kind == "box-swapped":
        assert data.record(1).boxes.tolist() in ([[2, 8, 5, 9]], [[2, 1, 9, 5]])


def test_xml_in_any_encoding(voc: Path) -> None:
    file = voc / "Annotations" / "train_1.xml"
    for declared, encoding, name in (
        ("GBK", "gbk", "红色"),
        ("", "gbk", "红色"),
        ("", "cp1252", "größe"),
        ("utf-8", "cp1252", "größe"),
        ("ISO-8859-1", "cp1252", "größe"),
    ):
        said = f'<?xml version="1.0" encoding="{declared}"?>' if declared else ""
        file.write_bytes((said + f"<a>{box(2, 2, 9, 9).replace('cat', name)}</a>").encode(encoding))
        assert name in open_data(voc).names


def test_an_image_that_lacks(voc: Path) -> None:
    (voc / "JPEGImages" / "train_1.png").unlink()
    data = open_data(voc)
    assert (len(data), found(data)["image-missing"]) == (3, 1)
    for file in (voc / "JPEGImages").iterdir():
        file.unlink()
    with pytest.raises(FileNotFoundError, match=r"train_0\.xml has no image 'train_0\.png' in"):
        open_data(voc)


def test_subfolders_of_voc_and_lists_at_every_level(voc: Path, tmp_path: Path) -> None:
    for folder in ("Annotations", "JPEGImages"):
        (voc / folder / "cam2").mkdir()
        (voc / folder / "cam1").mkdir()
        for file in sorted((voc / folder).glob("train_[23].*")):
            file.rename(voc / folder / "cam2" / f"x{file.suffix}") if "_3" in file.name else (
                file.rename(voc / folder / "cam1" / f"x{file.suffix}")
            )
    for file in (voc / "ImageSets" / "Main").iterdir():
        file.unlink()
    (voc / "ImageSets" / "Main").rmdir()
    (voc / "ImageSets" / "train.txt").write_text("train_0\ncam1/x.jpg\n")
    (voc / "ImageSets" / "val.txt").write_text('JPEGImages/train_1.png 1\n"cam2/x"\n')
    assert splits(voc) == ["train", "val"]
    train, val = open_data(voc, "train"), open_data(voc, "val")
    files = [Path(data.record(i).file) for data in (train, val) for i in range(2)]
    assert [f"{file.parent.name}/{file.name}" for file in files] == [
        "JPEGImages/train_0.png",
        "cam1/x.png",
        "JPEGImages/train_1.png",
        "cam2/x.png",
    ]
    (voc / "ImageSets" / "train.txt").unlink()
    (voc / "ImageSets" / "val.txt").unlink()
    assert splits(voc) == ["default"]
    assert len(open_data(voc)) == 4


def test_a_list_of_voc_that_names_what_is_not_there(voc: Path) -> None:
    (voc / "ImageSets" / "Main" / "test.txt").write_text("unknown\n")  # VOC keeps these itself
    (voc / "ImageSets" / "Main" / "val.txt").write_text("unknown 1\ntrain_0\n")
    assert splits(voc) == ["train", "val"]
    assert found(open_data(voc, "train")) == {"split-missing": 1}
    data = open_data(voc, "val")
    assert (len(data), found(data)) == (1, {"file-unreadable": 1, "split-missing": 1})


def test_images_alone_are_no_data(coco_folder: Path, tmp_path: Path) -> None:
    assert not is_data(coco_folder / "train")
    assert not is_data(tmp_path / "nowhere")
    assert is_data("scenes:count=3")


def test_long_names_of_splits_make_no_long_message(coco_folder: Path, tmp_path: Path) -> None:
    data = tmp_path / "data"
    shutil.copytree(coco_folder, data)
    for file in (data / "annotations").iterdir():
        file.unlink()
    listed = {"train": "train", "a" * 1000: "val"}  # a longer key is no YAML
    rows = "".join(f"{split}: images/{folder}\n" for split, folder in listed.items())
    (data / "data.yaml").write_text(f"{rows}names: [a]\n")
    with pytest.raises(ValueError, match="has no split 'bbb") as caught:
        open_data(data, "b" * 5000)
    assert len(str(caught.value)) < 500 + len(str(data))
