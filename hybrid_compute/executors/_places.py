"""The places of a thread pool: how many of its threads may be at work, and with what.

Owns the queue and the counts of `_threads.Pool`, which is made of this and tells of the lock; its
threads and their lives are there.

Of the threads that are not parked, `size` may do what is queued, as in the stdlib. One that waits
(in a way that we see, `_seats`) for work that is queued too has that work made *urgent*, and gives
up its place to whoever does it: what is urgent may be done while fewer than `size` threads run and
do not wait. If that place were anybody's, each job that submits others and waits for them would
let the next such job begin, and there would be as many threads as jobs.

Who completes what a thread waits for gives it its place back before he looks for his own next job
(`resume`): so never more than `size` run at once. Only one whose wait ends by itself, by a timeout
or as what it waits for is cancelled, may be one too many until the next job is done.

A thread that runs an item whose time is up is *stuck*. Another may be there in its place, for the
first `size` of them; more have to wait until one of them comes back.

`attention` says that things are not as usual, and who has done a job must ask for the next one.
"""

from __future__ import annotations

import _thread
import abc
import threading
from collections import deque
from collections.abc import Callable
from concurrent.futures._base import PENDING, RUNNING
from typing import Protocol

from hybrid_compute._seats import Seat
from hybrid_compute.items import Keeper, WorkItem
from hybrid_compute.routed import RoutedItem

__all__ = ["Job", "Places"]


class Job(Protocol):
    """What the queue holds: a WorkItem, or a map's share of the pool."""

    def run(self) -> None:
        """Do the work on this thread and deliver its outcome."""

    def cancel(self) -> None:
        """Deliver that it was cancelled; it has not started."""

    def reject(self, error: BaseException) -> None:
        """Deliver the error; it has not started."""


