"""Detections: subsets, filters and the forms that others read."""

import csv
import dataclasses
import json

import numpy as np
import pytest
import torch
from PIL import Image
from torchvision.ops import batched_nms

from dabdetr.structures import Detections, Results

NAMES = ("owl", "fox", "hen")


@pytest.fixture
def found():
    return Detections(
        boxes=np.array([[1, 2, 11, 22.5], [0, 0, 5, 5], [3, 4, 5, 6]], np.float32),
        scores=np.array([0.9, 0.5, 0.123456789], np.float32),
        labels=np.array([2, 0, 2]),
        queries=np.array([7, 1, 4]),
        names=NAMES,
        size=(40, 60),
        source="a.png",
    )


def test_subsets_keep_rows_together(found):
    assert len(found) == 3
    for index in (slice(1, 3), [1, 2], np.array([1, 2]), np.array([False, True, True])):
        part = found[index]
        assert part.scores.tolist() == found.scores[1:].tolist()
        assert part.boxes.tolist() == found.boxes[1:].tolist()
        assert part.labels.tolist() == [0, 2]
        assert part.queries.tolist() == [1, 4]
        assert (part.names, part.size, part.source) == (NAMES, (40, 60), "a.png")
    one = found[0]
    assert one.boxes.shape == (1, 4)
    assert one.labels.tolist() == [2]
    assert found[np.int64(-1)].queries.tolist() == [4]
    assert len(found[:0]) == 0


def test_equality_and_hash_are_by_content(found):
    same = dataclasses.replace(found, boxes=found.boxes.copy(), image=np.zeros((40, 60, 3)))
    assert same == found
    assert len({same, found}) == 1
    for change in (
        {"boxes": found.boxes + 1},
        {"scores": found.scores / 2},
        {"labels": (found.labels + 1) % 3},
        {"queries": found.queries + 1},
        {"names": ("owl", "fox", "cow")},
        {"size": (41, 60)},
        {"source": "b.png"},
        {"frame": 3},
    ):
        other = dataclasses.replace(found, **change)
        assert other != found, change
        assert len({other, found}) == 2
    assert found != 3


def test_it_shows_itself_in_one_line(found):
    assert repr(found) == "3 objects in a.png: 2× hen, 1× owl"
    assert repr(found[:0]) == "0 objects in a.png"
    assert repr(Results([found])) == repr(found)
    several = Results([found, found[1]])
    assert repr(several) == "4 objects in 2 images: 2× hen, 2× owl"
    assert several[1] == found[1]
    assert several._repr_png_() is None
    hostile = dataclasses.replace(found, names=("a", "b", "\x1b[31m"))
    assert "\x1b" not in repr(hostile)


def test_filters_by_name_score_and_both(found):
    assert found["hen"].queries.tolist() == found["HEN"].queries.tolist() == [7, 4]
    assert found[0.5].queries.tolist() == [7, 1]
    assert found["hen", 0.5].queries.tolist() == [7]
    assert found[np.float32(0.5)] == found[0.5]
    assert found[["owl", "HEN"]].queries.tolist() == [7, 1, 4]
    assert found[["hen", "owl"], 0.5].queries.tolist() == [7, 1]
    assert found[[0, 2]].queries.tolist() == [7, 4]
    assert "hen" in found
    assert "fox" not in found
    assert found.above(0, [2, "Owl"]).queries.tolist() == [7, 1, 4]
    with pytest.raises(ValueError, match="class hem; it knows: owl, fox, hen; did you mean hen"):
        found["hem"]


def test_it_is_saved_as_the_ending_says(found, tmp_path):
    image = Image.new("RGB", (60, 40), "grey")
    image.save(tmp_path / "a.png")
    from_file = dataclasses.replace(found, source=str(tmp_path / "a.png"))
    for name in ("drawn.png", "drawn.JPG"):
        assert from_file.save(tmp_path / name) == tmp_path / name
        with Image.open(tmp_path / name) as drawn:
            assert drawn.size == (60, 40)
    assert (tmp_path / "drawn.png").read_bytes()[:4] == found.plot(image)._repr_png_()[:4]
    with Image.open(tmp_path / "drawn.png") as drawn:
        assert np.array_equal(drawn, found.plot(image))
    assert json.loads(from_file.save(tmp_path / "a.json").read_text()) == from_file.to_dict()
    assert found.save(tmp_path / "a.txt").read_text() == found.to_yolo(scores=True)
    rows = list(csv.reader(found.save(tmp_path / "a.csv").read_text().splitlines()))
    assert rows[0][:3] == ["source", "frame", "name"]
    assert [row[2] for row in rows[1:]] == ["hen", "owl", "hen"]
    with pytest.raises(ValueError, match=r"should end in \.png"):
        found.save(tmp_path / "a.doc", image)
    with pytest.raises(ValueError, match="plot needs the image"):
        found.save(tmp_path / "b.png")
    assert found._repr_png_() is None
    assert from_file._repr_png_()[1:4] == b"PNG"


