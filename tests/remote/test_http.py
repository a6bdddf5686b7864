"""RemoteExecutor over HTTP, against servers that are written for the occasion."""

from __future__ import annotations

import datetime as dt
import gzip
import json
import ssl
import time
import tracemalloc
import zlib

import pytest
import trustme

from hybrid_compute import HybridExecutor, RemoteExecutor, remote_task, task
from hybrid_compute.errors import (
    AuthError,
    ConfigurationError,
    PayloadTooLarge,
    ProtocolError,
    RemoteBusy,
    RemoteConnectionLost,
    RemoteTaskError,
    RemoteUnavailable,
    TaskEncodeError,
    TaskInputError,
    TaskTimeout,
    TLSError,
    UnknownTaskError,
)
from hybrid_compute.executors import _remote_tries
from tests.remote.servers import Peer, serving

pytestmark = pytest.mark.timeout(30)

echo = remote_task("echo")


def plain(peer: Peer) -> None:
    """A server such as the JavaScript library's; it also lists its tasks."""
    while (body := peer.request()) is not None:
        if peer.start.startswith("GET /tasks"):
            peer.answer(b'{"tasks":[{"name":"echo"},{"name":"local"}]}')
        else:
            peer.answer(json.dumps({"result": json.loads(body).get("input")}).encode())


def always(answer: bytes, then: object = None):
    def handle(peer: Peer) -> None:
        while peer.request() is not None:
            if peer.start.startswith("GET"):
                peer.answer(b"{}", 404)
            else:
                peer.sock.sendall(answer)

    return handle


def response(body: bytes, status: int = 200, extra: str = "", kind: str = "application/json"):
    head = (
        f"HTTP/1.1 {status} X\r\nContent-Type: {kind}\r\nContent-Length: {len(body)}\r\n{extra}\r\n"
    )
    return head.encode() + body


def client(port: int, **options) -> RemoteExecutor:
    options.setdefault("tasks", ["echo"])
    return RemoteExecutor(f"http://127.0.0.1:{port}/compute", **options)


def test_a_call_returns_its_result_on_a_connection_that_is_kept():
    numbers = set()

    def handle(peer: Peer) -> None:
        numbers.add(peer.number)
        plain(peer)

    with serving(handle) as port, client(port, max_workers=1) as ex:
        assert list(ex.map(echo, range(50))) == list(range(50))
    assert len(numbers) <= 2  # one of them asked for the tasks


@pytest.mark.parametrize(
    ("answer", "kind"),
    [
        (response(b'{"error":"boom"}', 500), RemoteTaskError),
        (response(b'{"error":""}'), RemoteTaskError),
        (response(b"{}"), ProtocolError),
        (response(b"[1]"), ProtocolError),
        (response(b"<html>", 500, kind="text/html"), ProtocolError),
        (response(b"<html>", 200, kind="text/html"), ProtocolError),
        (response(b'{"error":"x"}', 401), AuthError),
        (response(b'{"error":"x"}', 403), AuthError),
        (response(b'{"error":"x"}', 404), UnknownTaskError),
        (response(b'{"error":"x"}', 413), PayloadTooLarge),
        (response(b'{"error":"x"}', 422), TaskInputError),
        (response(b"", 502), RemoteConnectionLost),
        (response(b"", 307, "Location: http://127.0.0.1:1/\r\n"), ProtocolError),
        (
            response(gzip.compress(b"x" * 10_000_000), 200, "Content-Encoding: gzip\r\n"),
            PayloadTooLarge,
        ),
        (response(b"x", 200, "Content-Encoding: br\r\n"), ProtocolError),
        (response(b"x", 200, "Content-Encoding: gzip\r\n"), ProtocolError),
        (response(b"x" * 2_000_000), PayloadTooLarge),
        (b"garbage\r\n\r\n", ProtocolError),
        (b"HTTP/1.1 200 OK\r\n" + b"A: b\r\n" * 200 + b"\r\n", ProtocolError),
        (b"HTTP/1.1 200 OK\r\nA: " + b"b" * 100_000, ProtocolError),
    ],
    ids=range(20),
)
def test_each_bad_answer_has_a_typed_error(answer, kind):
    with serving(always(answer)) as port, client(port, max_bytes=1_000_000) as ex:
        with pytest.raises(kind) as info:
            ex.submit(echo, 1).result()
        assert type(info.value) is kind


