"""Orders of events that come once in a thousand runs, brought about each time."""

from __future__ import annotations

import json
import os
import signal
import threading
import time
import warnings

import pytest
import websocket

from hybrid_compute import (
    HybridExecutor,
    InlineExecutor,
    ProcessExecutor,
    RemoteExecutor,
    Stream,
    ThreadExecutor,
    remote_task,
    task,
)
from hybrid_compute.channels import BUFFER_BYTES, Channel, Source
from hybrid_compute.errors import RemoteConnectionLost, StreamError, TaskTimeout
from hybrid_compute.protocol import ServerSession
from hybrid_compute.protocol.messages import Request
from hybrid_compute.protocol.server import Cancelled
from hybrid_compute.streamed import StreamItem
from hybrid_compute.tasks import TaskOptions
from tests.remote.servers import serving
from tests.server.conftest import SECRET
from tests.streams import work
from tests.streams.conftest import WAIT, eventually
from tests.streams.test_services import begin, service

pytestmark = pytest.mark.timeout(40)


def test_what_comes_behind_an_item_that_cannot_be_read_is_not_delivered():
    channel = Channel(8, 1000)

    class Late(Source):
        def close(self):  # it was on its way
            channel.put_chunk(lambda: [3], 1, 0)

    def broken():
        yield 1
        raise ValueError("no item")

    channel.source = Late()
    channel.put_chunk(broken, 2, 0)
    stream = Stream(channel, "any", None)
    assert next(stream) == 1
    with pytest.raises(ValueError, match="no item"):
        next(stream)
    with pytest.raises(StopIteration):
        next(stream)


@pytest.mark.parametrize("how", ["closed", "failed"])
def test_a_stream_that_was_not_read_to_its_end_has_no_value(ex, how):
    stream = ex.stream(work.count if how == "closed" else work.failing, 2)
    assert next(stream) == 0
    if how == "closed":
        stream.close()
        eventually(lambda: stream._channel.ended)
    else:
        with pytest.raises(Exception, match="midway"):
            list(stream)
    with pytest.raises(StreamError, match="no value"):
        _ = stream.value


@pytest.mark.timeout(10)
@pytest.mark.parametrize("step", ["begun", "future"])
def test_a_stream_whose_time_is_up_as_it_begins_ends(step):
    class Late(StreamItem):
        late = False

        def __setattr__(self, name, value):
            super().__setattr__(name, value)
            if name == step and self.late:  # what an alarm does
                self.late = False
                self.give_up(self.time_is_up())

    item = Late(work.count, (3,), None, TaskOptions(timeout=100.0))
    stream = item.hand_out()
    closed = []

    class Closing(Source):
        def close(self):
            closed.append(True)

    assert item.start()
    item.late = True
    item.begin(Closing())
    item.succeed(None)
    with pytest.raises(TaskTimeout):
        next(stream)
    assert closed
    assert item.future.done()  # who counts those that are not counts it no more


def test_a_generator_that_runs_as_its_stream_is_closed_ends_behind_that():
    goes, go, said, events = threading.Event(), threading.Event(), [], []

    def generate():
        try:
            goes.set()
            assert go.wait(WAIT)
            yield 1
        finally:
            said.append("closed")

    steps = generate()  # kept, or it would be closed as it is freed
    with HybridExecutor(observers=[events.append]) as ex:
        stream = ex.options(executor="inline").stream(lambda: steps)
        got = []
        reader = threading.Thread(target=lambda: got.extend(stream))
        reader.start()
        assert goes.wait(WAIT)
        stream.close()
        go.set()
        reader.join()
    assert got == []
    assert said == ["closed"]
    assert steps.gi_frame is None
    assert [each.kind for each in events][-1] not in ("started", "routed")


def test_closing_ends_a_generator_that_somebody_holds():
    steps = iter(work.count.fn(3))  # else it would be closed as it is freed
    with InlineExecutor() as ex:
        stream = ex.stream(lambda: steps)
        assert next(stream) == 0
        stream.close()
    assert steps.gi_frame is None


