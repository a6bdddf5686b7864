"""What networks do: go dead and come back, drip, cut, swallow; and servers that come back."""

from __future__ import annotations

import collections
import contextlib
import json
import os
import queue
import signal
import threading
import time

import pytest

from hybrid_compute import HybridExecutor, RemoteExecutor, remote_task, task
from hybrid_compute.errors import (
    RemoteConnectionLost,
    RemoteUnavailable,
    TaskTimeout,
)
from hybrid_compute.executors import _remote_names
from hybrid_compute.policy import Prefer
from hybrid_compute.protocol import ServerSession
from hybrid_compute.protocol.messages import Request
from hybrid_compute.testing import FaultProxy
from tests.remote import test_http, test_websocket
from tests.remote.servers import Peer, serving
from tests.remote.test_served import client as client_of
from tests.remote.wires import black_hole
from tests.server.conftest import ROOT, Served

pytestmark = pytest.mark.timeout(120)

WAIT = 60  # seconds that nothing takes which works
echo = remote_task("echo")
again = remote_task("echo", idempotent=True)
until = remote_task("until", idempotent=True)
both = pytest.mark.parametrize("scheme", ["http", "ws"])


def client(scheme: str, port: int, **options) -> RemoteExecutor:
    options.setdefault("tasks", ["echo"])
    return RemoteExecutor(f"{scheme}://127.0.0.1:{port}/x", **options)


def plain(scheme: str):
    return test_http.plain if scheme == "http" else test_websocket.plain


# A wire that goes dead: nobody is told.


@pytest.mark.parametrize("idempotent", [False, True])
def test_the_websocket_of_a_dead_wire_is_lost_and_what_it_delivers_later_is_nobodys(idempotent):
    asked = []

    def handle(peer: Peer) -> None:
        peer.shake_hands()
        while (raw := peer.message()) is not None:
            call = json.loads(raw)
            asked.append((peer.number, call["input"]))
            peer.write(json.dumps({"id": call["id"], "result": call["input"]}).encode())

    with serving(handle) as port, FaultProxy("127.0.0.1", port) as wire:
        with client("ws", wire.port, ping_interval=0.1, ping_timeout=0.4) as ex:
            assert ex.submit(echo, 1).result(WAIT) == 1
            wire.timeout(keep=True, new_connections=False)
            future = ex.submit(again if idempotent else echo, 2)
            if idempotent:
                assert future.result(WAIT) == 2
            else:
                error = future.exception(WAIT)
                assert isinstance(error, RemoteConnectionLost)
                assert error.may_have_run
            wire.heal()
            assert list(ex.map(again, range(3, 50))) == list(range(3, 50))
    assert {number for number, value in asked if value == 49} == {2}
    assert ((2, 2) in asked) == idempotent


def test_a_wire_that_has_swallowed_an_answer_is_reset_when_it_heals():
    answered = threading.Event()

    def handle(peer: Peer) -> None:
        peer.shake_hands()
        while (raw := peer.message()) is not None:
            call = json.loads(raw)
            peer.write(json.dumps({"id": call["id"], "result": call["input"]}).encode())
            if call["input"] == 2:
                answered.set()

    with serving(handle) as port, FaultProxy("127.0.0.1", port) as wire:
        with client("ws", wire.port) as ex, client("ws", wire.port) as other:
            assert ex.submit(echo, 1).result(WAIT) == 1
            with wire.timeout(direction="downstream", new_connections=False):
                future = ex.submit(echo, 2)
                assert answered.wait(WAIT)
                for _ in range(2):  # or the wire may not have carried it yet
                    assert other.submit(echo, 1).result(WAIT) == 1
            error = future.exception(WAIT / 6)  # well before its pings would find out
            assert isinstance(error, RemoteConnectionLost)
            assert error.may_have_run
            assert ex.submit(echo, 3).result(WAIT) == 3


