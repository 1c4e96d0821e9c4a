"""The public surface: names, laziness, versions."""

from __future__ import annotations

import doctest
import inspect
import subprocess
import sys
import tomllib
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

import dabdetr
import dabdetr.structures
from dabdetr.cli import app
from dabdetr.predictor import DetectOptions

HEAVY = ("torch", "timm", "pytorch_lightning", "matplotlib", "numpy", "PIL")


def test_all_is_what_it_should_be() -> None:
    assert dabdetr.__all__ == [
        "PRESETS",
        "Config",
        "Detections",
        "Predictor",
        "__version__",
        "build",
        "evaluate",
        "load_model",
        "save_model",
        "train",
    ]
    assert set(dir(dabdetr)) == set(dabdetr.__all__)


@pytest.mark.parametrize("name", dabdetr.__all__)
def test_every_public_name_is_there_and_explained(name: str) -> None:
    value = getattr(dabdetr, name)
    if name not in {"__version__", "PRESETS"}:
        assert value.__doc__


METHODS = {
    f"{kind.__name__}.{name}"
    for kind in (dabdetr.Predictor, dabdetr.Detections, dabdetr.Config)
    for name, value in vars(kind).items()
    if callable(value) and (name == "__call__" or not name.startswith("_"))
}
EXAMPLES = {*dabdetr.__all__, *METHODS, "structures.Results"} - {
    "__version__",
    "PRESETS",  # a dict of configs
    "Detections.show",  # opens a window
    "Detections.to_supervision",  # a package that the tests do not need
}


@pytest.mark.timeout(300)
def test_every_public_name_has_an_example_that_runs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    done = CliRunner().invoke(app, ["demo", "--count", "8", "--quiet"])
    assert done.exit_code == 0, done.output
    finder, runner = (
        doctest.DocTestFinder(recurse=False),
        doctest.DocTestRunner(optionflags=doctest.ELLIPSIS),
    )
    said: list[str] = []
    for name in sorted(EXAMPLES):
        value: Any = dabdetr
        for part in name.split("."):
            value = getattr(value, part)
        found = finder.find(value, name, globs={"Predictor": dabdetr.Predictor})
        assert sum(len(each.examples) for each in found), name
        for each in found:
            runner.run(each, out=said.append)
    assert runner.summarize(verbose=False).failed == 0, "".join(said)


def test_type_checkers_see_the_annotations() -> None:
    assert (Path(dabdetr.__file__).parent / "py.typed").is_file()


def test_an_unknown_name_is_an_attribute_error() -> None:
    with pytest.raises(AttributeError, match="'detect'"):
        _ = dabdetr.detect


def test_the_version_is_the_projects() -> None:
    project = tomllib.loads(Path("pyproject.toml").read_text())["project"]
    assert dabdetr.__version__ == project["version"]


@pytest.mark.parametrize(
    "statement", ["import dabdetr", "import dabdetr.cli", "from dabdetr import PRESETS, Config"]
)
def test_importing_loads_nothing_heavy(statement: str) -> None:
    code = f"import sys; {statement}; print(*[m for m in {HEAVY!r} if m in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == ""


def seconds(code: str) -> float:
    """Least processor time of five fresh interpreters for ``code``, their start left out."""
    timed = f"import time; t = time.process_time(); {code}; print(time.process_time() - t)"
    runs = [
        subprocess.run([sys.executable, "-c", timed], capture_output=True, text=True, check=True)
        for _ in range(5)
    ]
    return min(float(run.stdout) for run in runs)


def test_importing_is_fast() -> None:
    assert seconds("import dabdetr") < 0.1


def test_predict_and_one_name_the_options_of_a_call() -> None:
    options = set(inspect.signature(dabdetr.Predictor.__call__).parameters)
    assert {*DetectOptions.__annotations__} == options - {"self", "source", "keep_images"}
