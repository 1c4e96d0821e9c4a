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
    assert (found["files-joined"], found["image-listings"]) == (3, 1)
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


SIDES = ("x", "y", "width", "height")


def drawn(box: list[int]) -> dict[str, Any]:
    value = {"rectanglelabels": ["red"], **dict(zip(SIDES, box, strict=True))}
    return {"result": [{"type": "rectanglelabels", "value": value}]}


def listed_twice(root: Path) -> dict[str, str]:
    """Exports in which image a stands in the first and the last entry, with different boxes."""
    boxes = [(name, [10 + 20 * n, 20, 30, 40]) for n, name in enumerate("aba")]
    tasks = [{"data": {"image": f"{name}.png"}, "annotations": [drawn(box)]} for name, box in boxes]
    createml = [
        {
            "image": f"{name}.png",
            "annotations": [{"label": "red", "coordinates": dict(zip(SIDES, box, strict=True))}],
        }
        for name, box in boxes
    ]
    shapes = [
        f'<image id="{n}" name="{name}.png"><box label="red" xtl="{x}" ytl="{y}" xbr="{x + w}" '
        f'ybr="{y + h}"/></image>'
        for n, (name, (x, y, w, h)) in enumerate(boxes)
    ]
    rows = [
        {"image": f"{name}.png", "bbox": [box, BOXES[0]], "label": "red"} for name, box in boxes
    ]
    return {
        "export.json": json.dumps(tasks),
        "createml.json": json.dumps(createml),
        "annotations.xml": f"<annotations>{''.join(shapes)}</annotations>",
        "rows.json": json.dumps(rows),
    }


@pytest.mark.parametrize("file", listed_twice(Path()))
def test_images_that_an_export_lists_twice_are_counted(file: str, root: Path) -> None:
    text(root / file, listed_twice(root)[file])
    data = open_data(root)
    assert [Path(data.record(index).file).stem for index in range(len(data))] == ["a", "b"]
    assert len(data.record(0).labels) == (2 if file != "rows.json" else 3)
    assert kinds(data)["image-listings"] == 1


def labelled(root: Path, lists: dict[str, str]) -> None:
    """An image of class red in each split, whose labels have a class list of their own."""
    for split, names in lists.items():
        image(root / "images" / split / f"{split[0]}.png")
        number = names.split().index("red")
        text(root / "labels" / split / "classes.txt", names)
        text(root / "labels" / split / f"{split[0]}.txt", f"{number} 0.5 0.5 0.2 0.2\n")


@pytest.mark.parametrize("second", ["blue\nred\n", "blue\ngreen\nred\n"])
@pytest.mark.parametrize("folders", [("train", "val"), ("day1", "night1")])
def test_folders_of_labels_are_read_by_their_own_lists(
    folders: tuple[str, str], second: str, tmp_path: Path
) -> None:
    labelled(tmp_path, dict(zip(folders, ("red\nblue\n", second), strict=True)))
    every = open_every(tmp_path)
    assert [data.names[label] for data in every for label in data.labels] == ["red", "red"]  # pyright: ignore
    said = sum(data.findings.count("class-lists") for data in every)
    assert said == (1 if len(every) == 2 else 2)
    assert not any(data.findings.of("kept", "skipped") for data in every)


def test_lists_that_differ_from_data_yaml_are_said(tmp_path: Path) -> None:
    labelled(tmp_path, {"train": "red\nblue\n", "val": "blue\nred\n"})
    settings = "train: images/train\nval: images/val\nnames: [red, blue]\n"
    text(tmp_path / "data.yaml", settings)
    train, val = open_every(tmp_path)
    assert (train.findings.count("class-order"), val.findings.count("class-order")) == (0, 2)


@pytest.mark.parametrize("nested", [False, True])
def test_a_mapping_from_images_to_boxes_is_read(nested: bool, root: Path) -> None:
    objects = [{"bbox": list(box), "label": c} for c, box in zip(CLASSES, BOXES, strict=True)]
    lists = {"boxes": [list(box) for box in BOXES], "labels": list(CLASSES)}
    tree = {f"{name}.png": lists if nested else objects for name in "ab"}
    dump(root / "boxes.json", tree)
    assert boxes(open_data(root)) == expected("ab")


@pytest.mark.parametrize(
    ("name", "content", "advice"),
    [
        ("boxes.xlsx", "PK", "is a spreadsheet: save it as CSV"),
        ("answers.json", '[{"image": "a.png", "objects": [{"box_2d": [1, 2, 3, 4]}]}]', "0–1000"),
    ],
)
def test_other_forms_are_named(name: str, content: str, advice: str, root: Path) -> None:
    text(root / name, content)
    with pytest.raises(ValueError, match=advice):
        open_data(root)


@pytest.mark.parametrize("first", [0, 1])
def test_numbers_in_tables_are_read_in_the_order_of_the_list(first: int, root: Path) -> None:
    text(root / "classes.txt", "\n".join(CLASSES))
    content = table("abc")
    for number, name in enumerate(CLASSES, first):
        content = content.replace(f",{name},", f",{number},")
    lines = content.splitlines(keepends=True)
    text(root / "train.csv", "".join(lines[:5]))
    text(root / "val.csv", lines[0] + lines[5])  # has the first class only
    every = open_every(root)
    assert [boxes(data) for data in every] == [expected("ab"), [expected("c")[1]]]
    assert [data.findings.count("class-counted") for data in every] == [2 * first] * 2


def test_numbers_in_rows_of_json_are_read_in_the_order_of_the_list(root: Path) -> None:
    text(root / "classes.txt", "\n".join(CLASSES))
    objects = [{"bbox": list(box), "category_id": n} for n, box in enumerate(BOXES, 1)]
    dump(root / "rows.json", [{"file_name": f"{n}.png", "annotations": objects} for n in "ab"])
    data = open_data(root)
    assert boxes(data) == expected("ab")
    assert kinds(data)["class-counted"] == 2


def test_an_image_of_several_parts_has_the_boxes_of_all(root: Path) -> None:
    """A json for each class, over the same images."""
    trees = coco("ab"), coco("ba", first=7)
    for tree, number in zip(trees, (1, 2), strict=True):
        rows = tree["annotations"]
        tree["annotations"] = [row for row in rows if row["category_id"] == number]
        tree["categories"] = [tree["categories"][number - 1]]
    data = parts(root, *trees)
    assert boxes(data) == expected("ab")
    assert kinds(data)["image-listings"] == 2
    (root / "annotations" / "train_2.json").unlink()
    data = parts(root, coco("ab"), coco("bc"))
    assert boxes(data) == expected("abc")
    assert (kinds(data)["image-listings"], kinds(data)["line-twice"]) == (1, 2)


def test_a_table_beside_a_json_is_said(root: Path) -> None:
    dump(root / "train.json", coco("ab"))
    text(root / "val.csv", table("cd"))
    (found,) = (each for each in open_data(root).findings if each.kind.name == "layout-other")
    assert found.examples == [f"{root}: table, read as COCO"]


@pytest.mark.parametrize("chosen", ["1", {"1": True}])
def test_numbered_options_of_via_are_called_by_their_description(chosen: Any, root: Path) -> None:
    tree = json.loads(via("ab"))
    for row in tree.values():
        row["regions"][0]["region_attributes"] = {"kind": chosen}
    options = {"options": {"1": "red", "2": "blue"}}
    attributes = {"region": {"kind": options}}
    dump(root / "via.json", {"_via_attributes": attributes, "_via_img_metadata": tree})
    assert open_data(root).names == ("red",)
