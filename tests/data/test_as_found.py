"""Folders as people keep them: splits, class lists and images in unusual places.

Each is opened in full; what is left out or taken for something else is counted.
"""

from __future__ import annotations

import base64
import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from tests.data.making import CLASSES, CORNERS, HEIGHT, SPLITS, WIDTH, Make, dump, image, text

from dabdetr.data.layouts import open_data, open_every

LINES = "".join(
    f"{n} {(x0 + x1) / 320} {(y0 + y1) / 240} {(x1 - x0) / 160} {(y1 - y0) / 120}\n"
    for n, (x0, y0, x1, y1) in enumerate(CORNERS)
)
EVERY = tuple((split, name) for split, names in SPLITS.items() for name in names)


def yolo(
    images: str = "images/{split}",
    labels: str = "labels/{split}",
    names: str = "classes.txt",
    listed: str = "red\nblue\n",
    more: tuple[str, str] | None = None,
) -> Make:
    def make(root: Path) -> None:
        for split, name in EVERY:
            image(root / images.format(split=split) / f"{name}.png")
            text(root / labels.format(split=split) / f"{name}.txt", LINES)
        text(root / names, listed)
        if more:
            text(root / more[0], more[1])

    return make


def xml(name: str, classes: tuple[str, ...] = CLASSES) -> str:
    objects = "".join(
        f"<object><name>{c}</name><bndbox><xmin>{x0 + 1}</xmin><ymin>{y0 + 1}</ymin>"
        f"<xmax>{x1}</xmax><ymax>{y1}</ymax></bndbox></object>"
        for c, (x0, y0, x1, y1) in zip(classes, CORNERS, strict=True)
    )
    return f"<annotation><filename>{name}</filename>{objects}</annotation>"


def voc(images: str, annotations: str, more: dict[str, str] | None = None) -> Make:
    def make(root: Path) -> None:
        for split, name in EVERY:
            image(root / images.format(split=split, name=name) / f"{name}.png")
            file = root / annotations.format(split=split, name=name) / f"{name}.xml"
            text(file, xml(f"{name}.png"))
        for place, content in (more or {}).items():
            text(root / place, content)

    return make


def coco(file_name: str, names: Any = None, images: str = "images") -> Make:
    """``names``: a file of classes beside the json, and its content."""

    def make(root: Path) -> None:
        rows, boxes = [], []
        for n, (split, name) in enumerate(EVERY):
            given = file_name.format(split=split, name=name)
            image(root / images / given)
            rows.append({"id": n, "file_name": given, "width": WIDTH, "height": HEIGHT})
            for c, (x0, y0, x1, y1) in enumerate(CORNERS, 1):
                box = {"bbox": [x0, y0, x1 - x0, y1 - y0], "image_id": n, "category_id": c}
                boxes.append({"id": len(boxes), **box})
        tree: dict[str, Any] = {"images": rows, "annotations": boxes}
        if names is None:
            tree["categories"] = [{"id": n, "name": c} for n, c in enumerate(CLASSES, 1)]
        else:
            text(root / names[0], names[1])
        dump(root / "annotations.json", tree)

    return make


def rows(make_row: Callable[[str], Any], file: str, write: Callable[[list[Any]], str]) -> Make:
    def make(root: Path) -> None:
        found = []
        for split, name in EVERY:
            image(root / split / f"{name}.png")
            found.append(make_row(f"{split}/{name}.png"))
        text(root / file, write(found))

    return make


SIZES = [[x0, y0, x1 - x0, y1 - y0] for x0, y0, x1, y1 in CORNERS]


def hugging_face(name: str) -> Any:
    return {"file_name": name, "objects": {"bbox": SIZES, "categories": [*CLASSES]}}


def torchvision(name: str) -> Any:
    return {"image": name, "boxes": CORNERS, "labels": [*CLASSES]}


def mmdetection(name: str) -> Any:
    numbers = {"bboxes": CORNERS, "labels": [0, 1]}
    return {"filename": name, "width": WIDTH, "height": HEIGHT, "ann": numbers}


def detectron2(name: str) -> Any:
    pairs = enumerate(CORNERS)
    boxes = [{"bbox": box, "bbox_mode": 0, "category_id": n} for n, box in pairs]
    return {"file_name": name, "image_id": 1, "annotations": boxes}


