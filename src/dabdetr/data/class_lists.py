"""Class names: lists in files of their own, and the table of category ids, names and labels."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from dabdetr.data.findings import Findings
from dabdetr.data.locate import child, folders_in, paths_of
from dabdetr.data.split_names import split_folders
from dabdetr.data.textfiles import read_text
from dabdetr.text import check_name, parse_json, printable

NAMES = (
    *("classes.txt", "obj.names", "names.txt", "labels.txt", "_darknet.labels"),
    *("class_names.txt", "predefined_classes.txt", "class.txt", "classes.names"),
    *("_classes.txt", "classes.json", "notes.json", "class_names.json", "categories.json"),
    *("names.json", "labels.json", "label_map.pbtxt", "labelmap.pbtxt"),
)
"""Files with one class name per line, or with a list or mapping of them."""
BOXES = re.compile(r"(?<!\d)(?:\d++[\s,;]++){3}\d")
"""Four numbers, which no class name has."""
LISTS = ("categories", "names", "classes", "labels")
"""Keys under which a JSON has its list of classes."""


def names_beside(root: Path) -> Path | None:
    """The file of class names in ``root``, in a folder that usually contains it, or above it."""
    places = [root, *(child(root, name) for name in ("labels", "images", "train"))]
    for folder in filter(Path.is_dir, places[1:3]):
        places += split_folders(folder).values()
    places += [*folders_in(root), root.parent]
    files = [place / name for place in places for name in NAMES]
    other = [file for file in paths_of(root, ".txt", ".names", ".pbtxt")
             if file.suffix != ".txt" or file.name.casefold() in NAMES]  # fmt: skip
    return next((file for file in (*files, *other) if file.is_file()), None)


def name_list(file: Path | None, findings: Findings) -> list[tuple[int, str]]:
    """Class numbers and names from a file of one name per line, perhaps after its number; or JSON.

    Numbers in the file count from 0 or from 1, others from 0. A .pbtxt has items with id and name.

    Empty for a JSON of another kind, and for a file that cannot be read, which is counted.
    """
    if file is None:
        return []
    try:
        text = read_text(file, findings)
        if file.suffix.lower() == ".json":
            return name_pairs(parse_json(text, str(file)))
    except (ValueError, OSError) as error:
        findings.add("class-names-missing", str(error))
        return []
    if file.suffix.lower() == ".pbtxt":
        return sorted(_items(text))
    lines = [line.strip() for line in text.rstrip().splitlines()]
    if any(map(BOXES.search, lines)):  # labels.txt may also be a table
        return []
    if len(lines) == 1 and "," in text:
        lines = names_in_line(text)
    numbered = [re.fullmatch(r"(\d{1,9})\s*[:=,.)\s]\s*(\S.*)", line) for line in lines]
    for first in (0, 1):
        if all(each and int(each.group(1)) == n for n, each in enumerate(numbered, first)):
            return [(n, each.group(2)) for n, each in enumerate(numbered, first) if each]
    return list(enumerate(lines))


def names_in_line(text: str) -> list[str]:
    """The names in a line with commas between them, also in the form of a list of Python's."""
    return [name.strip(" \t\r\n'\"[]()") for name in text.split(",")]


def _items(text: str) -> Iterator[tuple[int, str]]:
    """Numbers and names of the items in TensorFlow's label map."""
    for item in re.findall(r"item\s*\{(.*?)\n?\}", text, re.DOTALL):
        given = {
            key: value
            for key, _, value in re.findall(r"(\w+)\s*:\s*(['\"]?)(.*?)\2\s*[,\n]", f"{item}\n")
        }
        name = given.get("display_name") or given.get("name")
        if name and re.fullmatch(r"\d{1,9}", given.get("id", "")):
            yield int(given["id"]), name


def name_pairs(tree: Any) -> list[tuple[int, str]]:
    """Numbers and names from a list of names or of mappings with id and name, or a mapping."""
    if isinstance(tree, dict):
        if key := next((key for key in LISTS if isinstance(tree.get(key), list | dict)), None):
            return name_pairs(tree[key])
        numbered = all(str(number).strip().isdecimal() for number in tree)
        rows = [*tree.items()] if numbered else [(number, name) for name, number in tree.items()]
    elif isinstance(tree, list) and all(isinstance(each, dict) for each in tree):
        rows = [(each.get("id"), each.get("name")) for each in tree]
    else:
        rows = list(enumerate(tree if isinstance(tree, list) else ()))
    pairs = [(str(number).strip(), name) for number, name in rows if isinstance(name, str)]
    whole = len(pairs) == len(rows) and all(number.isdecimal() for number, _ in pairs)
    return sorted((int(number), name) for number, name in pairs) if whole else []


