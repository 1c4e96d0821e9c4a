"""What the documentation says is so: its code runs, its commands, files and figures are there."""

from __future__ import annotations

import re
import shlex
import shutil
import subprocess
import tomllib
from contextlib import suppress
from pathlib import Path

import pytest
import typer
from figures import IMAGES, shown
from pages import BEFORE, ELSEWHERE, blocks, commands, session, words
from typer.testing import CliRunner

from dabdetr.cli import app

ROOT = Path(__file__).parents[2]
PAGES = {
    str(page.relative_to(ROOT)): page
    for page in sorted([*ROOT.glob("*.md"), *ROOT.glob("docs/**/*.md")])
}
LANGUAGES = {"python", "console", "yaml", "text", "cpp", "javascript", "html"}
"""The last three run in test_elsewhere.py."""
RECIPES = "docs/recipes/index.md"
"""Its code is what all other recipes' readers have typed."""
RECORD = "docs/results.md"
"""A record of long runs: none of its commands runs here, all must be such as could."""

NOT_RUN = {
    "README.md": 1,
    "docs/idea/motivation.md": 1,
    "docs/race.md": 1,
    "docs/recipes/checkpoints.md": 5,
    "docs/recipes/compare.md": 2,
    "docs/recipes/data.md": 1,
    "docs/recipes/export.md": 2,
    "docs/recipes/long-runs.md": 3,
    "docs/recipes/own-data.md": 1,
    "docs/recipes/serve.md": 3,
    "docs/recipes/tiles-and-video.md": 1,
    "docs/which-model.md": 1,
}
"""Blocks that say of themselves that they do not run here. Add a number only with a reason."""

LONG = {
    "docs/index.md",
    "docs/recipes/crowded.md",
    "docs/recipes/explain.md",
    "docs/recipes/export.md",
    "docs/recipes/long-runs.md",
    "docs/recipes/no-learning.md",
    "docs/recipes/own-data.md",
    "docs/recipes/small-data.md",
}
"""Pages whose code takes a minute or so."""

RUN = [
    pytest.param(name, marks=[pytest.mark.slow, pytest.mark.timeout(1800)] if name in LONG else [])
    for name, page in PAGES.items()
    if name not in (RECORD, RECIPES) and any(block.why_not is None for block in blocks(page))
]


def test_every_block_is_of_a_kind_that_is_checked() -> None:
    for name, page in PAGES.items():
        for block in blocks(page):
            assert block.language in LANGUAGES, (name, block.line, block.language)


def test_blocks_that_do_not_run_are_marked_and_counted() -> None:
    marked = {
        name: [block for block in blocks(page) if block.why_not] for name, page in PAGES.items()
    }
    assert {name: len(found) for name, found in marked.items() if found} == NOT_RUN
    for found in marked.values():
        for block in found:
            assert block.language in {"python", "console"}
            if block.language == "python":
                compile(block.source, "block", "exec")


