"""The context variables of who submits reach the work, and nothing that it sets comes back."""

from __future__ import annotations

import asyncio
import contextvars
import gc
import pickle
import subprocess
import sys
import threading
import weakref
from concurrent.futures import ProcessPoolExecutor, ThreadPoolExecutor
from contextvars import ContextVar, copy_context

import pytest

from hybrid_compute import (
    HybridExecutor,
    InlineExecutor,
    OutboxExecutor,
    RemoteExecutor,
    ThreadExecutor,
    remote_task,
    task,
)
from hybrid_compute._contexts import Carried, current_context
from hybrid_compute.errors import ConfigurationError
from hybrid_compute.policy import Always
from tests.context_work import (
    Odd,
    look,
    look_plainly,
    look_plainly_twice,
    look_twice,
    request_id,
    secret,
)
from tests.server.conftest import ROOT, SECRET, Served

pytestmark = pytest.mark.timeout(60)

DELIVERED = ["one", "set by a stream", "set by a stream"]


@pytest.fixture(autouse=True)
def asked():
    """Set the variables, and see that nobody else does."""
    token, other = request_id.set("one"), secret.set("mine")
    yield
    assert (request_id.get(), secret.get()) == ("one", "mine")
    request_id.reset(token)
    secret.reset(other)


@pytest.mark.parametrize("place", ["thread", "inline", "lane"])
def test_a_task_finds_all_of_its_submitters_context(place):
    with HybridExecutor(policy=Always(place)) as ex:
        futures = [ex.submit(look, i) for i in range(5)]
        assert {future.result() for future in futures} == {("one", "mine")}


@pytest.mark.parametrize("place", ["thread", "inline"])
def test_so_does_one_that_is_tried_again_and_watched(place):
    tried = []

    @task(retries=2, timeout=30)
    def fail_twice():
        tried.append(request_id.get())
        request_id.set("from the attempt before")
        if len(tried) < 3:
            raise ValueError
        return len(tried)

    with HybridExecutor(policy=Always(place), observers=[lambda _: None]) as ex:
        assert ex.submit(fail_twice).result() == 3
    assert tried == ["one"] * 3


@pytest.mark.parametrize("place", ["thread", "process"])
def test_so_does_one_that_is_hedged(place):
    with HybridExecutor(max_processes=1, policy=Always(place), carry=[request_id]) as ex:
        view = ex.options(idempotent=True, hedge=20.0)
        assert view.submit(look).result()[0] == "one"


@pytest.mark.parametrize("place", ["thread", "inline"])
def test_the_context_is_that_of_the_moment_of_submission(place):
    with HybridExecutor(max_workers=1, policy=Always(place)) as ex:
        gate = threading.Event()
        ex.submit(gate.wait, 30)
        future = ex.submit(look)
        token = request_id.set("later")
        gate.set()
        assert future.result()[0] == "one"
        request_id.reset(token)


@pytest.mark.parametrize("settings", [{}, {"ordered": False}, {"buffersize": 2}, {"chunksize": 3}])
@pytest.mark.parametrize("place", ["thread", "inline", "process", None])
def test_each_call_of_a_map_has_a_context_of_its_own(place, settings):
    policy = None if place is None else Always(place)
    with HybridExecutor(policy=policy, carry=[request_id, secret], max_processes=1) as ex:
        assert set(ex.map(look, range(9), **settings)) == {("one", "mine")}


@pytest.mark.parametrize("place", ["thread", "inline", "process"])
def test_all_steps_of_a_stream_run_in_one_context(place):
    with HybridExecutor(policy=Always(place), carry=[request_id], max_processes=1) as ex:
        assert list(ex.submit(look_twice)) == DELIVERED
        with ex.stream(look_twice) as stream:
            assert list(stream) == DELIVERED


def test_a_stream_that_waits_for_its_consumer_goes_on_in_its_context():
    closed = []

    @task(buffersize=1)
    def count():
        try:
            for _ in range(50):
                yield request_id.get()
        finally:
            closed.append(request_id.get())

    with HybridExecutor(max_workers=2, policy=Always("thread")) as ex:
        assert list(ex.submit(count)) == ["one"] * 50
        with ex.stream(count) as stream:
            assert next(stream) == "one"
    assert closed == ["one", "one"]


def test_an_asynchronous_stream_starts_in_the_context():
    @task
    async def count():
        for _ in range(3):
            yield request_id.get()
            await asyncio.sleep(0)

    with HybridExecutor(policy=Always("thread")) as ex:
        assert list(ex.submit(count)) == ["one"] * 3


def test_who_closes_a_stream_from_within_is_told_so():
    streams = []

    @task
    def close_itself():
        yield 1
        streams[0].close()
        yield 2

    with HybridExecutor(policy=Always("inline")) as ex:
        streams.append(ex.stream(close_itself))
        assert list(streams[0]) == [1]


