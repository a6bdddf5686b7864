"""Guards: uvicorn's two protocols, with bounds on what they leave to whoever stands before them.

Owns bytes and seconds below ASGI: the head of a request, the time in which a WebSocket message has
to be complete, the number of its fragments, connections, pipelined requests, pongs, and callers
that do not read. (The size of a body and of a message, and the time for a body, are checked above:
by `http` and by websockets.) Knows nothing of tokens and tasks.

Threads: all on the event loop. Why no connection can stay for ever: each of its states has a timer.

    head        header_seconds from its start       body       `http`: body_seconds in all
    between     uvicorn's keep-alive, 5 s           message    body_seconds, pings go on
    closing     what is unsent must get less within body_seconds, or the connection is cut
    streaming   the same, but for as long as the application has asked for patience

Patience is for the consumers of streams, who may have other things to do: they were let in, and
hold no more than a call that sleeps as long. Who has not got as far gets none.
"""

from __future__ import annotations

from asyncio import BufferedProtocol, TimerHandle
from socket import SO_LINGER, SOL_SOCKET
from struct import pack
from typing import Any

from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol
from uvicorn.protocols.websockets.websockets_sansio_impl import WebSocketsSansIOProtocol
from websockets.frames import Frame  # noqa: TC002 - uvicorn has loaded it
from websockets.protocol import State

from hybrid_compute.server.settings import PATIENCE, Limits
from hybrid_compute.server.shortway import SHORT_WAY, OnFrame

__all__ = ["http_guard", "ws_guard"]

_HEADERS = 200  # browsers send 20; with more than that, someone tries something
_PIPELINED = 16  # requests that a connection may have sent before the first is answered
_FRAGMENTS = 2**17  # of one message; Autobahn's cases have half as many
_AT_ONCE = pack("ii", 1, 0)
_LINGER = 2.0  # seconds in which a caller who still sends can read why he is cut off
_READ = 2**18  # bytes


class _Watch:
    """Cuts a connection whose other end does not read."""

    def __init__(self, protocol: Any, seconds: float) -> None:
        self._protocol = protocol
        self._seconds = seconds
        self._unsent = 0
        self.paused = False  # the transport's buffer is full, and nobody writes into it
        self._patient_until = 0.0  # of the loop's clock
        self._timer: TimerHandle = protocol.loop.call_later(seconds, self._look)

    def end(self) -> None:
        self._timer.cancel()

    def be_patient(self, seconds: float) -> None:
        self._patient_until = self._protocol.loop.time() + seconds

    def _look(self) -> None:
        transport = self._protocol.transport
        size = 0
        if self.paused or transport.is_closing():
            size = transport.get_write_buffer_size()
            if self._protocol.loop.time() < self._patient_until:
                size = 0
            if 0 < self._unsent <= size:
                # With a reset, or the kernel would keep what it has for him.
                transport.get_extra_info("socket").setsockopt(SOL_SOCKET, SO_LINGER, _AT_ONCE)
                transport.abort()
                return
        self._unsent = size
        self._timer = self._protocol.loop.call_later(self._seconds, self._look)


class _Buffered(BufferedProtocol):
    """Has what is read come by way of one buffer for all connections of a server.

    Else the loop makes a new one of 256 KiB for each read, for which the C library asks the system:
    that takes longer than all else about a small message. In one turn of the loop it is filled, and
    emptied again.
    """

    _buffer: memoryview

    def get_buffer(self, sizehint: int) -> memoryview:
        return self._buffer

    def buffer_updated(self, nbytes: int) -> None:
        self.data_received(bytes(self._buffer[:nbytes]))

    def data_received(self, data: bytes) -> None:
        raise NotImplementedError


class _TooLarge(Exception):
    """The head of a request is beyond its bounds."""


