"""Names of what a verb would write: one sentence, exit code 2, and no work before it."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from PIL import Image

from dabdetr.data.layouts import open_data
from dabdetr.data.writing import write_data

VERBS = {
    "train": ["train", "data", "--model", "dab-detr-nano"],
    "compare": ["compare", "dab-detr-nano", "detr-nano", "--data", "data"],
    "audit": ["audit", "data", "--model", "blood-cells"],
    "predict": ["predict", "image.png", "--model", "scenes"],
    "val": ["val", "scenes", "data"],
    "view": ["data", "view", "data"],
    "bench": ["bench", "--model", "scenes", "--data", "data"],
    "snap": ["snap", "data", "--model", "blood-cells"],
    "export": ["export", "scenes"],
    "explain": ["explain", "image.png"],
    "prune": ["prune", "scenes", "data"],
    "convert": ["convert", "scenes"],
}
NAMED = ("train", "compare", "audit", "predict", "val", "view")
ENDINGS = {"export": ".onnx", "explain": ".html", "prune": ".safetensors"}
ENDINGS["convert"] = ".safetensors"
ODD = ("a\x1b[2Jb", "a\u202eb", "a\udc80", "..", "", "x" * 300)
LONG = "/".join(["z" * 200] * 30)

ASK = """
import io, json, sys
from contextlib import redirect_stderr, redirect_stdout
from dabdetr.cli import main
for words in json.load(sys.stdin):
    said = io.StringIO()
    try:
        with redirect_stderr(said), redirect_stdout(io.StringIO()):
            sys.argv = ["dabdetr", *words]
            main()
        code = 0
    except SystemExit as end:
        code = end.code
    print(json.dumps([words, code, said.getvalue(), "torch" in sys.modules]))
"""


def commands(verb: str) -> list[list[str]]:
    """The verb with odd names at every place where it takes one."""
    words, ending = VERBS[verb], ENDINGS.get(verb)
    places = ODD if ending is None else [odd + ending for odd in ODD if odd not in ("", "..")]
    found = [[*words, "-o", place] for place in places]
    if verb in NAMED:
        found += [[*words, "--name", odd] for odd in (ODD[0], "", "a/b")]
        found += [[*words, "--project", odd] for odd in (ODD[1], LONG)]
    return found


@pytest.mark.parametrize("verb", VERBS)
def test_a_name_that_cannot_be_is_one_sentence_before_any_work(verb: str, tmp_path: Path) -> None:
    Image.new("RGB", (32, 24)).save(tmp_path / "image.png")
    write_data([open_data("scenes:count=2", "test")], tmp_path / "data", "coco")
    before = sorted(os.walk(tmp_path))
    asked = commands(verb)
    done = subprocess.run(
        [sys.executable, "-c", ASK],
        input=json.dumps(asked),
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=True,
    )
    answers = [json.loads(line) for line in done.stdout.splitlines()]
    assert [words for words, *_ in answers] == asked
    for words, code, said, worked in answers:
        assert code == 2, (words, said)
        assert len(said.splitlines()) == 1, (words, said)
        assert len(said) < 500, words
        assert said.rstrip("\n").isprintable(), (words, said)
        assert not worked, words
    assert sorted(os.walk(tmp_path)) == before
