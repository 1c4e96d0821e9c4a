"""`dabdetr predict` on videos and large images: what it prints and what it leaves behind."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from typer.testing import CliRunner, Result

from dabdetr.cli import app
from dabdetr.cli.predict import _ended_by_ctrl_c
from dabdetr.cli.saving import folder_name
from dabdetr.data.scenes import Scenes
from dabdetr.inference.sources import read_sources
from dabdetr.inference.video import VideoWriter

pytest.importorskip("av")
TIMES = [0.0, 0.1, 0.25, 0.3, 1.0, 1.5]


@pytest.fixture
def clip(tmp_path: Path) -> str:
    """Six scenes of digits, one a frame."""
    data = Scenes("val")
    with VideoWriter(tmp_path / "clip.mp4", "") as writer:
        for index, time in enumerate(TIMES):
            writer.add(data.image(index), time)
    return "clip.mp4"


def invoke(*arguments: object) -> Result:
    return CliRunner().invoke(app, ["predict", *map(str, arguments), "--device", "cpu"])


def run(*arguments: object) -> Result:
    done = invoke(*arguments)
    assert done.exit_code == 0, done.stderr or done.exception
    return done


def times(path: Path | str) -> list[float]:
    return [image.time or 0.0 for image in read_sources(path)]


def test_a_video_becomes_a_video_with_boxes(clip: str) -> None:
    done = run("--model", "scenes", clip, "--json", "--name", "a", "--batch", 4)
    images = json.loads(done.stdout)["images"]
    assert [each["frame"] for each in images] == list(range(6))
    assert [each["time"] for each in images] == pytest.approx(TIMES, abs=1e-5)
    assert {each["source"] for each in images} == {clip}
    assert sum(len(each["detections"]) for each in images) > 10
    (written,) = Path("runs/predict/a").iterdir()
    assert written.name == "clip.mp4"
    assert times(written) == times(clip)
    plain, drawn = read_sources(clip), read_sources(written)
    for image, other, each in zip(plain, drawn, images, strict=True):
        difference = np.abs(image.array.astype(int) - other.array).max(-1)
        for row in each["detections"]:
            x0, y0, x1, _ = map(round, row["box"])
            assert difference[min(y0, 159), x0:x1].mean() > 15  # the frame's upper side


def test_stride_jsonl_and_a_table(clip: str) -> None:
    done = run("--model", "scenes", clip, "--stride", 2, "--jsonl", "--name", "a")
    lines = [json.loads(line) for line in done.stdout.splitlines()]
    assert [line["frame"] for line in lines] == [0, 2, 4]
    assert times("runs/predict/a/clip.mp4") == [times(clip)[n] for n in (0, 2, 4)]
    done = run("--model", "scenes", clip, "--stride", 2, "--no-save")
    assert "clip.mp4 #2" in done.stdout
    assert "objects in 3 images" in done.stdout


def test_several_videos_and_images_keep_apart(clip: str, tmp_path: Path) -> None:
    (tmp_path / "b").mkdir()
    Path("b/clip.mp4").write_bytes(Path(clip).read_bytes())
    Image.fromarray(Scenes("val").image(0)).save("clip.jpg")
    run("--model", "scenes", clip, clip, "clip.jpg", "b/clip.mp4", "--name", "a", "--quiet")
    names = {path.name for path in Path("runs/predict/a").iterdir()}
    assert names == {"clip.mp4", "clip-2.mp4", "clip-3.jpg", "clip-4.mp4"}
    for name in names - {"clip-3.jpg"}:
        assert times(Path("runs/predict/a", name)) == times(clip)


def test_crops(clip: str) -> None:
    data = Scenes("val")
    Image.fromarray(data.image(3)).save("x.png")
    options = ("--save-crops", "--no-save", "--json", "--conf", "0.5")
    done = run("--model", "scenes", "x.png", clip, *options, "--name", "a")
    images = json.loads(done.stdout)["images"]
    files = sorted(path for path in Path("runs/predict/a").rglob("*") if path.is_file())
    assert len(files) == sum(len(each["detections"]) for each in images) > 5
    assert all(file.parts[3] == "crops" for file in files)
    first: dict[str, Any] = images[0]
    for rank, row in enumerate(first["detections"], start=1):
        x0, y0, x1, y1 = row["box"]
        crop = np.asarray(Image.open(f"runs/predict/a/crops/{row['name']}/x-{rank}.png"))
        image = data.image(3)[int(y0) : int(np.ceil(y1)), int(x0) : int(np.ceil(x1))]
        np.testing.assert_array_equal(crop, image)
    row = images[3]["detections"][0]
    assert Path(f"runs/predict/a/crops/{row['name']}/clip-000002-1.jpg").exists()
    assert [folder_name(name) for name in ("a/b", "..", "x:y*", "dog")] == [
        *("a_b", "_", "x_y_", "dog"),
    ]


def test_a_damaged_frame_is_told_and_passed_over(clip: str) -> None:
    import av

    with av.open(clip) as container:
        packets = [(p.pos, p.size) for p in container.demux(video=0) if p.size]
    content = bytearray(Path(clip).read_bytes())
    start, size = packets[-1]
    content[start + 5 : start + size] = bytes(size - 5)
    Path(clip).write_bytes(content)
    done = invoke("--model", "scenes", clip, "--json", "--name", "a")
    assert done.exit_code == 1
    document = json.loads(done.stdout)
    assert len(document["images"]) == 5
    (reason,) = document["skipped"]
    assert "clip.mp4: the frame at" in reason
    assert f"skipped: {reason}" in done.stderr
    assert len(times("runs/predict/a/clip.mp4")) == 5


def test_tiles(tmp_path: Path) -> None:
    data = Scenes("test")
    rows = [np.concatenate([data.image(3 * y + x) for x in range(3)], 1) for y in range(3)]
    Image.fromarray(np.concatenate(rows)).save("large.png")
    found = []
    for options in ((), ("--tiles",), ("--tile-size", 160)):
        done = run("--model", "scenes", "large.png", "--no-save", "--json", "--conf", 0.5, *options)
        found.append(json.loads(done.stdout)["images"][0]["detections"])
    assert found[1] == found[2]
    assert len(found[1]) > 2 * len(found[0])
    assert len(found[1]) > 0.8 * sum(len(data.record(index).boxes) for index in range(9))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["x.png", "--tiles", "640"], "--tiles takes no number; for tiles of 640"),
        (["x.png", "--tile-size", "8"], "at least 32 pixels wide; got 8"),
        (["x.png", "--stride", "0"], "stride should be at least 1; got 0"),
        (["x.png", "--json", "--jsonl"], "--json and --jsonl"),
        (["text.mp4"], "text.mp4 cannot be opened as a video"),
        (["9"], "no camera 9 that can be opened here"),
    ],
)
def test_what_is_refused(arguments: list[str], message: str, tiny_weights: Path) -> None:
    Image.new("RGB", (64, 64)).save("x.png")
    Path("text.mp4").write_bytes(b"no video")
    done = invoke("--model", tiny_weights, *arguments)
    assert done.exit_code == 2
    assert message in done.stderr
    assert len(done.stderr.strip().splitlines()) == 1
    assert not Path("runs").exists()


def test_without_the_package_for_videos_one_is_told_what_to_type(
    clip: str, tiny_weights: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "av", None)
    done = invoke("--model", tiny_weights, clip)
    assert done.exit_code == 3
    assert "[video]'" in done.stderr


def test_ctrl_c_ends_a_camera_but_interrupts_the_rest() -> None:
    with _ended_by_ctrl_c(["x.png", "0"]):
        raise KeyboardInterrupt
    with pytest.raises(KeyboardInterrupt), _ended_by_ctrl_c(["x.png", "clip.mp4"]):
        raise KeyboardInterrupt


def test_numbers_for_other_tools(tmp_path: Path) -> None:
    """YOLO's lines, a table, FiftyOne's folder and Label Studio's tasks hold what --json tells."""
    data = Scenes("val")
    for name in ("a.png", "a.jpg"):  # one stem: each gets a label file of its own
        Image.fromarray(data.image(0)).save(tmp_path / name, quality=95)
    more = ("--save-txt", "--csv", "--fiftyone", "--no-save", "--label-studio", "tasks.json")
    done = run("--model", "scenes", "a.png", "a.jpg", "--json", "--name", "a", *more)
    images = json.loads(done.stdout)["images"]
    counts = [len(each["detections"]) for each in images]
    assert min(counts) > 0
    folder = tmp_path / "runs" / "predict" / "a"
    assert {each.name for each in folder.iterdir()} == {"labels", "predictions.csv", "fiftyone"}
    texts = [(folder / "labels" / f"{stem}.txt").read_text() for stem in ("a", "a-2")]
    assert [len(text.splitlines()) for text in texts] == counts
    table = (folder / "predictions.csv").read_text().splitlines()
    assert table[0].startswith("source,frame,name,label,score,x0")
    assert [sum(row.startswith(name) for row in table) for name in ("a.png", "a.jpg")] == counts
    tasks = json.loads((tmp_path / "tasks.json").read_text())
    assert [len(task["predictions"][0]["result"]) for task in tasks] == counts
    assert [task["data"]["image"] for task in tasks] == ["a.png", "a.jpg"]
    labels = json.loads((folder / "fiftyone" / "labels.json").read_text())
    assert [len(labels["labels"][key]) for key in ("a", "a-2")] == counts
    for own, name in (("a.png", "a.png"), ("a-2.jpg", "a.jpg")):
        image = (folder / "fiftyone" / "data" / own).read_bytes()
        assert image == (tmp_path / name).read_bytes()


def test_an_image_from_standard_input(tmp_path: Path) -> None:
    Image.fromarray(Scenes("val").image(0)).save(tmp_path / "a.png")
    content = (tmp_path / "a.png").read_bytes()
    arguments = ["predict", "--model", "scenes", "--no-save", "--json", "--device", "cpu"]
    given = CliRunner().invoke(app, [*arguments, "-"], input=content)
    by_name = CliRunner().invoke(app, [*arguments, "a.png"])
    one, other = (json.loads(done.stdout)["images"][0]["detections"] for done in (given, by_name))
    assert one == other
    nothing = CliRunner().invoke(app, [*arguments, "-"], input=b"")
    assert nothing.exit_code == 2
