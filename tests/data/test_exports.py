"""What labelling tools export opens as it is: each writer here packs the same boxes as one does."""

from __future__ import annotations

import json
import shutil
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tests.data.making import dump, text

from dabdetr.data import layouts
from dabdetr.data.archive import unpacked
from dabdetr.data.dataset import DetectionDataset
from dabdetr.data.findings import LONGEST, Findings
from dabdetr.data.layouts import open_data, open_training, splits
from dabdetr.text import shortened

Write = Callable[[DetectionDataset, Path, str], None]


def rows(data: DetectionDataset) -> Iterator[tuple[int, str, str, int, list[tuple[str, Any]]]]:
    """Number, source, name without folder, side and (class, corners) of each image."""
    for index in range(len(data)):
        record = data.record(index)
        named = [data.names[label] for label in record.labels]
        boxes = list(zip(named, record.boxes.tolist(), strict=True))
        yield index, record.file, Path(record.file).name, record.width, boxes


def copy(source: str, target: Path) -> None:
    target.parent.mkdir(parents=True, exist_ok=True)
    shutil.copy(source, target)


def coco_tree(data: DetectionDataset, first: int, name: Callable[[str], str]) -> dict[str, Any]:
    images, annotations = [], []
    categories = [{"id": first + n, "name": each} for n, each in enumerate(data.names)]
    for index, _, file, side, boxes in rows(data):
        images.append({"id": index, "file_name": name(file), "width": side, "height": side})
        for class_, (x0, y0, x1, y1) in boxes:
            box = [x0, y0, x1 - x0, y1 - y0]
            row = {"id": len(annotations) + first, "image_id": index, "bbox": box, "iscrowd": 0}
            annotations.append(row | {"category_id": first + data.names.index(class_)})
    return {"images": images, "annotations": annotations, "categories": categories, "info": {}}


def roboflow_coco(data: DetectionDataset, root: Path, split: str) -> None:
    folder = root / ("valid" if split == "val" else split)
    tree = coco_tree(data, 1, str)
    tree["categories"] = [
        {"id": 0, "name": "digits", "supercategory": "none"},
        *(row | {"supercategory": "digits"} for row in tree["categories"]),
    ]
    dump(folder / "_annotations.coco.json", tree)
    for _, source, name, _, _ in rows(data):
        copy(source, folder / name)


def yolo_lines(data: DetectionDataset, side: int, boxes: list[tuple[str, Any]]) -> str:
    lines = []
    for class_, (x0, y0, x1, y1) in boxes:
        values = ((x0 + x1) / 2, (y0 + y1) / 2, x1 - x0, y1 - y0)
        numbers = " ".join(f"{value / side:.6f}" for value in values)
        lines.append(f"{data.names.index(class_)} {numbers}")
    return "\n".join(lines)


def roboflow_yolo(data: DetectionDataset, root: Path, split: str) -> None:
    folder = root / ("valid" if split == "val" else split)
    for _, source, name, side, boxes in rows(data):
        copy(source, folder / "images" / name)
        text((folder / "labels" / name).with_suffix(".txt"), yolo_lines(data, side, boxes))
    (root / "data.yaml").write_text(
        "train: ../train/images\nval: ../valid/images\ntest: ../test/images\n\n"
        f"nc: {len(data.names)}\nnames: {list(data.names)}\n\nroboflow:\n  workspace: w\n"
    )


def xml(name: str, side: int, boxes: list[tuple[str, Any]]) -> str:
    objects = "".join(
        f"<object><name>{class_}</name><bndbox><xmin>{x0}</xmin><ymin>{y0}</ymin><xmax>{x1}</xmax>"
        f"<ymax>{y1}</ymax></bndbox></object>"
        for class_, (x0, y0, x1, y1) in boxes
    )
    size = f"<size><width>{side}</width><height>{side}</height><depth>3</depth></size>"
    zero = "<object><name>0</name><bndbox><xmin>0</xmin><ymin>0</ymin><xmax>9</xmax><ymax>9</ymax>"
    zero += "</bndbox></object>"
    return f"<annotation><filename>{name}</filename>{size}{objects}{zero}</annotation>"


