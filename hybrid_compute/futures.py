"""HybridFuture: a `concurrent.futures.Future` that pays for waiting only when somebody waits.

The stdlib's future makes a Condition and two lists when it is constructed: 1,600 bytes and most
of the time that a thread pool spends on a small task. This one makes them when they are first
asked for, behind the stdlib's own attribute names, so that `wait`, `as_completed` and
`asyncio.wrap_future` find what they expect. (A few lines over 400: all that a future is to those
who wait, to those who work and to the stdlib is better seen in one place.)

Threads and locks: `_lock` guards the state, the result and the three things made late. It is
the lock of the Condition too, once there is one, so whoever holds `_condition` holds it: a
waiter that found the state unfinished has its Condition in place before the finisher can look
for one, and no wake-up is lost, with the GIL or without. It is re-entrant, as the stdlib's is: a
signal handler may land in the middle. Callbacks run with no lock held.
"""

from __future__ import annotations

import _thread
import threading
import time
from collections.abc import Callable, Generator, Iterator
from concurrent.futures import CancelledError, Future, InvalidStateError
from concurrent.futures._base import (
    _STATE_TO_DESCRIPTION_MAP,
    CANCELLED,
    CANCELLED_AND_NOTIFIED,
    FINISHED,
    LOGGER,
    PENDING,
    RUNNING,
)
from types import GeneratorType
from typing import TYPE_CHECKING, Any, TypeVar, overload

from hybrid_compute._seats import Seat, Wait, Waiters, here
from hybrid_compute._unretrieved import Unretrieved

if TYPE_CHECKING:
    from hybrid_compute.decisions import Choice, Decision, Explanation
    from hybrid_compute.items import Keeper, WorkItem
    from hybrid_compute.streams import Stream

__all__ = ["HybridFuture"]

T = TypeVar("T")
X = TypeVar("X")

# The C lock at once: threading.RLock() is a Python function around it and costs twice as much.
_RLock = getattr(_thread, "RLock", threading.RLock)


