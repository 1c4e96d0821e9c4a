"""The loop from images to results that all verbs share: prefetching, views, batches, errors."""

from __future__ import annotations

import sys
import threading
from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing, contextmanager
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
    workers: int = 0,
) -> Iterator[tuple[Prepared, Result]]:
    """Every prepared view with its result, in order.

    ``work`` is called with batches: prepared pixels of one size, the (height, width) of the views
    in their image, and the names of the images; it is usually ``Runtime.detect``. ``workers`` are
    those of ``Runtime``. An unreadable image is reported when all results before it are out.
    """

    def results(group: list[Prepared] | Unreadable) -> list[tuple[Prepared, Result]] | Unreadable:
        if isinstance(group, Unreadable):
            return group
        pixels = [each.pixels for each in group]
        sizes = [(y1 - y0, x1 - x0) for x0, y0, x1, y1 in (each.view for each in group)]
        names = [each.image.name for each in group]
        return list(zip(group, work(pixels, sizes, names), strict=True))

    grouped = groups(prefetch(prepared, batch + 1) if workers == 1 else prepared, batch)
    done = in_threads(results, grouped, workers) if workers > 1 else map(results, grouped)
    for found in readable(done, on_error):
        yield from found


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
    items: Iterator[Prepared | Unreadable], most: int
) -> Iterator[list[Prepared] | Unreadable]:
    """Batches of up to ``most`` consecutive views of one prepared size, which need no padding.

    A full batch does not wait for the next view.
    """
    group: list[Prepared] = []
    for item in items:
        if group and (isinstance(item, Unreadable) or group[0].pixels.shape != item.pixels.shape):
            yield group
            group = []
        if isinstance(item, Unreadable):
            yield item
            continue
        group.append(item)
        if len(group) == most:
            yield group
            group = []
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
    """``make(item)`` for every item, in order, each as soon as it is made.

    ``workers`` threads make a few items ahead of the one that was requested last. The items
    themselves come from a further thread, so that one which takes long to come delays no result.
    """
    workers = min(workers, MOST_THREADS)
    with _single_threaded(workers) as begin:
        pool = ThreadPoolExecutor(workers, "dabdetr reading", begin)
        for _ in range(workers):  # empty jobs start all threads now: each waits for the others
            pool.submit(int)
    try:
        submitted = (pool.submit(make, item) for item in items)
        with closing(prefetch(submitted, 2 * workers)) as waiting:
            for future in waiting:
                yield future.result()
                del future  # its result is large
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
