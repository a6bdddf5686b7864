"""Streams of services that are not ours, and of ours when they die; row 29."""

from __future__ import annotations

import json
import select
import signal
import socket
import threading
import time
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest

from hybrid_compute import RemoteExecutor, remote_task, task
from hybrid_compute.errors import (
    AuthError,
    ConfigurationError,
    ProtocolError,
    RemoteBusy,
    RemoteConnectionLost,
    RemoteTaskError,
)
from hybrid_compute.executors import _remote_tries
from tests.server.conftest import SECRET, Served
from tests.streams import work
from tests.streams.conftest import WAIT

pytestmark = pytest.mark.timeout(120)


@contextmanager
def service(answer):
    """Serve what `answer(handler, body)` writes; yield the URL."""

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_POST(self):
            answer(self, json.loads(self.rfile.read(int(self.headers["Content-Length"]))))
            self.close_connection = True

        def do_GET(self):
            self.send_error(404)

        def log_message(self, *args):
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = False
    thread = threading.Thread(target=server.serve_forever, args=(0.01,))
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}/compute"
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


def begin(handler, kind, *headers, status=200):
    handler.send_response(status)
    handler.send_header("Content-Type", kind)
    for name, value in headers:
        handler.send_header(name, value)
    handler.end_headers()


def stream_of(url, *args, task="any", **options):
    """Return the items of a stream, and what ended it."""
    with RemoteExecutor(url, tasks=[task], timeout=WAIT, **options) as ex:
        items = []
        try:
            items.extend(iter(ex.stream(remote_task(task), *args).__next__, None))
        except (StopIteration, RuntimeError) as error:
            return items, error
        except Exception as error:
            return items, error


def items_of(url, *args, **options):
    with RemoteExecutor(url, tasks=["any"], timeout=WAIT, **options) as ex:
        return list(ex.stream(remote_task("any"), *args))


@pytest.mark.parametrize(
    ("kind", "body", "items"),
    [
        ("application/x-ndjson", b'{"a":1}\n[2]\n\n"\xc3\xa9"', [{"a": 1}, [2], "é"]),
        ("text/event-stream", b"data: 1\r\n\r\n: x\r\n\r\ndata: two\r\n\r\n", [1, "two"]),
        ("application/json", b'{"result": [1, 2, 3]}', [1, 2, 3]),
        ("application/json", b'{"result": "one"}', ["one"]),
    ],
)
def test_the_form_is_known_by_the_content_type(kind, body, items):
    def answer(handler, asked):
        assert asked == {"task": "any", "input": 5}
        begin(handler, kind)
        handler.wfile.write(body)

    with service(answer) as url:
        assert items_of(url, 5) == items


def test_text_and_bytes_come_as_they_are_sent():
    def answer(handler, asked):
        begin(handler, asked["input"])
        handler.wfile.write("Grü".encode()[:-1])
        handler.wfile.flush()
        handler.wfile.write("üße".encode()[1:])

    with service(answer) as url:
        assert "".join(items_of(url, "text/plain")) == "Grüße"
        assert b"".join(items_of(url, "application/octet-stream")).decode() == "Grüße"


def test_items_come_while_the_service_goes_on():
    go = threading.Event()

    def answer(handler, asked):
        begin(handler, "application/x-ndjson", ("Transfer-Encoding", "chunked"))
        for line in (b"1\n", b"2\n"):
            handler.wfile.write(b"%x\r\n%b\r\n" % (len(line), line))
        handler.wfile.flush()
        assert go.wait(WAIT)
        handler.wfile.write(b"2\r\n3\n\r\n0\r\n\r\n")

    with service(answer) as url, RemoteExecutor(url, tasks=["any"]) as ex:
        stream = ex.stream(remote_task("any"), 0)
        assert [next(stream), next(stream)] == [1, 2]
        go.set()
        assert list(stream) == [3]


def test_closing_reaches_a_service_that_is_silent():
    seen = []

    def answer(handler, asked):
        begin(handler, "application/x-ndjson")
        handler.wfile.write(b"1\n")
        handler.wfile.flush()
        handler.connection.settimeout(WAIT)
        seen.append(handler.connection.recv(1))  # b"": the caller is gone

    with service(answer) as url, RemoteExecutor(url, tasks=["any"]) as ex:
        stream = ex.stream(remote_task("any"), 0)
        assert next(stream) == 1
        stream.close()
    assert seen == [b""]


@pytest.mark.parametrize("sized", [True, False])
def test_a_stream_that_is_cut_off(sized):
    def answer(handler, asked):
        header = ("Content-Length", "500") if sized else ("Transfer-Encoding", "chunked")
        begin(handler, "application/x-ndjson", header)
        handler.wfile.write(b"1\n2\n" if sized else b"4\r\n1\n2\n\r\n")

    with service(answer) as url:
        items, error = stream_of(url, 0)
    assert items == [1, 2]
    assert isinstance(error, RemoteConnectionLost)
    assert error.may_have_run


