"""Agents: what in the caller's process stands for the work that a worker process runs.

Owns one thread for each worker whose work has asked for `hybrid_compute.current()`. It reads what
the work asks by its link (see `_nested`), does it in its place, and answers: it submits to the
executor, and it waits. So it has a *seat* (`_seats`), like a thread of a pool, by which circles
are found; and while it waits, its worker *rests*, and another one may be started for the work
that is waited for.

    worker's first question of a call: NEST on its socket -> reader: Agent.expect(number, item)
    link: ("wait", number, ...)  -> agent thread: wait(); pool.rest(worker) ... pool.unrest(worker)

Locks: `_known` guards what is known of calls: the reader adds them, in the order of the worker's
answers, so that a question is never taken for another call's. Nothing is called under it.
"""

from __future__ import annotations

import contextlib
import socket
import threading
from concurrent.futures import FIRST_COMPLETED, Future, wait
from concurrent.futures._base import LOGGER
from typing import TYPE_CHECKING, Any

from hybrid_compute import _failures, _pickling
from hybrid_compute._seats import Seat, here
from hybrid_compute.errors import DeadlockError, ResultEncodeError
from hybrid_compute.executors._nested import CANCELLED, ERROR, LENGTH, VALUE, receive
from hybrid_compute.items import WorkItem

if TYPE_CHECKING:
    from hybrid_compute.executors._crew import Worker
    from hybrid_compute.executors._dispatch import Pool

__all__ = ["Agent"]


class _Call:
    """A call that has asked: its item, and what it has submitted and not collected yet."""

    __slots__ = ("futures", "item")

    def __init__(self, item: WorkItem) -> None:
        self.item = item
        self.futures: dict[int, Future[Any]] = {}