class EndsBadly:
    """Gives numbers; cannot be closed."""

    def __init__(self, n):
        self.numbers = iter(range(n))

    def __iter__(self):
        return self

    def __next__(self):
        return next(self.numbers)

    def close(self):
        raise LookupError("there is nothing to be closed")


class Stops(EndsBadly):
    def __next__(self):
        for number in self.numbers:
            return number
        raise KeyError("midway")


@pytest.mark.parametrize("make", [EndsBadly, Stops])
def test_the_last_items_come_though_their_iterator_cannot_be_closed(make):
    with ProcessExecutor(1) as ex:
        stream = ex.stream(make, 700)
        eventually(lambda: stream._channel.ended)
        got, end = [], KeyError if make is Stops else StopIteration
        with pytest.raises(end):
            while True:
                got.append(next(stream))
        assert got == list(range(700))
        assert list(ex.stream(work.count, 3)) == [0, 1, 2]  # and not in the stream after it


def test_what_the_consumer_of_one_stream_took_is_no_room_for_the_next(tmp_path):
    narrow = task(buffersize=4)(work.endless.fn)
    with ProcessExecutor(1) as ex:
        for _ in range(50):  # short ones, so that the next are sent though one runs
            assert list(ex.stream(work.count, 1)) == [0]
        ex.submit(work.wait_for, str(tmp_path / "both"))
        first = ex.stream(work.stalls, str(tmp_path / "go"))
        second = ex.stream(narrow, str(tmp_path / "n"))
        (tmp_path / "both").touch()
        assert next(first) == 1
        source = first._channel.source
        with source._lock:  # the end of the first stream does not get here
            (tmp_path / "go").touch()
            eventually((tmp_path / "n").exists)
            source.moved(1000, 0)
            time.sleep(0.05)  # for what must not happen
            assert int((tmp_path / "n").read_text()) <= 4
        second.close()


def test_a_service_that_does_not_count_items_is_not_asked_for_the_rest():
    asked = []

    def answer(handler, body):
        asked.append(body)
        begin(handler, "application/x-ndjson", ("Content-Length", "500"))
        handler.wfile.write(b"1\n2\n")

    with service(answer) as url, RemoteExecutor(url, tasks=["any"]) as ex:
        stream = ex.stream(remote_task("any", idempotent=True), 0)
        got = []
        with pytest.raises(RemoteConnectionLost):
            got.extend(iter(stream.__next__, None))
    assert got == [1, 2]  # and not once more
    assert len(asked) == 1


def test_closing_reaches_a_service_that_has_not_answered():
    asked, seen = threading.Event(), []

    def answer(handler, body):
        handler.connection.settimeout(WAIT)
        asked.set()
        seen.append(handler.connection.recv(1))  # b"": the caller is gone

    with service(answer) as url, RemoteExecutor(url, tasks=["any"]) as ex:
        stream = ex.stream(remote_task("any", idempotent=True, retries=3), 0)
        assert asked.wait(WAIT)
        stream.close()
    assert seen == [b""]


def test_closing_ends_the_wait_for_a_service_that_is_gone():
    asked = threading.Event()

    def answer(handler, body):
        asked.set()
        begin(handler, "text/plain", ("Retry-After", "30"), status=503)

    with service(answer) as url, RemoteExecutor(url, tasks=["any"]) as ex:
        stream = ex.stream(remote_task("any"), 0)
        assert asked.wait(WAIT)
        time.sleep(0.05)  # now it waits, most likely
        stream.close()
        begun = time.monotonic()
    assert time.monotonic() - begun < 10


def test_a_forked_child_that_drops_a_stream_leaves_it_to_its_parent():
    go = threading.Event()

    def answer(handler, body):
        begin(handler, "application/x-ndjson")
        handler.wfile.write(b"1\n")
        handler.wfile.flush()
        assert go.wait(WAIT)
        handler.wfile.write(b"2\n")

    with service(answer) as url, RemoteExecutor(url, tasks=["any"]) as ex:
        stream = ex.stream(remote_task("any"), 0)
        assert next(stream) == 1
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", DeprecationWarning)  # there are threads
            pid = os.fork()
        if pid == 0:
            code = 1
            try:
                signal.alarm(20)  # ends a child that hangs
                stream.close()
                code = 0
            finally:
                os._exit(code)
        assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0
        go.set()
        assert list(stream) == [2]


