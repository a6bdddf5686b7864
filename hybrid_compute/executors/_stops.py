"""Ending work that runs: at its deadline, or because somebody asked for it.

Owns the list of items that shall end, and how each is brought to it without touching another.
Part of the reader thread (see `_reader`); `end_and_wait` and `end_soon` are for any thread.

    queued                -> taken out, failed
    sent, not begun       -> LIMIT withholds it; once that is certain, taken back and failed
    running               -> LIMIT withholds what is behind it; once that is certain: SIGTERM,
                             after `grace` seconds SIGKILL; `Lives` finds its worker dead, and
                             delivers what was asked for instead of a crash

"Certain" is what `Answers.overdue` says of it: the worker writes STARTED before it reads LIMIT, we
write LIMIT before we read STARTED, and a tick lies between our two looks. So the signal can hit
no other call than the one that it is meant for: whatever comes behind never begins, and the worker
gets nothing new while it is `revoked`.

The answer to `cancel_running` is given when the item is done, whichever way. That is bounded: a
process that SIGKILL does not end (it hangs in the kernel) is given up after some seconds, and its
item failed all the same.
"""

from __future__ import annotations

import contextlib
import os
import signal
import threading
import time
from math import inf
from typing import TYPE_CHECKING

from hybrid_compute.errors import TaskTimeout
from hybrid_compute.executors._delivery import settle
from hybrid_compute.executors._family import Family
from hybrid_compute.executors._frames import DECODING, LIMIT, STARTED
from hybrid_compute.items import WorkItem
from hybrid_compute.routed import limit_of
from hybrid_compute.supervised import SupervisedItem

if TYPE_CHECKING:
    from hybrid_compute.executors._answers import Answers
    from hybrid_compute.executors._crew import Worker
    from hybrid_compute.executors._dispatch import Pool
    from hybrid_compute.executors._reader import Reader

__all__ = ["Request", "Stops", "end_and_wait", "end_soon"]

_TICK = 0.001  # seconds; see above
_LAST = 5.0  # seconds after SIGKILL


class Request:
    """Somebody waits for the end of an item.

    Attributes:
        answered: set when it is known what became of it.
        here: whether this pool had it.
    """

    __slots__ = ("_reader", "answered", "here", "item")

    def __init__(self, item: WorkItem) -> None:
        self.item = item
        self.here = True
        self.answered = threading.Event()
        # That of whatever pool this thread serves, if it is in a callback.
        self._reader: Reader | None = threading.current_thread().__dict__.get("hybrid_reader")

    def wait(self) -> None:
        """Block until it is answered.

        A thread that serves a pool goes on serving it: two of them may wait for each other.
        """
        if self._reader is None:
            self.answered.wait()
        else:
            self._reader.serve_until(self.answered)

    def answer(self, *, here: bool) -> None:
        """Let who waits go on."""
        self.here = here
        self.answered.set()
        if self._reader is not None:
            self._reader.wake_up()


class _Stop:
    """One item that shall end.

    Attributes:
        timeout: its time is up; else somebody asked for it.
        requests: those who wait for it.
        worker: where LIMIT withholds it, or what is behind it; None: not yet.
        limit: the first call that is withheld there.
        signalled: SIGTERM was sent.
        family: the worker's children at that moment.
        next_at: monotonic time of the next step.
        killed: SIGKILL was sent.
    """

    __slots__ = (
        "family",
        "item",
        "killed",
        "limit",
        "next_at",
        "requests",
        "signalled",
        "timeout",
        "worker",
    )

    def __init__(self, item: WorkItem, *, timeout: bool) -> None:
        self.item = item
        self.timeout = timeout
        self.requests: list[Request] = []
        self.worker: Worker | None = None
        self.limit = 0
        self.signalled = self.killed = False
        self.family: Family | None = None
        self.next_at = 0.0

    def deliver(self) -> None:
        """Deliver to the item that it was ended."""
        item = self.item
        if self.family is not None:
            self.family.kill()
        if item.future.done():
            return
        if not self.timeout:
            settle(lambda _: item.end(), None)
        elif item.future.running():
            settle(item.fail, _time_is_up(item))
        else:
            settle(item.reject, _time_is_up(item))

    def answer(self, *, here: bool = True) -> None:
        """Tell those who wait for it."""
        requests, self.requests = self.requests, []
        for each in requests:
            each.answer(here=here)


