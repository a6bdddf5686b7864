"""A line without a connection, or with a server that means it ill: nothing hangs or grows."""

from __future__ import annotations

import heapq
import json
import threading
import time
import types
from concurrent.futures import wait

import pytest

from hybrid_compute import RemoteExecutor, remote_task
from hybrid_compute.errors import AuthError, RemoteUnavailable
from hybrid_compute.executors import _remote_calls
from hybrid_compute.executors._remote_calls import Timers
from hybrid_compute.executors._remote_ledger import Ledger
from hybrid_compute.executors._remote_line import Line
from hybrid_compute.futures import HybridFuture
from hybrid_compute.routed import RoutedItem
from hybrid_compute.tasks import TaskOptions
from tests.remote.servers import Peer, serving
from tests.remote.test_websocket import client, plain

pytestmark = pytest.mark.timeout(30)

echo = remote_task("echo")


class Gated:
    """A server that answers no handshake before `gate` is set, and hangs up then."""

    def __init__(self) -> None:
        self.gate = threading.Event()

    def __call__(self, peer: Peer) -> None:
        self.gate.wait()
        peer.reset()


@pytest.mark.parametrize("ends", ["failed", "shed"])
def test_a_call_that_comes_while_the_queue_is_looked_through_is_not_forgotten(ends):
    """Who submits adds to the queue without the lock of who looks: here, in the middle of that."""
    more: list[HybridFuture] = []

    class Sneaky(HybridFuture):
        def cancelled(self) -> bool:
            if not more:
                more.append(None)
                more[0] = ex.submit(echo, "more")
            return super().cancelled()

    server = Gated()
    with serving(server) as port, client(port) as ex:
        try:
            future = ex.submit(echo, 1)
            future.__class__ = Sneaky
            if ends == "shed":
                for _ in range(200):
                    ex.submit(echo, 2).cancel()
                assert more
        finally:
            server.gate.set()
        for each in (future, *more):
            assert isinstance(each.exception(20), RemoteUnavailable)


def test_calls_that_wait_for_a_connection_are_not_looked_at_for_each_that_comes(monkeypatch):
    looked = []
    wanted = Line._wanted
    monkeypatch.setattr(Line, "_wanted", lambda line, call: looked.append(0) or wanted(line, call))
    server = Gated()
    with serving(server) as port, client(port) as ex:
        try:
            futures = [ex.submit(echo, i) for i in range(500)]
            assert ex.counts() == (500, 0)
            assert all(each.cancel() for each in futures[100:])
            assert ex.counts() == (100, 0)
            assert len(looked) < 2000
            assert len(ex._half._queue) < 300  # those that are over do not stay
        finally:
            server.gate.set()
        assert {type(each.exception(20)) for each in futures[:100]} == {RemoteUnavailable}


@pytest.mark.parametrize("whole", [True, False])
def test_a_callback_that_ends_its_thread_when_its_call_is_cancelled_holds_nothing_up(caplog, whole):
    def leave(_: object) -> None:
        raise SystemExit

    server = Gated()
    with serving(server) as port:
        ex = client(port)
        try:
            future = ex.submit(echo, 1)
            future.add_done_callback(leave)
            if not whole:
                with pytest.raises(SystemExit):
                    future.cancel()
            ex.shutdown(wait=False, cancel_futures=True)
            assert wait([future], 20).done
            assert not ex._half._ledger
        finally:
            server.gate.set()
        ex.shutdown()
    assert "unexpected state" not in caplog.text


def test_calls_that_are_cancelled_at_the_end_leave_no_word_in_the_log(caplog):
    server = Gated()
    with serving(server) as port:
        ex = client(port)
        try:
            futures = [ex.submit(echo, i) for i in range(10)]
            ex.shutdown(wait=False, cancel_futures=True)
        finally:
            server.gate.set()
        ex.shutdown()
    assert all(each.cancelled() for each in futures)
    assert caplog.text == ""


@pytest.mark.parametrize("options", [{}, {"timeout": 1000}])
def test_ctrl_c_in_the_middle_of_a_delivery_leaves_no_future_undone(monkeypatch, options):
    item = RoutedItem(int, (), None, TaskOptions(**options))
    item.start()
    ledger = Ledger(lambda: None, types.SimpleNamespace(answered=lambda _: None))
    call = Owner(item=item, running=True, signed=None, awaited=False, passed_on=False)
    ledger._live.add(call)
    interrupts = [KeyboardInterrupt]

    def deliver(self, value):
        if interrupts:
            raise interrupts.pop()
        self.future.set_result(value)

    monkeypatch.setattr(RoutedItem, "_deliver", deliver)
    with pytest.raises(KeyboardInterrupt):
        ledger.deliver_quietly([(call, 5, None)])
    assert item.future.result(0) == 5


