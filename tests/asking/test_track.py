"""Objects keep their number: in made-up answers frame by frame, and in a photograph panned over."""

from __future__ import annotations

import csv
import json
from importlib import resources
from itertools import repeat
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from scipy.optimize import linear_sum_assignment
from typer.testing import CliRunner

from dabdetr.asking.track import Tracker, mot_lines, track
from dabdetr.cli import main as app
from dabdetr.predictor import Predictor
from dabdetr.structures import Answers, Detections
from dabdetr.structures.boxes import iou

LIMITS = np.array([0.5, 0.5], np.float32)
SIZE = (100, 200)


def detections(boxes: Any, labels: Any, scores: Any, frame: int = 0) -> Detections:
    return Detections(
        np.array(boxes, np.float32).reshape(-1, 4),
        np.array(scores, np.float32),
        np.array(labels, np.int64),
        np.arange(len(boxes)),
        ("a", "b"),
        SIZE,
        frame=frame,
    )


def step(tracker: Tracker, real: list[tuple[list[float], int]], seen: bool = True) -> Detections:
    """A frame of a perfect decoder: a question finds the nearest object that overlaps it."""
    asked = tracker.asked(SIZE)
    boxes, scores = asked.copy(), np.zeros((len(asked), 2), np.float32)
    places = np.array([box for box, _ in real], np.float32).reshape(-1, 4)
    for row, box in enumerate(asked):
        overlap = iou(places, box)
        if overlap.max(initial=0) > 0.1:
            at = int(overlap.argmax())
            boxes[row] = places[at]
            scores[row, real[at][1]] = 0.9
    found = [(box, label) for box, label in real if seen]
    answers = Answers(
        asked,
        boxes,
        scores,
        boxes[None],
        np.arange(len(asked)),
        np.full(len(asked), -1),
        detections([box for box, _ in found], [label for _, label in found], [0.9] * len(found)),
    )
    return tracker.update(answers)


def at(x: float, y: float = 40) -> list[float]:
    return [x, y, x + 20, y + 20]


def numbers(found: Detections) -> dict[tuple[float, ...], int]:
    assert found.tracks is not None
    return {
        tuple(box): number
        for box, number in zip(found.boxes.tolist(), found.tracks.tolist(), strict=True)
    }


def test_an_object_keeps_its_number_and_another_one_gets_its_own() -> None:
    tracker = Tracker(LIMITS)
    for x in range(0, 60, 6):
        found = numbers(step(tracker, [(at(x), 0)]))
        assert found == {tuple(at(x)): 1}
    found = numbers(step(tracker, [(at(60), 0), (at(150), 1)]))
    assert found == {tuple(at(60)): 1, tuple(at(150)): 2}


def test_flickering_detections_do_not_end_a_track() -> None:
    tracker = Tracker(LIMITS)
    for frame, x in enumerate(range(0, 80, 4)):
        found = step(tracker, [(at(x), 0)], seen=frame % 3 == 0)
        assert numbers(found) == {tuple(at(x)): 1}


def test_objects_that_cross_keep_their_numbers() -> None:
    tracker = Tracker(LIMITS)
    first = numbers(step(tracker, [(at(20, 40), 0), (at(140, 46), 0)]))
    for moved in range(4, 124, 4):
        last = numbers(step(tracker, [(at(20 + moved, 40), 0), (at(140 - moved, 46), 0)]))
    assert last[tuple(at(140, 40))] == first[tuple(at(20, 40))]
    assert last[tuple(at(20, 46))] == first[tuple(at(140, 46))]


@pytest.mark.parametrize(("patience", "number"), [(5, 1), (2, 2)])
def test_a_lost_object_is_waited_for(patience: int, number: int) -> None:
    tracker = Tracker(LIMITS, patience)
    step(tracker, [(at(50), 0)])
    for _ in range(4):
        assert len(step(tracker, [])) == 0
    assert numbers(step(tracker, [(at(50), 0)])) == {tuple(at(50)): number}


def test_a_hidden_object_goes_on_as_it_went() -> None:
    tracker = Tracker(LIMITS)
    for frame in range(20):
        found = step(tracker, [] if 6 <= frame < 14 else [(at(8 * frame), 0)])
    assert numbers(found) == {tuple(at(152)): 1}


def test_who_leaves_the_image_is_not_asked_about_any_more() -> None:
    tracker = Tracker(LIMITS, patience=100)
    for x in range(150, 240, 10):
        step(tracker, [(at(x), 0)] if x < 200 else [])
    for _ in range(4):
        step(tracker, [])
    assert tracker.tracks == []
    assert tracker.asked(SIZE).shape == (0, 4)


def test_two_tracks_never_share_an_object() -> None:
    tracker = Tracker(LIMITS)
    step(tracker, [(at(50), 0), (at(62), 0)])
    found = step(tracker, [(at(56), 0)])
    assert len(found) == 1


def seen_of(box: list[float], low: float, high: float) -> list[float]:
    """What is seen of a box between two columns."""
    return [max(box[0], low), box[1], min(box[2], high), box[3]]