def roboflow_voc(data: DetectionDataset, root: Path, split: str) -> None:
    folder = root / ("valid" if split == "val" else split)
    for _, source, name, side, boxes in rows(data):
        copy(source, folder / name)
        (folder / name).with_suffix(".xml").write_text(xml(name, side, boxes))


def cvat_coco(data: DetectionDataset, root: Path, split: str) -> None:
    subset = {"train": "Train", "val": "Validation"}[split]
    dump(root / "annotations" / f"instances_{subset}.json", coco_tree(data, 1, str))
    for _, source, name, _, _ in rows(data):
        copy(source, root / "images" / subset / name)


def cvat_coco_task(data: DetectionDataset, root: Path, split: str) -> None:
    """One subset called default, and a folder for each camera."""
    tree = coco_tree(data, 1, lambda name: f"cam1/{name}")
    dump(root / "annotations" / "instances_default.json", tree)
    for _, source, name, _, _ in rows(data):
        copy(source, root / "images" / "default" / "cam1" / name)


def cvat_yolo(data: DetectionDataset, root: Path, split: str) -> None:
    """YOLO 1.1: darknet's files."""
    subset = {"train": "train", "val": "valid"}[split]
    listed = []
    for _, source, name, side, boxes in rows(data):
        copy(source, root / f"obj_{subset}_data" / name)
        text(
            (root / f"obj_{subset}_data" / name).with_suffix(".txt"), yolo_lines(data, side, boxes)
        )
        listed.append(f"data/obj_{subset}_data/{name}\n")
    (root / f"{subset}.txt").write_text("".join(listed))
    (root / "obj.names").write_text("\n".join(data.names) + "\n")
    (root / "obj.data").write_text(
        f"classes = {len(data.names)}\ntrain = data/train.txt\nvalid = data/valid.txt\n"
        "names = data/obj.names\nbackup = backup/\n"
    )


def cvat_ultralytics(data: DetectionDataset, root: Path, split: str) -> None:
    """Ultralytics YOLO Detection 1.0: lists of images, names by number."""
    subset = {"train": "Train", "val": "Validation"}[split]
    listed = []
    for _, source, name, side, boxes in rows(data):
        copy(source, root / "images" / subset / name)
        label = (root / "labels" / subset / name).with_suffix(".txt")
        text(label, yolo_lines(data, side, boxes))
        listed.append(f"data/images/{subset}/{name}\n")
    (root / f"{subset}.txt").write_text("".join(listed))
    names = "".join(f"  {number}: '{name}'\n" for number, name in enumerate(data.names))
    (root / "data.yaml").write_text(
        f"Train: Train.txt\nValidation: Validation.txt\nnames:\n{names}path: .\n"
    )


def cvat_voc(data: DetectionDataset, root: Path, split: str) -> None:
    subset = {"train": "Train", "val": "Validation"}[split]
    listed = []
    for _, source, name, side, boxes in rows(data):
        copy(source, root / "JPEGImages" / subset / name)
        file = (root / "Annotations" / subset / name).with_suffix(".xml")
        text(file, xml(f"{subset}/{name}", side, boxes))
        listed.append(f"{subset}/{Path(name).stem}\n")
    text(root / "ImageSets" / "Main" / f"{subset}.txt", "".join(listed))
    (root / "labelmap.txt").write_text("# label:color_rgb:parts:actions\n")


def label_studio_coco(data: DetectionDataset, root: Path, split: str) -> None:
    tree = coco_tree(data, 0, lambda name: f"images\\0a1b2c3d-{name}")
    dump(root / "result.json", tree)
    for _, source, name, _, _ in rows(data):
        copy(source, root / "images" / f"0a1b2c3d-{name}")


def label_studio_yolo(data: DetectionDataset, root: Path, split: str) -> None:
    for _, source, name, side, boxes in rows(data):
        copy(source, root / "images" / name)
        text((root / "labels" / name).with_suffix(".txt"), yolo_lines(data, side, boxes))
    (root / "classes.txt").write_text("\n".join(data.names) + "\n")
    dump(root / "notes.json", {"categories": [], "info": {}})


