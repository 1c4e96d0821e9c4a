"""One data set spelt in many ways: names of files, folders and splits, values, encodings."""

from __future__ import annotations

import json
import unicodedata
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from tests.data.making import CORNERS, Make, image, text
from tests.data.test_odd import coco, lines, voc, xml, yolo

from dabdetr.data.layouts import open_data, open_training, splits


def boxes_as(change: Callable[[list[float]], Any]) -> Make:
    """COCO with each bbox written in another way."""

    def alter(tree: dict[str, Any]) -> None:
        for row in tree["annotations"]:
            row["bbox"] = change(row["bbox"])

    return lambda root: coco(root, alter)


def two_points(box: list[float]) -> list[list[float]]:
    x, y, w, h = box
    return [[x, y], [x + w, y + h]]


def categories_as(given: Any) -> Make:
    return lambda root: coco(root, lambda tree: tree.update(categories=given))


def names_numbered_from_one(tree: dict[str, Any]) -> None:
    tree["categories"] = [row["name"] for row in tree["categories"]]
    for row in tree["annotations"]:
        row["category_id"] += 1


def images_by_name(tree: dict[str, Any]) -> None:
    names = {row.pop("id"): row["file_name"] for row in tree["images"]}
    for row in tree["annotations"]:
        row["image_id"] = names[row["image_id"]]


def panoptic(tree: dict[str, Any]) -> None:
    tree["annotations"] = [
        {
            "image_id": each["id"],
            "segments_info": [r for r in tree["annotations"] if r["image_id"] == each["id"]],
        }
        for each in tree["images"]
    ]


def uploaded(tree: dict[str, Any]) -> None:
    for row in tree["images"]:
        row["file_name"] = f"/data/upload/3/1a2b3c4d-{row['file_name']}"


def in_folder_of_annotations(root: Path) -> None:
    coco(root)
    (root / "annotations" / "train").mkdir()
    (root / "annotations" / "instances_train.json").rename(root / "annotations/train/labels.json")


def packed_by_windows(root: Path) -> None:
    coco(root)
    with zipfile.ZipFile(root / "set.zip", "w") as archive:
        for file in sorted(root.rglob("*.*")):
            if file.is_file() and file.suffix != ".zip":
                name = file.relative_to(root).as_posix()
                archive.writestr(name.replace("/", "|"), file.read_bytes())
                file.unlink()
    packed = (root / "set.zip").read_bytes()
    for folder in (b"train", b"annotations"):
        packed = packed.replace(folder + b"|", folder + b"\\")
    (root / "set.zip").write_bytes(packed)


def labels_in(folder: str, images: str = "images", ending: str = ".txt", content: str = "") -> Make:
    """YOLO's layout with other names of folders."""

    def make(root: Path) -> None:
        for name in ("a", "b"):
            image(root / images / "train" / f"{name}.png")
            text(root / folder / f"{name}{ending}", content or lines())
        text(root / "data.yaml", f"train: {images}/train\nnames: [red, blue]\n")

    return make


def lines_as(old: str, new: str) -> Make:
    return labels_in("labels/train", content=lines().replace(old, new))


def names_in(file: str, content: str = "red\nblue\n", folder: str = "{}/train") -> Make:
    """YOLO's layout whose classes a text file names."""

    def make(root: Path) -> None:
        yolo(root, folder=folder)
        text(root / file, content)

    return make


def labels_of_a_split_without_a_folder(root: Path) -> None:
    for name in ("a", "b"):
        image(root / "train" / f"{name}.png")
        text(root / "train" / f"{name}.txt", lines())
        image(root / "val" / f"{name}.png")
        text(root / "val" / f"{name}.txt", lines())
    text(root / "classes.txt", "red\nblue\n")


def pattern(root: Path) -> None:
    yolo(root, settings="train: images/train/*.png\nnames: [red, blue]\n")


def listed_as(line: str, file: str) -> Make:
    def make(root: Path) -> None:
        voc(root)
        for name in "cd":
            image(root / "JPEGImages" / f"{name}.png")
            text(root / "Annotations" / f"{name}.xml", xml(f"{name}.png"))
        for split, names in (("train", "ab"), ("val", "cd")):
            rows = "".join(line.format(n=name) + "\n" for name in names)
            text(root / file.format(split), rows)

    return make


def labelme_apart(root: Path) -> None:
    for name in ("a", "b"):
        image(root / "train" / "images" / f"{name}.png")
        shapes = [
            {"label": class_, "points": [[x0, y0], [x1, y1]], "shape_type": "rectangle"}
            for class_, (x0, y0, x1, y1) in zip(("red", "blue"), CORNERS, strict=True)
        ]
        tree = {"shapes": shapes, "imagePath": f"../images/{name}.png"}
        text(root / "train" / "labels" / f"{name}.json", json.dumps(tree))