def test_a_bar_hides_an_object_gradually_and_its_motion_is_kept() -> None:
    tracker = Tracker(LIMITS)
    for x in range(0, 170, 4):
        left, right = seen_of(at(x), 0, 60), seen_of(at(x), 100, 200)
        parts = [each for each in (left, right) if each[2] - each[0] >= 6]
        found = step(tracker, [(each, 0) for each in parts])
        if 60 <= x <= 80:  # hidden
            assert len(found) == 0
            np.testing.assert_allclose(tracker.tracks[0].motion, [4, 0], atol=0.5)
    assert numbers(found) == {tuple(at(168)): 1}


def test_an_object_at_the_border_goes_on_beyond_it() -> None:
    tracker = Tracker(LIMITS)
    for x in range(120, 200, 6):
        found = step(tracker, [(seen_of(at(x), 0, 200), 0)])
        assert numbers(found) == {tuple(seen_of(at(x), 0, 200)): 1}
    np.testing.assert_allclose(tracker.tracks[0].motion, [6, 0], atol=0.1)
    np.testing.assert_allclose(tracker.tracks[0].box, at(198), atol=1)


def test_a_new_track_has_its_motion_at_the_second_sight() -> None:
    tracker = Tracker(LIMITS)
    for x in (20, 26):
        step(tracker, [(at(x), 0)])
    np.testing.assert_allclose(tracker.asked(SIZE), [at(32)])


def test_two_objects_in_one_box_are_both_followed() -> None:
    tracker = Tracker(LIMITS)
    for moved in range(0, 120, 4):
        left, right = at(20 + moved, 40), at(140 - moved, 46)
        both = [min(left[0], right[0]), 40, max(left[2], right[2]), 66]
        merged = abs(left[0] - right[0]) < 18
        found = numbers(step(tracker, [(both, 0)] if merged else [(left, 0), (right, 0)]))
        if moved < 40:
            first = found
        if merged and abs(left[0] - right[0]) > 8:
            assert len(found) == 2
            for box, number in found.items():
                real = left if number == first[tuple(at(56, 40))] else right
                assert iou(np.array(box), np.array(real)) > 0.6
    assert found[tuple(left)] == first[tuple(at(56, 40))]
    assert found[tuple(right)] == first[tuple(at(104, 46))]


def test_a_box_around_two_tracked_objects_is_no_third_one() -> None:
    tracker = Tracker(LIMITS)
    real = [(at(50), 0), (at(72), 0)]
    step(tracker, real)
    found = step(tracker, [*real, ([50, 40, 92, 60], 0)])
    assert sorted(numbers(found).values()) == [1, 2]


def test_a_camera_that_shakes_moves_no_number_to_the_neighbour() -> None:
    tracker = Tracker(LIMITS)
    for shake in (0, 0, 0, 0, 14, 2, 12, 0, 10):
        row = [(at(x + shake), 0) for x in (20, 42, 68, 94, 118, 150)]
        found = numbers(step(tracker, row))
        assert [found.get(tuple(box)) for box, _ in row] == [1, 2, 3, 4, 5, 6], shake


def test_a_hidden_object_moves_with_the_camera() -> None:
    tracker = Tracker(LIMITS)
    for shake in (0, 0, 6, 12, 18, 12, 18):
        row = [(at(20 + 40 * place + shake), 0) for place in range(4)]
        row = row if shake in (0, 18) else row[1:]
        found = numbers(step(tracker, row))
    assert found[tuple(at(38))] == 1


def test_an_object_whose_class_flickers_keeps_its_number() -> None:
    tracker = Tracker(LIMITS)
    for frame, x in enumerate(range(20, 80, 5)):
        found = step(tracker, [(at(x), int(frame % 4 == 3))])
        assert numbers(found) == {tuple(at(x)): 1}


def test_weak_detections_count_for_tracked_objects() -> None:
    predictor, images = Predictor("blood-cells"), frames()[0][:4]
    images = [(each * (0.2 if at % 2 else 1)).astype(np.uint8) for at, each in enumerate(images)]
    limits = predictor.class_thresholds()
    tracker = Tracker(limits)
    asked = repeat(lambda size, _: tracker.asked(size))
    weak = float(limits.min()) / 2
    expected = [tracker.update(each) for each in predictor.ask_all(images, asked, conf=weak)]
    for one, other in zip(track(predictor, images), expected, strict=True):
        np.testing.assert_array_equal(one.tracks, other.tracks)
        np.testing.assert_array_equal(one.boxes, other.boxes)


def test_wrong_patience_and_lines_of_mot_files() -> None:
    with pytest.raises(ValueError, match="at least 0 frames; got -1"):
        Tracker(LIMITS, -1)
    found = detections([[10, 20, 40, 60]], [0], [0.5], frame=6)
    with pytest.raises(ValueError, match="tracks of videos"):
        mot_lines(found)
    from dataclasses import replace

    lines = mot_lines(replace(found, tracks=np.array([3])))
    assert lines == "7,3,11.00,21.00,30.00,40.00,0.5000,-1,-1,-1\n"


