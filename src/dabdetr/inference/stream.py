"""The loop from images to results that all verbs share: prefetching, views, batches, errors."""

from __future__ import annotations

import sys
import threading
from collections import deque
from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from queue import SimpleQueue
from typing import Any, Literal, NamedTuple, TypeVar

import numpy as np

from dabdetr.inference.runtime import Runtime, Sizes
from dabdetr.inference.tiling import Tiling, View

Item = TypeVar("Item")
Result = TypeVar("Result")

OnError = Literal["raise", "skip"] | Callable[[str, Exception], None]
"""Handling of an unreadable image: raise its error, skip it, or call (its name, its error)."""


class SourceImage(NamedTuple):
    """RGB uint8 [height, width, 3], and its path or address ("" for an image given in memory).

    For a video also the number of the frame, from 0, and its time in seconds.
    """

    array: np.ndarray
    name: str
    frame: int | None = None
    time: float | None = None


class Unreadable(NamedTuple):
    """Takes the place of an image that could not be read; ``error`` contains the name as well."""

    name: str
    error: Exception


class DamagedFrame(ValueError):
    """A frame of a video that cannot be decoded; the following frames often can."""


def check_on_error(on_error: OnError) -> None:
    """ValueError for a value that is not an ``OnError``."""
    if not (on_error in ("raise", "skip") or callable(on_error)):
        raise ValueError(f"on_error should be 'raise', 'skip' or a function; got {on_error!r}")


def report(failure: Unreadable, on_error: OnError) -> None:
    """Handle an unreadable image as ``on_error`` says: raise, skip or call it."""
    if on_error == "raise":
        raise failure.error from None
    if callable(on_error):
        on_error(*failure)


def readable(items: Iterator[Item | Unreadable], on_error: OnError) -> Iterator[Item]:
    """The items that could be read; an unreadable one is reported when its turn comes."""
    for item in items:
        if isinstance(item, Unreadable):
            report(item, on_error)
        else:
            yield item


class Prepared(NamedTuple):
    """View ``number`` of an image, and its pixels prepared for the model."""

    image: SourceImage
    views: list[View]
    number: int
    pixels: Any

    @property
    def view(self) -> View:
        """The corners of this view in the image."""
        return self.views[self.number]


def run(
    work: Callable[[Sequence[Any], Sizes, Sequence[str]], Sequence[Result]],
    prepared: Iterator[Prepared | Unreadable],
    batch: int = 1,
    on_error: OnError = "raise",
    ahead: bool = False,
) -> Iterator[tuple[Prepared, Result]]:
    """Every prepared view with its result, in order.

    ``work`` is called with batches: prepared pixels of one size, the (height, width) of the views
    in their image, and the names of the images; it is usually ``Runtime.detect``. With ``ahead``,
    views are prepared in a thread.
    """
    prepared = prefetch(prepared, batch + 1) if ahead else prepared
    for group in groups(prepared, batch, on_error):
        pixels = [each.pixels for each in group]
        sizes = [(y1 - y0, x1 - x0) for x0, y0, x1, y1 in (each.view for each in group)]
        names = [each.image.name for each in group]
        yield from zip(group, work(pixels, sizes, names), strict=True)


def views(
    runtime: Runtime, images: Iterable[SourceImage | Unreadable], tiling: Tiling | None = None
) -> Iterator[Prepared | Unreadable]:
    """Every view of every image, prepared for the runtime: its tiles, if any, then the whole."""
    for image in images:
        if isinstance(image, Unreadable):
            yield image
            continue
        height, width = image.array.shape[:2]
        places = tiling.views(height, width) if tiling else [(0, 0, width, height)]
        for number, (x0, y0, x1, y1) in enumerate(places):
            pixels = runtime.prepare(image.array[y0:y1, x0:x1])
            yield Prepared(image, places, number, pixels)
        del image


def groups(
    items: Iterator[Prepared | Unreadable], most: int, on_error: OnError
) -> Iterator[list[Prepared]]:
    """Batches of up to ``most`` consecutive views of one prepared size, which need no padding.

    An unreadable image is reported when the results of all images before it are out.
    """
    group: list[Prepared] = []
    for item in items:
        ends_group = isinstance(item, Unreadable) or (
            len(group) == most or (group and group[0].pixels.shape != item.pixels.shape)
        )
        if group and ends_group:
            yield group
            group = []
        if isinstance(item, Unreadable):
            report(item, on_error)
        else:
            group.append(item)
    if group:
        yield group


def prefetch(items: Iterator[Item], count: int) -> Generator[Item]:
    """The same items in the same order, up to ``count`` of them made ahead in a thread.

    The thread starts when the first item is requested. An exception is raised in the place of the
    item that caused it. Closing this iterator, or dropping it half read, ends the thread.
    """
    made: SimpleQueue[tuple[Item | None, BaseException | None]] = SimpleQueue()
    room, stopped = threading.Semaphore(count), threading.Event()

    def make() -> None:
        try:
            begin()
            while True:
                room.acquire()
                if stopped.is_set():
                    return
                made.put((next(items), None))
        except BaseException as error:  # of any kind: it is raised again in the consuming thread
            made.put((None, error))

    with _single_threaded(1) as begin:
        thread = threading.Thread(target=make, name="dabdetr reading", daemon=True)
        thread.start()
    try:
        while True:
            item, error = made.get()
            if isinstance(error, StopIteration):
                return
            if error is not None:
                raise error
            room.release()
            yield item  # pyright: ignore[reportReturnType]
            del item  # a frame is large; it should not stay in memory until the next one is made
    finally:
        stopped.set()
        room.release()
        thread.join()
        if isinstance(items, Generator):
            items.close()


MOST_THREADS = 64
"""Most threads that read images; more find no work on any machine, and each needs memory."""


def in_threads(
    make: Callable[[Item], Result], items: Iterable[Item], workers: int
) -> Iterator[Result]:
    """``make(item)`` for every item, in order; ``workers`` threads work a few items ahead."""
    waiting: deque[Any] = deque()
    workers = min(workers, MOST_THREADS)
    with _single_threaded(workers) as begin:
        pool = ThreadPoolExecutor(workers, "dabdetr reading", begin)
        for _ in range(workers):  # empty jobs start all threads now: each waits for the others
            pool.submit(int)
    try:
        for item in items:
            waiting.append(pool.submit(make, item))
            if len(waiting) > 2 * workers:
                yield waiting.popleft().result()
        while waiting:
            yield waiting.popleft().result()
    finally:
        pool.shutdown(cancel_futures=True)


@contextmanager
def _single_threaded(threads: int) -> Iterator[Callable[[], None]]:
    """Start ``threads`` threads inside ``with`` in which torch uses no further threads.

    Each of them has to call the function that this yields first. torch's own worker threads, which
    wait busily, would compete with those of the model for the cores: a seventh of the speed on two.
    """
    torch: Any = sys.modules.get("torch")
    before = torch.get_num_threads() if torch else 0
    all_begun = threading.Barrier(threads + 1)

    def begin() -> None:
        if torch:
            torch.set_num_threads(1)
            torch.get_num_threads()  # fixes it: a thread's first call reads the last number set
        all_begun.wait()

    yield begin
    all_begun.wait()
    if torch:
        torch.set_num_threads(before)  # for threads that start later
