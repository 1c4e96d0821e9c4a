"""Odd files of the kinds that people and tools make: what is read of each, and what is said.

Each maker writes two images of the boxes ``BOXES`` in one odd way.
"""

from __future__ import annotations

import json
import re
import shutil
import zipfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from tests.data.making import BOXES, CLASSES, CORNERS, SPLITS, Make, dump, image, text

from dabdetr.data import layouts
from dabdetr.data.layouts import open_data, open_every, open_training
from dabdetr.data.textfiles import guess


def coco(root: Path, change: Callable[[dict[str, Any]], object] = id, split: str = "train") -> None:
    """a.png and b.png in the split's folder; ``change`` alters the json."""
    names = ("a.png", "b.png")
    images = [
        {"id": n, "file_name": name, "width": 160, "height": 120} for n, name in enumerate(names)
    ]
    annotations = [
        {"id": 2 * n + label, "image_id": n, "category_id": label, "bbox": list(box)}
        for n in range(2)
        for label, box in enumerate(BOXES)
    ]
    categories = [{"id": label, "name": name} for label, name in enumerate(CLASSES)]
    tree = {"images": images, "annotations": annotations, "categories": categories}
    change(tree)
    for name in names:
        image(root / split / name)
    dump(root / "annotations" / f"instances_{split}.json", tree)


def of_images(**values: Callable[[str], Any]) -> Make:
    """COCO whose images name their file by other keys or values."""

    def change(tree: dict[str, Any]) -> None:
        for row in tree["images"]:
            name = row.pop("file_name")
            row.update({key: value(name) for key, value in values.items()})

    return lambda root: coco(root, change)


def class_names_for_ids(tree: dict[str, Any]) -> None:
    for row in tree["annotations"]:
        row["category_id"] = CLASSES[row["category_id"]]


def large_ids(tree: dict[str, Any]) -> None:
    for row in (*tree["images"], *tree["annotations"]):
        key = "image_id" if "image_id" in row else "id"
        row[key] += 2**70


def lines(names: tuple[str, ...] = ("0", "1")) -> str:
    return "".join(
        f"{name} {(x + w / 2) / 160} {(y + h / 2) / 120} {w / 160} {h / 120}\n"
        for name, (x, y, w, h) in zip(names, BOXES, strict=True)
    )


def yolo(root: Path, content: str = "", settings: str = "", folder: str = "{}/train") -> None:
    for name in ("a", "b"):
        image(root / folder.format("images") / f"{name}.png")
        text(root / folder.format("labels") / f"{name}.txt", content or lines())
    if settings:
        text(root / "data.yaml", settings)


def of_settings(settings: str, content: str = "") -> Make:
    return lambda root: yolo(root, content, settings)


def score_first(root: Path) -> None:
    content = "".join(line.replace(" ", " 0.93 ", 1) + "\n" for line in lines().splitlines())
    yolo(root, content, "train: images/train\nnames: [red, blue]\n")


def darknet_of_fiftyone(root: Path) -> None:
    yolo(root, folder="data")
    text(root / "obj.names", "red\nblue\n")


def xml(name: str, boxes: Sequence[Sequence[float]] = CORNERS) -> str:
    objects = "".join(
        f"<object><name>{class_}</name><bndbox><xmin>{x0}</xmin><ymin>{y0}</ymin><xmax>{x1}</xmax>"
        f"<ymax>{y1}</ymax></bndbox></object>"
        for class_, (x0, y0, x1, y1) in zip(CLASSES, boxes, strict=True)
    )
    size = "<size><width>160</width><height>120</height></size>"
    return f"<annotation><filename>{name}</filename>{size}{objects}</annotation>"


def voc(root: Path, change: Callable[[str], str] = str, encoding: str = "utf-8") -> None:
    for name in ("a", "b"):
        image(root / "JPEGImages" / f"{name}.png")
        edges = [[x0 + 1, y0 + 1, x1, y1] for x0, y0, x1, y1 in CORNERS]
        text(root / "Annotations" / f"{name}.xml", change(xml(f"{name}.png", edges)), encoding)


def voc_in_shares(root: Path) -> None:
    shares = [[x0 / 160, y0 / 120, x1 / 160, y1 / 120] for x0, y0, x1, y1 in CORNERS]
    for name in ("a", "b"):
        image(root / "JPEGImages" / f"{name}.png")
        text(root / "Annotations" / f"{name}.xml", xml(f"{name}.png", shares))


