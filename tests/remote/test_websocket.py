"""RemoteExecutor over WebSocket, against servers that are written for the occasion."""

from __future__ import annotations

import json
import struct
import threading

import pytest

from hybrid_compute import HybridExecutor, RemoteExecutor, remote_task, task
from hybrid_compute.errors import (
    AuthError,
    PayloadTooLarge,
    PlacementError,
    ProtocolError,
    RemoteConnectionLost,
    RemoteTaskError,
    RemoteUnavailable,
    TaskEncodeError,
    TaskTimeout,
)
from hybrid_compute.protocol import ServerSession
from hybrid_compute.protocol.messages import Request
from tests.remote.servers import Peer, serving

pytestmark = pytest.mark.timeout(30)

echo = remote_task("echo")


def plain(peer: Peer) -> None:
    """A server such as the JavaScript library's."""
    peer.shake_hands()
    while (raw := peer.message()) is not None:
        call = json.loads(raw)
        if call["task"] == "fail":
            peer.write(json.dumps({"id": call["id"], "error": "boom"}).encode())
        else:
            peer.write(json.dumps({"id": call["id"], "result": call.get("input")}).encode())


def ours(peer: Peer) -> None:
    """A server of our own protocol."""
    peer.shake_hands("Hybrid-Compute: 1\r\nSec-WebSocket-Protocol: hybrid-compute.v1.json\r\n")
    session = ServerSession(own=True)
    for frame in session.frames_to_send():
        peer.write(frame)
    while (raw := peer.message()) is not None:
        for event in session.receive(raw):
            if isinstance(event, Request):
                session.result(event.id, [*event.args, event.kwargs])
        for frame in session.frames_to_send():
            peer.write(frame)


def client(port: int, **options) -> RemoteExecutor:
    options.setdefault("tasks", ["echo", "fail"])
    return RemoteExecutor(f"ws://127.0.0.1:{port}/ws", **options)


def test_a_call_to_anybodys_server_returns_its_result():
    with serving(plain) as port, client(port) as ex:
        assert ex.submit(echo, {"a": [1, 2.5, None]}).result() == {"a": [1, 2.5, None]}
        assert ex.submit(echo).result() is None


def test_many_calls_are_in_flight_at_once():
    with serving(plain) as port, client(port) as ex:
        assert list(ex.map(echo, range(500))) == list(range(500))


def test_our_own_server_takes_arguments_of_any_form_in_few_frames():
    with serving(ours) as port, client(port) as ex:
        futures = [ex.submit(echo, i, {1, 2}, x=b"\x00") for i in range(300)]
        assert [f.result() for f in futures] == [[i, {1, 2}, {"x": b"\x00"}] for i in range(300)]


def test_an_error_of_the_task_is_typed():
    with serving(plain) as port, client(port) as ex:
        with pytest.raises(RemoteTaskError, match="boom"):
            ex.submit(remote_task("fail"), 1).result()
        assert ex.submit(echo, 1).result() == 1


def test_answers_may_come_in_any_order_twice_late_and_to_nobody():
    def handle(peer: Peer) -> None:
        peer.shake_hands()
        calls = [json.loads(peer.message()) for _ in range(3)]
        peer.write(b'{"id":99,"result":"nobody"}')
        peer.write(b'{"id":"1","result":"text"}')
        for call in reversed(calls):
            for value in (call["input"], "duplicate"):
                peer.write(json.dumps({"id": call["id"], "result": value}).encode())
        peer.message()

    with serving(handle) as port, client(port) as ex:
        assert list(ex.map(echo, "abc")) == ["a", "b", "c"]


def test_what_cannot_be_encoded_fails_alone():
    with serving(plain) as port, client(port) as ex:
        bad, good = ex.submit(echo, object()), ex.submit(echo, 1)
        with pytest.raises(TaskEncodeError, match=r"\$\.input"):
            bad.result()
        assert good.result() == 1


