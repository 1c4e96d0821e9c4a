"""Accidents of exports: copies that systems make, names without endings, turned boxes, and others.

Each maker writes two images with one box each in a way that some tool or person does.
"""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from tests.data.making import BOXES, CLASSES, CORNERS, HEIGHT, WIDTH, Make, dump, image, text

from dabdetr.data.layouts import open_data, splits
from dabdetr.data.writing import write_data

STEMS = ("img.v2-1", "größe 2")
ROWS = list(zip(STEMS, BOXES, CORNERS, CLASSES, strict=True))


def images(folder: Path, ending: str = ".png") -> None:
    for stem in STEMS:
        image(folder / (stem + ending))


def shares(box: tuple[int, ...]) -> list[float]:
    return [v / side for v, side in zip(box, (WIDTH, HEIGHT) * 2, strict=True)]


def yolo_line(corners: list[int], label: int) -> str:
    x0, y0, x1, y1 = shares(corners)  # pyright: ignore[reportArgumentType]
    return f"{label} {(x0 + x1) / 2} {(y0 + y1) / 2} {x1 - x0} {y1 - y0}\n"


def yolo_labels(folder: Path, name: Callable[[str], str] = str) -> None:
    for label, (stem, _, corners, _) in enumerate(ROWS):
        text(folder / f"{name(stem)}.txt", yolo_line(corners, label))


def xml(file: str, corners: list[int], class_: str, more: str = "") -> str:
    edges = zip(("xmin", "ymin", "xmax", "ymax"), corners, strict=True)
    box = "".join(f"<{edge}>{float(value)}</{edge}>" for edge, value in edges)
    inner = f"<object><name>{class_}</name><bndbox>{box}</bndbox>{more}</object>"
    return f"<annotation><filename>{file}</filename>{inner}</annotation>"


def coco(root: Path, turned: bool = False) -> dict[str, Any]:
    rows: list[dict[str, Any]] = []
    for at, (_, (x, y, w, h), _, _) in enumerate(ROWS):
        box = [x + w / 2 - h / 2, y + h / 2 - w / 2, h, w] if turned else [x, y, w, h]
        rows.append({"id": at, "image_id": at, "category_id": at, "bbox": box})
        rows[-1] |= {"attributes": {"rotation": 90.0}} if turned else {}
    return {
        "images": [{"id": at, "file_name": f"{stem}.png"} for at, stem in enumerate(STEMS)],
        "annotations": rows,
        "categories": [{"id": at, "name": name} for at, name in enumerate(CLASSES)],
    }


def hidden_copies_in_voc(root: Path) -> None:
    images(root / "JPEGImages")
    for stem, _, corners, class_ in ROWS:
        text(root / "Annotations" / f"{stem}.xml", xml(f"{stem}.png", corners, class_))
        text(root / "Annotations" / f"._{stem}.xml", "\0\5\x16\7")
    copy = root / "Annotations" / ".ipynb_checkpoints" / f"{STEMS[0]}-checkpoint.xml"
    text(copy, xml(f"{STEMS[0]}.png", [1, 1, 9, 9], "red"))


def hidden_copies_in_labelme(root: Path) -> None:
    images(root)
    for stem, _, (x0, y0, x1, y1), class_ in ROWS:
        shape = {"label": class_, "points": [[x0, y0], [x1, y1]], "shape_type": "rectangle"}
        dump(root / f"{stem}.json", {"shapes": [shape], "imagePath": f"{stem}.png"})
        text(root / f"._{stem}.json", "\0\5\x16\7")


def hidden_copies_in_coco(root: Path) -> None:
    images(root / "train")
    dump(root / "annotations" / "instances_train.json", coco(root))
    text(root / "annotations" / "._instances_train.json", "\0\5\x16\7")


def turned_in_coco(root: Path) -> None:
    images(root / "images")
    dump(root / "annotations" / "instances_default.json", coco(root, turned=True))


def turned_in_voc(root: Path) -> None:
    images(root / "JPEGImages")
    more = (
        "<attributes><attribute><name>rotation</name><value>90.0</value></attribute></attributes>"
    )
    for (stem, _, _, class_), row in zip(ROWS, coco(root, True)["annotations"], strict=True):
        x, y, w, h = row["bbox"]
        content = xml(f"{stem}.png", [x, y, x + w, y + h], class_, more)
        text(root / "Annotations" / f"{stem}.xml", content)
    zero = (
        "<object><name>red</name><bndbox><xmin>0</xmin><ymin>0</ymin><xmax>0</xmax><ymax>9</ymax>"
    )
    first = root / "Annotations" / f"{STEMS[0]}.xml"  # a 0 says that pixels count from 0
    whole = first.read_text("utf-8").replace(
        "</annotation>", zero + "</bndbox></object></annotation>"
    )
    text(first, whole)