def labelme_tree(**more: Any) -> str:
    shapes = [
        {"label": name, "points": [[x0, y0], [x1, y1]], "shape_type": "rectangle"}
        for name, (x0, y0, x1, y1) in zip(CLASSES, CORNERS, strict=True)
    ]
    return json.dumps(more | {"shapes": shapes, "imageHeight": 120, "imageWidth": 160})


def labelme_with_image_first(root: Path) -> None:
    for name in ("a", "b"):
        image(root / f"{name}.png")
        text(root / f"{name}.json", labelme_tree(imageData="A" * 100_000))


def via_csv(root: Path) -> None:
    rows = ["#filename,region_shape_attributes,region_attributes"]
    for name in ("a", "b"):
        image(root / f"{name}.png")
        for class_, (x, y, w, h) in zip(CLASSES, BOXES, strict=True):
            shape = {"name": "rect", "x": x, "y": y, "width": w, "height": h}
            cells = (json.dumps(each).replace('"', '""') for each in (shape, {"type": class_}))
            rows.append(",".join((f"{name}.png", *(f'"{cell}"' for cell in cells))))
    text(root / "via.csv", "\n".join(rows), "utf-8-sig")


def of_rows(change: Callable[[dict[str, Any]], object]) -> Make:
    """COCO each of whose annotations is changed."""

    def all_rows(tree: dict[str, Any]) -> None:
        for row in tree["annotations"]:
            change(row)

    return lambda root: coco(root, all_rows)


def of_categories(key: str) -> Make:
    """COCO whose classes have their name under another key."""

    def change(tree: dict[str, Any]) -> None:
        tree["categories"] = [{"id": row["id"], key: row["name"]} for row in tree["categories"]]

    return lambda root: coco(root, change)


ODD: dict[str, tuple[Make, str]] = {
    # what is odd → who writes it, and the kinds of findings beside split-only
    "coco: path for file_name": (of_images(path="/data/x/{}".format), "name-cleaned"),
    "coco: URL for file_name": (of_images(coco_url="http://x.org/{}".format), "name-cleaned"),
    "coco: a query behind the name": (of_images(file_name="{}?d=1".format), "name-cleaned"),
    "coco: Label Studio's local files": (
        of_images(file_name="/data/local-files/?d=my%20set/{}".format),
        "name-cleaned",
    ),
    "coco: Label Studio's local files, on Windows": (
        of_images(file_name="/data/local-files/?d=my%5Cset%5C{}".format),
        "name-cleaned",
    ),
    "coco: names without ending": (of_images(file_name=lambda name: name[:1]), "name-case"),
    "coco: class names for ids": (lambda root: coco(root, class_names_for_ids), "id-text"),
    "coco: ids beyond 64 bits": (lambda root: coco(root, large_ids), "id-numbered"),
    "yolo: YAML's words as names": (
        of_settings("train: images/train\nnames: [red, blue, no, 007, null]\n"),
        "class-empty",
    ),
    "yolo: another machine's folders": (
        of_settings(
            "path: /content/My Drive\ntrain: /content/set/images/train\nnames: [red, blue]"
        ),
        "name-cleaned",
    ),
    "coco: a score behind each box": (of_rows(lambda row: row["bbox"].append(0.93)), "box-named"),
    "coco: each box in a list": (of_rows(lambda row: row.update(bbox=[row["bbox"]])), "box-named"),
    "coco: decimal commas in text": (
        of_rows(lambda row: row.update(bbox=[f"{value},0" for value in row["bbox"]])),
        "box-text",
    ),
    "coco: iscrowd as text": (of_rows(lambda row: row.update(iscrowd="False")), "crowd-text"),
    "coco: only supercategories": (of_categories("supercategory"), "class-name-key"),
    "coco: titles of classes": (of_categories("title"), "class-name-key"),
    "yolo: keys in capitals": (
        of_settings("Train: images/train\nNC: 2\nNames: [red, blue]\n"),
        "",
    ),
    "yolo: Windows' folders": (
        of_settings("train: 'C:\\set\\images\\train'\nnames: [red, blue]\n"),
        "name-cleaned",
    ),
    "yolo: class names for numbers": (
        of_settings("train: images/train\nnames: [red, blue]\n", lines(CLASSES)),
        "id-text",
    ),
    "yolo: the score behind the class": (score_first, "line-confidence"),
    "yolo: names beside a folder data": (darknet_of_fiftyone, ""),
    "voc: a namespace": (
        lambda root: voc(
            root, lambda x: x.replace("<annotation>", '<annotation xmlns="http://x">')
        ),
        "",
    ),
    "voc: tags in capitals": (
        lambda root: voc(root, lambda x: x.replace("xmin", "Xmin").replace("object", "Object")),
        "",
    ),
    "voc: another encoding than it says": (
        lambda root: voc(root, '<?xml version="1.0" encoding="utf-8"?>{}'.format, "utf-16"),
        "encoding",
    ),
    "voc: shares of the image": (voc_in_shares, "box-relative"),
    "labelme: the image before the shapes": (labelme_with_image_first, ""),
    "via: a mark of comments before the head": (via_csv, ""),
}