def lines(found: list[Any]) -> str:
    return "\n".join(map(json.dumps, found))


def python_cells(found: list[Any]) -> str:
    pairs = [(row["file_name"], row["objects"]) for row in found]
    return "file_name,objects\n" + "".join(f'{name},"{objects}"\n' for name, objects in pairs)


def excel(root: Path) -> None:
    table = ["Image\tClass\tRoi.X1\tRoi.Y1\tRoi.X2\tRoi.Y2"]
    for split, name in EVERY:
        image(root / split / f"{name}.png")
        for class_, box in zip(CLASSES, CORNERS, strict=True):
            table.append("\t".join(map(str, (f"{split}\\{name}.png", class_, *box))))
    (root / "boxes.csv").write_bytes("\r\n".join(table).encode("utf-16"))


def nested_zip(root: Path) -> None:
    yolo()(root / "inside")
    shutil.make_archive(str(root / "data"), "zip", root / "inside")
    shutil.rmtree(root / "inside")


def deep(root: Path) -> None:
    yolo()(root / "archive" / "dataset" / "dataset" / "v2")


FLAT = {"images": "images", "labels": "labels"}
TEXTS = {"annotations/trainval.txt": "a 1 1 1\nb 2 1 2\n", "annotations/test.txt": "c 1 2 1\n"}
BESIDE = ("labels.json", json.dumps({"1": "red", "2": "blue"}))
DIVIDED: dict[str, tuple[Make, str]] = {
    # what it is → who writes it, and the kinds of findings
    "labels of all splits in one folder": (yolo(labels="labels"), ""),
    "train_images beside train_labels": (yolo("{split}_images", "{split}_labels"), ""),
    "images_train beside annotations_train": (yolo("images_{split}", "annotations_{split}"), ""),
    "data.yaml that names the file of names": (
        yolo(more=("data.yaml", "train: images/train\nval: images/val\nnames: classes.txt\n")),
        "",
    ),
    "classes above": (yolo("a/images/{split}", "a/labels/{split}"), "place"),
    "classes of Label Studio": (
        yolo(
            names="notes.json",
            listed=json.dumps(
                {"categories": [{"id": n, "name": c} for n, c in enumerate(CLASSES)]}
            ),
        ),
        "",
    ),
    "a list of classes in JSON": (yolo(names="classes.json", listed=json.dumps(CLASSES)), ""),
    "five folders deep": (deep, "place"),
    "a folder with a zip": (nested_zip, "place"),
    "XML in folders with a suffix": (voc("images_{split}", "annotations_{split}"), "name-base"),
    "lists in annotations/": (voc("images", "annotations/xmls", TEXTS), "name-cleaned"),
    "lists in splits/": (
        voc("images", "xml", {"splits/train.txt": "a\nb\n", "splits/val.txt": "c\n"}),
        "",
    ),
    "splits in a COCO json's file names": (coco("{split}/{name}.png"), "split-listed"),
    "categories in another file": (
        coco("{split}/{name}.png", BESIDE),
        "split-listed class-list",
    ),
    "splits in metadata.jsonl": (rows(hugging_face, "metadata.jsonl", lines), ""),
    "cells as Python writes them": (rows(hugging_face, "metadata.csv", python_cells), ""),
    "boxes of torchvision": (rows(torchvision, "data.json", json.dumps), "box-corners"),
    "annotations of MMDetection": (
        rows(mmdetection, "data.json", json.dumps),
        "box-corners class-names-missing",
    ),
    "records of Detectron2": (rows(detectron2, "data.json", json.dumps), "class-names-missing"),
    "a table of Excel": (excel, "name-cleaned"),
}


@pytest.mark.parametrize("kind", DIVIDED)
def test_splits_classes_and_boxes_are_found(kind: str, tmp_path: Path) -> None:
    make, kinds = DIVIDED[kind]
    make(tmp_path)
    data = open_every(tmp_path)
    assert [len(each) for each in data] == ([1, 2] if "annotations/" in kind else [2, 1])
    assert data[0].split in ("train", "test")
    for each in data:
        found = {one.kind.name for one in each.findings} - {"pixels-from-one"}
        assert found == {*kinds.split()}
        for record in map(each.record, range(len(each))):
            classes = [each.names[label] for label in record.labels]
            wanted = ("0", "1") if "class-names-missing" in kinds else CLASSES
            assert sorted(zip(classes, record.boxes.round(2).tolist(), strict=True)) == sorted(
                zip(wanted, map(list, CORNERS), strict=True)
            )


