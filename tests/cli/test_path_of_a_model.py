"""A reader who follows --model from the command line to the loaded weights opens few files."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

from PIL import Image

CODE = """
import runpy, sys
from pathlib import Path

NAME, found = "scenes", []

def note(frame, event, argument):
    file = frame.f_code.co_filename
    if event != "call" or "dabdetr" not in file:
        return
    names = frame.f_code.co_varnames[: frame.f_code.co_argcount + frame.f_code.co_kwonlyargcount]
    values = [frame.f_locals.get(name) for name in names]
    values += [each for value in values if isinstance(value, list) for each in value]
    if any(Path(each).stem == NAME for each in values if isinstance(each, (str, Path))):
        found.append(file)
    if frame.f_code.co_name == "fill":
        sys.setprofile(None)
        place = lambda file: Path(file).as_posix().rpartition("/dabdetr/")[2]
        print("FILES", *dict.fromkeys(map(place, found)))

sys.setprofile(note)
sys.argv[1:] = ["predict", "--model", NAME, *sys.argv[1:]]
runpy.run_module("dabdetr", run_name="__main__")
"""
BEFORE = {"__main__.py", "cli/__init__.py", "cli/options.py"}
"""The entry point, the list of verbs, and where --model is declared."""


def test_a_model_s_name_crosses_at_most_ten_files(tmp_path: Path) -> None:
    image = tmp_path / "a.png"
    Image.new("RGB", (60, 40)).save(image)
    line = [sys.executable, "-c", CODE, str(image), "--no-save", "--quiet"]
    done = subprocess.run(line, capture_output=True, text=True, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    said = next(each for each in done.stdout.splitlines() if each.startswith("FILES "))
    files = BEFORE | set(said.split()[1:])
    assert {"cli/app.py", "inference/opening.py", "checkpoints/native.py"} <= files
    assert len(files) <= 10, sorted(files)