@pytest.mark.parametrize(
    ("code", "kind"),
    [
        (1000, RemoteConnectionLost),
        (1008, AuthError),
        (1009, PayloadTooLarge),
        (1011, RemoteConnectionLost),
        (1012, RemoteConnectionLost),
        (4000, RemoteConnectionLost),
        (4401, AuthError),
    ],
)
def test_each_close_code_has_its_error(code, kind):
    def handle(peer: Peer) -> None:
        peer.shake_hands()
        peer.message()
        peer.close(code)

    with serving(handle) as port, client(port) as ex:
        with pytest.raises(kind) as info:
            ex.submit(echo, 1).result()
        if kind is RemoteConnectionLost:
            assert info.value.may_have_run


@pytest.mark.parametrize("code", [1001, 1012, 1013, None])
def test_an_idempotent_call_is_sent_again_on_a_new_connection(code):
    def handle(peer: Peer) -> None:
        if peer.number > 1:
            plain(peer)
            return
        peer.shake_hands()
        peer.message()
        peer.reset() if code is None else peer.close(code)

    with serving(handle) as port, client(port) as ex:
        assert ex.submit(remote_task("echo", idempotent=True), 7).result() == 7


def test_a_call_that_may_have_run_is_not_sent_again():
    got = []

    def handle(peer: Peer) -> None:
        peer.shake_hands()
        got.append(peer.message())
        peer.reset()

    with serving(handle) as port, client(port) as ex:
        with pytest.raises(RemoteConnectionLost) as info:
            ex.submit(echo, 7).result()
        assert info.value.may_have_run
        assert len(got) == 1


def test_a_refused_connection_is_unavailable():
    with serving(plain) as port:
        pass
    with client(port) as ex, pytest.raises(RemoteUnavailable):
        ex.submit(echo, 1).result()


