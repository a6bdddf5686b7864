"""RemoteExecutor against the real server, in a process of its own."""

from __future__ import annotations

import contextlib
import datetime as dt
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from hybrid_compute import HybridExecutor, RemoteExecutor, Retry, remote_task, task
from hybrid_compute.breaker import Breaker
from hybrid_compute.errors import (
    RemoteBusy,
    RemoteConnectionLost,
    RemoteTaskError,
    RemoteUnavailable,
    TaskTimeout,
    UnknownTaskError,
)
from hybrid_compute.policy import Prefer
from tests.server.conftest import ROOT, SECRET, Served

pytestmark = pytest.mark.timeout(120)

echo, fail, wait = remote_task("echo"), remote_task("fail"), remote_task("wait")
until = remote_task("until")

VALUES = [
    None,
    2**70,
    0.1,
    float("inf"),
    "\u20ac",
    b"\0\xff",
    (1, (2,)),
    {1: "a", (1, 2): "b"},
    {1, 2},
    frozenset({3}),
    1 + 2j,
    dt.datetime(2024, 1, 2, 3, 4, 5, 6, tzinfo=dt.UTC),
    dt.date(2024, 1, 2),
    dt.timedelta(seconds=1.5),
]


@contextlib.contextmanager
def server() -> Iterator[Served]:
    served = Served("tests.server.work:TASKS")
    try:
        yield served
    finally:
        served.end()


@pytest.fixture(scope="module")
def shared():
    with server() as served:
        yield served


def client(served: Served, scheme: str, **options) -> RemoteExecutor:
    path = "/ws" if scheme == "ws" else "/compute"
    return RemoteExecutor(f"{scheme}://127.0.0.1:{served.port}{path}", token=SECRET, **options)


both = pytest.mark.parametrize("scheme", ["http", "ws"])


@both
def test_values_of_all_types_come_back_as_they_were(shared, scheme):
    with client(shared, scheme) as ex:
        got = [ex.submit(echo, each) for each in VALUES]
        for sent, future in zip(VALUES, got, strict=True):
            assert future.result(60) == sent
            assert type(future.result()) is type(sent)
        assert ex.submit(echo, value=[1, {2}]).result(60) == [1, {2}]


@both
def test_errors_are_those_of_the_task(shared, scheme):
    with client(shared, scheme, tasks=["fail", "unknown", "echo"]) as ex:
        with pytest.raises(RemoteTaskError, match="why"):
            ex.submit(fail, "why").result(60)
        with pytest.raises(UnknownTaskError):
            ex.submit(remote_task("unknown")).result(60)
        assert ex.submit(echo, 1).result(60) == 1


@both
@pytest.mark.parametrize("whose", ["task", "executor"])
def test_deadlines_hold(shared, scheme, whose):
    call = remote_task("wait", timeout=0.3) if whose == "task" else wait
    with client(shared, scheme, timeout=0.3 if whose == "executor" else None) as ex:
        with pytest.raises(TaskTimeout):
            ex.submit(call).result(60)


def test_cancel_running_ends_a_call_of_the_server():
    with server() as served:
        with client(served, "ws") as ex:
            assert ex.submit(echo, 1).result(60) == 1  # hello has come
            future = ex.submit(wait)
            assert future.running()
            assert future.cancel_running()
            assert ex.submit(echo, 2).result(60) == 2
        assert served.end() == 0
        assert "outcome=cancelled" in served.said


def test_the_slower_of_two_attempts_is_cancelled_on_the_wire():
    slow = task(name="wait", idempotent=True, hedge=0.05)(os.getpid)
    with server() as served:
        with HybridExecutor(remote=client(served, "ws"), policy=Prefer("remote", "thread")) as ex:
            assert ex.submit(echo, 1).result(60) == 1  # hello has come
            assert ex.submit(slow).result(60) == os.getpid()
            assert ex.submit(echo, 2).result(60) == 2
        assert served.end() == 0
        assert "outcome=cancelled" in served.said