def test_a_folder_for_each_class_is_no_split(tmp_path: Path) -> None:
    for folder, name in (("cats", "a"), ("cats", "b"), ("dogs", "c")):
        image(tmp_path / folder / f"{name}.png")
        text(tmp_path / folder / f"{name}.xml", xml(f"{name}.png"))
    assert [(each.split, len(each)) for each in open_every(tmp_path)] == [("default", 3)]


def test_a_third_folder_beside_train_and_val_is_a_split_too(tmp_path: Path) -> None:
    yolo()(tmp_path)
    voc("images/{split}", "annotations/{split}")(tmp_path / "voc")
    for root in (tmp_path, tmp_path / "voc"):
        image(root / "images" / "holdout" / "d.png")
    text(tmp_path / "labels" / "holdout" / "d.txt", LINES)
    text(tmp_path / "voc" / "annotations" / "holdout" / "d.xml", xml("d.png"))
    image(tmp_path / "images" / "loose.png")
    for root in (tmp_path, tmp_path / "voc"):
        data = open_every(root)
        assert [(each.split, len(each)) for each in data] == [
            ("train", 2),
            ("val", 1),
            ("holdout", 1),
        ]
    assert open_every(tmp_path)[0].findings.count("image-unlisted") == 1


def test_a_second_layout_beside_the_first_is_said(tmp_path: Path) -> None:
    yolo(**FLAT)(tmp_path)
    text(tmp_path / "Annotations" / "a.xml", xml("a.png", ("car", "van")))
    (data,) = open_every(tmp_path)
    assert data.names == CLASSES
    (other,) = (each for each in data.findings if each.kind.name == "layout-other")
    assert other.examples[0].endswith("VOC, read as YOLO")


def test_images_in_labelmes_files_are_unpacked(tmp_path: Path) -> None:
    image(tmp_path / "a.png")
    shapes = [
        {"label": c, "points": [box[:2], box[2:]], "shape_type": "rectangle"}
        for c, box in zip(CLASSES, CORNERS, strict=True)
    ]
    content = base64.b64encode((tmp_path / "a.png").read_bytes()).decode()
    tree = {"shapes": shapes, "imagePath": "b.png", "imageData": content}
    (tmp_path / "a.png").unlink()
    dump(tmp_path / "b.json", tree)
    (data,) = open_every(tmp_path)
    assert (len(data), len(data.record(0).boxes)) == (1, 2)
    assert data.image(0).shape == (HEIGHT, WIDTH, 3)
    assert data.findings.count("images-packed") == 1


def test_shapes_of_a_group_are_one_object(tmp_path: Path) -> None:
    image(tmp_path / "a.png")
    given = [("red", [[10, 20], [40, 60]], 1), ("red", [[50, 20], [80, 70]], 1)]
    given += [("blue", [[1, 1], [9, 9]], 1), ("__ignore__", [[1, 1], [9, 9]], None)]
    shapes = [
        {"label": label, "points": points, "shape_type": "rectangle", "group_id": group}
        for label, points, group in given
    ]
    dump(tmp_path / "a.json", {"shapes": shapes, "imagePath": "a.png", "imageData": None})
    (data,) = open_every(tmp_path)
    assert data.names == ("blue", "red")
    assert sorted(data.record(0).boxes.tolist()) == [[1, 1, 9, 9], [10, 20, 80, 70]]
    kinds = {each.kind.name: each.count for each in data.findings}
    assert kinds == {"shapes-grouped": 1, "region-uncared": 1}


