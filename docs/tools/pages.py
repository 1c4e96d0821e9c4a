"""Code blocks of a page: which there are, and how a reader's session with them runs.

A block runs, unless its first line says ``title="not run here: …"``, which readers see as well.
Python blocks of a page share their names. Lines of console blocks run behind their prompt; what is
shown below one should be in its output, where … stands for anything.
"""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterable
from dataclasses import dataclass
from fnmatch import fnmatchcase
from pathlib import Path

from sybil import Document, Example, Region, Sybil
from sybil.evaluators.python import PythonEvaluator
from sybil.parsers.markdown.lexers import RawFencedCodeBlockLexer
from typer.testing import CliRunner

from dabdetr import config
from dabdetr.cli import app

ROOT = Path(__file__).parents[2]
LEXER = RawFencedCodeBlockLexer(re.compile(r"(?P<language>\S*) *(?P<title>[^\n]*)\n"))
NOT_RUN = re.compile(r'title="not run here: ([^"]+)"$')
SHORTER = {
    "demo": ["--count", "20"],
    "train": ["--epochs", "1", "--imgsz", "96", "--val-every", "1"],
}
"""What a command gets besides, as its settings are for more time than a test has."""
BEFORE = ("dabdetr demo", "dabdetr train demo/data --epochs 3 --name first")
"""Commands of the README that recipes build on; docs/recipes/index.md names them."""
ELSEWHERE = (
    "curl ",
    *("pip install ", ".venv/bin/pip install ", "make ", "git ", "cd ", "source .venv"),
    *(
        "npm install ",
        "node ",
        "python -m http.server",
        "g++ ",
        "./detect ",
        "OPENVINO=",
        "LIBRARY=",
    ),
)
"""How lines begin that install or fetch something, or run what is not Python: they are checked, not
run here."""


@dataclass(frozen=True)
class Block:
    """A code block: ``why_not`` is what its title gives as reason that it does not run."""

    line: int
    language: str
    title: str
    source: str
    why_not: str | None


def blocks(page: Path) -> list[Block]:
    """All code blocks, in order."""
    document = Document(page.read_text(), str(page))
    found = sorted(LEXER(document), key=lambda region: region.start)
    return [_block(document, region) for region in found]


def _block(document: Document, region: Region) -> Block:
    lexemes = region.lexemes
    title = str(lexemes["title"]).strip()
    reason = NOT_RUN.match(title)
    line = document.text.count("\n", 0, region.start) + 1
    source = str(lexemes["source"])
    return Block(line, lexemes["language"], title, source, None if reason is None else reason[1])


def session(page: Path, languages: Iterable[str] = ("python", "console", "yaml")) -> None:
    """Run the page's blocks of these languages in the current folder, as its reader would."""
    wanted = {name: evaluator for name, evaluator in EVALUATORS.items() if name in languages}

    def parse(document: Document) -> Iterable[Region]:
        for region in LEXER(document):
            language, title = region.lexemes["language"], region.lexemes["title"]
            if language in wanted and NOT_RUN.match(title.strip()) is None:
                region.parsed, region.evaluator = region.lexemes["source"], wanted[language]
                yield region

    for example in Sybil([parse]).parse(page).examples():
        example.evaluate()


def commands(source: str) -> list[tuple[str, list[str]]]:
    """Each command of a console block, and the lines that are shown as its output."""
    found: list[tuple[str, list[str]]] = []
    for line in source.replace("\\\n", " ").splitlines():
        if line.startswith("$ "):
            found.append((" ".join(line[2:].split()), []))
        elif line.strip() and found:
            found[-1][1].append(line)
    return found


def words(command: str) -> list[str]:
    """A `dabdetr` command's words; empty for other commands.

    Without what stands before it: variables, or `torchrun` with its options, up to `-m`.
    """
    rest = shlex.split(command, comments=True)
    while rest and re.fullmatch(r"[A-Z_]+=\S*", rest[0]):
        rest = rest[1:]
    if rest[:1] == ["torchrun"] and "-m" in rest:
        rest = rest[rest.index("-m") + 1 :]
    return rest[1:] if rest[:1] == ["dabdetr"] else []


def _run_console(example: Example) -> None:
    for command, shown in commands(example.parsed):
        if command == "make demo":  # once installed, it is the demo
            command = "dabdetr demo"
        if not command.startswith(ELSEWHERE):
            _run(command, shown, f"{example.path}:{example.line}")


def _run(command: str, shown: list[str], place: str) -> None:
    """A command in this process; AssertionError where it fails or says something else."""
    asked = words(command)
    assert asked, f"{place}: no test knows how to run {command!r}"
    more = SHORTER.get(asked[0], []) if "--resume" not in asked else []
    runner = CliRunner(env={"COLUMNS": "120"})
    done = runner.invoke(app, [*asked, *more])
    assert done.exit_code == 0, f"{place}: {command}: {done.output} {done.exception!r}"
    said = [" ".join(line.split()) for line in done.output.splitlines()]
    for line in shown:
        pattern = "*".join(" ".join(part.split()) for part in f" {line} ".split("…")).strip()
        pattern = pattern.replace("[", "[[]")
        assert any(fnmatchcase(each, pattern) for each in said), (
            f"{place}: {command} does not print {line!r} but: {done.output}"
        )


def _check_config(example: Example) -> None:
    """A YAML block is a config, or part of one."""
    path = Path("block.yaml")
    path.write_text(example.parsed)
    config.load(path)
    path.unlink()


EVALUATORS = {"python": PythonEvaluator(), "console": _run_console, "yaml": _check_config}
