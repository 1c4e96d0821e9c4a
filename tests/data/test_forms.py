"""Files of tools that list images with boxes: a small folder of each opens as it is."""

from __future__ import annotations

import base64
import csv
import io
import json
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from PIL import Image
from tests.data.making import (
    BOXES,
    CLASSES,
    CORNERS,
    HEIGHT,
    SPLITS,
    WIDTH,
    Make,
    dump,
    image,
    text,
)  # fmt: skip

from dabdetr.data.layouts import open_data, open_every, open_training, splits


def rows(make: Callable[[str, int, tuple[int, int, int, int]], Any]) -> list[Any]:
    return [make(name, n, box) for n, (name, box) in enumerate(zip(CLASSES, BOXES, strict=True))]


def cvat(root: Path) -> None:
    content = ""
    for split, names in SPLITS.items():
        for name in names:
            image(root / "images" / split.title() / f"{name}.png")
            content += (
                f'<image id="0" name="{name}.png" subset="{split.title()}" width="160" '
                f'height="120"><box label="red" xtl="113" ytl="53" xbr="157" ybr="92"/>'
                '<polygon label="blue" points="10.0,20.0;40.0,20.0;40.0,60.0;10.0,60.0"/>'
                '<points label="red" points="1,1"/><tag label="night"/></image>'
            )
    head = "<annotations><version>1.1</version><meta><task/></meta>"
    text(root / "annotations.xml", f"{head}{content}</annotations>")


def cvat_video(root: Path) -> None:
    tracks = ""
    for label, (x0, y0, x1, y1) in zip(CLASSES, CORNERS, strict=True):
        boxes = "".join(
            f'<box frame="{n}" outside="{n // 2}" xtl="{x0}" ytl="{y0}" xbr="{x1}" ybr="{y1}"/>'
            for n in range(3)
        )
        tracks += f'<track id="0" label="{label}">{boxes}</track>'
    for number in range(2):
        image(root / "images" / f"frame_{number:06d}.PNG")
    text(root / "annotations.xml", f"<annotations>{tracks}</annotations>")


def supervisely(root: Path) -> None:
    buffer = io.BytesIO()
    Image.new("L", (30, 40), 255).save(buffer, "PNG")
    packed = base64.b64encode(zlib.compress(buffer.getvalue())).decode()
    dump(root / "meta.json", {"classes": [{"title": "red", "shape": "any"}], "tags": []})
    for split, names in SPLITS.items():
        for name in names:
            image(root / split / "img" / f"{name}.png")
            edges = {"exterior": [[113, 53], [157, 92]], "interior": []}
            mask = {"data": packed, "origin": [10, 20]}
            objects = [
                {"classTitle": "red", "geometryType": "rectangle", "points": edges},
                {"classTitle": "blue", "geometryType": "bitmap", "bitmap": mask},
                {"classTitle": "blue", "geometryType": "point", "points": {"exterior": [[1, 1]]}},
            ]
            tree = {"size": {"height": 120, "width": 160}, "objects": objects, "tags": []}
            dump(root / split / "ann" / f"{name}.png.json", tree)


def bdd(root: Path) -> None:
    def label(name: str, _: int, box: Any) -> Any:
        x, y, w, h = box
        return {"category": name, "box2d": {"x1": x, "y1": y, "x2": x + w, "y2": y + h}}

    for split, names in SPLITS.items():
        frames = [{"name": f"{name}.png", "labels": rows(label)} for name in names]
        dump(root / "labels" / f"bdd100k_labels_images_{split}.json", frames)
        for name in names:
            image(root / "images" / "100k" / split / f"{name}.png")


def bdd_single(root: Path) -> None:
    bdd(root)
    for split, names in SPLITS.items():
        file = root / "labels" / f"bdd100k_labels_images_{split}.json"
        frames = json.loads(file.read_text())
        file.unlink()
        for name, frame in zip(names, frames, strict=True):
            tree = {"name": name, "frames": [{"objects": frame["labels"]}]}
            dump(root / "labels" / "100k" / split / f"{name}.json", tree)


