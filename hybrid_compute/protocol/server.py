"""ServerSession: the answering end of one connection, without the connection.

Owns which calls of one client run, the streams they send and the credit of those, and the answers
to batches. Bytes go in (`receive`) and come out (`frames_to_send`). It checks no token and looks
up no task: that, running the calls, time-outs and closing are its owner's.

Threads: none, and no lock: all methods are called by one thread (or event loop), or under one
lock of the owner. (A few lines over 400: all that may happen to a call is better seen in one
place.)

Each call that `receive` returned is answered just once: by the first of `result`, `fail` and
`done`; after a cancel by none. What else is tried for it is dropped, and those methods return
False. A message that is no call gets an error with its id, or with the id null, and the connection
goes on. Memory: at most `in_flight` calls run, and a client that sends and does not read is cut
off (ProtocolError) when `max_backlog` bytes wait for it.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import suppress
from typing import Any, NamedTuple

from hybrid_compute.errors import PayloadTooLarge, ProtocolError, ResultEncodeError
from hybrid_compute.protocol.ahead import Kept
from hybrid_compute.protocol.codec import MAX_BYTES, Codec
from hybrid_compute.protocol.credit import Outgoing
from hybrid_compute.protocol.messages import (
    Ack,
    Cancel,
    Credit,
    Failed,
    Hello,
    Id,
    Malformed,
    Request,
    parse_request,
)
from hybrid_compute.protocol.outbox import MAX_BATCH, SPARE, Outbox
from hybrid_compute.protocol.values import Refused
from hybrid_compute.protocol.writer import Writer

__all__ = ["Cancelled", "Room", "ServerEvent", "ServerSession"]

_GONE: Any = object()
_CHUNK_BYTES = 2**17  # of one message of a stream, but for a larger item


class Cancelled(NamedTuple):
    """The client wants no answer to a running call: stop it if that can be."""

    id: Id


class Room(NamedTuple):
    """The consumer of a stream has room again; `ServerSession.room` tells how much."""

    id: Id


ServerEvent = Request | Cancelled | Room | Hello


class _Batch:
    """The answers to an array of calls, which a client that is not ours wants as an array."""

    __slots__ = ("left", "parts")

    def __init__(self) -> None:
        self.left = 0
        self.parts: list[bytes] = []


class ServerSession:
    """The calls of one client."""

    def __init__(
        self,
        *,
        own: bool = False,
        binary: bool = False,
        in_flight: int = 64,
        ahead: int = 0,
        max_bytes: int = MAX_BYTES,
        max_backlog: int | None = None,
        msgspec: bool | None = None,
    ) -> None:
        """Start on a connection that was accepted.

        Args:
            own: the client is one of ours (by the sub-protocol that it asked for). If not, it is
                taken for anybody's until it says hello.
            binary: the binary sub-protocol was agreed upon; implies `own`.
            in_flight: calls that may run at once; those beyond are declined with status 429,
            ahead: but for so many, which wait in here until `next_calls` returns them.
            max_bytes: the largest frame to take and to send.
            max_backlog: bytes that may wait for the client; None: four times `max_bytes`.
            msgspec: as for `Codec`.
        """
        self.binary = binary
        self.ignored: int = 0  # cancels and credit for calls that have ended
        self.peer: Hello | None = None
        self.draining = False  # set by the owner: new calls are declined with status 503
        self._own = Codec(tagged=True, binary=binary, max_bytes=max_bytes, msgspec=msgspec)
        plain = self._own if binary else Codec(max_bytes=max_bytes, msgspec=msgspec)
        self._reader = self._own if binary else plain
        self._hello = Hello(max_bytes=max_bytes, in_flight=in_flight, ahead=ahead)
        self._max_backlog = 4 * max_bytes if max_backlog is None else max_backlog
        self._running: dict[Id, _Batch | None] = {}
        self._kept = Kept(ahead)
        self._streams: dict[Id, Outgoing] = {}
        self._filling: dict[Id, Outgoing] = {}  # streams with items that wait for a frame
        self._keys = 0
        self._outbox = Outbox(Writer(plain))
        self._outbox.peer_bytes = max_bytes
        if own or binary:
            self._outbox.greet(self._own, self._hello)

    def __len__(self) -> int:
        """Return how many calls run, or wait until they may."""
        return len(self._running) + len(self._kept)

    @property
    def own_peer(self) -> bool:
        """Whether the client is known as ours."""
        return self._outbox.greeted

    @property
    def backlog_bytes(self) -> int:
        """Bytes that wait for the client."""
        return self._outbox.backlog

    # -- answers ---------------------------------------------------------------------------

    def result(self, identity: Id, value: Any) -> bool:
        """Answer a call with its result. False if nobody waits for it.

        Raises:
            ResultEncodeError: the value cannot go to this client, or is too large for it. The
                client has been answered with that error; this is for the owner's log.
        """
        if identity not in self._running:
            return False
        self._answer_with(self._outbox.writer.result, identity, value)
        return True

    def results(self, answers: Sequence[tuple[Id, Any]]) -> None:
        """Answer calls with their results, each as `result` does. Raises nothing.

        The ids are different ones. What cannot be sent is nobody's but the client's to know.
        """
        outbox, running, streams = self._outbox, self._running, self._streams
        # For small ones, as `result` does it, but for what is the same for all.
        messages = None
        if not streams and all(running.get(each, _GONE) is None for each, _ in answers):
            messages = outbox.writer.small_results(answers)
        if not messages or max(map(len, messages)) > outbox.peer_bytes - SPARE:
            for identity, value in answers:
                with suppress(ResultEncodeError):
                    self.result(identity, value)
            return
        for identity, _ in answers:
            running.pop(identity, None)
        first, self._keys = self._keys + 1, self._keys + len(messages)
        outbox.put_all(range(first, self._keys + 1), messages)

    def fail(
        self,
        identity: Id,
        text: str,
        *,
        status: int = 500,
        type_name: str = "",
        traceback: str = "",
        path: str = "",
        retry_after: float | None = None,
    ) -> bool:
        """Answer a call with an error, after the items of its stream. False if nobody waits.

        Args:
            identity: the call's.
            text: what the caller reads. Clients that are not ours get nothing else.
            status: as in HTTP; `http.error_of` tells what a client makes of it.
            type_name: of the exception, or "".
            traceback: "" unless callers may see it.
            path: of the argument that was refused, or "".
            retry_after: seconds, or None.
        """
        if identity not in self._running:
            return False
        failure = Failed(identity, text, status, type_name, traceback, path, retry_after)
        self._answer(identity, self._outbox.writer.failed(failure))
        return True

    def _answer_with(self, write: Callable[..., bytes], identity: Id, *args: Any) -> None:
        """Answer a call with what is written, or else with why it cannot be."""
        outbox = self._outbox
        try:
            message = write(identity, *args)
            if len(message) > outbox.peer_bytes - SPARE:
                raise PayloadTooLarge(
                    f"it takes {len(message)} bytes, and {outbox.peer_bytes - SPARE} may be sent"
                )
        except (Refused, PayloadTooLarge) as error:
            text = f"the result cannot be sent: {error}"
            status = 413 if isinstance(error, PayloadTooLarge) else 500
            self._answer(identity, outbox.writer.failed(Failed(identity, text, status)))
            raise ResultEncodeError(text) from error
        self._answer(identity, message)

    def _answer(self, identity: Id, message: bytes) -> None:
        batch = self._running.pop(identity)
        if self._streams and identity in self._streams:
            self._flush(identity, self._streams.pop(identity))
            self._filling.pop(identity, None)
        if batch is None:
            self._put(message)
        else:
            batch.parts.append(message)
            self._settle(batch)

    def _settle(self, batch: _Batch) -> None:
        """Note that one more of a batch has come to its end."""
        batch.left -= 1
        if not batch.left and batch.parts:
            self._put(self._outbox.writer.codec.array(batch.parts))

    def _put(self, message: bytes) -> None:
        self._keys += 1
        self._outbox.put(self._keys, message)

    # -- streams ---------------------------------------------------------------------------

    def wants_stream(self, identity: Id) -> bool:
        """Tell whether the caller takes items: if not, it gets all of them as one result."""
        return identity in self._streams

    def begin(self, identity: Id) -> None:
        """Tell the caller that the generator of a stream has started."""
        if stream := self._streams.get(identity):
            self._put(self._outbox.writer.chunks(identity, *stream.take()))

    def room(self, identity: Id) -> int | None:
        """Return how many items of a stream may be sent now; None: nobody takes them any more."""
        return stream.room() if (stream := self._streams.get(identity)) else None

    def item(self, identity: Id, value: Any) -> bool:
        """Send one item of a stream. Items that wait for a frame travel together.

        False if nobody takes items any more: the producer should stop.

        Raises:
            RuntimeError: there is no `room`.
            ResultEncodeError: the item cannot go to this client, which has been answered with
                that error.
        """
        stream = self._streams.get(identity)
        if stream is None:
            return False
        if stream.room() <= 0:
            raise RuntimeError(f"the stream {identity!r} has no room: wait for its Room event")
        try:
            data = self._outbox.writer.codec.encode(value, "$.chunk")
            if len(data) > self._outbox.peer_bytes - 4 * SPARE:
                raise PayloadTooLarge(f"it takes {len(data)} bytes, more than the client does")
        except (Refused, PayloadTooLarge) as error:
            text = f"item {stream.seq} of the stream cannot be sent: {error}"
            self.fail(identity, text, status=413 if isinstance(error, PayloadTooLarge) else 500)
            raise ResultEncodeError(text) from error
        most = min(_CHUNK_BYTES, self._outbox.peer_bytes // 2)
        if stream.waiting + len(data) > most or len(stream.items) >= MAX_BATCH:
            self._flush(identity, stream)
        if not stream.items:
            self._filling[identity] = stream
        stream.add(data)
        return True

    def done(self, identity: Id, value: Any = None) -> bool:
        """End a stream with its return value. Returns and raises as `result` does."""
        stream = self._streams.get(identity)
        if stream is None:
            return False
        self._answer_with(self._outbox.writer.done, identity, value, stream.seq)
        return True

    def _flush(self, identity: Id, stream: Outgoing) -> None:
        """Make a message of the items that wait."""
        if stream.items:
            self._put(self._outbox.writer.chunks(identity, *stream.take()))

    # -- frames ----------------------------------------------------------------------------

    def frames_to_send(self, now: float = 0.0) -> list[bytes]:
        """Return the frames to send now.

        To be asked after `receive`, after answers, and at the time that `opens_at` returns. Each is
        sent as one text message, or as a binary one if the session is `binary`.

        Args:
            now: monotonic seconds; who has no clock leaves it out.
        """
        if self._filling:
            for identity, stream in self._filling.items():
                self._flush(identity, stream)
            self._filling.clear()
        return self._outbox.frames(now=now)

    def opens_at(self, now: float) -> float | None:
        """Return when what waits for a frame may go into one, if nothing comes before that.

        In monotonic seconds. None: nothing waits, or not for that.
        """
        return self._outbox.opens_at(now) if self._outbox.backlog else None

    def receive(self, frame: bytes | str) -> list[ServerEvent]:
        """Take one frame from the client, and return what it asks for.

        A frame that cannot be read is answered with an error without an id.

        Raises:
            PayloadTooLarge: a frame was too large; close the connection with code 1009.
            ProtocolError: the client does not read what it asked for; close it with code 1008.
        """
        outbox = self._outbox
        if outbox.backlog > self._max_backlog:
            raise ProtocolError(f"the client sends and does not read: {outbox.backlog} bytes wait")
        if self.peer is not None:
            outbox.came(1)
        try:
            decoded = self._reader.decode(frame)
        except PayloadTooLarge:
            raise
        except ProtocolError as error:
            self._complain(None, str(error))
            return []
        events: list[ServerEvent] = []
        if type(decoded) is not list:
            if self.peer is not None and type(decoded) is dict and "ack" in decoded:
                outbox.came(-1)
            self._take(decoded, None, events, len(frame))
        elif not 0 < len(decoded) <= MAX_BATCH:
            text = f"a batch of {len(decoded)} messages; 1 to {MAX_BATCH} are taken"
            self._complain(None, text)
        else:
            batch = _Batch()
            batch.left = 1  # it is not complete before all of it has been read
            take, size = self._take, len(frame)
            for raw in decoded:  # one of them may be the client's hello
                take(raw, batch if self.peer is None else None, events, size)
            self._settle(batch)
        return events

    def next_calls(self) -> list[Request]:
        """Return calls that waited and may run now; to be asked when others have ended.

        Whatever has come of them meanwhile, they run from here on.
        """
        if not self._kept:
            return []
        requests = self._kept.take(max(0, self._hello.in_flight - len(self._running)))
        self._running.update((each.id, None) for each in requests)
        return requests

    def _take(
        self, raw: Any, batch: _Batch | None, events: list[ServerEvent], frame_bytes: int
    ) -> None:
        """Act on one message."""
        try:
            message: Any = parse_request(raw, self._reader)
        except Malformed as error:
            self._complain(batch, str(error), error.id)
            return
        kind = type(message)
        if kind is Request:
            if self._enters(message, batch, frame_bytes):
                events.append(message)
        elif kind is Ack:
            self._outbox.acked(message.frames)
        elif kind is Hello:
            self._meet(message, events)
        elif message.id not in self._running:
            if kind is not Cancel or not self._kept.drop(message.id):
                self.ignored += 1
        elif kind is Cancel:
            self._drop(message.id)
            events.append(Cancelled(message.id))
        else:
            self._give(message, events)

    def _enters(self, request: Request, batch: _Batch | None, frame_bytes: int) -> bool:
        """Take a call in, or decline it. True: it runs from here on."""
        if self._is_in_use(request.id):
            # Its id would end the call that has it already.
            self._complain(batch, f"the id {request.id!r} is in use")
        elif len(self._running) < self._hello.in_flight and not self.draining:
            self._running[request.id] = batch
            if batch is not None:
                batch.left += 1
            if request.credit is not None:
                self._streams[request.id] = Outgoing(request.credit, request.seq)
            return True
        elif self.peer is None or self.draining or not self._kept.keep(request, frame_bytes):
            self._decline(request.id, batch)
        return False

    def _give(self, credit: Credit, events: list[ServerEvent]) -> None:
        stream = self._streams.get(credit.id)
        if stream is None:
            self.ignored += 1
        elif stream.grant(credit.items, credit.size):
            events.append(Room(credit.id))

    def _drop(self, identity: Id) -> None:
        batch = self._running.pop(identity)
        self._streams.pop(identity, None)
        self._filling.pop(identity, None)
        if batch is not None:
            self._settle(batch)

    def _decline(self, identity: Id, batch: _Batch | None) -> None:
        text, status = "the server is closing", 503
        if not self.draining:
            text, status = f"{len(self._running)} calls run already; wait for one to end", 429
        self._complain(batch, text, identity, status=status)

    def _complain(
        self, batch: _Batch | None, text: str, identity: Id | None = None, *, status: int = 400
    ) -> None:
        """Answer what is no good call: with its id, if no call that runs would end by that."""
        if identity is not None and self._is_in_use(identity):
            identity = None
        message = self._outbox.writer.failed(Failed(identity, text, status))
        if batch is None:
            self._put(message)
        else:
            batch.parts.append(message)

    def _is_in_use(self, identity: Id) -> bool:
        return identity in self._running or identity in self._kept

    def lost(self) -> list[Id]:
        """End the session: the connection is gone. Return the calls that ran, to be cancelled."""
        running = list(self._running)
        self._running.clear()
        self._kept.clear()
        self._streams.clear()
        self._filling.clear()
        self._outbox = Outbox(self._outbox.writer)
        return running

    def _meet(self, hello: Hello, events: list[ServerEvent]) -> None:
        if self.peer is not None:
            self.ignored += 1
            return
        self.peer = hello
        self._reader = self._own
        self._outbox.came(1)  # this very frame
        if not self._outbox.greeted:
            self._outbox.greet(self._own, self._hello)
        self._outbox.peer_bytes = min(hello.max_bytes, self._hello.max_bytes)
        events.append(hello)