@pytest.mark.parametrize("status", [200, 500, 502])
def test_an_answer_that_is_no_json_is_told_by_its_status_type_and_beginning(status):
    page = b"<html>Bad Gateway" + b"!" * 1000
    with serving(always(response(page, status, kind="text/html"))) as port, client(port) as ex:
        text = str(ex.submit(echo, 1).exception())
    assert str(status) in text
    assert "text/html" in text
    assert "<html>Bad Gateway!!!" in text
    assert len(text) < 600


@pytest.mark.parametrize(
    ("status", "idempotent", "times"),
    [
        *[(status, True, 1) for status in (400, 401, 403, 404, 405, 413, 415, 422, 500, 501)],
        *[(status, True, 5) for status in (429, 502, 503, 504)],
        *[(status, False, 5) for status in (429, 503)],
        *[(status, False, 1) for status in (502, 504)],
    ],
)
def test_only_a_busy_service_is_asked_again_or_one_that_is_not_there(
    status, idempotent, times, monkeypatch
):
    """429 and 503 say that the call was not taken; a gateway's 502 and 504 do not."""
    monkeypatch.setattr(_remote_tries, "FIRST_PAUSE", 0.01)
    asked = []

    def handle(peer: Peer) -> None:
        while peer.request() is not None:
            if peer.start.startswith("POST"):
                asked.append(1)
            peer.answer(b'{"error":"x"}', status, extra="Retry-After: 0\r\n")

    call = remote_task("echo", idempotent=idempotent)
    with serving(handle) as port, client(port, retry_after_cap=0.01) as ex:
        assert ex.submit(call, 1).exception() is not None
    assert len(asked) == times


@pytest.mark.parametrize("scheme", ["http", "ws"])
@pytest.mark.parametrize("status", [301, 302, 303, 307, 308])
def test_no_redirect_is_followed_and_no_token_goes_anywhere_else(scheme, status):
    seen, tokens = [], []

    def elsewhere(peer: Peer) -> None:
        seen.append(peer.request())

    def handle(peer: Peer) -> None:
        while peer.request() is not None:
            tokens.append(peer.headers["authorization"])
            peer.answer(b"", status, extra=f"Location: {scheme}://127.0.0.1:{other}/x\r\n")

    with serving(elsewhere) as other, serving(handle) as port:
        url = f"{scheme}://127.0.0.1:{port}/x"
        with RemoteExecutor(url, tasks=["echo"], token="sesame") as ex:
            with pytest.raises(ProtocolError, match=str(status)):
                ex.submit(remote_task("echo", idempotent=True), 1).result()
    assert set(tokens) == {"Bearer sesame"}
    assert not seen


def test_a_bomb_is_not_unpacked_further_than_to_the_limit():
    packer = zlib.compressobj(9, zlib.DEFLATED, 31)
    bomb = b"".join([*[packer.compress(bytes(1 << 20)) for _ in range(500)], packer.flush()])
    answer = response(bomb, 200, "Content-Encoding: gzip\r\n")
    with serving(always(answer)) as port, client(port, max_bytes=1_000_000) as ex:
        ex.submit(echo, 1).exception()
        tracemalloc.start()
        try:
            assert isinstance(ex.submit(echo, 1).exception(), PayloadTooLarge)
            _, peak = tracemalloc.get_traced_memory()
        finally:
            tracemalloc.stop()
    assert peak < 10_000_000


@pytest.mark.parametrize("cut", [0, 1, 20, 60, 70])
def test_an_answer_that_is_cut_off_is_a_lost_connection(cut):
    def handle(peer: Peer) -> None:
        peer.request()
        if peer.start.startswith("GET"):
            peer.answer(b"{}", 404)
            return
        peer.sock.sendall(response(b'{"result":"0123456789"}')[:cut])
        peer.reset()

    with serving(handle) as port, client(port) as ex:
        with pytest.raises((RemoteConnectionLost, ProtocolError)) as info:
            ex.submit(echo, 1).result()
        if cut in (0, 70):
            assert isinstance(info.value, RemoteConnectionLost)
            assert info.value.may_have_run


