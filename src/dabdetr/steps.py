"""A progress bar with the time left for long work of several steps; on terminals only."""

from __future__ import annotations

import sys
from typing import Any, Self


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
