"""Frames past ASGI's queues: the protocol below, and the connection above."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable
from typing import Any

import pytest
import uvicorn
from uvicorn.server import ServerState

from hybrid_compute import HybridExecutor, task
from hybrid_compute.server import Limits, Tokens, create_app
from hybrid_compute.server.guards import http_guard, ws_guard
from hybrid_compute.server.shortway import SHORT_WAY
from hybrid_compute.transports._frames import frame_of

pytestmark = pytest.mark.timeout(30)

HANDSHAKE = (
    b"GET /ws HTTP/1.1\r\nHost: localhost\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
    b"Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Version: 13\r\n\r\n"
)
TEXT, BINARY, PING = 1, 2, 9


@task(executor="inline")
def echo(value: Any = None) -> Any:
    return value


class Way:
    """A short way that writes as long as it may."""

    def __init__(self, room: int, *, listens: bool = True) -> None:
        self.room = room
        self.listens = listens
        self.written: list[bytes] = []
        self.on_frame: Callable[[Any], object] = pytest.fail

    def listen(self, on_frame: Callable[[Any], object]) -> bool:
        self.on_frame = on_frame
        return self.listens

    def can_write(self) -> bool:
        return len(self.written) < self.room

    def write(self, frame: bytes, *, binary: bool) -> None:
        assert not binary
        self.written.append(frame)


class Sent(list[dict[str, Any]]):
    """What was sent by way of ASGI."""

    def __init__(self) -> None:
        super().__init__()
        self._more = asyncio.Event()

    def add(self, message: dict[str, Any]) -> None:
        self.append(message)
        self._more.set()

    async def reaches(self, count: int) -> None:
        while len(self) < count:
            self._more.clear()
            await self._more.wait()


def exchange(way: Way, script: Callable[..., Any]) -> list[dict[str, Any]]:
    """Serve one connection that has a short way; return what was sent by way of ASGI."""
    sent = Sent()

    async def main() -> None:
        coming: asyncio.Queue[dict[str, Any]] = asyncio.Queue()

        async def send(message: dict[str, Any]) -> None:
            sent.add(message)

        coming.put_nowait({"type": "websocket.connect"})
        scope = {
            "type": "websocket",
            "path": "/ws",
            "headers": [(b"host", b"localhost")],
            "extensions": {SHORT_WAY: way},
        }
        running = asyncio.ensure_future(app(scope, coming.get, send))
        await sent.reaches(1)  # it has accepted
        for _ in range(3):  # its coroutines have begun
            await asyncio.sleep(0)
        await script(coming, sent)
        coming.put_nowait({"type": "websocket.disconnect", "code": 1000})
        await running

    with HybridExecutor() as executor:
        app = create_app([echo], executor=executor, tokens=Tokens.anyone())
        asyncio.run(main())
    return [json.loads(each["text"]) for each in sent if each["type"] == "websocket.send"]


def call(identity: int) -> str:
    return json.dumps({"id": identity, "task": "echo", "input": identity})


def test_an_answer_goes_the_short_way_in_the_turn_that_brought_the_call():
    way = Way(room=10)

    async def script(coming, sent):
        way.on_frame(call(1))
        assert [json.loads(each) for each in way.written] == [{"id": 1, "result": 1}]

    assert exchange(way, script) == []


def test_what_cannot_be_written_goes_by_way_of_asgi_and_nothing_overtakes_it():
    way = Way(room=0)

    async def script(coming, sent):
        way.on_frame(call(1))
        way.on_frame(call(2))
        way.room = 1
        way.on_frame(call(3))  # the first goes, and with it the room
        way.room = 10
        way.on_frame(call(4))
        assert len(way.written) == 1
        await sent.reaches(1 + 3)
        way.on_frame(call(5))

    late = exchange(way, script)
    assert [each["id"] for each in late] == [2, 3, 4]
    assert [json.loads(each)["id"] for each in way.written] == [1, 5]


def test_without_a_short_way_for_a_message_that_waits_all_goes_by_way_of_asgi():
    way = Way(room=10, listens=False)

    async def script(coming, sent):
        coming.put_nowait({"type": "websocket.receive", "text": call(1)})
        await sent.reaches(2)

    assert exchange(way, script) == [{"id": 1, "result": 1}]
    assert not way.written


def test_after_a_frame_that_ends_the_connection_none_is_taken():
    way = Way(room=10)

    async def script(coming, sent):
        way.on_frame("x" * (2**24 + 1))
        way.on_frame(call(1))
        await sent.reaches(2)
        assert sent[1]["type"] == "websocket.close"
        assert sent[1]["code"] == 1009

    assert exchange(way, script) == []
    assert not way.written


# -- the protocol below ------------------------------------------------------------------------


class Wire(asyncio.Transport):
    """A transport whose other end is the test."""

    def __init__(self) -> None:
        super().__init__()
        self.out = b""
        self.closing = False

    def write(self, data: Any) -> None:
        self.out += data

    def is_closing(self) -> bool:
        return self.closing

    def close(self) -> None:
        self.closing = True

    def pause_reading(self) -> None:
        pass

    def resume_reading(self) -> None:
        pass

    def get_extra_info(self, name: str, default: Any = None) -> Any:
        return default


def guarded(script: Callable[..., Any]) -> None:
    """Open a WebSocket on uvicorn's protocol with our guard, and run a script with it."""

    async def main() -> None:
        opened: asyncio.Future[Any] = asyncio.get_running_loop().create_future()

        async def app(scope: Any, receive: Any, send: Any) -> None:
            await receive()
            await send({"type": "websocket.accept"})
            opened.set_result((scope["extensions"][SHORT_WAY], receive, send))
            await asyncio.get_running_loop().create_future()

        config = uvicorn.Config(app, log_config=None, ws_per_message_deflate=False)
        config.load()
        protocol = ws_guard(Limits())(config, ServerState(), {})
        wire = Wire()
        protocol.connection_made(wire)
        protocol.data_received(HANDSHAKE)
        way, receive, send = await opened
        wire.out = b""
        await script(way, protocol, wire, receive, send)
        protocol.connection_lost(None)
        for each in tuple(protocol.tasks):
            each.cancel()

    asyncio.run(main())