@pytest.mark.parametrize("odd", ODD)
def test_all_boxes_are_read_and_what_is_odd_is_said(odd: str, tmp_path: Path) -> None:
    make, kinds = ODD[odd]
    make(tmp_path)
    train, val = open_training(tmp_path)
    assert val is None
    found = {each.kind.name for each in train.findings} - {"pixels-from-one"}
    assert found == {*kinds.split(), "split-only"}
    assert len(train) == 2
    for index in range(2):
        record = train.record(index)
        rows = zip([train.names[label] for label in record.labels], record.boxes, strict=True)
        found = {name: box.round(2).tolist() for name, box in rows}
        assert found == dict(zip(CLASSES, CORNERS, strict=True))


def split_voc_by_lists(root: Path) -> None:
    voc(root)
    text(root / "imagesets" / "main" / "Train.TXT", "a\n")
    text(root / "imagesets" / "main" / "Val.TXT", "b\n")


def split_voc_beside(root: Path) -> None:
    voc(root)
    text(root / "train.txt", "a.png\n")
    text(root / "val.txt", "b.png\n")


def split_voc_by_classes(root: Path) -> None:
    voc(root)
    for split, name in (("train", "a"), ("val", "b")):
        text(root / "ImageSets" / "Main" / f"red_{split}.txt", f"{name} 1\n")
        text(root / "ImageSets" / "Main" / f"blue_{split}.txt", f"{name} -1\n")


def split_voc_by_folders(root: Path) -> None:
    for split in ("train", "val"):
        image(root / split / "cam1" / "a.png")
        text(root / split / "cam1" / "a.xml", xml("a.png"))


def split_labelme(root: Path) -> None:
    for split, name in (("train", "a"), ("val", "b")):
        image(root / split / f"{name}.png")
        text(root / split / f"{name}.json", labelme_tree(imagePath=f"{name}.png"))


def split_labelme_apart(root: Path) -> None:
    for split, name in (("train", "a"), ("val", "b")):
        image(root / "images" / split / f"{name}.png")
        text(root / "labels" / split / f"{name}.json", labelme_tree(imagePath=f"{name}.png"))


def split_labelme_in_one_folder_of_images(root: Path) -> None:
    for split, name in (("train", "a"), ("val", "b")):
        image(root / "images" / f"{name}.png")
        text(root / "labels" / split / f"{name}.json", labelme_tree(imagePath=f"{name}.png"))


def split_as_sets(root: Path) -> None:
    for split, name in (("train_set", "a"), ("Validation Images", "b")):
        image(root / split / f"{name}.png")
        text(root / split / f"{name}.xml", xml(f"{name}.png"))


@pytest.mark.parametrize(
    "make",
    [
        split_voc_by_lists,
        split_voc_beside,
        split_voc_by_classes,
        split_voc_by_folders,
        split_labelme,
        split_labelme_apart,
        split_labelme_in_one_folder_of_images,
        split_as_sets,
    ],
)
def test_a_divided_set_is_not_trained_on_as_a_whole(make: Make, tmp_path: Path) -> None:
    make(tmp_path)
    train, val = open_training(tmp_path)
    assert val is not None
    assert (len(train), len(val)) == (1, 1)
    assert train.record(0).file != val.record(0).file
    assert {each.kind.name for each in train.findings} <= {"pixels-from-one"}


