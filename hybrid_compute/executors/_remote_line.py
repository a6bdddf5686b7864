"""Line: many calls over one WebSocket at a time, and what becomes of them when it is lost.

Owns the queue of one RemoteExecutor, and the protocol session and the transport of the moment. The
`Dialer` makes them; the `Ledger` knows which calls are not over, and delivers their outcomes.

    push -> _queue -> session -> _unsent -> frame -> transport      (`_advance`)
            `- the next connection, if it was lost -'  `-> answer -> ledger

Threads: the callers', the transport's own (which delivers outcomes; `_remote_turns` has what the
callers take over of that), one that dials while there is somebody to dial for, and the clock of
`Timers`. One lock, a PumpLock, guards the session, the transport and who dials. `push` never waits
for it: it puts the call into the ledger and `_queue`, which need no lock, and whoever has the lock
sends it; `_remote_lock` says why nothing is forgotten there. The transport's lock is taken inside
of it, never the other way round: frames must go out in the order in which the session made them.
Outcomes are delivered with no lock held. A call is marked as running once, under `starting`, which
is held for nothing else.

Why nothing can hang: a call is in the queue, in the session, with the clock (the server was busy),
taken back by who is about to cancel it, or over. The queue empties when a dial ends, well or not,
and each does within `connect_timeout`; the session when the connection ends, which the pings see
to, or at the call's deadline. What waits for a frame waits for acks, and `protocol.outbox` says why
those come; the clock only lets it go sooner (`_beat`). (A few lines over 400: all that may become
of a call is better seen in one place.)
"""

from __future__ import annotations

import random
import threading
import time
from collections import deque
from collections.abc import Callable
from concurrent.futures._base import PENDING, RUNNING
from contextlib import suppress
from typing import TYPE_CHECKING, Any

from hybrid_compute import _exit
from hybrid_compute._contexts import Carried
from hybrid_compute.errors import RemoteBusy
from hybrid_compute.executors import _delivery
from hybrid_compute.executors._remote_calls import (
    LINE,
    Call,
    Timers,
    arguments_of,
    copy_of,
    in_vain,
)
from hybrid_compute.executors._remote_dialer import FIRST_PAUSE, Dialer
from hybrid_compute.executors._remote_ledger import Ledger, Outcome
from hybrid_compute.executors._remote_lock import PumpLock
from hybrid_compute.executors._remote_streams import Ending, LineSource, Portion
from hybrid_compute.executors._remote_turns import LineTurns
from hybrid_compute.items import PLAIN, WorkItem
from hybrid_compute.protocol import ClientSession
from hybrid_compute.protocol.outbox import PACE
from hybrid_compute.protocol.outcomes import Ended, Errored, Items
from hybrid_compute.protocol.signing import BOOT_HEADER
from hybrid_compute.streamed import StreamItem
from hybrid_compute.supervised import is_quiet

if TYPE_CHECKING:
    from hybrid_compute.executors._remote_circuit import Circuit
    from hybrid_compute.executors._remote_signed import SignedCall
    from hybrid_compute.transports._adapted import Connection

__all__ = ["Line"]

_MOST_BUSY, _BOOT = 4, BOOT_HEADER.lower()
_SPARE = 64  # calls that are over may stay in the queue

PlainCall = tuple[str, tuple[Any, ...], Call]  # its name, its arguments and itself