def fiftyone_coco(data: DetectionDataset, root: Path, split: str) -> None:
    dump(root / "labels.json", coco_tree(data, 0, str))
    for _, source, name, _, _ in rows(data):
        copy(source, root / "data" / name)


def fiftyone_yolo(data: DetectionDataset, root: Path, split: str) -> None:
    """YOLOv5: one split, which is called val unless one asks for another."""
    for _, source, name, side, boxes in rows(data):
        copy(source, root / "images" / "val" / name)
        text((root / "labels" / "val" / name).with_suffix(".txt"), yolo_lines(data, side, boxes))
    names = "".join(f"  {number}: '{name}'\n" for number, name in enumerate(data.names))
    (root / "dataset.yaml").write_text(
        f"names:\n{names}path: /somewhere/else\nval: ./images/val/\n"
    )


def labelme(data: DetectionDataset, root: Path, split: str) -> None:
    for _, source, name, side, boxes in rows(data):
        copy(source, root / name)
        shapes = [
            {"label": class_, "points": [[x1, y1], [x0, y0]], "shape_type": "rectangle"}
            for class_, (x0, y0, x1, y1) in boxes
        ]
        tree = {"version": "5.5.0", "shapes": shapes, "imagePath": f"..\\pics\\{name}"}
        tree |= {"imageHeight": side, "imageWidth": side, "imageData": None}
        dump((root / name).with_suffix(".json"), tree)


def via(data: DetectionDataset, root: Path, split: str) -> None:
    tree = {}
    for _, source, name, _, boxes in rows(data):
        copy(source, root / name)
        regions = [
            {
                "shape_attributes": {
                    "name": "rect",
                    "x": x0,
                    "y": y0,
                    "width": x1 - x0,
                    "height": y1 - y0,
                },
                "region_attributes": {"digit": class_},
            }
            for class_, (x0, y0, x1, y1) in boxes
        ]
        tree[f"{name}123"] = {"filename": name, "size": 123, "regions": regions}
    dump(root / "via_region_data.json", tree)


def via_csv(data: DetectionDataset, root: Path, split: str) -> None:
    import csv

    root.mkdir(parents=True, exist_ok=True)
    with (root / "via_export_csv.csv").open("w", newline="") as file:
        writer = csv.writer(file)
        head = "filename file_size file_attributes region_count region_id"
        writer.writerow([*head.split(), "region_shape_attributes", "region_attributes"])
        for _, source, name, _, boxes in rows(data):
            copy(source, root / name)
            for number, (class_, (x0, y0, x1, y1)) in enumerate(boxes):
                shape = {"name": "rect", "x": x0, "y": y0, "width": x1 - x0, "height": y1 - y0}
                kind = {"type": {class_: True}}
                texts = [json.dumps(shape), json.dumps(kind)]
                writer.writerow([name, 1, "{}", len(boxes), number, *texts])
            if not boxes:
                writer.writerow([name, 1, "{}", 0, 0, "{}", "{}"])


def datumaro(data: DetectionDataset, root: Path, split: str) -> None:
    items = []
    for _, source, name, side, boxes in rows(data):
        copy(source, root / "images" / split / name)
        annotations = [
            {
                "id": number,
                "type": "bbox",
                "label_id": data.names.index(class_),
                "bbox": [x0, y0, x1 - x0, y1 - y0],
                "attributes": {"occluded": False},
            }
            for number, (class_, (x0, y0, x1, y1)) in enumerate(boxes)
        ]
        image = {"path": name, "size": [side, side]}
        items.append({"id": Path(name).stem, "annotations": annotations, "image": image})
    labels = [{"name": name, "parent": ""} for name in data.names]
    tree = {"info": {}, "categories": {"label": {"labels": labels}}, "items": items}
    dump(root / "annotations" / f"{split}.json", tree)