def test_sizes_in_place_of_the_far_corner_are_told(tmp_path: Path) -> None:
    """VOC with widths and heights as xmax and ymax: many boxes would be drawn backwards."""
    rng = np.random.default_rng(0)
    for number in range(12):
        x, y, w, h = rng.integers((20, 20, 10, 10), (100, 80, 50, 35)).tolist()
        image(tmp_path / f"{number}.png")
        text(tmp_path / f"{number}.xml", xml(f"{number}.png", [[x, y, w, h], [0, 0, 160, 120]]))
    data = open_data(tmp_path)
    assert [(each.kind.name, each.count) for each in data.findings] == [("box-extents", 24)]
    for index in range(12):
        x0, y0, x1, y1 = data.record(index).boxes[0].tolist()
        assert x1 > x0 >= 20
        assert y1 > y0 >= 20


def test_trainval_is_trained_on_where_there_is_no_train(tmp_path: Path) -> None:
    voc(tmp_path)
    text(tmp_path / "ImageSets" / "Main" / "trainval.txt", "a\n")
    text(tmp_path / "ImageSets" / "Main" / "test.txt", "b\n")
    train, val = open_training(tmp_path)
    assert val is None
    assert [Path(train.record(0).file).name, len(train)] == ["a.png", 1]
    (only,) = (each for each in train.findings if each.kind.name == "split-only")
    assert only.examples == [f"{tmp_path}: test, trainval"]


def test_a_split_whose_images_are_absent_is_no_other_folder(tmp_path: Path) -> None:
    """test: ../test/images must not become images/, which holds all others."""
    yolo(tmp_path, settings="train: images/train\ntest: ../test/images\nnames: [red, blue]\n")
    train, _ = open_training(tmp_path)
    assert len(train) == 2
    found = {each.kind.name for each in train.findings}
    assert found == {"split-missing", "split-only"}


def test_the_other_split_is_no_substitute_for_a_train_split_that_is_absent(tmp_path: Path) -> None:
    yolo(tmp_path, settings="train: gone\nval: images/train\nnames: [red, blue]\n")
    with pytest.raises(FileNotFoundError, match="names 'gone', which does not exist"):
        open_training(tmp_path)
    (val,) = open_every(tmp_path)
    assert (val.split, val.findings.count("split-missing")) == ("val", 1)


def test_images_of_two_splits_are_counted(tmp_path: Path) -> None:
    settings = "train: images/train\nval: images/train\nnames: [red, blue]\n"
    yolo(tmp_path, settings=settings)
    _, val = open_training(tmp_path)
    assert val is not None
    (shared,) = (each for each in val.findings if each.kind.name == "split-shared")
    assert (shared.count, shared.examples[0].endswith("a.png, in train")) == (2, True)


def test_label_files_without_an_image_are_counted(tmp_path: Path) -> None:
    yolo(tmp_path, settings="train: images/train\nnames: [red, blue]\n")
    text(tmp_path / "labels" / "train" / "gone.txt", lines())
    text(tmp_path / "labels" / "train" / "classes.txt", "red\nblue\n")
    data = open_data(tmp_path)
    (unused,) = (each for each in data.findings if each.kind.name == "label-unused")
    assert unused.examples == [f"{tmp_path}/labels/train/gone.txt"]


def test_images_that_no_annotation_names_are_counted(tmp_path: Path) -> None:
    voc(tmp_path)
    image(tmp_path / "JPEGImages" / "c.png")
    data = open_data(tmp_path)
    (unlisted,) = (each for each in data.findings if each.kind.name == "image-unlisted")
    assert (len(data), unlisted.count) == (2, 1)


def test_regions_without_any_class_are_objects(tmp_path: Path) -> None:
    for split, name in (("train", "a"), ("val", "b")):
        image(tmp_path / split / f"{name}.png")
        shape = {"name": "polygon", "all_points_x": [10, 50, 50], "all_points_y": [10, 10, 60]}
        region = {"shape_attributes": shape, "region_attributes": {}}
        tree = {name: {"filename": f"{name}.png", "regions": {"0": region}}}
        text(tmp_path / split / "via_region_data.json", json.dumps(tree))
    train, val = open_training(tmp_path)
    assert val is not None
    assert train.names == val.names == ("object",)
    assert val.record(0).boxes.tolist() == [[10, 10, 50, 60]]
    assert {each.kind.name for each in train.findings} == {"class-names-missing", "box-from-shape"}