def fiftyone(root: Path) -> None:
    def label(_: str, number: int, box: Any) -> Any:
        x, y, w, h = box
        return {"label": number, "bounding_box": [x / 160, y / 120, w / 160, h / 120]}

    for name in "ab":
        image(root / "data" / f"{name}.png")
    labels = {name: rows(label) for name in "ab"}
    dump(root / "labels.json", {"classes": CLASSES, "labels": labels})


def vott(root: Path) -> None:
    def region(name: str, _: int, box: Any) -> Any:
        sides = dict(zip(("left", "top", "width", "height"), box, strict=True))
        return {"type": "RECTANGLE", "tags": [name], "boundingBox": sides}

    for name in "ab":
        image(root / f"{name}.png")
    size = {"width": WIDTH, "height": HEIGHT}
    assets = {
        n: {"asset": {"name": f"{n}.png", "size": size}, "regions": rows(region)} for n in "ab"
    }
    dump(root / "mine-export.json", {"name": "mine", "tags": [], "assets": assets})


def hugging_face(root: Path) -> None:
    for split, names in SPLITS.items():
        folder = root / ("validation" if split == "val" else split)
        objects = {"bbox": BOXES, "categories": CLASSES}
        lines = [{"file_name": f"{n}.png", "objects": objects} for n in range(len(names))]
        text(folder / "metadata.jsonl", "\n".join(map(json.dumps, lines)))
        for number in range(len(names)):  # the same names in both
            image(folder / f"{number}.png")


def ultralytics(root: Path) -> None:
    def box(_: str, number: int, box: Any) -> Any:
        x, y, w, h = box
        return [number, (x + w / 2) / 160, (y + h / 2) / 120, w / 160, h / 120]

    names = dict(enumerate(CLASSES))
    lines: list[Any] = [{"type": "dataset", "task": "detect", "class_names": names}]
    for split, files in SPLITS.items():
        for name in files:
            image(root / "images" / f"{name}.png")
            row = {"type": "image", "file": f"{name}.png", "split": split}
            lines.append(row | {"annotations": {"boxes": rows(box)}})
    text(root / "set.ndjson", "\n".join(map(json.dumps, lines)))


def labelbox(root: Path) -> None:
    def made(name: str, _: int, box: Any) -> Any:
        return {"name": name, "bounding_box": dict(zip(SIDES, box, strict=True))}

    lines = []
    for name in "ab":
        image(root / "images" / f"{name}.png")
        labels = [{"annotations": {"objects": rows(made)}}]
        row = {"data_row": {"id": "k", "external_id": f"{name}.png"}}
        lines.append(row | {"projects": {"p": {"labels": labels}}})
    text(root / "export.ndjson", "\n".join(map(json.dumps, lines)))


SIDES = ("left", "top", "width", "height")


def sagemaker(root: Path) -> None:
    def made(_: str, number: int, box: Any) -> Any:
        return {"class_id": number, **dict(zip(SIDES, box, strict=True))}

    lines = []
    for name in "ab":
        image(root / "images" / f"{name}.png")
        row = {"source-ref": f"s3://bucket/set/{name}.png", "job": {"annotations": rows(made)}}
        lines.append(row | {"job-metadata": {"class-map": dict(enumerate(CLASSES))}})
    text(root / "output.manifest", "\n".join(map(json.dumps, lines)))


def keras_yolo(root: Path) -> None:
    for split, names in SPLITS.items():
        lines = ""
        for name in names:
            image(root / split / f"{name} 1.png")
            boxes = [f"{','.join(map(str, box))},{n}" for n, box in enumerate(CORNERS)]
            lines += f"{split}/{name} 1.png {' '.join(boxes)}\n"
        text(root / f"{split}.txt", lines)
    text(root / "classes.txt", "red\nblue\n")