EXPORTS: dict[Write, tuple[str, ...]] = {
    roboflow_coco: ("train", "val"),
    roboflow_yolo: ("train", "val"),
    roboflow_voc: ("train", "val"),
    cvat_coco: ("train", "val"),
    cvat_coco_task: ("train",),
    cvat_yolo: ("train", "val"),
    cvat_ultralytics: ("train", "val"),
    cvat_voc: ("train", "val"),
    label_studio_coco: ("train",),
    label_studio_yolo: ("train",),
    fiftyone_coco: ("train",),
    fiftyone_yolo: ("train",),
    labelme: ("train",),
    via: ("train",),
    via_csv: ("train",),
    datumaro: ("train", "val"),
}
"""Writer → the splits that it packs; one that packs one only has no name for it."""


def export(write: Write, coco_folder: Path, root: Path) -> Path:
    for split in EXPORTS[write]:
        write(open_data(coco_folder, split), root, split)
    return root


def same_boxes(theirs: DetectionDataset, ours: DetectionDataset, extra: int) -> None:
    """Equal boxes and classes in equal images; ours may hold ``extra`` boxes behind them."""
    assert len(ours) == len(theirs)
    files = {Path(ours.record(i).file).name.rpartition("-")[2]: i for i in range(len(ours))}
    for index in range(len(theirs)):
        one = theirs.record(index)
        at = files[Path(one.file).name]
        other = ours.record(at)
        count = len(one.boxes)
        assert len(other.boxes) == count + extra
        np.testing.assert_allclose(other.boxes[:count], one.boxes, atol=1e-3)
        told = [ours.names[n] for n in other.labels[:count]]
        assert told == [theirs.names[n] for n in one.labels]
        np.testing.assert_array_equal(ours.image(at), theirs.image(index))


@pytest.mark.parametrize("write", EXPORTS, ids=[write.__name__ for write in EXPORTS])
@pytest.mark.parametrize("packed", ["folder", "zip", "folder in a folder", "folder in a zip"])
def test_exports_open_unchanged(
    write: Write, packed: str, coco_folder: Path, tmp_path: Path
) -> None:
    root = tmp_path / "outer" / "mine" if "in a" in packed else tmp_path / "mine"
    export(write, coco_folder, root)
    given = tmp_path / "outer" if "in a folder" in packed else root
    if "zip" in packed:
        given = Path(shutil.make_archive(str(tmp_path / "mine"), "zip", root.parent, "mine"))
        if packed == "zip":
            given = Path(shutil.make_archive(str(tmp_path / "flat"), "zip", root))
        shutil.rmtree(root)
    train, val = open_training(given)
    extra = 1 if "voc" in write.__name__ else 0
    same_boxes(open_data(coco_folder, "train"), train, extra)
    if len(EXPORTS[write]) == 1:
        assert val is None
        assert {each.kind.name for each in train.findings} & {"split-only", "split-stand-in"}
    else:
        assert val is not None
        same_boxes(open_data(coco_folder, "val"), val, extra)
        assert val.names == train.names
    assert not [each for each in train.findings.of("skipped") if each.kind.name != "split-missing"]


@pytest.mark.parametrize(
    ("write", "inside"),
    [
        (cvat_voc, "Annotations"),
        (cvat_voc, "JPEGImages"),
        (cvat_voc, "ImageSets"),
        (cvat_voc, "Annotations/Train"),
        (roboflow_voc, "train"),
        (roboflow_coco, "train"),
        (roboflow_coco, "valid"),
        (roboflow_yolo, "train"),
        (roboflow_yolo, "train/images"),
        (roboflow_yolo, "train/labels"),
        (cvat_coco, "images"),
        (cvat_coco, "annotations"),
        (cvat_coco, "images/Train"),
        (datumaro, "annotations"),
        (datumaro, "images/train"),
    ],
)
def test_a_folder_inside_a_data_set_is_the_data_set(
    write: Write, inside: str, coco_folder: Path, tmp_path: Path
) -> None:
    """What is divided into splits must not be trained on as a whole, whatever part is given."""
    root = export(write, coco_folder, tmp_path / "mine")
    train, val = open_training(root / inside)
    assert val is not None
    assert (len(train), len(val)) == (8, 4)
    (place,) = (each for each in train.findings if each.kind.name == "place")
    assert place.examples == [shortened(f"{root / inside}: {root}", LONGEST)]


