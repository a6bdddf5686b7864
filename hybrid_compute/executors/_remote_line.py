"""Line: many calls over one WebSocket at a time, and what becomes of them when it is lost.

Owns the queue of one RemoteExecutor, the protocol session and the transport of the moment, and
when to connect::

    idle --first call--> dialing --open--> open --lost--> (calls left?) waiting --> dialing
                            `--failed: calls fail, or if it was open before, wait and try again

Threads: the caller's, the transport's own (which delivers outcomes), one that dials while there is
somebody to dial for, and the clock of `Timers`. One lock, `_lock`, guards everything but the
queue, a deque. Nobody waits for it in `push`: who cannot get it leaves the item in the queue, and
its holder looks there again after it has let go (`_dirty`), so no item is forgotten. It is
re-entrant, since a finalizer may submit in the middle: `_busy` tells, and the outer one goes on.
The transport's lock is taken inside of it, never the other way round: frames must go out in the
order in which the session made them. Outcomes are delivered with no lock held.
(These are more than 400 lines: all of it is one state under that one lock.)

Why nothing can hang: a call is in the queue, or in the session, or over. The queue empties when a
dial ends, well or not, and each does within `connect_timeout`; the session when the connection
ends, which the pings see to, or at the call's deadline.
"""

from __future__ import annotations

import random
import threading
import time
from collections import deque
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from hybrid_compute import _exit
from hybrid_compute.errors import (
    HybridComputeError,
    RemoteBusy,
    RemoteConnectionLost,
    RemoteUnavailable,
)
from hybrid_compute.executors._remote_calls import Call, Timers
from hybrid_compute.protocol import ClientSession
from hybrid_compute.protocol.outcomes import Answered, Errored, Greeted
from hybrid_compute.protocol.signing import BOOT_HEADER

if TYPE_CHECKING:
    from hybrid_compute.executors._remote_signed import SignedCall
    from hybrid_compute.items import WorkItem
    from hybrid_compute.transports.websocket import WebSocketTransport

__all__ = ["Line"]

_GOING_AWAY = (None, 1001, 1006, 1012, 1013)  # codes after which a service comes back
_FIRST_PAUSE, _LONGEST_PAUSE = 0.1, 5.0
_MOST_RESENT = 3
_MOST_BUSY = 4
_BOOT = BOOT_HEADER.lower()
Outcome = tuple[Call, Any, Exception | None]