class Owner(types.SimpleNamespace):
    """What a clock, or a ledger, wants to know of a Call."""

    __hash__ = object.__hash__


def test_the_clock_forgets_calls_that_are_over_though_others_are_not():
    timers = Timers("clock")
    long = Owner(item=1)
    later = time.monotonic() + 1000
    timers.at(later, print, long)
    for _ in range(1000):
        call = Owner(item=1)
        timers.at(later, print, call)
        call.item = None
    assert len(timers._heap) < 200
    long.item = None
    thread = timers.thread
    timers.look()
    thread.join()
    assert timers.thread is None


def test_the_clock_is_not_woken_for_each_call_where_one_follows_another(monkeypatch):
    monkeypatch.setattr(_remote_calls, "_LINGER", 0.2)
    timers, woken, threads = Timers("clock"), [], set()
    notify = timers._changed.notify_all
    monkeypatch.setattr(
        timers._changed, "notify_all", lambda: [woken.extend(timers._changed._waiters), notify()]
    )
    for _ in range(200):
        call = Owner(item=1)
        timers.at(time.monotonic() + 1000, print, call)
        threads.add(timers.thread)
        call.item = None
        timers.look()
        time.sleep(0.0005)  # for the thread to go back to sleep, if it was woken
    assert len(woken) + len(threads) < 100
    thread = timers.thread
    if thread is not None:
        thread.join()
    assert timers.thread is None


def test_the_clock_calls_all_that_are_due_without_sorting_them_for_each(monkeypatch):
    sorted_ = []
    heapify = heapq.heapify
    monkeypatch.setattr(heapq, "heapify", lambda heap: sorted_.append(0) or heapify(heap))
    timers, came, all_came = Timers("clock"), [], threading.Event()

    def done(call: Owner) -> None:
        came.append(call)
        call.item = None
        if len(came) == 500:
            all_came.set()

    soon = time.monotonic() + 0.05
    for _ in range(500):
        call = Owner(item=1)
        timers.at(soon, lambda call=call: done(call), call)
    thread = timers.thread
    assert all_came.wait(20)
    thread.join()
    assert len(set(map(id, came))) == 500
    assert len(sorted_) < 20


def test_a_server_that_pings_and_does_not_read_takes_no_memory():
    checked = threading.Event()

    def handle(peer: Peer) -> None:
        peer.shake_hands()
        call = json.loads(peer.message())
        ping = b"\x89\x7d" + b"x" * 125
        for _ in range(1000):
            peer.sock.sendall(ping * 100)
        peer.write(json.dumps({"id": call["id"], "result": 1}).encode())
        checked.wait()

    with serving(handle) as port, client(port) as ex:
        try:
            assert ex.submit(echo, 1).result(20) == 1
            assert len(ex._half._transport._out) < 100
        finally:
            checked.set()


def test_who_reads_again_gets_pongs_again():
    pongs = []

    def handle(peer: Peer) -> None:
        peer.shake_hands()
        call = json.loads(peer.message())
        for _ in range(200):  # one by one: no more than one waits
            peer.write(b"ping", 9)
            pongs.append(peer.frame())
        peer.write(json.dumps({"id": call["id"], "result": 1}).encode())
        peer.message()

    with serving(handle) as port, client(port) as ex:
        assert ex.submit(echo, 1).result(20) == 1
    assert pongs == [(10, b"ping")] * 200


class Odd(BaseException):
    """No Exception, like what ends a program."""


@pytest.mark.parametrize(("problem", "kind"), [(SystemExit, AuthError), (Odd, RemoteUnavailable)])
def test_whatever_is_raised_instead_of_a_token_the_calls_are_told(problem, kind):
    def token() -> str:
        raise problem("no token today")

    with serving(plain) as port:
        with RemoteExecutor(f"ws://127.0.0.1:{port}/ws", tasks=["echo"], token=token) as ex:
            with pytest.raises(kind, match=f"{problem.__name__}"):
                ex.submit(echo, 1).result(20)