@both
def test_it_closes_well_whatever_is_under_way(shared, scheme):
    for number in range(40):
        ex = client(shared, scheme)
        futures = [ex.submit(echo, each) for each in range(number % 5)]
        if number % 3 == 0:
            ex.shutdown()
        elif number % 3 == 1:
            ex.shutdown(wait=False)
        else:
            ended = threading.Event()
            if futures:
                futures[-1].add_done_callback(lambda _, ex=ex: ex.shutdown())
                futures[-1].add_done_callback(lambda _, ended=ended: ended.set())
                assert ended.wait(60)
            ex.shutdown()
        assert [each.result(60) for each in futures] == list(range(number % 5))


@pytest.mark.parametrize("idempotent", [False, True])
def test_a_server_that_is_killed_in_the_middle_of_a_call(idempotent):
    with server() as served:
        with client(served, "ws", tasks=["echo", "wait"], reconnect_for=0.1) as ex:
            assert ex.submit(echo, 1).result(60) == 1
            future = ex.submit(remote_task("wait", idempotent=idempotent))
            # Its answer shows that the server has the call before it as well.
            assert ex.submit(echo, 2).result(60) == 2
            os.kill(served.process.pid, signal.SIGKILL)
            error = future.exception(60)
            assert isinstance(error, RemoteConnectionLost)
            assert error.may_have_run
            assert idempotent == ("there is no other" in str(error))  # sent again, in vain


def test_a_client_comes_back_when_the_server_does():
    with server() as first:
        port = first.port
        with client(first, "ws", tasks=["echo"]) as ex:
            assert ex.submit(echo, 1).result(60) == 1
            assert first.end() == 0
            with _again(port):
                assert ex.submit(remote_task("echo", idempotent=True), 2).result(60) == 2


@contextlib.contextmanager
def _again(port: int) -> Iterator[None]:
    """Serve at a port of which another server has just let go."""
    process = subprocess.Popen(
        [
            *(sys.executable, "-m", "hybrid_compute.cli", "serve"),
            *("tests.server.work:TASKS", "--port", str(port)),
        ],
        env={**os.environ, "PYTHONPATH": str(ROOT), "HYBRID_COMPUTE_TOKEN": SECRET},
        cwd=ROOT,
        stderr=subprocess.PIPE,
        text=True,
    )
    try:
        assert any("serving at" in line for line in process.stderr)
        yield
    finally:
        process.terminate()
        process.communicate(timeout=30)


def until_there(path: Path) -> None:
    end = time.monotonic() + 60
    while not path.exists():
        assert time.monotonic() < end, f"{path.name} never came"
        time.sleep(0.005)


@both
def test_a_server_that_is_told_to_end_finishes_what_runs(scheme, tmp_path):
    served = Served("tests.remote.work:TASKS")
    try:
        with client(served, scheme, tasks=["until"]) as ex:
            (tmp_path / "first").touch()
            assert ex.submit(until, str(tmp_path / "first")).result(60) == "done"
            future = ex.submit(until, str(tmp_path / "second"))
            until_there(tmp_path / "second.begun")
            served.process.send_signal(signal.SIGTERM)
            error = None
            while error is None:  # until it takes nothing new
                with client(served, scheme, tasks=["until"]) as other:
                    error = other.submit(until, str(tmp_path / "first")).exception(60)
            assert isinstance(error, (RemoteUnavailable, RemoteBusy, RemoteConnectionLost))
            (tmp_path / "second").touch()
            assert future.result(60) == "done"
    finally:
        (tmp_path / "second").touch()
        served.end()


@both
def test_retries_wait_for_a_service_that_is_started_anew(scheme):
    with server() as first:
        port = first.port
    again = remote_task("echo", retries=Retry(600, 0.05, factor=1.0))
    with client(first, scheme, breaker=Breaker(pause=0.1, longest=0.1)) as remote:
        future = remote.submit(again, 7)
        with contextlib.suppress(TimeoutError):
            future.result(0.2)
        assert not future.done()
        second = Served("tests.server.work:TASKS", port=port)
        try:
            assert future.result(60) == 7
            earlier = [each.error for each in future.explain().attempts[:-1]]
            assert earlier
            assert all("RemoteUnavailable" in each for each in earlier)
        finally:
            second.end()
