"""`concurrent.futures.wait` and `as_completed`, with futures of several executors at once."""

from __future__ import annotations

import threading
from concurrent.futures import (
    ALL_COMPLETED,
    FIRST_COMPLETED,
    FIRST_EXCEPTION,
    Executor,
    Future,
    ThreadPoolExecutor,
    as_completed,
    wait,
)

import pytest

pytestmark = pytest.mark.timeout(60)


def test_as_completed_mixes_their_futures_with_the_stdlib_s(executor: Executor) -> None:
    with ThreadPoolExecutor(2) as other:
        futures = [pool.submit(abs, -n) for n in range(50) for pool in (executor, other)]
        found = [future.result() for future in as_completed(futures, 20)]
    assert sorted(found) == sorted([*range(50), *range(50)])


def test_as_completed_yields_them_as_they_finish(executor: Executor) -> None:
    with ThreadPoolExecutor(1) as other:
        release = threading.Event()
        slow = other.submit(release.wait, 20)
        quick = executor.submit(abs, -1)
        finished = as_completed([slow, quick], 20)
        assert next(finished) is quick
        release.set()
        assert next(finished) is slow


@pytest.mark.parametrize("ours_first", [True, False])
def test_wait_returns_with_the_first_that_is_done(executor: Executor, ours_first: bool) -> None:
    with ThreadPoolExecutor(1) as other:
        release = threading.Event()
        quick, slow = (executor, other) if ours_first else (other, executor)
        waiting = slow.submit(release.wait, 20)
        done, not_done = wait([waiting, quick.submit(abs, -1)], 20, FIRST_COMPLETED)
        assert [future.result() for future in done] == [1]
        assert not_done == {waiting}
        release.set()


def test_wait_returns_with_the_first_error(executor: Executor) -> None:
    with ThreadPoolExecutor(1) as other:
        release = threading.Event()
        waiting = other.submit(release.wait, 20)
        failing = executor.submit(int, "x")
        done, not_done = wait([waiting, failing], 20, FIRST_EXCEPTION)
        assert (done, not_done) == ({failing}, {waiting})
        release.set()


def test_wait_returns_when_all_are_done(executor: Executor) -> None:
    with ThreadPoolExecutor(2) as other:
        futures: list[Future[int]] = []
        for n in range(50):
            futures += executor.submit(abs, n), other.submit(abs, n)
        assert wait(futures, 20, ALL_COMPLETED).not_done == set()
    assert sum(future.result(0) for future in futures) == 2 * sum(range(50))


def test_wait_gives_up_in_time(executor: Executor) -> None:
    release = threading.Event()
    future = executor.submit(release.wait, 20)
    assert wait([future], 0.01) == (set(), {future})
    with pytest.raises(TimeoutError, match="1 \\(of 1\\) futures unfinished"):
        list(as_completed([future], 0.01))
    release.set()


def test_a_future_may_be_copied_into_another(executor: Executor) -> None:
    # As libraries do that chain futures.
    outer: Future[int] = Future()
    executor.submit(abs, -1).add_done_callback(lambda f: outer.set_result(f.result()))
    assert outer.result(20) == 1
