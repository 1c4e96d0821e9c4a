"""One pile of images, and a list beside it or a key in its rows that divides it into splits."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from tests.data.making import image, text

from dabdetr.data.layouts import open_every, open_training, splits

TRAIN, VAL = ("a", "b", "c"), ("d", "e")
BOX = (10, 20, 30, 40)


def yolo(root: Path, folder: str = "") -> None:
    for name in (*TRAIN, *VAL):
        image(root / "images" / folder / f"{name}.png")
        text(root / "labels" / folder / f"{name}.txt", "0 0.5 0.5 0.25 0.25\n")
    (root / "classes.txt").write_text("cat\n")


def each(line: Callable[[str, str], str], train: str = "train", val: str = "val") -> str:
    pairs = [(name, train) for name in TRAIN] + [(name, val) for name in VAL]
    return "".join(line(*pair) for pair in pairs)


LISTS = {
    "split.csv": "image,split\n" + each("{}.png,{}\n".format),
    "splits.csv": "set;nr;file\n" + each(lambda n, s: f"{s};7;images/{n}.png\n", "Train", "Valid"),
    "Split.TSV": each("{}\t{}\n".format, "training", "validation"),
    "split.txt": each("{} {}\n".format),
    "data_split.txt": each("{1}, C:\\pics\\{0}.png\n".format),
    "train_val_split.csv": "train,val\na.png,d.png\nb.png,e.png\nc.png,\n",
    "splits.json": json.dumps({"train": [f"{n}.png" for n in TRAIN], "val": list(VAL)}),
    "partition.json": json.dumps(dict([(n, "train") for n in TRAIN] + [(n, "dev") for n in VAL])),
}


def stems(data: Any) -> list[str]:
    return sorted(Path(data.record(index).file).stem for index in range(len(data)))


@pytest.mark.parametrize("name", LISTS)
def test_a_list_of_splits_divides_the_images_beside_it(name: str, tmp_path: Path) -> None:
    yolo(tmp_path)
    (tmp_path / name).write_text(LISTS[name])
    train, val = open_training(tmp_path)
    assert val is not None
    assert stems(train) == [*TRAIN]
    assert stems(val) == [*VAL]
    assert name in next(f for f in train.findings if f.kind.name == "split-listed").examples[0]
    assert not train.findings.count("image-unlisted")


def test_images_that_a_list_of_splits_does_not_name_are_counted(tmp_path: Path) -> None:
    yolo(tmp_path)
    (tmp_path / "split.csv").write_text("image,split\na.png,train\nd.png,val\nz.png,val\n")
    train, val = open_training(tmp_path)
    assert val is not None
    assert (stems(train), stems(val)) == (["a"], ["d"])
    assert train.findings.count("split-unlisted") == 3
    assert val.findings.count("image-missing") == 1


def test_one_stem_in_two_folders_is_divided_by_its_path(tmp_path: Path) -> None:
    yolo(tmp_path, "cam1")
    yolo(tmp_path, "cam2")
    rows = each("cam1/{}.png,{}\n".format) + each("cam2/{}.png,{}\n".format, "val", "train")
    (tmp_path / "split.csv").write_text(rows)
    train, val = open_training(tmp_path)
    assert val is not None
    assert stems(train) == sorted((*TRAIN, *VAL))
    folders = {Path(val.record(n).file).parts[-2:][0] for n in range(3)}
    assert folders == {"cam1", "cam2"}


def test_a_list_beside_other_files_of_that_name_is_none(tmp_path: Path) -> None:
    yolo(tmp_path)
    (tmp_path / "split.txt").write_text("how the data were split: by hand\nsee the wiki\n")
    assert splits(tmp_path) == ["default"]


@pytest.mark.parametrize("place", ["", "splits", "ImageSets", "ImageSets/Main"])
def test_a_list_for_each_split_divides_any_layout(place: str, tmp_path: Path) -> None:
    for layout in ("yolo", "coco"):
        root = tmp_path / layout
        if layout == "yolo":
            yolo(root)
        else:
            coco(root, [{} for _ in (*TRAIN, *VAL)])
        (root / place).mkdir(parents=True, exist_ok=True)
        (root / place / "train.txt").write_text("a\nb\nd\n")
        (root / place / "valid.txt").write_text("images/d.png\nimages/z.png\n")
        train, val = open_training(root)
        assert val is not None
        assert (stems(train), stems(val)) == (["a", "b", "d"], ["d"])
        assert train.findings.count("split-unlisted") == 2
        assert val.findings.count("image-missing") == 1
        assert val.findings.count("split-shared") == 1


@pytest.mark.parametrize("layout", ["yolo", "coco", "voc"])
def test_a_list_of_val_alone_leaves_the_others_to_train(layout: str, tmp_path: Path) -> None:
    if layout == "yolo":
        yolo(tmp_path)
    elif layout == "coco":
        coco(tmp_path, [{} for _ in (*TRAIN, *VAL)])
    else:
        for name in (*TRAIN, *VAL):
            image(tmp_path / "JPEGImages" / f"{name}.png")
            box = "<bndbox><xmin>9</xmin><ymin>9</ymin><xmax>30</xmax><ymax>40</ymax></bndbox>"
            content = f"<annotation><object><name>cat</name>{box}</object></annotation>"
            text(tmp_path / "Annotations" / f"{name}.xml", content)
    text(tmp_path / "ImageSets" / "Main" / "val.txt", "\n".join(VAL))
    train, val = open_training(tmp_path)
    assert val is not None
    assert (stems(train), stems(val)) == ([*TRAIN], [*VAL])
    (said,) = (each for each in train.findings if each.kind.name == "split-listed")
    assert said.examples == [f"{tmp_path}: train, as no list names it"]
    assert not train.findings.count("split-unlisted")


def test_a_list_of_train_alone_leaves_the_others_out(tmp_path: Path) -> None:
    yolo(tmp_path)
    text(tmp_path / "train.txt", "\n".join(TRAIN))
    train, val = open_training(tmp_path)
    assert (stems(train), val, train.findings.count("split-unlisted")) == ([*TRAIN], None, 2)


def test_folders_of_labels_divide_images_in_one_folder(tmp_path: Path) -> None:
    yolo(tmp_path)
    for split, listed in (("train", TRAIN), ("val", VAL)):
        for name in listed:
            (tmp_path / "labels" / split).mkdir(exist_ok=True)
            (tmp_path / "labels" / f"{name}.txt").rename(
                tmp_path / "labels" / split / f"{name}.txt"
            )
    train, val = open_training(tmp_path)
    assert val is not None
    assert (stems(train), stems(val)) == ([*TRAIN], [*VAL])


def test_a_val_split_that_is_trained_on_is_said(tmp_path: Path) -> None:
    yolo(tmp_path, "val")
    train, val = open_training(tmp_path)
    assert (len(train), val) == (5, None)
    assert [each.kind.name for each in train.findings] == ["split-stand-in"]


def test_lists_of_other_things_divide_nothing(tmp_path: Path) -> None:
    yolo(tmp_path)
    for name in ("train", "val"):
        (tmp_path / f"{name}.txt").write_text("epoch 1 loss 0.5\nepoch 2 loss 0.4\n")
    assert splits(tmp_path) == ["default"]
    (tmp_path / "val.txt").unlink()
    (tmp_path / "train.txt").write_text("loss\nrate\n")
    assert splits(tmp_path) == ["default"]


def coco(root: Path, more: list[dict[str, str]]) -> None:
    names = (*TRAIN, *VAL)
    rows = [
        {"id": n, "file_name": f"{name}.png", "width": 160, "height": 120} | each
        for n, (name, each) in enumerate(zip(names, more, strict=True))
    ]
    boxes = [{"id": n, "image_id": n, "category_id": 1, "bbox": BOX} for n in range(len(names))]
    tree = {"annotations": boxes, "images": rows, "categories": [{"id": 1, "name": "cat"}]}
    for name in names:
        image(root / "images" / f"{name}.png")
    (root / "all.json").write_text(json.dumps(tree))


@pytest.mark.parametrize("key", ["split", "subset", "set"])
def test_images_of_a_json_that_say_their_split(key: str, tmp_path: Path) -> None:
    named = ["Train"] * len(TRAIN) + ["Validation"] * len(VAL)
    coco(tmp_path, [{key: name} for name in named])
    train, val = open_training(tmp_path)
    assert val is not None
    assert (stems(train), stems(val)) == ([*TRAIN], [*VAL])
    assert (
        "all.json" in next(f for f in train.findings if f.kind.name == "split-listed").examples[0]
    )
    assert not train.findings.of("skipped", "mended", "kept")
    assert [len(each) for each in open_every(tmp_path / "all.json")] == [3, 2]


@pytest.mark.parametrize(("folder", "classes"), [("labels", 2), ("gt", 1), ("labelTxt", 2)])
def test_words_behind_eight_numbers_are_classes_or_text(
    folder: str, classes: int, tmp_path: Path
) -> None:
    corners = "10,20,40,20,40,60,10,60"
    for name in (*TRAIN, *VAL):
        image(tmp_path / "images" / f"{name}.png")
        label = tmp_path / folder / f"{name}.txt"
        label.parent.mkdir(exist_ok=True)
        label.write_text(f"{corners},large vehicle\n{corners.replace('1', '7')},ship\n")
    (data,) = open_every(tmp_path)
    assert data.names == (("large vehicle", "ship") if classes == 2 else ("text",))
    assert data.findings.count("words-text") == (10 if classes == 1 else 0)


def test_words_that_differ_are_text_also_numbers(tmp_path: Path) -> None:
    for number, name in enumerate((*TRAIN, *VAL)):
        image(tmp_path / "images" / f"{name}.png")
        label = tmp_path / "labels" / f"{name}.txt"
        label.parent.mkdir(exist_ok=True)
        label.write_text(f"10,20,40,20,40,60,10,60,word{number}\n70,20,90,20,90,60,70,60,2015\n")
    (data,) = open_every(tmp_path)
    assert data.names == ("text",)
    assert len(data.record(0).boxes) == 2
