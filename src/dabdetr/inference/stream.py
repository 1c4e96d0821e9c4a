"""What comes out of a source, read ahead of time in a thread, and gathered to batches."""

from __future__ import annotations

import sys
import threading
from collections.abc import Callable, Generator, Iterator
from queue import SimpleQueue
from typing import Any, Literal, NamedTuple, TypeVar

import numpy as np

from dabdetr.inference.tiling import View

Item = TypeVar("Item")

OnError = Literal["raise", "skip"] | Callable[[str, Exception], None]
"""What an unreadable image does: end the stream, nothing, or call (its name, the error)."""


class SourceImage(NamedTuple):
    """RGB uint8 [height, width, 3], and its path or address ("" for one given in memory).

    Of a video: the number of the frame, from 0 on, and its time in seconds.
    """

    array: np.ndarray
    name: str
    frame: int | None = None
    time: float | None = None


class Unreadable(NamedTuple):
    """Stands in a stream where an image could not be read; the error names it as well."""

    name: str
    error: Exception


class DamagedFrame(ValueError):
    """A frame of a video that cannot be decoded; the ones after it often can."""


def check(on_error: OnError) -> None:
    """ValueError for what is no ``OnError``."""
    if not (on_error in ("raise", "skip") or callable(on_error)):
        raise ValueError(f"on_error should be 'raise', 'skip' or a function; got {on_error!r}")


def report(failure: Unreadable, on_error: OnError) -> None:
    """Do what ``on_error`` says."""
    if on_error == "raise":
        raise failure.error from None
    if callable(on_error):
        on_error(*failure)


def readable(items: Iterator[Item | Unreadable], on_error: OnError) -> Iterator[Item]:
    """The items that could be read; the others are reported in their turn."""
    for item in items:
        if isinstance(item, Unreadable):
            report(item, on_error)
        else:
            yield item


def ahead(items: Iterator[Item], count: int) -> Generator[Item]:
    """The same items in the same order, ``count`` of them made in a thread before they are asked
    for, and never more.

    Nothing is made before the first is asked for. An exception comes out in the place of the item
    that raised it. Closing this iterator, or leaving it half read, ends the thread.

    What torch computes in the thread is computed by it alone: with helpers of its own, which wait
    busily, it would fight with those of the model for the cores (a seventh of the speed on two).
    """
    torch: Any = sys.modules.get("torch")
    threads = torch.get_num_threads() if torch else 0
    made: SimpleQueue[tuple[Item | None, BaseException | None]] = SimpleQueue()
    room, stopped, begun = threading.Semaphore(count), threading.Event(), threading.Event()

    def make() -> None:
        try:
            if torch:
                torch.set_num_threads(1)
            begun.set()
            while True:
                room.acquire()
                if stopped.is_set():
                    return
                made.put((next(items), None))
        except BaseException as error:  # of whatever kind: it is raised where the item is missed
            made.put((None, error))

    thread = threading.Thread(target=make, name="dabdetr reading", daemon=True)
    thread.start()
    if torch:
        begun.wait()
        torch.set_num_threads(threads)  # threads that start later take the number said last
    try:
        while True:
            item, error = made.get()
            if isinstance(error, StopIteration):
                return
            if error is not None:
                raise error
            room.release()
            yield item  # pyright: ignore[reportReturnType]
            del item  # a frame is large; it should not wait here for the next one
    finally:
        stopped.set()
        room.release()
        thread.join()
        if isinstance(items, Generator):
            items.close()


class Prepared(NamedTuple):
    """One of the views of an image, and its pixels as the model takes them."""

    image: SourceImage
    views: list[View]
    number: int
    pixels: Any

    @property
    def view(self) -> View:
        """Where in the image this view lies."""
        return self.views[self.number]


def groups(
    items: Iterator[Prepared | Unreadable], most: int, on_error: OnError
) -> Iterator[list[Prepared]]:
    """Neighbours of one prepared size, ``most`` at once, so that none needs padding.

    What could not be read is reported when all before it has been answered.
    """
    group: list[Prepared] = []
    for item in items:
        unlike = isinstance(item, Unreadable) or (
            len(group) == most or (group and group[0].pixels.shape != item.pixels.shape)
        )
        if group and unlike:
            yield group
            group = []
        if isinstance(item, Unreadable):
            report(item, on_error)
        else:
            group.append(item)
    if group:
        yield group