SPELT: dict[str, tuple[Make, str]] = {
    # what is odd → what makes it, kinds of findings
    "box as a mapping": (
        boxes_as(lambda box: dict(zip(("x", "y", "width", "height"), box, strict=True))),
        "box-named",
    ),
    "box as text": (boxes_as(str), "box-text"),
    "box as two points": (boxes_as(two_points), "box-named"),
    "box as named corners": (
        boxes_as(lambda b: {"xmin": b[0], "ymin": b[1], "xmax": b[0] + b[2], "ymax": b[1] + b[3]}),
        "box-named",
    ),
    "classes as a mapping": (categories_as({"0": "red", "1": "blue"}), "class-list"),
    "classes as names": (categories_as(["red", "blue"]), "class-list"),
    "classes as names from 1": (lambda root: coco(root, names_numbered_from_one), "class-list"),
    "images meant by their name": (
        lambda root: coco(root, images_by_name),
        "id-text id-numbered",
    ),
    "panoptic": (lambda root: coco(root, panoptic), "annotation-id"),
    "uploaded to Label Studio": (lambda root: coco(root, uploaded), "name-case"),
    "json in a split's folder": (in_folder_of_annotations, ""),
    "zip of Windows": (packed_by_windows, "place"),
    "labels in LABELS": (labels_in("LABELS/train", "Images"), ""),
    "labels in label": (labels_in("label/train", "image"), ""),
    "labels in annotations": (labels_in("annotations/train", "imgs"), ""),
    "labels together": (labels_in("labels"), ""),
    "labels in .TXT": (labels_in("labels/train", ending=".TXT"), ""),
    "labels in .png.txt": (labels_in("labels/train", ending=".png.txt"), ""),
    "decimal commas": (lines_as(".", ","), "line-separators"),
    "decimal commas, semicolons": (
        labels_in("labels/train", content=lines().replace(".", ",").replace(" ", ";")),
        "line-separators",
    ),
    "comments": (lines_as("\n", "  # checked\n"), ""),
    "brackets": (
        labels_in("labels/train", content="".join(f"[{line}]\n" for line in lines().splitlines())),
        "line-separators",
    ),
    "names in labels/train": (names_in("labels/train/classes.txt"), ""),
    "names in x.names": (names_in("my.names"), ""),
    "names with numbers": (names_in("classes.txt", "0: red\n1: blue\n"), ""),
    "names above splits": (labels_of_a_split_without_a_folder, "split-shared"),
    "pattern": (pattern, ""),
    "list with both files": (
        listed_as("./JPEGImages/{n}.png ./Annotations/{n}.xml", "{}_list.txt"),
        "",
    ),
    "XML behind blanks": (
        lambda root: voc(root, lambda each: '\n <?xml version="1.0"?>' + each),
        "",
    ),
    "XML that is no UTF-16": (
        lambda root: voc(root, lambda each: '<?xml version="1.0" encoding="utf-16"?>' + each),
        "",
    ),
    "labelme's beside images": (labelme_apart, ""),
}


@pytest.mark.parametrize("odd", SPELT)
def test_each_spelling_is_read(odd: str, tmp_path: Path) -> None:
    make, kinds = SPELT[odd]
    make(tmp_path)
    data, _ = open_training(next(tmp_path.glob("*.zip"), tmp_path))
    found = {each.kind.name for each in data.findings}
    assert found - {"split-only", "split-shared", "pixels-from-one"} == set(kinds.split()) - {
        "split-shared"
    }
    assert len(data) == 2
    for index in range(2):
        record = data.record(index)
        boxes = {
            data.names[label]: box for label, box in zip(record.labels, record.boxes, strict=True)
        }
        for name, corners in zip(("red", "blue"), CORNERS, strict=True):
            assert boxes[name].tolist() == pytest.approx(corners, abs=1.01), odd


@pytest.mark.parametrize(
    ("train", "val"),
    [
        ("my_train_v2.json", "my_val_v2.json"),
        ("Annotations_Train.json", "Annotations_Validation.json"),
        ("dataset-training-final.json", "dataset-dev-final.json"),
    ],
)
def test_splits_whose_name_is_one_word_of_the_files(train: str, val: str, tmp_path: Path) -> None:
    coco(tmp_path)
    for file in (train, val):
        text(tmp_path / file, (tmp_path / "annotations/instances_train.json").read_text())
    (tmp_path / "annotations/instances_train.json").unlink()
    assert splits(tmp_path) == ["train", "val"]


def test_parts_of_a_split_are_read_as_one(tmp_path: Path) -> None:
    """Else training on one of them would leave out the other in silence."""
    coco(tmp_path)
    source = tmp_path / "annotations/instances_train.json"
    tree = json.loads(source.read_text())
    source.unlink()
    for number, row in enumerate(tree["images"]):
        boxes = [each for each in tree["annotations"] if each["image_id"] == row["id"]]
        part = tree | {"images": [row], "annotations": boxes}
        text(tmp_path / f"annotations/train_part{number}.json", json.dumps(part))
    joined = open_data(tmp_path, "train")
    assert len(joined) == len(tree["images"]) > 1
    assert sum(len(joined.record(i).boxes) for i in range(len(joined))) == len(tree["annotations"])
    assert [(each.kind.name, each.count) for each in joined.findings] == [("files-joined", 2)]


def test_accents_as_macos_writes_them(tmp_path: Path) -> None:
    """Images of one name in two splits are not mixed up."""

    def accented(tree: dict[str, Any]) -> None:
        for row in tree["images"]:
            row["file_name"] = unicodedata.normalize("NFD", "é" + row["file_name"])

    for split in ("train", "val"):
        coco(tmp_path, accented, split)
        for file in list((tmp_path / split).iterdir()):
            file.rename(file.with_name("é" + file.name))
    for each in open_training(tmp_path):
        assert each is not None
        assert [Path(each.record(i).file).parent.name for i in range(2)] == [each.split] * 2
        assert not len(each.findings)


def test_a_bare_ampersand_in_xml_is_counted(tmp_path: Path) -> None:
    voc(tmp_path, lambda each: each.replace("red", "R & D"))
    data = open_data(tmp_path)
    assert (data.names, data.findings.count("xml-bare")) == (("R & D", "blue"), 2)


def test_without_any_label_file_the_other_spelling_is_shown(tmp_path: Path) -> None:
    labels_in("labels/train")(tmp_path)
    for file in list((tmp_path / "labels" / "train").iterdir()):
        file.rename(file.with_name(file.name.upper()))
    with pytest.raises(ValueError, match=r"none of 2 images .* another case .*/A\.TXT"):
        open_data(tmp_path)
