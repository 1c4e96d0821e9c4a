"""Reading ahead changes neither order nor errors, and never reads more than it may."""

from __future__ import annotations

import gc
import threading
import time
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from dabdetr.inference.runtime import Sizes
from dabdetr.inference.stream import (
    MOST_THREADS,
    Prepared,
    SourceImage,
    Unreadable,
    groups,
    in_threads,
    prefetch,
    readable,
    run,
)


@pytest.fixture(autouse=True)
def _no_threads_of_other_tests() -> None:
    """Streams that other tests interrupted end when they are collected."""
    gc.collect()


def running() -> int:
    return sum(thread.name == "dabdetr reading" for thread in threading.enumerate())


def until(count: int, made: list[int]) -> None:
    """Wait for the thread to have made so many; then a little more, to see that it stops there."""
    for _ in range(500):
        if len(made) >= count:
            break
        time.sleep(0.01)
    time.sleep(0.05)


@given(st.lists(st.integers(), max_size=20), st.integers(1, 5))
def test_the_same_items_in_the_same_order(items: list[int], count: int) -> None:
    assert list(prefetch(iter(items), count)) == items
    assert running() == 0


@pytest.mark.parametrize("count", [1, 3])
def test_no_more_is_read_ahead_than_allowed(count: int) -> None:
    made: list[int] = []

    def endless() -> Iterator[int]:
        while True:
            made.append(len(made))
            yield made[-1]

    stream = prefetch(endless(), count)
    time.sleep(0.05)
    assert made == []
    for taken in range(1, 6):
        assert next(stream) == taken - 1
        until(taken + count, made)
        assert len(made) == taken + count
    stream.close()
    assert running() == 0


def test_reading_goes_on_while_the_caller_works() -> None:
    begun = threading.Event()

    def two() -> Iterator[int]:
        yield 1
        begun.set()
        yield 2

    stream = prefetch(two(), 1)
    assert next(stream) == 1
    assert begun.wait(5)  # nobody asked for the second yet
    assert list(stream) == [2]


def test_an_error_comes_in_its_turn() -> None:
    def failing() -> Iterator[int]:
        yield 1
        yield 2
        raise KeyError("third")

    stream = prefetch(failing(), 5)
    assert (next(stream), next(stream)) == (1, 2)
    with pytest.raises(KeyError, match="third"):
        next(stream)
    assert running() == 0


def test_a_stream_left_half_read_ends_its_thread_and_its_source() -> None:
    closed: list[bool] = []

    def source() -> Iterator[int]:
        try:
            while True:
                yield 0
        finally:
            closed.append(True)

    stream = prefetch(source(), 2)
    next(stream)
    assert running() == 1
    del stream
    gc.collect()
    assert running() == 0
    assert closed == [True]


def test_what_was_handed_out_is_not_kept() -> None:
    import weakref

    arrays = (np.zeros(3) for _ in range(4))
    stream = prefetch(arrays, 1)
    first = weakref.ref(next(stream))
    next(stream)
    gc.collect()
    assert first() is None
    stream.close()


def _prepared(name: str, width: int) -> Prepared:
    image = SourceImage(np.zeros((4, width, 3), np.uint8), name)
    return Prepared(image, [(0, 0, width, 4)], 0, np.zeros((3, 4, width)))


def test_groups_are_neighbours_of_one_size() -> None:
    items = [_prepared(*each) for each in zip("abcdefg", (1, 1, 1, 2, 2, 1, 2), strict=True)]
    made = groups(iter(items), 2)
    found = ["".join(e.image.name for e in group) for group in readable(made, "raise")]
    assert found == ["ab", "c", "de", "f", "g"]


def _widths(pixels: Sequence[Any], sizes: Sizes, names: Sequence[str]) -> list[int]:
    return [width for _, width in sizes]


