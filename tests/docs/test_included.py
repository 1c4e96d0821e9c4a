"""The page of the included models says what their cards say, and credits every source."""

from __future__ import annotations

import re
from pathlib import Path

from dabdetr.checkpoints.locate import shipped
from dabdetr.checkpoints.reading import read

PAGE = (Path(__file__).parents[2] / "docs" / "included-models.md").read_text()


def test_every_model_is_on_the_page_with_its_numbers() -> None:
    rows = {row.split("`")[1]: row for row in PAGE.splitlines() if row.startswith("| `")}
    assert rows.keys() == shipped().keys()
    for name, path in shipped().items():
        assert read(path).metadata["measured"].split(" on ")[0] in rows[name]
        assert path.stat().st_size <= 10e6


def test_every_set_of_the_base_is_credited() -> None:
    about = read(shipped()["dab-lite-base"]).metadata["about"]
    listed = about.split("--val 8): ")[1].split(";")[0]
    sets = re.sub(r" \([^)]*\)", "", listed).split(", ")
    assert len(sets) == 29
    for name in sets:
        (row,) = (line for line in PAGE.splitlines() if line.startswith(f"| {name} |"))
        assert re.search(r"\(https://\S+\) .*\| (CC BY 4.0|MIT|BSD-3-Clause) \|$", row), row
