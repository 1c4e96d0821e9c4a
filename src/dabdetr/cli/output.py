"""Output of verbs: one JSON document, or tables and lines for people; names of written files."""

from __future__ import annotations

import itertools
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import unquote, urlsplit

from dabdetr.files import check_place, check_writable, plain_name
from dabdetr.text import json_text, printable, wrapped

if TYPE_CHECKING:
    from rich.console import Console

DRAWABLE = (".jpg", ".jpeg", ".png", ".webp", ".bmp", ".tif", ".tiff")
"""Endings that drawn images keep; any other becomes .png."""


def print_json(document: dict[str, Any]) -> None:
    """Print the document of ``--json`` on stdout."""
    sys.stdout.write(json_text(document, indent=1) + "\n")


def console() -> Console:
    """The console for tables: stdout; 120 columns wide where it is not a terminal."""
    from rich.console import Console

    return Console(width=None if sys.stdout.isatty() else 120, highlight=False)


def say(message: str, quiet: bool = False) -> None:
    """Print a line for people on stderr."""
    if not quiet:
        print(wrapped(printable(message, lines=True), sys.stderr), file=sys.stderr)


def refuse_to_overwrite(
    path: Path | None, remedy: str = "choose another name", force: bool = False
) -> None:
    """OSError where ``path`` exists or cannot be written; called before any work is done."""
    if path is None:
        return
    check_place(path)
    if path.is_dir() and force:
        raise FileExistsError(f"{path} is a folder and is not overwritten; choose another name")
    if path.is_dir() or (path.exists() and not force):
        raise FileExistsError(f"{path} exists and is not overwritten; {remedy}")
    if not path.parent.is_dir():
        raise FileNotFoundError(f"there is no folder {path.parent} to write {path.name} in")
    check_writable(path.parent)


def file_name(source: str, taken: set[str]) -> str:
    """The file name of a source, numbered if ``taken``, with an ending in ``DRAWABLE``."""
    path = Path(unquote(urlsplit(source).path) if "://" in source else source)
    stem, suffix = plain_name(path.stem) or "image", path.suffix
    if suffix.lower() not in DRAWABLE:
        suffix = ".png"
    names = (stem + suffix if n == 1 else f"{stem}-{n}{suffix}" for n in itertools.count(1))
    name = next(name for name in names if name.lower() not in taken)
    taken.add(name.lower())
    return name
