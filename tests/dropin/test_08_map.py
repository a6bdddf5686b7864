"""Point 8: `map`."""

from __future__ import annotations

import gc
import itertools
import threading
import time
import weakref
from collections.abc import Callable, Iterator
from concurrent.futures import CancelledError, Executor, Future
from typing import Any

import pytest

from .makers import TIMEOUT, Make, block, new_event, nothing, settle

pytestmark = pytest.mark.timeout(60)


def test_results_come_in_the_order_of_the_input(make: Make) -> None:
    executor = make(3)
    events = [new_event() for _ in range(3)]

    def work(index: int) -> int:
        if index < 2:
            assert events[index + 1].wait(TIMEOUT)
        events[index].set()
        return index

    assert list(executor.map(work, range(3))) == [0, 1, 2]


def test_everything_is_submitted_before_anything_is_read(make: Make) -> None:
    executor = make(2)
    done = new_event()
    calls: list[int] = []

    def work(index: int) -> int:
        calls.append(index)
        if len(calls) == 10:
            done.set()
        return index

    results = executor.map(work, range(10))
    assert done.wait(TIMEOUT)
    assert list(results) == list(range(10))


def test_the_input_is_consumed_by_the_call_itself_on_the_caller_s_thread(make: Make) -> None:
    executor = make(2)
    release = block(executor, 2)
    threads: list[int] = []

    def numbers() -> Iterator[int]:
        for n in range(20):
            threads.append(threading.get_ident())
            yield n

    results = executor.map(abs, numbers())
    assert threads == [threading.get_ident()] * 20
    release.set()
    assert list(results) == list(range(20))


def test_the_input_may_itself_come_from_the_executor(make: Make) -> None:
    executor = make(2)
    inner = (executor.submit(abs, -n).result(TIMEOUT) for n in range(20))
    assert list(executor.map(abs, inner)) == list(range(20))
    nested = executor.map(abs, executor.map(abs, executor.map(abs, range(-20, 0))))
    assert list(nested) == list(range(20, 0, -1))


def test_the_shortest_input_ends_the_map(make: Make) -> None:
    executor = make(2)
    assert list(executor.map(pow, range(3), itertools.count(2))) == [0, 1, 16]
    assert list(executor.map(pow, [], itertools.count())) == []
    assert list(executor.map(nothing)) == []


def test_an_error_of_the_input_is_raised_by_the_call_and_what_was_submitted_runs(
    make: Make,
) -> None:
    executor = make(2)
    calls: list[int] = []

    def numbers() -> Iterator[int]:
        yield 1
        yield 2
        raise KeyError("input")

    with pytest.raises(KeyError, match="input"):
        executor.map(calls.append, numbers())
    executor.shutdown()
    assert sorted(calls) == [1, 2]


def test_the_results_are_an_iterator_that_can_be_closed(make: Make) -> None:
    results: Any = make(2).map(abs, [1])
    assert iter(results) is results
    assert list(results) == [1]
    assert list(results) == []
    results.close()


@pytest.mark.parametrize("chunksize", [1, 2, 7, 10**9, 0, -1])
def test_any_chunksize_is_tolerated(make: Make, chunksize: int) -> None:
    executor = make(2)
    calls: list[int] = []

    def work(n: int) -> int:
        calls.append(n)
        return n

    assert list(executor.map(work, range(20), chunksize=chunksize)) == list(range(20))
    assert sorted(calls) == list(range(20))


def test_a_large_chunksize_does_not_chain_calls_together(make: Make) -> None:
    executor = make(4)
    barrier = threading.Barrier(4)
    results = executor.map(lambda _: barrier.wait(TIMEOUT), range(4), chunksize=4)
    assert sorted(results) == [0, 1, 2, 3]


class Big:
    """Something whose life can be watched."""


def test_a_result_is_dropped_once_it_was_yielded(make: Make) -> None:
    executor = make(1)
    results = executor.map(lambda _: Big(), range(5))
    settle(executor)  # all are done, and the worker holds none
    gc.disable()
    try:
        for _ in range(5):
            value = next(results)
            reference = weakref.ref(value)
            del value
            assert reference() is None
    finally:
        gc.enable()