def test_quick_tasks_that_their_submitter_runs_find_it_too():
    @task
    def tiny():
        seen = request_id.get()
        request_id.set("set by a task")
        return seen

    with HybridExecutor() as ex:
        assert {ex.submit(tiny).result() for _ in range(3000)} == {"one"}
        assert ex._quick


def test_what_a_task_sets_inline_stays_there_even_if_nothing_was_set_before():
    def submit():
        assert current_context() is None
        with HybridExecutor(policy=Always("inline")) as ex:
            assert ex.submit(look).result() == ("unset", "unset")
            assert ex.submit(look).result() == ("unset", "unset")
        assert request_id.get() == "unset"

    contextvars.Context().run(submit)


@pytest.mark.parametrize("make", [InlineExecutor, lambda: ThreadExecutor(1)])
def test_executors_by_themselves_do_the_same(make):
    with make() as ex:
        assert ex.submit(look).result() == ("one", "mine")
        assert list(ex.map(look, range(3))) == [("one", "mine")] * 3
        assert list(ex.stream(look_twice)) == DELIVERED


def test_a_plain_callable_runs_in_its_threads_context_as_in_the_stdlib():
    with HybridExecutor() as ex:
        assert ex.submit(look_plainly).result() == "unset"
        assert list(ex.map(look_plainly, range(3))) == ["unset"] * 3
        assert next(iter(ex.submit(look_plainly_twice))) == "unset"


def test_a_plain_callable_inherits_the_context_if_that_was_asked_for():
    with HybridExecutor(inherit_context=True) as ex:
        assert ex.submit(look_plainly).result() == "one"
        assert list(ex.map(look_plainly, range(3))) == ["one"] * 3
        assert ex.options(timeout=30).submit(look_plainly).result() == "one"
        assert list(ex.submit(look_plainly_twice)) == DELIVERED
        assert list(ex.stream(look_plainly_twice)) == DELIVERED
        view = ex.options(executor="inline")
        assert view.submit(look.fn).result() == ("one", "mine")
        assert list(view.map(look_plainly, range(3))) == ["one"] * 3


def test_listed_variables_reach_worker_processes_and_no_others_do():
    with HybridExecutor(max_processes=1, policy=Always("process"), carry=[request_id]) as ex:
        assert ex.submit(look).result() == ("one", "unset")
        assert ex.submit(look).result() == ("one", "unset")
        assert contextvars.Context().run(ex.submit, look).result() == ("unset", "unset")


def test_nothing_reaches_worker_processes_if_nothing_is_listed():
    with HybridExecutor(max_processes=1, policy=Always("process")) as ex:
        assert ex.submit(look).result() == ("unset", "unset")


def test_what_cannot_be_pickled_stays_behind_and_what_can_goes():
    token, other = secret.set(threading.Lock()), request_id.set({"of": ["any", "kind"]})
    with HybridExecutor(max_processes=1, carry=[request_id, secret], policy=Always("process")) as e:
        assert e.submit(look).result() == ({"of": ["any", "kind"]}, "unset")
    secret.reset(token)
    request_id.reset(other)


def test_an_argument_that_cannot_be_pickled_is_named_as_ever():
    with HybridExecutor(max_processes=1, carry=[request_id], policy=Always("process")) as ex:
        error = ex.submit(look, threading.Lock()).exception()
        assert "argument 1 (of type _thread.lock)" in str(error)
        assert "run_carrying" not in str(error)


def test_functions_that_travel_by_value_know_a_listed_variable():
    local = ContextVar("local", default="default")
    unlisted = ContextVar("unlisted")

    @task
    def look_closer():
        return local.get(), request_id.get()

    with HybridExecutor(max_processes=1, carry=[local, request_id], policy=Always("process")) as ex:
        token = local.set("here")
        assert ex.submit(look_closer).result() == ("here", "one")
        local.reset(token)
        assert ex.submit(look_closer).result() == ("default", "one")
        assert ex.submit(task(lambda: local)).result() is local  # and it finds its way home
    with pytest.raises(
        TypeError, match="cannot pickle '_contextvars.ContextVar' object 'unlisted'"
    ):
        pickle.dumps(unlisted)


def test_a_script_can_list_a_variable_of_its_own(tmp_path):
    script = tmp_path / "script.py"
    script.write_text(
        "from contextvars import ContextVar\n"
        "from hybrid_compute import HybridExecutor, task\n"
        "who = ContextVar('who', default='nobody')\n"
        "@task\n"
        "def ask(): return who.get()\n"
        "with HybridExecutor(max_processes=1, carry=[who]) as ex:\n"
        "    who.set('me')\n"
        "    print(*[ex.options(executor='process').submit(ask).result() for _ in range(2)])\n"
    )
    env = {"PYTHONPATH": str(ROOT), "PATH": "/usr/bin:/bin"}
    run = subprocess.run(
        [sys.executable, str(script)], env=env, capture_output=True, text=True, check=True
    )
    assert run.stdout.split() == ["me", "me"]