class Line(_exit.Member):
    """The WebSocket half of a RemoteExecutor."""

    def __init__(
        self,
        connect: Callable[[], WebSocketTransport],
        *,
        name: str,
        max_bytes: int,
        timeout: float | None,
        reconnect_for: float,
        retry_after_cap: float,
    ) -> None:
        self._connect = connect
        self._name = name
        self._max_bytes = max_bytes
        self._timeout = timeout
        self._reconnect_for = reconnect_for
        self._retry_after_cap = retry_after_cap
        self._start_anew()
        _exit.register(self)

    def _start_anew(self) -> None:
        self._lock = threading.RLock()
        self._idle = threading.Condition(self._lock)
        self._queue: deque[Call] = deque()
        self._unsent: deque[Call] = deque()  # in the session, and not in a frame yet
        self._dirty = self._busy = False
        self._out = 0  # calls that are not over
        self._session: ClientSession | None = None
        self._transport: WebSocketTransport | None = None
        self._dialer: threading.Thread | None = None
        self._next_id = 1
        self._lost_at: float | None = None  # since when it was tried in vain to connect again
        self._refusal: Exception | None = None
        self._ending = threading.Event()
        self._timers = Timers(f"{self._name} clock")

    # -- in ----------------------------------------------------------------------------------

    def push(self, item: WorkItem, signed: SignedCall | None = None) -> None:
        """Queue an item, and send it if that can be done at once."""
        if self._refusal is not None:
            raise type(self._refusal)(*self._refusal.args)
        call = Call(self, item, self._timeout, signed)
        item.keeper = call
        with self._lock:
            self._out += 1
        if call.deadline is not None:
            self._timers.at(call.deadline, lambda: self._expire(call), call)
        self._put(call)

    def _put(self, call: Call) -> None:
        self._queue.append(call)
        self._dirty = True
        self._pump()

    def _pump(self) -> None:
        while self._dirty:
            if not self._lock.acquire(blocking=False):
                return  # who holds it looks again
            outcomes: list[Outcome] = []
            try:
                if self._busy:
                    return
                self._busy = True
                try:
                    self._advance(outcomes)
                finally:
                    self._busy = False
            finally:
                self._lock.release()
            self._deliver(outcomes)

    def _advance(self, outcomes: list[Outcome]) -> None:
        """Move calls from the queue into frames. With the lock held."""
        self._dirty = False
        session, transport = self._session, self._transport
        if session is None or transport is None:
            if self._queue and self._dialer is None:
                self._dialer = threading.Thread(
                    target=self._dial, name=f"{self._name} dials", daemon=True
                )
                self._dialer.start()
            self._drop_cancelled()
            return
        while self._queue:
            call = self._queue.popleft()
            item = call.item
            if item is None:
                continue
            if item.future.cancelled():
                self._drop(call)
                continue
            left = None if call.deadline is None else max(0.0, call.deadline - time.monotonic())
            try:
                name, args, kwargs = call.name, item.args, item.kwargs or {}
                if call.signed is not None:
                    name, args, kwargs = call.signed.message(transport.answer.get(_BOOT))
                call.id = session.call(name, args, kwargs, context=call, timeout=left)
            except Exception as error:
                outcomes.append((call, None, error))
            else:
                self._unsent.append(call)
        frames = session.frames_to_send()
        while self._unsent and not session.waits(self._unsent[0].id):
            call = self._unsent.popleft()
            # Gone from the session, but not into a frame, if somebody took it back.
            if call.id and call.item is not None and not call.begin():
                session.cancel(call.id)
                self._drop(call)
        for frame in frames:
            transport.send(frame)

    def _drop_cancelled(self) -> None:
        for call in [each for each in self._queue if _is_cancelled(each)]:
            self._queue.remove(call)
            self._drop(call)

    def _drop(self, call: Call) -> None:
        """Forget a call that was cancelled, and tell those who wait() for it."""
        item = self._take(call)
        if item is not None and not call.started:
            item.start()

    # -- out ---------------------------------------------------------------------------------

    def _take(self, call: Call) -> WorkItem | None:
        with self._lock:
            item, call.item = call.item, None
            if item is not None:
                item.keeper = None
                self._out -= 1
                if not self._out:
                    self._idle.notify_all()
                    self._timers.look()
        return item

    def _deliver(self, outcomes: list[Outcome]) -> None:
        for call, result, problem in outcomes:
            if not call.begin():
                self._take(call)
                continue
            item = self._take(call)
            if item is None:
                continue
            value: Any = result
            error: BaseException | None = problem
            if error is None and call.signed is not None:
                value, error = call.signed.settle(value)
            if error is None:
                item.succeed(value)
            else:
                item.fail(error)

    def withdraw(self, call: Call) -> bool:
        """Take a call back if nothing of it was sent."""
        with self._lock:
            item = call.item
            if self._busy or item is None or call.started:
                return False
            if call.id and self._session is not None and self._session.waits(call.id):
                self._session.cancel(call.id)
                call.id = 0
                self._queue.append(call)
        # Once the future is cancelled, whoever wait()s for it has to be told.
        item.future.add_done_callback(lambda _: self._look())
        return True

    def _look(self) -> None:
        self._dirty = True
        self._pump()

    def stop(self, call: Call) -> bool | None:
        """Tell a server of ours to stop a call; nobody else's would understand."""
        with self._lock:
            session = self._session
            if self._busy or session is None or not call.id or not session.own_peer:
                return False
            session.cancel(call.id)
        item = self._take(call)
        self._look()
        if item is None:
            return None
        item.end()
        return True

    def _expire(self, call: Call) -> None:
        with self._lock:
            if call.id and self._session is not None:
                self._session.cancel(call.id)
        self._deliver([(call, None, call.time_is_up())])
        self._look()

    # -- connections -------------------------------------------------------------------------

    def _dial(self) -> None:
        """Connect, now or after pauses that grow, or fail all that waits."""
        pause = _FIRST_PAUSE
        while True:
            problem: Exception
            if self._lost_at is not None and self._ending.wait(random.uniform(0, pause)):  # noqa: S311 - no secret
                problem = RemoteUnavailable(f"{self._name} is shut down; nothing was sent")
                break
            try:
                self._open()
            except RemoteBusy as error:
                problem = error
                pause = max(pause, min(error.retry_after or 0, self._retry_after_cap))
            except RemoteUnavailable as error:
                problem = error
            except Exception as error:  # no trust, no token, no WebSocket: waiting changes nothing
                problem = error
                break
            else:
                self._look()
                return
            now = time.monotonic()
            if self._lost_at is None or now - self._lost_at > self._reconnect_for:
                break
            pause = min(2 * pause, _LONGEST_PAUSE)
        with self._lock:
            calls = [*self._queue]
            self._queue.clear()
            self._lost_at = self._dialer = None
            self._idle.notify_all()
        self._deliver([(call, None, _copy(problem)) for call in calls])
        self._look()

    def _open(self) -> None:
        transport = self._connect()
        session: list[ClientSession] = []
        ready = threading.Event()  # frames may come before there is a session for them

        def on_frame(frame: bytes) -> None:
            ready.wait()
            self._receive(session[0], transport, frame)

        def on_lost(why: Exception) -> None:
            ready.wait()
            self._lost(transport, why)

        transport.open(on_frame, on_lost)
        with self._lock:
            session.append(
                ClientSession(
                    own=transport.own,
                    binary=transport.binary,
                    first_id=self._next_id,
                    max_bytes=self._max_bytes,
                )
            )
            self._session, self._transport = session[0], transport
            self._lost_at = self._dialer = None
            self._dirty = True
        ready.set()

    def _receive(self, session: ClientSession, transport: WebSocketTransport, frame: bytes) -> None:
        outcomes: list[Outcome] = []
        with self._lock:
            if self._session is not session:
                return
            self._busy = True
            try:
                events = session.receive(frame)
            finally:
                self._busy = False
            self._dirty = True
            for event in events:
                if isinstance(event, Answered):
                    outcomes.append((event.context, event.value, None))
                elif isinstance(event, Errored):
                    if not self._waits_for_room(event.context, event.error):
                        outcomes.append((event.context, None, event.error))
                elif isinstance(event, Greeted):
                    self._dirty = True
        self._pump()  # frames first: the server can go on while callbacks run
        self._deliver(outcomes)

    def _waits_for_room(self, call: Call, error: Exception) -> bool:
        """See to it that a call which the server had no room for is sent again in a while."""
        if not isinstance(error, RemoteBusy) or call.busy >= _MOST_BUSY or self._ending.is_set():
            return False
        call.busy += 1
        call.id = 0
        pause = random.uniform(0, _FIRST_PAUSE * 2**call.busy)  # noqa: S311 - no secret
        pause += min(error.retry_after or 0.0, self._retry_after_cap)
        self._timers.at(time.monotonic() + pause, lambda: self._put(call), call)
        return True

    def _lost(self, transport: WebSocketTransport, why: Exception) -> None:
        """Settle what was under way. Called by the transport, last, on its thread."""
        with self._lock:
            session = self._session
            if session is None or self._transport is not transport:
                return
            self._next_id = session.next_id
            lost = session.lost(str(why))
            self._session = self._transport = None
            self._unsent.clear()
            again: list[Call] = []
            outcomes: list[Outcome] = []
            for each in lost:
                call: Call = each.context
                call.id = 0
                if call.item is None:
                    continue
                if self._may_go_again(call, why, may_have_run=each.may_have_run):
                    call.resent += 1
                    again.append(call)
                elif isinstance(why, RemoteConnectionLost):
                    error = each.error(str(why))
                    outcomes.append((call, None, error))
                else:
                    outcomes.append((call, None, _copy(why)))
            self._queue.extendleft(reversed(again))
            self._lost_at = time.monotonic() if self._queue else None
            self._idle.notify_all()
        self._deliver(outcomes)
        self._look()

    def _may_go_again(self, call: Call, why: Exception, *, may_have_run: bool) -> bool:
        if not isinstance(why, RemoteConnectionLost) or call.resent >= _MOST_RESENT:
            return False
        if not may_have_run:
            return True
        idempotent = call.item is not None and call.item.options.idempotent
        return bool(idempotent) and getattr(why, "code", None) in _GOING_AWAY

    # -- end ---------------------------------------------------------------------------------

    def counts(self) -> tuple[int, int]:
        """Return how many calls wait here, and how many were sent."""
        with self._lock:
            queued = len(self._queue) + len(self._unsent)
            return queued, max(0, self._out - queued)

    def runs_here(self) -> bool:
        """Say whether the current thread is one of this line's."""
        me, transport = threading.current_thread(), self._transport
        mine = (self._dialer, self._timers.thread, transport.thread if transport else None)
        return me in mine

    def refuse(self, refusal: Exception) -> None:
        """Accept no more items."""
        with self._lock:
            if self._refusal is None:
                self._refusal = refusal

    def close(self, refusal: Exception) -> None:
        """Refuse new items; what was accepted is finished, and then the connection closed."""
        self.refuse(refusal)
        with self._lock:
            idle, transport = not self._out, self._transport
        if idle:
            self._ending.set()
            if transport is not None:
                transport.close()
        else:
            watcher = threading.Thread(target=self.join, name=f"{self._name} ends", daemon=True)
            watcher.start()

    def cancel_all(self) -> None:
        """Cancel what was not sent, and do not wait for connections any more."""
        self._ending.set()
        with self._lock:
            calls = [*self._queue, *self._unsent]
        for call in calls:
            item = call.item
            if item is not None:
                item.cancel() if not call.started else None
        self._look()

    def close_at_exit(self) -> None:
        """Refuse new items."""
        self.close(RuntimeError("cannot schedule new futures after interpreter shutdown"))

    def join(self) -> None:
        """Block until all calls are over and the connection is closed."""
        if self.runs_here():
            return
        with self._lock:
            while self._out:
                self._idle.wait()
            transport, dialer = self._transport, self._dialer
        self._ending.set()
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

    def after_fork(self) -> None:
        """Forget the parent's calls and connection."""
        self._start_anew()


def _is_cancelled(call: Call) -> bool:
    item = call.item
    return item is not None and item.future.cancelled()


def _copy(error: Exception) -> Exception:
    """Return an error for one more call: two threads may not raise the same one."""
    if not isinstance(error, HybridComputeError):
        return RemoteUnavailable(f"no connection: {error!r}; nothing was sent")
    make, args = error.__reduce__()[:2]
    copy: Exception = make(*args)
    copy.__cause__ = error.__cause__
    return copy