def idf1(real: list[dict[int, np.ndarray]], found: list[Detections]) -> float:
    """Identification F1 (Ristani et al. 2016): one track for each object, over all frames."""
    pairs: dict[tuple[int, int], int] = {}
    for objects, each in zip(real, found, strict=True):
        assert each.tracks is not None
        for key, box in objects.items():
            for number, other in zip(each.tracks.tolist(), each.boxes, strict=True):
                if iou(box, other) >= 0.5:
                    pairs[key, number] = pairs.get((key, number), 0) + 1
    keys, tracks = (sorted({pair[side] for pair in pairs}) for side in (0, 1))
    table = np.array([[pairs.get((key, track), 0) for track in tracks] for key in keys])
    hits = table[linear_sum_assignment(-table)].sum()
    return float(2 * hits / (sum(map(len, real)) + sum(map(len, found))))


def frames() -> tuple[list[np.ndarray], list[tuple[int, int]]]:
    """A photograph of blood cells panned over: windows of it, and where they lie."""
    photo = np.asarray(Image.open(str(resources.files("dabdetr") / "photos" / "blood-1.jpg")))
    shifts = [(10 * step, 6 * step) for step in range(5)]
    return [photo[y : y + 400, x : x + 540] for x, y in shifts], shifts


def test_cells_of_a_photograph_that_is_panned_over() -> None:
    predictor, (images, shifts) = Predictor("blood-cells"), frames()
    found = list(track(predictor, images))
    start = predictor.one(images[0])
    real = []
    for x, y in shifts:
        moved = start.boxes - np.array([x, y, x, y], np.float32)
        inside = ((moved >= 0) & (moved <= [540, 400, 540, 400])).all(1)
        real.append({int(key): moved[key] for key in np.flatnonzero(inside)})
    followed = [
        each[np.array([any(iou(b, o) > 0.3 for o in objects.values()) for b in each.boxes], bool)]
        for each, objects in zip(found, real, strict=True)
    ]
    assert len(start) > 5
    assert idf1(real, followed) > 0.85


def test_the_command_writes_numbers(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    av = pytest.importorskip("av")
    monkeypatch.chdir(tmp_path)
    with av.open("a.mp4", "w") as container:
        stream = container.add_stream("libx264", rate=10)
        stream.width, stream.height, stream.pix_fmt = 540, 400, "yuv420p"
        for image in frames()[0][:3]:
            frame = av.VideoFrame.from_ndarray(np.ascontiguousarray(image), "rgb24")
            container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
    arguments = ["predict", "--model", "blood-cells", "a.mp4", "--track", "--name", "a"]
    done = CliRunner().invoke(app, [*arguments, "--jsonl"])
    assert done.exit_code == 0, done.output
    rows = [json.loads(line) for line in done.stdout.splitlines() if line.startswith("{")]
    first, last = ({d["track"] for d in row["detections"]} for row in (rows[0], rows[-1]))
    assert len(first & last) >= len(first) - 2 > 2
    mot = (tmp_path / "runs" / "predict" / "a" / "a.mot.txt").read_text().splitlines()
    assert len(mot) == sum(len(row["detections"]) for row in rows)
    assert {line.split(",")[0] for line in mot} == {"1", "2", "3"}
    assert (tmp_path / "runs" / "predict" / "a" / "a.mp4").exists()
    table = CliRunner().invoke(app, [*arguments[:-1], "b"]).stdout
    assert "track" in table.splitlines()[1]
    tracks = {d["track"] for row in rows for d in row["detections"]}
    assert f"{len(tracks)} tracks: {len(mot)} boxes in 3 frames" in table
    assert CliRunner().invoke(app, [*arguments, "--nms", "0.5"]).exit_code == 2


def test_every_file_has_the_numbers_and_each_folder_is_a_video(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    images = frames()[0]
    for folder in ("one", "two"):
        (tmp_path / folder).mkdir()
        for number, image in zip((9, 10, 11), images, strict=False):
            Image.fromarray(image[: 400 - number]).save(f"{folder}/{number}.png")
    arguments = ["predict", "--model", "blood-cells", "one", "two", "--track", "--no-save"]
    done = CliRunner().invoke(app, [*arguments, "-o", "run", "--csv", "--coco", "c.json"])
    assert done.exit_code == 0, done.output
    with Path("run/predictions.csv").open() as file:
        table = list(csv.DictReader(file))
    rows = json.loads(Path("c.json").read_text())
    assert [int(row["track"]) for row in table] == [row["track_id"] for row in rows]
    order = list(dict.fromkeys(row["source"] for row in table))
    assert order == [f"{folder}/{n}.png" for folder in ("one", "two") for n in (9, 10, 11)]
    assert Path("run/one.mot.txt").read_text() == Path("run/two.mot.txt").read_text()
    lines = Path("run/one.mot.txt").read_text().splitlines()
    assert [line.split(",")[:2] for line in lines] == [
        [str(int(Path(row["source"]).stem) - 8), row["track"]] for row in table[: len(lines)]
    ]
    tracks = len({row["track"] for row in table})
    assert f"{2 * tracks} tracks: {len(table)} boxes in 6 frames" in done.stdout
