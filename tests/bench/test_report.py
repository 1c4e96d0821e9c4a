"""What is shown and written of a bench that never ran."""

from __future__ import annotations

import io
import json
import shlex
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import typer
from PIL import Image
from rich.console import Console

from dabdetr.bench.candidates import BenchResult, Candidate, Plan, candidates
from dabdetr.bench.report import markdown, save, sentence, terminal, to_dict
from dabdetr.cli import app


def test_the_advice(bench: BenchResult) -> None:
    said = sentence(bench)
    assert said == (
        "Use OpenVINO bf16: 50.0 images a second from file to boxes, 4.0 times as fast as "
        "PyTorch fp32, AP 51.7 instead of 51.8."
    )
    alone = replace(bench, rows=bench.rows[-1:])
    assert sentence(alone).startswith("Stay with PyTorch fp32: nothing that loses at most 0.5 poi")
    unlabelled = replace(bench, data="", plan=Plan("cells", source="images"))
    assert "times as fast as PyTorch fp32, agreement 52 %" in sentence(unlabelled)


def test_the_commands_are_those_of_the_command_line(bench: BenchResult) -> None:
    verbs: Any = typer.main.get_command(app)
    for candidate in candidates(("torch", "onnx", "openvino"), "cuda"):
        commands = bench.commands(candidate)
        assert len(commands) == (1 if candidate.format == "torch" else 2)
        for command in commands:
            program, verb, *words = shlex.split(command)
            assert program == "dabdetr"
            known = {name for each in verbs.commands[verb].params for name in each.opts}
            assert {word for word in words if word.startswith("-")} <= known
            assert words[words.index("--model") + 1].startswith("my cells")


def test_a_terminal_shows_all_of_it(bench: BenchResult) -> None:
    console = Console(width=80, record=True, file=io.StringIO())
    console.print(terminal(bench), crop=False)
    text = console.export_text()
    for row in bench.rows:
        assert row.candidate.name in text
    assert "ONNX Runtime fp16: it needs the package onnx" in text
    assert "364 images" in text
    lines = text.splitlines()
    rule = next(n for n, line in enumerate(lines) if line.strip().startswith("──"))
    assert rule <= 5, lines[:rule]  # headers have two lines at most
    assert sentence(bench) in " ".join(text.split())
    assert "dabdetr export --model 'my cells.safetensors' --format openvino --bf16" in text


def test_files_are_written(bench: BenchResult, tmp_path: Path) -> None:
    save(bench, tmp_path)
    names = {path.name for path in tmp_path.iterdir()}
    assert names == {"bench.json", "bench.md", "bench.png"}
    page = (tmp_path / "bench.md").read_text()
    assert page == markdown(bench)
    assert "**OpenVINO bf16**" in page
    assert "onnx" in page
    assert all(f"]({name})" in page for name in names if name.endswith(".png"))
    with Image.open(tmp_path / "bench.png") as image:
        assert len(image.convert("L").getcolors() or []) > 20


ROW = {
    "name", "key", "model_seconds", "whole_seconds", "gain", "quality", "start_seconds",
    "memory_mib", "file_mib", "turns", "commands",
}  # fmt: skip


def test_the_json_document(bench: BenchResult) -> None:
    told = json.loads(json.dumps(to_dict(bench), allow_nan=False))
    assert set(told) == {
        "plan", "device", "machine", "versions", "data", "timed", "judged", "measure", "drop",
        "candidates", "absent", "best", "advice", "notes",
    }  # fmt: skip
    assert all(set(each) == ROW for each in told["candidates"])
    assert told["best"] == "openvino-bf16"
    assert told["advice"] == sentence(bench)
    assert [each["gain"] for each in told["candidates"]] == pytest.approx([8, 4, 1.6, 1])
    assert told["absent"] == [
        {"name": "ONNX Runtime fp16", "key": "onnx-fp16", "reason": "it needs the package onnx"}
    ]


def test_who_competes() -> None:
    on_cpu = [each.key for each in candidates(("torch", "onnx", "openvino"))]
    assert on_cpu == [
        *("torch-fp32", "torch-bf16"),
        *("onnx-fp32", "onnx-fp16", "openvino-fp32", "openvino-bf16", "openvino-int8"),
    ]
    compiled = [each.key for each in candidates(("compile",))]  # it takes minutes to start
    assert compiled == ["torch-fp32", "torch-fp32-compiled", "torch-bf16-compiled"]
    assert Candidate("torch", "fp16") in candidates(("torch",), "cuda")
    assert [each.key for each in candidates(("onnx",))] == ["torch-fp32", "onnx-fp32", "onnx-fp16"]