@pytest.mark.parametrize(
    ("status", "kind", "body", "error"),
    [
        (401, "text/html", b"<h1>no</h1>", AuthError),
        (500, "text/html", b"<h1>broken</h1>", ProtocolError),
        (500, "application/json", b'{"error": "no luck"}', RemoteTaskError),
        (302, "text/plain", b"", ProtocolError),
        (200, "application/json", b"{}", ProtocolError),
    ],
)
def test_what_is_no_stream_is_an_error(status, kind, body, error):
    def answer(handler, asked):
        begin(handler, kind, ("Location", "http://127.0.0.1:1/"), status=status)
        handler.wfile.write(body)

    with service(answer) as url:
        items, raised = stream_of(url, 0)
    assert items == []
    assert isinstance(raised, error)


def test_a_service_that_is_busy_is_asked_again():
    asked = []

    def answer(handler, body):
        asked.append(body)
        if len(asked) < 3:
            begin(handler, "text/plain", ("Retry-After", "0"), status=429)
        else:
            begin(handler, "application/x-ndjson")
            handler.wfile.write(b"7\n")

    with service(answer) as url:
        assert items_of(url, 0) == [7]
    assert len(asked) == 3


def test_a_service_that_stays_busy(monkeypatch):
    monkeypatch.setattr(_remote_tries, "FIRST_PAUSE", 0.01)
    with service(lambda handler, _: begin(handler, "text/plain", status=503)) as url:
        assert isinstance(stream_of(url, 0)[1], RemoteBusy)


def test_the_caller_makes_the_request_and_reads_the_answer():
    def answer(handler, asked):
        assert asked == {"q": [1, 2], "task": "any"}
        begin(handler, "application/x-own")
        handler.wfile.write(b"a|b|c")

    def cut(pieces):
        yield from b"".join(pieces).decode().split("|")

    with service(answer) as url:
        items = items_of(
            url, 1, 2, request=lambda task, *args: {"q": list(args), "task": task}, decoder=cut
        )
    assert items == ["a", "b", "c"]


def test_a_decoder_has_to_be_known():
    with pytest.raises(ConfigurationError, match="chat.*ndjson"):
        RemoteExecutor("http://127.0.0.1/x", decoder="xml")
    with pytest.raises(ConfigurationError, match="http"):
        RemoteExecutor("ws://127.0.0.1/x", decoder="sse")


# -- our own, killed ---------------------------------------------------------------------------


URLS = ["http://127.0.0.1:{}/compute", "ws://127.0.0.1:{}/ws"]


@pytest.mark.parametrize("url", URLS)
def test_a_server_that_is_killed_gives_what_had_come(url):  # row 29
    server = Served("tests.streams.work:TASKS")
    try:
        with RemoteExecutor(url.format(server.port), token=SECRET, reconnect_for=0.1) as ex:
            stream = ex.stream(work.count, 10**9)
            got = [next(stream) for _ in range(10)]
            server.process.send_signal(signal.SIGKILL)
            with pytest.raises(RemoteConnectionLost) as caught:
                got.extend(iter(stream.__next__, None))
        assert caught.value.may_have_run
        assert got == list(range(len(got)))
    finally:
        server.end()


@pytest.mark.parametrize("url", URLS)
def test_the_stream_of_an_idempotent_task_goes_on(url):  # row 29
    server = Served("tests.streams.work:TASKS")
    try:
        with RemoteExecutor(url.format(server.port), token=SECRET) as ex:
            item = task(idempotent=True, name="count")(work.count.fn)
            stream = ex.stream(item, 30_000)
            got = [next(stream) for _ in range(10)]
            server.process.send_signal(signal.SIGKILL)
            port = server.port
            server.end()
            server = Served("tests.streams.work:TASKS", port=port)
            got += stream
        assert got == list(range(30_000))
        assert stream.value == 30_000
    finally:
        server.end()


def test_a_slow_consumer_over_http_is_not_cut_off(tmp_path):
    # Enough for the two pieces of a request to come; less than the consumer rests.
    server = Served("tests.streams.work:TASKS", "--body-seconds", "0.5")
    try:
        with RemoteExecutor(URLS[0].format(server.port), token=SECRET) as ex:
            small = task(buffersize=2, name="blocks")(work.blocks.fn)
            stream = ex.stream(small, 60, 1 << 20)
            assert len(next(stream)) == 1 << 20
            time.sleep(1)  # all buffers on the way are full by then
            assert sum(1 for _ in stream) == 59
    finally:
        server.end()


def test_who_does_not_read_a_stream_is_cut_off_when_it_must_have_ended(tmp_path):
    server = Served("tests.streams.work:TASKS", "--body-seconds=0.1", "--task-seconds=1")
    body = json.dumps({"task": "endless_blocks", "args": [str(tmp_path / "n"), 1 << 20]})
    try:
        with socket.create_connection(("127.0.0.1", server.port)) as sock:
            begun = time.monotonic()  # its time runs from when it has come, whenever we go on
            sock.sendall(
                f"POST /compute HTTP/1.1\r\nHost: localhost\r\nAuthorization: Bearer {SECRET}\r\n"
                "Content-Type: application/json\r\nAccept: application/x-ndjson\r\n"
                f"Hybrid-Compute: 1\r\nContent-Length: {len(body)}\r\n\r\n{body}".encode()
            )
            cut = select.poll()
            cut.register(sock, select.POLLHUP)
            assert cut.poll(WAIT * 1000)
            assert time.monotonic() - begun > 0.9
    finally:
        server.end()