@pytest.mark.parametrize("start", [b"", b'HTTP/1.1 200 OK\r\nContent-Length: 999\r\n\r\n{"res'])
def test_the_deadline_counts_for_the_whole_of_a_dripping_answer(start):
    def handle(peer: Peer) -> None:
        peer.request()
        if peer.start.startswith("GET"):
            peer.answer(b"{}", 404)
            return
        peer.sock.sendall(start)
        peer.sock.settimeout(0.05)
        while True:
            peer.sock.sendall(b"x")
            try:
                if not peer.sock.recv(1):
                    return
            except TimeoutError:
                pass

    with serving(handle) as port, client(port, timeout=0.4) as ex:
        begun = time.monotonic()
        with pytest.raises(TaskTimeout):
            ex.submit(echo, 1).result()
        assert time.monotonic() - begun < 5


def test_a_busy_service_is_asked_again_after_a_capped_while():
    answers = [response(b"", 429, "Retry-After: 9999\r\n"), response(b'{"result":5}')]

    def handle(peer: Peer) -> None:
        while peer.request() is not None:
            peer.answer(b"{}", 404) if peer.start.startswith("GET") else peer.sock.sendall(
                answers.pop(0)
            )

    with serving(handle) as port, client(port, retry_after_cap=0.01) as ex:
        assert ex.submit(echo, 1).result() == 5


def test_a_service_that_stays_busy_has_not_taken_the_call(monkeypatch):
    monkeypatch.setattr(_remote_tries, "FIRST_PAUSE", 0.01)
    busy = response(b"", 503, "Retry-After: 1\r\n")
    with serving(always(busy)) as port, client(port, retry_after_cap=0.01) as ex:
        with pytest.raises(RemoteBusy):
            ex.submit(echo, 1).result()


def test_nobody_there_is_unavailable_and_a_local_tier_takes_over():
    @task(name="local")
    def local(x):
        return -x

    from hybrid_compute.policy import Prefer

    with serving(plain) as port:
        pass
    remote = client(port, tasks=["local", "echo"])
    with HybridExecutor(remote=remote, policy=Prefer("remote", "thread")) as ex:
        with pytest.raises(RemoteUnavailable):
            ex.submit(echo, 1).result()
        assert ex.submit(local, 1).result() == -1


def test_the_service_is_asked_once_which_tasks_it_has():
    asked = []

    def handle(peer: Peer) -> None:
        while (body := peer.request()) is not None:
            if peer.start.startswith("GET /tasks"):
                asked.append(1)
                peer.answer(b'{"tasks":["echo"]}')
            else:
                peer.answer(json.dumps({"result": json.loads(body)["input"]}).encode())

    with serving(handle) as port, HybridExecutor(remote=client(port, tasks=None)) as ex:
        assert [ex.submit(echo, i).result() for i in range(3)] == [0, 1, 2]
    assert len(asked) == 1


def test_the_token_is_sent_and_netrc_has_no_say(tmp_path, monkeypatch):
    netrc = tmp_path / "netrc"
    netrc.write_text("machine 127.0.0.1 login a password b\n")
    monkeypatch.setenv("NETRC", str(netrc))
    monkeypatch.setenv("http_proxy", "http://127.0.0.1:1")
    monkeypatch.setenv("MY_TOKEN", "sesame")
    seen = []

    def handle(peer: Peer) -> None:
        while peer.request() is not None:
            seen.append(peer.headers.get("authorization"))
            peer.answer(b'{"result":1}')

    with serving(handle) as port, client(port, token="env:MY_TOKEN") as ex:
        ex.submit(echo, 1).result()
        assert "sesame" not in repr(ex) + repr(vars(ex))
    assert set(seen) == {"Bearer sesame"}