def test_foreign_pools_of_the_stdlib_are_no_exception():
    with HybridExecutor(
        executors={"theirs": ThreadPoolExecutor(1), "other": ProcessPoolExecutor(1)},
        carry=[request_id],
    ) as ex:
        assert ex.options(executor="theirs").submit(look).result() == ("one", "mine")
        assert ex.options(executor="theirs").submit(look).result() == ("one", "mine")
        assert ex.options(executor="other").submit(look).result()[0] == "one"


@pytest.fixture(scope="module")
def service():
    served = Served("tests.context_work:TASKS", "--context", "tests.context_work:request_id")
    yield served
    served.end()


@pytest.mark.parametrize("scheme", ["http", "ws"])
def test_a_service_takes_what_both_sides_have_listed(service, scheme):
    path = "/ws" if scheme == "ws" else "/compute"
    remote = RemoteExecutor(f"{scheme}://127.0.0.1:{service.port}{path}", token=SECRET)
    with HybridExecutor(remote=remote, carry=[request_id, secret]) as ex:
        for name in ("look", "look_inline"):
            asked = ex.submit(remote_task(name))
            assert asked.result() == ("one", "unset")
        token = request_id.set(Odd())
        assert ex.submit(remote_task("look")).result() == ("unset", "unset")
        request_id.reset(token)
        assert list(ex.map(remote_task("look"), range(3))) == [("one", "unset")] * 3
        with ex.stream(remote_task("look_twice")) as stream:
            assert list(stream) == DELIVERED


@pytest.mark.parametrize("scheme", ["http", "ws"])
def test_a_service_gets_them_by_way_of_an_outbox(service, scheme, tmp_path):
    path = "/ws" if scheme == "ws" else "/compute"
    remote = RemoteExecutor(f"{scheme}://127.0.0.1:{service.port}{path}", token=SECRET)
    outbox = OutboxExecutor(remote, tmp_path / "calls", linger=0)
    with HybridExecutor(executors={"outbox": outbox}, carry=[request_id, secret]) as ex:
        asked = ex.options(executor="outbox").submit(remote_task("look"))
        assert asked.result(30) == ("one", "unset")


def test_a_call_without_a_context_is_no_other_than_before(service):
    remote = RemoteExecutor(f"ws://127.0.0.1:{service.port}/ws", token=SECRET)
    with HybridExecutor(remote=remote) as ex:
        assert ex.submit(remote_task("look")).result() == ("unset", "unset")


@pytest.mark.parametrize("wrong", ["request_id", request_id, [1], [look_plainly], 3])
def test_only_context_variables_can_be_listed(wrong):
    with pytest.raises(ConfigurationError, match="carry"):
        HybridExecutor(carry=wrong)


def test_two_variables_of_one_name_cannot_be_listed():
    with pytest.raises(ConfigurationError, match="two variables are called 'request_id'"):
        Carried([request_id, ContextVar("request_id")])


def test_inherit_context_is_a_flag():
    with pytest.raises(ConfigurationError, match="inherit_context"):
        HybridExecutor(inherit_context=1)


def test_an_empty_context_makes_no_other_item():
    def submit():
        assert len(copy_context()) == 0
        with HybridExecutor(policy=Always("thread"), inherit_context=True) as ex:
            kinds = []
            ex._thread.execute = lambda item: kinds.append((type(item).__name__, item.context))
            ex.submit(look_plainly)
            ex.submit(look)
            del ex._thread.execute
        assert kinds == [("WorkItem", None)] * 2

    contextvars.Context().run(submit)


def test_a_context_is_freed_with_its_item():
    class Big:
        pass

    token = secret.set(big := Big())
    gone = weakref.ref(big)
    with HybridExecutor(policy=Always("thread")) as ex:
        future = ex.submit(task(look_plainly))
        assert future.result() == "one"
        secret.reset(token)
        del big, token
        gc.collect()
        assert gone() is None


@pytest.mark.parametrize("options", [{}, {"retries": 1}, {"executor": "thread"}, {"timeout": 30}])
@pytest.mark.parametrize("empty", [True, False])
def test_the_traceback_of_a_failure_leads_to_no_future(options, empty):
    def fails():
        raise ValueError("no")

    def error_of_one():
        with HybridExecutor(1) as executor:
            future = executor.options(**options).submit(task(fails))
            return future.exception(), weakref.ref(future)

    context = contextvars.Context()
    if not empty:
        context.run(ContextVar("variable").set, 1)
    gc.collect()
    gc.disable()
    try:
        error, future = context.run(error_of_one)
        assert isinstance(error, ValueError)
        assert future() is None
    finally:
        gc.enable()