class Stops:
    """The items of one pool that shall end."""

    def __init__(self, pool: Pool, answers: Answers) -> None:
        self._pool = pool
        self._answers = answers
        self._active: dict[WorkItem, _Stop] = {}

    def turn(self) -> float | None:
        """Take each item a step further; return when to do so again, None for never."""
        pool, now = self._pool, time.monotonic()
        if not self._active and not pool.requests and now < pool.next_deadline:
            return None if pool.next_deadline == inf else pool.next_deadline
        with pool.lock:
            requests, pool.requests = pool.requests, []
            due = pool.deadlines.due(now)
            # Whoever sets an earlier one wakes us. It stays as it is when its item is done: to look
            # once in vain costs less than to be woken for each call that has a deadline.
            if now >= pool.next_deadline:
                pool.next_deadline = pool.deadlines.next() or inf
        for request in requests:
            self._find(request.item, timeout=False).requests.append(request)
        for item in self._drop_queued(due):
            self._find(item, timeout=True)
        soonest: float | None = None
        for stop in list(self._active.values()):
            when = self._step(stop, now)
            if when is None:
                self._active.pop(stop.item, None)  # a callback may have had a turn of its own
            elif soonest is None or when < soonest:
                soonest = when
        deadline = pool.next_deadline
        if deadline != inf and (soonest is None or deadline < soonest):
            soonest = deadline
        return soonest

    def _drop_queued(self, due: list[WorkItem]) -> list[WorkItem]:
        """Fail those of the items that wait in a queue; return the others."""
        if not due:
            return due
        late, dropped = set(due), []
        pool = self._pool
        with pool.lock:
            for queue in (pool.alone, pool.again, pool.urgent, pool.fresh):
                found = [item for item in queue if item in late]
                if found:
                    kept = [item for item in queue if item not in late]
                    queue.clear()
                    queue.extend(kept)
                    dropped += found
        for item in dropped:
            self._find(item, timeout=True).deliver()
        return [item for item in due if not item.future.done()]

    def take(self, item: WorkItem) -> bool:
        """Deliver that an item was ended, if that is what its worker has died of."""
        stop = self._active.get(item)
        if stop is None or not stop.signalled:
            return False
        stop.deliver()
        return True

    def answer_all(self) -> None:
        """Tell all who wait: this thread ends."""
        with self._pool.lock:
            requests, self._pool.requests = self._pool.requests, []
        for request in requests:
            request.answer(here=False)
        for stop in self._active.values():
            stop.answer()

    def _find(self, item: WorkItem, *, timeout: bool) -> _Stop:
        stop = self._active.get(item)
        if stop is None:
            stop = self._active[item] = _Stop(item, timeout=timeout)
        return stop

    def _step(self, stop: _Stop, now: float) -> float | None:
        pool, item = self._pool, stop.item
        if item.future.done():
            stop.answer()
            return None
        if now < stop.next_at:
            return stop.next_at  # this thread looks around more often than a tick
        if stop.signalled:
            return self._press(stop, now)
        queue = None
        with pool.lock:
            worker = next((each for each in pool.workers if item in each.items), None)
            if worker is None:
                queues = (pool.alone, pool.again, pool.urgent, pool.fresh)
                queue = next((each for each in queues if item in each), None)
                if queue is not None:
                    queue.remove(item)
                elif self._follows(stop) or item.keeper is pool:
                    return now + _TICK  # in somebody's hand, on its way
            elif worker.dead:  # and on its way to its grave: we are in a callback
                worker.number += worker.items[0] is item
                worker.items.remove(item)
                queue, worker = worker.items, None
        if worker is not None:
            return self._withhold(stop, worker, now)
        if queue is not None:
            stop.deliver()
        stop.answer(here=queue is not None)
        return None

    def _follows(self, stop: _Stop) -> bool:
        """Say whether another item has taken the place of this one; then that is to be ended."""
        item, successor = stop.item, stop.item.future._item
        if type(item) is not SupervisedItem or successor is item or successor is None:
            return False
        del self._active[item]
        other = self._active.get(successor)
        if other is None:
            stop.item = successor
            self._active[successor] = stop
        else:
            other.requests += stop.requests
        return True

    def _withhold(self, stop: _Stop, worker: Worker, now: float) -> float | None:
        """End an item that was sent: see the module's docstring."""
        pool, words = self._pool, worker.words
        with pool.lock:
            place = worker.items.index(stop.item)
        number = worker.number + place
        started = words[STARTED]
        limit = number + 1 if started >= number else number
        # LIMIT is gone when the worker has ended all that it had; and the item may have come back
        # to it since, under the next number.
        if stop.worker is not worker or stop.limit != limit or words[LIMIT] > limit:
            stop.worker, stop.limit = worker, limit
            with pool.lock:
                worker.revoked = True
            words[LIMIT] = min(words[LIMIT], limit)
            stop.next_at = time.monotonic() + _TICK
            return stop.next_at
        if started < number:  # it will never begin
            with pool.lock:
                late = [worker.items.pop() for _ in range(len(worker.items) - place)]
                late.pop()  # this one
                pool.again.extendleft(late)
            if started < words[DECODING] <= number:
                # Perhaps it hangs in there, unpickling what stands in that message. None of it
                # has begun: what shared the message goes to another worker.
                worker.withheld = min(limit, words[DECODING])
                stop.family = Family(worker.pid) if worker.pid is not None else None
                worker.kill()
            stop.deliver()
            stop.answer()
            return None
        answers = worker.journal.unsent(worker.inbox.received)
        if words[STARTED] == number and place == 0 and worker.pid is not None:
            worker.inbox.inject(answers)
            self._answers.deliver(worker)  # it may have ended by itself
            if worker.items and worker.items[0] is stop.item and not stop.signalled:
                self._signal(stop, worker, now)
                return stop.next_at
        return now + _TICK

    def _signal(self, stop: _Stop, worker: Worker, now: float) -> None:
        assert worker.pid is not None  # noqa: S101 - it was just looked at
        stop.family = Family(worker.pid)
        stop.signalled = True
        worker.withheld = stop.limit
        stop.next_at = now + self._pool.settings.kill_grace
        if worker.status is None:
            with contextlib.suppress(ProcessLookupError):
                os.kill(worker.pid, signal.SIGTERM)

    def _press(self, stop: _Stop, now: float) -> float | None:
        """Go on with an item whose worker was told to end and has not."""
        worker = stop.worker
        assert worker is not None  # noqa: S101 - it was signalled
        if not stop.killed:
            stop.killed = True
            stop.next_at = now + _LAST
            if worker.status is None and worker.pid is not None:
                if stop.family is not None:
                    stop.family.add(worker.pid)  # it may have had more of them meanwhile
                worker.kill()
            return stop.next_at
        stop.deliver()  # nothing ends it; nobody shall wait for that
        stop.answer()
        return None


def end_and_wait(pool: Pool, item: WorkItem) -> bool | None:
    """End an item although it runs: what `Keeper.stop` promises. Any thread."""
    request = end_soon(pool, item)
    if request is None:
        return None
    request.wait()
    return item.future.cancelled() if request.here else None


def end_soon(pool: Pool, item: WorkItem) -> Request | None:
    """Have an item ended although it runs; None if there is nobody to do it. Any thread."""
    request = Request(item)
    with pool.lock:
        reader = pool.reader
        if reader is None or reader.closing or pool.broken is not None:
            return None
        pool.requests.append(request)
        pool.wake()
    return request


def _time_is_up(item: WorkItem) -> TaskTimeout:
    return TaskTimeout(
        f"{item.name!r} was not done within {limit_of(item)}, and was ended",
        item_name=item.name,
        timeout=item.options.timeout or 0.0,
    )
