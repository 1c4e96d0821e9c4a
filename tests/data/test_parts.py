"""Annotation files that could be read in part without a word: several of a split, packed, twice."""

from __future__ import annotations

import errno
import gzip
import json
import os
from pathlib import Path
from typing import Any

import pytest
from tests.data.making import BOXES, CLASSES, CORNERS, dump, image, text

from dabdetr.data.dataset import DetectionDataset
from dabdetr.data.layouts import open_data, open_every

HEAD = "filename,class,xmin,ymin,xmax,ymax\n"


def table(names: str) -> str:
    corners = [",".join(map(str, box)) for box in CORNERS]
    pairs = [*zip(CLASSES, corners, strict=True)]
    return HEAD + "".join(f"{name}.png,{c},{box}\n" for name in names for c, box in pairs)


def via(names: str) -> str:
    x, y, width, height = BOXES[0]
    shape = {"name": "rect", "x": x, "y": y, "width": width, "height": height}
    regions = [{"shape_attributes": shape, "region_attributes": {"class": "red"}}]
    rows = {f"{n}.png1": {"filename": f"{n}.png", "size": 1, "regions": regions} for n in names}
    return json.dumps(rows)


def cvat(names: str) -> str:
    box = '<box label="red" xtl="10" ytl="20" xbr="40" ybr="60"/>'
    images = [
        f'<image id="{n}" name="{name}.png" width="160" height="120">{box}</image>'
        for n, name in enumerate(names)
    ]
    return f"<annotations><version>1.1</version>{''.join(images)}</annotations>"


def coco(names: str, first: int = 1, **more: Any) -> dict[str, Any]:
    """Two boxes for each image; image ids count from ``first``."""
    ids = dict(enumerate(names, first))
    return {
        "images": [
            {"id": id_, "file_name": f"{name}.png", "width": 160, "height": 120}
            for id_, name in ids.items()
        ],
        "annotations": [
            {"id": 2 * n + c, "image_id": id_, "category_id": c + 1, "bbox": list(BOXES[c])}
            for n, id_ in enumerate(ids)
            for c in (0, 1)
        ],
        "categories": [{"id": c + 1, "name": name} for c, name in enumerate(CLASSES)],
        **more,
    }


def kinds(data: DetectionDataset) -> dict[str, int]:
    return {each.kind.name: each.count for each in data.findings}


def boxes(data: DetectionDataset) -> list[tuple[str, str, list[float]]]:
    return sorted(
        (Path(record.file).stem, data.names[label], box)
        for record in map(data.record, range(len(data)))
        for label, box in zip(record.labels, record.boxes.tolist(), strict=True)
    )


def expected(names: str) -> list[tuple[str, str, list[float]]]:
    return sorted(
        (n, c, list(map(float, box)))
        for n in names
        for c, box in zip(CLASSES, CORNERS, strict=True)
    )


@pytest.fixture
def root(tmp_path: Path) -> Path:
    for name in "abcdef":
        image(tmp_path / "images" / f"{name}.png")
    return tmp_path


@pytest.mark.parametrize(
    ("write", "ending"), [(table, "csv"), (via, "json"), (cvat, "xml")], ids=["csv", "VIA", "CVAT"]
)
@pytest.mark.parametrize("name", ["train_{}", "boxes_part{}", "{}"])
def test_parts_of_tables_and_exports_are_joined(
    name: str, write: Any, ending: str, root: Path
) -> None:
    for n, names in enumerate(("ab", "bc", "d"), 1):
        text(root / f"{name.format(n)}.{ending}", write(names))
    (data,) = open_every(root)
    found = kinds(data)
    assert len(data) == 4
    assert (found["files-joined"], found["image-files"]) == (3, 1)
    assert len(data.labels) == 4 * (2 if write is table else 1)  # pyright: ignore
    assert found["line-twice"] > 0


@pytest.mark.parametrize("name", ["fold{}", "boxes_v{}", "fold-{}-of-5"])
def test_folds_and_versions_are_not_parts(name: str, root: Path) -> None:
    for n, names in enumerate(("ab", "cd"), 1):
        text(root / f"{name.format(n)}.csv", table(names))
    assert [len(data) for data in open_every(root)] == [2, 2]


def test_a_table_in_two_formats_is_not_read_in_part(root: Path) -> None:
    text(root / "train.csv", table("ab"))
    text(root / "train.txt", table("cd"))
    (data,) = open_every(root)
    assert boxes(data) == expected("abcd")


def parts(root: Path, *trees: dict[str, Any]) -> DetectionDataset:
    for n, tree in enumerate(trees, 1):
        dump(root / "annotations" / f"train_{n}.json", tree)
    return open_data(root)