def visdrone(root: Path) -> None:
    for split, names in SPLITS.items():
        folder = root / f"VisDrone2019-DET-{split}"
        for name in names:
            image(folder / "images" / f"{name}.png")
            lines = [f"{x},{y},{w},{h},1,{4 + n},0,0," for n, (x, y, w, h) in enumerate(BOXES)]
            text(folder / "annotations" / f"{name}.txt", "\n".join([*lines, "1,1,9,9,0,0,0,0"]))


def mot(root: Path) -> None:
    for number, split in enumerate(SPLITS):
        folder = root / split / f"MOT17-0{number}"
        lines = []
        for frame in range(1, len(SPLITS[split]) + 1):
            image(folder / "img1" / f"{frame:06d}.png")  # the same names in both
            lines += [
                f"{frame},{n},{x},{y},{w},{h},1,{3 + n},1.0" for n, (x, y, w, h) in enumerate(BOXES)
            ]
        text(folder / "gt" / "gt.txt", "\n".join([*lines, "1,9,5,5,9,9,0,8,1.0"]))
        text(folder / "seqinfo.ini", "[Sequence]\nimDir=img1\nimExt=.png\n")


def wider(root: Path) -> None:
    for split, names in SPLITS.items():
        lines = ""
        for name in names:
            image(root / f"WIDER_{split}" / "images" / "0--Parade" / f"{name}.png")
            boxes = "".join(f"{x} {y} {w} {h} 0 0 0 0 0 0 \n" for x, y, w, h in BOXES)
            lines += f"0--Parade/{name}.png\n2\n{boxes}"
        image(root / f"WIDER_{split}" / "images" / "0--Parade" / f"{split}.png")
        lines += f"0--Parade/{split}.png\n0\n0 0 0 0 0 0 0 0 0 0 \n"
        text(root / "wider_face_split" / f"wider_face_{split}_bbx_gt.txt", lines)


def pairs() -> list[tuple[str, tuple[int, int, int, int]]]:
    return list(zip(CLASSES, BOXES, strict=True))


def relative(box: tuple[int, int, int, int]) -> tuple[float, float, float, float]:
    return box[0] / WIDTH, box[1] / HEIGHT, box[2] / WIDTH, box[3] / HEIGHT


def every(root: Path, folder: str = "images") -> list[str]:
    """The images of a set without splits, drawn."""
    for name in SPLITS["train"]:
        image(root / folder / f"{name}.png")
    return list(SPLITS["train"])


def lines(path: Path, rows: list[Any]) -> None:
    text(path, "".join(f"{json.dumps(row)}\n" for row in rows))


def v7(root: Path) -> None:
    for name in every(root):
        boxes = [
            {"name": n, "slot_names": ["0"], "bounding_box": dict(zip("xywh", box, strict=True))}
            for n, box in pairs()
        ]
        slot = {"slot_name": "0", "type": "image", "width": WIDTH, "height": HEIGHT}
        item = {"name": f"{name}.png", "path": "/", "slots": [slot]}
        tree = {"version": "2.0", "item": item, "annotations": boxes}
        dump(root / "releases" / "latest" / "annotations" / f"{name}.json", tree)


SIDES = ("left", "top", "width", "height")


def scale(root: Path) -> None:
    boxes = [{"type": "box", "label": n, **dict(zip(SIDES, b, strict=True))} for n, b in pairs()]
    boxes.append({"type": "line", "label": "red", "vertices": []})
    tasks = [
        {
            "task_id": name,
            "params": {"attachment": f"https://s3/x/{name}.png?signed=1"},
            "response": {"annotations": boxes},
        }
        for name in every(root)
    ]
    dump(root / "tasks.json", tasks)


def encord(root: Path) -> None:
    boxes = [
        {
            "name": n,
            "shape": "bounding_box",
            "boundingBox": dict(zip("xywh", relative(b), strict=True)),
        }
        for n, b in pairs()
    ]
    (x, y, w, h) = relative(BOXES[1])
    points = {"0": {"x": x, "y": y}, "1": {"x": x + w, "y": y + h}, "2": {"x": x, "y": y + h}}
    boxes[1] = {"name": "blue", "shape": "polygon", "polygon": points}
    units = [
        {
            "data_title": name,
            "data_units": {
                "u": {"data_title": f"{name}.png", "labels": {"objects": boxes}, "width": WIDTH,
                      "height": HEIGHT}
            },
        }
        for name in every(root)
    ]  # fmt: skip
    dump(root / "export.json", units)


