"""The process ends in bounded time after SIGTERM, whatever its tasks do; and says what is left."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import threading

import pytest

from hybrid_compute import RemoteExecutor, remote_task
from hybrid_compute._serve import LEFT
from hybrid_compute.errors import RemoteConnectionLost

from .conftest import SECRET, Served
from .raw import Raw, RawSocket, ask, frame, post

pytestmark = pytest.mark.timeout(120)


# Seconds that the server waits for what cannot be ended; and beside the grace, before it ends.
SOON = "hybrid_compute.server.service:_STOPPING=0.3"
AT_ONCE = "hybrid_compute._serve:_MARGIN=0.3"


@contextlib.contextmanager
def serving(*options: str, hurry: str | None = None):
    if hurry is None:
        served = Served("tests.server.work:ODD", *options)
    else:
        served = Served("tests.server.hurried:ODD", *options, HURRY=hurry)
    try:
        yield served
    finally:
        served.process.kill()
        served.end()


def call(task, path, identity=1):
    return frame(json.dumps({"id": identity, "task": task, "input": str(path)}).encode())


def wait_for(path):
    pause = threading.Event()
    while not os.path.exists(path):
        pause.wait(0.01)


def test_a_task_on_a_thread_that_never_ends_is_named_and_left(tmp_path):
    path = tmp_path / "begun"
    with serving("--grace", "0.3", hurry=SOON) as served:
        with RawSocket(served.port) as raw, Raw(served.port) as other:
            raw.send(call("forever", path))
            wait_for(path)
            other.send(post(json.dumps({"task": "forever", "input": str(tmp_path / "second")})))
            wait_for(tmp_path / "second")
            assert served.end() == LEFT
            assert raw.closed() == 1012
            assert b"nobody sees its end" in raw.came  # and so it may have run: see errors
            assert other.status() == 504
    assert served.said.count("left behind: token=default task='forever'") == 2
    assert "2 calls are left behind" in served.said
    assert "Traceback" not in served.said


def test_work_that_was_given_up_does_not_keep_the_process_either(tmp_path):
    path = tmp_path / "begun"
    with serving("--grace", "0.3", "--task-seconds", "0.3") as served:
        assert ask(served.port, {"task": "forever", "input": str(path)})[0] == 500
        wait_for(path)
        assert served.end() == LEFT
    assert "given up" in served.said


def test_a_task_that_blocks_the_event_loop_does_not_keep_the_process(tmp_path):
    path = tmp_path / "begun"
    with serving("--grace", "0.3", hurry=AT_ONCE) as served:
        with RawSocket(served.port) as raw:
            raw.send(call("stuck", path))
            wait_for(path)
            assert served.end() == LEFT
    assert "task='stuck'" in served.said


def test_a_task_in_a_process_is_ended_after_the_grace_though_it_ignores_sigterm(tmp_path):
    path = tmp_path / "begun"
    with serving("--grace", "0.3") as served:
        with RawSocket(served.port) as raw:
            raw.send(call("stubborn", path))
            wait_for(path)
            assert served.end() == 0
            assert raw.closed() == 1012
            assert b"the server ended the call" in raw.came
            assert b"503" not in raw.came  # it may have run
    assert "outcome=cancelled" in served.said


@pytest.mark.parametrize("second", [signal.SIGTERM, signal.SIGINT])
def test_a_second_signal_ends_it_at_once(tmp_path, second):
    path = tmp_path / "begun"
    with serving("--grace", "3600") as served:
        with RawSocket(served.port) as raw:
            raw.send(call("stubborn", path))
            wait_for(path)
            served.process.send_signal(signal.SIGTERM)
            while ask(served.port, {"task": "ping"})[0] == 200:
                pass
            served.process.send_signal(second)
            served.process.wait(30)
            assert served.process.returncode == 128 + second


def test_without_work_it_ends_with_0():
    with serving() as served:
        assert ask(served.port, {"task": "echo"})[0] == 200
        assert served.end() == 0


@pytest.mark.parametrize("scheme", ["http", "ws"])
@pytest.mark.parametrize("name", ["stubborn", "forever"])
def test_our_own_client_learns_that_such_a_call_may_have_run(tmp_path, scheme, name):
    path = tmp_path / "begun"
    with serving("--grace", "0.3", hurry=SOON if name == "forever" else None) as served:
        url = f"{scheme}://127.0.0.1:{served.port}/{'ws' if scheme == 'ws' else 'compute'}"
        with RemoteExecutor(url, token=SECRET, tasks=[name], reconnect_for=0.1) as ex:
            future = ex.submit(remote_task(name), str(path))
            wait_for(path)
            served.process.send_signal(signal.SIGTERM)
            error = future.exception(60)
            assert isinstance(error, RemoteConnectionLost)
            assert error.may_have_run