def test_regions_of_label_studio_belong_to_the_image_that_they_name(tmp_path: Path) -> None:
    for name in "abc":
        image(tmp_path / f"{name}.png")
    value = {"x": 10, "y": 10, "width": 20, "height": 20, "rectanglelabels": ["red"]}
    results = [{"to_name": to, "value": value} for to in ("right", "elsewhere")]
    pair = {"left": "a.png", "right": "b.png"}
    guessed = {"data": {"image": "c.png"}, "predictions": [{"result": results}]}
    tasks = [{"data": pair, "annotations": [{"result": results}]}, guessed]
    pages = {"data": {"pages": ["a.png", "b.png"]}}
    paged = pages | {"annotations": [{"result": [{"item_index": 1, "value": value}]}]}
    for name, content in (("pair", tasks), ("pages", [paged])):
        dump(tmp_path / name / "tasks.json", content)
        for file in tmp_path.glob("*.png"):
            shutil.copy(file, tmp_path / name)
        (data,) = open_every(tmp_path / name)
        boxes = {Path(r.file).stem: len(r.boxes) for r in map(data.record, range(len(data)))}
        assert boxes == {"a": 0, "b": 1} | ({"c": 0} if name == "pair" else {})
        counts = [data.findings.count(kind) for kind in ("image-unknown", "predictions")]
        assert counts == ([1, 1] if name == "pair" else [0, 0])


def test_a_second_json_beside_annotations_is_said(tmp_path: Path) -> None:
    coco("{split}-{name}.png")(tmp_path)
    (tmp_path / "annotations").mkdir()
    shutil.copy(tmp_path / "annotations.json", tmp_path / "annotations" / "all.json")
    (data,) = open_every(tmp_path)
    assert data.findings.count("layout-other") == 1


def test_other_names_in_a_second_yaml_and_a_missing_folder_are_said(tmp_path: Path) -> None:
    settings = "train: images/train\nval: [images/val, images/gone]\nnames: "
    yolo(names="data.yaml", listed=settings + "[red, blue]\n")(tmp_path)
    text(tmp_path / "data_v2.yaml", settings.replace("val,", "train,") + "[blue, red]\n")
    train, val = open_every(tmp_path)
    assert train.findings.count("class-order") == 1
    assert (train.findings.count("layout-other"), val.findings.count("layout-other")) == (0, 1)
    assert (len(val), val.findings.count("split-missing")) == (1, 1)


def test_one_split_in_folders_of_several_is_said(tmp_path: Path) -> None:
    table = "filename,class,xmin,ymin,xmax,ymax\n"
    for split, name in EVERY:
        image(tmp_path / split / f"{name}.png")
        table += f"{name}.png,red,113,53,157,92\n"
    text(tmp_path / "boxes.csv", table)
    (data,) = open_every(tmp_path)
    assert data.findings.count("split-folders") == 2


def test_four_corners_in_a_table_are_an_outline(tmp_path: Path) -> None:
    row = "a.png,red,10,20,40,25,38,60,8,55\n"
    data = table(f"filename,label,x1,y1,x2,y2,x3,y3,x4,y4\n{row}", tmp_path)
    assert data.record(0).boxes.tolist() == [[8, 20, 40, 60]]
    assert data.findings.count("box-rotated") == 1


def test_names_that_several_images_have_are_said(tmp_path: Path) -> None:
    coco("{split}-{name}.png")(tmp_path)
    for folder in ("cam1", "cam2"):
        image(tmp_path / "images" / folder / "train-a.png")
    (tmp_path / "images" / "train-a.png").unlink()
    data = open_data(tmp_path)
    assert len(data) == 2
    assert data.findings.count("name-several") == data.findings.count("image-missing") == 1


@pytest.mark.parametrize(
    ("content", "said"),
    [
        ([{"image_id": 1, "category_id": 1, "bbox": [1, 2, 3, 4], "score": 0.9}], "val --predic"),
        ([{"name": "a.png", "size": 3}], "has no annotations that are known"),
        ({"annotations": [{"bbox": [1, 2, 3, 4]}], "categories": [{"name": "a"}]}, "lacks one of"),
    ],
)
def test_jsons_of_other_kinds_are_refused(content: Any, said: str, tmp_path: Path) -> None:
    image(tmp_path / "a.png")
    dump(tmp_path / "data.json", content)
    with pytest.raises(ValueError, match=said):
        open_data(tmp_path)


def test_links_to_folders_are_followed_once(tmp_path: Path) -> None:
    root, elsewhere = tmp_path / "set", tmp_path / "disk"
    yolo(**FLAT)(elsewhere)
    root.mkdir()
    for name in ("images", "labels"):
        (root / name / "more").mkdir(parents=True)
        (root / name / "more" / "linked").symlink_to(elsewhere / name)
        (elsewhere / name / "again").symlink_to(elsewhere / name)
        (elsewhere / name / "above").symlink_to(tmp_path)  # where other data sets lie
    shutil.copy(elsewhere / "classes.txt", root)
    (data,) = open_every(root)
    assert [len(record.boxes) for record in map(data.record, range(len(data)))] == [2, 2, 2]


