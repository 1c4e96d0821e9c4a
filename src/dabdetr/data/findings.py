"""Faults of a data set: counted by kind, with examples and the action taken.

Readers are tolerant: a faulty row is left out or mended, and counted here. Nothing is dropped,
guessed or reinterpreted without being counted. ``refuse`` turns the findings into one error.
"""

from __future__ import annotations

import sys
import tomllib
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path
from typing import Any, Literal

from dabdetr.text import Lines, printable, shortened

Action = Literal["skipped", "mended", "kept", "noted"]
"""Left out; read as something else; read unchanged although likely wrong; harmless."""

EXAMPLES = 3
LONGEST = 160
"""Most characters of an example."""

_KEPT = ContextVar("examples kept of a kind", default=EXAMPLES)


@contextmanager
def keeping_all() -> Iterator[None]:
    """Context within which every example is kept, for a log."""
    token = _KEPT.set(sys.maxsize)
    try:
        yield
    finally:
        _KEPT.reset(token)


@dataclass(frozen=True)
class Kind:
    """One kind of finding; kinds.toml explains the fields."""

    name: str
    action: Action
    what: str
    done: str
    effect: str
    remedy: str
    hint: bool = False


_TABLES = tomllib.loads(Path(__file__).with_name("kinds.toml").read_text("utf-8"))
KINDS, CHECKS = (
    {name: Kind(name, **row) for name, row in _TABLES[table].items()}
    for table in ("reading", "checks")
)
"""Kinds found by the readers, and kinds found only by the doctor's checks, by name."""


@dataclass
class Finding:
    """The number of findings of a kind, and the first examples."""

    kind: Kind
    count: int = 0
    kept: list[str] = field(default_factory=list)

    @property
    def examples(self) -> list[str]:
        """The first examples, for messages."""
        return self.kept[:EXAMPLES]

    def __str__(self) -> str:
        first = f" (first: {self.examples[0]})" if self.examples else ""
        return f"{self.kind.what}: {self.count:,}, {self.kind.done}{first}"

    def to_dict(self) -> dict[str, Any]:
        """Plain values, ready for JSON."""
        kind = self.kind
        return {
            "kind": kind.name,
            "action": kind.action,
            "what": kind.what,
            "done": kind.done,
            "count": self.count,
            "examples": self.examples,
        }


class Findings:
    """Findings by kind, in the order of the first occurrence."""

    def __init__(self) -> None:
        self._found: dict[str, Finding] = {}

    def add(self, name: str, examples: str | Iterable[str] = (), count: int | None = None) -> None:
        """Add ``count`` findings of the kind ``name``; by default as many as there are examples.

        Does nothing if there are none. The first examples are kept, or all within ``keeping_all``;
        with a ``count``, the iterable is consumed no further.
        """
        given = [examples] if isinstance(examples, str) else examples
        if count is None:
            given = list(given)
            count = len(given)
        if not count:
            return
        found = self._found.setdefault(name, Finding(KINDS[name]))
        found.count += count
        room = _KEPT.get() - len(found.kept)
        found.kept += [shortened(printable(each), LONGEST) for each in islice(given, room)]

    def merge(self, other: Findings) -> None:
        """Add the findings of ``other``."""
        for name, found in other._found.items():
            self.add(name, found.kept, found.count)

    def count(self, name: str) -> int:
        """The number of findings of a kind."""
        return self._found[name].count if name in self._found else 0

    def __iter__(self) -> Any:
        return iter(self._found.values())

    def __len__(self) -> int:
        return len(self._found)

    def of(self, *actions: Action) -> list[Finding]:
        """The findings whose action is one of ``actions``."""
        return [found for found in self if found.kind.action in actions]

    def to_dict(self) -> list[dict[str, Any]]:
        """Plain values, ready for JSON."""
        return [found.to_dict() for found in self]


def refuse(found: dict[str, Findings]) -> None:
    """Raise ValueError listing all that was left out, mended or is likely wrong, by split."""
    faults = [
        f"{split}: {each}"
        for split, findings in found.items()
        for each in findings.of("skipped", "mended", "kept")
    ]
    if len(faults) == 1:
        raise ValueError(f"{faults[0]}; repair the files, or leave out --strict")
    if faults:
        head = f"the data have {len(faults)} kinds of faults; repair them, or leave out --strict:"
        raise Lines(head, *(f"  {each}" for each in faults))