def test_a_dead_wire_ends_a_request_at_its_deadline_and_its_answer_is_nobodys():
    with serving(test_http.plain) as port, FaultProxy("127.0.0.1", port) as wire:
        with client("http", wire.port, max_workers=1) as ex:
            assert ex.submit(echo, 1).result(WAIT) == 1
            wire.timeout(keep=True, new_connections=False)
            with pytest.raises(TaskTimeout, match="echo"):
                ex.submit(remote_task("echo", timeout=0.3), 2).result(WAIT)
            wire.heal()
            assert list(ex.map(echo, range(3, 10))) == list(range(3, 10))


# A wire that is cut, anywhere.


@both
def test_a_reset_anywhere_costs_the_call_that_it_hits_and_tells_whether_it_may_have_run(scheme):
    ran = []

    def handle(peer: Peer) -> None:
        with contextlib.suppress(KeyError):  # a part of the head has not come
            handle_websocket(peer) if scheme == "ws" else handle_requests(peer)

    def handle_websocket(peer: Peer) -> None:
        peer.shake_hands()
        while (raw := peer.message()) is not None:
            ran.append(1)
            peer.write(json.dumps({"id": json.loads(raw)["id"], "result": 7}).encode())

    def handle_requests(peer: Peer) -> None:
        while (body := peer.request()) is not None:
            if peer.start.startswith("POST") and len(body) == int(peer.headers["content-length"]):
                ran.append(1)
            peer.answer(b'{"result": 7}')

    with serving(handle) as port:
        with FaultProxy("127.0.0.1", port) as wire:
            with client(scheme, wire.port) as ex:
                assert ex.submit(echo, 1).result(WAIT) == 7
            whole = wire.passed_bytes
        assert whole > 100
        for count in range(whole):
            ran.clear()
            with FaultProxy("127.0.0.1", port) as wire:
                wire.limit_data(count)
                with client(scheme, wire.port) as ex:
                    error = ex.submit(echo, 1).exception(WAIT)
            if error is None:
                assert ran, count
                assert count > 100  # the request went through, and all of its answer
                continue
            assert isinstance(error, (RemoteUnavailable, RemoteConnectionLost)), count
            assert not ran or error.may_have_run, count


# A long way.


def test_calls_over_a_long_way_are_all_there_before_the_first_answer_is_back():
    came: queue.Queue[int] = queue.Queue()

    def handle(peer: Peer) -> None:
        peer.shake_hands("Hybrid-Compute: 1\r\nSec-WebSocket-Protocol: hybrid-compute.v1.json\r\n")
        session = ServerSession(own=True)
        for frame in session.frames_to_send(time.monotonic()):
            peer.write(frame)
        while (raw := peer.message()) is not None:
            for event in session.receive(raw):
                if isinstance(event, Request):
                    came.put(event.args[0])
                    session.result(event.id, event.args[0])
            for frame in session.frames_to_send(time.monotonic()):
                peer.write(frame)

    with serving(handle) as port, FaultProxy("127.0.0.1", port) as wire:
        with client("ws", wire.port) as ex:
            assert ex.submit(echo, -1).result(WAIT) == came.get() == -1
            wire.latency(1000, direction="downstream")
            futures = []
            try:
                for number in range(20):  # the next is made when the last is there
                    futures.append(ex.submit(echo, number))
                    assert came.get(timeout=WAIT / 3) == number
                assert not any(each.done() for each in futures)
            finally:
                wire.heal()
            assert [each.result(WAIT) for each in futures] == list(range(20))


# Drips.


def test_the_deadline_counts_for_the_whole_of_a_dripping_frame_and_the_executor_ends():
    def handle(peer: Peer) -> None:
        peer.shake_hands()
        peer.message()
        peer.sock.sendall(b"\x81\x7e\xff\xff")
        peer.sock.settimeout(0.02)
        while True:
            peer.sock.sendall(b"x")
            with contextlib.suppress(TimeoutError):
                if not peer.sock.recv(1):
                    return

    with serving(handle) as port, client("ws", port) as ex:
        with pytest.raises(TaskTimeout, match="echo"):
            ex.submit(remote_task("echo", timeout=0.3), 1).result(WAIT)


