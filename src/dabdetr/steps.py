"""Progress bars on stderr, for items and for named steps; on terminals only."""

from __future__ import annotations

import sys
from collections.abc import Iterable, Iterator
from typing import Any, Self, TypeVar

Item = TypeVar("Item")


def tracked(
    items: Iterable[Item], title: str, total: int | None = None, shown: bool = True
) -> Iterator[Item]:
    """The same items; a bar shows their number, and the time left if their ``total`` is known."""
    if not (shown and sys.stderr.isatty()):
        yield from items
        return
    from rich.console import Console
    from rich.progress import Progress, TextColumn, TimeElapsedColumn

    columns: tuple[Any, ...] = ()
    if total is None:
        columns = (TextColumn("{task.completed} {task.description}"), TimeElapsedColumn())
    with Progress(*columns, console=Console(stderr=True)) as bar:
        yield from bar.track(items, total=total, description=title)


class Steps:
    """A progress bar over named steps; ``total`` is the sum of their sizes.

    >>> with Steps(3, shown=False) as steps:
    ...     steps.begin("tracing", 2)
    ...     steps.begin("comparing")
    ...     steps.done
    2
    """

    def __init__(self, total: int, shown: bool) -> None:
        self.total, self.done, self._size = total, 0, 0
        self._bar: Any = None
        if shown and sys.stderr.isatty():
            from rich.console import Console
            from rich.progress import Progress

            self._bar = Progress(console=Console(stderr=True), transient=True)
            self._task = self._bar.add_task("", total=total)

    def begin(self, what: str, size: int = 1) -> None:
        """End the current step and begin one named ``what``, of this size."""
        self.done += self._size
        self._size = size
        if self._bar is not None:
            self._bar.update(self._task, completed=self.done, description=what)

    def __enter__(self) -> Self:
        if self._bar is not None:
            self._bar.start()
        return self

    def __exit__(self, *_: object) -> None:
        if self._bar is not None:
            self._bar.stop()