def test_boxes_with_several_classes_are_said(tmp_path: Path) -> None:
    image(tmp_path / "a.png")
    x0, y0, x1, y1 = CORNERS[0]
    shape = {"name": "rect", "x": x0, "y": y0, "width": x1 - x0, "height": y1 - y0}
    region = {"shape_attributes": shape, "region_attributes": {"kind": {"red": True, "car": True}}}
    dump(tmp_path / "via" / "via.json", {"a": {"filename": "a.png", "regions": [region]}})
    value = {"x": 10, "y": 10, "width": 20, "height": 20, "rectanglelabels": ["red", "car"]}
    task = {"data": {"image": "a.png"}, "annotations": [{"result": [{"value": value}]}]}
    dump(tmp_path / "studio" / "tasks.json", [task])
    box = {"left": 1, "top": 2, "width": 30, "height": 40}
    asset = {"asset": {"name": "a.png"}, "regions": [{"tags": ["red", "car"], "boundingBox": box}]}
    dump(tmp_path / "vott" / "a-asset.json", asset)
    twice = xml("a.png").replace("</bndbox>", "</bndbox><bndbox><xmin>1</xmin></bndbox>", 1)
    text(tmp_path / "voc" / "a.xml", twice)
    for folder in ("via", "studio", "vott", "voc"):
        shutil.copy(tmp_path / "a.png", tmp_path / folder)
        (data,) = open_every(tmp_path / folder)
        kind = "boxes-several" if folder == "voc" else "class-several"
        assert data.findings.count(kind) == 1
        assert "red" in data.names


@pytest.mark.parametrize(
    ("place", "content"),
    [
        ("classes.txt", "red, blue"),
        ("data.yaml", "train: images/train\nval: images/val\nnames: red, blue\n"),
    ],
)
def test_class_names_in_a_line(place: str, content: str, tmp_path: Path) -> None:
    yolo(names=place, listed=content)(tmp_path)
    assert [each.names for each in open_every(tmp_path)] == [CLASSES, CLASSES]


def test_a_second_folder_of_labels_is_said(tmp_path: Path) -> None:
    line = "10 20 40 20 40 60 10 60 {} 0\n"
    image(tmp_path / "images" / "a.png")
    for version, name in (("1.0", "red"), ("1.5", "blue")):
        text(tmp_path / f"labelTxt-v{version}" / "a.txt", line.format(name))
    (data,) = open_every(tmp_path)
    assert (data.names, data.findings.count("layout-other")) == (("red",), 1)


def test_a_key_twice_in_data_yaml_is_refused(tmp_path: Path) -> None:
    listed = "names: {0: red, 1: blue, 1: green}\ntrain: images/train\nval: images/val\n"
    yolo(names="data.yaml", listed=listed)(tmp_path)
    with pytest.raises(ValueError, match="has '1' twice in one mapping; remove one, see line 1"):
        open_every(tmp_path)


def table(content: str, root: Path) -> Any:
    for name in "abcd":
        image(root / f"{name}.png")
    text(root / "boxes.csv", content)
    (data,) = open_every(root)
    return data


def test_a_head_without_a_name_of_images_is_no_row(tmp_path: Path) -> None:
    rows = "".join(f"{n}.png,10,20,30,40,red\n" for n in "abcd")
    data = table("name,bbox_x,bbox_y,bbox_x2,bbox_y2,cls\n" + rows, tmp_path)
    assert (len(data.labels), data.findings.count("image-missing")) == (4, 0)


def test_few_sizes_in_a_table_without_a_head_are_not_swapped_corners(tmp_path: Path) -> None:
    rows = "".join(f"{n}.png,113,53,44,39,red\n{n}.png,10,20,30,40,blue\n" for n in "abcd")
    data = table(rows, tmp_path)
    assert data.findings.count("box-extents") == 8
    assert sorted(data.record(0).boxes.tolist()) == sorted(map(list, CORNERS))


def test_rows_twice_and_cells_without_a_class_are_counted(tmp_path: Path) -> None:
    row, head = "a.png,{},10,20,40,60\n", "filename,class,xmin,ymin,xmax,ymax\n"
    data = table(head + row.format("red") * 2 + row.format("nan"), tmp_path)
    assert (data.names, len(data.labels)) == (("red",), 1)
    assert [data.findings.count(kind) for kind in ("line-twice", "class-unknown")] == [1, 1]


