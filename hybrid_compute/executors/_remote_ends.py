"""How a line ends: who is refused, cancelled and waited for. The second part of `_remote_line`.

Has no state of its own; `Line` says which thread may touch what, and why nothing can hang.
"""

from __future__ import annotations

import threading
import time
from collections import deque
from typing import TYPE_CHECKING

from hybrid_compute import _exit
from hybrid_compute.errors import RemoteConnectionLost, StreamError
from hybrid_compute.executors import _delivery
from hybrid_compute.executors._remote_calls import copy_of, may_go_again
from hybrid_compute.protocol.outcomes import LostCall

if TYPE_CHECKING:
    from hybrid_compute.executors._remote_calls import Call, Timers
    from hybrid_compute.executors._remote_dialer import Dialer
    from hybrid_compute.executors._remote_ledger import Ledger, Outcome
    from hybrid_compute.executors._remote_lock import PumpLock
    from hybrid_compute.protocol import ClientSession
    from hybrid_compute.transports._adapted import Connection

__all__ = ["LineEnds"]


class LineEnds(_exit.Member):
    """What a line does when its executor is shut down, or dropped."""

    _name: str
    _timers: Timers
    _ledger: Ledger
    _lock: PumpLock
    _queue: deque[Call]
    _unsent: deque[Call]
    _session: ClientSession | None
    _transport: Connection | None
    _dialer: Dialer
    _ends_streams: bool
    _cut_short: bool
    _next_id: int

    def note(self, call: Call, items: int, size: int) -> None:
        """Tell the service that a consumer has taken items."""
        raise NotImplementedError

    def _heed(self, session: ClientSession) -> None:
        raise NotImplementedError

    def _take_queue(self) -> list[Call]:
        raise NotImplementedError

    def withdraw(self, call: Call) -> bool:
        """Take a call back if nothing of it was sent. Its future is cancelled then, or done."""
        if self._lock.held_here():
            return False
        if not self._lock.hold(self._withdraw, call):
            return False
        if (item := call.item) is not None:
            # Once it is cancelled, whoever wait()s for it has to be told: first, for a program's
            # callback may raise SystemExit, and those behind it are not called.
            with item.future._lock:
                if not (done := item.future.done()):
                    item.future._done_callbacks.insert(0, lambda _: self._withdrawn(call))
            if done:
                self._withdrawn(call)
        return True

    def _withdraw(self, call: Call) -> bool:
        if call.item is None or call.running is not None or call.busy:
            return False
        if call.id and self._session is not None:
            if not self._session.waits(call.id):
                return False
            self._session.cancel(call.id)
            call.id = 0
        call.withdrawn = True
        return True

    def _withdrawn(self, call: Call) -> None:
        self._ledger.drop(call)
        self._lock.wake()  # it may be in the queue still

    def stop(self, call: Call) -> bool | None:
        """Tell a server of ours to stop a call; nobody else's would understand."""
        if self._lock.held_here() or not self._lock.hold(self._stop, call):
            return False
        item = self._ledger.withdraw(call)
        if item is None:
            return None
        item.end()
        return True

    def _stop(self, call: Call) -> bool:
        session = self._session
        if session is None or not call.id or not session.own_peer or call.running is None:
            return False
        session.cancel(call.id)
        self._lock.mark()
        return True

    def counts(self) -> tuple[int, int]:
        """Return how many calls wait here, and how many were sent."""
        live = len(self._ledger)
        queued = min(live, len(self._queue) + len(self._unsent))  # some may be over
        return queued, live - queued

    def runs_here(self) -> bool:
        """Say whether the current thread is one of this line's, or delivers for it."""
        if self._ledger.delivers_here():
            return True
        transport = self._transport
        if transport is not None and transport.reads_here():
            return True
        return threading.current_thread() in (self._dialer.thread, self._timers.thread)

    def refuse(self, refusal: Exception) -> None:
        """Accept no more items."""
        self._ledger.refuse(refusal)

    def close(self, refusal: Exception) -> None:
        """Refuse new items; what was accepted is finished, and then the connection closed.

        Takes no lock of the line's: a finalizer may call it in the middle of anything.
        """
        self.refuse(refusal)
        if self._ledger:
            watcher = threading.Thread(target=self.join, name=f"{self._name} ends", daemon=True)
            watcher.start()
            return
        self._dialer.ending.set()
        transport = self._transport
        if transport is not None:
            transport.close()

    def cancel_all(self) -> None:
        """Cancel what was not sent, and do not wait for connections any more."""
        self._dialer.ending.set()
        calls = self._lock.hold(lambda: [*self._queue, *self._unsent])
        for call in calls:
            item = call.item
            if item is not None and call.running is None:
                _delivery.cancel(item)

    def close_at_exit(self) -> None:
        """Refuse new items."""
        self.end_streams()
        self.close(RuntimeError("cannot schedule new futures after interpreter shutdown"))

    def recall(self) -> None:
        """Have the transport's thread read."""
        raise NotImplementedError

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

    def dialing(self) -> threading.Thread | None:
        """Return the thread that dials. Waits for who is about to start or to end it."""
        return self._lock.hold(lambda: self._dialer.thread)

    def join(self) -> None:
        """Block until all calls are over and the connection is closed."""
        if self.runs_here():
            return
        self.recall()
        self._ledger.wait()
        self._dialer.ending.set()
        dialer = self.dialing()
        if dialer is not None:
            dialer.join()
        transport = self._transport
        if transport is not None:
            transport.close()
            transport.join()
        self._timers.look()
        if (clock := self._timers.thread) is not None:
            clock.join()

    def _lost(self, transport: Connection, why: Exception) -> list[Outcome]:
        session = self._session
        if session is None or self._transport is not transport:
            return []
        self._next_id, cut_short = session.next_id, self._cut_short
        lost = session.lost(str(why))
        self._session = self._transport = None
        self._cut_short = False
        self._unsent.clear()
        entered: set[Call] = set()
        if cut_short:
            entered.update(each.context for each in lost)
            # Those to whom an answer had come that nobody has.
            lost += [
                LostCall(call.id, call, True, call.seq)
                for call in self._ledger
                if call.id and call not in entered
            ]
        again: list[Call] = []
        outcomes: list[Outcome] = []
        for each in lost:
            call: Call = each.context
            call.lose(each)
            if call.item is None:
                continue
            if may_go_again(call, why, may_have_run=each.may_have_run):
                call.resent += 1
                again.append(call)
            elif isinstance(why, RemoteConnectionLost):
                outcomes.append((call, None, each.error(str(why))))
            else:
                outcomes.append((call, None, copy_of(why)))
        if cut_short:  # what was in the session may be in the queue still
            again += [each for each in self._take_queue() if each not in entered]
        self._queue.extendleft(reversed(again))
        self._dialer.lost_at = time.monotonic() if self._queue else None
        self._lock.mark()
        return outcomes