def http_guard(limits: Limits) -> type[HttpToolsProtocol]:  # noqa: C901 - one class
    """Return uvicorn's protocol for HTTP with bounds on the head of a request."""

    class Guarded(HttpToolsProtocol, _Buffered):
        _buffer = memoryview(bytearray(_READ))
        _idle_bytes = 0  # that came since something was complete: a head, or a piece of a body
        _head = 0  # of the headers that are complete
        _body = False  # the head is complete
        _large = False
        _timer: TimerHandle | None = None
        _watch: _Watch

        def connection_made(self, transport: Any) -> None:
            super().connection_made(transport)
            self._watch = _Watch(self, limits.body_seconds)
            self._start()

        def connection_lost(self, exc: Exception | None) -> None:
            self._stop()
            self._watch.end()
            super().connection_lost(exc)

        def pause_writing(self) -> None:
            self._watch.paused = True
            super().pause_writing()

        def resume_writing(self) -> None:
            self._watch.paused = False
            super().resume_writing()

        def data_received(self, data: bytes) -> None:
            if not self._body and self._timer is None:  # the next request of a connection
                self._start()
            self._idle_bytes += len(data)
            super().data_received(data)
            if self._idle_bytes > limits.header_bytes:
                self._large = True
                self.send_400_response("")

        def on_message_begin(self) -> None:
            super().on_message_begin()
            self._watch.be_patient(0)
            ours: Any = {PATIENCE: self._watch.be_patient}
            self.scope["extensions"] = ours
            self._head = 0

        def on_header(self, name: bytes, value: bytes) -> None:
            super().on_header(name, value)
            self._head += len(name) + len(value)
            self._check()

        def on_headers_complete(self) -> None:
            self._stop()
            self._body, self._idle_bytes = True, 0
            self._head += len(self.url)
            self._check()
            super().on_headers_complete()
            if len(self.pipeline) > _PIPELINED:
                raise ValueError("too many requests at once")  # uvicorn answers 400 and closes

        def on_body(self, body: bytes) -> None:
            self._idle_bytes = 0
            super().on_body(body)

        def on_chunk_header(self) -> None:
            self._idle_bytes = 0

        def on_message_complete(self) -> None:
            self._body, self._idle_bytes = False, 0
            super().on_message_complete()

        def handle_websocket_upgrade(self) -> None:
            self._watch.end()
            if len(self.connections) > limits.connections:
                self._say(b"503 Service Unavailable", b"retry-after: 1\r\n")
            else:
                super().handle_websocket_upgrade()

        def send_400_response(self, msg: str) -> None:
            if self.transport.is_closing():
                return
            if self._large:
                self._say(b"431 Request Header Fields Too Large")
            else:
                super().send_400_response(msg)

        def _check(self) -> None:
            # Trailers, which come after a body, count as well: uvicorn adds them to the headers.
            if self._head > limits.header_bytes or len(self.headers) > _HEADERS:
                self._large = True
                raise _TooLarge

        def _start(self) -> None:
            self._timer = self.loop.call_later(limits.header_seconds, self.transport.close)

        def _stop(self) -> None:
            if self._timer is not None:
                self._timer.cancel()
                self._timer = None

        def _say(self, status: bytes, more: bytes = b"") -> None:
            self.transport.write(
                b"HTTP/1.1 %b\r\n%bcontent-length: 0\r\nconnection: close\r\n\r\n" % (status, more)
            )
            self.transport.close()

    return Guarded