def class_table(
    pairs: Iterable[tuple[int, Any]], findings: Findings, root: Path | None = None
) -> tuple[tuple[int, ...], tuple[str, ...], dict[int, int]]:
    """Category ids and names, both in label order, and id → label; classes of equal name merge.

    Names that are numbers are looked up in a list of class names in ``root``, if there is one.
    """
    labels: dict[int, int] = {}
    names: dict[str, int] = {}
    given_pairs = list(pairs)
    for id_, given in _by_number(given_pairs, findings, root) if root else given_pairs:
        try:
            name = check_name(given, "a class name")
        except ValueError:
            name = printable(given).strip() if isinstance(given, str) else ""
            name = name or f"class {id_}"
            findings.add("class-name-odd", f"class {id_} is called {name!r}")
        if id_ in labels:
            findings.add("class-id-repeated", f"{id_} is {list(names)[labels[id_]]!r} and {name!r}")
            continue
        if name in names:
            findings.add("class-name-repeated", f"{name!r}, also class {id_}")
        labels[id_] = names.setdefault(name, len(names))
    first = {label: id_ for id_, label in reversed(labels.items())}
    return tuple(first[label] for label in range(len(names))), tuple(names), labels


def _by_number(
    pairs: list[tuple[int, Any]], findings: Findings, root: Path
) -> list[tuple[int, Any]]:
    """The pairs with their numbers replaced by names, if all are numbers that a list names."""
    if not all(isinstance(name, str) and re.fullmatch(r"\d{1,9}", name) for _, name in pairs):
        return pairs
    file = names_beside(root)
    listed = dict(name_list(file, findings))
    unnamed = [f"{file} has no name for {name}" for _, name in pairs if int(name) not in listed]
    findings.add("class-names-missing", unnamed * bool(listed))
    return pairs if unnamed else [(id_, listed[int(name)]) for id_, name in pairs]


def listed_range(labels: Mapping[int, int], names: Sequence[str]) -> str:
    """What a message says of a class list: "the list has 0 cat to 2 bus"."""
    if not labels:
        return "no class is listed"
    return "the list has " + " to ".join(f"{id_} {names[labels[id_]]}" for id_ in _ends(labels))


def _ends(ids: Iterable[int]) -> list[int]:
    """The lowest and the highest of ``ids``; one of them if they are equal."""
    return sorted({min(ids), max(ids)})


@dataclass(frozen=True)
class Numbers:
    """The class numbers in a split's annotations, and those of the list of classes.

    step  what the former are too high by: 1 where they count from 1 and the list from 0
    """

    used: frozenset[int] = frozenset()
    listed: frozenset[int] = frozenset()
    step: int = 0

    @property
    def doubtful(self) -> bool:
        """Whether other splits have to show how the numbers count."""
        return self.step != 0 or any(map(self.may_step, (1, -1)))

    def may_step(self, step: int) -> bool:
        """Whether every number is listed once ``step`` is subtracted."""
        return bool(self.used) and {number - step for number in self.used} <= self.listed


def find_step(
    used: Iterable[int], listed: Iterable[int], expected: int | None, findings: Findings, place: str
) -> Numbers:
    """The class numbers with their step, which is counted; ``expected`` is that of another split.

    Numbers that are not listed have a step if all are with it; and are mended if they are most of
    the classes, as a class that lacks a name looks the same.
    """
    numbers = Numbers(frozenset(used), frozenset(listed))
    other = bool(numbers.used - numbers.listed)
    step = next((each for each in (1, -1) if other and numbers.may_step(each)), 0)
    sure = 2 * len(numbers.used) >= len(numbers.listed)
    taken = (step if sure else 0) if expected is None else expected
    if step or taken:
        spans = [" to ".join(map(str, _ends(ids))) for ids in (numbers.used, numbers.listed)]
        example = f"{place}; used: {spans[0]}, listed: {spans[1]}"
        kind = "class-counted" if taken else "class-shifted"
        findings.add(kind, example, len(numbers.used))
    return replace(numbers, step=taken)
