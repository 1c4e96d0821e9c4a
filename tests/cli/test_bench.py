"""`dabdetr bench`, from the words to the folder; and what it refuses."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from dabdetr.cli import app

runner = CliRunner()


def run(*arguments: object) -> Any:
    """The verb in this process, without a compiler: compiling takes minutes."""
    done = runner.invoke(app, ["bench", *map(str, arguments)], env={"PATH": "nowhere"})
    assert done.exit_code == 0, done.stderr or done.exception
    return done


def test_annotated_data(tiny_weights: Path, coco_folder: Path) -> None:
    options = ["--data", coco_folder, "--formats", "torch,compile", "--rounds", 1, "--threads", 1]
    done = run("--model", tiny_weights, *options, "--json", "--quiet", "-o", "out/here")
    told = json.loads(done.stdout)
    assert [each["key"] for each in told["candidates"]] != []
    assert {each["key"] for each in told["candidates"]} == {"torch-fp32", "torch-bf16"}
    assert {each["key"] for each in told["absent"]} == {
        "torch-fp32-compiled",
        "torch-bf16-compiled",
    }
    assert all("compiler" in each["reason"] for each in told["absent"])
    assert (told["measure"], told["drop"], told["judged"]) == ("AP", 0.005, 4)
    assert told["folder"] == str(Path("out/here"))
    reference = next(each for each in told["candidates"] if each["key"] == "torch-fp32")
    assert reference["gain"] == 1.0
    from dabdetr.evaluation.evaluate import evaluate

    assert reference["quality"] == pytest.approx(evaluate(tiny_weights, coco_folder).ap, abs=1e-4)
    assert reference["file_mib"] == pytest.approx(tiny_weights.stat().st_size / 2**20)
    assert {path.name for path in Path("out/here").iterdir()} == {
        "bench.json",
        "bench.md",
        "bench.png",
    }
    assert json.loads(Path("out/here/bench.json").read_text()) == {
        key: value for key, value in told.items() if key != "folder"
    }


def test_what_the_advice_for_torch_says_to_type(tiny_weights: Path, coco_folder: Path) -> None:
    predict = ["predict", "--model", str(tiny_weights), str(coco_folder / "val"), "--no-save"]
    exact, rough = (
        json.loads(runner.invoke(app, [*predict, "--conf", "0", "--json", *more]).stdout)
        for more in ([], ["--precision", "bf16"])
    )
    scores = [
        [found["score"] for each in told["images"] for found in each["detections"]]
        for told in (exact, rough)
    ]
    assert scores[0] != scores[1]
    assert scores[0] == pytest.approx(scores[1], abs=0.02)


@pytest.mark.slow
def test_every_runtime_on_images_without_boxes(tiny_weights: Path, coco_folder: Path) -> None:
    options = ["--source", coco_folder / "val", "--rounds", 2]
    done = runner.invoke(app, ["bench", "--model", str(tiny_weights), *map(str, options)])
    assert done.exit_code == 0, done.stderr or done.exception
    for name in ("PyTorch bf16", "ONNX Runtime fp32", "OpenVINO int8", "agreement"):
        assert name in done.stdout
    told = json.loads(Path("runs/bench/bench-1/bench.json").read_text())
    for each in told["candidates"]:
        assert each["quality"] > 0.5
        assert each["start_seconds"] > 0.1
        assert each["memory_mib"] > 50
        assert each["file_mib"] > 0.1
    keys = {each["key"] for each in (*told["candidates"], *told["absent"])}
    assert len(keys) == 7
    assert {"torch-fp32", "onnx-fp32", "openvino-fp32"} <= {e["key"] for e in told["candidates"]}
    exact = [e for e in told["candidates"] if e["key"] in ("onnx-fp32", "openvino-fp32")]
    assert all(each["quality"] > 0.98 for each in exact)
    # without torch in the process there is less to hold, and to start
    memory = {each["key"]: each["memory_mib"] for each in told["candidates"]}
    assert memory["openvino-fp32"] < memory["torch-fp32"]


def refused(arguments: list[object], *words: str) -> None:
    """The command ends with 2 and one sentence that has ``words``; nothing is left behind."""
    before = sorted(Path().rglob("*"))
    done = runner.invoke(app, ["bench", *map(str, arguments)])
    assert done.exit_code == 2, (done.output, done.exception)
    assert done.stdout == ""
    assert done.stderr.startswith("error: ")
    assert done.stderr.count("\n") == 1, done.stderr
    for word in words:
        assert word in done.stderr
    assert sorted(Path().rglob("*")) == before


def test_what_is_refused(tiny_weights: Path, coco_folder: Path) -> None:
    good = ["--model", tiny_weights]
    source, data = ["--source", coco_folder / "val"], ["--data", coco_folder]
    Path("empty").mkdir()
    Path("file").write_text("precious")
    Path("model.onnx").write_text("exported")
    refused(good, "--data", "--source", "none")
    refused([*good, *source, *data], "both")
    refused([*good, "--source", "nothing"], "nothing")
    refused([*good, "--source", "empty"], "empty", "no images")
    refused([*good, "--data", "nothing"], "nothing")
    refused([*good, *data, "--split", "test"], "'test'", "val")
    refused(["--model", "nobody", *source], "nobody")
    refused(["--model", "model.onnx", *source], "model.onnx", "weights")
    refused([*good, *source, "--max-ap-drop", "1"], "--max-ap-drop", "--data")
    refused([*good, *data, "--max-ap-drop", "-1"], "max_ap_drop", "-1")
    refused([*good, *source, "--formats", "torch,tensorrt"], "tensorrt", "openvino")
    refused([*good, *source, "--formats", ","], "--formats", "nothing")
    refused([*good, *source, "--batch", "9"], "9", "4")
    refused([*good, *source, "--rounds", "0"], "rounds", "0")
    refused([*good, *source, "--device", "abacus"], "abacus")
    refused([*good, *source, "-o", "file"], "file", "not overwritten")
    refused([*good, *source, "-o", "file/below"], "file")
    refused(["--model", "blood-cells", *data], "classes")