def kili(root: Path) -> None:
    rows: list[Any] = []
    for n, box in pairs():
        x, y, w, h = relative(box)
        corners = [(x, y + h), (x, y), (x + w, y), (x + w, y + h)]
        outline = {"normalizedVertices": [{"x": a, "y": b} for a, b in corners]}
        rows.append({"boundingPoly": [outline], "categories": [{"name": n}], "type": "rectangle"})
    labels = [{"jsonResponse": {"JOB": {"annotations": some}}} for some in ([], rows)]
    dump(
        root / "data.json",
        [{"externalId": f"{name}.png", "labels": labels} for name in every(root)],
    )


def hasty(root: Path) -> None:
    boxes = [{"class_name": n, "bbox": box} for n, box in zip(CLASSES, CORNERS, strict=True)]
    images = [
        {"image_name": f"{name}.png", "width": WIDTH, "height": HEIGHT, "labels": boxes}
        for name in every(root)
    ]
    classes = [{"class_name": n} for n in CLASSES]
    dump(root / "export.json", {"label_classes": classes, "images": images})


def dataloop(root: Path) -> None:
    for name in every(root, "items"):
        boxes = [
            {"type": "box", "label": n, "coordinates": [{"x": a, "y": b}, {"x": c, "y": d}]}
            for n, (a, b, c, d) in zip(CLASSES, CORNERS, strict=True)
        ]
        boxes.append({"type": "point", "label": "red", "coordinates": {"x": 1, "y": 2}})
        tree = {"datasetId": "d", "filename": f"/{name}.png", "annotations": boxes}
        dump(root / "json" / f"{name}.json", tree)


def custom_vision(root: Path) -> None:
    regions = [{"tagName": n, **dict(zip(SIDES, relative(b), strict=True))} for n, b in pairs()]
    dump(
        root / "tagged.json",
        [
            {"id": "0", "originalImageUri": f"https://x/{name}.png?sv=1", "regions": regions}
            for name in every(root)
        ],
    )


def azure(root: Path) -> None:
    labels: list[Any] = []
    for n, box in pairs():
        x, y, w, h = relative(box)
        labels.append({"label": n, "topX": x, "topY": y, "bottomX": x + w, "bottomY": y + h})
    details = {"width": f"{WIDTH}px", "height": f"{HEIGHT}px"}
    for split, names in SPLITS.items():
        for name in names:
            image(root / "images" / f"{name}.png")
        some = [
            {"image_url": f"azureml://x/{name}.png", "image_details": details, "label": labels}
            for name in names
        ]
        lines(root / f"{split}_annotations.jsonl", some)


def vertex(root: Path) -> None:
    boxes: list[Any] = []
    for n, box in pairs():
        x, y, w, h = map(
            str, (*relative(box)[:2], *(relative(box)[i] + relative(box)[i + 2] for i in (0, 1)))
        )
        boxes.append({"displayName": n, "xMin": x, "yMin": y, "xMax": w, "yMax": h})
    rows: list[Any] = []
    for split, names in {"training": SPLITS["train"], "validation": SPLITS["val"]}.items():
        for name in names:
            image(root / "images" / f"{name}.png")
            use = {"aiplatform.googleapis.com/ml_use": split}
            uri = f"gs://b/{name}.png"
            rows.append({"imageGcsUri": uri, "boundingBoxAnnotations": boxes,
                         "dataItemResourceLabels": use})  # fmt: skip
    lines(root / "export.jsonl", rows)


def prodigy(root: Path) -> None:
    spans = [
        {"label": n, "type": "rect", **dict(zip(("x", "y", "width", "height"), box, strict=True))}
        for n, box in pairs()
    ]
    x0, y0, x1, y1 = CORNERS[1]
    spans[1] = {"label": "blue", "type": "polygon", "points": [[x0, y0], [x1, y0], [x1, y1]]}
    rows = [
        {"image": "data:image/png;base64,AA", "path": f"images/{name}.png", "spans": spans}
        for name in every(root)
    ]
    lines(root / "annotations.jsonl", rows)