def test_the_guard_hands_messages_to_who_listens_and_writes_answers_at_once():
    async def script(way, protocol, wire, receive, send):
        got = []
        assert way.listen(got.append)
        protocol.data_received(frame_of(b"one", TEXT) + frame_of(b"\x00two", BINARY))
        assert got == ["one", b"\x00two"]
        assert way.can_write()
        way.write(b"yes", binary=False)
        way.write(b"\x01", binary=True)
        assert wire.out == b"\x81\x03yes\x82\x01\x01"

    guarded(script)


def test_who_would_listen_when_a_message_waits_is_told_no():
    async def script(way, protocol, wire, receive, send):
        protocol.data_received(frame_of(b"one", TEXT))
        assert not way.listen(pytest.fail)
        protocol.data_received(frame_of(b"two", TEXT))
        assert [(await receive())["text"] for _ in "12"] == ["one", "two"]

    guarded(script)


def test_fragments_are_handed_over_as_one_message():
    async def script(way, protocol, wire, receive, send):
        got = []
        way.listen(got.append)
        first, last = bytearray(frame_of(b"on", TEXT)), frame_of(b"e", 0)
        first[0] &= 0x7F
        protocol.data_received(bytes(first))
        assert got == []
        protocol.data_received(last)
        assert got == ["one"]

    guarded(script)


def test_text_that_is_no_utf8_ends_the_connection_with_1007():
    async def script(way, protocol, wire, receive, send):
        way.listen(pytest.fail)
        protocol.data_received(frame_of(b"\xff", TEXT))
        assert wire.out[:4] == b"\x88\x02" + (1007).to_bytes(2, "big")
        assert not way.can_write()

    guarded(script)


@pytest.mark.parametrize("stop", ["full", "closing", "close sent", "close received"])
def test_nothing_is_written_the_short_way_when_it_would_not_go(stop):
    async def script(way, protocol, wire, receive, send):
        way.listen(pytest.fail)
        if stop == "full":
            protocol.pause_writing()
            assert not way.can_write()
            protocol.resume_writing()
            assert way.can_write()
            return
        if stop == "closing":
            wire.close()
        elif stop == "close sent":
            await send({"type": "websocket.close", "code": 1000})
        else:
            protocol.data_received(frame_of(b"\x03\xe8", 8))
        assert not way.can_write()

    guarded(script)


def test_the_loop_reads_into_a_buffer_that_stays_and_messages_do_not_change_with_it():
    async def script(way, protocol, wire, receive, send):
        got = []
        assert way.listen(got.append)
        for data in (b"\x00one", b"\x00two"):
            frame = frame_of(data, BINARY)
            buffer = protocol.get_buffer(-1)
            buffer[: len(frame)] = frame
            protocol.buffer_updated(len(frame))
        assert got == [b"\x00one", b"\x00two"]
        assert protocol.get_buffer(-1) is buffer

    assert issubclass(http_guard(Limits()), asyncio.BufferedProtocol)
    assert issubclass(ws_guard(Limits()), asyncio.BufferedProtocol)
    guarded(script)