def test_a_list_of_classes_that_counts_from_1(tmp_path: Path) -> None:
    yolo(listed="1 red\n2: blue\n")(tmp_path)
    for file in (tmp_path / "labels").rglob("*.txt"):
        text(file, "".join(f"{int(line[0]) + 1}{line[1:]}\n" for line in LINES.splitlines()))
    for data in open_every(tmp_path):
        assert data.names == CLASSES
        assert {each.kind.name for each in data.findings} == set()


def test_a_zip_of_images_beside_labels_is_no_data_set(tmp_path: Path) -> None:
    yolo(**FLAT)(tmp_path)
    shutil.make_archive(str(tmp_path / "images"), "zip", tmp_path / "images")
    shutil.rmtree(tmp_path / "images")
    with pytest.raises(ValueError, match=r"has no annotations that are known.*There is: classes"):
        open_data(tmp_path)


@pytest.mark.parametrize("name", ["{name}", "{name}.png", "task_{n}", "train-part{n}"])
def test_parts_of_one_split_are_joined(name: str, tmp_path: Path) -> None:
    whole = tmp_path / "whole"
    coco("{split}-{name}.png")(whole)
    tree = json.loads((whole / "annotations.json").read_text())
    (whole / "annotations.json").unlink()
    for n, row in enumerate(tree["images"]):
        boxes = [each for each in tree["annotations"] if each["image_id"] == n]
        classes = tree["categories"][:: -1 if n else 1]  # each file numbers the classes anew
        if n:
            boxes = [{**each, "category_id": 3 - each["category_id"]} for each in boxes]
        numbered = [{"id": i, "name": each["name"]} for i, each in enumerate(classes, 1)]
        stem = name.format(name=Path(row["file_name"]).stem, n=n)
        part = {"images": [row], "annotations": boxes, "categories": numbered}
        dump(whole / "annotations" / f"{stem}.json", part)
    (data,) = open_every(whole)
    assert (len(data), data.findings.count("files-joined")) == (3, 3)
    assert not data.findings.of("skipped", "mended", "kept")
    for record in map(data.record, range(3)):
        named = [data.names[label] for label in record.labels]
        found = sorted(zip(named, record.boxes.tolist(), strict=True))
        assert found == sorted(zip(CLASSES, map(list, CORNERS), strict=True))


def test_parts_in_folders_of_their_own_are_not_joined(tmp_path: Path) -> None:
    for camera in ("cam1", "cam2"):
        coco("{name}.png")(tmp_path / camera)
    data = open_every(tmp_path)
    assert [(each.split, len(each)) for each in data] == [("cam1", 3), ("cam2", 3)]
    assert not {*data[0].files} & {*data[1].files}  # pyright: ignore


@pytest.mark.parametrize("other", ["labels_obb", "labels-v2", "annotations"])
def test_a_second_folder_of_yolo_labels_is_said(other: str, tmp_path: Path) -> None:
    yolo()(tmp_path)
    for split, name in EVERY:
        text(tmp_path / other / split / f"{name}.txt", "0 0.1 0.1 0.9 0.1 0.9 0.9 0.1 0.9\n")
    for each in open_every(tmp_path):
        found = {found.kind.name: found for found in each.findings}
        assert found["layout-other"].count == 1
        where = f"{tmp_path / other / each.split}: "
        assert found["layout-other"].examples[0].startswith(where)


NUMBERED = (
    "label_map.pbtxt",
    "item {\n  id: 0\n  name: \"red\"\n}\nitem { id: 1, name: 'blue' }\n",
)
NUMBERED_LISTS = (NUMBERED, ("labels.txt", "red\nblue\n"), ("obj.names", "red\nblue\n"))


def numbered_voc(root: Path) -> None:
    voc("JPEGImages", "Annotations")(root)
    for file in (root / "Annotations").glob("*.xml"):
        text(file, xml(f"{file.stem}.png", ("0", "1")))


