"""Data sets in other layouts: what is read back is what was written, to the last bit."""

from __future__ import annotations

import io
import json
import tarfile
import tempfile
from pathlib import Path

import numpy as np
import pytest
import webdataset
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from dabdetr.data.dataset import DetectionDataset
from dabdetr.data.findings import Findings
from dabdetr.data.layouts import open_data, open_every, splits
from dabdetr.data.records import RecordTable, Rows
from dabdetr.data.writing import WRITERS, write_data
from dabdetr.text import counted

NAMES = ("cat", "Größe 猫", "a: 'b' \"c\" <d>", "0")


def table(
    folder: Path, boxes: list[list[tuple[int, bool, list[float]]]], split: str = "train"
) -> RecordTable:
    """Images of 64x48 with boxes of (label, crowd, x0 y0 x1 y1)."""
    rows = Rows(Findings(), "xyxy")
    (folder / split).mkdir(exist_ok=True)
    for number, objects in enumerate(boxes):
        # two images differ in their ending only, and would share a label file
        file = folder / split / (f"a{number // 2}.png" if number % 2 else f"a{number // 2}.jpg")
        Image.new("RGB", (64, 48), (number * 9, 80, 90)).save(file)
        index = rows.add_image(str(file), (64, 48), id_=number * 3 + 5)
        for label, crowd, numbers in objects:
            rows.add_box(index, label, numbers, crowd)
    return RecordTable(rows, "mine", split, NAMES, (3, 7, 20, 21), "xyxy")


@st.composite
def objects(draw: st.DrawFn, thinnest: float) -> tuple[int, bool, list[float]]:
    numbers: list[float] = []
    for extent in (64, 48):
        low = draw(st.floats(0, extent - thinnest, width=32))
        low = 0.0 if low < 1e-6 else low
        high = draw(st.floats(float(np.float32(low + thinnest)), extent, width=32))
        numbers += [low, high]
    x0, x1, y0, y1 = numbers
    return draw(st.integers(0, 3)), draw(st.booleans()), [x0, y0, x1, y1]


def scenes(thinnest: float) -> st.SearchStrategy[list[list[tuple[int, bool, list[float]]]]]:
    """A first box is large: an image's boxes that all lie within 0–1 are taken for shares of it."""
    large = (0, False, [2.5, 3.0, 60.0, 40.0])
    drawn = st.lists(st.lists(objects(thinnest), max_size=4), min_size=1, max_size=3)
    return drawn.map(
        lambda images: [
            [large, *boxes] if boxes or number == 0 else [] for number, boxes in enumerate(images)
        ]
    )


def rows_of(data: DetectionDataset, index: int, crowds: bool = True) -> list[tuple[object, ...]]:
    """Name, crowd and corners of the boxes of an image, in order."""
    record = data.record(index)
    names = [data.names[label] for label in record.labels]
    rows = zip(names, record.crowd.tolist(), record.boxes.tolist(), strict=True)
    return sorted((n, c, *b) for n, c, b in rows if crowds or not c)


@settings(deadline=None, max_examples=60)
@given(scenes(0.125))
def test_coco_keeps_everything(boxes: list[list[tuple[int, bool, list[float]]]]) -> None:
    with tempfile.TemporaryDirectory() as folder:
        data = table(Path(folder), boxes)
        assert write_data([data], Path(folder) / "out", "coco") == []
        (back,) = open_every(Path(folder) / "out")
        assert (back.names, back.category_ids) == (data.names, data.category_ids)
        assert len(back) == len(data)
        for index in range(len(data)):
            one, other = data.record(index), back.record(index)
            assert (one.image_id, one.width, one.height) == (
                other.image_id,
                other.width,
                other.height,
            )
            for name in ("boxes", "labels", "crowd", "areas", "annotated"):
                np.testing.assert_array_equal(getattr(one, name), getattr(other, name))
            np.testing.assert_array_equal(data.image(index), back.image(index))


@settings(deadline=None, max_examples=60)
@given(scenes(0.125))
def test_yolo_keeps_boxes_and_names(boxes: list[list[tuple[int, bool, list[float]]]]) -> None:
    with tempfile.TemporaryDirectory() as folder:
        data = table(Path(folder), boxes)
        lost = write_data([data], Path(folder) / "out", "yolo")
        (back,) = open_every(Path(folder) / "out")
        crowds = sum(int(data.record(i).crowd.sum()) for i in range(len(data)))
        assert any(each.startswith(counted(crowds, "crowd") + ",") for each in lost) == bool(crowds)
        assert back.names == data.names
        assert {each.kind.name for each in back.findings} <= {"split-only", "pixels-from-one"}
        found = {Path(back.record(i).file).stem: i for i in range(len(back))}
        assert len(found) == len(data)
        for index in range(len(data)):
            stem = f"a{index // 2}" + ("-2" if index % 2 else "")
            expected = list(dict.fromkeys(rows_of(data, index, crowds=False)))
            assert rows_of(back, found[stem]) == expected


