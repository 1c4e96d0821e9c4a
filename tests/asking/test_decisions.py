"""Only a decisions.json of audit is carried out, and the page says which suspicions are weak."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from dabdetr.asking.decisions import read_decisions
from dabdetr.cli import main as app
from dabdetr.cli.audit import _page
from dabdetr.data.scenes import Scenes
from dabdetr.evaluation.suspicions import Suspicion


def decisions(**changes: Any) -> list[dict[str, Any]]:
    """One row, as audit writes it, with ``changes``; None takes an entry out."""
    row = {
        "accept": True,
        "kind": "class",
        "suspicion": 0.9,
        "split": "val",
        "file": "a.png",
        "image": 0,
        "row": 0,
        "box": [1.0, 2.0, 3.0, 4.0],
        "name": "one",
        "answer": [1.0, 2.0, 3.0, 4.0],
        "answer_name": "two",
        "score": 0.8,
        "mend": "class",
    }
    return [{name: value for name, value in (row | changes).items() if value != "gone"}]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ([], "should be a list of decisions"),
        ({"suspicions": []}, "should be a list of decisions"),
        ([1, 2], "all of row 1"),
        ([{}], "accept of row 1"),
        ([{"accept": True}], "kind of row 1"),
        ([{"image_id": 1, "category_id": 1, "bbox": [1, 2, 3, 4], "score": 0.5}], "accept of row"),
        (decisions() + decisions(split="gone"), "split of row 2"),
        (decisions(accept="yes"), "accept of row 1"),
        (decisions(image=-1), "image of row 1"),
        (decisions(row=True), "row of row 1"),
        (decisions(box=[1, 2, 3]), "box of row 1"),
        (decisions(answer=[1, 2, 3, "4"]), "answer of row 1"),
        (decisions(mend="burn"), "mend of row 1"),
    ],
)
def test_a_file_that_audit_did_not_write_is_refused(
    content: Any, message: str, tmp_path: Path
) -> None:
    file, copy = tmp_path / "d.json", tmp_path / "copy"
    file.write_text(json.dumps(content))
    with pytest.raises(ValueError, match=message):
        read_decisions(file)
    line = ["audit", "scenes:count=2", "--fix", str(file), "-o", str(copy)]
    done = CliRunner().invoke(app, line)
    assert done.exit_code == 2, done.output
    assert message.split(" of row")[0] in done.stderr
    assert not copy.exists()


def test_the_page_says_which_suspicions_are_weak() -> None:
    box = (1.0, 2.0, 30.0, 40.0)
    every = [
        Suspicion("loose", sure, "val", "a.png", 0, 0, box, "one", box, "one", 0.9, "box")
        for sure in (0.8, 0.3, 0.2)
    ]
    page = _page({"val": Scenes("val", count=1)}, every, [each.to_dict() for each in every])
    assert page.count(": move one (weak)") == 2
    assert page.count(": move one</b>") == 1
    assert "Tick the suspicions that you agree with" in page
    assert "1 suspicion of 0.5 or more; 2 others are weak: most such labels are right" in page