class Places(Keeper, abc.ABC):
    """The queue of a pool, and who may take from it."""

    def __init__(self, size: int) -> None:
        self.size = size
        self.lock = threading.RLock()  # guards everything below; see `_threads`
        self.jobs: deque[Job] = deque()
        self.parked: list[_thread.LockType] = []
        self.waking = 0
        self.starting = 0
        self.urgent: deque[Job] = deque()  # taken out of the queue: threads of ours wait for them
        self.blocked = 0  # threads that wait for such
        self.stuck = 0  # threads that run an item whose time is up
        self.attention = False  # see `_note`; read without the lock
        self.seats: list[Seat] = []
        self.threads: list[threading.Thread] = []
        self.left = 0  # how many of these have found that there is nothing more to come
        self.dropping: Callable[[], BaseException] | None = None  # why nothing queued is run

    @abc.abstractmethod
    def _start_thread(self, jobs: deque[Job]) -> bool:
        """Start a thread for the first of the jobs; False if there is none, or no thread."""

    def _busy(self) -> int:
        """Return how many threads hold a place for what is queued. Under the lock."""
        held = len(self.threads) - self.left - len(self.parked)
        return held - min(self.stuck, self.size)

    def _wake_one(self) -> None:
        # No call stands between these lines, so a signal whose handler raises does not either.
        gate = self.parked[-1]
        self.waking += 1
        del self.parked[-1]
        gate.release()

    def _grow(self) -> None:
        # As the stdlib: a new thread only when no thread is free for a queued job.
        while (
            len(self.threads) - self.left - min(self.stuck, self.size) < self.size
            and len(self.jobs) > len(self.parked) + self.waking + self.starting
        ):
            if not self._start_thread(self.jobs):
                return

    def _take(self, busy: int) -> Job | None:
        """Take a job for a thread, which is one of so many busy ones; None if none is for it.

        Whichever it takes, the next thread is woken for what is left: it may have been woken, or
        started, for the other kind. Under the lock.
        """
        job: Job | None = None
        if self.urgent and busy - self.blocked <= self.size:
            job = self.urgent.popleft()
            if self.urgent:
                self._rouse()
            if self.jobs:
                self._grow()
        elif busy <= self.size:
            try:
                job = self.jobs.popleft()
            except IndexError:
                return None
        if job is not None and self.jobs and self.parked and not self.waking:  # noqa: SIM102 - dear
            if self._busy() < self.size:
                self._wake_one()
        return job

    def _note(self) -> None:
        # Whether who has done a job must look here, instead of taking the next by himself.
        self.attention = bool(self.urgent) or self.stuck > 0 or self._busy() > self.size

    # Those that wait, and those that are stuck.

    def _rouse(self) -> None:
        """See that threads come for what is urgent, as far as there is room. Under the lock."""
        while self.urgent and self._busy() - self.blocked < self.size:
            coming = self.waking + self.starting
            if coming >= len(self.urgent):
                break
            if self.parked:
                self._wake_one()
            elif not self._start_thread(self.urgent):
                break
        self._note()

    def block(self, seat: Seat) -> None:
        """Take note that a thread of ours is about to wait."""
        with self.lock:
            if not seat.stuck:  # else it has no place to give up
                seat.blocked = True
                self.blocked += 1
                self._rouse()

    def resume(self, seat: Seat) -> None:
        """Take note that it goes on."""
        with self.lock:
            if seat.blocked:
                seat.blocked = False
                self.blocked -= 1
                self._note()

    def check(self, seat: Seat) -> None:
        """Raise RuntimeError if a thread would wait for what no thread will do."""
        with self.lock:
            here = self._busy() - self.blocked > 0 or self.waking or self.starting
            if self.urgent and not here:
                raise RuntimeError(
                    "all threads of the pool wait for work that is queued behind them, and "
                    "the system gives no thread to do it: wait less deep, or have more memory"
                )

    def urge(self, items: set[WorkItem]) -> None:
        """Have queued items done first, since a thread that has a place waits for them."""
        wanted: set[Job] = {each for each in items if _may_be_queued(each)}
        if wanted:
            with self.lock:
                if self.dropping is None:
                    self.urgent.extend(self._take_out(wanted))
                    self._rouse()

    def urge_job(self, job: Job) -> None:
        """Have a job done first, if it is queued."""
        with self.lock:
            if self.dropping is None:
                self.urgent.extend(self._take_out({job}))
                self._rouse()

    def help(self, job: Job) -> None:
        """Have a job done first; it does no harm if it is done twice, or too late."""
        with self.lock:
            if self.dropping is None:
                self.urgent.append(job)
                self._rouse()

    def _take_out(self, wanted: set[Job]) -> list[Job]:
        """Take jobs out of the queue, those that are there, in their order. Under the lock."""
        # From the right, where they most probably are: who waits has just submitted them.
        found: list[Job] = []
        behind: list[Job] = []
        try:
            while len(found) < len(wanted):
                job = self.jobs.pop()
                (found if job in wanted else behind).append(job)
        except IndexError:  # threads take from the left
            pass
        found.reverse()
        behind.reverse()
        self.jobs.extend(behind)
        if self.jobs and self.parked and not self.waking and self._busy() < self.size:
            self._wake_one()  # one that found the queue empty meanwhile has parked
        return found

    def withdraw(self, item: WorkItem) -> bool:
        """Say that the item will not start; if its time is up, count its thread no more."""
        if item.future.done():
            with self.lock:
                for seat in self.seats:
                    if seat.item is item and not seat.stuck:
                        if seat.blocked:
                            seat.blocked = False
                            self.blocked -= 1
                        seat.stuck = True
                        self.stuck += 1
                        self._note()
                        self._grow()
                        if self.parked and self.jobs and not self.waking:
                            self._wake_one()
                        self._rouse()
                        break
        return True


def _may_be_queued(item: WorkItem) -> bool:
    # A later attempt waits in a queue as well, though its future knows nothing of that.
    state = item.future._state
    return state == PENDING or (
        state == RUNNING and isinstance(item, RoutedItem) and item.was_tried
    )
