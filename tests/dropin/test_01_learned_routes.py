"""Point 1: what was learned of a function never changes what a call of it means.

Each function here was called thousands of times, quickly and harmlessly, before the call that
counts.
"""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Callable
from concurrent.futures import Executor
from typing import Any, NoReturn

import pytest

from .makers import TIMEOUT, Make, block, new_event

pytestmark = pytest.mark.timeout(60)

CALLS = 3000

counter = 0


def season(executor: Executor, fn: Callable[..., Any], *args: Any) -> None:
    """Let the executor learn that `fn` is quick."""
    for future in [executor.submit(fn, *args) for _ in range(CALLS)]:
        future.result(TIMEOUT)
    assert sum(1 for _ in executor.map(fn, *([arg] * CALLS for arg in args))) == CALLS


def burn(seconds: float = 0.02) -> None:
    """Use the CPU of this thread."""
    end = time.thread_time() + seconds
    while time.thread_time() < end:
        pass


def test_a_function_that_was_quick_thousands_of_times_may_block_the_next_time(
    fresh: Make,
) -> None:
    def work(event: threading.Event | None) -> bool:
        return event is None or event.wait(2)

    executor = fresh(2)
    season(executor, work, None)
    event = new_event()
    future = executor.submit(work, event)  # run in the caller, it would wait in vain
    event.set()
    assert future.result(TIMEOUT) is True


def test_mapping_a_function_that_was_quick_thousands_of_times_may_block_the_next_time(
    fresh: Make,
) -> None:
    def work(event: threading.Event | None) -> bool:
        return event is None or event.wait(2)

    executor = fresh(2)
    season(executor, work, None)
    event = new_event()
    results = executor.map(work, [event, event])
    event.set()
    assert list(results) == [True, True]


def test_calls_of_a_function_that_was_quick_may_wait_for_each_other_the_next_time(
    fresh: Make,
) -> None:
    def work(barrier: threading.Barrier | None) -> None:
        if barrier is not None:
            barrier.wait(5)

    executor = fresh(8)
    season(executor, work, None)
    barrier = threading.Barrier(8)
    for future in [executor.submit(work, barrier) for _ in range(8)]:
        future.result(TIMEOUT)


def test_a_function_that_was_quick_still_runs_on_a_thread_of_the_pool(fresh: Make) -> None:
    executor = fresh(2, thread_name_prefix="pool")

    def work(_: object) -> threading.Thread:
        return threading.current_thread()

    season(executor, work, None)
    threads = {executor.submit(work, 0).result(TIMEOUT), *executor.map(work, range(10))}
    assert threading.current_thread() not in threads
    assert {thread.name for thread in threads} <= {"pool_0", "pool_1"}


def test_a_function_that_burns_the_cpu_may_change_a_global(fresh: Make) -> None:
    def work(really: bool) -> int:
        global counter
        if really:
            burn()
            counter += 1
        return os.getpid()

    executor = fresh(2)
    season(executor, work, False)
    before = counter
    pids = [executor.submit(work, True).result(TIMEOUT) for _ in range(10)]
    assert counter == before + 10
    assert set(pids) == {os.getpid()}


def test_a_function_that_burns_the_cpu_may_change_its_argument(fresh: Make) -> None:
    def work(those: list[int] | None) -> None:
        if those is not None:
            burn()
            those.append(len(those))

    executor = fresh(2)
    season(executor, work, None)
    those: list[int] = []
    for _ in range(10):
        executor.submit(work, those).result(TIMEOUT)
    assert those == list(range(10))


def test_a_function_may_return_its_very_argument(fresh: Make) -> None:
    def work(value: object, really: bool = False) -> object:
        if really:
            burn(0.005)
        return value

    executor = fresh(2)
    season(executor, work, None)
    for value in (object(), [1], {"a": 1}, b"x" * 100_000, threading.Lock(), work):
        assert executor.submit(work, value, True).result(TIMEOUT) is value
        assert executor.submit(work, value=value).result(TIMEOUT) is value
        assert next(executor.map(work, [value])) is value


def test_an_argument_may_be_changed_until_the_call_starts(fresh: Make) -> None:
    def work(those: list[int]) -> int:
        return sum(those)

    executor = fresh(1)
    season(executor, work, [])
    release = block(executor)
    those = [1]
    single = executor.submit(work, those)
    mapped = executor.map(work, [those])
    those.append(2)
    release.set()
    assert single.result(TIMEOUT) == 3
    assert list(mapped) == [3]


class Untouchable:
    """An argument that nobody may look at on its way."""

    def _touched(self, *_: object) -> NoReturn:
        touched.append(self)
        raise AssertionError("the argument was probed")

    __reduce_ex__ = __reduce__ = __getstate__ = _touched  # type: ignore[assignment]
    __copy__ = __deepcopy__ = _touched
    __eq__ = __bool__ = __len__ = __iter__ = __call__ = _touched  # type: ignore[assignment]
    __repr__ = __str__ = __sizeof__ = _touched
    __hash__ = _touched  # type: ignore[assignment]


touched: list[object] = []


def test_arguments_and_results_are_neither_pickled_nor_copied_nor_looked_at(fresh: Make) -> None:
    def work(value: object) -> object:
        burn(0.002)
        return value

    executor = fresh(2)
    season(executor, lambda value: value, None)
    touched.clear()
    value = Untouchable()
    for _ in range(20):
        assert executor.submit(work, value).result(TIMEOUT) is value
        assert next(executor.map(work, [value])) is value
    assert len(touched) == 0


class HostileCallable:
    """A callable that cannot be hashed, compared, pickled or asked for an attribute."""

    __hash__ = None  # type: ignore[assignment]

    def __eq__(self, other: object) -> bool:
        raise AssertionError("the function was compared")

    def __reduce_ex__(self, protocol: object) -> NoReturn:
        raise AssertionError("the function was pickled")

    def __bool__(self) -> bool:
        raise AssertionError("the function was tested")

    def __getattr__(self, name: str) -> object:
        return self  # has every attribute: `options`, `__wrapped__`, `__self__`, ...

    def __call__(self, value: int) -> tuple[int, int]:
        return value, threading.get_ident()


def test_a_function_is_called_and_nothing_else_is_done_to_it(make: Make) -> None:
    executor = make(2)
    work = HostileCallable()
    for n in range(50):
        value, ident = executor.submit(work, n).result(TIMEOUT)
        assert value == n
        assert ident != threading.get_ident()
    assert [value for value, _ in executor.map(work, range(50))] == list(range(50))