class Line(LineTurns):
    """The WebSocket half of a RemoteExecutor."""

    def __init__(
        self,
        connect: Callable[[], Connection],
        *,
        name: str,
        max_bytes: int,
        timeout: float | None,
        reconnect_for: float,
        retry_after_cap: float,
        circuit: Circuit,
    ) -> None:
        self.carried: Carried | None = None  # see SubExecutor
        self._connect = connect
        self._circuit = circuit
        self._name = name
        self._max_bytes = max_bytes
        self._timeout = timeout
        self._reconnect_for = reconnect_for
        self._retry_after_cap = retry_after_cap
        self._start_anew()
        _exit.register(self)

    def _start_anew(self) -> None:
        self._timers = Timers(f"{self._name} clock")
        self._ledger = Ledger(on_empty=self._timers.look, circuit=self._circuit)
        self._lock = PumpLock(self._advance, self._ledger.deliver)
        self.starting = threading.RLock()  # see Call.begin
        self._queue: deque[Call] = deque()
        self._unsent: deque[Call] = deque()  # in the session, and not in a frame yet
        self._passed_on: deque[list[Outcome]] = deque()  # outcomes that the thread delivers
        self._notes: deque[tuple[Call, int, int]] = deque()  # of consumers; -1: wants no more
        self._expected = False  # somebody is yet to look into the queue: see `_put`
        self._beats = False  # the clock will see to what waits for a frame
        self._held_up = False  # something waited, since it did
        self._cut_short = False  # the session is in no good order: the connection ends
        self._session: ClientSession | None = None
        self._transport: Connection | None = None
        self._next_id = 1
        self._ends_streams = False
        self._dialer = Dialer(
            self._connect,
            name=self._name,
            reconnect_for=self._reconnect_for,
            retry_after_cap=self._retry_after_cap,
        )

    # -- in ----------------------------------------------------------------------------------

    def push(self, item: WorkItem, signed: SignedCall | None = None) -> None:
        """Queue an item, and send it if that can be done at once. Waits for nobody."""
        call = Call(self, item, self._timeout, signed)
        try:
            self._ledger.add(call)
            item.keeper = call
            if call.deadline is not None:
                self._timers.at(call.deadline, lambda: self._expire(call), call)
            if isinstance(item, StreamItem):
                item.expect(LineSource(call))
            if (
                signed
                or item.future._callbacks is not None
                or not (type(item) in PLAIN or is_quiet(item))
            ):
                self.recall()  # it ends on the transport's thread: see `Ledger.deliver_quietly`
            self._put(call)
        except BaseException as error:  # no thread can be started; or Ctrl-C, anywhere
            if self._ledger.take(call) is not None and not isinstance(error, Exception):
                _delivery.cancel(item)  # nobody gets its future, but who shuts down waits for it
            raise

    def _put(self, call: Call) -> None:
        self._queue.append(call)
        # With no room the next answer, or ack, moves the queue, or the clock, and else who was
        # nudged: `_advance` follows on each, and says that nobody is expected any more before it
        # looks for what has come.
        if self._expected:
            return
        session, transport = self._session, self._transport
        # A second frame is left to the transport's thread: whoever submits many calls has done so
        # by the time that it runs, and they go together.
        if session is not None and transport is not None and session.is_under_way():
            self._expected = True  # before he may come
            try:
                nudged = transport.nudge(self._turn, patient=True)
            except BaseException:  # Ctrl-C: the next ack, or answer, may be long in coming
                self._expected = False
                raise
            if not nudged:
                self._lock.wake()
        else:
            self._lock.wake()

    def _advance(self, outcomes: list[Outcome]) -> None:
        """Move calls from the queue into frames. With the lock held."""
        self._expected = False  # before the queue is looked into: see `_put`
        session, transport = self._session, self._transport
        if session is None or transport is None:
            self._shed()
            if self._queue:
                try:
                    self._dialer.start(self)
                except RuntimeError as error:
                    outcomes += [(call, None, copy_of(error)) for call in self._take_queue()]
            return
        if self._cut_short:
            return  # what follows from the end of the connection comes first
        now = time.monotonic()
        try:
            self._heed(session)
            if self._queue:
                self._fill(session, transport, outcomes, now)
            frames = session.frames_to_send(now)
            unsent = self._unsent
            if unsent and unsent[0].id < (waiting := session.first_waiting()):
                self._start(session, waiting)
            for frame in frames:
                transport.send(frame)
        except BaseException:
            # By Ctrl-C say: the session may wait for what is in no frame, or in one that was not
            # sent. What follows from the end of a connection sets that right.
            self._cut_short = True
            transport.close()
            raise
        if not (self._held_up and self._beats) and (self._queue or session.has_to_send()):
            when = session.opens_at(now)
            if when is not None:
                self._held_up = True
                if not self._beats:
                    self._beat_at(when)

    def _beat_at(self, when: float) -> None:
        """Have the clock see to what waits for a frame. With the lock held."""
        with suppress(RuntimeError):  # no thread can be started: an ack will do
            self._timers.at(when, self._beat, LINE)
            self._beats = True

    def _beat(self) -> None:
        """See to what waits for a frame; again and again where something does. On the clock."""
        self._lock.hold(self._beaten)

    def _beaten(self) -> None:
        self._beats, held_up, self._held_up = False, self._held_up, False
        if held_up:
            # Not when all of it goes at last, but now: to wake the clock costs more than a beat.
            self._beat_at(time.monotonic() + PACE)
        self._lock.mark()

    def _fill(
        self,
        session: ClientSession,
        transport: Connection,
        outcomes: list[Outcome],
        now: float,
    ) -> None:
        """Give the session what it has room for. With the lock held."""
        room = session.room(now)  # what would wait in the session waits in the queue as well
        queue = self._queue
        # Calls are looked at first, and leave the queue when they are in the session: see
        # `_advance`. By their numbers, since others add to its end meanwhile.
        while queue and room > 0:
            plain: list[PlainCall] = []
            seen, most = 0, min(len(queue), room)
            while seen < most and (call := queue[seen]).plain:
                item = call.item
                if item is not None and (
                    (item.future._state == PENDING and not call.withdrawn) or self._wanted(call)
                ):
                    plain.append((call.name, item.args, call))
                seen += 1
            if plain:
                room -= self._enter_all(session, plain, outcomes)
            elif not seen:
                call = queue[0]
                if (call.signed or call.deadline is not None) and not session.has_place():
                    room = 0  # how much time it has is written down, or signed, as it goes in
                    break
                seen = 1
                room -= self._enter_one(session, call, transport, outcomes)
            for _ in range(seen):
                queue.popleft()
        if room <= 0:
            self._expected = True

    def _start(self, session: ClientSession, waiting: int) -> None:
        """Mark as running what has gone into a frame. With the lock held.

        Calls go in the order of their ids, and `waiting` is the first that has not.
        """
        unsent, in_vain = self._unsent, []
        with self.starting:
            while unsent and unsent[0].id < waiting:
                call = unsent.popleft()
                # Gone from the session, but not into a frame, if somebody took it back.
                item = call.item
                if call.id and item is not None:
                    if call.running is None and type(item) in PLAIN:
                        future = item.future  # by hand what `Call.start` does
                        with future._lock:
                            if future._state == PENDING:
                                future._state = RUNNING
                                call.running = True
                        if not call.running:
                            call.start()
                    else:
                        call.start()
                    if not call.running:
                        in_vain.append(call)
        for call in in_vain:
            session.cancel(call.id)
            self._ledger.drop(call)
            self._lock.mark()

    def _shed(self) -> None:
        """Forget calls of the queue that nobody wants any more. With the lock held."""
        queue = self._queue
        if self._dialer.thread is None:
            while queue and not self._wanted(queue[0]):  # a call that is over needs no connection
                queue.popleft()
        elif len(queue) > 2 * len(self._ledger) + _SPARE:  # not each time: that would be quadratic
            queue.extendleft(reversed([each for each in self._take_queue() if self._wanted(each)]))

    def _take_queue(self) -> list[Call]:
        """Empty the queue. With the lock held.

        One by one: who pushes adds to its end without the lock, which ends a walk over it, and is
        forgotten by a `clear` behind one.
        """
        queue = self._queue
        return [queue.popleft() for _ in range(len(queue))]

    def _heed(self, session: ClientSession) -> None:
        """Tell the service what consumers have done. With the lock held."""
        while self._notes:
            call, items, size = self._notes.popleft()
            if items < 0:
                session.cancel(call.id)
            else:
                session.consumed(call.id, items, size)

    def _enter_all(
        self,
        session: ClientSession,
        batch: list[PlainCall],
        outcomes: list[Outcome],
    ) -> int:
        """Give plain calls to the session; return how many it took. With the lock held."""
        taken, went = 0, self._unsent.append
        for (_, _, call), identity in zip(batch, session.call_all(batch), strict=True):
            if isinstance(identity, Exception):
                outcomes.append((call, None, identity))
            else:
                call.id = identity
                went(call)
                taken += 1
        return taken

    def _enter_one(
        self,
        session: ClientSession,
        call: Call,
        transport: Connection,
        outcomes: list[Outcome],
    ) -> int:
        """Do the same for any other call."""
        item = call.item
        if item is None or not self._wanted(call):
            return 0
        try:
            call.id = self._enter(session, call, item, transport)
        except Exception as error:
            outcomes.append((call, None, error))
            return 0
        self._unsent.append(call)
        return 1

    def _enter(
        self, session: ClientSession, call: Call, item: WorkItem, transport: Connection
    ) -> int:
        """Give a call to the session, and return its id there. With the lock held."""
        left = None if call.deadline is None else max(0.0, call.deadline - time.monotonic())
        name, args, kwargs = call.name, arguments_of(item), item.kwargs or {}
        room = None
        if isinstance(item, StreamItem):
            room = item.channel.most, item.channel.most_bytes
        elif call.signed is not None:
            name, args, kwargs = call.signed.message(transport.answer.get(_BOOT))
        return session.call(
            name,
            args,
            kwargs,
            context=call,
            timeout=left,
            stream=room,
            seq=call.seq,
            key=item.key,
            variables=call.variables,
        )

    def _wanted(self, call: Call) -> bool:
        """Say whether a call of the queue is to be sent; if it was cancelled, tell who waits."""
        item = call.item
        if item is None or call.withdrawn:
            return False
        if item.future.cancelled():
            self._ledger.drop(call)
            return False
        return True

    def note(self, call: Call, items: int, size: int) -> None:
        """Tell the service that a consumer has taken items. Waits for nobody."""
        self._notes.append((call, items, size))
        self._lock.wake()

    # -- out ---------------------------------------------------------------------------------

    def _expire(self, call: Call) -> None:
        self._lock.hold(self._forget, call)
        self._ledger.deliver([(call, None, call.time_is_up())])

    def _forget(self, call: Call) -> None:
        if call.id and self._session is not None:
            self._session.cancel(call.id)
            self._lock.mark()

    # -- what the dialer and the transport tell ------------------------------------------------

    def make_session(self, *, own: bool, binary: bool) -> ClientSession:
        """Return the session of a new connection."""
        return ClientSession(
            own=own, binary=binary, first_id=self._next_id, max_bytes=self._max_bytes
        )

    def opened(self, session: ClientSession, transport: Connection) -> None:
        """Send over a new connection what waits for it."""
        self._lock.hold(self._opened, session, transport)
        if self._dialer.ending.is_set() and not self._ledger:
            transport.close()  # it was for a call that is over, and nobody else will

    def _opened(self, session: ClientSession, transport: Connection) -> None:
        self._session, self._transport, self._cut_short = session, transport, False
        self._dialer.over()
        self._lock.mark()

    def failed(self, problem: Exception) -> None:
        """Fail what waits for a connection: there will be none."""
        failed = self._lock.hold(self._failed)
        self._ledger.deliver([(call, None, in_vain(call, problem)) for call in failed])

    def _failed(self) -> list[Call]:
        calls = [each for each in self._take_queue() if self._wanted(each)]
        self._dialer.over()
        self._lock.mark()  # who has pushed since then was told that somebody dials
        return calls

    def _received(self, session: ClientSession, frame: bytes, outcomes: list[Outcome]) -> None:
        if self._session is not session:
            return
        events = session.receive(frame, outcomes)
        # While `_expected` is down, who puts a call into the queue sees to it himself: see `_put`.
        if self._expected or self._queue or session.has_to_send():
            self._lock.mark()
        for event in events:
            if isinstance(event, Items):
                outcomes.append((event.context, Portion(event.items, event.size), None))
            elif isinstance(event, Ended):
                outcomes.append((event.context, Ending(event.value), None))
            elif isinstance(event, Errored) and not self._waits_for_room(
                event.context, event.error
            ):
                outcomes.append((event.context, None, event.error))

    def _waits_for_room(self, call: Call, error: Exception) -> bool:
        """See to it that a call which the server had no room for is sent again in a while."""
        if not isinstance(error, RemoteBusy) or call.busy >= _MOST_BUSY:
            return False
        if self._dialer.ending.is_set():
            return False
        call.busy += 1
        call.id = 0
        pause = random.uniform(0, FIRST_PAUSE * 2**call.busy)  # noqa: S311 - no secret
        pause += min(error.retry_after or 0.0, self._retry_after_cap)
        try:
            self._timers.at(time.monotonic() + pause, lambda: self._put(call), call)
        except RuntimeError:  # no thread can be started for the clock
            return False
        return True

    def after_fork(self) -> None:
        """Forget the parent's calls and connection."""
        self._start_anew()