@settings(deadline=None, max_examples=60)
@given(scenes(1.125))
def test_voc_keeps_boxes_names_and_crowds(
    boxes: list[list[tuple[int, bool, list[float]]]],
) -> None:
    with tempfile.TemporaryDirectory() as folder:
        data = table(Path(folder), boxes)
        assert write_data([data], Path(folder) / "out", "voc") == []
        (back,) = open_every(Path(folder) / "out")
        assert len(back) == len(data)
        assert not back.findings.of("skipped", "mended")
        for index in range(len(data)):
            expected = [(" ".join(str(n).split()), *rest) for n, *rest in rows_of(data, index)]
            found = {Path(back.record(i).file).stem: i for i in range(len(back))}
            stem = f"a{index // 2}" + ("-2" if index % 2 else "")
            assert rows_of(back, found[stem]) == expected


def test_voc_widens_what_is_thinner_than_a_pixel(tmp_path: Path) -> None:
    data = table(tmp_path, [[(0, False, [63.5, 10, 64, 20])]])
    (told,) = write_data([data], tmp_path / "out", "voc")
    assert told.startswith("1 box thinner than a pixel")
    assert open_data(tmp_path / "out").record(0).boxes.tolist() == [[63, 10, 64, 20]]


@settings(deadline=None, max_examples=30)
@given(scenes(0.125))
def test_shards_keep_everything(boxes: list[list[tuple[int, bool, list[float]]]]) -> None:
    with tempfile.TemporaryDirectory() as folder:
        data = table(Path(folder), boxes)
        write_data([data], Path(folder) / "out", "webdataset")
        with tarfile.open(Path(folder) / "out" / "train-000000.tar") as archive:
            members = {each.name: archive.extractfile(each) for each in archive.getmembers()}
            assert len(members) == 2 * len(data)
            for index in range(len(data)):
                record, ending = data.record(index), ".png" if index % 2 else ".jpg"
                image, text = members[f"{index:08d}{ending}"], members[f"{index:08d}.json"]
                assert image is not None
                assert text is not None
                told = json.loads(text.read())
                assert told["boxes"] == record.boxes.astype(float).tolist()
                assert told["labels"] == record.labels.tolist()
                assert told["crowd"] == record.crowd.tolist()
                assert (told["width"], told["height"]) == Image.open(io.BytesIO(image.read())).size
        classes = json.loads((Path(folder) / "out" / "classes.json").read_text())
        assert classes == {"names": list(NAMES), "splits": {"train": len(data)}}


# the package leaves the files that it reads open
@pytest.mark.filterwarnings("ignore:unclosed file:ResourceWarning")
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
def test_webdataset_reads_the_shards(coco_folder: Path, tmp_path: Path) -> None:
    """The package of that name gives each image and what is said of it, in the data's order."""
    every = open_every(coco_folder)
    write_data(every, tmp_path / "out", "webdataset")
    for data in every:
        shards = str(tmp_path / "out" / f"{data.split}-000000.tar")
        samples = list(webdataset.WebDataset(shards, shardshuffle=False).decode("rgb8"))
        assert len(samples) == len(data)
        for index, sample in enumerate(samples):
            record = data.record(index)
            assert sample["json"]["boxes"] == record.boxes.astype(float).tolist()
            assert sample["json"]["names"] == [data.names[label] for label in record.labels]
            np.testing.assert_array_equal(sample["png"], data.image(index))


@pytest.mark.parametrize("layout", ["coco", "yolo", "voc"])
def test_every_split_and_turned_photos(layout: str, coco_folder: Path, tmp_path: Path) -> None:
    """A photo whose boxes are of it unturned is written so that every reader sees it so."""
    exif = Image.Exif()
    exif[0x0112] = 6
    photo = tmp_path / "a.jpg"
    Image.new("RGB", (64, 48), "white").save(photo, exif=exif)
    rows = Rows(Findings(), "xyxy")
    rows.add_box(rows.add_image(str(photo), (64, 48)), 0, (4, 5, 60, 40))
    turned = RecordTable(rows, "mine", "test", ("0",), (1,))
    every = open_every(coco_folder)
    out = tmp_path / "out"
    write_data([*every, turned] if layout != "yolo" else every, out, layout)
    assert splits(out) == (["train", "val"] if layout == "yolo" else ["train", "val", "test"])
    for data in every:
        back = open_data(out, data.split).checked()
        assert len(back) == len(data)
        for index in range(len(data)):
            assert rows_of(back, index) == rows_of(data, index)
            np.testing.assert_array_equal(back.image(index), data.image(index))
    if layout != "yolo":
        back = open_data(out, "test").checked()
        assert back.record(0).boxes.tolist() == [[4, 5, 60, 40]]
        assert back.image(0).shape == (48, 64, 3)


def test_nothing_is_left_after_an_error(tmp_path: Path) -> None:
    data = table(tmp_path, [[(0, False, [1, 1, 9, 9])]])
    Path(data.record(0).file).unlink()
    with pytest.raises(FileNotFoundError):
        write_data([data], tmp_path / "out", "yolo")
    assert [each.name for each in tmp_path.iterdir()] == ["train"]
    (tmp_path / "out").mkdir()
    for out, layout, told in (
        ("out", "coco", "exists and is not overwritten"),
        ("no/out", "coco", "there is no folder"),
        ("new", "kitti", "one of coco, yolo, voc, webdataset; got 'kitti'"),
    ):
        with pytest.raises((ValueError, OSError), match=told):
            write_data([data], tmp_path / out, layout)
    assert set(WRITERS) == {"coco", "yolo", "voc", "webdataset"}