def test_iteration_ends(found):
    assert [int(each.queries[0]) for each in found] == [7, 1, 4]


def test_above(found):
    assert found.above(0.5).queries.tolist() == [7, 1]
    assert found.above(0, ["hen"]).queries.tolist() == [7, 4]
    assert found.above(0.5, ["hen", "fox"]).queries.tolist() == [7]
    assert len(found.above(0, [])) == 0
    with pytest.raises(ValueError, match="does not know the class cow; it knows: owl, fox, hen"):
        found.above(0, ["hen", "cow"])


def test_to_dict_goes_through_json(found):
    told = json.loads(json.dumps(found.to_dict()))
    assert told["source"] == "a.png"
    assert (told["height"], told["width"]) == (40, 60)
    assert told["detections"][0] == {
        "name": "hen", "label": 2, "score": 0.9, "box": [1.0, 2.0, 11.0, 22.5], "query": 7
    }  # fmt: skip
    assert told["detections"][2]["score"] == 0.12346
    assert found[:0].to_dict()["detections"] == []


def test_to_coco_and_back(found):
    rows = json.loads(json.dumps(found.to_coco(17, category_ids=(90, 5, 44))))
    assert [row["category_id"] for row in rows] == [44, 90, 44]
    assert {row["image_id"] for row in rows} == {17}
    assert rows[0]["bbox"] == [1, 2, 10, 20.5]
    boxes = np.array([[x, y, x + w, y + h] for x, y, w, h in (row["bbox"] for row in rows)])
    np.testing.assert_array_equal(boxes.astype(np.float32), found.boxes)
    assert [np.float32(row["score"]) for row in rows] == found.scores.tolist()
    assert [row["category_id"] for row in found.to_coco()] == [3, 1, 3]


def test_plot_needs_the_image(found):
    image = np.zeros((40, 60, 3), np.uint8)
    assert found.plot(image).size == (60, 40)
    with pytest.raises(ValueError, match="keep_images=True"):
        found.plot()


def test_to_supervision_says_what_to_install(found):
    try:
        import supervision  # noqa: F401  # pyright: ignore[reportMissingImports]
    except ImportError:
        with pytest.raises(ImportError, match="pip install supervision"):
            found.to_supervision()
    else:
        assert found.to_supervision().data["class_name"].tolist() == ["hen", "owl", "hen"]


def test_a_threshold_for_each_class(found):
    assert found.above(np.array([0.6, 0.0, 0.1])).queries.tolist() == [7, 4]


def crowded():
    boxes = [[0, 0, 10, 10], [0, 0, 10, 9], [0, 0, 10, 9], [0, 0, 10, 8.2], [30, 30, 40, 40]]
    return Detections(
        boxes=np.array(boxes, np.float32),
        scores=np.array([0.9, 0.8, 0.7, 0.6, 0.5], np.float32),
        labels=np.array([0, 0, 1, 0, 0]),
        queries=np.array([3, 1, 3, 5, 1]),
        names=NAMES,
        size=(50, 50),
    )


def test_suppression_keeps_the_best_of_a_class():
    kept = crowded().without_overlaps(0.85)  # 0.9 with the second, 0.82 with the fourth
    assert kept.scores.tolist() == crowded().scores[[0, 2, 3, 4]].tolist()
    assert len(crowded().without_overlaps(0.95)) == 5
    boxes, scores, labels, *_ = (
        torch.from_numpy(x) for x in (crowded().boxes, crowded().scores, crowded().labels)
    )
    for overlap in (0.3, 0.8, 0.85, 0.95):
        expected = batched_nms(boxes, scores, labels, overlap)
        assert crowded().without_overlaps(overlap).scores.tolist() == scores[expected].tolist()


def test_a_query_has_one_best_class():
    assert crowded().best_of_query().scores.tolist() == crowded().scores[[0, 1, 3]].tolist()