def test_a_dripping_handshake_ends_with_the_time_for_a_connection():
    def handle(peer: Peer) -> None:
        peer.request()
        for byte in b"HTTP/1.1 101 Switching\r\n" + b"X: y\r\n" * 1000:
            peer.sock.sendall(bytes((byte,)))
            time.sleep(0.02)

    with serving(handle) as port, client("ws", port, connect_timeout=0.3) as ex:
        with pytest.raises(RemoteUnavailable):
            ex.submit(echo, 1).result(WAIT)


@both
def test_who_does_not_read_the_call_has_until_its_deadline(scheme):
    gone = threading.Event()

    def handle(peer: Peer) -> None:
        peer.shake_hands() if scheme == "ws" else None
        gone.wait(WAIT)

    call = remote_task("echo", timeout=0.5)
    with serving(handle) as port:
        try:
            with client(scheme, port, max_bytes=100_000_000) as ex:
                with pytest.raises(TaskTimeout, match="echo"):
                    ex.submit(call, "x" * 50_000_000).result(WAIT)
        finally:
            gone.set()


def test_the_question_for_its_tasks_has_no_longer_than_the_call(monkeypatch):
    monkeypatch.setattr(_remote_names, "_PATIENCE", 3600.0)
    with serving(lambda peer: peer.file.read()) as port, client("http", port) as ex:
        with pytest.raises(TaskTimeout, match="echo"):
            ex.submit(remote_task("echo", timeout=0.2), 1).result(WAIT)


# Servers that come back.


@both
def test_an_idempotent_call_goes_on_when_its_server_was_killed_and_comes_back(scheme, tmp_path):
    """The file that the call waits for is there only when the second server is."""
    served = Served("tests.remote.work:TASKS")
    try:
        with client_of(served, scheme, tasks=["until"]) as ex:
            (tmp_path / "first").touch()
            assert ex.submit(until, str(tmp_path / "first")).result(WAIT) == "done"
            future = ex.submit(until, str(tmp_path / "second"))
            assert ex.submit(until, str(tmp_path / "first")).result(WAIT) == "done"
            os.kill(served.process.pid, signal.SIGKILL)
            served.end()
            served = Served("tests.remote.work:TASKS", port=served.port)
            (tmp_path / "second").touch()
            assert future.result(WAIT) == "done"
    finally:
        (tmp_path / "second").touch()
        served.end()


def test_200_clients_come_back_to_a_server_each_by_one_dial_at_a_time():
    """When the server has gone away, its port hangs up on 800 dials; then it serves again."""
    lock = threading.Lock()
    dials: collections.Counter[str] = collections.Counter()
    serves: collections.Counter[str] = collections.Counter()
    most = [0]
    down = threading.Event()

    def handle(peer: Peer) -> None:
        away = down.is_set() and dials.total() < 800
        peer.request() if away else peer.shake_hands()
        name = peer.headers["x-client"]
        with lock:
            dials[name] += down.is_set()
            serves[name] += not away
            most[0] = max(most[0], serves[name])
        if away:
            return
        if not down.is_set():
            answer(peer)
            down.wait(WAIT)
            with lock:
                serves[name] -= 1
            peer.reset()
            return
        while answer(peer):
            pass

    def answer(peer: Peer) -> bool:
        raw = peer.message()
        if raw is not None:
            call = json.loads(raw)
            peer.write(json.dumps({"id": call["id"], "result": call["input"]}).encode())
        return raw is not None

    with serving(handle) as port, contextlib.ExitStack() as stack:
        stack.callback(down.set)
        clients = [
            stack.enter_context(client("ws", port, headers={"X-Client": str(number)}))
            for number in range(200)
        ]
        for future in [ex.submit(again, 1) for ex in clients]:
            assert future.result(WAIT) == 1
        # Of each there are four calls under way: one dial is to serve them all.
        futures = [ex.submit(again, number) for ex in clients for number in range(4)]
        down.set()
        assert [future.result(WAIT) for future in futures] == [0, 1, 2, 3] * 200
    assert most[0] == 1
    assert max(dials.values()) < 25  # on average there are five each