def test_data_sets_below_a_folder(
    coco_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    export(cvat_voc, coco_folder, tmp_path / "devkit" / "VOC2012")
    assert splits(tmp_path / "devkit") == ["train", "val"]
    export(labelme, coco_folder, tmp_path / "devkit" / "other")
    with pytest.raises(ValueError, match=r"devkit holds 2 data sets; give one .*VOC2012, .*other"):
        splits(tmp_path / "devkit")
    monkeypatch.setattr(layouts, "MOST_FOLDERS", 1)  # a wrong folder may have very many
    with pytest.raises(ValueError, match=r"more than 1 folders; .* a data set, such as .*VOC2012"):
        splits(tmp_path / "devkit")


def test_a_json_as_data(coco_folder: Path, tmp_path: Path) -> None:
    export(label_studio_coco, coco_folder, tmp_path / "mine")
    train, val = open_training(tmp_path / "mine" / "result.json")
    assert val is None
    same_boxes(open_data(coco_folder, "train"), train, 0)
    json_ = tmp_path / "mine" / "images" / "labels.json"
    (tmp_path / "mine" / "result.json").rename(json_)
    for given in (tmp_path / "mine" / "images", json_):
        same_boxes(open_data(coco_folder, "train"), open_data(given), 0)
    alone = coco_folder / "annotations" / "instances_train.json"  # images lie beside its folder
    same_boxes(open_data(coco_folder, "train"), open_data(alone), 0)
    assert splits(alone) == ["train"]
    apart = open_data(annotations=json_, images=tmp_path / "mine")
    same_boxes(open_data(coco_folder, "train"), apart, 0)


@pytest.mark.parametrize(
    ("name", "told"),
    [
        ("../out.png", "leads out of its folder"),
        ("/abs.png", "leads out of its folder"),
        ("a/../../b.png", "leads out of its folder"),
        ("C:\\x.png", "leads out of its folder"),
        ("..\\out.png", "leads out of its folder"),
        ("\0x.png", "leads out of its folder"),  # its name is what stands before the zero: none
    ],
)
def test_members_of_a_zip_stay_in_its_folder(tmp_path: Path, name: str, told: str) -> None:
    file = tmp_path / "bad.zip"
    with zipfile.ZipFile(file, "w") as archive:
        archive.writestr(name.replace("\0", "@"), b"x")
    file.write_bytes(file.read_bytes().replace(b"@", b"\0"))
    with pytest.raises(ValueError, match=rf"bad\.zip: the member .* {told}"):
        open_data(tmp_path / "bad.zip")


def test_the_name_of_a_zip_leads_nowhere_else(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A file called "...zip" has the stem "..", which is the folder of all unpacked zips."""
    monkeypatch.setenv("DABDETR_CACHE", str(tmp_path / "cache"))
    for name in ("...zip", "..zip"):
        with zipfile.ZipFile(tmp_path / name, "w") as archive:
            archive.writestr("planted/x.txt", "x")
        folder = unpacked(tmp_path / name)
        assert folder.name == "data"
        assert [each.name for each in folder.iterdir()] == ["planted"]
        assert not list(folder.parent.parent.glob("planted"))


def test_zips_that_are_none_or_too_large(tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "link.zip", "w") as archive:
        link = zipfile.ZipInfo("link.png")
        link.external_attr = 0o120777 << 16
        archive.writestr(link, "/etc/passwd")
    with pytest.raises(ValueError, match=r"'link\.png' is a link"):
        open_data(tmp_path / "link.zip")
    with zipfile.ZipFile(tmp_path / "bomb.zip", "w", zipfile.ZIP_DEFLATED) as archive:
        for number in range(3):
            archive.writestr(f"{number}.txt", bytes(100 << 20))
    with pytest.raises(ValueError, match=r"would unpack to 3 files and 300 MiB, which is more"):
        open_data(tmp_path / "bomb.zip")
    (tmp_path / "none.zip").write_bytes(b"PK\x03\x04 none")
    with pytest.raises(ValueError, match=r"none\.zip is not a readable zip"):
        open_data(tmp_path / "none.zip")
    with zipfile.ZipFile(tmp_path / "moved.zip", "w") as archive:
        archive.writestr("train/a.txt", "a")
    content = bytearray((tmp_path / "moved.zip").read_bytes())
    content[-6] += 9  # the list of members is said to begin later, so members begin before the file
    (tmp_path / "moved.zip").write_bytes(content)
    with pytest.raises(ValueError, match=r"moved\.zip is not a readable zip"):
        open_data(tmp_path / "moved.zip", "train")


def test_what_is_not_recognised_is_answered_with_what_lies_there(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)  # short paths: the middle of a long message is left out
    mine = Path("mine")
    mine.mkdir()
    (mine / "cats").mkdir()
    with pytest.raises(ValueError, match=r"There is: cats/\.$"):
        open_data(mine)
    (mine / "cats" / "a.jpg").touch()
    with pytest.raises(ValueError, match=r"There is: cats/\. They are images without boxes"):
        open_data(mine)
    (mine / "annotations.xml").write_text("<annotations/>")
    with pytest.raises(ValueError, match=r"CVAT's form, without images: export as CVAT for images"):
        open_data(mine)
    (mine / "mine.json").write_text("{}")
    with pytest.raises(ValueError, match=r"--annotations mine/mine\.json --images mine"):
        open_data(mine)


def test_findings_are_counted_with_their_first_examples() -> None:
    found = Findings()
    found.add("box-empty", [f"row {n}" for n in range(9)])
    found.add("box-empty", "another")
    found.add("box-cut", [])
    other = Findings()
    other.merge(found)
    (only,) = other
    assert (only.count, only.examples) == (10, ["row 0", "row 1", "row 2"])
    assert only.to_dict()["action"] == "skipped"
    assert len(found) == 1


@pytest.mark.slow
@pytest.mark.parametrize("write", EXPORTS, ids=[write.__name__ for write in EXPORTS])
def test_exports_train_unchanged(write: Write, coco_folder: Path, tmp_path: Path) -> None:
    """From the zip as it is downloaded to weights, in one epoch; what has one split is divided."""
    from dabdetr.training.train import train

    root = export(write, coco_folder, tmp_path / "mine")
    given = shutil.make_archive(str(tmp_path / "mine"), "zip", root)
    share = None if len(EXPORTS[write]) > 1 else 0.75
    small = ["image.size=64", "image.max_size=64"]
    options: Any = {"epochs": 1, "batch": 4, "overrides": small, "split": share, "quiet": True}
    run = train(given, "dab-detr-nano", project=tmp_path / "runs", device="cpu", **options)
    assert run.weights.exists()
    assert [each["split"] for each in run.data] == ["train", "val"]
    assert [each["images"] for each in run.data] == ([8, 4] if share is None else [6, 2])
    assert run.rows[-1]["loss"] > 0


def test_names_of_folders_and_endings_in_another_case(coco_folder: Path, tmp_path: Path) -> None:
    label_studio_yolo(open_data(coco_folder), tmp_path / "yolo", "train")
    for name in ("images", "labels"):
        (tmp_path / "yolo" / name).rename(tmp_path / "yolo" / name.title())
    same_boxes(open_data(coco_folder), open_data(tmp_path / "yolo"), 0)
    cvat_voc(open_data(coco_folder), tmp_path / "voc", "train")
    (tmp_path / "voc" / "Annotations").rename(tmp_path / "voc" / "annotations")
    for file in list((tmp_path / "voc" / "annotations").rglob("*.xml")):
        file.rename(file.with_suffix(".XML"))
    assert splits(tmp_path / "voc") == ["train"]
    same_boxes(open_data(coco_folder), open_data(tmp_path / "voc"), 1)


def test_a_json_without_categories_calls_classes_by_their_ids(
    coco_folder: Path, tmp_path: Path
) -> None:
    fiftyone_coco(open_data(coco_folder), tmp_path, "train")
    tree = json.loads((tmp_path / "labels.json").read_text())
    del tree["categories"]
    (tmp_path / "labels.json").write_text(json.dumps(tree))
    data = open_data(tmp_path)
    used = sorted({row["category_id"] for row in tree["annotations"]})
    assert data.names == tuple(map(str, used))
    assert [each.kind.name for each in data.findings] == ["class-names-missing"]
