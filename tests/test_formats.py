"""Detections as labelling tools and tables take them; what is read back is what was found."""

from __future__ import annotations

import xml.etree.ElementTree as ElementTree
from dataclasses import replace

import numpy as np
import pandas
import pytest
from hypothesis import given
from hypothesis import strategies as st

from dabdetr.structures import Detections
from dabdetr.structures.formats import columns, cvat_document, fiftyone_labels

NAMES = ("owl", "<fox> & hen")


@st.composite
def detections(draw: st.DrawFn) -> Detections:
    height, width = draw(st.integers(8, 4000)), draw(st.integers(8, 4000))
    count = draw(st.integers(0, 5))
    share = st.floats(-0.1, 1.1)
    corners = np.array([[draw(share) for _ in range(4)] for _ in range(count)]).reshape(-1, 4)
    low, high = np.sort(corners.reshape(-1, 2, 2), axis=1).transpose(1, 0, 2)
    return Detections(
        boxes=(np.concatenate((low, high), 1) * (width, height, width, height)).astype(np.float32),
        scores=np.linspace(0.9, 0.1, count).astype(np.float32),
        labels=np.array([draw(st.integers(0, 1)) for _ in range(count)], np.int64),
        queries=np.arange(count),
        names=NAMES,
        size=(height, width),
        source="folder\\a.png",
    )


def inside(found: Detections) -> np.ndarray:
    return found.clipped().boxes.astype(float)


@given(detections())
def test_yolo_lines_are_the_boxes_inside_the_image(found: Detections) -> None:
    lines = found.to_yolo(scores=True).splitlines()
    assert [line.rpartition(" ")[0] for line in lines] == found.to_yolo().splitlines()
    table = np.array([line.split() for line in lines], float).reshape(-1, 6)
    height, width = found.size
    centres, sides = table[:, 1:3] * (width, height), table[:, 3:5] * (width, height)
    boxes = np.concatenate((centres - sides / 2, centres + sides / 2), 1)
    np.testing.assert_allclose(boxes, inside(found), atol=2e-6 * max(found.size))
    assert table[:, 0].tolist() == found.labels.tolist()
    np.testing.assert_allclose(table[:, 5], found.scores, atol=1e-6)


@given(detections())
def test_a_task_for_label_studio(found: Detections) -> None:
    task = found.to_label_studio(from_name="boxes", version="mine")
    assert task["data"] == {"image": found.source}
    (prediction,) = task["predictions"]
    assert prediction["model_version"] == "mine"
    assert len({each["id"] for each in prediction["result"]}) == len(found)
    for each, box, label in zip(prediction["result"], inside(found), found.labels, strict=True):
        value = each["value"]
        x, y = value["x"], value["y"]
        edges = np.array([x, y, x + value["width"], y + value["height"]]) / 100
        extent = [each["original_width"], each["original_height"]]
        np.testing.assert_allclose(edges * np.tile(extent, 2), box, atol=1e-2)
        assert (each["type"], each["from_name"]) == ("rectanglelabels", "boxes")
        assert value["rectanglelabels"] == [NAMES[label]]
    assert found.to_label_studio("http://x/a.png")["data"]["image"] == "http://x/a.png"


@given(detections())
def test_cvats_xml(found: Detections) -> None:
    two = cvat_document([found, replace(found, source="b.png")])
    images = ElementTree.fromstring(two).findall("image")
    assert [each.get("name") for each in images] == ["a.png", "b.png"]
    assert [each.get("id") for each in images] == ["0", "1"]
    boxes = ElementTree.fromstring(found.to_cvat()).findall("image/box")
    assert [each.get("label") for each in boxes] == [NAMES[label] for label in found.labels]
    edges = [[float(each.get(k, "")) for k in ("xtl", "ytl", "xbr", "ybr")] for each in boxes]
    np.testing.assert_allclose(np.array(edges).reshape(-1, 4), inside(found), atol=6e-4)


def test_names_that_xml_cannot_hold() -> None:
    one = Detections(*_one(), names=("a\x00\ud800b",), size=(9, 9), source="a\x1b.png")
    (image,) = ElementTree.fromstring(one.to_cvat()).findall("image")
    assert image.get("name") == "a .png"
    assert image[0].get("label") == "a ?b"


@given(detections())
def test_a_table(found: Detections) -> None:
    table = found.to_pandas()
    assert isinstance(table, pandas.DataFrame)
    assert tuple(table.columns) == columns(False)
    assert table["name"].tolist() == [NAMES[label] for label in found.labels]
    edges = table[["x0", "y0", "x1", "y1"]].to_numpy(float).reshape(-1, 4)
    np.testing.assert_array_equal(edges, found.boxes.astype(float))


@given(detections())
def test_fiftyones_labels(found: Detections) -> None:
    tree = fiftyone_labels(NAMES, {"a": found})
    assert tree["classes"] == list(NAMES)
    height, width = found.size
    for row, box in zip(tree["labels"]["a"], inside(found), strict=True):
        x, y, w, h = row["bounding_box"]
        edges = np.array([x, y, x + w, y + h]) * np.tile((width, height), 2)
        np.testing.assert_allclose(edges, box, atol=1e-2)


def _one() -> tuple[np.ndarray, ...]:
    box = np.array([[1, 2, 5, 6]], np.float32)
    return box, np.array([0.5], np.float32), np.zeros(1, np.int64), np.zeros(1, np.int64)


def test_classes_by_label() -> None:
    found = Detections(*_one(), names=NAMES, size=(9, 9))
    assert len(found.above(0, [0])) == 1
    assert len(found.above(0, [np.int64(1), "owl"])) == 1
    for wrong in (2, -1, True, 0.5, "cow"):
        with pytest.raises(ValueError, match=f"does not know the class {wrong}; it knows: owl"):
            found.above(0, [wrong])  # pyright: ignore[reportArgumentType]
