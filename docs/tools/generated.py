"""What pages take from the code while they are built: ``GENERATORS``, each name → Markdown."""

from __future__ import annotations

import ast
import csv
import re
from collections.abc import Callable
from pathlib import Path

from commands import commands
from family import family
from fields import fields

ROOT = Path(__file__).parents[2]
RACES = ROOT / "experiments" / "ladder"
SHOWN = "scenes"
"""The race whose images stand for the idea."""
CURVES = re.compile(r"^!\[(.*)\]\((\S*curves-\S+\.png)\)$", re.MULTILINE)
"""Images of three panels beside each other."""
LINK = re.compile(r"\]\((?![a-z]+:|#)([^)]+)\)")


def source(name: str) -> str:
    """The lines of a function, class or constant, such as ``dabdetr.geometry.move``."""
    path, symbols = _file(name)
    text = path.read_text()
    node: ast.AST = ast.parse(text)
    for symbol in symbols:
        node = _member(node, symbol, name)
    assert isinstance(node, ast.stmt)
    decorated = getattr(node, "decorator_list", [])
    first = min([node.lineno, *(each.lineno for each in decorated)])
    lines = text.splitlines()[first - 1 : node.end_lineno]
    indent = len(lines[0]) - len(lines[0].lstrip())
    code = "\n".join(line[indent:] for line in lines)
    title = f"{path.relative_to(ROOT).as_posix()}, line {first}"
    return f'```python title="{title}" linenums="{first}"\n{code}\n```'


def _file(name: str) -> tuple[Path, list[str]]:
    """The longest part of a dotted name that is a file, and what is left of it."""
    parts = name.split(".")
    for count in range(len(parts) - 1, 0, -1):
        base = ROOT.joinpath("src", *parts[:count])
        for path in (base.with_suffix(".py"), base / "__init__.py"):
            if path.is_file():
                return path, parts[count:]
    raise LookupError(f"no file holds {name}")


def _member(node: ast.AST, symbol: str, name: str) -> ast.AST:
    for child in getattr(node, "body", []):
        targets = child.targets if isinstance(child, ast.Assign) else [child]
        named = {getattr(each, "name", getattr(each, "id", None)) for each in targets}
        if symbol in named:
            return child
    raise LookupError(f"there is no {symbol} in {name}")


def races() -> str:
    """The reports of all races that are kept, with their images; those of scenes first."""
    found = RACES.glob("*/report.md")
    reports = sorted(found, key=lambda p: (not p.parent.name.startswith(SHOWN), p.parent.name))
    if not reports:
        return '!!! note "No race is kept yet"\n\n    `python -m experiments.race` writes one.'
    return "\n\n".join(_race(path) for path in reports)


def _race(path: Path) -> str:
    """A report one heading lower, folded, under its folder's name."""
    folder = path.parent.name
    lines = path.read_text().splitlines()
    body = [f"#{line}" if line.startswith("#") else line for line in lines]
    title = f"## {folder}"
    if lines and lines[0].startswith("# "):
        body = body[1:]
    body = [LINK.sub(rf"](race/{folder}/\1)", line) for line in body]
    opened = ["<details markdown=1>", f"<summary>The report of {folder}</summary>", ""]
    return _in_panels("\n".join([title, "", *opened, *body, "", "</details>"]))


def _in_panels(text: str) -> str:
    """Images of curves, followed by a copy for each panel; phones show these (extra.css)."""
    return CURVES.sub(r"![\1](\2) ![\1](\2){.panel}" + r" ![](\2){.panel}" * 2, text)


def curves() -> str:
    """The learning curves of the race whose images stand for the idea."""
    start = f"race/{SHOWN}/curves-ladder-"
    found = [place for place in race_files() if place.startswith(start)]
    least = min(found, key=lambda place: int(re.findall(r"\d+", place)[-1]), default=None)
    return _in_panels(f"![AP against epochs for every member]({least})") if least else ""


def race_files() -> dict[str, Path]:
    """Images and tables beside the reports, by their place in the site."""
    found = (p for kind in ("png", "svg", "csv") for p in sorted(RACES.glob(f"*/*.{kind}")))
    return {f"race/{path.parent.name}/{path.name}": path for path in found}


def attention() -> str:
    """Where a race's members look: numbers over its test split, then images; one folder deep."""
    parts = []
    for path in sorted((RACES / SHOWN).glob("attention-*.csv")):
        size = path.stem.rpartition("-")[2]
        images = sorted(
            place
            for place in race_files()
            if re.search(rf"/{SHOWN}/attention-.*-{size}.png", place)
        )
        if not images:
            continue
        parts.append(f"At {size} pixels, means over seeds:\n\n{_attention_table(path)}")
        parts += [f"![Where three members look at {size} pixels](../{place})" for place in images]
    if not parts:
        return (
            '!!! note "Not drawn yet"\n\n'
            "    `python -m experiments.race` draws it where its runs are finished."
        )
    return "\n\n".join(parts)


LOOKERS = {"detr": "DETR", "conditional": "Conditional DETR", "dab": "DAB-DETR"}
"""Rungs of a race whose images are shown, and their names."""


def _attention_table(path: Path) -> str:
    """Means over seeds of what a race measured of attention, in the last decoder layer."""
    with path.open() as file:
        rows = list(csv.DictReader(file))
    lines = ["| member | product | inside the box | centres | fit of width | fit of height |"]
    lines.append("| --- | --- | --- | --- | --- | --- |")
    for rung, title in LOOKERS.items():
        for part, name in (("position", "position alone"), ("all", "complete")):
            some = [row for row in rows if (row["rung"], row["part"]) == (rung, part)]
            if not some:
                continue
            inside, *others = (
                sum(float(row[key]) for row in some) / len(some)
                for key in ("inside", "centres", "width_fit", "height_fit")
            )
            shown = " | ".join(f"{value:.2f}".replace("-", "−") for value in others)
            lines.append(f"| {title} | {name} | {inside * 100:.0f} % | {shown} |")
    return "\n".join(lines)


GENERATORS: dict[str, Callable[..., str]] = {
    "source": source,
    "family": family,
    "commands": commands,
    "fields": fields,
    "races": races,
    "curves": curves,
    "attention": attention,
}
