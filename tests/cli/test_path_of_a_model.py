"""A reader who follows --model from the command line to the loaded weights opens few files."""

from __future__ import annotations

import sys
from pathlib import Path
from types import FrameType

from PIL import Image
from typer.testing import CliRunner

from dabdetr.cli import app

NAME = "scenes"
BEFORE = {"__main__.py", "cli/__init__.py", "cli/options.py"}
"""The entry point, the list of verbs, and where --model is declared."""


def test_a_model_s_name_crosses_at_most_ten_files(tmp_path: Path) -> None:
    image = tmp_path / "a.png"
    Image.new("RGB", (60, 40)).save(image)
    files = set(BEFORE)

    def note(frame: FrameType, event: str, _: object) -> None:
        """Keep the file of a call that is given the name; up to where the weights are put in."""
        code = frame.f_code
        if event != "call" or "/dabdetr/" not in Path(code.co_filename).as_posix():
            return
        given = code.co_varnames[: code.co_argcount + code.co_kwonlyargcount]
        values = [frame.f_locals.get(name) for name in given]
        values += [each for value in values if isinstance(value, list) for each in value]
        if any(Path(each).stem == NAME for each in values if isinstance(each, str | Path)):
            files.add(Path(code.co_filename).as_posix().rpartition("/dabdetr/")[2])
        if code.co_name == "fill":
            sys.setprofile(None)

    words = ["predict", "--model", NAME, str(image), "--no-save", "--quiet"]
    sys.setprofile(note)
    try:
        done = CliRunner().invoke(app, words)
        assert sys.getprofile() is None, "no weights were put in"
    finally:
        sys.setprofile(None)
    assert done.exit_code == 0, done.stderr
    assert {"cli/app.py", "inference/opening.py", "checkpoints/native.py"} <= files
    assert len(files) <= 10, sorted(files)