@pytest.mark.parametrize(
    ("name", "content", "told"),
    [
        ("tasks.json", '[{"id": 1, "data": {"image": "a"}}]', "Label Studio's own form"),
        ("a.csv", "filename,class\n", "lists no boxes by columns such as filename, class, xmin"),
        ("set.zip", "", "The zip holds no data set: unpack it there"),
        ("set.tar.gz", "", "Unpack it and give its folder"),
        ("set.tar", "", "Unpack it and give its folder"),
        ("set.TGZ", "", "Unpack it and give its folder"),
        ("train/digits.tfrecord", "", "train/digits.tfrecord is TensorFlow's TFRecord: export"),
        ("meta.json", '{"classes": [{"title": "a", "shape": "any"}]}', "without the folders ann"),
        ("annotations.xml", "<annotations><meta></meta>", "CVAT's form, without images"),
        ("_annotations.train.jsonl", '{"suffix": "<loc0112> red"}', "PaliGemma's or"),
        ("instances_train.json.gz", "", "a packed JSON: unpack it"),
        ("a.jsonl", '{"suffix": "red<loc_112>"}', "or Florence-2's form"),
        ("train.csv", "image_id,PredictionString\n", "in one cell: write a row for each box"),
        ("train.csv", "video_id,image_id,annotations\n", "in one cell: write a row for each box"),
        ("v1.0/object_ann.json", '[{"sample_data_token": "a"}]', "nuImages or nuScenes"),
        ("a.psd", "", "convert them to PNG or JPEG"),
    ],
)
def test_what_would_open_it_is_said(name: str, content: str, told: str, tmp_path: Path) -> None:
    text(tmp_path / name, content)
    with pytest.raises(ValueError, match=told):
        open_data(tmp_path)
    if Path(name).suffix in (".tar", ".TGZ"):
        with pytest.raises(ValueError, match=told):
            open_data(tmp_path / name)


@pytest.mark.parametrize(
    ("content", "encoding", "told"),
    [
        ("红灯笼 狗 汽车", "gbk", "GB 18030"),
        ("красный собака", "cp1251", "Windows-1251"),
        ("りんご バナナ 犬", "shift_jis", "Shift JIS"),
        ("crème brûlée créé Größe", "cp1252", "Windows-1252"),
    ],
)
def test_encodings_are_told_apart(content: str, encoding: str, told: str) -> None:
    assert guess(content.encode(encoding)) == (content, told)


SHORT = {
    "gbk": "苹果 行人 裂缝 车牌 缺陷 烟雾 猫 水稻 划痕 安全帽",
    "cp949": "사과 보행자 균열 마스크 불량 번호판 고양이 적혈구 오토바이 안전모",
    "cp932": "リンゴ 歩行者 ひび割れ マスク 不良 船 交通標識 煙 ねこ 赤血球",
    "cp1251": "яблоко пешеход трещина маска дефект номер кошка дым болт шлем",
    "cp1252": "Größe Fußgänger château plátano maçã Löwe æble søm pêche éraflure",
}


def test_most_single_words_tell_their_encoding() -> None:
    """A class of one word is all there is in many a file."""
    words = [(word, each) for each, names in SHORT.items() for word in names.split()]
    right = [
        guess(f"names: [{word}]".encode(each))[0] == f"names: [{word}]" for word, each in words
    ]
    assert sum(right) >= 0.9 * len(words)


def test_the_first_foreign_word_shows_whether_the_encoding_is_right(tmp_path: Path) -> None:
    image(tmp_path / "images" / "a.png")
    (tmp_path / "labels").mkdir()
    (tmp_path / "labels" / "a.txt").write_text("0 0.5 0.5 0.2 0.2")
    names = {"gbk": ("GB 18030", "红灯笼"), "euc_kr": ("EUC-KR", "사과"), "big5": ("Big5", "蘋果")}
    for encoding, (told, name) in names.items():
        (tmp_path / "classes.txt").write_bytes(f"{name}\n".encode(encoding))
        data = open_data(tmp_path)
        (found,) = (each for each in data.findings if each.kind.name == "encoding")
        assert data.names == (name,)
        assert found.examples == [f"{tmp_path}/classes.txt as {told} (“{name}”)"]


def test_a_lone_accented_letter_is_western(tmp_path: Path) -> None:
    words = ("é", "café", "niño", "ü", "Löwe", "à", "vélo à mañana")
    assert [guess(f'{{"name": "{word}"}}'.encode("latin-1"))[0][10:-2] for word in words] == [
        *words
    ]
    image(tmp_path / "a.png")
    tree = {
        "images": [{"id": 1, "file_name": "a.png"}],
        "categories": [{"id": 1, "name": "é"}],
        "annotations": [{"id": 1, "image_id": 1, "category_id": 1, "bbox": [1, 2, 30, 40]}],
    }
    written = json.dumps(tree, ensure_ascii=False).encode("latin-1")
    (tmp_path / "labels.json").write_bytes(written)
    assert open_data(tmp_path).names == ("é",)


