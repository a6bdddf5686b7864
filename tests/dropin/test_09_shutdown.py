"""Point 9: `shutdown`."""

from __future__ import annotations

import threading
from concurrent.futures import CancelledError, Executor, Future, wait
from typing import Any

import pytest

from .makers import TIMEOUT, Make, block, new_event, nothing

pytestmark = pytest.mark.timeout(60)

AFTER = "^cannot schedule new futures after shutdown$"


def test_shutdown_is_idempotent(make: Make) -> None:
    executor = make(2)
    executor.submit(nothing)
    executor.shutdown()
    executor.shutdown(wait=False)
    executor.shutdown(wait=True, cancel_futures=True)


def test_an_executor_that_was_never_used_shuts_down(fresh: Make) -> None:
    executor = fresh(2)
    executor.shutdown()
    with pytest.raises(RuntimeError, match=AFTER):
        executor.submit(nothing)


def test_submit_after_shutdown_is_refused(make: Make) -> None:
    executor = make(2)
    executor.submit(nothing)
    executor.shutdown(wait=False)
    with pytest.raises(RuntimeError, match=AFTER):
        executor.submit(nothing)
    executor.shutdown()
    with pytest.raises(RuntimeError, match=AFTER):
        executor.submit(nothing)


def test_cancel_futures_is_a_keyword(make: Make) -> None:
    executor: Any = make(1)
    with pytest.raises(TypeError):
        executor.shutdown(True, True)
    executor.shutdown(False, cancel_futures=False)


def test_queued_calls_are_done_before_shutdown_returns(make: Make) -> None:
    executor = make(1)
    release = block(executor)
    calls: list[int] = []
    futures = [executor.submit(calls.append, n) for n in range(50)]
    threading.Timer(0, release.set).start()
    executor.shutdown()
    assert calls == list(range(50))
    assert all(future.done() for future in futures)


def test_shutdown_without_waiting_returns_at_once_and_queued_calls_are_done(make: Make) -> None:
    executor = make(1)
    release = block(executor)
    calls: list[int] = []
    futures = [executor.submit(calls.append, n) for n in range(50)]
    executor.shutdown(wait=False)
    assert calls == []
    release.set()
    for future in futures:
        future.result(TIMEOUT)
    assert calls == list(range(50))


def test_shutdown_may_wait_after_one_that_did_not(make: Make) -> None:
    executor = make(1)
    release = block(executor)
    future = executor.submit(nothing)
    executor.shutdown(wait=False)
    threading.Timer(0, release.set).start()
    executor.shutdown()
    assert future.done()


def test_no_thread_is_left_when_shutdown_returns(fresh: Make) -> None:
    executor = fresh(4, thread_name_prefix="gone")
    barrier = threading.Barrier(4)
    threads = [
        future.result(TIMEOUT)
        for future in [
            executor.submit(lambda: (barrier.wait(TIMEOUT), threading.current_thread())[1])
            for _ in range(4)
        ]
    ]
    executor.shutdown()
    assert len(set(threads)) == 4
    assert not any(thread.is_alive() for thread in threads)


def test_shutdown_may_cancel_what_has_not_started(make: Make) -> None:
    executor = make(1)
    release, started, calls = new_event(), new_event(), []

    def work() -> str:
        started.set()
        release.wait()
        return "done"

    running = executor.submit(work)
    assert started.wait(TIMEOUT)
    queued = [executor.submit(calls.append, n) for n in range(50)]
    executor.shutdown(wait=False, cancel_futures=True)
    assert all(future.cancelled() for future in queued)
    release.set()
    executor.shutdown()
    assert running.result(TIMEOUT) == "done"
    assert calls == []
    with pytest.raises(CancelledError):
        queued[0].result(TIMEOUT)


def test_a_later_shutdown_may_cancel_what_an_earlier_one_left(make: Make) -> None:
    executor = make(1)
    release = block(executor)
    queued = executor.submit(nothing)
    executor.shutdown(wait=False)
    assert not queued.cancelled()
    executor.shutdown(wait=False, cancel_futures=True)
    assert queued.cancelled()
    release.set()


