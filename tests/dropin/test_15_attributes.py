"""Points 15 and 16: construction, attributes, and the futures' looks."""

from __future__ import annotations

import os
import re
import threading
from concurrent.futures import Executor, Future, ThreadPoolExecutor
from typing import Any

import pytest

from .makers import TIMEOUT, Make, block, nothing

pytestmark = pytest.mark.timeout(60)


def test_an_executor_is_an_executor(make: Make) -> None:
    assert isinstance(make(), Executor)


def test_an_executor_cannot_be_called(make: Make) -> None:
    assert not callable(make())


def test_the_number_of_workers_can_be_read(whole: Make) -> None:
    executor: Any = whole(3)
    assert type(executor._max_workers) is int
    assert executor._max_workers == 3


def test_the_number_of_workers_is_the_stdlib_s_by_default(whole: Make) -> None:
    executor: Any = whole()
    assert executor._max_workers == ThreadPoolExecutor()._max_workers
    executor = whole(None)
    assert executor._max_workers == min(
        32, (getattr(os, "process_cpu_count", os.cpu_count)() or 1) + 4
    )


def test_the_number_of_workers_is_the_number_of_calls_that_run_at_once_by_default(
    fresh: Make,
) -> None:
    count = ThreadPoolExecutor()._max_workers
    executor = fresh()
    barrier = threading.Barrier(count)
    futures = [executor.submit(barrier.wait, TIMEOUT) for _ in range(count)]
    assert sorted(future.result(TIMEOUT) for future in futures) == list(range(count))


def test_constructor_arguments_may_be_positional(fresh: Make) -> None:
    local = threading.local()

    def initialize(name: str, value: int) -> None:
        setattr(local, name, value)

    executor = fresh(1, "positional", initialize, ("value", 5))
    found = executor.submit(lambda: (threading.current_thread().name, local.value))
    assert found.result(TIMEOUT) == ("positional_0", 5)


def test_constructor_arguments_may_be_keywords(fresh: Make) -> None:
    executor = fresh(
        max_workers=1, thread_name_prefix="keyword", initializer=nothing, initargs=(1, 2)
    )
    name = executor.submit(lambda: threading.current_thread().name).result(TIMEOUT)
    assert name == "keyword_0"


@pytest.mark.parametrize("count", [0, -1])
def test_less_than_one_worker_is_refused(fresh: Make, count: int) -> None:
    with pytest.raises(ValueError, match="^max_workers must be greater than 0"):
        fresh(count)
    with pytest.raises(ValueError, match="^max_workers must be greater than 0"):
        fresh(max_workers=count)


def test_a_number_of_workers_that_is_a_text_is_refused(fresh: Make) -> None:
    with pytest.raises(TypeError):
        fresh("4")


def test_an_initializer_that_cannot_be_called_is_refused(fresh: Make) -> None:
    with pytest.raises(TypeError, match="^initializer must be a callable"):
        fresh(1, initializer=123)


def test_a_subclass_may_have_a_constructor_of_its_own(cls: type[Executor]) -> None:
    class Mine(cls):  # type: ignore[misc,valid-type]  # each executor's class in turn
        def __init__(self, name: str) -> None:
            super().__init__(1, name)
            self.name_of_mine = name

    with Mine("mine") as executor:
        assert executor.name_of_mine == "mine"
        name = executor.submit(lambda: threading.current_thread().name).result(TIMEOUT)
        assert name == "mine_0"


def test_a_future_is_a_future(make: Make) -> None:
    assert isinstance(make(1).submit(nothing), Future)


def test_futures_can_be_hashed_and_are_equal_to_themselves_only(make: Make) -> None:
    executor = make(1)
    futures = [executor.submit(nothing) for _ in range(5)]
    assert len(set(futures)) == 5
    assert futures[0] == futures[0]


def test_futures_look_like_the_stdlib_s(make: Make) -> None:
    executor = make(1)
    release = block(executor)
    running = executor.submit(nothing)
    pending, cancelled = executor.submit(nothing), executor.submit(nothing)
    failed = executor.submit(int, "x")

    def state(future: Future[Any]) -> str:
        found = re.fullmatch(r"<Future at 0x([0-9a-f]+) state=([a-z ]+)(.*)>", repr(future))
        assert found is not None
        assert int(found[1], 16) == id(future)
        return found[2] + found[3]

    assert state(pending) == "pending"
    assert cancelled.cancel()
    assert state(cancelled) == "cancelled"
    release.set()
    running.result(TIMEOUT)
    assert failed.exception(TIMEOUT) is not None
    assert state(running) == "finished returned NoneType"
    assert state(failed) == "finished raised ValueError"
    assert state(executor.submit(lambda: 1)).startswith(("pending", "running", "finished"))


def test_a_future_tells_that_its_call_runs(make: Make) -> None:
    executor = make(1)
    release, started = threading.Event(), threading.Event()
    future = executor.submit(lambda: (started.set(), release.wait(TIMEOUT))[1])
    assert started.wait(TIMEOUT)
    assert future.running()
    assert not future.done()
    assert not future.cancel()
    assert repr(future).endswith("state=running>")
    release.set()
    assert future.result(TIMEOUT) is True


def test_a_future_that_was_cancelled_does_not_run(make: Make) -> None:
    executor = make(1)
    release = block(executor)
    calls: list[int] = []
    futures = [executor.submit(calls.append, n) for n in range(10)]
    assert all(future.cancel() for future in futures[::2])
    assert all(future.cancel() for future in futures[::2])  # again
    release.set()
    executor.shutdown()
    assert calls == [1, 3, 5, 7, 9]
    assert [future.cancelled() for future in futures] == [True, False] * 5
    assert not any(future.cancel() for future in futures[1::2])
