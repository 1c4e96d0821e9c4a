"""What verbs print and the folders they write: one JSON document or tables; all or nothing."""

from __future__ import annotations

import itertools
import os
import shutil
import sys
import tempfile
from collections.abc import Iterable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar
from urllib.parse import unquote, urlsplit

from dabdetr.text import json_text, printable

if TYPE_CHECKING:
    from rich.console import Console

Item = TypeVar("Item")

DRAWABLE = (".jpg", ".jpeg", ".png", ".webp", ".bmp", ".tif", ".tiff")
"""Endings that drawn images keep; others become .png."""


def print_json(document: dict[str, Any]) -> None:
    """The one document that ``--json`` promises, on stdout."""
    sys.stdout.write(json_text(document, indent=1) + "\n")


def console() -> Console:
    """Where tables go: stdout, wide enough for paths where it is no terminal."""
    from rich.console import Console

    return Console(width=None if sys.stdout.isatty() else 120, highlight=False)


def say(message: str, quiet: bool = False) -> None:
    """A line for people, on stderr."""
    if not quiet:
        print(printable(message, lines=True), file=sys.stderr)


def refuse_to_overwrite(
    path: Path | None, remedy: str = "choose another name", force: bool = False
) -> None:
    """Raise where ``path`` exists already or has no folder; checked before any work is done."""
    if path is None:
        return
    if path.is_dir() or (path.exists() and not force):
        raise FileExistsError(f"{path} exists and is not overwritten; {remedy}")
    if not path.parent.is_dir():
        raise FileNotFoundError(f"there is no folder {path.parent} to write {path.name} in")


def counted(items: Iterable[Item], what: str, quiet: bool) -> Iterator[Item]:
    """The same items; on a terminal, stderr shows how many went by and how fast."""
    from rich.console import Console
    from rich.progress import Progress, TextColumn, TimeElapsedColumn

    columns = (TextColumn("{task.completed} " + what), TimeElapsedColumn())
    hidden = quiet or not sys.stderr.isatty()
    with Progress(*columns, console=Console(stderr=True), disable=hidden) as bar:
        yield from bar.track(items, total=None)


def file_name(source: str, taken: set[str]) -> str:
    """The source's own name, numbered where it is ``taken``, ending in one of ``DRAWABLE``."""
    path = Path(unquote(urlsplit(source).path) if "://" in source else source)
    stem, suffix = path.stem or "image", path.suffix
    if suffix.lower() not in DRAWABLE:
        suffix = ".png"
    names = (stem + suffix if n == 1 else f"{stem}-{n}{suffix}" for n in itertools.count(1))
    name = next(name for name in names if name.lower() not in taken)
    taken.add(name.lower())
    return name


class RunFolder:
    """A new folder under ``project`` that appears when all is done; after an error nothing is left.

    Without a name, folders count ``verb-1``, ``verb-2``, …. Inside ``with``, write into ``path``;
    afterwards ``path`` is where it ended up.
    """

    def __init__(self, project: Path, name: str | None, verb: str) -> None:
        from dabdetr.files import check_folder_name

        self.project, self.name, self.verb = project, name, verb
        self.path = project / (name or verb)
        self._made: list[Path] = []
        if name:
            check_folder_name(name)
        if name and self.path.exists():
            raise FileExistsError(f"{self.path} exists and is not overwritten; choose another name")

    def __enter__(self) -> RunFolder:
        missing = [p for p in (self.project, *self.project.parents) if not p.exists()]
        try:
            self.project.mkdir(parents=True, exist_ok=True)
            self._made = missing
            self.path = Path(tempfile.mkdtemp(dir=self.project, prefix=f".{self.verb}-"))
        except OSError as error:
            raise OSError(
                f"the run folder {self.project} cannot be written "
                f"({(error.strerror or str(error)).lower()}); choose another folder"
            ) from None
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        if kind is None:
            self.path = self._publish()
            return
        shutil.rmtree(self.path, ignore_errors=True)
        with suppress(OSError):  # a folder that somebody else uses by now stays
            for folder in self._made:
                folder.rmdir()

    def _publish(self) -> Path:
        umask = os.umask(0)
        os.umask(umask)
        self.path.chmod(0o777 & ~umask)
        names = [self.name] if self.name else (f"{self.verb}-{n}" for n in itertools.count(1))
        for name in names:
            target = self.project / name
            if not target.exists():
                return self.path.rename(target)
        raise FileExistsError(
            f"{self.project / str(self.name)} exists by now; the run is in {self.path}"
        )
