"""Where a reader of a recipe is: the README's commands have run, and nothing else."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from tests.conftest import Graphs
from typer.testing import CliRunner

ROOT = Path(__file__).parents[2]
sys.path.insert(0, str(ROOT / "docs" / "tools"))


@pytest.fixture(scope="package", autouse=True)
def _graphs_are_shared(graphs: Graphs) -> Iterator[None]:
    with graphs.shared():
        yield


@pytest.fixture(scope="session")
def reader(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a reader who has typed ``BEFORE``. Copy it."""
    from pages import BEFORE, SHORTER, words

    from dabdetr.cli import app

    root = tmp_path_factory.mktemp("reader")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(root)
        for command in BEFORE:
            asked = words(command)
            done = CliRunner().invoke(app, [*asked, *SHORTER.get(asked[0], []), "--quiet"])
            assert done.exit_code == 0, done.output
    return root