@pytest.mark.parametrize("token", ["", "a b", "a\r\nX: y", "\N{SNOWMAN}"])
def test_a_bad_token_is_an_error_that_does_not_show_it(token):
    with serving(plain) as port, client(port, token=lambda: token) as ex:
        with pytest.raises(AuthError) as info:
            ex.submit(echo, 1).result()
        assert not token or token not in str(info.value)


def test_who_is_not_let_in_learns_by_whom_and_what_to_give():
    def handle(peer: Peer) -> None:
        while peer.request() is not None:
            peer.answer(b'{"error":"who are you?"}', 401)

    with serving(handle) as port, client(port) as ex:
        with pytest.raises(
            AuthError, match=rf":{port}.*who are you\?; give a valid token="
        ) as info:
            ex.submit(echo, 1).result()
    assert info.value.status == 401


def test_a_token_does_not_travel_in_the_clear_unless_told_to():
    with pytest.raises(ConfigurationError, match="allow_plaintext"):
        RemoteExecutor("http://example.invalid", token="t")
    with pytest.raises(ConfigurationError, match="allow_plaintext"):
        RemoteExecutor("ws://example.invalid", headers={"authorization": "t"})
    RemoteExecutor("http://example.invalid", token="t", allow_plaintext=True).shutdown()


@pytest.mark.parametrize(
    "url", ["", "ftp://x", "http://", "http://u:p@h", "ws://h:0/", "ws://h:x", "http://h/ a", 5]
)
def test_a_bad_url_is_refused_at_once(url):
    with pytest.raises(ConfigurationError):
        RemoteExecutor(url)


def test_a_plain_peer_gets_one_argument_or_a_clear_error():
    with serving(plain) as port, client(port) as ex:
        with pytest.raises(TaskEncodeError, match="one argument"):
            ex.submit(echo, 1, 2).result()


@pytest.mark.parametrize("scheme", ["https", "wss"])
@pytest.mark.parametrize("fault", ["authority", "host", "plain", "expired"])
def test_a_service_that_cannot_prove_who_it_is_gets_nothing(tmp_path, scheme, fault):
    ca, other = trustme.CA(), trustme.CA()
    name = "elsewhere.example" if fault == "host" else "localhost"
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    yesterday = dt.datetime.now(dt.UTC) - dt.timedelta(days=1)
    end = {"not_after": yesterday} if fault == "expired" else {}
    ca.issue_cert(name, **end).configure_cert(context)
    trusted = tmp_path / "ca.pem"
    (other if fault == "authority" else ca).cert_pem.write_to_path(trusted)

    def handle(peer: Peer) -> None:
        if fault == "plain":
            peer.sock.sendall(b"HTTP/1.1 400 Bad\r\n\r\n")
            peer.sock.recv(10_000)
            return
        context.wrap_socket(peer.sock, server_side=True).close()

    with serving(handle) as port:
        url = f"{scheme}://localhost:{port}/x"
        with RemoteExecutor(url, tasks=["echo"], tls_ca=trusted, token="t") as ex:
            with pytest.raises(TLSError):
                ex.submit(echo, 1).result()


@pytest.mark.parametrize("scheme", ["https", "wss"])
def test_both_ends_prove_who_they_are(tmp_path, scheme):
    from tests.remote import test_websocket

    ca = trustme.CA()
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    ca.issue_cert("localhost").configure_cert(context)
    ca.configure_trust(context)
    context.verify_mode = ssl.CERT_REQUIRED
    mine = tmp_path / "mine.pem"
    ca.issue_cert("me@example.org").private_key_and_cert_chain_pem.write_to_path(mine)
    trusted = tmp_path / "ca.pem"
    ca.cert_pem.write_to_path(trusted)

    def handle(peer: Peer) -> None:
        with context.wrap_socket(peer.sock, server_side=True) as sock:
            inner = Peer(sock, peer.number)
            try:
                (plain if scheme == "https" else test_websocket.plain)(inner)
            finally:
                inner.file.close()

    with serving(handle) as port:
        url = f"{scheme}://localhost:{port}/x"
        with RemoteExecutor(url, tasks=["echo"], tls_ca=trusted, tls_cert=str(mine)) as ex:
            assert list(ex.map(echo, ["x" * 100_000] * 20)) == ["x" * 100_000] * 20
