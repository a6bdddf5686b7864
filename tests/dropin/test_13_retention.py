"""Point 13: nothing is kept alive longer than the stdlib does, with the cyclic collector off."""

from __future__ import annotations

import gc
import sys
import threading
import tracemalloc
import weakref
from collections.abc import Callable, Iterator
from concurrent.futures import Executor, Future, ThreadPoolExecutor
from typing import Any

import pytest

from .makers import ALL, TIMEOUT, Make, Maker, block, nothing, settle

pytestmark = pytest.mark.timeout(120)


@pytest.fixture(autouse=True)
def _no_cyclic_collector() -> Iterator[None]:
    gc.disable()
    yield
    gc.enable()


class Big:
    """Something whose life can be watched."""

    def method(self, *_: object) -> None:
        """Do nothing."""

    def __call__(self, *_: object) -> None:
        """Do nothing."""


class Oops(Exception):
    """An error whose life can be watched: `Oops.last` refers to the last one, weakly."""

    last: Callable[[], object]

    def __init__(self) -> None:
        Oops.last = weakref.ref(self)


def watched() -> tuple[Big, weakref.ref[Big]]:
    """Return a new object and a weak reference to it."""
    big = Big()
    return big, weakref.ref(big)


def test_arguments_are_dropped_when_the_call_is_done(make: Make) -> None:
    executor = make(1)
    first, positional = watched()
    second, keyword = watched()
    future = executor.submit(nothing, first, key=second)
    del first, second
    settle(executor)
    assert positional() is None
    assert keyword() is None
    assert future.result(TIMEOUT) is None


def test_arguments_are_dropped_when_the_call_has_failed(make: Make) -> None:
    executor = make(1)
    big, reference = watched()

    def fail(_: object) -> None:
        del _
        raise Oops

    future = executor.submit(fail, big)
    del big
    settle(executor)
    assert reference() is None
    assert isinstance(future.exception(), Oops)


def test_a_function_is_dropped_when_the_call_is_done(make: Make) -> None:
    executor = make(1)

    def function() -> None:
        """Do nothing."""

    reference = weakref.ref(function)
    future = executor.submit(function)
    del function
    settle(executor)
    assert reference() is None
    del future


@pytest.mark.parametrize("kind", ["function", "closure", "method", "object"])
def test_a_function_is_dropped_after_thousands_of_calls_of_it(make: Make, kind: str) -> None:
    executor = make(1)
    big, of_big = watched()

    def closure(*_: object) -> Big:
        return big  # noqa: F821 - deleted below, on purpose

    def function(*_: object) -> None:
        """Do nothing."""

    fn: Callable[..., Any] = {
        "function": function,
        "closure": closure,
        "method": big.method,
        "object": big,
    }[kind]
    for future in [executor.submit(fn, n) for n in range(3000)]:
        future.result(TIMEOUT)
    del future
    assert sum(1 for _ in executor.map(fn, range(3000))) == 3000
    of_function, of_closure = weakref.ref(function), weakref.ref(closure)
    del fn, function, closure, big
    settle(executor)
    assert of_function() is None
    assert of_closure() is None
    assert of_big() is None


def test_a_result_is_dropped_with_its_future(make: Make) -> None:
    executor = make(1)
    future = executor.submit(Big)
    reference = weakref.ref(future.result(TIMEOUT))
    settle(executor)
    assert reference() is not None
    del future
    assert reference() is None


def test_a_result_that_nobody_waits_for_is_dropped_at_once(make: Make) -> None:
    executor = make(1)
    references: list[weakref.ref[Big]] = []

    def work() -> Big:
        big, reference = watched()
        references.append(reference)
        return big

    executor.submit(work)
    settle(executor)
    assert references[0]() is None


def test_a_future_is_dropped_when_the_call_is_done(make: Make) -> None:
    executor = make(1)
    future = executor.submit(nothing)
    future.add_done_callback(nothing)
    reference = weakref.ref(future)
    future.result(TIMEOUT)
    settle(executor)
    del future
    assert reference() is None