def ws_guard(limits: Limits) -> type[WebSocketsSansIOProtocol]:  # noqa: C901 - one class
    """Return uvicorn's protocol for WebSockets with bounds on a message's time and fragments."""

    class Guarded(WebSocketsSansIOProtocol, _Buffered):
        _buffer = memoryview(bytearray(_READ))
        _joined: bytearray | None = None  # the fragments of a message so far
        _fragments = 0
        _complete = 0  # messages
        _failed = False
        # The message that is on its way: the number of those before it, and since when.
        _number = -1
        _since: float | None = None
        _timer: TimerHandle | None = None
        _watch: _Watch
        _on_frame: OnFrame | None = None

        def connection_made(self, transport: Any) -> None:
            super().connection_made(transport)
            self._watch = _Watch(self, limits.body_seconds)

        def handle_connect(self, event: Any) -> None:
            super().handle_connect(event)
            if not self.close_sent:  # else it was refused, and there is no scope
                scope: Any = self.scope
                scope["extensions"][SHORT_WAY] = self

        # The short way, see `ShortWay`.

        def listen(self, on_frame: OnFrame) -> bool:
            if self.queue.empty() and not self.read_paused:
                self._on_frame = on_frame
            return self._on_frame is not None

        def can_write(self) -> bool:
            return (
                self.writable.is_set()
                and not self.close_sent
                and not self.transport.is_closing()
                and self.conn.state is State.OPEN
            )

        def write(self, frame: bytes, *, binary: bool) -> None:
            (self.conn.send_binary if binary else self.conn.send_text)(frame)
            self.transport.write(b"".join(self.conn.data_to_send()))

        def send_receive_event_to_app(self) -> None:
            on_frame = self._on_frame
            if on_frame is None or self.close_sent:
                super().send_receive_event_to_app()
                return
            frame: bytes | str = self.frames[0]
            if self.curr_msg_data_type == "text":
                try:
                    frame = self.frames[0].decode()
                except UnicodeDecodeError:
                    super().send_receive_event_to_app()  # it closes the connection
                    return
            self.frames = []
            on_frame(frame)

        def connection_lost(self, exc: Exception | None) -> None:
            self._watch.end()
            if self._timer is not None:
                self._timer.cancel()
            super().connection_lost(exc)

        def pause_writing(self) -> None:
            self._watch.paused = True
            super().pause_writing()

        def resume_writing(self) -> None:
            self._watch.paused = False
            super().resume_writing()

        def data_received(self, data: bytes) -> None:
            if self._failed:
                return  # it has been told, and still sends
            super().data_received(data)
            if not self.handshake_initiated:  # websockets takes less headers than HTTP may have
                self.transport.write(
                    b"HTTP/1.1 400 Bad Request\r\ncontent-length: 0\r\nconnection: close\r\n\r\n"
                )
                self.transport.close()
                return
            if self.conn.reader.buffer or self._joined is not None:  # a message is on its way
                if self._since is None or self._number != self._complete:
                    self._since, self._number = self.loop.time(), self._complete
                if self._timer is None:
                    self._timer = self.loop.call_later(limits.body_seconds, self._late)
            else:
                self._since = None

        def _late(self) -> None:
            self._timer = None
            if self._since is None or self.close_sent or self.transport.is_closing():
                return
            left = self._since + limits.body_seconds - self.loop.time()
            if left > 0:  # that is another message
                self._timer = self.loop.call_later(left, self._late)
            else:
                self._fail(1008, "a message did not come in time")

        def _fail(self, code: int, reason: str) -> None:
            self.conn.fail(code, reason)
            self.handle_parser_exception()

        def handle_text(self, event: Frame) -> None:
            self._begin(event)
            super().handle_text(event)

        def handle_bytes(self, event: Frame) -> None:
            self._begin(event)
            super().handle_bytes(event)

        def _begin(self, event: Frame) -> None:
            if event.fin:
                self._complete += 1
            else:
                self._joined, self._fragments = bytearray(event.data), 1

        def handle_cont(self, event: Frame) -> None:
            # Joined at once: even an empty fragment would take a place in uvicorn's list.
            if self._joined is None:
                return  # the connection has failed in the middle of this data
            self._joined += event.data
            self._fragments += 1
            if self._fragments > _FRAGMENTS:
                self._joined = None
                self._fail(1008, "a message has too many fragments")
            elif event.fin:
                self.frames = [bytes(self._joined)]
                self._joined = None
                self._complete += 1
                self.send_receive_event_to_app()

        def handle_ping(self) -> None:
            if self._watch.paused and self.conn.close_rcvd is None:
                self.conn.data_to_send()  # who does not read gets no pongs: they would pile up
            else:
                super().handle_ping()

        def handle_parser_exception(self) -> None:
            """Say why, and read on for a moment, unseeing: a close at once would be a reset.

            A reset takes what the caller has not read yet with it.
            """
            if self._failed:
                return
            self._failed = True
            if self.conn.close_sent is None:  # the other end had closed before
                self.queue.put_nowait({"type": "websocket.disconnect", "code": 1006})
                self.transport.close()
                return
            code, reason = self.conn.close_sent.code, self.conn.close_sent.reason
            self.queue.put_nowait({"type": "websocket.disconnect", "code": code, "reason": reason})
            self.transport.write(b"".join(self.conn.data_to_send()))
            self.close_sent = True
            self.read_paused = False
            self.transport.resume_reading()
            self.close_timer = self.loop.call_later(_LINGER, self.transport.close)

    return Guarded