def crowdhuman(root: Path) -> None:
    for split, names in SPLITS.items():
        for name in names:
            image(root / "Images" / f"{name}.png")
        boxes = [{"tag": n, "fbox": box, "hbox": (1, 1, 5, 5), "extra": {}} for n, box in pairs()]
        boxes.append({"tag": "mask", "fbox": (1, 1, 5, 5), "extra": {"ignore": 1}})
        some = [{"ID": name, "gtboxes": boxes} for name in names]
        lines(root / f"annotation_{split}.odgt", some)


def city(root: Path, folder: str, ending: str, shape: str) -> None:
    for split, names in SPLITS.items():
        for name in names:
            image(root / "leftImg8bit" / split / "ulm" / f"ulm_{name}_leftImg8bit.png")
            boxes = []
            for n, (x, y, w, h) in pairs():
                points = [[x, y], [x + w, y], [x + w, y + h], [x, y + h]]
                boxes.append({"label": n, shape: points if shape == "polygon" else (x, y, w, h)})
            tree = {"imgWidth": WIDTH, "imgHeight": HEIGHT, "objects": boxes}
            dump(root / folder / split / "ulm" / f"ulm_{name}_{ending}.json", tree)


def citypersons(root: Path) -> None:
    city(root, "gtBboxCityPersons", "gtBboxCityPersons", "bbox")


def cityscapes(root: Path) -> None:
    city(root, "gtFine", "gtFine_polygons", "polygon")


def xview(root: Path) -> None:
    features = [
        {
            "properties": {
                "image_id": f"{name}.png",
                "type_id": n,
                "bounds_imcoords": ",".join(map(str, box)),
            }
        }
        for name in every(root)
        for n, box in zip(CLASSES, CORNERS, strict=True)
    ]
    dump(root / "xView_train.geojson", {"type": "FeatureCollection", "features": features})


def fiftyone_set(root: Path) -> None:
    samples: list[Any] = []
    for split, names in {"train": SPLITS["train"], "validation": SPLITS["val"]}.items():
        for name in names:
            image(root / "data" / f"{name}.png")
            boxes = [
                {"_cls": "Detection", "label": n, "bounding_box": relative(b)} for n, b in pairs()
            ]
            samples.append({"filepath": f"data/{name}.png", "tags": [split],
                            "truth": {"_cls": "Detections", "detections": boxes}})  # fmt: skip
    dump(root / "metadata.json", {"name": "x", "media_type": "image"})
    dump(root / "samples.json", {"samples": samples})


def label_studio_table(root: Path) -> None:
    buffer = io.StringIO()
    writer = csv.writer(buffer)
    writer.writerow(["annotation_id", "image", "label"])
    for name in every(root):
        marks: list[Any] = []
        for n, box in pairs():
            x, y, w, h = (100 * share for share in relative(box))
            marks.append({"x": x, "y": y, "width": w, "height": h, "rectanglelabels": [n]})
        writer.writerow([1, f"/data/upload/1/0abc1234-{name}.png", json.dumps(marks)])
    text(root / "project.csv", buffer.getvalue())


def makesense(root: Path) -> None:
    rows = [f"{n},{x},{y},{w},{h},{name}.png,{WIDTH},{HEIGHT}\n" for name in every(root)
            for n, (x, y, w, h) in pairs()]  # fmt: skip
    text(root / "labels_my-project.csv", "".join(rows))


def keras_roboflow(root: Path) -> None:
    for split, names in {"train": SPLITS["train"], "valid": SPLITS["val"]}.items():
        rows = ""
        for name in names:
            image(root / split / f"{name}.png")
            numbers = (f"{','.join(map(str, box))},{n}" for n, box in enumerate(CORNERS))
            rows += f"{name}.png {' '.join(numbers)}\n"
        text(root / split / "_annotations.txt", rows)
        text(root / split / "_classes.txt", "red\nblue\n")


