"""Lists of class names in files of their own, beside annotations that number the classes."""

from __future__ import annotations

import re
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from dabdetr.data.findings import Findings
from dabdetr.data.locate import paths_of
from dabdetr.data.textfiles import read_text
from dabdetr.text import parse_json

NAMES = (
    *("classes.txt", "obj.names", "names.txt", "labels.txt", "_darknet.labels"),
    *("class_names.txt", "predefined_classes.txt", "class.txt", "classes.names"),
    *("_classes.txt", "classes.json", "notes.json", "class_names.json", "categories.json"),
    *("names.json", "labels.json"),
)
"""Files with one class name per line, or with a list or mapping of them in JSON."""
LISTS = ("categories", "names", "classes", "labels")
"""Keys under which a JSON has its list of classes."""


def names_file(folders: Iterable[Path]) -> Path | None:
    """The first of ``NAMES`` in ``folders``, else another .names file in the first of them."""
    places = list(folders)
    files = [place / name for place in places for name in NAMES]
    other = paths_of(places[0], ".names") if places else []
    return next((file for file in (*files, *other) if file.is_file()), None)


def name_list(file: Path, findings: Findings) -> list[tuple[int, str]]:
    """Class numbers and names from a file of one name per line, perhaps after its number; or JSON.

    Numbers in the file count from 0 or from 1, others from 0.

    Empty for a JSON of another kind.
    """
    text = read_text(file, findings)
    if file.suffix.lower() == ".json":
        return _pairs(parse_json(text, str(file)))
    lines = [line.strip() for line in text.rstrip().splitlines()]
    if len(lines) == 1 and "," in text:
        lines = [name.strip(" '\"[]") for name in text.split(",")]
    numbered = [re.fullmatch(r"(\d{1,9})\s*[:=,.)\s]\s*(\S.*)", line) for line in lines]
    for first in (0, 1):
        if all(each and int(each.group(1)) == n for n, each in enumerate(numbered, first)):
            return [(n, each.group(2)) for n, each in enumerate(numbered, first) if each]
    return list(enumerate(lines))


def _pairs(tree: Any) -> list[tuple[int, str]]:
    """Numbers and names from a list of names or of mappings with id and name, or a mapping."""
    if isinstance(tree, dict):
        if key := next((key for key in LISTS if isinstance(tree.get(key), list | dict)), None):
            return _pairs(tree[key])
        rows = [(n, name) if isinstance(name, str) else (name, n) for n, name in tree.items()]
    elif isinstance(tree, list) and all(isinstance(each, dict) for each in tree):
        rows = [(each.get("id"), each.get("name")) for each in tree]
    else:
        rows = list(enumerate(tree if isinstance(tree, list) else ()))
    pairs = [(str(number), name) for number, name in rows if isinstance(name, str)]
    whole = len(pairs) == len(rows) and all(number.isdecimal() for number, _ in pairs)
    return sorted((int(number), name) for number, name in pairs) if whole else []
