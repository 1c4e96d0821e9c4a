"""Progress bars on stderr, for items and for named steps; on terminals only."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import TYPE_CHECKING, Any, TypeVar

if TYPE_CHECKING:
    from rich.progress import Progress

Item = TypeVar("Item")


def tracked(
    items: Iterable[Item], title: str, total: int | None = None, shown: bool = True
) -> Iterator[Item]:
    """The same items; a bar shows their number, and the time left if their ``total`` is known."""
    with _bar(shown, counts=total is None) as bar:
        yield from items if bar is None else bar.track(items, total=total, description=title)


@contextmanager
def progress_steps(total: int, shown: bool) -> Iterator[Callable[..., None]]:
    """A bar over named steps; ``total`` is the sum of their sizes.

    Yields the function that ends the current step and begins one of this name and size (1).
    """
    with _bar(shown, transient=True) as bar:
        task = None if bar is None else bar.add_task("", total=total)
        size = 0

        def begin(what: str, of_size: int = 1) -> None:
            nonlocal size
            if bar is not None and task is not None:
                bar.update(task, advance=size, description=what)
            size = of_size

        yield begin


def _bar(
    shown: bool, counts: bool = False, transient: bool = False
) -> AbstractContextManager[Progress | None]:
    """A bar if it is to be ``shown`` and stderr is a terminal; ``counts`` shows no time left."""
    if not (shown and sys.stderr.isatty()):
        return nullcontext()
    from rich.console import Console
    from rich.progress import Progress, TextColumn, TimeElapsedColumn

    columns: tuple[Any, ...] = ()
    if counts:
        columns = (TextColumn("{task.completed} {task.description}"), TimeElapsedColumn())
    return Progress(*columns, console=Console(stderr=True), transient=transient)