@pytest.mark.parametrize(
    ("encoding", "names"),
    [
        ("euc_kr", ("굴착기 지게차", "신호등 버스 트럭", "안전모", "고라니 멧돼지")),
        ("big5", ("電線 桿", "紅燈", "汽車 行人")),
        ("gbk", ("电缆 绝缘子", "螺丝 螺母", "安全带", "裂纹 气孔", "反光衣", "叉车")),
        ("cp1252", ("École Élan", "Äpfel Öl", "Ångström")),
    ],
)
def test_words_of_east_asia_are_told_apart(encoding: str, names: tuple[str, ...]) -> None:
    for name in names:
        assert guess(name.encode(encoding))[0] == name


def numbered_from_one(root: Path) -> None:
    yolo(root, lines(("1", "2")), "train: images/train\nnames: [red, blue]\n")


def numbered_from_none(root: Path) -> None:
    def change(tree: dict[str, Any]) -> None:
        for row in tree["categories"]:
            row["id"] += 1

    coco(root, change)


@pytest.mark.parametrize("make", [numbered_from_one, numbered_from_none])
def test_class_numbers_beside_the_list_are_read_in_its_order(make: Make, tmp_path: Path) -> None:
    make(tmp_path)
    data = open_data(tmp_path)
    assert data.names == CLASSES
    assert data.record(0).boxes.tolist() == CORNERS
    assert data.record(0).labels.tolist() == [0, 1]
    (found,) = (each for each in data.findings if each.kind.name == "class-counted")
    assert re.search(r"used: (0 to 1, listed: 1 to 2|1 to 2, listed: 0 to 1)$", found.examples[0])
    assert not data.findings.of("skipped", "kept")


def in_splits(root: Path, train: tuple[str, ...], val: tuple[str, ...], names: str) -> None:
    """Images a and b of train, c of val, with a line of each class number."""
    for split, numbers in {"train": train, "val": val}.items():
        for name in SPLITS[split]:
            image(root / "images" / split / f"{name}.png")
            content = "".join(f"{n} 0.{i} 0.5 0.1 0.2\n" for i, n in enumerate(numbers, 2))
            text(root / "labels" / split / f"{name}.txt", content)
    text(root / "data.yaml", f"train: images/train\nval: images/val\nnames: [{names}]\n")


@pytest.mark.parametrize("box_format", [None, "cxcywh-relative"])
def test_all_splits_count_classes_alike(box_format: Any, tmp_path: Path) -> None:
    in_splits(tmp_path, ("1", "2"), ("1",), "red, blue")
    train, val = open_training(tmp_path, box_format=box_format)
    assert val is not None
    assert val.record(0).labels.tolist() == [0]
    for data in (*open_every(tmp_path, box_format=box_format), val):
        assert data.findings.count("class-counted")
        assert not data.findings.of("kept", "skipped")
    alone = open_data(tmp_path, "val", box_format=box_format)
    assert alone.record(0).labels.tolist() == [0]
    assert train.record(0).labels.tolist() == [0, 1]


SAID_ONLY = {
    "another split has class 0": (("1", "2"), ("0", "1"), "red, blue"),
    "one class of many": (("4",), ("4",), "red, blue, green, white"),
}


@pytest.mark.parametrize("case", SAID_ONLY)
def test_class_numbers_that_may_lack_a_name_are_said(case: str, tmp_path: Path) -> None:
    in_splits(tmp_path, *SAID_ONLY[case])
    train, _ = open_every(tmp_path)
    (found,) = (each for each in train.findings if each.kind.name == "class-shifted")
    assert found.kind.action == "kept"
    assert train.findings.count("class-unknown") == 2
    assert not train.findings.count("class-counted")


def test_one_unknown_class_is_no_shift(tmp_path: Path) -> None:
    yolo(tmp_path, lines(("0", "2")), "train: images/train\nnames: [red, blue]\n")
    data = open_data(tmp_path)
    assert data.findings.count("class-unknown") == 2
    assert data.findings.count("class-shifted") == 0


