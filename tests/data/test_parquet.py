"""Hugging Face's data sets on disk: parquet and Arrow files, and features that name the classes."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from tests.data.making import BOXES, CLASSES, CORNERS, SPLITS, image, text

from dabdetr.data.layouts import open_data, open_every, open_training, splits

NUMBERS = {"names": ["blue", "none", "red"], "_type": "ClassLabel"}
CARD = """---
license: mit
dataset_info:
  features:
  - name: image
    dtype: image
  - name: objects
    sequence:
    - name: bbox
      sequence: float32
      length: 4
    - name: category
      dtype:
        class_label:
          names:
            '0': blue
            '1': none
            '2': red
---
# Cards
"""


def features(objects: Any) -> dict[bytes, bytes]:
    tree = {"info": {"features": {"image": {"_type": "Image"}, "objects": objects}}}
    return {b"huggingface": json.dumps(tree).encode()}


def rows(root: Path, split: str, names: tuple[str, ...], path: bool = True) -> list[dict[str, Any]]:
    found = []
    for name in names:
        file = root.parent / f"{root.name}-images" / split / f"{name}.png"
        image(file)
        cell = {"bytes": file.read_bytes(), "path": f"some/{file.name}" if path else None}
        found.append({"image": cell, "objects": {"bbox": BOXES, "category": (2, 0)}})
    return found


def table(listed: list[dict[str, Any]], metadata: dict[bytes, bytes] | None = None) -> Any:
    pyarrow = pytest.importorskip("pyarrow", reason="needs the package pyarrow")
    return pyarrow.Table.from_pylist(listed).replace_schema_metadata(metadata)


def write(file: Path, content: Any) -> None:
    from pyarrow import ipc, parquet

    file.parent.mkdir(parents=True, exist_ok=True)
    if file.suffix == ".parquet":
        parquet.write_table(content, file)
    else:
        with ipc.new_stream(str(file), content.schema) as stream:
            stream.write_table(content)


OLD = {"feature": {"bbox": {"_type": "Sequence"}, "category": NUMBERS}, "_type": "Sequence"}
NEW = {"bbox": {"_type": "List"}, "category": {"feature": NUMBERS, "_type": "List"}}


def pushed(root: Path) -> None:
    for split, names in SPLITS.items():
        name = "validation" if split == "val" else split
        for shard, each in enumerate(names):
            found = table(rows(root, split, (each,)), features(OLD))
            write(root / "data" / f"{name}-{shard:05d}-of-{len(names):05d}.parquet", found)


def converted(root: Path) -> None:
    for split, names in SPLITS.items():
        found = rows(root, split, names, path=False)
        write(root / "default" / split / "0000.parquet", table(found, features(NEW)))


def saved(root: Path) -> None:
    for split, names in SPLITS.items():
        found = rows(root, split, names)
        write(root / split / "data-00000-of-00001.arrow", table(found, features(NEW)))
        text(root / split / "state.json", "{}")
    text(root / "dataset_dict.json", '{"splits": ["train", "val"]}')


def of_objects(root: Path) -> None:
    text(root / "README.md", CARD)
    for split, names in SPLITS.items():
        found = rows(root, split, names)
        for row in found:
            boxes = zip(BOXES, (2, 0), strict=True)
            row["mask"] = row["image"]
            row["objects"] = [{"bbox": box, "category": number} for box, number in boxes]
        write(root / f"{split}.parquet", table(found))


def corners(root: Path) -> None:
    for split, names in SPLITS.items():
        found = [
            {"jpg": row["image"]["bytes"], "bboxes": CORNERS, "labels": CLASSES, "name": "a"}
            for row in rows(root, split, names)
        ]
        write(root / "data" / f"{split}.parquet", table(found))


def metadata(root: Path) -> None:
    for split, names in SPLITS.items():
        found = rows(root, split, names)
        for row in found:
            file = Path(row["image"]["path"]).name
            (root / split).mkdir(parents=True, exist_ok=True)
            (root / split / file).write_bytes(row.pop("image")["bytes"])
            row |= {"file_name": file}
            row["objects"]["category"] = CLASSES
        write(root / split / "metadata.parquet", table(found))


FORMS = {"pushed": pushed, "converted": converted, "saved": saved, "objects": of_objects}
FORMS |= {"corners": corners, "metadata": metadata}


@pytest.mark.parametrize("form", FORMS)
def test_parquet_and_arrow_files_open_as_they_are(form: str, tmp_path: Path) -> None:
    FORMS[form](tmp_path / "set")
    train, val = open_training(tmp_path / "set")
    assert val is not None
    for data, images in ((train, 2), (val, 1)):
        assert len(data) == images
        for record in map(data.record, range(images)):
            named = [data.names[label] for label in record.labels]
            found = sorted(zip(named, record.boxes.tolist(), strict=True))
            assert found == sorted(zip(CLASSES, map(list, CORNERS), strict=True))
        kinds = {each.kind.name for each in data.findings}
        assert kinds - {"place"} == (
            {"images-packed"} | ({"box-corners"} if form == "corners" else set())
        )


def test_images_are_unpacked_once_and_under_their_own_names(tmp_path: Path) -> None:
    root = tmp_path / "set"
    found = [*rows(root, "train", ("a", "b")), *rows(root, "train", ("a",))]
    found[1]["image"]["path"] = "../../b.png"
    write(root / "train.parquet", table(found, features(NEW)))
    first, again = open_data(root), open_data(root / "train.parquet")
    assert [Path(file).name for file in first.files] == ["a.png", "b.png", "a-3.png"]  # pyright: ignore
    assert first.files == again.files  # pyright: ignore


def test_what_is_odd_in_parquet_is_counted(tmp_path: Path) -> None:
    good, unnamed, damaged, none, more, number = rows(tmp_path / "set", "train", tuple("abcdef"))
    unnamed["image"] = None
    damaged["image"]["bytes"] = b"what"
    none["objects"] = None
    more["objects"]["category"] = (2, 0, 1)
    number["objects"]["category"] = (2, 7)
    root = tmp_path / "set"
    listed = [good, unnamed, damaged, none, more, number]
    write(root / "data" / "train-00000-of-00001.parquet", table(listed, features(OLD)))
    (data,) = open_every(root)
    counts = {each.kind.name: each.count for each in data.findings}
    kinds = ("image-unnamed", "image-damaged", "box-unreadable", "class-unknown")
    assert [counts[kind] for kind in kinds] == [1, 1, 1, 1]
    assert [len(data.record(n).boxes) for n in range(len(data))] == [2, 0, 2, 1]


@pytest.mark.parametrize("kind", ["pointer", "damaged", "classes", "text"])
def test_parquet_that_cannot_be_read_is_refused_in_a_sentence(kind: str, tmp_path: Path) -> None:
    file = tmp_path / "data" / "train-00000-of-00001.parquet"
    if kind == "classes":
        listed = [{"image": {"bytes": b"", "path": "a.png"}, "label": 1}]
        write(file, table(listed))
        message = r"no boxes, only the columns \['image', 'label'\]"
    elif kind == "text":
        write(file, table([{"text": "a", "bbox": 1}]))
        message = "no image"
    else:
        table([{"text": "a"}])  # skips without pyarrow
        pointer = "version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 9\n"
        text(file, pointer if kind == "pointer" else "PAR1 and nothing else")
        message = "git lfs pull" if kind == "pointer" else "not a readable parquet file"
    with pytest.raises((ValueError, OSError), match=message):
        open_data(tmp_path)


def test_without_pyarrow_the_package_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    text(tmp_path / "data" / "train-00000-of-00001.parquet", "PAR1")
    monkeypatch.setitem(__import__("sys").modules, "pyarrow", None)
    assert splits(tmp_path) == ["train"]
    with pytest.raises(ValueError, match="needs a package: pip install pyarrow"):
        open_data(tmp_path)


@pytest.mark.parametrize("name", ["train/a.png", "set.zip", "annotations/train.json"])
def test_pointers_of_git_lfs_are_named(name: str, tmp_path: Path) -> None:
    image(tmp_path / "train" / "a.png")
    annotations = [{"id": 1, "image_id": 1, "category_id": 1, "bbox": BOXES[0]}]
    images, categories = [{"id": 1, "file_name": "a.png"}], [{"id": 1, "name": "red"}]
    tree = {"images": images, "annotations": annotations, "categories": categories}
    text(tmp_path / "annotations" / "train.json", json.dumps(tree))
    text(tmp_path / name, "version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 9\n")
    given = tmp_path if name.startswith("train") else tmp_path / name
    with pytest.raises(ValueError, match="fetch the file with: git lfs pull"):
        open_every(given)


@pytest.mark.parametrize("card", [True, False])
def test_a_card_names_the_classes_of_metadata(card: bool, tmp_path: Path) -> None:
    image(tmp_path / "train" / "a.png")
    row = {"file_name": "a.png", "objects": {"bbox": BOXES, "category": (2, 0)}}
    text(tmp_path / "train" / "metadata.jsonl", json.dumps(row))
    if card:
        text(tmp_path / "README.md", CARD)
    data = open_data(tmp_path)
    assert data.names == (("blue", "red") if card else ("0", "2"))
    assert data.findings.count("class-names-missing") == (0 if card else 2)
