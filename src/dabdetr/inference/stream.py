"""The one loop from images to results: prepared ahead of time, in batches, one after the other."""

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


def check_on_error(on_error: OnError) -> None:
    """ValueError for what is no ``OnError``."""
    if not (on_error in ("raise", "skip") or callable(on_error)):
        raise ValueError(f"on_error should be 'raise', 'skip' or a function; got {on_error!r}")


def report(failure: Unreadable, on_error: OnError) -> None:
    """Treat an unreadable image as ``on_error`` wants."""
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


def run(
    work: Callable[[Sequence[Any], Sizes, Sequence[str]], Sequence[Result]],
    prepared: Iterator[Prepared | Unreadable],
    batch: int = 1,
    on_error: OnError = "raise",
    ahead: bool = False,
) -> Iterator[tuple[Prepared, Result]]:
    """Every prepared view with its result, in order: the loop of all verbs.

    ``work`` takes batches: prepared pixels of one size, the views' (height, width) in the image and
    the images' names; mostly it is a ``Runtime.detect``. Views are prepared ``ahead`` in a thread.
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
    """Every view of every image as the runtime takes it: the whole image, or its tiles as well."""
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


def prefetch(items: Iterator[Item], count: int) -> Generator[Item]:
    """The same items in the same order, ``count`` of them made in a thread before they are asked
    for, and never more.

    Nothing is made before the first is asked for. An exception comes out in the place of the item
    that raised it. Closing this iterator, or leaving it half read, ends the thread.

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
        except BaseException as error:  # of whatever kind: it is raised where the item is missed
            made.put((None, error))

    with _computing_alone(1) as begin:
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
            del item  # a frame is large; it should not wait here for the next one
    finally:
        stopped.set()
        room.release()
        thread.join()
        if isinstance(items, Generator):
            items.close()


MOST_THREADS = 64
"""That read images; more have nothing to do on any machine, and each takes memory."""


def in_threads(
    make: Callable[[Item], Result], items: Iterable[Item], workers: int
) -> Iterator[Result]:
    """``make(item)`` for every item, in order; so many threads work a few items ahead."""
    waiting: deque[Any] = deque()
    workers = min(workers, MOST_THREADS)
    with _computing_alone(workers) as begin:
        pool = ThreadPoolExecutor(workers, "dabdetr reading", begin)
        for _ in range(workers):  # all threads start now, as each waits for the others
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
def _computing_alone(threads: int) -> Iterator[Callable[[], None]]:
    """Inside, so many threads start, and each calls the function given first.

    What torch computes in them is computed by them alone: with helpers of their own, which wait
    busily, they would fight with those of the model for the cores (a seventh of the speed on two).
    """
    torch: Any = sys.modules.get("torch")
    before = torch.get_num_threads() if torch else 0
    begun = threading.Barrier(threads + 1)

    def begin() -> None:
        if torch:
            torch.set_num_threads(1)
            torch.get_num_threads()  # what a thread asks first takes the number set last, anywhere
        begun.wait()

    yield begin
    begun.wait()
    if torch:
        torch.set_num_threads(before)  # for threads that start later