def numbered_coco(root: Path) -> None:
    image(root / "a.png")
    boxes = [{"id": n, "image_id": 1, "category_id": n + 1, "bbox": [x0, y0, x1 - x0, y1 - y0]}
             for n, (x0, y0, x1, y1) in enumerate(CORNERS)]  # fmt: skip
    categories = [{"id": n + 1, "name": str(n)} for n in range(2)]
    images = [{"id": 1, "file_name": "a.png"}]
    dump(root / "a.json", {"images": images, "annotations": boxes, "categories": categories})


def numbered_yolo(root: Path) -> None:
    settings = "train: images/train\nval: images/val\ntest: images/test\nnc: 2\n"
    yolo(names="data.yaml", listed=settings)(root)


@pytest.mark.parametrize("make", [numbered_voc, numbered_coco, numbered_yolo])
@pytest.mark.parametrize(("file", "listed"), NUMBERED_LISTS)
def test_numbers_are_named_by_a_list(make: Make, file: str, listed: str, tmp_path: Path) -> None:
    make(tmp_path)
    text(tmp_path / file, listed)
    for each in open_every(tmp_path):
        assert {*each.names} == {"red", "blue"}
        record = each.record(0)
        first = [each.names[label] for label in record.labels].index("red")
        assert record.boxes[first].round(2).tolist() == list(CORNERS[0])
        assert not each.findings.count("class-names-missing")


def test_a_list_that_lacks_a_number_is_said(tmp_path: Path) -> None:
    numbered_voc(tmp_path)
    text(tmp_path / "label_map.pbtxt", "item {\n id: 1\n display_name: 'blue'\n}\n")
    data = open_data(tmp_path)
    assert data.names == ("0", "1")
    found = {each.kind.name: each.examples for each in data.findings}
    assert found["class-names-missing"] == [f"{tmp_path / 'label_map.pbtxt'} has no name for 0"]


def test_vocs_annotations_are_read_as_json(tmp_path: Path) -> None:
    voc("JPEGImages", "Annotations")(tmp_path / "xml")
    voc("JPEGImages", "Annotations")(tmp_path / "json")
    for file in (tmp_path / "json" / "Annotations").glob("*.xml"):
        objects = [
            {"name": c, "difficult": c == "red", "pose": None,
             "bndbox": {"xmin": x0 + 1, "ymin": str(y0 + 1), "xmax": float(x1), "ymax": y1}}
            for c, (x0, y0, x1, y1) in zip(CLASSES, CORNERS, strict=True)
        ]  # fmt: skip
        several = objects if file.stem != "a" else objects[0]  # xmltodict: no list for one
        tree = {"filename": f"{file.stem}.png", "size": {"width": "160"}, "object": several}
        deep: dict[str, Any] = {}
        for _ in range(500):
            deep = {"source": deep}
        tree |= deep
        dump(file.with_suffix(".json"), {"annotation": tree})
        file.unlink()
    wanted, data = open_data(tmp_path / "xml"), open_data(tmp_path / "json")
    assert (len(data), data.names) == (len(wanted), wanted.names)
    for index in range(len(data)):
        boxes = data.record(index).boxes.tolist()
        assert boxes
        assert boxes == wanted.record(index).boxes.tolist()[: len(boxes)]
        assert data.record(index).crowd.tolist() == [True, False][: len(boxes)]


@pytest.mark.parametrize("file", ["Classes.txt", "config/data.yaml"])
def test_names_in_another_case_or_folder_are_used(file: str, tmp_path: Path) -> None:
    settings = "path: ..\ntrain: images/train\nval: images/val\nnames: [red, blue]\n"
    yolo(names=file, listed=settings if file.endswith("yaml") else "red\nblue\n")(tmp_path)
    train, val = open_every(tmp_path)
    assert (train.split, val.split) == ("train", "val")
    assert train.names == val.names == ("red", "blue")
    assert not len(train.findings)


def test_settings_of_a_data_set_below_are_not_those_of_the_folder(tmp_path: Path) -> None:
    settings = "train: images/train\nval: images/val\nnames: [red, blue]\n"
    for name in ("one", "two"):
        yolo(names="data.yaml", listed=settings)(tmp_path / name)
    with pytest.raises(ValueError, match="holds 2 data sets"):
        open_data(tmp_path)


