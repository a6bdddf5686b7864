"""ClientSession: the calling end of one connection, without the connection.

Owns the ids of the calls, which of them wait for an answer, and the credit of their streams.
Bytes go in (`receive`) and come out (`frames_to_send`); time is its owner's. The package's
docstring has the states of a call, and why none can hang.

Threads: none, and no lock: all methods are called under the lock of the executor that owns the
session. None blocks and none calls the user's code (but for encoding what the user gave).
(A few lines over 400: all that may happen to a call is better seen in one place.)

Each call ends just once: by one event that is `Answered`, `Errored` or `Ended`; or by `cancel`; or
in the list that `lost` returns. What comes for a call that has ended, or never was, is counted in
`ignored`, and changes nothing.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NoReturn

from hybrid_compute.errors import (
    PayloadTooLarge,
    ProtocolError,
    RemoteConnectionLost,
    TaskEncodeError,
)
from hybrid_compute.protocol.ahead import FRAME_BYTES, SMALL_BYTES, Reach
from hybrid_compute.protocol.codec import MAX_BYTES, Codec
from hybrid_compute.protocol.credit import Incoming
from hybrid_compute.protocol.http import error_of
from hybrid_compute.protocol.messages import (
    Ack,
    Chunk,
    Complaint,
    Failed,
    Hello,
    Malformed,
    Result,
    parse_answer,
)
from hybrid_compute.protocol.outbox import MAX_BATCH, SPARE, WINDOW, Outbox
from hybrid_compute.protocol.outcomes import (
    Answered,
    ClientEvent,
    Complained,
    Ended,
    Errored,
    Greeted,
    Items,
    LostCall,
)
from hybrid_compute.protocol.signing import SIGNED_TASK
from hybrid_compute.protocol.values import Refused
from hybrid_compute.protocol.writer import Writer

__all__ = ["ClientSession"]

_NOTHING: Mapping[str, Any] = {}
_GONE: Any = object()
_CONTAINERS = (dict, list)
_FEW = 16  # calls that are not worth two frames
_new: Any = tuple.__new__  # makes a named tuple in half the time


class ClientSession:
    """The calls of one connection."""

    def __init__(
        self,
        *,
        own: bool = False,
        binary: bool = False,
        first_id: int = 1,
        max_bytes: int = MAX_BYTES,
        msgspec: bool | None = None,
    ) -> None:
        """Start on a connection that is open.

        Args:
            own: the server is known as ours (by its answer to the handshake). If not, it is
                taken for anybody's until it says hello.
            binary: the binary sub-protocol was agreed upon; implies `own`.
            first_id: go on where the last session stopped (`next_id`), so that an answer which
                was meant for that one is recognised as late.
            max_bytes: the largest frame to take and to send.
            msgspec: as for `Codec`.
        """
        self.binary = binary
        self.next_id: int = first_id
        self.ignored: int = 0  # messages about no call that waits, duplicates, nonsense
        self.peer: Hello | None = None
        self._own = Codec(tagged=True, binary=binary, max_bytes=max_bytes, msgspec=msgspec)
        plain = self._own if binary else Codec(max_bytes=max_bytes, msgspec=msgspec)
        self._reader = self._own if own or binary else plain
        self._max_bytes = max_bytes
        self._limit: int | None = None  # calls that the server takes at once
        self._reach: Reach | None = None  # how many more it keeps, if it does
        self._acked = 0  # calls in frames of which has just been told that they came
        self._stays = 0  # the id of the last call that may not go ahead
        self._pending: dict[int, Any] = {}  # context by id, in the order of the ids
        self._streams: dict[int, Incoming] = {}
        self._closed = ""
        self._outbox = Outbox(Writer(plain))
        self._outbox.peer_bytes = max_bytes
        if own or binary:
            self._greet()

    def __len__(self) -> int:
        """Return how many calls wait for an answer."""
        return len(self._pending)

    @property
    def own_peer(self) -> bool:
        """Whether the server is known as ours."""
        return self._outbox.greeted

    @property
    def backlog_bytes(self) -> int:
        """Bytes that wait to be sent."""
        return self._outbox.backlog

    # -- calls -----------------------------------------------------------------------------

    def call(  # noqa: PLR0913 - what a call may have, by name
        self,
        task: str,
        args: Sequence[Any] = (),
        kwargs: Mapping[str, Any] = _NOTHING,
        *,
        context: Any = None,
        timeout: float | None = None,
        stream: tuple[int, int] | None = None,
        seq: int = 0,
        key: str | None = None,
        variables: Mapping[str, Any] | None = None,
    ) -> int:
        """Queue a call, and return its id. The arguments are encoded now.

        Args:
            task: name of the task.
            args: positional arguments. Anybody's server takes one at most.
            kwargs: keyword arguments, for servers of ours.
            context: comes back in the events of this call.
            timeout: seconds that the caller has left; None: no bound. Servers of ours are told.
            stream: how many items and bytes the consumer has room for, if it takes a stream.
            seq: number of the first item wanted, to resume a stream.
            key: under which servers of ours remember how the call ended; None: they do not.
            variables: the caller's context variables, by their names, for servers of ours.

        Raises:
            TaskEncodeError: an argument cannot go to this server; the text has its path.
            PayloadTooLarge: the call has more bytes than one of the two sides takes.
            RemoteConnectionLost: the session is over; nothing was sent.
        """
        if self._closed:
            raise RemoteConnectionLost(
                f"the connection is gone ({self._closed}); the call was not sent",
                may_have_run=False,
            )
        identity, outbox = self.next_id, self._outbox
        try:
            message = outbox.writer.request(
                identity,
                task,
                args,
                kwargs,
                timeout=timeout,
                credit=stream,
                seq=seq,
                key=key,
                variables=variables,
            )
        except Refused as refusal:
            raise TaskEncodeError(f"{task}: {refusal}") from refusal
        if len(message) > outbox.peer_bytes - SPARE:
            self._refuse_size(task, len(message))
        self.next_id = identity + 1
        self._pending[identity] = context
        if stream is not None:
            self._streams[identity] = Incoming(stream, seq)
        if (
            len(message) > SMALL_BYTES
            or timeout is not None
            or stream is not None
            or key is not None
            or task == SIGNED_TASK
        ):
            self._stays = identity
        outbox.put(identity, message)
        return identity

    def call_all(
        self, calls: Sequence[tuple[str, Sequence[Any], Any]]
    ) -> Sequence[int | Exception]:
        """Queue calls that have nothing but positional arguments, each as `call` does.

        Args:
            calls: for each its task, its arguments and its context.

        Returns:
            For each its id, or what `call` raises.
        """
        outbox, ids = self._outbox, range(self.next_id, self.next_id + len(calls))
        tasks, arguments, contexts = zip(*calls, strict=True)  # loops in C, from here on
        messages = None
        if not self._closed:
            messages = outbox.writer.small_requests(ids, tasks, arguments)
        largest = max(map(len, messages)) if messages else 0
        if not messages or largest > outbox.peer_bytes - SPARE:
            return [self._try(*each) for each in calls]
        if largest > SMALL_BYTES:
            self._stays = ids[-1]
        self.next_id = ids.stop
        self._pending.update(zip(ids, contexts, strict=True))
        outbox.put_all(ids, messages)
        return ids

    def _try(self, task: str, args: Sequence[Any], context: Any) -> int | Exception:
        try:
            return self.call(task, args, context=context)
        except Exception as error:
            return error

    def _refuse_size(self, task: str, size: int) -> NoReturn:
        raise PayloadTooLarge(
            f"{task}: the call takes {size} bytes, and the server takes "
            f"{self._outbox.peer_bytes - SPARE}; send it in parts, or raise both sides' limits",
            size=size,
            limit=self._outbox.peer_bytes - SPARE,
        )

    def cancel(self, identity: int) -> bool:
        """End a call without an answer.

        Returns:
            True if the server has never heard of it.
        """
        if self._pending.pop(identity, _GONE) is _GONE:
            return False
        self._streams.pop(identity, None)
        if self._outbox.drop(identity):
            if identity == self._stays:  # what is before it in the queue may be such a call as well
                self._stays = self._outbox.last()
            return True
        if self._outbox.greeted:  # nobody else would know what it means
            self._outbox.put_urgent(self._outbox.writer.cancel(identity))
        return False

    def waits(self, identity: int) -> bool:
        """Say whether a call has not gone into a frame yet."""
        return identity in self._outbox

    def first_waiting(self) -> int:
        """Return the least id of such calls; with none, that of the next call."""
        return self.next_id if (first := self._outbox.first()) is None else first

    def consumed(self, identity: int, items: int, size: int) -> None:
        """Note that the consumer of a stream took items and bytes: it has room for as many."""
        stream = self._streams.get(identity)
        if stream is None:
            return  # it has ended, and the consumer catches up
        bounds = stream.consumed(items, size)
        if bounds is not None:
            self._outbox.put_urgent(self._outbox.writer.credit(identity, *bounds))

    def is_full(self, identity: int) -> bool:
        """Say whether a stream waits for its consumer."""
        stream = self._streams.get(identity)
        return stream is not None and stream.is_full()

    def lost(self, reason: str) -> list[LostCall]:
        """End the session: the connection is gone, or is to be closed.

        Returns:
            The calls without an answer, in their order. The owner sends those again that may be.
        """
        self._closed = self._closed or reason or "closed"
        lost = [
            LostCall(identity, context, identity not in self._outbox, self._next_seq(identity))
            for identity, context in self._pending.items()
        ]
        self._pending.clear()
        self._streams.clear()
        self._outbox = Outbox(self._outbox.writer)
        return lost

    def _next_seq(self, identity: int) -> int:
        stream = self._streams.get(identity)
        return 0 if stream is None else stream.next_seq

    # -- frames ----------------------------------------------------------------------------

    def room(self, now: float = 0.0) -> int:
        """Return how many calls could go into a frame now; those beyond would wait in here.

        It only grows by `receive`, `cancel` and `lost`; and at `opens_at`.

        Args:
            now: monotonic seconds; who has no clock leaves it out, here and below.
        """
        if self._limit is None:
            return MAX_BATCH
        return 0 if self._outbox.is_full(now) else self._most() - len(self._pending)

    def has_place(self) -> bool:
        """Say whether the server has a place for one more call, which need not go ahead."""
        return self._limit is None or len(self._pending) < self._limit

    def _most(self) -> int:
        """Return how many calls may be at the server, or on their way to it."""
        reach, outbox = self._reach, self._outbox
        if reach is None:
            return self._limit or 0
        if self._acked:
            owed = len(self._pending) - len(outbox) - outbox.under_way
            reach.acked(self._acked, owed)
            self._acked = 0
        return self._limit or 0 if self._stays in outbox else reach.calls

    def is_under_way(self) -> bool:
        """Tell whether calls wait for answers, and a frame of calls for its ack.

        More may be soon to come.
        """
        return self._outbox.under_way > 0 and bool(self._pending)

    def has_to_send(self) -> bool:
        """Say whether there may be a frame to send now."""
        return self._outbox.has_to_send(idle=not self._pending)

    def opens_at(self, now: float) -> float | None:
        """Return when what waits for a frame may go into one, if nothing comes before that.

        In monotonic seconds. None: at once, as far as frames matter; or not before an ack.
        """
        return self._outbox.opens_at(now)

    def frames_to_send(self, now: float = 0.0) -> list[bytes]:
        """Return the frames to send now; to be asked after each `call` and `receive`.

        Each is sent as one text message, or as a binary one if the session is `binary`. They
        count as sent from here on.
        """
        outbox = self._outbox
        if self._limit is None:
            return outbox.frames()
        pending, most = len(self._pending), self._most()
        # Those that wait for an answer and are not in the queue are with the server.
        room = max(0, most - pending + len(outbox))
        # All in one frame would keep the two sides from working side by side; and once it is so, it
        # stays so: what is answered at once is followed by as many at once.
        share = max(1, min(most, max(pending, _FEW)) // WINDOW)
        if most > self._limit:
            most_bytes = FRAME_BYTES - MAX_BATCH - SPARE  # but for the commas and an ack
            return outbox.frames(room, share, most=most_bytes, idle=not pending, now=now)
        return outbox.frames(room, share, idle=not pending, now=now)

    def receive(  # noqa: PLR0912 - one way, in its order
        self, frame: bytes | str, results: list[Any] | None = None
    ) -> list[ClientEvent]:
        """Take one frame from the server, and return what it brought.

        Args:
            frame: its message.
            results: takes what would be events that are `Answered`: of each a tuple of the
                context, the value, and None, which stands for no error.

        Raises:
            ProtocolError, PayloadTooLarge: it cannot be read at all. Nothing has changed; the
                owner should close the connection, for an answer may have been in it.
        """
        outbox = self._outbox
        if self.peer is not None:
            outbox.came(1)
        decoded = self._reader.decode(frame)
        events: list[ClientEvent] = []
        if type(decoded) is not list:
            if self.peer is not None and type(decoded) is dict and "ack" in decoded:
                outbox.came(-1)
            decoded = [decoded]
        elif len(decoded) > MAX_BATCH:
            raise ProtocolError(f"a frame of {len(decoded)} messages; {MAX_BATCH} are taken")
        pending = self._pending
        for raw in decoded:
            identity: Any
            if (
                type(raw) is dict
                and len(raw) == 2
                and type(identity := raw.get("id")) is int
                and type(value := raw.get("result", raw)) not in _CONTAINERS
            ):
                pass  # most answers are such: there is nothing else to be parsed
            else:
                try:
                    message: Any = parse_answer(raw, self._reader)
                except Malformed as error:
                    self._fail(error, events)
                    continue
                if type(message) is not Result:
                    self._take(message, events)
                    continue
                identity, value = message  # an integer: parse_answer has seen to that
            context = pending.pop(identity, _GONE)
            if context is _GONE:
                self.ignored += 1
                continue
            if self._streams:
                self._streams.pop(identity, None)
            if results is None:
                events.append(_new(Answered, (identity, context, value)))
            else:
                results.append((context, value, None))
        return events

    def _take(self, message: Any, events: list[ClientEvent]) -> None:
        """Act on any message but a result."""
        kind = type(message)
        if kind is Ack:
            self._acked += self._outbox.acked(message.frames)
        elif kind is Hello:
            self._meet(message, events)
        elif kind is Complaint:
            events.append(Complained(message.text))
        elif message.id not in self._pending:
            self.ignored += 1
        elif kind is Failed:
            self._end(message.id, error_of(message), events)
        elif (stream := self._streams.get(message.id)) is None:
            if kind is Chunk:
                self.ignored += 1  # nobody asked for a stream; the answer may still come
            else:
                self._end(message.id, ProtocolError("the end of a stream, and none began"), events)
        elif kind is Chunk:
            self._take_items(message, stream, events)
        elif message.seq not in (None, stream.next_seq):
            self._end(
                message.id,
                ProtocolError(
                    f"the stream ended at item {message.seq}, and {stream.next_seq} have come"
                ),
                events,
            )
        else:
            context = self._pending.pop(message.id)
            del self._streams[message.id]
            events.append(Ended(message.id, context, message.value))

    def _take_items(self, chunk: Chunk, stream: Incoming, events: list[ClientEvent]) -> None:
        identity: Any = chunk.id
        items = chunk.items
        if chunk.seq > stream.next_seq:
            why = f"item {chunk.seq} of the stream came before item {stream.next_seq}"
            self._abort(identity, ProtocolError(why), events)
            return
        if chunk.seq < stream.next_seq:
            self.ignored += 1
            items = items[stream.next_seq - chunk.seq :]
            if not items:
                return
        stream.taken += len(items)
        stream.size += chunk.size
        if stream.taken > stream.most:
            why = f"{stream.taken} items of the stream came, with room for {stream.most}"
            self._abort(identity, ProtocolError(why), events)
            return
        seq, stream.next_seq = stream.next_seq, stream.next_seq + len(items)
        events.append(Items(identity, self._pending[identity], items, chunk.size, seq))

    def _abort(self, identity: int, error: Exception, events: list[ClientEvent]) -> None:
        """Fail a call with which its server may go on."""
        self._end(identity, error, events)
        if self._outbox.greeted:
            self._outbox.put_urgent(self._outbox.writer.cancel(identity))

    def _end(self, identity: int, error: Exception, events: list[ClientEvent]) -> None:
        self._streams.pop(identity, None)
        events.append(Errored(identity, self._pending.pop(identity), error))

    def _fail(self, error: Malformed, events: list[ClientEvent]) -> None:
        """Act on a message that breaks the protocol: fail the call that it is about, if any."""
        if type(error.id) is int and error.id in self._pending:
            self._abort(error.id, ProtocolError(str(error)), events)
        else:
            self.ignored += 1

    # -- hello -----------------------------------------------------------------------------

    def _greet(self) -> None:
        self._outbox.greet(self._own, Hello(max_bytes=self._max_bytes))
        if self._limit is None:
            self._limit = Hello().in_flight  # until its hello tells

    def _meet(self, hello: Hello, events: list[ClientEvent]) -> None:
        if self.peer is not None:
            self.ignored += 1
            return
        self.peer = hello
        self._reader = self._own
        self._outbox.came(1)  # this very frame
        if not self._outbox.greeted:
            self._greet()
        self._outbox.peer_bytes = min(hello.max_bytes, self._max_bytes)
        self._limit = max(1, hello.in_flight)
        if hello.ahead:
            self._reach = Reach(self._limit, hello.ahead)
        events.append(Greeted(hello))
