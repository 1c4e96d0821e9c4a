"""Lines of a hundred thousand characters are read once, not from each character again."""

from __future__ import annotations

import re
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from dabdetr.data.doctor import source_name
from dabdetr.data.findings import Findings
from dabdetr.data.listed_splits import _listed
from dabdetr.data.text_lines import DOTA, KITTI
from dabdetr.data.textfiles import guess, note_encoding
from dabdetr.data.voc import DECLARED
from dabdetr.data.yolo_lines import NUMBER

LENGTH = 100_000


def _lists(text: str) -> object:
    path = Path("list.txt")
    path.write_text(text)
    return _listed(path)


@pytest.mark.parametrize(
    ("read", "line"),
    [
        (NUMBER.fullmatch, "1" * LENGTH + "x"),
        (NUMBER.fullmatch, "." + "1" * LENGTH + "x"),
        (KITTI.fullmatch, "a" * LENGTH),
        (KITTI.fullmatch, "a" + " 1" * LENGTH),
        (KITTI.fullmatch, "a" + " " * LENGTH),
        (DOTA.fullmatch, "1 " * 8 + "a" * LENGTH + " x"),
        (DOTA.fullmatch, "1" * LENGTH),
        (DOTA.fullmatch, "1" + " " * LENGTH),
        (lambda text: guess(text.encode("latin-1")), "a" * LENGTH + " é"),
        (lambda text: note_encoding(Findings(), "x", text, "y"), "a" * LENGTH + " é"),
        (lambda text: DECLARED.match(text.encode()), "<?xml" + " " * LENGTH),
        (_lists, "a" + " " * LENGTH + "b"),
        (_lists, "x.jpg " * (LENGTH // 6) + "y"),
        (_lists, "x.jpg " * (LENGTH // 6) + "y.xml"),
        (source_name, "-" * LENGTH),
        (source_name, "a" + "1" * LENGTH + "b"),
    ],
)
def test_time_grows_with_the_length_and_not_with_its_square(
    read: Callable[[str], object], line: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The square takes minutes."""
    monkeypatch.chdir(tmp_path)
    begun = time.process_time()
    read(line)
    assert time.process_time() - begun < 2


@pytest.mark.parametrize(
    ("pattern", "line", "groups"),
    [
        (DOTA, "1 2 3 4 5 6 7 8 small-vehicle 1", ("small-vehicle", "1")),
        (DOTA, "1.5,2,3,4,5,6,7,8e1,plane", ("plane", None)),
        (DOTA, "1 2 3 4 5 6 7 8 9 1", None),
        (KITTI, "Car 0.0 0 -1.5" + " 1" * 11, ("Car",)),
        (KITTI, "1 0.0 0 -1.5" + " 1" * 11, None),
    ],
)
def test_lines_are_known_as_before(
    pattern: re.Pattern[str], line: str, groups: tuple[str | None, ...] | None
) -> None:
    found = pattern.fullmatch(line)
    assert (found and found.groups()) == groups


def test_numbers_are_known_as_before() -> None:
    for text in ("1", "1.", "1.5", ".5", "-1e-3", "+1.E5", "nan", "-inf"):
        assert NUMBER.fullmatch(text), text
    for text in (".", "1.5.", "e5", "1e", "--1", ""):
        assert not NUMBER.fullmatch(text), text
