"""Point 14: initializers, and the names of threads."""

from __future__ import annotations

import logging
import re
import threading
from concurrent.futures import BrokenExecutor, wait

import pytest

from .makers import TIMEOUT, Make, new_event, nothing

pytestmark = pytest.mark.timeout(60)

DEFAULT_NAME = re.compile(r"(ThreadPoolExecutor|ThreadExecutor|HybridExecutor)-\d+_\d+")


def test_the_initializer_runs_once_in_each_worker_before_its_calls(fresh: Make) -> None:
    initialized: list[int] = []
    barrier = threading.Barrier(3)

    def work() -> tuple[int, bool]:
        ready = threading.get_ident() in initialized
        barrier.wait(TIMEOUT)
        return threading.get_ident(), ready

    executor = fresh(3, initializer=lambda: initialized.append(threading.get_ident()))
    for _ in range(5):
        found = [f.result(TIMEOUT) for f in [executor.submit(work) for _ in range(3)]]
        assert {ident for ident, _ in found} == set(initialized)
        assert all(ready for _, ready in found)
    assert len(initialized) == 3


def test_the_initializer_runs_before_the_calls_of_a_map(fresh: Make) -> None:
    local = threading.local()

    def initialize() -> None:
        local.value = 42

    executor = fresh(3, initializer=initialize)
    assert list(executor.map(lambda _: local.value, range(50))) == [42] * 50


def test_a_thread_local_that_the_initializer_sets_is_kept(fresh: Make) -> None:
    local = threading.local()

    def initialize(value: int) -> None:
        local.value = value

    executor = fresh(2, "", initialize, (7,))
    for _ in range(20):
        assert executor.submit(lambda: local.value).result(TIMEOUT) == 7
    assert not hasattr(local, "value")


def test_the_initializer_does_not_run_before_the_first_call(fresh: Make) -> None:
    calls: list[object] = []
    executor = fresh(2, initializer=calls.append, initargs=("ready",))
    assert calls == []
    executor.submit(nothing).result(TIMEOUT)
    assert calls == ["ready"]


class Broken(BaseException):
    """An error that is no Exception."""


@pytest.mark.parametrize("error", [ValueError("mine"), Broken("mine")], ids=["usual", "base"])
def test_an_initializer_that_fails_breaks_the_executor_for_all(
    fresh: Make, error: BaseException, caplog: pytest.LogCaptureFixture
) -> None:
    release = new_event()

    def initialize() -> None:
        release.wait()
        raise error

    executor = fresh(1, initializer=initialize)
    with caplog.at_level(logging.CRITICAL, "concurrent.futures"):
        futures = [executor.submit(nothing) for _ in range(10)]
        release.set()
        wait(futures, TIMEOUT)
        assert all(isinstance(future.exception(0), BrokenExecutor) for future in futures)
        with pytest.raises(BrokenExecutor):
            executor.submit(nothing)
        with pytest.raises(BrokenExecutor):
            executor.map(nothing, [1])
    records = [record for record in caplog.records if record.name == "concurrent.futures"]
    assert [record.levelno for record in records] == [logging.CRITICAL]
    assert records[0].getMessage() == "Exception in initializer:"
    assert records[0].exc_info is not None
    assert records[0].exc_info[1] is error
    executor.shutdown()


def test_a_map_ends_when_the_initializer_fails(
    fresh: Make, caplog: pytest.LogCaptureFixture
) -> None:
    release = new_event()

    def initialize() -> None:
        release.wait()
        raise ValueError("mine")

    with caplog.at_level(logging.CRITICAL + 1, "concurrent.futures"):
        executor = fresh(1, initializer=initialize)
        results = executor.map(nothing, range(10))
        release.set()
        with pytest.raises(BrokenExecutor):
            list(results)


def test_a_broken_executor_can_be_recognised_as_the_stdlib_s_test_does(
    whole: Make, caplog: pytest.LogCaptureFixture
) -> None:
    def initialize() -> None:
        raise ValueError("mine")

    with caplog.at_level(logging.CRITICAL + 1, "concurrent.futures"):
        executor: object = whole(2, initializer=initialize)
        assert not vars(executor).get("_broken", getattr(executor, "_broken", None))
        with pytest.raises(BrokenExecutor):
            executor.submit(nothing).result(TIMEOUT)  # type: ignore[attr-defined]
        assert getattr(executor, "_broken", None)


def test_threads_are_named_after_the_prefix_to_the_letter(fresh: Make) -> None:
    executor = fresh(3, thread_name_prefix="my pool")
    barrier = threading.Barrier(3)

    def work() -> str:
        barrier.wait(TIMEOUT)
        return threading.current_thread().name

    names = [f.result(TIMEOUT) for f in [executor.submit(work) for _ in range(3)]]
    assert sorted(names) == ["my pool_0", "my pool_1", "my pool_2"]


def test_threads_have_a_name_of_their_executor_s_own_by_default(fresh: Make) -> None:
    names = {
        fresh(1).submit(lambda: threading.current_thread().name).result(TIMEOUT) for _ in range(3)
    }
    assert len(names) == 3
    assert all(DEFAULT_NAME.fullmatch(name) for name in names)
