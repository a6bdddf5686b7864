"""How a line ends: who is refused, cancelled and waited for. The other half of `_remote_line`.

Has no state of its own; `Line` says which thread may touch what, and why nothing can hang.
"""

from __future__ import annotations

import threading
from collections import deque
from typing import TYPE_CHECKING

from hybrid_compute import _exit
from hybrid_compute.executors import _delivery

if TYPE_CHECKING:
    from hybrid_compute.executors._remote_calls import Call, Timers
    from hybrid_compute.executors._remote_dialer import Dialer
    from hybrid_compute.executors._remote_ledger import Ledger
    from hybrid_compute.executors._remote_lock import PumpLock
    from hybrid_compute.protocol import ClientSession
    from hybrid_compute.transports.websocket import WebSocketTransport

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
    _transport: WebSocketTransport | None
    _dialer: Dialer

    def withdraw(self, call: Call) -> bool:
        """Take a call back if nothing of it was sent. Its future is cancelled then, or done."""
        if self._lock.held_here():
            return False
        if not self._lock.hold(self._withdraw, call):
            return False
        item = call.item
        if item is not None:
            # Once the future is cancelled, whoever wait()s for it has to be told.
            item.future.add_done_callback(lambda _: self._withdrawn(call))
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
        item = self._ledger.take(call)
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
        queued = len(self._queue) + len(self._unsent)
        return queued, max(0, len(self._ledger) - queued)

    def runs_here(self) -> bool:
        """Say whether the current thread is one of this line's, or delivers for it."""
        if self._ledger.delivers_here():
            return True
        me, transport = threading.current_thread(), self._transport
        return me in (
            self._dialer.thread,
            self._timers.thread,
            transport.thread if transport else None,
        )

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
        """End the streams that wait for their consumers."""
        raise NotImplementedError

    def join(self) -> None:
        """Block until all calls are over and the connection is closed."""
        if self.runs_here():
            return
        self.recall()
        self._ledger.wait()
        self._dialer.ending.set()
        dialer = self._dialer.thread
        if dialer is not None:
            dialer.join()
        transport = self._transport
        if transport is not None:
            transport.close()
            if transport.thread is not None:
                transport.thread.join()
        self._timers.look()
        if (clock := self._timers.thread) is not None:
            clock.join()