def test_parts_with_other_ids_are_joined(root: Path) -> None:
    by_name, texts, own = coco("ab"), coco("cd"), coco("ef")
    for row in by_name["images"]:
        del row["id"]
    for row in by_name["annotations"]:
        row["image_id"] = "ab"[row["image_id"] - 1] + ".png"
        row["category_id"] = CLASSES[row["category_id"] - 1]
    for row in (*texts["images"], *texts["annotations"]):
        key = "image_id" if "image_id" in row else "id"
        row[key] = f"img-{row[key]}"
    for row in own["categories"]:
        row["label"] = row.pop("name")
    data = parts(root, by_name, texts, own)
    assert data.names == CLASSES
    assert boxes(data) == expected("abcdef")
    assert not data.findings.of("skipped", "kept")


def test_ids_that_are_wrong_in_a_part_are_counted(root: Path) -> None:
    twice = coco("cd")
    twice["images"][1]["id"] = 1
    classes = coco("ef", categories=[{"id": 1, "name": "red"}, {"id": 1, "name": "blue"}])
    data = parts(root, coco("ab"), twice, classes)
    found = kinds(data)
    assert boxes(data) == [*expected("ab"), *(each for each in expected("ef") if each[1] == "red")]
    assert found["image-id-repeated"] == 2
    assert found["image-unknown"] == 2
    assert found["class-id-repeated"] == 1
    assert found["class-unknown"] == 2
    said = {each.kind.name: each.examples[0] for each in data.findings}
    assert "2 of train_3.json" in said["class-unknown"]
    assert "2 of train_2.json" in said["image-unknown"]


def test_classes_without_names_stay_apart_in_parts(root: Path) -> None:
    trees = coco("ab"), coco("cd")
    for tree in trees:
        for row in tree["categories"]:
            row["name"] = None
    data = parts(root, *trees)
    assert len(data.names) == 2
    assert data.findings.count("class-name-odd") == 2


@pytest.mark.parametrize("folder", ["", "annotations"])
def test_a_packed_list_beside_a_plain_one_is_said(folder: str, root: Path) -> None:
    dump(root / folder / "val.json", coco("ef"))
    (root / folder / "train.json.gz").write_bytes(gzip.compress(json.dumps(coco("ab")).encode()))
    data = open_data(root)
    (found,) = (each for each in data.findings if each.kind.name == "annotation-packed")
    assert (found.kind.action, found.count) == ("skipped", 1)
    (root / folder / "val.json.gz").touch()  # also there unpacked
    assert open_data(root).findings.count("annotation-packed") == 1


def test_lists_that_stand_twice_in_a_json_are_refused(root: Path) -> None:
    first, second = json.dumps(coco("ab")), json.dumps(coco("cd", first=3))
    text(root / "annotations.json", f"{first[:-1]}, {second[1:]}")
    with pytest.raises(ValueError, match="has images and annotations more than once"):
        open_data(root)


def test_keys_that_stand_twice_are_counted(root: Path) -> None:
    row = '"bbox": [113, 53, 44, 39]'
    content = json.dumps(coco("ab"))
    text(root / "annotations.json", content.replace(row, f'"bbox": [1, 2, 3, 4], {row}', 1))
    data = open_data(root)
    assert kinds(data)["key-repeated"] == 1
    assert boxes(data) == expected("ab")
    text(root / "annotations.json", content.replace(row, f"{row}, {row}", 1))
    assert "key-repeated" not in kinds(open_data(root))


def test_images_that_stand_twice_in_an_export_are_counted(root: Path) -> None:
    rows = via("ab")
    text(root / "via.json", rows.replace('"b.png1"', '"a.png1"'))
    (found,) = (each for each in open_data(root).findings if each.kind.name == "key-repeated")
    assert "'a.png1'" in found.examples[0]


def test_a_folder_that_may_not_be_read_is_said(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    closed = str(root / "images" / "more")
    image(Path(closed) / "g.png")
    dump(root / "annotations.json", coco("ab"))
    scan = os.scandir

    def refusing(path: Any = ".") -> Any:
        if os.fspath(path) == closed:
            raise PermissionError(errno.EACCES, "Permission denied", closed)
        return scan(path)

    monkeypatch.setattr(os, "scandir", refusing)
    (found,) = (each for each in open_data(root).findings if each.kind.name == "folder-unreadable")
    assert (found.kind.action, found.examples) == ("skipped", [closed])
    given = open_data(None, "train", root / "annotations.json", root / "images")
    assert given.findings.count("folder-unreadable") == 1