def test_a_zip_for_each_split(tmp_path: Path) -> None:
    yolo("{split}/images", "{split}/labels", "train/classes.txt")(tmp_path / "whole")
    text(tmp_path / "whole" / "val" / "classes.txt", "red\nblue\n")
    (tmp_path / "zips").mkdir()
    for split in SPLITS:
        shutil.make_archive(str(tmp_path / "zips" / split), "zip", tmp_path / "whole" / split)
    train, val = open_every(tmp_path / "zips")
    assert [(each.split, len(each)) for each in (train, val)] == [("train", 2), ("val", 1)]
    assert train.record(0).boxes.round(2).tolist() == CORNERS


def test_a_count_of_classes_as_text_is_no_fault(tmp_path: Path) -> None:
    settings = "train: images/train\nval: images/val\nnc: '2'\nnames: [red, blue]\n"
    yolo(names="data.yaml", listed=settings)(tmp_path)
    assert not len(open_data(tmp_path).findings)


def test_difficult_in_words(tmp_path: Path) -> None:
    voc("JPEGImages", "Annotations")(tmp_path)
    file = tmp_path / "Annotations" / "a.xml"
    hard = "<object><difficult>True</difficult>"
    text(file, xml("a.png").replace("<object>", hard, 1))
    assert open_data(tmp_path).record(0).crowd.tolist() == [True, False]


def test_vias_csv_below_a_comment_and_with_a_bad_cell(tmp_path: Path) -> None:
    image(tmp_path / "a.png")
    head = "filename,file_size,region_count,region_shape_attributes,region_attributes"
    shape = dict(zip(("x", "y", "width", "height"), SIZES[0], strict=True))
    cells = (
        json.dumps(each).replace('"', '""') for each in ({"name": "rect", **shape}, {"c": "red"})
    )
    quoted = ",".join(f'"{cell}"' for cell in cells)
    rows = f"a.png,1,1,{quoted}\na.png,1,1,{{bad,{{}}\n"
    text(tmp_path / "via.csv", f"# made by a tool\n{head}\n{rows}")
    data = open_data(tmp_path)
    assert {found.kind.name: found.count for found in data.findings} == {"box-unreadable": 1}
    assert (data.names, data.record(0).boxes.tolist()) == (("red",), [CORNERS[0]])


def test_label_studios_points_are_shapes_without_area(tmp_path: Path) -> None:
    image(tmp_path / "a.png")
    box = {
        "x": 10,
        "y": 10,
        "width": 20,
        "height": 20,
        "rotation": "no",
        "rectanglelabels": ["red"],
    }
    point = {"x": 10, "y": 10, "width": 0.5, "keypointlabels": ["nose"]}
    results = [{"value": each} for each in (box, point)]
    dump(tmp_path / "a.json", [{"data": {"image": "a.png"}, "annotations": [{"result": results}]}])
    data = open_data(tmp_path)
    assert {found.kind.name: found.count for found in data.findings} == {"shape-without-area": 1}
    assert len(data.record(0).boxes) == 1


def test_a_json_without_boxes_needs_no_classes(tmp_path: Path) -> None:
    image(tmp_path / "a.png")
    images = [{"id": 1, "file_name": "a.png"}]
    dump(tmp_path / "Labels.JSON", {"images": images, "annotations": [], "categories": []})
    data = open_data(tmp_path)
    assert (data.split, len(data), data.names) == ("default", 1, ())


@pytest.mark.parametrize(
    "names",
    ["[{id: 0, name: red}, {id: 1, name: blue}]", "{red: 0, blue: 1}", "\"['red', 'blue']\""],
)
def test_names_in_other_forms(names: str, tmp_path: Path) -> None:
    settings = f"train: images/train\nval: images/val\nnames: {names}\n"
    yolo(names="data.yaml", listed=settings)(tmp_path)
    assert open_data(tmp_path).names == ("red", "blue")


def test_a_list_in_pythons_form(tmp_path: Path) -> None:
    yolo(listed="['red', 'blue']\n")(tmp_path)
    assert open_data(tmp_path).names == ("red", "blue")


@pytest.mark.parametrize("make", [numbered_voc, yolo(names="none", listed="")])
def test_a_broken_list_of_names_is_no_reason_to_refuse(make: Make, tmp_path: Path) -> None:
    make(tmp_path)
    text(tmp_path / "classes.json", "{broken")
    data = open_data(tmp_path)
    assert data.names == ("0", "1")
    found = {each.kind.name: each.examples[0] for each in data.findings}
    assert "classes.json is not readable JSON" in found["class-names-missing"]
