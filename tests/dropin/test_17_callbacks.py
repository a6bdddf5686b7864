"""Point 17: callbacks."""

from __future__ import annotations

import logging
import threading
from concurrent.futures import Future, as_completed, wait
from typing import Any

import pytest

from .makers import TIMEOUT, Make, block, new_event, nothing

pytestmark = pytest.mark.timeout(60)

ident = threading.get_ident


def test_callbacks_run_in_order_and_once(make: Make) -> None:
    executor = make(1)
    release = block(executor)
    order: list[int] = []
    future = executor.submit(nothing)
    for n in range(10):
        future.add_done_callback(lambda _, n=n: order.append(n))
    release.set()
    executor.shutdown()
    assert order == list(range(10))


def test_a_callback_that_was_added_twice_runs_twice(make: Make) -> None:
    executor = make(1)
    release = block(executor)
    calls: list[Future[Any]] = []
    future = executor.submit(nothing)
    future.add_done_callback(calls.append)
    future.add_done_callback(calls.append)
    release.set()
    executor.shutdown()
    assert len(calls) == 2
    assert calls[0] is calls[1] is future


def test_a_callback_runs_on_the_worker_s_thread_when_the_outcome_is_there(make: Make) -> None:
    executor = make(1)
    release = block(executor)
    seen: list[tuple[int, bool, bool, object]] = []
    future = executor.submit(ident)
    future.add_done_callback(lambda f: seen.append((ident(), f.done(), f.running(), f.result(0))))
    release.set()
    executor.shutdown()
    assert seen == [(future.result(0), True, False, future.result(0))]
    assert future.result(0) != ident()


def test_a_callback_of_a_call_that_failed_runs_on_the_worker_s_thread(make: Make) -> None:
    executor = make(1)
    release = block(executor)
    seen: list[tuple[int, object]] = []
    worker = executor.submit(ident)
    future = executor.submit(int, "x")
    future.add_done_callback(lambda f: seen.append((ident(), f.exception(0))))
    release.set()
    executor.shutdown()
    assert seen == [(worker.result(0), future.exception(0))]


def test_errors_of_callbacks_are_logged_and_swallowed(
    make: Make, caplog: pytest.LogCaptureFixture
) -> None:
    executor = make(1)
    release = block(executor)
    calls: list[int] = []
    future = executor.submit(abs, -1)

    def fail(_: object) -> None:
        calls.append(1)
        raise KeyError("mine")

    future.add_done_callback(fail)
    future.add_done_callback(lambda _: calls.append(2))
    with caplog.at_level(logging.ERROR, "concurrent.futures"):
        release.set()
        assert executor.submit(nothing).result(TIMEOUT) is None
    assert calls == [1, 2]
    assert future.result(0) == 1
    records = [record for record in caplog.records if record.name == "concurrent.futures"]
    assert [record.levelno for record in records] == [logging.ERROR]
    assert records[0].getMessage() == f"exception calling callback for {future!r}"
    assert records[0].exc_info is not None
    assert isinstance(records[0].exc_info[1], KeyError)


def test_a_late_callback_runs_at_once_on_the_caller_s_thread(make: Make) -> None:
    future = make(1).submit(nothing)
    future.result(TIMEOUT)
    seen: list[tuple[int, object]] = []
    future.add_done_callback(lambda f: seen.append((ident(), f)))
    assert seen == [(ident(), future)]


def test_an_error_of_a_late_callback_is_logged_and_swallowed(
    make: Make, caplog: pytest.LogCaptureFixture
) -> None:
    future = make(1).submit(nothing)
    future.result(TIMEOUT)

    def fail(_: object) -> None:
        raise KeyError("mine")

    with caplog.at_level(logging.ERROR, "concurrent.futures"):
        future.add_done_callback(fail)
    assert [record.name for record in caplog.records] == ["concurrent.futures"]


def test_cancelling_runs_the_callbacks_on_the_canceller_s_thread(make: Make) -> None:
    executor = make(1)
    release = block(executor)
    seen: list[tuple[int, bool]] = []
    future = executor.submit(nothing)
    future.add_done_callback(lambda f: seen.append((ident(), f.cancelled())))
    assert future.cancel()
    assert seen == [(ident(), True)]
    release.set()
    executor.shutdown()
    assert len(seen) == 1


def test_a_shutdown_that_cancels_runs_the_callbacks_on_its_own_thread(make: Make) -> None:
    executor = make(1)
    release = block(executor)
    seen: list[int] = []
    executor.submit(nothing).add_done_callback(lambda _: seen.append(ident()))
    executor.shutdown(wait=False, cancel_futures=True)
    assert seen == [ident()]
    release.set()


def test_a_callback_may_submit_more(make: Make) -> None:
    executor = make(1)
    done = new_event()
    seen: list[int] = []

    def more(future: Future[int]) -> None:
        seen.append(future.result(0))
        if len(seen) == 50:
            done.set()
        else:
            executor.submit(abs, -len(seen)).add_done_callback(more)

    executor.submit(abs, 0).add_done_callback(more)
    assert done.wait(TIMEOUT)
    assert seen == list(range(50))


def test_a_callback_may_add_another_which_runs_at_once(make: Make) -> None:
    executor = make(1)
    release = block(executor)
    order: list[str] = []
    future = executor.submit(nothing)

    def first(f: Future[None]) -> None:
        f.add_done_callback(lambda _: order.append("inner"))
        order.append("first")

    future.add_done_callback(first)
    future.add_done_callback(lambda _: order.append("second"))
    release.set()
    executor.shutdown()
    assert order == ["inner", "first", "second"]


def test_a_callback_may_cancel_what_is_queued(make: Make) -> None:
    executor = make(1)
    release = block(executor)
    calls: list[int] = []
    first = executor.submit(nothing)
    queued = [executor.submit(calls.append, n) for n in range(10)]
    first.add_done_callback(lambda _: [future.cancel() for future in queued])
    release.set()
    executor.shutdown()
    assert calls == []


def test_callbacks_race_with_the_outcome_and_none_is_lost(make: Make) -> None:
    executor = make(2)
    seen: list[int] = []
    for n in range(500):
        executor.submit(nothing).add_done_callback(lambda _, n=n: seen.append(n))
    executor.shutdown()
    assert sorted(seen) == list(range(500))


def test_cancelling_races_with_the_start_and_each_call_either_runs_or_is_cancelled(
    make: Make,
) -> None:
    executor = make(2)
    ran: list[int] = []
    cancelled: list[int] = []
    for n in range(500):
        if executor.submit(ran.append, n).cancel():
            cancelled.append(n)
    executor.shutdown()
    assert sorted(ran + cancelled) == list(range(500))


def test_waiters_are_woken_whatever_the_moment(make: Make) -> None:
    executor = make(2)
    for n in range(200):
        futures = [executor.submit(abs, n) for _ in range(3)]
        assert wait(futures, TIMEOUT).not_done == set()
        futures = [executor.submit(abs, n) for _ in range(3)]
        assert [future.result() for future in as_completed(futures, TIMEOUT)] == [n] * 3
        assert executor.submit(abs, n).result(TIMEOUT) == n