@pytest.mark.parametrize("workers", [0, 1, 3])
@pytest.mark.parametrize("batch", [1, 8])
def test_a_failure_is_reported_after_all_results_before_it(workers: int, batch: int) -> None:
    broken = Unreadable("x", ValueError("x is broken"))
    items = [_prepared("a", 1), _prepared("b", 1), broken, _prepared("c", 1)]
    results = run(_widths, iter(items), batch, "raise", workers)
    assert [next(results)[0].image.name for _ in range(2)] == ["a", "b"]
    with pytest.raises(ValueError, match="x is broken"):
        next(results)
    told: list[str] = []
    results = run(_widths, iter(items), batch, lambda name, _: told.append(name), workers)
    assert [each.image.name for each, _ in results] == ["a", "b", "c"]
    assert told == ["x"]
    assert list(readable(iter([1, broken, 2]), "skip")) == [1, 2]


def test_work_runs_in_several_threads_and_results_keep_their_order() -> None:
    together = threading.Barrier(3)

    def work(pixels: Sequence[Any], sizes: Sizes, names: Sequence[str]) -> list[str]:
        if int(names[0]) < 3:
            together.wait(10)  # passes only if three calls run at a time
        time.sleep(0.01 * (3 - int(names[0]) % 3))
        return list(names)

    items = [_prepared(str(number), 1) for number in range(9)]
    found = [result for _, result in run(work, iter(items), workers=3)]
    assert found == [str(number) for number in range(9)]
    assert not [each for each in threading.enumerate() if "dabdetr" in each.name]


@pytest.mark.parametrize("workers", [0, 1, 3])
def test_a_result_is_not_held_back_by_a_source_that_waits(workers: int) -> None:
    """The source gives an image only when the result of the one before has come."""
    room = threading.Semaphore(2 if workers else 1)  # reading ahead requests one more

    def live() -> Iterator[Prepared]:
        for number in range(5):
            assert room.acquire(timeout=10)
            yield _prepared(str(number), 1)

    seen = []
    for each, _ in run(_widths, live(), workers=workers):
        seen.append(each.image.name)
        room.release()
    assert seen == list("01234")


def test_an_error_of_the_work_is_raised_in_its_turn() -> None:
    def work(pixels: Sequence[Any], sizes: Sizes, names: Sequence[str]) -> list[str]:
        if names == ["2"]:
            raise ValueError("2 is not finite")
        return list(names)

    results = run(work, (_prepared(str(number), 1) for number in range(9)), workers=2)
    assert [next(results)[1], next(results)[1]] == ["0", "1"]
    with pytest.raises(ValueError, match="2 is not finite"):
        next(results)
    assert not [each for each in threading.enumerate() if "dabdetr" in each.name]


def test_torch_has_no_helpers_in_the_thread_and_as_many_as_before_elsewhere() -> None:
    import torch

    def counts() -> Iterator[int]:
        yield torch.get_num_threads()

    before = torch.get_num_threads()
    torch.set_num_threads(2)
    try:
        elsewhere: list[int] = []
        for seen in prefetch(counts(), 1):
            assert seen == 1
            later = threading.Thread(target=lambda: elsewhere.append(torch.get_num_threads()))
            later.start()
            later.join()
        assert [*elsewhere, torch.get_num_threads()] == [2, 2]
    finally:
        torch.set_num_threads(before)


def test_threads_make_items_in_order_and_end() -> None:
    import torch

    torch.set_num_threads(2)
    try:
        seen: set[int] = set()

        def square(number: int) -> int:
            seen.add(torch.get_num_threads())
            time.sleep(0.002 * (number % 3))
            return number * number

        assert list(in_threads(square, range(20), 3)) == [n * n for n in range(20)]
        assert seen == {1}
        assert torch.get_num_threads() == 2
    finally:
        torch.set_num_threads(1)
    stream = in_threads(square, iter(range(10**9)), 2)
    assert next(stream) == 0
    stream.close()
    assert not [each for each in threading.enumerate() if "dabdetr reading" in each.name]


def test_a_huge_number_of_threads_starts_few() -> None:
    before = threading.active_count()
    stream = in_threads(lambda _: threading.active_count(), range(3), 10**20)
    assert max(stream) <= before + MOST_THREADS


def test_an_error_in_a_thread_is_raised_in_its_turn() -> None:
    def failing(number: int) -> int:
        if number == 2:
            raise KeyError("third")
        return number

    stream = in_threads(failing, range(5), 2)
    assert (next(stream), next(stream)) == (0, 1)
    with pytest.raises(KeyError, match="third"):
        next(stream)
