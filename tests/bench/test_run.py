"""Candidates in processes of their own: what they answer, and what becomes of those that fail."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from dabdetr.bench.candidates import REFERENCE, Candidate, Plan
from dabdetr.bench.run import Session, of_data, of_source, spread
from dabdetr.bench.worker import Failed, Process, Worker, read_found
from dabdetr.data.layouts import open_data
from dabdetr.inference.exported import Exported
from dabdetr.predictor import Predictor
from dabdetr.structures import Detections


def files(folder: Path) -> list[str]:
    return sorted(map(str, folder.glob("*.png")))


def test_one_that_fails_is_told_and_the_others_go_on(
    tiny_weights: Path, coco_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))  # where there is no compiler
    images = files(coco_folder / "val")
    wrong, compiled = Candidate("torch", "fp64"), Candidate("torch", "bf16", compiled=True)
    heard: list[str] = []
    plan = Plan(str(tiny_weights), source="images", rounds=2, batch=2)
    with Session(plan, "cpu", images, tmp_path, lambda what, _: heard.append(what)) as session:
        session.start([REFERENCE, wrong, compiled])
        timed = session.run()
        session.collect_remarks()
        memory = session.memory()
        (candidate, found), *others = session.found()
    assert set(session.absent) == {wrong, compiled}
    assert "'fp64'" in session.absent[wrong]
    assert "compiler" in session.absent[compiled]
    assert candidate == REFERENCE
    assert not others
    assert heard.count("round 1 of 2") == 1
    assert len(timed) % 2 == 0
    assert session.batches == len(timed) // 2
    assert len(session.turns[REFERENCE]) == 2  # the round that warms up is not counted
    assert all(0 < model < 60 and 0 < whole < 60 for model, whole in session.turns[REFERENCE])
    assert 0.5 < session.starts[REFERENCE] < 300
    assert 100 < (memory[REFERENCE] or 0) < 4000
    same_as(found, list(Predictor(tiny_weights)(images, conf=0.0)))


def same_as(found: list[Detections], expected: list[Detections]) -> None:
    assert len(found) == len(expected)
    for one, other in zip(found, expected, strict=True):
        np.testing.assert_allclose(one.boxes, other.boxes, atol=0.01)
        np.testing.assert_allclose(one.scores, other.scores, atol=1e-5)
        assert (one.labels == other.labels).all()
        assert (one.names, one.size, one.source) == (other.names, other.size, other.source)


def test_a_process_that_dies_says_so() -> None:
    process = Process(os.environ)
    process._process.kill()
    with pytest.raises(Failed, match="ended by signal 9; memory may have run out"):
        process.ask("memory_mib")
    process.close()


def test_a_package_that_is_missing_is_told(
    tiny_weights: Path, coco_folder: Path, tmp_path: Path
) -> None:
    (tmp_path / "openvino.py").write_text("raise ModuleNotFoundError('openvino')")
    hidden = {"PYTHONPATH": os.pathsep.join([str(tmp_path), os.environ.get("PYTHONPATH", "")])}
    plan = Plan(str(tiny_weights), source="images")
    images, missing = files(coco_folder / "val"), Candidate("openvino", "bf16")
    with Session(plan, "cpu", images, tmp_path, lambda *_: None) as session:
        session.environment |= hidden
        session.export([REFERENCE, missing])
    assert "needs the package openvino; type: pip install '" in session.absent[missing]
    assert not session.files


def test_exports_share_one_graph(
    tiny_weights: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The graph takes most of the time; half precision does not change it for the others."""
    from dabdetr.export import tracing

    traced: list[object] = []
    program = tracing.program
    monkeypatch.setattr(tracing, "program", lambda *a, **k: traced.append(0) or program(*a, **k))
    Image.fromarray(np.full((60, 80, 3), 99, np.uint8)).save(tmp_path / "grey.png")
    worker = Worker()
    for name, precision in (("half", "fp16"), ("whole", "fp32")):
        output = str(tmp_path / f"{name}.onnx")
        image = str(tmp_path / "grey.png")
        worker.export(str(tiny_weights), "onnx", precision, None, output, image)
    assert len(traced) == 1
    found = [Exported(tmp_path / f"{name}.onnx") for name in ("half", "whole")]
    assert [each.metadata.precision for each in found] == ["fp16", "fp32"]
    exact = Predictor(tiny_weights).one(tmp_path / "grey.png", conf=0.0)
    same_as([Predictor(tmp_path / "whole.onnx").one(tmp_path / "grey.png", conf=0.0)], [exact])


def test_images_of_data_and_of_sources(coco_folder: Path, tmp_path: Path) -> None:
    data = open_data(str(coco_folder), "train")
    chosen, part = of_data(data, 3, tmp_path)
    assert [Path(file).name for file in chosen] == ["000.png", "004.png", "007.png"]
    assert [part.record(n).image_id for n in range(3)] == [1, 5, 8]
    assert (part.image(1) == data.image(4)).all()
    made, part = of_data(open_data("scenes:count=4", "val"), 9, tmp_path)
    assert len(made) == len(part) == 4
    assert all(Path(file).parent == tmp_path for file in made)
    assert of_source(coco_folder / "val", 2, tmp_path) == files(coco_folder / "val")[:2]


def test_spread_takes_from_all_over() -> None:
    assert spread(list("abcde"), 3) == ["a", "c", "e"]
    assert spread(list("abc"), 7) == ["a", "b", "c"]
    assert spread(list("abc"), 1) == ["a"]


def test_found_of_no_detections_at_all(tmp_path: Path) -> None:
    none = {part: np.zeros((0, 4) if part == "boxes" else 0) for part in ("boxes", "scores")}
    none |= {part: np.zeros(0, np.int64) for part in ("labels", "queries")}
    np.savez(tmp_path / "x.npz", counts=[0, 0], sizes=[[3, 4], [5, 6]], names=["a"], **none)
    found = read_found(tmp_path / "x.npz", ["one", "two"])
    assert [(len(each), each.size, each.source) for each in found] == [
        (0, (3, 4), "one"),
        (0, (5, 6), "two"),
    ]
