"""Lists of boxes: tables, CreateML, Label Studio's own json, DOTA's and KITTI's lines."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tests.data.making import Make, image, text

from dabdetr.data.layouts import open_data, open_training, splits

BOXES = {"red": (113, 53, 157, 92), "blue": (10, 20, 40, 60)}
NAMES = ("a.png", "b.png")


def table(
    row: str, head: str = "", file: str = "boxes.csv", folder: str = ".", more: str = ""
) -> Make:
    """A row for each box; its values are put in by name."""

    def make(root: Path) -> None:
        rows = [head] if head else []
        for name in NAMES:
            image(root / folder / name)
            for class_, (x0, y0, x1, y1) in BOXES.items():
                values = {"x0": x0, "y0": y0, "x1": x1, "y1": y1, "w": x1 - x0, "h": y1 - y0}
                values |= {f"r{key}": value / 160 for key, value in values.items() if key[0] == "x"}
                values |= {f"r{key}": value / 120 for key, value in values.items() if key[0] == "y"}
                values |= {"cx": (x0 + x1) / 2, "cy": (y0 + y1) / 2}
                rows.append(row.format(name=name, stem=name[:1], c=class_, **values))
        text(root / file, "\n".join(rows) + more)

    return make


def open_images(root: Path) -> None:
    head = "ImageID,Source,LabelName,Confidence,XMin,XMax,YMin,YMax,IsOccluded,IsGroupOf"
    row = "{stem},xclick,/m/{c},1,{rx0},{rx1},{ry0},{ry1},0,0"
    table(row, head, "train-annotations-bbox.csv", "train")(root)
    text(root / "class-descriptions-boxable.csv", "/m/red,red\n/m/blue,blue\n")


def createml(root: Path) -> None:
    rows = []
    for name in NAMES:
        image(root / name)
        boxes = [
            {
                "label": class_,
                "coordinates": {
                    "x": (x0 + x1) / 2,
                    "y": (y0 + y1) / 2,
                    "width": x1 - x0,
                    "height": y1 - y0,
                },
            }
            for class_, (x0, y0, x1, y1) in BOXES.items()
        ]
        rows.append({"image": name, "annotations": boxes})
    text(root / "_annotations.createml.json", json.dumps(rows))


def regions() -> list[dict[str, Any]]:
    return [
        {
            "x": x0 / 1.6,
            "y": y0 / 1.2,
            "width": (x1 - x0) / 1.6,
            "height": (y1 - y0) / 1.2,
            "rotation": 0,
            "rectanglelabels": [class_],
            "original_width": 160,
            "original_height": 120,
        }
        for class_, (x0, y0, x1, y1) in BOXES.items()
    ]


def label_studio(root: Path) -> None:
    tasks = []
    for number, name in enumerate(NAMES):
        image(root / "images" / name)
        result = [
            {"type": "rectanglelabels", "from_name": "label", "value": each} for each in regions()
        ]
        data = {"image": f"/data/local-files/?d=images/{name}"}
        tasks.append({"id": number, "annotations": [{"id": 1, "result": result}], "data": data})
    text(root / "project-1.json", json.dumps(tasks))


def label_studio_min(root: Path) -> None:
    rows = []
    for number, name in enumerate(NAMES):
        image(root / name)
        rows.append({"image": f"/data/upload/1/{name}", "id": number, "label": regions()})
    text(root / "project-1-min.json", json.dumps(rows))


def dota_line(class_: str, hard: int = 0) -> str:
    x0, y0, x1, y1 = BOXES[class_]
    return f"{x0}.0 {y0}.0 {x1}.0 {y0}.0 {x1}.0 {y1}.0 {x0}.0 {y1}.0 {class_} {hard}\n"


def dota(labels: str = "labelTxt", images: str = "images") -> Make:
    def make(root: Path) -> None:
        for name in NAMES:
            image(root / images / name)
            lines = dota_line("red") + dota_line("blue")
            text(root / labels / f"{name[:1]}.txt", "imagesource:GoogleEarth\ngsd:0.15\n" + lines)

    return make


def dota_of_roboflow(root: Path) -> None:
    dota("train/labelTxt", "train/images")(root)
    text(root / "data.yaml", "train: ../train/images\nval: ../valid/images\nnames: [red, blue]\n")


def via3_csv(root: Path) -> None:
    attributes = {"7": {"aname": "kind", "options": {"0": "red", "1": "blue"}}}
    rows = [
        "# Exported using VGG Image Annotator",
        f"# ATTRIBUTE = {json.dumps(attributes)}",
        "# CSV_HEADER = metadata_id,file_list,flags,temporal_coordinates,"
        "spatial_coordinates,metadata",
    ]
    for name in NAMES:
        image(root / name)
        for n, (x0, y0, x1, y1) in enumerate(BOXES.values()):
            box = [2, x0, y0, x1 - x0, y1 - y0] if n else [8, x0, y0, x1, y0, x1, y1, x0, y1]
            cells = [f'["{name}"]', "0", "[]", json.dumps(box), f'{{"7": "{n}"}}']
            row = ["1_a", *cells]
            rows.append(",".join('"' + cell.replace('"', '""') + '"' for cell in row))
    text(root / "via_export.csv", "\n".join(rows))


def bbgt(root: Path) -> None:
    for name in NAMES:
        image(root / "images" / "set00" / name)
        lines = ["% bbGt version=3"]
        for class_, (x0, y0, x1, y1) in BOXES.items():
            lines.append(f"{class_} {x0} {y0} {x1 - x0} {y1 - y0} 0 0 0 0 0 0 0")
        lines.append("red 1 1 9 9 0 0 0 0 0 1 0")
        text(root / "annotations" / "set00" / f"{name[:1]}.txt", "\n".join(lines))


def open_images_of_fiftyone(root: Path) -> None:
    head = "ImageID,Source,LabelName,Confidence,XMin,XMax,YMin,YMax,IsGroupOf"
    row = "{stem},xclick,/m/{c},1,{rx0},{rx1},{ry0},{ry1},0"
    table(row, head, "labels/detections.csv", "data")(root)
    text(root / "metadata" / "classes.csv", "/m/red,red\n/m/blue,blue\n")


def numbered(root: Path) -> None:
    table("{name},{x0},{y0},{x1},{y1},{c}", "image,xmin,ymin,xmax,ymax,class_id")(root)
    content = (root / "boxes.csv").read_text()
    text(root / "boxes.csv", content.replace("red", "1").replace("blue", "0"))
    text(root / "classes.txt", "blue\nred\n")


def dota_with_commas(root: Path) -> None:
    """As some converters write it: with commas, and without the last number."""
    dota()(root)
    for file in (root / "labelTxt").iterdir():
        text(file, file.read_text().replace(" 0\n", "\n").replace(" ", ","))


def kitti(labels: str = "training/label_2", images: str = "training/image_2") -> Make:
    def make(root: Path) -> None:
        for name in NAMES:
            image(root / images / name)
            lines = [
                f"{class_} 0.00 0 -1.57 {x0}.00 {y0}.00 {x1}.00 {y1}.00 1.5 1.6 3.6 2.8 1.6 8.4 0.1"
                for class_, (x0, y0, x1, y1) in BOXES.items()
            ]
            text(root / labels / f"{name[:1]}.txt", "\n".join(lines))

    return make


def labels_with_numbers(root: Path) -> None:
    """labels.txt is the table itself, and no list of names for its numbers."""
    numbers = {class_: str(n) for n, class_ in enumerate(BOXES)}
    lines = []
    for name in NAMES:
        image(root / name)
        boxes = (",".join(map(str, (*box, numbers[class_]))) for class_, box in BOXES.items())
        lines.append(" ".join((name, *boxes)))
    text(root / "labels.txt", "\n".join(lines))


TF = "filename,width,height,class,xmin,ymin,xmax,ymax"
TF_ROW = "{name},160,120,{c},{x0},{y0},{x1},{y1}"
RETINA = "images/{name},{x0},{y0},{x1},{y1},{c}"
LISTS: dict[str, tuple[Make, str]] = {
    # what it is → who writes it, and the kinds of findings beside split-only
    "TensorFlow": (table(TF_ROW, TF), ""),
    "TensorFlow, images apart": (table(TF_ROW, TF, "train_labels.csv", "images/train"), ""),
    "TensorFlow, in annotations/": (table(TF_ROW, TF, "annotations/x.csv", "images"), ""),
    "keras-retinanet": (table(RETINA, folder="images"), ""),
    "keras-retinanet, an image without boxes": (
        table(RETINA, folder="images", more="\nimages/a.png,,,,,\n"),
        "",
    ),
    "VoTT": (
        table(
            '"{name}",{x0}.5,{y0}.5,{x1}.5,{y1}.5,"{c}"',
            '"image","xmin","ymin","xmax","ymax","label"',
        ),
        "",
    ),
    "sizes that are none": (table(TF_ROW.replace("160,120", "inf,120px"), TF), ""),
    "semicolons": (table("{name};{c};{x0};{y0};{x1};{y1}", "Filename;Class;X1;Y1;X2;Y2"), ""),
    "a column of lists": (
        table('{stem},160,120,"[{x0}, {y0}, {w}, {h}]",{c}', "image_id,width,height,bbox,source"),
        "class-names-missing name-case",
    ),
    "a column of mappings": (
        table(
            "{name},{c},\"{{'height': {h}, 'width': {w}, 'x': {x0}, 'y': {y0}}}\"",
            "image,label,bbox",
        ),
        "",
    ),
    "a column of two points": (
        table('{name},{c},"(({x0}, {y0}), ({x1}, {y1}))"', "image,label,bbox"),
        "",
    ),
    "a header with blanks and quotes": (
        table(
            '"{name}" , "{c}", {x0},{y0},{x1},{y1}',
            '"Image Name", "Class Label", "X Min", "Y Min", "X Max", "Y Max"',
        ),
        "",
    ),
    "no numbers for an image without boxes": (
        table(
            "0,{name},{c},{x0},{y0},{x1},{y1}",
            ",image,class,x_min,y_min,x_max,y_max",
            more="\n1,b.png,,nan,nan,nan,nan",
        ),
        "",
    ),
    "an odd row below no header": (
        table(RETINA, folder="images", more="\nimages/a.png,red\nimages/b.png,,,,,\n"),
        "line-unreadable",
    ),
    "a quote that is not closed": (
        table(TF_ROW, TF, more='\na.png,160,120,"red,1,1,9,9\nb.png,160,120,red,1,1,9,9\n'),
        "line-unreadable",
    ),
    "numbers in labels.txt": (labels_with_numbers, "class-names-missing"),
    "sizes": (table("{name},{x0},{y0},{w},{h},{c}", "file,x,y,w,h,label"), ""),
    "centres": (
        table("{name},{cx},{cy},{w},{h},{c}", "img,x_center,y_center,width,height,name"),
        "",
    ),
    "Vertex AI": (
        table("UNASSIGNED,gs://b/{name},{c},{rx0},{ry0},,,{rx1},{ry1},,"),
        "name-cleaned box-relative",
    ),
    "Open Images": (open_images, "name-case box-relative"),
    "CreateML": (createml, ""),
    "Label Studio": (label_studio, "name-cleaned"),
    "Label Studio, JSON-MIN": (label_studio_min, "name-cleaned"),
    "DOTA": (dota(), ""),
    "DOTA, in labels/": (dota("labels"), ""),
    "DOTA, by splits": (dota("labelTxt/train", "images/train"), ""),
    "DOTA of Roboflow": (dota_of_roboflow, ""),
    "DOTA with commas": (dota_with_commas, ""),
    "VIA 3's csv": (via3_csv, "box-from-shape"),
    "Caltech's bbGt": (bbgt, "region-uncared"),
    "Open Images of FiftyOne": (open_images_of_fiftyone, "name-case box-relative"),
    "below comments": (table(TF_ROW, f"# made by a tool, v1\n# 2 images\n\n{TF}"), ""),
    "below a blank line": (table(TF_ROW, f"\n{TF}"), ""),
    "below Excel's separator": (
        table("{name};{c};{x0};{y0};{x1};{y1}", "sep=;\nfilename;class;x1;y1;x2;y2"),
        "",
    ),
    "a commented header": (
        table("{name},{x0},{y0},{w},{h},{c}", "# boxes in pixels\n# image, x, y, w, h, label"),
        "",
    ),
    "rows below a comment": (table(RETINA, "# image, corners, label", folder="images"), ""),
    "numbered classes": (numbered, ""),
    "KITTI": (kitti(), ""),
    "KITTI, in labels/": (kitti("labels", "images"), ""),
}


@pytest.mark.parametrize("kind", LISTS)
def test_lists_open_as_they_are(kind: str, tmp_path: Path) -> None:
    make, kinds = LISTS[kind]
    make(tmp_path)
    train, val = open_training(tmp_path)
    assert val is None
    assert {each.kind.name for each in train.findings} == {*kinds.split(), "split-only"}
    assert len(train) == 2
    shift = 0.5 if kind == "VoTT" else 0
    for index in range(2):
        record = train.record(index)
        labels = [train.names[label] for label in record.labels]
        if "class-names-missing" in kinds:
            assert train.names in (("object",), ("0", "1"))
            labels = list(BOXES)
        found = dict(zip(labels, (record.boxes - shift).round(2).tolist(), strict=True))
        assert found == {class_: list(map(float, box)) for class_, box in BOXES.items()}


def test_tables_divide_by_files_folders_or_a_column(tmp_path: Path) -> None:
    table(TF_ROW, TF, "train_labels.csv", "images")(tmp_path / "files")
    table(TF_ROW, TF, "test_labels.csv", "images")(tmp_path / "files")
    assert splits(tmp_path / "files") == ["train", "test"]
    for split in ("train", "valid"):
        table(TF_ROW, TF, "_annotations.csv")(tmp_path / "folders" / split)
        table("red,0", file="_classes.csv")(tmp_path / "folders" / split)
    assert splits(tmp_path / "folders") == ["train", "val"]
    root = tmp_path / "column"
    table("TRAIN,gs://b/{name},{c},{rx0},{ry0},,,{rx1},{ry1},,")(root)
    held = "\nTEST,gs://b/b.png,red,0.1,0.1,,,0.3,0.3,,\n"
    text(root / "boxes.csv", (root / "boxes.csv").read_text().replace(",b.png", ",") + held)
    assert splits(root) == ["train", "test"]
    assert [len(open_data(root, split).record(0).labels) for split in ("train", "test")] == [2, 1]


def test_what_is_odd_in_lists_is_counted(tmp_path: Path) -> None:
    bad = "\na.png,160,120,red,oops,1,2,3\ngone.png,160,120,red,1,1,9,9\na.png,160,120,,1,1,9,9\n"
    table(TF_ROW, TF, more=bad)(tmp_path / "table")
    data = open_data(tmp_path / "table")
    found = {each.kind.name: each.count for each in data.findings}
    assert found == {"box-unreadable": 1, "image-missing": 1, "class-unknown": 1}
    dota()(tmp_path / "dota")
    lines = "10 10 50 20 40 60 5 40 red 0\nnonsense\n" + dota_line("blue", 1)
    text(tmp_path / "dota" / "labelTxt" / "a.txt", lines)
    text(tmp_path / "dota" / "labelTxt" / "gone.txt", dota_line("red"))
    image(tmp_path / "dota" / "images" / "c.png")
    data = open_data(tmp_path / "dota")
    found = {each.kind.name: each.count for each in data.findings}
    assert found == {
        **{"box-rotated": 1, "line-unreadable": 1, "label-missing": 1, "image-missing": 1},
    }
    record = data.record(0)
    assert record.boxes.tolist() == [[5, 10, 50, 60], [10, 20, 40, 60]]
    assert record.crowd.tolist() == [False, True]
    kitti()(tmp_path / "kitti")
    dontcare = "DontCare -1 -1 -10 1.00 1.00 9.00 9.00 -1 -1 -1 -1000 -1000 -1000 -10\n"
    text(tmp_path / "kitti" / "training" / "label_2" / "b.txt", dontcare)
    data = open_data(tmp_path / "kitti")
    assert {each.kind.name: each.count for each in data.findings} == {"region-uncared": 1}
    assert [len(data.record(index).labels) for index in range(2)] == [2, 0]


def test_a_turned_region_of_label_studios_is_read_as_the_box_around_it(tmp_path: Path) -> None:
    label_studio_min(tmp_path)
    file = tmp_path / "project-1-min.json"
    rows = json.loads(file.read_text())
    rows[0]["label"][0] |= {"x": 50, "y": 50, "width": 25, "height": 25, "rotation": 90}
    file.write_text(json.dumps(rows))
    data = open_data(tmp_path)
    assert data.findings.count("box-rotated") == 1
    np.testing.assert_allclose(data.record(0).boxes[0], [50, 60, 80, 100], atol=1e-3)


def test_one_stem_in_two_folders_keeps_its_own_boxes(tmp_path: Path) -> None:
    for folder, class_ in (("set00", "red"), ("set01", "blue")):
        image(tmp_path / "images" / folder / "a.png")
        text(tmp_path / "labelTxt" / folder / "a.txt", dota_line(class_))
    image(tmp_path / "images" / "set00" / "a.jpg")
    data = open_data(tmp_path)
    named = {Path(f).parent.name: [data.names[n] for n in data.record(i).labels]
             for i, f in enumerate(data.files)}  # pyright: ignore  # fmt: skip
    assert named == {"set00": ["red"], "set01": ["blue"]}
    assert {each.kind.name for each in data.findings} == {"label-shared"}


def test_a_quote_that_is_not_closed_costs_the_lines_below_it(tmp_path: Path) -> None:
    more = '\na.png,160,120,"red,1,1,9,9\n' + "b.png,160,120,red,1,1,9,9\n" * 9000
    table(TF_ROW, TF, more=more)(tmp_path)
    data = open_data(tmp_path)
    assert {each.kind.name: each.count for each in data.findings} == {"line-unreadable": 9001}


def test_splits_that_are_neither_trained_nor_validated_on_are_said(tmp_path: Path) -> None:
    for part in ("boxes_train_a", "boxes_train_b", "boxes_val"):
        table(TF_ROW, TF, f"{part}.csv", "images")(tmp_path)
    train, val = open_training(tmp_path)
    assert val is not None
    found = {each.kind.name: each.examples for each in train.findings}
    assert found["split-other"] == ["boxes_train_b"]


def test_a_name_that_is_too_long_for_a_file_is_no_file(tmp_path: Path) -> None:
    """darknet's settings, of which one line is damaged."""
    image(tmp_path / "images" / "a.png")
    text(tmp_path / "images" / "a.txt", "0 0.5 0.5 0.2 0.2\n")
    text(tmp_path / "train.txt", "images/a.png\n")
    text(tmp_path / "obj.names", "red\n")
    settings = f"train = train.txt\nvalid = {'a' * 5000}.txt\nnames = obj.names\n"
    text(tmp_path / "obj.data", settings)
    assert len(open_data(tmp_path, "train")) == 1