def test_an_argument_is_dropped_once_its_call_is_done(make: Make) -> None:
    executor = make(1)
    references: list[weakref.ref[Big]] = []

    def numbers() -> Iterator[Big]:
        for _ in range(5):
            big = Big()
            references.append(weakref.ref(big))
            yield big
            del big

    gc.disable()
    try:
        results = executor.map(nothing, numbers())
        settle(executor)
        assert [reference() for reference in references] == [None] * 5
        assert list(results) == [None] * 5
    finally:
        gc.enable()


def test_the_results_that_were_not_read_are_dropped_with_the_iterator(make: Make) -> None:
    executor = make(1)
    references: list[weakref.ref[Big]] = []

    def work(_: object) -> Big:
        big = Big()
        references.append(weakref.ref(big))
        return big

    gc.disable()
    try:
        results = executor.map(work, range(5))
        settle(executor)
        del results
        assert [reference() for reference in references] == [None] * 5
    finally:
        gc.enable()


class Calls:
    """A function whose first call does `first`, whose second waits, and which counts the rest."""

    def __init__(self, first: Callable[[], object]) -> None:
        self.first = first
        self.started = new_event()
        self.release = new_event()
        self.rest: list[int] = []

    def __call__(self, index: int) -> None:
        if index == 0:
            self.first()
        elif index == 1:
            self.started.set()
            self.release.wait()
        else:
            self.rest.append(index)

    def check_nothing_else_ran(self, executor: Executor) -> None:
        self.release.set()
        settle(executor)
        assert self.rest == []


def fail() -> None:
    """Raise."""
    raise ValueError("mine")


def test_an_error_cancels_what_has_not_started(make: Make) -> None:
    executor, calls = make(1), Calls(fail)
    results = executor.map(calls, range(20))
    assert calls.started.wait(TIMEOUT)
    with pytest.raises(ValueError, match="mine"):
        next(results)
    calls.check_nothing_else_ran(executor)


def test_closing_cancels_what_has_not_started(make: Make) -> None:
    executor, calls = make(1), Calls(nothing)
    results: Any = executor.map(calls, range(20))
    next(results)
    assert calls.started.wait(TIMEOUT)
    results.close()
    calls.check_nothing_else_ran(executor)


def test_dropping_an_iterator_that_was_started_cancels_what_has_not_started(make: Make) -> None:
    executor, calls = make(1), Calls(nothing)
    results = executor.map(calls, range(20))
    next(results)
    assert calls.started.wait(TIMEOUT)
    del results
    calls.check_nothing_else_ran(executor)


def test_a_time_out_cancels_what_has_not_started(make: Make) -> None:
    executor, calls = make(1), Calls(nothing)
    results = executor.map(calls, range(20), timeout=0.05)
    with pytest.raises(TimeoutError):
        list(results)
    calls.check_nothing_else_ran(executor)


def test_an_iterator_that_was_never_started_lets_all_calls_run_when_dropped(make: Make) -> None:
    executor = make(1)
    release = block(executor)
    calls: list[int] = []
    executor.map(calls.append, range(20))
    release.set()
    settle(executor)
    assert calls == list(range(20))


def test_an_iterator_that_was_never_started_lets_all_calls_run_when_closed(make: Make) -> None:
    executor = make(1)
    release = block(executor)
    calls: list[int] = []
    results: Any = executor.map(calls.append, range(20))
    results.close()
    release.set()
    settle(executor)
    assert calls == list(range(20))


class Clock:
    """`time.monotonic`, which can be put forward."""

    def __init__(self) -> None:
        self.ahead = 0.0
        self._real = time.monotonic

    def __call__(self) -> float:
        return self._real() + self.ahead


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    """Put a clock in the place of the real one."""
    instead = Clock()
    monkeypatch.setattr(time, "monotonic", instead)
    return instead


def test_the_time_out_counts_from_the_call(make: Make, clock: Clock) -> None:
    executor = make(1)
    release = block(executor)
    results = executor.map(nothing, range(3), timeout=1000)
    clock.ahead += 2000
    # Did it count from here, it would wait for the timer.
    timer = threading.Timer(3, release.set)
    timer.start()
    try:
        with pytest.raises(TimeoutError):
            next(results)
    finally:
        timer.cancel()
        timer.join()


def test_the_time_out_counts_on_while_results_are_read(make: Make, clock: Clock) -> None:
    executor, calls = make(1), Calls(nothing)
    results = executor.map(calls, range(3), timeout=1000)
    next(results)
    assert calls.started.wait(TIMEOUT)
    clock.ahead += 2000
    with pytest.raises(TimeoutError):
        next(results)
    calls.check_nothing_else_ran(executor)


