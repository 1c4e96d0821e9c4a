"""Files of tools that list images with boxes: a small folder of each opens as it is."""

from __future__ import annotations

import base64
import io
import json
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from dabdetr.data.layouts import open_data, open_training, splits

WIDTH, HEIGHT = 160, 120
BOXES = ((113, 53, 44, 39), (10, 20, 30, 40))
CORNERS = [[x, y, x + w, y + h] for x, y, w, h in BOXES]
CLASSES = ("red", "blue")
SPLITS = {"train": ("a", "b"), "val": ("c",)}
Make = Callable[[Path], None]


def image(path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    pixels = np.random.default_rng(ord(path.stem[-1])).integers(0, 255, (12, 16, 3), dtype=np.uint8)
    Image.fromarray(pixels).resize((WIDTH, HEIGHT)).save(path)


def text(path: Path, content: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(content)


def dump(path: Path, tree: Any) -> None:
    text(path, json.dumps(tree))


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
    "WIDER FACE": (wider, ("face", "face"), {"name-base"}),
}
WHOLE = {"CVAT for video", "FiftyOne", "VoTT", "Labelbox", "SageMaker"}


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
    data = open_data(tmp_path)
    assert data.findings.count("file-unreadable") == 1
    assert data.findings.count("image-unlisted") == 1
    assert splits(tmp_path) == ["train", "val"]