def test_classes_of_an_empty_list_are_said(tmp_path: Path) -> None:
    yolo(tmp_path, lines(("1.5", "-1")))
    (said,) = (each for each in open_data(tmp_path).findings if each.kind.name == "class-unknown")
    assert said.examples[0].endswith("has class 1.5; no class is listed")


def test_a_project_of_via_3_is_read(tmp_path: Path) -> None:
    metadata: dict[str, Any] = {}
    for number, name in enumerate("ab", 1):
        image(tmp_path / f"{name}.png")
        for option, box in enumerate(BOXES):
            row = {"vid": str(number), "z": [], "xy": [2, *box], "av": {"1": str(option)}}
            metadata[f"{number}_{option}"] = row
    metadata["p"] = {"vid": "2", "xy": [7, 50, 50, 80, 50, 80, 90], "av": {"1": "0"}}
    tree = {
        "project": {"pid": "x"},
        "attribute": {"1": {"aname": "class", "options": {"0": "red", "1": "blue"}}},
        "file": {str(n): {"fid": str(n), "fname": f"{each}.png"} for n, each in enumerate("ab", 1)},
        "metadata": metadata,
        "view": {str(n): {"fid_list": [str(n)]} for n in (1, 2)},
    }
    text(tmp_path / "via_project.json", json.dumps(tree))
    data = open_data(tmp_path)
    assert sorted(data.names) == ["blue", "red"]
    assert data.record(0).boxes.tolist() == CORNERS
    assert data.record(1).boxes.tolist() == [*CORNERS, [50, 50, 80, 90]]
    assert data.findings.count("box-from-shape") == 1


def test_images_beside_those_of_a_json_are_counted(tmp_path: Path) -> None:
    """Neither those of the other split in the same folder, nor damaged ones."""

    def other_names(tree: dict[str, Any]) -> None:
        for row, name in zip(tree["images"], ("c.png", "d.png"), strict=True):
            row["file_name"] = name

    coco(tmp_path)
    coco(tmp_path, other_names, "val")
    coco(tmp_path, split="test")  # its images are listed too
    for name in ("c.png", "d.png", "alone.png"):
        image(tmp_path / "val" / name)
    (tmp_path / "train" / "b.png").write_bytes(b"damaged")
    (tmp_path / "train" / "e.pcx").touch()
    (tmp_path / "val" / "e.psd").touch()
    alone = open_data(tmp_path, "val").findings
    assert (alone.count("image-format"), alone.count("image-unlisted")) == (1, 0)
    assert open_data(tmp_path, "train").findings.count("image-unlisted") == 0
    for train, val in (open_every(tmp_path)[:2], open_training(tmp_path)):
        assert val is not None
        assert train.findings.count("image-damaged") == 1
        assert train.findings.count("image-unlisted") == 0
        assert train.findings.count("image-format") == 1
        assert val.findings.count("image-unlisted") == 3  # alone.png, and the files a and b
    (found,) = [each for each in val.findings if each.kind.name == "image-unlisted"]
    assert any("alone.png" in each for each in found.examples)