def test_a_result_that_is_there_is_yielded_after_the_time_out_too(make: Make, clock: Clock) -> None:
    executor = make(1)
    results = executor.map(abs, range(5), timeout=1000)
    settle(executor)
    clock.ahead += 2000
    assert list(results) == list(range(5))


def test_a_time_out_of_zero_yields_what_is_there(make: Make) -> None:
    executor = make(1)
    calls = Calls(nothing)
    results = executor.map(calls, range(3), timeout=0)
    assert calls.started.wait(TIMEOUT)
    next(results)
    with pytest.raises(TimeoutError):
        next(results)
    calls.check_nothing_else_ran(executor)


def test_a_map_goes_through_an_overridden_submit(cls: type[Executor]) -> None:
    class Counting(cls):  # type: ignore[misc,valid-type]  # each executor's class in turn
        submitted = 0

        def submit(self, fn: Any, /, *args: Any, **kwargs: Any) -> Future[Any]:
            self.submitted += 1
            future: Future[Any] = super().submit(fn, *args, **kwargs)
            return future

    with Counting(2) as executor:
        assert list(executor.map(abs, range(20))) == list(range(20))
        assert executor.submitted == 20


def test_a_map_uses_what_an_overridden_submit_makes_of_its_calls(cls: type[Executor]) -> None:
    class Wrapping(cls):  # type: ignore[misc,valid-type]  # each executor's class in turn
        def submit(self, fn: Any, /, *args: Any, **kwargs: Any) -> Future[Any]:
            future: Future[Any] = super().submit(lambda: ("wrapped", fn(*args, **kwargs)))
            return future

    with Wrapping(2) as executor:
        assert list(executor.map(abs, [-1, 2])) == [("wrapped", 1), ("wrapped", 2)]


def test_a_map_goes_through_a_submit_that_was_put_on_the_instance(whole: Make) -> None:
    executor: Any = whole(2)
    original, seen = executor.submit, []

    def submit(fn: Any, /, *args: Any) -> Future[Any]:
        seen.append(args)
        future: Future[Any] = original(fn, *args)
        return future

    executor.submit = submit
    try:
        assert list(executor.map(abs, [-1, -2])) == [1, 2]
        assert seen == [(-1,), (-2,)]
    finally:
        del executor.submit


def test_shutdown_waits_for_all_calls_of_a_map(make: Make) -> None:
    executor = make(2)
    release = block(executor, 2)
    calls: list[int] = []
    results = executor.map(calls.append, range(20))
    release.set()
    executor.shutdown()
    assert sorted(calls) == list(range(20))
    assert list(results) == [None] * 20


def test_shutdown_may_cancel_the_calls_of_a_map(make: Make) -> None:
    executor = make(1)
    release = block(executor)
    calls: list[int] = []
    results = executor.map(calls.append, range(20))
    executor.shutdown(wait=False, cancel_futures=True)
    release.set()
    executor.shutdown()
    assert calls == []
    with pytest.raises(CancelledError):
        next(results)


def test_a_map_of_nothing_after_shutdown_is_empty(make: Make) -> None:
    executor = make(1)
    executor.shutdown()
    assert list(executor.map(abs, [])) == []


def test_a_map_after_shutdown_is_refused(make: Make) -> None:
    executor = make(1)
    executor.shutdown()
    with pytest.raises(RuntimeError, match="^cannot schedule new futures after shutdown$"):
        executor.map(abs, [1])


def test_many_threads_may_map_at_once(make: Make) -> None:
    executor = make(3)
    found: dict[int, list[int]] = {}

    def work(number: int) -> None:
        found[number] = list(executor.map(abs, range(number, number + 50)))

    threads = [threading.Thread(target=work, args=(n,)) for n in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(TIMEOUT)
    assert found == {n: list(range(n, n + 50)) for n in range(8)}


def test_an_iterator_may_be_read_on_another_thread(make: Make) -> None:
    executor = make(2)
    results = executor.map(abs, range(50))
    assert executor.submit(list, results).result(TIMEOUT) == list(range(50))


def test_thousands_of_results_arrive_whole_and_in_order(make: Make) -> None:
    executor = make(4)
    assert list(executor.map(abs, range(5000))) == list(range(5000))