def turned_in_datumaro(root: Path) -> None:
    images(root / "images" / "default")
    items = [
        {
            "id": stem,
            "image": {"path": f"{stem}.png", "size": [HEIGHT, WIDTH]},
            "annotations": [{**row, "type": "bbox", "label_id": row["category_id"]}],
        }
        for stem, row in zip(STEMS, coco(root, True)["annotations"], strict=True)
    ]
    labels = {"labels": [{"name": name} for name in CLASSES]}
    tree = {"categories": {"label": labels}, "items": items}
    dump(root / "annotations" / "default.json", tree)


def names_without_ending(root: Path) -> None:
    images(root)
    rows = [f"{stem},{class_},{','.join(map(str, box))}" for stem, _, box, class_ in ROWS]
    text(root / "boxes.csv", "ImageID,class,xmin,ymin,xmax,ymax\n" + "\n".join(rows))


def table_of_excel(root: Path) -> None:
    images(root)
    rows = [f"{stem}.png;{class_};{';'.join(map(str, box))},0" for stem, _, box, class_ in ROWS]
    text(root / "boxes.csv", "filename;class;xmin;ymin;xmax;ymax\n" + "\n".join(rows), "utf-16")


def headless(line: str, name: str) -> Make:
    def make(root: Path) -> None:
        for number in range(len(ROWS)):
            image(root / f"{number}.png")
        text(
            root / name,
            "\n".join(
                line.format(f"{number}.png", *corners, class_=class_)
                for number, (_, _, corners, class_) in enumerate(ROWS)
            ),
        )

    return make


def fields_of_fiftyone(root: Path) -> None:
    images(root / "data")

    def field(box: tuple[int, ...], class_: str) -> dict[str, Any]:
        return {"detections": [{"label": class_, "bounding_box": shares(box)}]}

    samples = [
        {"filepath": f"data/{stem}.png", "ground_truth": field(box, class_),
         "predictions": field((1, 1, 9, 9), class_)}
        for stem, box, _, class_ in ROWS
    ]  # fmt: skip
    dump(root / "samples.json", {"samples": samples})


def sloth(root: Path) -> None:
    images(root)
    keys = ("x", "y", "width", "height")
    rows = [
        {"class": "image", "filename": f"{stem}.png",
         "annotations": [{"class": class_, **dict(zip(keys, box, strict=True))}]}
        for stem, box, _, class_ in ROWS
    ]  # fmt: skip
    dump(root / "labels.json", rows)


def superannotate(root: Path) -> None:
    images(root)
    dump(root / "classes" / "classes.json", [{"id": 1, "name": "red"}])
    for stem, _, corners, class_ in ROWS:
        points = dict(zip(("x1", "y1", "x2", "y2"), corners, strict=True))
        row = {"type": "bbox", "className": class_, "points": points}
        tree = {"metadata": {"name": f"{stem}.png"}, "instances": [row]}
        dump(root / f"{stem}.png___objects.json", tree)


def dataturks(root: Path) -> None:
    images(root / "images")
    lines: list[str] = []
    for stem, _, corners, class_ in ROWS:
        x0, y0, x1, y1 = shares(corners)  # pyright: ignore[reportArgumentType]
        points = [{"x": x0, "y": y0}, {"x": x1, "y": y1}]
        row = {"label": [class_], "points": points}
        lines.append(json.dumps({"content": f"http://a.b/{stem}.png", "annotation": [row]}))
    text(root / "export.json", "\n".join(lines))


def jsons_in_cells(root: Path) -> None:
    images(root)
    out = io.StringIO()
    writer = csv.writer(out)
    writer.writerow(["file_name", "objects"])
    for stem, box, _, class_ in ROWS:
        writer.writerow([f"{stem}.png", json.dumps({"bbox": [box], "categories": [class_]})])
    text(root / "metadata.csv", out.getvalue())


def createml_by_image(root: Path) -> None:
    images(root)
    for stem, (x, y, w, h), _, class_ in ROWS:
        place = {"x": x + w / 2, "y": y + h / 2, "width": w, "height": h}
        row = {"image": f"{stem}.png", "annotations": [{"label": class_, "coordinates": place}]}
        dump(root / f"{stem}.json", [row])


def uploaded_labels(root: Path) -> None:
    images(root / "images")
    yolo_labels(root / "labels", lambda stem: "0a1b2c3d-" + stem.replace(" ", "_"))
    text(root / "classes.txt", "\n".join(CLASSES))


def scattered_labels(root: Path) -> None:
    images(root / "pics")
    yolo_labels(root / "labels_my-project")
    text(root / "labels_my-project" / "labels.txt", "\n".join(CLASSES))


