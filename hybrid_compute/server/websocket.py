"""WebSocket: one connection, its ServerSession, and the calls that run for it.

Two coroutines on the loop: one reads frames, the other writes them, so that a slow reader at the
other end never keeps us from reading its cancels. What waits for it is bounded by the session, and
for streams by `_AHEAD`, whatever room their caller says that there is. What waits for acks alone is
seen to by the loop's clock (`protocol.outbox` has the rule).
"""

from __future__ import annotations

import asyncio
import time
from concurrent.futures import Future
from contextlib import suppress
from math import inf
from typing import Any

from hybrid_compute.errors import PayloadTooLarge, ProtocolError, ResultEncodeError
from hybrid_compute.protocol import BINARY_SUBPROTOCOL, JSON_SUBPROTOCOL, ServerSession
from hybrid_compute.protocol.http import HEADER
from hybrid_compute.protocol.messages import Failed, Id, Request
from hybrid_compute.protocol.server import Cancelled, Room
from hybrid_compute.server.feeds import Sink
from hybrid_compute.server.gate import Refusal
from hybrid_compute.server.pickles import is_private
from hybrid_compute.server.quick import Quick
from hybrid_compute.server.service import Call, Service
from hybrid_compute.server.shortway import SHORT_WAY, ShortWay
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
            ahead=limits.ahead,
            max_bytes=limits.body_bytes,
        )
        self._session.draining = service.draining
        self._service, self._token = service, token
        self._private = is_private(scope)
        self._receive, self._send = receive, send
        self._short: ShortWay | None = scope.get("extensions", {}).get(SHORT_WAY)
        self._quick = Quick(service, token, fail=self._fail, follow=self._begin)
        self._deaf = False  # a frame was none; nothing is read any more
        self._at_it = False  # calls are begun, further down on the stack
        self._unsent: list[bytes] = []  # frames that the writer has yet to send
        self._calls: dict[Id, Call] = {}
        self._waiting: set[Id] = set()  # streams, until there is less to be sent
        self._wake = asyncio.Event()
        self._later: asyncio.TimerHandle | None = None  # when it looks after what waits for acks
        self.ended: asyncio.Event = asyncio.Event()
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
        if self._short is not None and not self._short.listen(self._take):
            self._short = None
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
            if self._later is not None:
                self._later.cancel()
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
            self._take(message.get("text") or "" if frame is None else frame)
            if self._deaf:
                break
        await asyncio.get_running_loop().create_future()  # the writer closes and ends this

    def _take(self, frame: bytes | str) -> None:
        """Act on a frame, and send what there is to be sent, if that can be done at once."""
        session = self._session
        try:
            events = [] if self._deaf else session.receive(frame)
        except PayloadTooLarge as error:
            self._end(1009, str(error))
            self._deaf = True
            return
        except ProtocolError as error:
            self._end(1008, str(error))
            self._deaf = True
            return
        requests: list[Request] = []
        for event in events:
            if type(event) is Request:
                requests.append(event)
            else:
                if requests:
                    self._run(requests)
                    requests = []
                if type(event) is Room:
                    self._go_on(event.id)
                elif type(event) is Cancelled:
                    if call := self._calls.pop(event.id, None):
                        call.abandon()
                        call.stop()
                    self._go_ahead()
                    self._close_if_drained()
        if requests:
            self._run(requests)
        self._go_ahead()
        self._flush()

    def _run(self, requests: list[Request]) -> None:
        self._at_it = True
        try:
            results, others = self._quick.run(requests, own=self._session.own_peer)
            if results:
                self._session.results(results)
            for each in others:
                self._begin(each)
        finally:
            self._at_it = False

    def _go_ahead(self) -> None:
        """Run calls that have waited for others to end."""
        # Calls that end at once come by here as they do: whoever runs them sees to the next.
        while not self._at_it and (requests := self._session.next_calls()):
            self._run(requests)

    def _flush(self) -> None:
        """Send what there is to be sent: here if that can be, else have the writer do it."""
        short = self._short
        if short is None or self._unsent or self._close is not None or not short.can_write():
            self._wake.set()
            return
        binary = self._session.binary
        frames = self._frames()
        for index, frame in enumerate(frames):
            if not short.can_write():
                self._unsent = frames[index:]
                self._wake.set()
                return
            short.write(frame, binary=binary)
        if self._waiting:
            self._wake.set()  # the writer lets streams go on

    def _frames(self) -> list[bytes]:
        # At the end nothing waits for acks: what is not sent before the connection closes is lost.
        now = time.monotonic() if self._close is None else inf
        frames = self._session.frames_to_send(now)
        if self._later is None and (when := self._session.opens_at(now)) is not None:
            # Acks may come before it, and other frames go; then this is done once more.
            self._later = asyncio.get_running_loop().call_later(when - now, self._look_again)
        return frames

    def _look_again(self) -> None:
        self._later = None
        self._flush()

    async def _write(self) -> None:
        binary = self._session.binary
        while True:
            await self._wake.wait()
            self._wake.clear()
            self._unsent += self._frames()
            while self._unsent:  # as long as there is one, nothing goes the short way
                frame = self._unsent[0]
                if binary:
                    await self._send({"type": "websocket.send", "bytes": frame})
                else:
                    await self._send({"type": "websocket.send", "text": frame.decode()})
                del self._unsent[0]
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

    def _begin(self, request: Request, done: Future[Any] | None = None) -> None:
        """Run a call, or see to one that has run."""
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
                done=done,
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
        if failure is not None:
            self._fail(identity, failure)
        else:
            with suppress(ResultEncodeError):  # the caller has been told
                if call.feed is not None and self._session.wants_stream(identity):
                    self._session.done(identity, call.result())
                else:
                    self._session.result(identity, call.result())
        self._go_ahead()
        self._wake.set()
        self._close_if_drained()

    def _fail(self, identity: Id, failure: Failed) -> None:
        self._session.fail(
            identity,
            failure.text,
            status=failure.status or 500,
            type_name=failure.type_name,
            traceback=failure.traceback,
            path=failure.path,
            retry_after=failure.retry_after,
        )


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
