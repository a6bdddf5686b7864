"""Turns: on which thread a line takes frames, and delivers what they bring.

The third part of `_remote_line`; has no state of its own. Frames are taken by the transport's
thread, or by a caller who waits for a result and reads in its place (see `transports._turns`). All
that may run a user's code is delivered on the transport's thread, whoever took it: a caller who
waits may hold a lock that a callback wants. It waits in `_passed_on` for that, in its order.
"""

from __future__ import annotations

from collections import deque
from typing import TYPE_CHECKING

from hybrid_compute.errors import StreamError
from hybrid_compute.executors._remote_streams import Portion
from hybrid_compute.items import WorkItem

if TYPE_CHECKING:
    from hybrid_compute.executors._remote_calls import Call
    from hybrid_compute.executors._remote_ledger import Ledger, Outcome
    from hybrid_compute.executors._remote_lock import PumpLock
    from hybrid_compute.protocol import ClientSession
    from hybrid_compute.transports.websocket import WebSocketTransport

__all__ = ["LineTurns"]


class LineTurns:
    """Who does what, when a frame comes."""

    _ledger: Ledger
    _lock: PumpLock
    _session: ClientSession | None
    _queue: deque[Call]
    _passed_on: deque[list[Outcome]]
    _transport: WebSocketTransport | None
    _ends_streams: bool

    def received(self, session: ClientSession, transport: WebSocketTransport, frame: bytes) -> None:
        """Take a frame. Called by the transport, on its thread."""
        # What is to be sent then goes first: the server can go on while callbacks run.
        outcomes = self._lock.hold(self._received, session, frame)
        if transport.reads_here():
            self._passed_on.append(outcomes)  # behind what was left to it
            self._deliver_all()
        elif outcomes and (others := self._ledger.deliver_quietly(outcomes)):
            self._passed_on.append(others)
            if not transport.nudge(self._turn):
                self._deliver_all()

    def _deliver_all(self) -> None:
        """Deliver what has come, in its order. On the transport's thread, or after its end."""
        while True:
            try:
                outcomes = self._passed_on.popleft()
            except IndexError:
                return
            self._ledger.deliver(outcomes)
            if self._ends_streams:
                calls = [each[0] for each in outcomes if type(each[1]) is Portion]
                self._fail_full(self._lock.hold(self._full, calls))

    def _turn(self) -> None:
        """Do what somebody else has left to the transport's thread."""
        self._deliver_all()
        self._lock.wake()

    def attend(self, call: Call, timeout: float | None) -> None:
        """Read the connection until a call is over, if that is to be; see `transports._turns`."""
        transport = self._transport
        if transport is None or self._ends_streams or self._lock.held_here():
            return
        if type(call.item) is not WorkItem or call.signed is not None:
            return  # the transport's thread would have to deliver it all the same
        if self._queue:
            self._lock.wake()
        call.awaited = True  # before it is looked at: see `Ledger.take`
        transport.attend(call.is_out_of_hand, timeout)

    def ring(self) -> None:
        """Have who attends look whether his call is over."""
        if (transport := self._transport) is not None:
            transport.ring()

    def recall(self) -> None:
        """Have the transport's thread read. Takes no lock."""
        if (transport := self._transport) is not None:
            transport.recall()

    def end_streams(self) -> None:
        """End the streams that wait for their consumers, now and from now on."""
        self._ends_streams = True
        self._fail_full(self._lock.hold(self._full, [*self._ledger]))

    def _full(self, calls: list[Call]) -> list[Call]:
        session = self._session
        if session is None:
            return []
        self._heed(session)
        return [each for each in calls if each.id and session.is_full(each.id)]

    def _fail_full(self, calls: list[Call]) -> None:
        for call in calls:
            error = StreamError(
                f"the executor of {call.name!r} was shut down while the stream waited to be read; "
                "read it before that"
            )
            self._ledger.deliver([(call, None, error)])
            self.note(call, -1, 0)

    def abandon(self, call: Call) -> None:
        """Tell the service that nobody wants the rest of a stream. Waits for nobody."""
        item = self._ledger.take(call)
        if item is not None:
            item.end()
        self.note(call, -1, 0)

    def note(self, call: Call, items: int, size: int) -> None:
        """Leave a note for the session. Waits for nobody."""
        raise NotImplementedError

    def _heed(self, session: ClientSession) -> None:
        raise NotImplementedError

    def _received(self, session: ClientSession, frame: bytes) -> list[Outcome]:
        raise NotImplementedError
