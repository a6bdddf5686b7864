"""`current()`: what runs here, on every executor, and outside of any."""

from __future__ import annotations

import gc
import threading
import time
import weakref
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest

import hybrid_compute
from hybrid_compute import (
    Current,
    HybridExecutor,
    InlineExecutor,
    ProcessExecutor,
    ThreadExecutor,
    current,
    remote_task,
    task,
)
from hybrid_compute.errors import TaskTimeout
from tests.faults import nested
from tests.patience import times_to_begin_in

pytestmark = pytest.mark.timeout(60)

SOON = 30.0
PLACES = ("inline", "thread", "lane", "process")


@pytest.fixture
def executor():
    with HybridExecutor(2, max_processes=1) as executor:
        yield executor


@task
def who() -> tuple[Any, ...]:
    return nested.who()


def test_outside_of_any_item_it_is_false_and_nothing_is_cancelled():
    me = current()
    assert not me
    assert (me.name, me.attempt, me.deadline, me.remaining) == ("", 0, None, None)
    assert me.cancelled() is False
    assert repr(me) == "<no work item runs here>"
    with pytest.raises(RuntimeError, match="no work item runs here"):
        me.executor  # noqa: B018 - the access is what is tested


@pytest.mark.parametrize("place", PLACES)
def test_it_tells_name_attempt_and_executor_everywhere(executor, place):
    future = executor.options(executor=place).submit(who)
    name, attempt, deadline, cancelled, kind = future.result(SOON)
    assert (name, attempt, deadline, cancelled) == ("who", 1, None, False)
    assert kind == ("ParentExecutor" if place == "process" else "HybridExecutor")


@pytest.mark.parametrize("place", PLACES)
def test_it_tells_the_deadline_everywhere(executor, place):
    left = executor.options(executor=place, timeout=100).submit(nested.time_left).result(SOON)
    assert 100 - SOON < left < 100


@pytest.mark.parametrize("kind", [InlineExecutor, ThreadExecutor, ProcessExecutor])
def test_an_executor_by_itself_is_the_one_that_its_work_finds(kind):
    with kind() as executor:
        found = executor.submit(nested.who).result(SOON)[-1]
        assert found == ("ParentExecutor" if kind is ProcessExecutor else kind.__name__)


@pytest.mark.parametrize("place", ["thread", "process"])
def test_a_call_of_a_map_is_an_item(executor, place):
    view = executor.options(executor=place)
    assert all(view.map(lambda _: bool(hybrid_compute.current()), range(5)))
    assert list(executor.map(lambda _: type(current().executor), range(3))) == [HybridExecutor] * 3


@pytest.mark.parametrize("place", ["inline", "thread", "process"])
def test_a_generator_finds_it_at_each_step(executor, place):
    @task(executor=place)
    def steps():
        for _ in range(3):
            me = hybrid_compute.current()
            yield bool(me), me.name, me.cancelled()

    assert list(executor.stream(steps)) == [(True, steps.name, False)] * 3


def test_a_stream_that_was_closed_is_cancelled(executor):
    told, closed = threading.Event(), threading.Event()
    seen = []

    def steps():
        me = current()
        yield 1
        told.set()
        closed.wait(SOON)
        seen.append(me.cancelled())
        yield 2

    stream = executor.stream(steps)
    assert next(stream) == 1
    assert told.wait(SOON)
    stream.close()
    closed.set()
    executor.submit(int).result(SOON)
    with ThreadPoolExecutor(1) as other:
        other.submit(int).result(SOON)
    deadline = time.monotonic() + SOON
    while not seen and time.monotonic() < deadline:
        threading.Event().wait(0.001)
    assert seen == [True]


def test_a_tiny_task_that_its_submitter_runs_finds_it():
    @task
    def tiny():
        return current()

    with HybridExecutor(2) as executor:
        for _ in range(500):
            me = executor.submit(tiny).result(SOON)
            assert (bool(me), me.name, me.executor) == (True, tiny.name, executor)
        assert tiny.key in (executor._quick or {})  # it was run the short way in the end


def test_the_innermost_item_counts(executor):
    @task(executor="inline")
    def inner():
        return current().name

    def outer():
        return [current().name, executor.submit(inner).result(), current().name]

    mine = outer.__qualname__
    assert executor.submit(outer).result(SOON) == [mine, inner.name, mine]


def test_later_attempts_are_counted():
    seen = []

    def fails():
        seen.append(current().attempt)
        if len(seen) < 3:
            raise OSError

    with HybridExecutor(1) as executor:
        executor.options(executor="thread", retries=5).submit(fails).result(SOON)
    assert seen == [1, 2, 3]


def test_a_worker_process_counts_attempts_too(executor, tmp_path):
    def fails(path):
        attempt = hybrid_compute.current().attempt
        if attempt < 3:
            raise OSError
        return attempt

    view = executor.options(executor="process", retries=5, idempotent=True)
    assert view.submit(fails, tmp_path).result(SOON) == 3


