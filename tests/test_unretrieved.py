"""A failure that nobody has looked at when its future dies is logged; nothing else is."""

from __future__ import annotations

import asyncio
import gc
import subprocess
import sys
import threading
from concurrent.futures import InvalidStateError

import pytest

from hybrid_compute import HybridExecutor, ProcessExecutor, ThreadExecutor, task
from hybrid_compute.errors import ConfigurationError
from hybrid_compute.futures import HybridFuture
from hybrid_compute.items import WorkItem
from hybrid_compute.policy import Always
from tests.server.conftest import ROOT

pytestmark = pytest.mark.timeout(60)


@task
def fail(value=None):
    raise ValueError("nobody looks")


@task(retries=1)
def fail_twice():
    raise ValueError("nobody looks")


@task
def break_off():
    yield 1
    raise ValueError("nobody looks")


@task
def refuse():
    raise ValueError("nobody looks")
    yield


def lost(caplog):
    gc.collect()
    return [each.getMessage() for each in caplog.records]


SAID = "the exception of 'fail' was never retrieved"


@pytest.mark.parametrize("place", ["thread", "inline", "process"])
@pytest.mark.parametrize("observers", [[], [lambda _: None]])
def test_a_declared_tasks_failure_is_logged_with_its_traceback(place, observers, caplog):
    with HybridExecutor(max_processes=1, policy=Always(place), observers=observers) as ex:
        ex.submit(fail)
    assert lost(caplog) == [SAID]
    (record,) = caplog.records
    assert (record.name, record.levelname) == ("concurrent.futures", "ERROR")
    assert "nobody looks" in caplog.text
    assert "in fail" in caplog.text


@pytest.mark.parametrize("make", [lambda: ThreadExecutor(1), lambda: ProcessExecutor(1)])
def test_so_it_is_on_an_executor_by_itself(make, caplog):
    with make() as ex:
        ex.submit(fail)
        ex.submit(fail_twice)
    assert sorted(lost(caplog)) == [SAID, SAID.replace("fail", "fail_twice")]


def test_and_where_the_submitter_has_run_it_himself(caplog):
    switch = []

    @task
    def tiny():
        if switch:
            raise ValueError("nobody looks")

    with HybridExecutor() as ex:
        for _ in range(3000):
            ex.submit(tiny).result()
        assert ex._quick
        switch.append(True)
        ex.submit(tiny)
    assert lost(caplog) == ["the exception of 'tiny' was never retrieved"]


def wait(future: HybridFuture) -> None:
    with pytest.raises(ValueError, match="nobody"):
        future.result()


@pytest.mark.parametrize(
    "look",
    [
        lambda future: future.exception(),
        wait,
        lambda future: future.add_done_callback(lambda done: done.exception()),
        lambda future: asyncio.run(wrapped(future)),
    ],
    ids=["exception", "result", "callback", "asyncio"],
)
def test_who_has_looked_is_not_told_again(look, caplog):
    with HybridExecutor() as ex:
        look(ex.submit(fail))
    assert lost(caplog) == []


async def wrapped(future: HybridFuture) -> None:
    with pytest.raises(ValueError, match="nobody"):
        await asyncio.wrap_future(future)


@pytest.mark.parametrize("place", ["thread", "process", None])
def test_a_map_that_is_left_is_no_failure_that_nobody_looked_at(place, caplog):
    policy = None if place is None else Always(place)
    with HybridExecutor(policy=policy, max_processes=1) as ex:
        ex.map(fail, range(3))
    assert lost(caplog) == []


@pytest.mark.parametrize("place", ["thread", "inline", "process"])
def test_what_a_stream_raises_is_raised_by_the_stream_alone(place, caplog):
    with HybridExecutor(policy=Always(place), max_processes=1) as ex:
        for stream in (ex.stream(break_off), ex.submit(break_off), ex.stream(refuse)):
            with pytest.raises(ValueError, match="nobody looks"):
                list(stream)
        ex.stream(refuse)
    assert lost(caplog) == []


def test_a_plain_callables_failure_is_its_callers_as_in_the_stdlib(caplog):
    with HybridExecutor() as ex:
        ex.submit(fail.fn)
        ex.options(timeout=30).submit(fail.fn)
    assert lost(caplog) == []


def test_unless_that_was_asked_for(caplog):
    with HybridExecutor(log_unretrieved=True) as ex:
        ex.submit(fail.fn)
        ex.options(timeout=30).submit(fail.fn)
        ex.submit(fail)
    assert lost(caplog) == [SAID] * 3


def test_and_none_is_logged_if_none_was_asked_for(caplog):
    with HybridExecutor(log_unretrieved=False) as ex:
        ex.submit(fail)
        ex.options(timeout=30).submit(fail)
        ex.submit(fail_twice)
    assert lost(caplog) == []


@pytest.mark.parametrize("wrong", [1, "all"])
def test_the_switch_is_checked(wrong):
    with pytest.raises(ConfigurationError, match="log_unretrieved"):
        HybridExecutor(log_unretrieved=wrong)


def test_a_future_has_no_finalizer_of_its_own():
    assert not hasattr(HybridFuture, "__del__")
    with HybridExecutor() as ex:
        future = ex.submit(int)
        future.result()
        assert "_unretrieved" not in vars(future)


def test_a_cancelled_item_is_no_failure(caplog):
    gate = threading.Event()
    with HybridExecutor(1, policy=Always("thread")) as ex:
        ex.submit(gate.wait, 30)
        assert ex.submit(fail).cancel()
        gate.set()
    assert lost(caplog) == []


def test_who_is_asked_for_its_name_is_asked_with_no_lock_held():
    asked = []

    class Named:
        def __init__(self):
            self.future = None

        def __call__(self):
            raise ValueError("no")

        def __getattr__(self, name):
            if name == "__qualname__":
                asked.append(item.future._lock._is_owned())
            raise AttributeError(name)

    item = WorkItem(Named())
    item.future._unretrieved = True  # as with log_unretrieved=True
    item.run()
    assert asked
    assert not any(asked)
    assert isinstance(item.future.exception(), ValueError)


def test_a_failure_that_came_too_late_is_nobody_s(caplog):
    item = WorkItem(fail)
    item.future._unretrieved = True
    item.future.set_running_or_notify_cancel()
    kept, item.future._item = item, None
    kept.future.set_result(1)
    kept.future._item = kept
    with pytest.raises(InvalidStateError):
        kept.future.set_exception(ValueError("late"))
    del item, kept
    gc.collect()
    assert lost(caplog) == []


def test_at_the_end_of_a_program_it_is_told_too():
    code = (
        "import logging; logging.basicConfig()\n"
        "from hybrid_compute import HybridExecutor, task\n"
        "@task\n"
        "def fail(): raise ValueError('nobody looks')\n"
        "ex = HybridExecutor(); future = ex.submit(fail)\n"
    )
    run = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=ROOT
    )
    assert "ValueError: nobody looks" in run.stderr


def test_the_failure_of_a_hedged_call_is_logged_once(caplog):
    with HybridExecutor(policy=Always("thread")) as ex:
        ex.options(idempotent=True, hedge=20.0).submit(fail)
        ex.options(idempotent=True, hedge=20.0).submit(fail).exception()
    assert lost(caplog) == [SAID]