def capitals(root: Path) -> None:
    images(root / "Images", ".PNG")
    yolo_labels(root / "Labels")
    text(root / "Data.YAML", f"train: images\nnames: [{', '.join(CLASSES)}]\n")


def lists_that_differ(root: Path) -> None:
    images(root / "images")
    yolo_labels(root / "labels")
    text(root / "data.yaml", f"train: images\nnames: [{', '.join(CLASSES)}]\n")
    text(root / "classes.txt", "\n".join(reversed(CLASSES)))


def renumbered(root: Path) -> None:
    images(root)
    for (stem, _, corners, class_), old in zip(ROWS, reversed(STEMS), strict=True):
        content = xml(f"{old}.png", corners, class_)
        text(root / f"{stem}.xml", content)


ACCIDENTS: dict[str, tuple[Make, str]] = {
    "hidden copies: VOC": (hidden_copies_in_voc, ""),
    "hidden copies: labelme": (hidden_copies_in_labelme, ""),
    "hidden copies: COCO": (hidden_copies_in_coco, ""),
    "turned: COCO": (turned_in_coco, "box-rotated"),
    "turned: VOC": (turned_in_voc, "box-rotated box-empty"),
    "turned: Datumaro": (turned_in_datumaro, "box-rotated"),
    "names without ending": (names_without_ending, "name-case"),
    "a table in UTF-16": (table_of_excel, ""),
    "a table of SKU-110K": (headless("{},{},{},{},{},{class_},160,120", "train.csv"), ""),
    "a table of GTSDB": (headless("{};{};{};{};{};{class_}", "gt.txt"), ""),
    "a table of Udacity": (headless('{} {} {} {} {} 0 "{class_}"', "labels.csv"), ""),
    "FiftyOne with predictions": (fields_of_fiftyone, "annotators"),
    "Sloth": (sloth, ""),
    "SuperAnnotate": (superannotate, ""),
    "Dataturks": (dataturks, "name-cleaned"),
    "Hugging Face: csv": (jsons_in_cells, ""),
    "CreateML: a file for each image": (createml_by_image, ""),
    "YOLO: uploaded": (uploaded_labels, "name-base"),
    "YOLO: scattered": (scattered_labels, "name-base"),
    "YOLO: capitals": (capitals, "name-cleaned"),
    "YOLO: lists of classes differ": (lists_that_differ, "class-order"),
    "VOC: renumbered": (renumbered, "name-other"),
}


@pytest.mark.parametrize("accident", ACCIDENTS)
def test_boxes_are_read_and_what_happened_is_said(accident: str, tmp_path: Path) -> None:
    make, kinds = ACCIDENTS[accident]
    make(tmp_path)
    data = open_data(tmp_path)
    assert {each.kind.name for each in data.findings} - {
        *("name-case", "name-base", "pixels-from-one")
    } == {*kinds.split()} - {"name-case", "name-base"}
    assert {*kinds.split()} <= {each.kind.name for each in data.findings}
    assert len(data) == 2
    counted_from = 1 if "VOC" in accident and "turned" not in accident else 0
    for index in range(2):
        record = data.record(index)
        stem = Path(record.file).stem
        at = STEMS.index(stem) if stem in STEMS else int(stem)
        (box,) = record.boxes.tolist()
        low = [value - counted_from for value in CORNERS[at][:2]]
        assert box == pytest.approx([*low, *CORNERS[at][2:]], abs=0.01)
        assert [data.names[label] for label in record.labels] == [CLASSES[at]]


def test_a_word_in_the_name_of_an_image_is_no_split(tmp_path: Path) -> None:
    superannotate(tmp_path)
    image(tmp_path / "train 3.png")
    tree = {"metadata": {"name": "train 3.png"}, "instances": []}
    dump(tmp_path / "train 3.png___objects.json", tree)
    assert splits(tmp_path) == ["default"]
    assert len(open_data(tmp_path)) == 3


def test_label_files_of_another_split_are_not_taken(tmp_path: Path) -> None:
    for split in ("train", "val"):
        images(tmp_path / "images" / split)
    yolo_labels(tmp_path / "labels" / "train")
    text(tmp_path / "classes.txt", "\n".join(CLASSES))
    with pytest.raises(ValueError, match="none of 2 images has a file of boxes"):
        open_data(tmp_path, "val")


@pytest.mark.parametrize("split", ["default", "my_export"])
def test_a_split_of_any_name_is_read_back(split: str, tmp_path: Path) -> None:
    turned_in_coco(tmp_path / "a")
    data = open_data(tmp_path / "a")
    data.split = split
    write_data([data], tmp_path / "b", "yolo")
    again = open_data(tmp_path / "b")
    assert splits(tmp_path / "b") == [split]
    assert sum(len(again.record(index).boxes) for index in range(len(again))) == 2