@pytest.mark.parametrize(
    ("answer", "kind"),
    [
        (b"HTTP/1.1 401 No\r\nContent-Length: 0\r\n\r\n", AuthError),
        (b"HTTP/1.1 302 Go\r\nLocation: ws://127.0.0.1:1/\r\n\r\n", ProtocolError),
        (b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nhi", ProtocolError),
        (b"garbage\r\n\r\n", ProtocolError),
        (b"HTTP/1.1 101 X\r\n" + b"A: b\r\n" * 60_000, ProtocolError),
        (b"", RemoteUnavailable),
    ],
)
def test_a_bad_handshake_has_a_typed_error(answer, kind):
    def handle(peer: Peer) -> None:
        peer.request()
        peer.sock.sendall(answer)

    with serving(handle) as port, client(port) as ex, pytest.raises(kind):
        ex.submit(echo, 1).result()


def test_a_frame_that_is_no_json_ends_the_connection_with_a_typed_error():
    def handle(peer: Peer) -> None:
        peer.shake_hands()
        peer.message()
        peer.write(b"nonsense")
        peer.message()

    with serving(handle) as port, client(port) as ex, pytest.raises(ProtocolError):
        ex.submit(echo, 1).result()


@pytest.mark.parametrize("fragments", [False, True])
def test_an_endless_message_is_too_large(fragments):
    def handle(peer: Peer) -> None:
        peer.shake_hands()
        peer.message()
        if not fragments:
            peer.sock.sendall(b"\x81\x7f" + struct.pack("!Q", 2**40))
        for number in range(10_000):
            peer.write(b"x" * 1024, 0 if number else 1, fin=False) if fragments else None
        peer.message()

    with serving(handle) as port, client(port, max_bytes=100_000) as ex:
        with pytest.raises(PayloadTooLarge):
            ex.submit(echo, 1).result()


def test_a_server_that_answers_no_ping_is_lost():
    def handle(peer: Peer) -> None:
        peer.shake_hands()
        while peer.frame() is not None:
            pass

    with serving(handle) as port:
        with client(port, ping_interval=0.05, ping_timeout=0.05, reconnect_for=0.1) as ex:
            with pytest.raises(RemoteConnectionLost, match="pong"):
                ex.submit(echo, 1).result()


def test_a_timeout_counts_from_submission_and_others_go_on():
    def handle(peer: Peer) -> None:
        peer.shake_hands()
        while (raw := peer.message()) is not None:
            call = json.loads(raw)
            if call["input"] != "slow":
                peer.write(json.dumps({"id": call["id"], "result": 1}).encode())

    with serving(handle) as port, client(port) as ex:
        slow = ex.submit(remote_task("echo", timeout=0.1), "slow")
        with pytest.raises(TaskTimeout):
            slow.result()
        assert ex.submit(echo, "quick").result() == 1
    with serving(handle) as port, client(port, timeout=0.1) as ex:
        with pytest.raises(TaskTimeout):
            ex.submit(echo, "slow").result()


def test_a_call_that_was_not_sent_can_be_cancelled():
    gate = threading.Event()

    def handle(peer: Peer) -> None:
        gate.wait()
        plain(peer)

    with serving(handle) as port, client(port) as ex:
        future = ex.submit(echo, 1)
        assert future.cancel()
        gate.set()
        assert ex.submit(echo, 2).result() == 2


def test_cancel_running_tells_a_server_of_ours():
    cancelled = threading.Event()
    begun = threading.Event()

    def handle(peer: Peer) -> None:
        peer.shake_hands("Hybrid-Compute: 1\r\n")
        session = ServerSession(own=True)
        for frame in session.frames_to_send():
            peer.write(frame)
        while (raw := peer.message()) is not None:
            for event in session.receive(raw):
                begun.set() if isinstance(event, Request) else None
                cancelled.set() if type(event).__name__ == "Cancelled" else None
            for frame in session.frames_to_send():
                peer.write(frame)

    with serving(handle) as port, client(port) as ex:
        future = ex.submit(echo, 1)
        assert begun.wait(10)
        assert future.cancel_running()
        assert cancelled.wait(10)


def test_a_plain_callable_and_a_local_only_task_are_never_sent():
    @task(local_only=True)
    def echo(x):
        return x

    with client(1) as ex:
        with pytest.raises(PlacementError):
            ex.submit(print, 1)
        with pytest.raises(PlacementError):
            ex.submit(echo, 1)


def test_a_hybrid_executor_sends_what_only_the_server_has():
    with serving(plain) as port, HybridExecutor(remote=client(port)) as ex:
        assert ex.submit(echo, 5).result() == 5
        with pytest.raises(PlacementError, match=r"No task of that name is known of \['remote'\]"):
            ex.submit(remote_task("unknown"), 5).result()
        with pytest.raises(PlacementError, match=r"To \['remote'\] go only tasks"):
            ex.options(executor="remote").submit(len, "x").result()


def test_a_task_without_a_body_says_so_when_it_is_called():
    with pytest.raises(PlacementError, match="no body"):
        echo(1)
    with HybridExecutor() as ex, pytest.raises(PlacementError):
        ex.submit(echo, 1).result()


def test_shutdown_waits_for_answers():
    with serving(plain) as port:
        ex = client(port)
        futures = [ex.submit(echo, i) for i in range(20)]
        ex.shutdown()
        assert [f.result(0) for f in futures] == list(range(20))
        with pytest.raises(RuntimeError):
            ex.submit(echo, 1)


def test_a_callback_of_a_lost_call_may_shut_the_executor_down():
    """Its thread is to deliver the outcomes of others: it must not wait for them."""

    def handle(peer: Peer) -> None:
        peer.shake_hands()
        peer.message(), peer.message()
        peer.reset()

    with serving(handle) as port:
        ex = client(port)
        gate = threading.Event()
        futures = [ex.submit(echo, each) for each in range(2)]
        for each in futures:
            each.add_done_callback(lambda _: ex.shutdown())
        futures[-1].add_done_callback(lambda _: gate.set())
        assert gate.wait(20)
        for each in futures:
            assert isinstance(each.exception(0), RemoteConnectionLost)