def test_a_thread_whose_time_is_up_is_told(executor):
    begun, seen, told = threading.Event(), [], threading.Event()

    def body():
        begun.set()
        me = current()
        while not me.cancelled():
            time.sleep(0.001)
        seen.append(me.remaining)
        told.set()

    for timeout in times_to_begin_in(0.05):
        future = executor.options(executor="thread", timeout=timeout).submit(body)
        with pytest.raises(TaskTimeout):
            future.result(SOON)
        if begun.is_set():
            break
    assert told.wait(SOON)
    assert seen[0] == 0.0


def test_the_thread_is_told_too_when_its_future_was_failed_by_somebody_else(executor):
    begun, go, seen = threading.Event(), threading.Event(), []

    def body():
        me = current()
        seen.append(me.cancelled())
        begun.set()
        go.wait(SOON)
        seen.append(me.cancelled())

    future = executor.submit(body)
    assert begun.wait(SOON)
    future.set_exception(ValueError())
    go.set()
    executor.submit(int).result(SOON)
    deadline = time.monotonic() + SOON
    while len(seen) < 2 and time.monotonic() < deadline:
        time.sleep(0.001)
    assert seen == [False, True]


def test_a_thread_is_told_that_somebody_wants_its_work_to_end(executor):
    begun = threading.Event()

    def body():
        me = current()
        begun.set()
        while not me.cancelled():
            time.sleep(0.001)
        return "early"

    future = executor.submit(body)
    assert begun.wait(SOON)
    assert future.cancel_running() is False
    assert future.result(SOON) == "early"


@pytest.mark.parametrize("place", ["thread", "process"])
def test_threads_that_the_work_starts_run_no_item_but_may_be_handed_it(executor, place):
    view = executor.options(executor=place)
    assert view.submit(nested.on_a_thread_of_its_own).result(SOON) == [False, 8]


def test_a_coroutine_that_the_work_runs_finds_it(executor):
    import asyncio

    async def inside():
        await asyncio.sleep(0)
        return bool(current())

    assert executor.submit(lambda: asyncio.run(inside())).result(SOON)


def test_an_executor_that_was_dropped_is_not_found():
    begun, go, found = threading.Event(), threading.Event(), []

    def body():
        begun.set()
        go.wait(SOON)
        try:
            current().executor  # noqa: B018 - the access is what is tested
        except RuntimeError as error:
            found.append(str(error))

    executor = ThreadExecutor(1)
    future = executor.submit(body)
    assert begun.wait(SOON)
    del executor
    go.set()
    future.result(SOON)
    assert "was dropped without shutdown" in found[0]


def test_on_foreign_executors_there_is_none():
    with HybridExecutor(1, executors={"theirs": ThreadPoolExecutor(1)}) as executor:
        assert executor.options(executor="theirs").submit(nested.truth).result(SOON) is False


def test_the_initializer_of_a_worker_is_no_item():
    found = []
    with ThreadExecutor(1, initializer=lambda: found.append(bool(current()))) as executor:
        executor.submit(int).result(SOON)
    assert found == [False]


def test_who_asks_keeps_nothing_alive():
    class Argument:
        pass

    def body(argument):
        current().cancelled()
        raise ValueError

    gc.disable()
    try:
        with ThreadExecutor(1) as executor:
            argument = Argument()
            alive = weakref.ref(argument)
            future = executor.submit(body, argument)
            assert isinstance(future.exception(SOON), ValueError)
            executor.submit(int).result(SOON)
            del argument, future
            assert alive() is None
    finally:
        gc.enable()


def test_a_task_that_is_just_called_is_no_item():
    assert task(nested.truth)() is False


def test_its_repr_tells_what_runs(executor):
    assert executor.submit(lambda: repr(current())).result(SOON).endswith("runs, attempt 1>")
    said = executor.options(executor="thread", timeout=100).submit(lambda: repr(current()))
    assert "s left>" in said.result(SOON)


def test_it_is_exported_with_its_type():
    assert isinstance(current(), Current)


@pytest.mark.parametrize("name", ["about_here", "about_inline"])
def test_our_server_s_calls_find_it(name):
    from tests.server.conftest import SECRET, Served

    served = Served("tests.server.work:TASKS")
    try:
        url = f"ws://127.0.0.1:{served.port}/ws"
        with HybridExecutor(1, remote=hybrid_compute.RemoteExecutor(url, token=SECRET)) as executor:
            found = executor.submit(remote_task(name)).result(SOON)
            assert found == [name, 1, False, "HybridExecutor"]
            if name == "about_here":
                # What an item submits to a service has no more time than the item has left.
                view = executor.options(executor="thread", timeout=50)
                left = view.submit(lambda: executor.submit(remote_task("time_left")).result())
                assert 50 - SOON < left.result(SOON) < 50
    finally:
        served.end()