@pytest.mark.parametrize("name", PAGES)
def test_every_command_is_one(name: str) -> None:
    """Those that do not run, too: verbs, options and the kinds of their values are right."""
    group = typer.main.get_command(app)
    root = [*re.findall(r"^([\w-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE)]
    extras = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"][
        "optional-dependencies"
    ]
    for block in blocks(PAGES[name]):
        if block.language != "console":
            continue
        source = block.source
        if name == RECORD:  # its commands stand without prompts
            source = re.sub(r"(?<!\\\n)^(?!\$)(?=\S)", "$ ", source, flags=re.MULTILINE)
        for command, _ in commands(source):
            asked = words(command)
            if asked:
                with suppress(FileNotFoundError):  # models and data that the reader makes before
                    group.commands[asked[0]].make_context(asked[0], asked[1:])
            elif command.startswith("make "):
                assert command.split()[1] in root, command
            elif "pip install " in command:
                assert set(re.findall(r"\[([\w,]+)\]", command)) <= set(extras), command
            elif command == "python -m http.server":
                pass
            elif name == RECORD or command.startswith("python -m experiments."):
                parts = shlex.split(command, comments=True)
                if "-m" in parts:
                    module = ROOT / parts[parts.index("-m") + 1].replace(".", "/")
                    assert module.is_dir() or module.with_suffix(".py").is_file(), command
                else:
                    script = next(word for word in parts if word.endswith(".py"))
                    assert (ROOT / script).is_file(), command
            else:
                assert command.startswith(ELSEWHERE), command


FROM_NOTHING = {"README.md", "docs/index.md"}
"""Pages that run in an empty folder, with their own commands only."""


@pytest.mark.parametrize("name", RUN)
def test_the_code_of_a_page_runs(
    name: str, request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In order, in one folder; the figures of ideas are made by the page that shows them."""
    page, folder = PAGES[name], tmp_path / "reader"
    if name in FROM_NOTHING:
        folder.mkdir()
    else:
        shutil.copytree(request.getfixturevalue("reader"), folder)
    monkeypatch.chdir(folder)
    session(page)
    if page.parent.name == "idea":
        marked = "".join(block.source for block in blocks(page) if block.why_not)
        for figure in shown(page):
            assert (folder / figure).exists() or f'"{figure}"' in marked, figure
            assert (IMAGES / figure).exists(), f"python docs/tools/figures.py {page.stem}"
            assert (IMAGES / figure).stat().st_size < 700_000


def test_every_figure_is_shown() -> None:
    everywhere = [Path(figure) for page in PAGES.values() for figure in shown(page)]
    dark = [f"{path.stem}-dark{path.suffix}" for path in everywhere if path.suffix != ".gif"]
    names = [path.name for path in everywhere]
    assert sorted(names + dark) == sorted(path.name for path in IMAGES.iterdir())


def test_a_block_that_fails_is_noticed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    page = tmp_path / "page.md"
    fine = '```python title="not run here: no"\n1 / 0\n```\n\n```python\na = 1\n```\n'
    page.write_text(fine)
    session(page)
    failing = {
        "```python\nassert a == 2\n```\n": AssertionError,
        "```console\n$ dabdetr models --jason\n```\n": AssertionError,
        "```console\n$ rm -rf nothing\n```\n": AssertionError,
        "```console\n$ dabdetr --version\nperl …\n```\n": AssertionError,
        "```yaml\nmodel: {decoder: {layer: 2}}\n```\n": ValueError,
    }
    for block, error in failing.items():
        page.write_text(fine + block)
        with pytest.raises(error):
            session(page)
    page.write_text(fine + "```console\n$ dabdetr --version\ndabdetr …\n```\n")
    session(page)


def test_recipes_build_on_commands_of_the_readme() -> None:
    """``reader`` runs these, and so all code of the recipes' first page."""
    shown = [pair for block in blocks(PAGES["README.md"]) for pair in commands(block.source)]
    shown = [(command.replace("make demo", BEFORE[0]), lines) for command, lines in shown]
    assert [pair for pair in shown if pair[0] in BEFORE] == [(each, []) for each in BEFORE]
    assert shown[0][0] == BEFORE[0]  # so nothing before it needs what it makes
    (block,) = blocks(PAGES[RECIPES])
    assert (block.language, commands(block.source)) == ("console", [(c, []) for c in BEFORE])


LONGEST = 40
"""Words of a sentence."""


def sentences(text: str) -> list[str]:
    """Sentences of a page's prose: without code, tables, headings, HTML and where links lead."""
    text = re.sub(r"^(```|~~~).*?^\1", "\n\n", text, flags=re.MULTILINE | re.DOTALL)
    text = re.sub(r"^ *(\||#|!\[|<|:::|\?\?\?|!!!|\{\{).*$", "\n", text, flags=re.MULTILINE)
    text = re.sub(r"\]\([^)]*\)", "]", re.sub(r"`[^`]*`", "code", text))
    text = re.sub(r"^ *([-*]|\d+\.) ", "\n\n", text, flags=re.MULTILINE)
    parts = (re.split(r"(?<=[.!?])[\])*_]*\s+", part) for part in re.split(r"\n\s*\n", text))
    return [" ".join(each.split()) for part in parts for each in part if each.strip()]


def test_sentences_are_split_where_they_end() -> None:
    text = "# Head\n\nOne `a. b` two. Three\nfour: five.\n\n```text\nno. no\n```\n- six\n- seven\n"
    assert sentences(text) == ["One code two.", "Three four: five.", "six", "seven"]


@pytest.mark.parametrize("name", sorted(PAGES))
def test_sentences_are_short(name: str) -> None:
    long = [each for each in sentences(PAGES[name].read_text()) if len(each.split()) > LONGEST]
    assert long == [], "\n".join(long)


def test_makes_targets_that_pages_name_exist() -> None:
    targets = set(re.findall(r"^([\w-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE))
    for page in PAGES.values():
        # In code only: "make sure" is no target.
        code = re.findall(r"(?:`|^\$ )make ([\w-]+)", page.read_text(), re.MULTILINE)
        assert set(code) <= targets, page


@pytest.mark.parametrize("name", PAGES)
def test_links_lead_somewhere(name: str) -> None:
    page = PAGES[name]
    text = re.sub(r"^```.*?^```", "", page.read_text(), flags=re.MULTILINE | re.DOTALL)
    for link in re.findall(r"\]\(([^)#:]+)(?:#[^)]*)?\)", text):
        assert (page.parent / link).exists(), link


def test_commits_of_results_are_in_the_history() -> None:
    def git(*arguments: str) -> list[str]:
        done = subprocess.run(
            ["git", "-C", str(ROOT), *arguments], capture_output=True, text=True, check=False
        )
        return done.stdout.split()

    if not (ROOT / ".git").exists() or git("rev-parse", "--is-shallow-repository") != ["false"]:
        pytest.skip("the whole history of the repository is needed")
    known = {each[:7] for each in git("rev-list", "HEAD")}
    named = re.findall(r"\b(?=[a-f]*\d)(?=\d*[a-f])[0-9a-f]{7}\b", (ROOT / RECORD).read_text())
    assert named
    assert set(named) <= known, set(named) - known


def test_the_readme_lists_every_command() -> None:
    table = re.findall(r"^\| `dabdetr (\w+)`", (ROOT / "README.md").read_text(), re.MULTILINE)
    done = CliRunner().invoke(app, ["--help"])
    verbs = typer.main.get_command(app).commands
    assert sorted(table) == sorted(name for name, verb in verbs.items() if not verb.hidden)
    assert all(verb in done.stdout for verb in table)
