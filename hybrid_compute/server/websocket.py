"""WebSocket: one connection, its ServerSession, and the calls that run for it.

Two coroutines on the loop: one reads frames, the other writes them, so that a slow reader at the
other end never keeps us from reading its cancels. What waits for it is bounded by the session, and
for streams by `_AHEAD`, whatever room their caller says that there is.
"""

from __future__ import annotations

import asyncio
from contextlib import suppress
from typing import Any

from hybrid_compute.errors import PayloadTooLarge, ProtocolError, ResultEncodeError
from hybrid_compute.protocol import BINARY_SUBPROTOCOL, JSON_SUBPROTOCOL, ServerSession
from hybrid_compute.protocol.http import HEADER
from hybrid_compute.protocol.messages import Id, Request
from hybrid_compute.protocol.server import Cancelled, Room
from hybrid_compute.server.feeds import Sink
from hybrid_compute.server.gate import Refusal
from hybrid_compute.server.pickles import is_private
from hybrid_compute.server.service import Call, Service
from hybrid_compute.server.tokens import Token

__all__ = ["Connection"]


_AHEAD = 2**20  # bytes that wait to be sent; then streams wait as well


class Connection:
    """One WebSocket that was let in."""

    def __init__(self, service: Service, token: Token, scope: Any, receive: Any, send: Any) -> None:
        offered = scope.get("subprotocols", ())
        known = (BINARY_SUBPROTOCOL, JSON_SUBPROTOCOL)
        self._chosen = next((each for each in offered if each in known), None)
        limits = service.limits
        self._session = ServerSession(
            own=self._chosen is not None,
            binary=self._chosen == BINARY_SUBPROTOCOL,
            in_flight=limits.in_flight,
            max_bytes=limits.body_bytes,
        )
        self._session.draining = service.draining
        self._service, self._token = service, token
        self._private = is_private(scope)
        self._receive, self._send = receive, send
        self._calls: dict[Id, Call] = {}
        self._waiting: set[Id] = set()  # streams, until there is less to be sent
        self._wake = asyncio.Event()
        self.ended = asyncio.Event()
        self._close: tuple[int, str] | None = None

    def drain(self) -> None:
        """Take no more calls; close as soon as none runs."""
        self._session.draining = True
        self._close_if_drained()

    def _close_if_drained(self) -> None:
        if self._session.draining and not len(self._session):
            self._end(1012, "the server is closing")

    def _end(self, code: int, reason: str) -> None:
        self._close = self._close or (code, reason)
        self._wake.set()

    async def run(self) -> None:
        """Serve until one side closes."""
        headers = []
        if self._chosen:
            headers = [(HEADER.lower().encode(), b"1"), *self._service.pickles.headers]
        await self._send(
            {"type": "websocket.accept", "subprotocol": self._chosen, "headers": headers}
        )
        self._wake.set()  # hello
        tasks = {asyncio.ensure_future(self._read()), asyncio.ensure_future(self._write())}
        try:
            done, _ = await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
            for each in done:
                each.result()
        except OSError:
            pass  # the caller is gone in the middle of a frame
        finally:
            for each in tasks:
                each.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
            self.ended.set()
            self._session.lost()
            for call in self._calls.values():
                call.abandon()

    async def _read(self) -> None:
        while True:
            message = await self._receive()
            if message["type"] == "websocket.disconnect":
                return
            frame = message.get("bytes")
            if frame is None:
                frame = message.get("text") or ""
            try:
                events = self._session.receive(frame)
            except PayloadTooLarge as error:
                self._end(1009, str(error))
                break
            except ProtocolError as error:
                self._end(1008, str(error))
                break
            for event in events:
                if type(event) is Request:
                    self._begin(event)
                elif type(event) is Room:
                    self._go_on(event.id)
                elif type(event) is Cancelled and (call := self._calls.pop(event.id, None)):
                    call.abandon()
                    call.stop()
                    self._close_if_drained()
            self._wake.set()
        await asyncio.get_running_loop().create_future()  # the writer closes and ends this

    async def _write(self) -> None:
        binary = self._session.binary
        while True:
            await self._wake.wait()
            self._wake.clear()
            for frame in self._session.frames_to_send():
                if binary:
                    await self._send({"type": "websocket.send", "bytes": frame})
                else:
                    await self._send({"type": "websocket.send", "text": frame.decode()})
            if self._waiting and self.has_room():
                waiting, self._waiting = self._waiting, set()
                for each in waiting:
                    self._go_on(each)
            if self._close is not None and not self._wake.is_set():
                code, reason = self._close
                await self._send({"type": "websocket.close", "code": code, "reason": reason[:100]})
                return

    def has_room(self) -> bool:
        """Say whether streams may add to what waits to be sent."""
        return self._session.backlog_bytes < _AHEAD

    def wait(self, identity: Id) -> None:
        """Have a stream go on when there is room."""
        self._waiting.add(identity)
        self._wake.set()

    def turn(self) -> None:
        """Have the frames sent."""
        self._wake.set()

    def _go_on(self, identity: Id) -> None:
        if (call := self._calls.get(identity)) and call.feed is not None:
            call.feed.again()

    def _begin(self, request: Request) -> None:
        identity = request.id
        try:
            call = self._service.admit(self._token)
            self._calls[identity] = call
            call.start(
                request,
                lambda ended: self._finish(identity, ended),
                own=self._session.own_peer,
                label=identity,
                private=self._private,
                sink=lambda: self._sink(request),
            )
        except Refusal as no:
            self._calls.pop(identity, None)
            self._session.fail(
                identity, no.text, status=no.status, path=no.path, retry_after=no.retry_after
            )

    def _sink(self, request: Request) -> Sink | None:
        if not self._session.wants_stream(request.id):
            return None
        self._session.begin(request.id)
        self._wake.set()
        return _Frames(self, self._session, request)

    def _finish(self, identity: Id, call: Call) -> None:
        self._calls.pop(identity, None)
        failure = self._service.failure(call)
        if failure is None:
            with suppress(ResultEncodeError):  # the caller has been told
                if call.feed is not None and self._session.wants_stream(identity):
                    self._session.done(identity, call.result())
                else:
                    self._session.result(identity, call.result())
        else:
            self._session.fail(
                identity,
                failure.text,
                status=failure.status or 500,
                type_name=failure.type_name,
                traceback=failure.traceback,
                retry_after=failure.retry_after,
            )
        self._wake.set()
        self._close_if_drained()


class _Frames:
    """A sink whose items go into the session's frames."""

    def __init__(self, connection: Connection, session: ServerSession, request: Request) -> None:
        self._connection = connection
        self._session = session
        self._id = request.id
        self._skip = request.seq  # items that the caller has already

    def room(self) -> int | None:
        """Return what the caller has room for."""
        if self._skip:
            return self._skip
        room = self._session.room(self._id)
        if room and not self._connection.has_room():
            self._connection.wait(self._id)
            return 0
        return room

    def item(self, value: Any) -> None:
        """Send an item, or nothing if the caller has it."""
        if self._skip:
            self._skip -= 1
        else:
            self._session.item(self._id, value)

    def turn(self) -> None:
        """Have the frames sent."""
        self._connection.turn()