def test_a_cancelled_call_is_dropped_when_its_turn_comes(make: Make) -> None:
    executor = make(1)
    release = block(executor)
    big, reference = watched()
    future = executor.submit(big.method, big)
    of_future = weakref.ref(future)
    assert future.cancel()
    del big
    release.set()
    settle(executor)
    assert reference() is None
    del future
    assert of_future() is None


def test_a_cancelled_call_is_dropped_at_once(ours: Make) -> None:
    # The stdlib keeps it until its turn comes.
    executor = ours(1)
    release = block(executor)
    big, reference = watched()
    other, keyword = watched()
    future = executor.submit(big.method, big, key=other)
    del big, other
    assert reference() is not None
    assert future.cancel()
    assert reference() is None
    assert keyword() is None
    release.set()


def test_calls_that_shutdown_cancels_are_dropped(make: Make) -> None:
    executor = make(1)
    release = block(executor)
    big, reference = watched()
    future = executor.submit(big.method, big)
    results = executor.map(nothing, [big])
    del big
    executor.shutdown(wait=False, cancel_futures=True)
    release.set()
    executor.shutdown()
    assert future.cancelled()
    del future, results
    assert reference() is None


def _fail(_: object) -> None:
    # No name for the error: its traceback refers to this frame.
    raise Oops


def test_result_makes_no_cycle_of_a_call_that_failed(make: Make) -> None:
    executor = make(1)
    big, argument = watched()
    try:
        executor.submit(_fail, big).result(TIMEOUT)
    except Oops:
        pass
    del big
    settle(executor)
    assert Oops.last() is None
    assert argument() is None


def test_a_future_that_failed_makes_no_cycle_by_itself(make: Make) -> None:
    executor = make(1)
    big, argument = watched()
    future = executor.submit(_fail, big)
    assert isinstance(future.exception(TIMEOUT), Oops)
    del big
    settle(executor)
    assert Oops.last() is not None
    del future
    assert Oops.last() is None
    assert argument() is None


def test_an_error_of_a_map_makes_no_cycle(make: Make) -> None:
    executor = make(1)
    big, argument = watched()
    try:
        list(executor.map(_fail, [big, big, big]))
    except Oops:
        pass
    del big
    settle(executor)
    assert Oops.last() is None
    assert argument() is None


def test_a_time_out_of_result_makes_no_cycle(make: Make) -> None:
    executor = make(1)
    release = block(executor)
    references: list[weakref.ref[Big]] = []

    def ask() -> None:
        _big, reference = watched()  # lives as long as the traceback that refers to this frame
        references.append(reference)
        executor.submit(nothing).result(0)

    try:
        ask()
    except TimeoutError:
        assert references[0]() is not None
    assert references[0]() is None
    release.set()


def test_a_callback_is_dropped_with_its_future(make: Make) -> None:
    executor = make(1)
    big, reference = watched()
    future = executor.submit(nothing)
    future.add_done_callback(big.method)
    del big
    future.result(TIMEOUT)
    settle(executor)
    del future
    assert reference() is None


def _freed_event(executor: Executor) -> tuple[threading.Event, weakref.ref[Executor]]:
    freed = threading.Event()
    return freed, weakref.ref(executor, lambda _: freed.set())


def test_an_executor_that_was_never_used_is_freed_at_once(fresh: Make) -> None:
    executor = fresh(2)
    freed, _reference = _freed_event(executor)
    del executor
    assert freed.is_set()


def test_an_idle_executor_is_freed_and_its_threads_end(make: Make) -> None:
    executor = make(4)
    barrier = threading.Barrier(4)

    def work(_: object) -> threading.Thread:
        barrier.wait(TIMEOUT)
        return threading.current_thread()

    threads = {future.result(TIMEOUT) for future in [executor.submit(work, 0) for _ in range(4)]}
    threads |= set(executor.map(work, range(4)))
    assert len(threads) == 4
    freed, _reference = _freed_event(executor)
    del executor
    # A worker that has just delivered a result may hold it for another moment.
    assert freed.wait(TIMEOUT)
    for thread in threads:
        thread.join(TIMEOUT)
        assert not thread.is_alive()