def mot_of_ones_own(root: Path) -> None:
    rows = ""
    for frame in range(1, 3):
        image(root / "img1" / f"{frame:06d}.png")
        for n, (_, (x, y, w, h)) in enumerate(pairs(), 1):
            rows += f"{frame},{n},{x},{y},{w},{h},1,{n},1.0\n"
    text(root / "gt" / "gt.txt", rows)
    text(root / "gt" / "labels.txt", "red\nblue\n")


def icdar(root: Path) -> None:
    for name in every(root):
        rows = ""
        for words, (x0, y0, x1, y1) in zip(("Hello, you", "12:30"), CORNERS, strict=True):
            rows += f"{x0},{y0},{x1},{y0},{x1},{y1},{x0},{y1},{words}\n"
        text(root / "gt" / f"gt_{name}.txt", f"\ufeff{rows}1,1,9,1,9,9,1,9,###\n")


def icdar_of_2013(root: Path) -> None:
    for name in every(root):
        rows = "".join(f'{", ".join(map(str, box))}, "Hello"\n' for box in CORNERS)
        text(root / "gt" / f"gt_{name}.txt", rows)


def labelme_xml(root: Path) -> None:
    for name in every(root, "default"):
        objects = ""
        for n, (x0, y0, x1, y1) in zip(CLASSES, CORNERS, strict=True):
            points = ((x0, y0), (x1, y0), (x1, y1), (x0, y1))
            outline = "".join(f"<pt><x>{x}</x><y>{y}</y></pt>" for x, y in points)
            objects += f"<object><name>{n}</name><polygon>{outline}</polygon></object>"
        objects += f"<imagesize><nrows>{HEIGHT}</nrows><ncols>{WIDTH}</ncols></imagesize>"
        tree = f"<annotation><filename>{name}.png</filename>{objects}</annotation>"
        text(root / "default" / f"{name}.xml", tree)


FORMS: dict[str, tuple[Make, tuple[str, str], set[str]]] = {
    "CVAT for images": (cvat, CLASSES, {"box-from-shape", "shape-without-area"}),
    "CVAT for video": (cvat_video, CLASSES, {"name-case"}),
    "Supervisely": (supervisely, CLASSES, {"box-from-shape", "shape-without-area"}),
    "BDD100K": (bdd, CLASSES, {"name-base"}),
    "BDD100K, a file an image": (bdd_single, CLASSES, {"name-case"}),
    "FiftyOne": (fiftyone, CLASSES, {"name-case"}),
    "VoTT": (vott, CLASSES, set()),
    "Hugging Face": (hugging_face, CLASSES, set()),
    "NDJSON": (ultralytics, CLASSES, set()),
    "Labelbox": (labelbox, CLASSES, set()),
    "SageMaker": (sagemaker, CLASSES, {"name-cleaned"}),
    "keras-yolo3": (keras_yolo, CLASSES, set()),
    "VisDrone": (visdrone, ("car", "van"), {"region-uncared"}),
    "MOT": (mot, ("car", "bicycle"), {"region-uncared"}),
    "V7": (v7, CLASSES, set()),
    "Scale": (scale, CLASSES, {"name-cleaned", "shape-without-area"}),
    "Encord": (encord, CLASSES, {"box-from-shape"}),
    "Kili": (kili, CLASSES, set()),
    "Hasty": (hasty, CLASSES, set()),
    "Dataloop": (dataloop, CLASSES, {"name-base", "shape-without-area"}),
    "Custom Vision": (custom_vision, CLASSES, {"name-cleaned"}),
    "Azure ML": (azure, CLASSES, {"name-cleaned"}),
    "Vertex AI": (vertex, CLASSES, {"name-cleaned"}),
    "Prodigy": (prodigy, CLASSES, {"box-from-shape"}),
    "CrowdHuman": (crowdhuman, CLASSES, {"name-case", "region-uncared"}),
    "CityPersons": (citypersons, CLASSES, {"name-case"}),
    "Cityscapes": (cityscapes, CLASSES, {"name-case"}),
    "xView": (xview, CLASSES, set()),
    "FiftyOne's data set": (fiftyone_set, CLASSES, set()),
    "Label Studio's table": (label_studio_table, CLASSES, {"name-case"}),
    "makesense.ai's table": (makesense, CLASSES, set()),
    "Roboflow's keras-yolo3": (keras_roboflow, CLASSES, set()),
    "MOT with classes": (mot_of_ones_own, CLASSES, set()),
    "ICDAR 2015": (icdar, ("text", "text"), {"region-uncared", "words-text"}),
    "ICDAR 2013": (icdar_of_2013, ("text", "text"), {"words-text"}),
    "LabelMe's XML": (labelme_xml, CLASSES, {"box-from-shape"}),
    "WIDER FACE": (wider, ("face", "face"), {"name-base"}),
}
WHOLE = {"CVAT for video", "FiftyOne", "VoTT", "Labelbox", "SageMaker"} | {
    *("V7", "Scale", "Encord", "Kili", "Hasty", "Dataloop", "Custom Vision", "Prodigy", "xView"),
    *("Label Studio's table", "makesense.ai's table", "MOT with classes", "ICDAR 2015"),
    *("ICDAR 2013", "LabelMe's XML"),
}