class Agent:
    """Stands for the work of one worker.

    Attributes:
        thread: that of the agent.
    """

    def __init__(self, pool: Pool, worker: Worker, fd: int) -> None:
        self._pool = pool
        self._worker = worker
        self._sock = socket.socket(fileno=fd)
        self._known = threading.Condition(threading.RLock())  # guards the three below
        self._calls: dict[int, _Call] = {}
        self._newest = 0
        self._gone = False
        self._serials = 0
        self.owner = pool.owner
        self._seat = Seat(self)
        self.thread = threading.Thread(target=self._run, name=f"{pool.name}-nested", daemon=True)

    # For the reader.

    def start(self) -> None:
        """Start its thread; without one, the work that asks is told that nobody is there."""
        try:
            self.thread.start()
        except RuntimeError:
            LOGGER.exception("no thread for the nested work of %s", self._pool.name)
            self._sock.close()

    def expect(self, number: int, item: WorkItem) -> None:
        """Note which item the worker's call of that number is."""
        with self._known:
            self._calls[number] = _Call(item)
            self._newest = number
            self._known.notify_all()
        item.future.add_done_callback(lambda _: self._forget(number))

    def _forget(self, number: int) -> None:
        with self._known:
            self._calls.pop(number, None)

    def hang_up(self) -> None:
        """Have the thread end: its worker is dead."""
        with self._known:
            self._gone = True
            self._known.notify_all()
        with contextlib.suppress(OSError):  # it has ended already
            self._sock.shutdown(socket.SHUT_RDWR)

    def forget(self) -> None:
        """Close our copy of the link in a forked child."""
        self._sock.close()

    # Its thread.

    def _run(self) -> None:
        here.seat = self._seat
        try:
            while (question := receive(self._sock)) is not None:
                asked, what, number, *rest = _pickling.loads(question)
                data = _pickling.dumps((asked, *self._answer(what, number, rest)))
                self._sock.sendall(LENGTH.pack(len(data)) + data)
                del question, rest, data
        except OSError:
            pass  # the worker is dead
        finally:
            self._sock.close()
            with self._known:
                self._calls.clear()
            self._pool.agent_ended(self)

    def _answer(self, what: str, number: int, rest: list[Any]) -> tuple[bool, Any]:
        try:
            call = self._call(number)
            self._seat.job = call.item
            here.limit.deadline = call.item.deadline
            return True, getattr(self, f"_{what}")(call, *rest)
        except BaseException as error:  # the work's own, most of them
            return False, _failures.encode_error(error)
        finally:
            here.limit.deadline = self._seat.job = None

    def _call(self, number: int) -> _Call:
        with self._known:
            self._known.wait_for(lambda: self._gone or number <= self._newest)
            call = self._calls.get(number)
        if call is None:
            raise RuntimeError(
                "the work whose current() this was is over: use it, and the futures that its "
                "executor gave, in that work only"
            )
        return call

    # What is asked.

    def _about(self, call: _Call) -> tuple[str, int, float | None]:
        decision = getattr(call.item, "decision", None)
        attempt = 1 if decision is None else len(decision.earlier) + 1
        return call.item.name, attempt, call.item.deadline

    def _over(self, call: _Call) -> bool:
        return call.item.is_unwanted()

    def _submit(self, call: _Call, data: bytes, options: dict[str, Any] | None) -> int:
        executor: Any = self._pool.owner()
        if executor is None:
            raise RuntimeError("cannot schedule new futures: the executor of this work was dropped")
        fn, args, kwargs = _pickling.decode_call(data)
        if options:
            executor = executor.options(**options)
        future = executor.submit(fn, *args, **(kwargs or {}))
        self._serials += 1
        call.futures[self._serials] = future
        return self._serials

    def _wait(
        self, call: _Call, serials: list[int], timeout: float | None, everything: bool
    ) -> list[tuple[int, int, Any]]:
        try:
            futures = {call.futures[serial]: serial for serial in serials}
        except KeyError:
            raise RuntimeError("this future was collected before, or is another call's") from None
        # (To `wait`, one that was cancelled is not done before its executor has seen that; but who
        # cancels knows by himself.)
        done, _ = wait(futures, timeout, *(() if everything else (FIRST_COMPLETED,)))
        return [(futures[each], *_outcome(each)) for each in done]

    def _running(self, call: _Call, serial: int) -> bool:
        return call.futures[serial].running()

    def _cancel(self, call: _Call, serial: int) -> bool:
        return call.futures[serial].cancel()

    def _shutdown(self, call: _Call, cancel_futures: bool) -> None:
        executor: Any = self._pool.owner()
        if executor is not None:
            executor.shutdown(wait=False, cancel_futures=cancel_futures)

    # Its place, as a bench of one; see `_seats`.

    def block(self, seat: Seat) -> None:
        """Have the worker rest."""
        seat.blocked = True
        self._pool.rest(self._worker)

    def resume(self, seat: Seat) -> None:
        """Have the worker count again."""
        self._pool.unrest(self._worker, seat)

    def check(self, seat: Seat) -> None:
        """Raise if there may be no other worker."""
        if self._pool.is_exhausted():
            size, most = self._pool.size, self._pool.most
            raise DeadlockError(
                f"all workers of {self._pool.name!r} wait for work that is queued behind them, and "
                f"there may be no more workers than {most}: its {size}, and {most - size} in the "
                "place of such as wait. Wait less deep, or give it more workers"
            )


def _outcome(future: Future[Any]) -> tuple[int, Any]:
    if future.cancelled():
        return CANCELLED, None
    error = future.exception()
    if error is not None:
        return ERROR, _failures.encode_error(error)
    value = future.result()
    try:
        return VALUE, _pickling.dumps(value)
    except BaseException as failure:  # whatever a __reduce__ raises
        refused = ResultEncodeError(
            f"the work was done, but its result, of type {type(value).__module__}."
            f"{type(value).__qualname__}, cannot be pickled for the worker process that waits for "
            f"it: {type(failure).__name__}: {_failures.text_of(failure)}. Return plain data"
        )
        return ERROR, _failures.encode_error(refused)