def test_an_executor_that_was_shut_down_is_freed(make: Make) -> None:
    executor = make(2)
    futures = [executor.submit(nothing) for _ in range(5)]
    executor.shutdown()
    freed, _reference = _freed_event(executor)
    del executor
    assert freed.wait(TIMEOUT)
    assert all(future.done() for future in futures)


def test_futures_do_not_keep_their_executor_alive(make: Make) -> None:
    executor = make(2)
    futures = [executor.submit(abs, n) for n in range(5)]
    results = executor.map(abs, range(5))
    assert [future.result(TIMEOUT) for future in futures] == list(range(5))
    assert list(results) == list(range(5))
    freed, _reference = _freed_event(executor)
    del executor
    assert freed.wait(TIMEOUT)


def test_an_executor_that_is_dropped_does_its_queued_work_and_its_threads_end(
    make: Make,
) -> None:
    executor = make(1)
    release = block(executor)
    thread = executor.submit(threading.current_thread)
    calls: list[int] = []
    futures = [executor.submit(calls.append, n) for n in range(50)]
    results = executor.map(calls.append, range(50, 100))
    del executor
    release.set()
    for future in futures:
        future.result(TIMEOUT)
    assert list(results) == [None] * 50
    worker = thread.result(TIMEOUT)
    worker.join(TIMEOUT)
    assert not worker.is_alive()
    assert calls == list(range(100))


def _blocks() -> int:
    gc.collect()
    return sys.getallocatedblocks()


SOME = tuple(m for m in ALL if m.name in ("stdlib", "thread", "hybrid", "always-process"))
some = pytest.mark.parametrize("maker", SOME, ids=lambda maker: maker.name)


@some
def test_thousands_of_calls_leave_no_memory_behind_when_their_futures_are_dropped(
    maker: Maker,
) -> None:
    with maker.load()["make"](2) as executor:

        def submit(count: int) -> None:
            futures: list[Future[None]] = [executor.submit(nothing) for _ in range(count)]
            for future in futures:
                future.result(TIMEOUT)

        submit(1000)
        before = _blocks()
        submit(50_000)
        # A leak of one small object for each call would be 50,000 blocks.
        assert _blocks() - before < 500


@some
def test_thousands_of_mapped_calls_leave_no_memory_behind(maker: Maker) -> None:
    with maker.load()["make"](2) as executor:
        assert sum(1 for _ in executor.map(nothing, range(1000))) == 1000
        before = _blocks()
        assert sum(1 for _ in executor.map(nothing, range(20_000))) == 20_000
        assert _blocks() - before < 500


@some
def test_thousands_of_functions_called_once_leave_no_memory_behind(maker: Maker) -> None:
    with maker.load()["make"](2) as executor:

        def submit(count: int) -> None:
            for _ in range(count):
                executor.submit(lambda: None).result(TIMEOUT)

        submit(500)
        before = _blocks()
        submit(5000)
        assert _blocks() - before < 500


def _bytes_per_pending_call(executor: Executor, count: int = 5000) -> float:
    release = block(executor)
    futures: list[Any] = [None] * count
    argument = object()
    for _ in range(2):  # the first time warms up
        tracemalloc.start()
        try:
            before = tracemalloc.get_traced_memory()[0]
            for index in range(count):
                futures[index] = executor.submit(nothing, argument)
            after = tracemalloc.get_traced_memory()[0]
        finally:
            tracemalloc.stop()
    release.set()
    executor.shutdown()
    return (after - before) / count


def test_a_pending_call_takes_at_most_a_third_of_the_stdlib_s_memory(ours: Make) -> None:
    theirs = _bytes_per_pending_call(ThreadPoolExecutor(1))
    assert _bytes_per_pending_call(ours(1)) <= theirs / 3