@pytest.mark.parametrize("form", FORMS)
def test_files_of_tools_open_as_they_are(form: str, tmp_path: Path) -> None:
    make, classes, kinds = FORMS[form]
    make(tmp_path)
    train, val = open_training(tmp_path)
    faces = form == "WIDER FACE"
    for data, images in ((train, 2), (val, 1)):
        if form in WHOLE and data is val:
            assert data is None
            continue
        assert data is not None
        assert len(data) == images + faces
        for record in map(data.record, range(images)):
            named = [data.names[label] for label in record.labels]
            found = sorted(zip(named, record.boxes.tolist(), strict=True))
            assert found == sorted(zip(classes, map(list, CORNERS), strict=True))
        assert {each.kind.name for each in data.findings} - {"split-only", "class-split"} == kinds
        assert len(data.record(images).boxes if faces else []) == 0


@pytest.mark.parametrize(
    ("name", "content", "kind"),
    [
        ("set.ndjson", '{"type": "image", "file": "a.png"}\n{cut short', "row-unreadable"),
        ("export.ndjson", '{"data_row": {"external_id": "a.png"}}\n[1]', "row-unreadable"),
        ("output.manifest", '{"source-ref": "a.png"}\n{"source-ref": "b.png"}', "image-missing"),
        ("metadata.jsonl", '{"file_name": "a.png", "objects": {"bbox": [[1]]}}', "box-unreadable"),
        ("x_bbx_gt.txt", "a.png\n1\n3 4 50 60 0 0 0 0 0 0\nwhat\n", "line-unreadable"),
        ("annotations.xml", "<annotations><image name='a.png'><box label='a' xtl='q'/></image>"
         "</annotations>", "box-unreadable"),
        ("labels.json", '{"classes": [], "labels": {"a": [{"bounding_box": [0, 0, 1]}]}}',
         "box-unreadable"),
    ],
)  # fmt: skip
def test_odd_rows_of_tools_are_counted(name: str, content: str, kind: str, tmp_path: Path) -> None:
    image(tmp_path / "a.png")
    text(tmp_path / name, content)
    for place in (tmp_path, tmp_path / name):
        data = open_data(place)
        assert len(data) == 1
        assert data.findings.count(kind) == 1


def test_one_file_of_many_that_is_cut_short_is_counted(tmp_path: Path) -> None:
    supervisely(tmp_path)
    text(tmp_path / "train" / "ann" / "b.png.json", '{"size": {"height": 1')
    data = open_every(tmp_path)[0]
    assert data.findings.count("file-unreadable") == 1
    assert data.findings.count("image-unlisted") == 1
    assert splits(tmp_path) == ["train", "val"]