class HybridFuture(Future[T]):
    """The outcome of one submitted work item; everything a stdlib Future is.

    Made by executors. Its work item is referenced only until the outcome is known, so that
    neither the function nor its arguments are kept alive by a future that is done.
    """

    _pool: Any = None  # that of the thread which made a generator, if that is the result
    # Before the end: whether its failure is logged if nobody looks at it (None: if it is a declared
    # task's). After a failure an Unretrieved, until somebody has looked.
    _unretrieved: Unretrieved | bool | None = None
    _unwanted = False  # somebody wanted it to end while it ran
    _awaited = False  # a thread that has a seat has waited for it
    _waits: Wait | None = None  # what the thread that runs its item waits for

    __slots__ = (
        "_callbacks",
        "_decision",
        "_exception",
        "_item",
        "_lock",
        "_made_condition",
        "_made_waiters",
        "_result",
        "_state",
    )

    def __init__(self, item: WorkItem | None = None) -> None:
        # Does not call Future.__init__: this is the whole point.
        self._state = PENDING
        self._result = None
        self._exception = None
        self._lock = _RLock()
        self._made_condition: threading.Condition | None = None
        self._made_waiters: list[Any] | None = None
        self._callbacks: list[Callable[[Future[T]], object]] | None = None
        self._item = item
        self._decision: Decision | Choice | str | None = None

    # What the stdlib's wait() and as_completed(), and other people's code, reach for.

    def _get_condition(self) -> threading.Condition:
        with self._lock:
            if self._made_condition is None:
                made = threading.Condition(self._lock)
                if self._made_condition is None:  # a signal handler may have come between
                    self._made_condition = made
            return self._made_condition

    def _get_waiters(self) -> list[Any]:
        if (keeper := self._keeper()) is not None:
            keeper.watched()
        with self._lock:
            if self._made_waiters is None:
                self._made_waiters = []
            seat = here.seat
            if seat is not None:
                return Waiters(self, self._made_waiters, seat)  # type: ignore[return-value]  # ours
            return self._made_waiters

    if not TYPE_CHECKING:  # to a checker they are the stdlib's attributes
        _condition = property(_get_condition)
        _waiters = property(_get_waiters)

    @property
    def _done_callbacks(self) -> list[Any]:
        with self._lock:
            if self._callbacks is None:
                self._callbacks = []
            return self._callbacks

    def _keeper(self) -> Keeper | None:
        item = self._item
        return None if item is None else item.keeper

    # For whoever waits.

    def done(self) -> bool:
        """Return True if the work is finished or cancelled. Never blocks."""
        return self._state in (FINISHED, CANCELLED, CANCELLED_AND_NOTIFIED)

    def cancelled(self) -> bool:
        """Return True if the work was cancelled. Never blocks."""
        return self._state in (CANCELLED, CANCELLED_AND_NOTIFIED)

    def result(self, timeout: float | None = None) -> T:
        """Return the result of the work; block until there is one.

        Args:
            timeout: seconds to wait; None waits for ever.

        Raises:
            TimeoutError: there was no result in time; the work goes on.
            CancelledError: the work was cancelled.
            BaseException: whatever the work raised.
        """
        try:
            if self._state != FINISHED:
                self._wait(timeout)
            if self._exception is not None:
                self._retrieved()
                raise self._exception
            return self._result  # type: ignore[return-value]  # set_result put a T there
        finally:
            self = None  # type: ignore[assignment]  # the traceback must not hold the future

    def exception(self, timeout: float | None = None) -> BaseException | None:
        """Return what the work raised, or None if it has returned; block until it is known.

        Args:
            timeout: seconds to wait; None waits for ever.

        Raises:
            TimeoutError: it was not known in time; the work goes on.
            CancelledError: the work was cancelled.
        """
        if self._state != FINISHED:
            self._wait(timeout)
        if self._exception is not None:
            self._retrieved()
        return self._exception

    def _retrieved(self) -> None:
        watch, self._unretrieved = self._unretrieved, None
        if isinstance(watch, Unretrieved):
            watch.error = None

    def _watch(self, item: WorkItem, error: BaseException) -> Unretrieved | None:
        """Return what logs a failure if nobody looks at it; None: that is not wanted.

        With no lock held: a callable may have code that is run when it is asked for its name.
        """
        wanted = self._unretrieved
        if item.declared if wanted is None else wanted:
            return Unretrieved(item.name, error)
        return None

    def _wait(self, timeout: float | None) -> None:
        seat = here.seat
        if (
            seat is None
            or (timeout is not None and timeout <= 0)
            or not seat.begin(Wait((self,), timed=timeout is not None))
        ):
            self._wait_here(timeout)
        else:
            self._wait_in(seat, timeout)

    def _wait_in(self, seat: Seat, timeout: float | None) -> None:
        """Wait on a thread whose pool has to know that it does; see `_seats`."""
        try:
            with self._condition:
                if not self.done():
                    if self._made_waiters is None:
                        self._made_waiters = []
                    self._made_waiters.append(seat)
            self._wait_here(timeout)
        finally:
            with self._lock:
                if self._made_waiters is not None and seat in self._made_waiters:
                    self._made_waiters.remove(seat)
            seat.end()

    def _held_up_by(self) -> tuple[Wait, ...]:
        """Return what its work waits for; () if it goes on by itself. For `_seats`."""
        waits, item = self._waits, self._item
        if waits is None or waits.timed or item is None or item.deadline is not None or self.done():
            return ()
        return (waits,)

    def _urge(self, queued: dict[Any, set[Any]]) -> None:
        """Note that a thread of a pool waits for it; add its item to its keeper's. For `_seats`."""
        self._awaited = True
        item = self._item
        keeper = None if item is None else item.keeper
        if keeper is not None:
            queued.setdefault(keeper, set()).add(item)

    def _wait_here(self, timeout: float | None) -> None:
        keeper = self._keeper()
        if keeper is not None and (timeout is None or timeout > 0):
            end = None if timeout is None else time.monotonic() + timeout
            keeper.attend(timeout)
            if self._state == FINISHED:
                return
            if end is not None:
                timeout = max(0.0, end - time.monotonic())
        keeper = None  # what is raised here must not hold it
        condition = self._condition
        with condition:
            if not self.done():
                condition.wait(timeout)
            if self._state == FINISHED:
                return
            if self.done():
                raise CancelledError
            raise TimeoutError

    def cancel(self) -> bool:
        """Cancel the work if it has not started; return whether it is cancelled.

        Does not block, but for callbacks, which run on this thread. Work that runs is left alone,
        as in the stdlib.
        """
        with self._lock:
            if self._state in (RUNNING, FINISHED):
                return False
            if self._state != PENDING:
                return True
            item = self._item
        keeper = item.keeper if item is not None else None  # read once: it may go any time
        if keeper is not None and not keeper.withdraw(item):  # type: ignore[arg-type]  # as above
            return False  # a foreign executor holds the work and has started it
        with self._lock:
            if self._state in (RUNNING, FINISHED):
                return False
            if self._state != PENDING:
                return True
            self._state = CANCELLED
            item, self._item = self._item, None  # it may be another one by now: see DirectItem
            if self._made_condition is not None:
                self._made_condition.notify_all()
        if item is not None:
            item.release()
        self._invoke_callbacks()
        return True

    def cancel_running(self) -> bool:
        """Cancel the work even if it runs; return whether it is cancelled.

        Work in a process is ended: its worker gets SIGTERM, and SIGKILL after a grace period
        (`ProcessExecutor(kill_grace=...)`), with all its child processes. True means that it
        ran no further and that the process is gone; `result()` raises CancelledError then.
        False means that the work had finished, or that nothing can stop it: a thread cannot be
        ended, and neither can what somebody else's executor runs. Work on a thread is told, by
        `current().cancelled()`, and may return early.

        Blocks until that is known: for as long as the work takes to end, the grace period
        included. It may be called from any thread, and from a done-callback.
        """
        keeper = None
        while not self.cancel():
            item = self._item
            if item is None or item.keeper is None or item.keeper is keeper:
                break
            keeper = item.keeper
            if keeper.stop(item) is not None:
                break
        if not self.done():
            self._unwanted = True
        return self.cancelled()

    def explain(self) -> Explanation:
        """Return where the work went and why, as far as it has got; `str()` of it is for people.

        Never blocks; any thread. Work that was given to one executor by itself, not to a
        HybridExecutor, had no choice.
        """
        from hybrid_compute.decisions import explain  # noqa: PLC0415 - few ask

        return explain(self._decision)

    def add_done_callback(self, fn: Callable[[Future[T]], object]) -> None:
        """Call `fn(self)` once the future is done: on the worker's thread, or here if it is."""
        with self._lock:
            if not self.done():
                if self._callbacks is None:
                    self._callbacks = [fn]
                else:
                    self._callbacks.append(fn)
                keeper = self._keeper()
                if keeper is not None:
                    keeper.watched()
                return
        try:
            fn(self)
        except Exception:
            LOGGER.exception("exception calling callback for %r", self)

    def _invoke_callbacks(self) -> None:
        callbacks = self._callbacks
        if callbacks is None:
            return
        for callback in callbacks:
            try:
                callback(self)
            except Exception:
                LOGGER.exception("exception calling callback for %r", self)

    @overload
    def __iter__(self: HybridFuture[Stream[X]]) -> Iterator[X]: ...
    @overload
    def __iter__(self: HybridFuture[Generator[X, Any, Any]]) -> Iterator[X]: ...
    @overload
    def __iter__(self: HybridFuture[Iterator[X]]) -> Iterator[X]: ...
    def __iter__(self) -> Iterator[Any]:
        """Iterate over the items of a stream as they are produced; waits for its start.

        Short for `for item in future.result()`, and the stream is closed when the loop is left.
        A generator, which is what a plain generator function gives, is run by the executor's
        threads meanwhile, ahead of the consumer.

        Raises:
            TypeError: the result is neither a stream nor a generator.
        """
        result: Any = self.result()
        if isinstance(result, GeneratorType):
            pool, self._pool = self._pool, None
            result = result if pool is None else pool.iterate(result)
        elif not hasattr(result, "__next__"):
            raise TypeError(
                f"the result, of type {type(result).__name__}, is no stream: only the future of a "
                "generator function can be iterated over"
            )
        try:
            yield from result
        finally:
            close = getattr(result, "close", None)
            if close is not None:
                close()

    # For executors.

    def set_running_or_notify_cancel(self) -> bool:
        """Mark the work as started; return False if it was cancelled and must not run."""
        with self._lock:
            if self._state == PENDING:
                self._state = RUNNING
                return True
            if self._state == CANCELLED:
                self._state = CANCELLED_AND_NOTIFIED
                for waiter in self._made_waiters or ():
                    waiter.add_cancelled(self)
                # No notify: cancel() did, for those who wait on the condition.
                return False
            LOGGER.critical("Future %s in unexpected state: %s", id(self), self._state)
            raise RuntimeError("Future in unexpected state")

    def _begin(self) -> bool:
        """Like `set_running_or_notify_cancel`; False too if the work's time was up before."""
        with self._lock:
            return self._state != FINISHED and self.set_running_or_notify_cancel()

    def _end(self) -> None:
        """Finish as cancelled, though it ran; wake the waiters and run the callbacks."""
        with self._lock:
            if self._state not in (PENDING, RUNNING):
                raise InvalidStateError(f"{self._state}: {self!r}")
            self._state = CANCELLED_AND_NOTIFIED
            self._item = None
            for waiter in self._made_waiters or ():
                waiter.add_cancelled(self)
            if self._made_condition is not None:
                self._made_condition.notify_all()
        self._invoke_callbacks()

    def set_result(self, result: T) -> None:
        """Finish with a result, wake the waiters and run the callbacks; call it once."""
        with self._lock:
            if self._state not in (PENDING, RUNNING):
                raise InvalidStateError(f"{self._state}: {self!r}")
            self._result = result
            self._state = FINISHED
            self._item = None
            if self._made_condition is not None:
                self._wake(self._made_condition)
        if self._callbacks is not None:
            self._invoke_callbacks()

    def set_exception(self, exception: BaseException | None) -> None:
        """Finish with an exception, wake the waiters and run the callbacks; call it once."""
        item, watch = self._item, None
        if item is not None and exception is not None:
            watch = self._watch(item, exception)
        item = None  # the traceback of an error raised here must not hold it
        with self._lock:
            if self._state not in (PENDING, RUNNING):
                if watch is not None:
                    watch.error = None  # it is not this future's failure
                raise InvalidStateError(f"{self._state}: {self!r}")
            self._exception = exception
            if watch is not None:
                self._unretrieved = watch  # before anybody can look
            self._state = FINISHED
            self._item = None
            if self._made_condition is not None:
                self._wake(self._made_condition)
        if self._callbacks is not None:
            self._invoke_callbacks()

    def _wake(self, condition: threading.Condition) -> None:
        for waiter in self._made_waiters or ():
            if self._exception is None:
                waiter.add_result(self)
            else:
                waiter.add_exception(self)
        condition.notify_all()

    def __repr__(self) -> str:
        # To the letter what a stdlib Future prints: programs and doctests compare it.
        with self._lock:
            outcome = ""
            if self._state == FINISHED and self._exception is not None:
                outcome = f" raised {type(self._exception).__name__}"
            elif self._state == FINISHED:
                outcome = f" returned {type(self._result).__name__}"
            state = _STATE_TO_DESCRIPTION_MAP[self._state]
            return f"<Future at {id(self):#x} state={state}{outcome}>"