def shake_hands(peer):
    """Greet as a server of ours does; return its session."""
    peer.shake_hands("Hybrid-Compute: 1\r\n")
    session = ServerSession(own=True)
    send(peer, session)
    return session


def send(peer, session):
    for frame in session.frames_to_send():
        peer.write(frame)


@pytest.mark.parametrize("own", [True, False])
def test_closing_reaches_a_server_where_the_generator_has_not_begun(own):
    asked, cancelled = threading.Event(), threading.Event()

    def handle(peer):
        if own:
            session = shake_hands(peer)
        else:
            peer.shake_hands()
        while (raw := peer.message()) is not None:
            for event in session.receive(raw) if own else ("asked",):
                (cancelled if type(event) is Cancelled else asked).set()

    with serving(handle) as port:
        with RemoteExecutor(f"ws://127.0.0.1:{port}/ws", tasks=["any"]) as ex:
            stream = ex.stream(remote_task("any"), 0)
            assert asked.wait(WAIT)
            stream.close()
            assert not own or cancelled.wait(WAIT)
        # And the executor waits for it no more.


def test_a_stream_goes_on_over_any_number_of_connections_that_bring_items():
    def handle(peer):
        session = shake_hands(peer)
        while (raw := peer.message()) is not None:
            for event in session.receive(raw):
                if type(event) is Request:
                    session.begin(event.id)
                    session.item(event.id, event.seq)
                    if event.seq == 9:
                        session.done(event.id, "all")
            send(peer, session)
            if type(event) is Request and event.seq < 9:
                return  # hang up

    with serving(handle) as port:
        with RemoteExecutor(f"ws://127.0.0.1:{port}/ws", tasks=["any"]) as ex:
            stream = ex.stream(remote_task("any", idempotent=True), 0)
            assert list(stream) == list(range(10))
            assert stream.value == "all"


def test_a_caller_that_says_it_has_room_and_does_not_read_is_not_sent_for(server, tmp_path):
    path = tmp_path / "n"
    ws = websocket.create_connection(
        f"ws://127.0.0.1:{server.port}/ws",
        subprotocols=["hybrid-compute.v1.json"],
        header=[f"Authorization: Bearer {SECRET}"],
        suppress_origin=True,
        skip_utf8_validation=True,  # which is slow
        timeout=WAIT,
    )
    try:
        call = {"id": 1, "task": "endless_blocks", "args": [str(path), 1 << 18]}
        ws.send(json.dumps(call | {"credit": [10**9, 10**15]}))
        ahead = 2 * (BUFFER_BYTES >> 18)  # in the channel, and on the way out of it
        eventually(lambda: path.exists() and int(path.read_text()) >= ahead // 2)
        time.sleep(0.5)  # for what must not happen
        assert int(path.read_text()) <= ahead + 8
        frames = 0
        while int(path.read_text()) <= ahead + 16:  # and if it reads, it goes on
            ws.recv()
            frames += 1
            ws.send(json.dumps({"ack": frames}))
    finally:
        ws.close()


@pytest.mark.parametrize("read", [next, lambda stream: stream.get(WAIT)], ids=["next", "get"])
@pytest.mark.parametrize("other", [next, lambda stream: stream.get(1)], ids=["next", "get"])
def test_a_second_thread_cannot_wait_for_the_next_item_as_well(tmp_path, read, other):  # row 64
    path, got = tmp_path / "go", []
    with ThreadExecutor(1) as ex:
        stream = ex.stream(work.stalls, str(path))
        assert [next(stream) for _ in range(3)] == [1, 2, 3]
        reader = threading.Thread(target=lambda: got.append(read(stream)))
        reader.start()
        eventually(lambda: stream._channel.waiting)
        with pytest.raises(RuntimeError, match="another thread"):
            other(stream)
        path.touch()
        reader.join()
    assert got == [4]