def test_dials_become_rarer():
    """In two seconds there are about six; without pauses there would be hundreds."""
    dials = []

    def handle(peer: Peer) -> None:
        if peer.number == 1:
            peer.shake_hands()
            peer.message()
            dials.append(time.monotonic())
            peer.reset()
        elif time.monotonic() < dials[0] + 2:
            dials.append(peer.request())
        else:
            test_websocket.plain(peer)

    with serving(handle) as port, client("ws", port) as ex:
        assert ex.submit(again, 1).result(WAIT) == 1
    assert 2 < len(dials) < 30


# Nobody there.


@both
@pytest.mark.parametrize("fault", ["refused", "black hole", "name"])
def test_nobody_there_is_unavailable_in_time_and_a_local_tier_takes_over(scheme, fault):
    @task(name="echo")
    def local(value):
        return -value

    with contextlib.ExitStack() as stack:
        host, port = "127.0.0.1", 1
        if fault == "black hole":
            port = stack.enter_context(black_hole())
        elif fault == "name":
            host = "nobody.invalid"
        url = f"{scheme}://{host}:{port}/x"
        for tasks in (["echo"], None):
            remote = RemoteExecutor(url, tasks=tasks, connect_timeout=0.3)
            fleet = HybridExecutor(remote=remote, policy=Prefer("remote", "thread"))
            with fleet as ex:
                assert ex.submit(local, 1).result(WAIT) == -1
        with RemoteExecutor(url, tasks=["echo"], connect_timeout=0.3) as ex:
            with pytest.raises(RemoteUnavailable, match="nothing was sent"):
                ex.submit(again, 1).result(WAIT)


# Clocks that jump.

_CLOCK = """
import os, time
_real, _name, _start = time.time, os.environ["CLOCK"], time.monotonic()
def _time():
    with open(_name) as file:
        text = file.read()
    if text.startswith("x"):
        return _real() + (time.monotonic() - _start) * (float(text[1:]) - 1)
    return _real() + float(text or 0)
time.time = _time
"""


@both
@pytest.mark.parametrize("jump", ["3600", "-3600", "x100"])
def test_a_jump_of_the_wall_clock_changes_nothing(scheme, jump, tmp_path, monkeypatch):
    (tmp_path / "sitecustomize.py").write_text(_CLOCK)
    clock = tmp_path / "clock"
    clock.write_text("0")
    real = time.time
    served = Served("tests.remote.work:TASKS", PYTHONPATH=f"{tmp_path}:{ROOT}", CLOCK=str(clock))
    try:
        options = {} if scheme == "http" else {"ping_interval": 0.05, "ping_timeout": 20.0}
        with client_of(served, scheme, **options) as ex:
            (tmp_path / "first").touch()
            assert ex.submit(until, str(tmp_path / "first")).result(WAIT) == "done"
            call = remote_task("until", timeout=WAIT)
            future = ex.submit(call, str(tmp_path / "second"))
            assert ex.submit(until, str(tmp_path / "first")).result(WAIT) == "done"
            clock.write_text(jump)
            for far in (7200, -7200):
                monkeypatch.setattr(time, "time", lambda far=far: real() + far)
                assert ex.submit(call, str(tmp_path / "first")).result(WAIT) == "done"
                assert not future.done()
            (tmp_path / "second").touch()
            assert future.result(WAIT) == "done"
    finally:
        (tmp_path / "second").touch()
        served.end()
