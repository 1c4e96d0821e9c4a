"""What the documentation says is so: its code runs, its commands and files are there."""

from __future__ import annotations

import re
import shlex
import shutil
from pathlib import Path

import pytest
from typer.testing import CliRunner

from dabdetr.cli import app

ROOT = Path(__file__).parents[1]
PAGES = sorted([*ROOT.glob("*.md"), *ROOT.glob("docs/**/*.md")])
SHORTER = {"--name first": "--name first --epochs 1 --imgsz 96"}
"""What a test need not do in full."""


def blocks(page: Path, language: str) -> list[str]:
    """Code blocks of one language."""
    return re.findall(rf"^```{language}\n(.*?)^```", page.read_text(), re.MULTILINE | re.DOTALL)


def commands(page: Path) -> list[str]:
    """Lines after a prompt."""
    lines = "".join(blocks(page, "console")).splitlines()
    return [line.removeprefix("$ ") for line in lines if line.startswith("$ ")]


@pytest.fixture(scope="module")
def folder(coco_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where the README's reader is: data of one's own in mydata, pictures, a video."""
    from dabdetr.inference.sources import read_sources
    from dabdetr.inference.video import VideoWriter

    root = tmp_path_factory.mktemp("reader")
    shutil.copytree(coco_folder, root / "mydata")
    shutil.copytree(coco_folder / "val", root / "pictures")
    shutil.copy(root / "pictures" / "000.png", root / "aerial.jpg")
    with VideoWriter(root / "clip.mp4", "") as writer:
        for number, picture in enumerate(read_sources(root / "pictures")):
            writer.add(picture.array, number / 10)
    return root


def test_commands_of_the_readme_run(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(folder)
    lines = [line for line in commands(ROOT / "README.md") if line.startswith("dabdetr ")]
    assert len(lines) >= 6
    for line in lines:
        for long, short in SHORTER.items():
            line = line.replace(long, short)
        done = CliRunner().invoke(app, shlex.split(line)[1:])
        assert done.exit_code == 0, (line, done.stderr, done.exception)
    assert Path("runs/train/first/best.safetensors").exists()
    assert Path("mymodel.safetensors").exists()


@pytest.mark.parametrize("number", range(2))
def test_python_of_the_readme_runs(
    number: int, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    code = blocks(ROOT / "README.md", "python")
    assert len(code) == 2
    monkeypatch.chdir(folder)
    exec(compile(code[number], "README.md", "exec"), {"__name__": "readme"})


def test_makes_targets_that_pages_name_exist() -> None:
    targets = set(re.findall(r"^([\w-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE))
    for page in PAGES:
        # In code only: "make sure" is no target.
        code = re.findall(r"(?:`|^\$ )make ([\w-]+)", page.read_text(), re.MULTILINE)
        assert set(code) <= targets, page


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_links_lead_somewhere(page: Path) -> None:
    for link in re.findall(r"\]\(([^)#:]+)(?:#[^)]*)?\)", page.read_text()):
        assert (page.parent / link).exists(), link


def test_the_readme_lists_every_command() -> None:
    table = re.findall(r"^\| `dabdetr (\w+)`", (ROOT / "README.md").read_text(), re.MULTILINE)
    done = CliRunner().invoke(app, ["--help"])
    assert table == [
        "train",
        "val",
        "predict",
        "explain",
        "export",
        "convert",
        "models",
        "ladder",
        "demo",
    ]
    assert all(verb in done.stdout for verb in table)