def test_what_shutdown_cancels_wakes_those_who_wait_for_it(ours: Make) -> None:
    # The stdlib leaves wait() hanging here.
    executor = ours(1)
    release = block(executor)
    queued = [executor.submit(nothing) for _ in range(3)]
    waiter = threading.Thread(target=wait, args=(queued,))
    waiter.start()
    executor.shutdown(wait=False, cancel_futures=True)
    waiter.join(TIMEOUT)
    assert not waiter.is_alive()
    release.set()


def test_leaving_the_block_waits_and_lets_the_error_through(make: Make) -> None:
    calls: list[int] = []
    executor = make(1)
    with pytest.raises(KeyError, match="mine"), executor as entered:
        assert entered is executor
        for n in range(20):
            executor.submit(calls.append, n)
        raise KeyError("mine")
    assert calls == list(range(20))
    with pytest.raises(RuntimeError, match=AFTER):
        executor.submit(nothing)


def test_a_call_may_shut_its_executor_down(make: Make) -> None:
    executor = make(2)
    queued = executor.submit(lambda: executor.shutdown(wait=False))
    queued.result(TIMEOUT)
    with pytest.raises(RuntimeError, match=AFTER):
        executor.submit(nothing)
    executor.shutdown()


def test_a_call_that_waits_for_its_own_executor_to_end_does_not_hang(make: Make) -> None:
    future = make(1).submit(lambda executor: executor.shutdown(), executor := make(1))
    future.result(TIMEOUT)
    with pytest.raises(RuntimeError, match=AFTER):
        executor.submit(nothing)
    own = make(1)
    error = own.submit(own.shutdown).exception(TIMEOUT)  # it cannot wait for itself
    assert isinstance(error, RuntimeError)


def test_a_call_that_submits_after_shutdown_is_refused(make: Make) -> None:
    executor = make(1)
    release = new_event()

    def work() -> None:
        release.wait()
        executor.submit(nothing)

    future = executor.submit(work)
    executor.shutdown(wait=False)
    release.set()
    with pytest.raises(RuntimeError, match=AFTER):
        future.result(TIMEOUT)


def test_a_callback_may_shut_the_executor_down(make: Make) -> None:
    executor = make(1)
    release = block(executor)
    future = executor.submit(nothing)
    future.add_done_callback(lambda _: executor.shutdown(wait=False))
    last = executor.submit(abs, -1)
    release.set()
    assert last.result(TIMEOUT) == 1
    executor.shutdown()


def test_many_threads_may_shut_down_at_once(make: Make) -> None:
    executor = make(2)
    release = block(executor)
    future = executor.submit(nothing)
    threads = [threading.Thread(target=executor.shutdown) for _ in range(8)]
    for thread in threads:
        thread.start()
    release.set()
    for thread in threads:
        thread.join(TIMEOUT)
    assert not any(thread.is_alive() for thread in threads)
    assert future.done()


def _race(executor: Executor, cancel_futures: bool) -> list[Future[int]]:
    """Submit on many threads while the executor shuts down; return the accepted futures."""
    futures: list[Future[int]] = []
    refused: list[str] = []
    count = 16
    barrier = threading.Barrier(count + 1)

    def submit() -> None:
        barrier.wait(TIMEOUT)
        try:
            while True:
                futures.append(executor.submit(abs, -1))
        except RuntimeError as error:
            refused.append(str(error))

    threads = [threading.Thread(target=submit) for _ in range(count)]
    for thread in threads:
        thread.start()
    barrier.wait(TIMEOUT)
    executor.shutdown(cancel_futures=cancel_futures)
    for thread in threads:
        thread.join(TIMEOUT)
    assert refused == ["cannot schedule new futures after shutdown"] * count
    return futures


def test_no_future_is_lost_when_submit_races_with_shutdown(make: Make) -> None:
    for _ in range(10):
        futures = _race(make(3), cancel_futures=False)
        assert [future.result(TIMEOUT) for future in futures] == [1] * len(futures)


def test_no_future_is_lost_when_submit_races_with_a_shutdown_that_cancels(make: Make) -> None:
    for _ in range(10):
        for future in _race(make(3), cancel_futures=True):
            try:
                assert future.result(TIMEOUT) == 1
            except CancelledError:
                pass
