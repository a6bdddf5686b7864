"""Turns: on which thread a line takes frames, and delivers what they bring.

The third part of `_remote_line`; has no state of its own. Frames are taken by the transport's
thread, or by a caller who waits for a result and reads in its place (see `transports._turns`). All
that may run a user's code is delivered on the transport's thread, whoever took it: a caller who
waits may hold a lock that a callback wants. It waits in `_passed_on` for that, in its order.
"""

from __future__ import annotations

from collections import deque
from typing import TYPE_CHECKING

from hybrid_compute.executors._remote_ends import LineEnds
from hybrid_compute.executors._remote_streams import Portion
from hybrid_compute.supervised import is_quiet

if TYPE_CHECKING:
    from hybrid_compute.executors._remote_calls import Call
    from hybrid_compute.executors._remote_ledger import Outcome
    from hybrid_compute.protocol import ClientSession
    from hybrid_compute.transports._adapted import Connection

__all__ = ["LineTurns"]


class LineTurns(LineEnds):
    """Who does what, when a frame comes."""

    _passed_on: deque[list[Outcome]]

    def received(self, session: ClientSession, transport: Connection, frame: bytes) -> None:
        """Take a frame. Called by the transport, on its thread."""
        # What is to be sent then goes first: the server can go on while callbacks run.
        outcomes: list[Outcome] = []
        if transport.reads_here():
            self._lock.hold(self._received, session, frame, outcomes)
            self._passed_on.append(outcomes)  # behind what was left to it
            self._deliver_all()
            return
        try:
            self._lock.hold(self._received, session, frame, outcomes)
            others = self._ledger.deliver_quietly(outcomes)
        except BaseException:
            # Ctrl-C. The connection ends: what of this frame is known to nobody, `_lost` finds.
            self._cut_short = True
            self._passed_on.append(outcomes)
            raise
        if others:
            self._passed_on.append(others)
            if not transport.nudge(self._turn):
                self._deliver_all()

    def lost(self, transport: Connection, why: Exception) -> None:
        """Settle what was under way. Called by the transport, last, on its thread."""
        self._passed_on.append(self._lock.hold(self._lost, transport, why))
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
        if call.signed is not None or not is_quiet(call.item):
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

    def abandon(self, call: Call) -> None:
        """Tell the service that nobody wants the rest of a stream. Waits for nobody."""
        item = self._ledger.withdraw(call)
        if item is not None:
            item.end()
        self.note(call, -1, 0)

    def _received(self, session: ClientSession, frame: bytes, outcomes: list[Outcome]) -> None:
        raise NotImplementedError