def test_one_split_does_not_open_the_others(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Not even where all images lie in one folder: reading the labels of all takes long."""
    for name in "abc":
        image(tmp_path / "images" / f"{name}.png")
        text(tmp_path / "labels" / f"{name}.txt", "0 0.5 0.5 0.2 0.3\n")
    text(tmp_path / "train.txt", "./images/a.png\n./images/b.png\n")
    text(tmp_path / "val.txt", "./images/c.png\n")
    text(tmp_path / "data.yaml", "train: train.txt\nval: val.txt\nnames: [red]\n")
    opened: list[str] = []
    read = layouts._open_split  # pyright: ignore[reportPrivateUsage]

    def told(data: Any, split: str, *others: Any) -> Any:
        opened.append(split)
        return read(data, split, *others)

    monkeypatch.setattr(layouts, "_open_split", told)
    assert len(open_data(tmp_path, "val", box_format="cxcywh-relative")) == 1
    assert opened == ["val"]


def test_images_in_a_zip_beside_the_json(tmp_path: Path) -> None:
    coco(tmp_path / "data")
    with zipfile.ZipFile(tmp_path / "data" / "images.zip", "w") as archive:
        for file in sorted((tmp_path / "data" / "train").iterdir()):
            archive.write(file, f"images/{file.name}")
    shutil.rmtree(tmp_path / "data" / "train")
    data = open_data(tmp_path / "data")
    assert [len(data.record(n).labels) for n in range(len(data))] == [2, 2]
    assert data.findings.count("place") == 1


@pytest.mark.parametrize("folder", ["xmls", "labels", "Annotation", "XML"])
def test_folders_of_xml_by_split_beside_those_of_images(folder: str, tmp_path: Path) -> None:
    for split, name in (("train", "a"), ("val", "b")):
        image(tmp_path / "images" / split / f"{name}.png")
        text(tmp_path / folder / split / f"{name}.xml", xml(f"{name}.png"))
    train, val = open_every(tmp_path)
    assert (train.split, val.split) == ("train", "val")
    for each in (train, val):
        np.testing.assert_array_equal(each.record(0).boxes, np.array(CORNERS) - [1, 1, 0, 0])
        assert {one.kind.name for one in each.findings} <= {"pixels-from-one"}


@pytest.mark.parametrize("written", ["{}", "{}.png", "images/{}.png", "C:\\\\x\\\\{}.png"])
def test_lists_of_images_beside_images_and_labels(written: str, tmp_path: Path) -> None:
    """What val.txt names is not trained on."""
    for name in ("a", "b", "c"):
        image(tmp_path / "images" / f"{name}.png")
        text(tmp_path / "labels" / f"{name}.txt", lines())
    text(tmp_path / "classes.txt", "red\nblue\n")
    text(tmp_path / "train.txt", f"{written.format('a')}\n{written.format('b')}\n")
    text(tmp_path / "valid.txt", f"{written.format('c')}\n")
    train, val = open_training(tmp_path)
    assert val is not None
    assert [Path(data.record(0).file).stem for data in (train, val)] == ["a", "c"]
    assert (len(train), len(val)) == (2, 1)
    assert [each.kind.name for each in train.findings] == ["split-listed"]
    text(tmp_path / "train.txt", "something else\n")
    (tmp_path / "valid.txt").unlink()
    assert [len(data) for data in open_every(tmp_path)] == [3]


def test_an_image_whose_labelme_file_is_broken_is_no_background(tmp_path: Path) -> None:
    for name, content in (("a", labelme_tree()), ("b", "{"), ("c", None)):
        image(tmp_path / f"{name}.png")
        if content:
            text(tmp_path / f"{name}.json", content.replace("b.png", "a.png"))
    data = open_data(tmp_path)
    assert [Path(data.record(n).file).name for n in range(len(data))] == ["a.png", "c.png"]
    found = {each.kind.name: each.count for each in data.findings}
    assert found == {"file-unreadable": 1, "label-missing": 1}


def test_a_shape_without_a_label_is_left_out(tmp_path: Path) -> None:
    shapes = [
        {"label": label, "shape_type": "rectangle", "points": [box[:2], box[2:]]}
        for label, box in zip(("red", None), CORNERS, strict=True)
    ]
    image(tmp_path / "a.png")
    tree = {"version": "5.0", "imagePath": "a.png", "shapes": shapes}
    text(tmp_path / "a.json", json.dumps(tree | {"imageHeight": 120, "imageWidth": 160}))
    data = open_data(tmp_path)
    assert (data.names, len(data.record(0).labels)) == (("red",), 1)
    assert data.findings.count("class-unknown") == 1


def test_tga_by_its_ending(tmp_path: Path) -> None:
    coco(
        tmp_path,
        lambda tree: [r.update(file_name=r["file_name"][0] + ".TGA") for r in tree["images"]],
    )
    for name in ("a", "b"):
        Image.open(tmp_path / "train" / f"{name}.png").save(tmp_path / "train" / f"{name}.TGA")
        (tmp_path / "train" / f"{name}.png").unlink()
    data = open_every(tmp_path)[0]
    assert (len(data), data.image(0).shape) == (2, (120, 160, 3))
    (tmp_path / "train" / "a.TGA").write_bytes(b"<html>404</html>")
    assert open_every(tmp_path)[0].findings.count("image-damaged") == 1


def test_crowds_that_are_said_in_words(tmp_path: Path) -> None:
    words = ("true", "FALSE", "yes", "0.0")

    def change(tree: dict[str, Any]) -> None:
        for row, word in zip(tree["annotations"], words, strict=True):
            row["iscrowd"] = word

    coco(tmp_path, change)
    data = open_data(tmp_path)
    found = np.concatenate([data.record(index).crowd for index in range(2)])
    assert found.tolist() == [True, False, True, False]
    assert data.findings.count("crowd-text") == 3
    assert not data.findings.count("crowd-odd")
