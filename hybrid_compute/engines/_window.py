"""WindowedExecutor: what the executors of all engines have in common.

An engine takes what it is given and tells little of it afterwards: whether a call has begun, or can
still be taken back. So few are given to it at a time, and the others wait here, where they can be
cancelled, given back to a policy, and counted.

    execute -> queue -> `_send`, while there is room in the window      RUNNING from then on
               ... the engine ...  -> `_tell(news)`, from any thread, blocking for nothing
    the thread of outcomes: takes all news there are -> `_deliver` -> sends more

Threads and locks: one thread, which delivers all outcomes. It starts when something is sent, and
ends when nothing is out, so that an executor that is dropped is freed. `_lock` guards the queue,
the window, the thread and the end; no user code runs under it. Nothing can be forgotten: news come
only of jobs that are out, and the thread ends, under the lock, only when none is.
"""

from __future__ import annotations

import abc
import threading
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures._base import LOGGER
from contextlib import suppress
from queue import Empty, SimpleQueue
from typing import Any, Generic, TypeVar

from hybrid_compute import _exit
from hybrid_compute.abc import Capabilities, SubExecutor
from hybrid_compute.errors import HybridComputeError, RemoteConnectionLost
from hybrid_compute.executors._chunks import Feeders, map_in_chunks
from hybrid_compute.executors._delivery import cancel, settle, start
from hybrid_compute.executors.thread import check_max_workers
from hybrid_compute.items import Keeper, WorkItem
from hybrid_compute.maps import MapOptions
from hybrid_compute.routed import RoutedItem

__all__ = ["Job", "WindowedExecutor"]

T = TypeVar("T")
J = TypeVar("J", bound="Job")

_CLOSED = "cannot schedule new futures after shutdown"
_EXITING = "cannot schedule new futures after interpreter shutdown"
_FORKED = "this executor belongs to the parent process: make a new one here"
# What an engine is given beyond two items for each of its workers. Its delay of milliseconds is to
# be hidden, and what it has cannot be cancelled: as many as are there for about so long.
_FIRST_AHEAD, _LEAST_AHEAD, _MOST_AHEAD = 32, 4, 256
_STAY = 0.25  # seconds


class Job(Keeper):
    """An item that the engine has. Engines derive from it, for what they know it by."""

    def __init__(self, executor: WindowedExecutor[Any], item: WorkItem) -> None:
        self.executor = executor
        self.item = item
        self.since = time.monotonic()

    def withdraw(self, item: WorkItem) -> bool:
        """Give the item up, whose time is up; what runs may run on."""
        self.executor._abandon(self)
        return False

    def stop(self, item: WorkItem) -> bool | None:
        """End the work, if the engine can. Blocks until that is known."""
        return self.executor._stop(self)


class WindowedExecutor(SubExecutor, _exit.Member, Generic[J]):
    """An executor in front of an engine.

    Args:
        name: its name in a fleet.
        workers: how many items the engine runs at once.
        max_in_flight: how many items it has at a time; None: some more than it has workers.

    Raises:
        ValueError: a number is less than 1.
        TypeError: it is no number.
    """

    # A worker may have threads: one that dies takes along what these do.
    capabilities: Capabilities = Capabilities(remote=True, chunks=True, streams=True)

    def __init__(self, *, name: str, workers: int, max_in_flight: int | None) -> None:
        self.name = name
        self.workers: int = max(1, workers)
        self._most = (
            None if max_in_flight is None else check_max_workers(max_in_flight, "max_in_flight")
        )
        self._lock = threading.RLock()  # see above; re-entrant: finalizers may submit
        self._queue: deque[WorkItem] = deque()
        self._out: set[J] = set()
        self._ahead = _FIRST_AHEAD
        self._news: SimpleQueue[Any] = SimpleQueue()
        self._thread: threading.Thread | None = None
        self._closed: str | None = None  # why no new work is taken
        self._released = False
        self._feeders = Feeders()
        _exit.register(self)

    # For engines.

    @abc.abstractmethod
    def _job(self, item: WorkItem) -> J:
        """Return the job of an item."""

    @abc.abstractmethod
    def _send(self, jobs: list[J]) -> None:
        """Give jobs to the engine, whose items have started. Any thread; must not block for them.

        One that it cannot take goes to `_refuse`; so do all that have no end if it raises.
        """

    @abc.abstractmethod
    def _deliver(self, news: list[Any]) -> None:
        """Deliver what was told, on the thread of outcomes. Each job ends with `_end`."""

    def _abandon(self, job: J) -> None:
        """Let go of a job whose outcome nobody wants. Any thread; does not block."""

    def _stop(self, job: J) -> bool | None:
        """End a job that runs, and return whether it was ended; may block."""
        return False

    def _release(self) -> None:
        """Let go of what this executor has made. Called once, in the end."""

    def _tell(self, news: Any) -> None:
        """Have the thread of outcomes look at something. Any thread."""
        self._news.put(news)

    def _wait_for_news(self) -> list[Any]:
        """Return all that was told, once there is something. For the thread of outcomes."""
        first = self._news.get()
        others = self._news_there()
        return others if first is None else [first, *others]

    def _news_there(self) -> list[Any]:
        """Return what was told by now. For the thread of outcomes."""
        news = []
        with suppress(Empty):
            while True:
                news.append(self._news.get_nowait())
        return [each for each in news if each is not None]

    def _end(self, job: J, deliver: Callable[[Any], None], outcome: Any) -> None:
        """Deliver a job's end, unless there was one. Callbacks run: hold no lock."""
        with self._lock:
            if job not in self._out:
                return
            self._out.discard(job)
            stay = time.monotonic() - job.since
            self._ahead += 1 if stay < _STAY else -1
            self._ahead = min(max(_LEAST_AHEAD, self._ahead), _MOST_AHEAD)
        if job.item.keeper is job:
            job.item.keeper = None
        settle(deliver, outcome)
        if not self.runs_here():
            self._tell(None)  # it may have been the last

    # Items.

    def execute(self, item: WorkItem) -> None:
        """Queue the item; give it to the engine if it may have more."""
        self._execute(item)

    def execute_late(self, item: WorkItem) -> None:
        """Queue an item even if `shutdown` was called: called while another one is delivered."""
        self._execute(item, late=True)

    def _execute(self, item: WorkItem, *, late: bool = False) -> None:
        with self._lock:
            if self._closed is not None and not (late and self.runs_here()):
                raise RuntimeError(self._closed)
            self._queue.append(item)
            if self._thread is None:
                thread = threading.Thread(
                    target=self._work, name=f"{self.name}-outcomes", daemon=True
                )
                try:
                    thread.start()  # it waits for our lock
                except BaseException:
                    self._queue.remove(item)
                    raise
                self._thread = thread
        self._feed()

    def _feed(self) -> None:
        """Give the engine as many items as it may have."""
        while True:
            jobs: list[J] = []
            with self._lock:
                most = self._most or 2 * self.workers + self._ahead
                while self._queue and len(self._out) < most:
                    job = self._job(self._queue.popleft())
                    self._out.add(job)
                    jobs.append(job)
            if not jobs:
                return
            started = []
            try:
                for job in jobs:
                    job.item.keeper = job
                    if start(job.item):
                        started.append(job)
                    else:
                        self._end(job, _ignore, None)
                if started:
                    self._send(started)
            except BaseException as error:
                for job in jobs:
                    self._refuse(job, error)
                if not isinstance(error, Exception):
                    raise

    def _refuse(self, job: J, error: BaseException) -> None:
        """Deliver that the engine did not take an item, unless that has an end already."""
        if not isinstance(error, HybridComputeError):
            lost = RemoteConnectionLost(
                f"executor {self.name!r} could not hand {job.item.name!r} over: {error!r}",
                may_have_run=not isinstance(error, Exception),  # else nothing was sent
            )
            lost.__cause__ = error
            error = lost
        self._end(job, job.item.fail, error)

    def _work(self) -> None:
        """The life of the thread."""
        while self._has_more():
            news = self._wait_for_news()
            try:
                self._deliver(news)
            except BaseException:
                LOGGER.exception("exception delivering outcomes of executor %r", self.name)
            del news  # before waiting: nothing of a job that is done may be kept alive
            self._feed()

    def _has_more(self) -> bool:
        """Say whether the thread has to go on; if not, it has ended by now."""
        with self._lock:
            if self._out or self._queue:
                return True
            closed = self._closed is not None
            if not closed:
                self._thread = None
                return False
            release, self._released = not self._released, True
        if release:
            settle(lambda _: self._release(), None)  # `join` waits for it
        with self._lock:
            self._thread = None
        return False

    def _let_go(self) -> None:
        with self._lock:
            if self._released or self._thread is not None:
                return
            self._released = True
        self._release()

    # Looking and ending.

    def give_back(self, belief: object) -> list[RoutedItem]:
        """Give up the items with this belief that the engine has not got."""
        with self._lock:
            found = [
                each
                for each in self._queue
                if isinstance(each, RoutedItem) and each.belief is belief
            ]
            if found:
                gone = set(map(id, found))
                self._queue = deque(each for each in self._queue if id(each) not in gone)
                self._tell(None)
        return found

    def load(self) -> float:
        """Return the number of items queued and given to the engine, per worker."""
        with self._lock:
            return (len(self._queue) + len(self._out)) / self.workers

    def counts(self) -> tuple[int, int]:
        """Return how many items are queued, here or there as far as is known, and how many run."""
        with self._lock:
            running = min(len(self._out), self.workers)
            return len(self._queue) + len(self._out) - running, running

    def runs_here(self) -> bool:
        """Say whether the current thread is the one on which this executor's callbacks run."""
        return threading.current_thread() is self._thread

    def _map(
        self, fn: Callable[..., T], iterables: tuple[Iterable[Any], ...], options: MapOptions
    ) -> Iterator[T]:
        if getattr(self.submit, "__func__", None) is not SubExecutor.submit:
            return super()._map(fn, iterables, options)  # who overrides submit sees every call
        return map_in_chunks(
            self.submit,
            fn,
            iterables,
            options,
            resubmit=self._submit_late,
            workers=lambda: self.workers,
            feeders=self._feeders,
        )

    def _submit_late(self, fn: Callable[..., T], *args: Any) -> Any:
        item = WorkItem(fn, args)
        self.execute_late(item)
        return item.future

    def shutdown(self, wait: bool = True, *, cancel_futures: bool = False) -> None:
        """Accept no more work; finish or cancel what is queued. The engine itself goes on.

        Args:
            wait: block until all is done; from a done-callback it does not block.
            cancel_futures: cancel what was not given to the engine.
        """
        (self._feeders.cancel if cancel_futures else self._feeders.flush)()
        self._close(_CLOSED)
        if cancel_futures:
            with self._lock:
                dropped, self._queue = list(self._queue), deque()
                self._tell(None)
            for item in dropped:
                cancel(item)
        if wait:
            self.join()

    def _close(self, why: str) -> None:
        with self._lock:
            if self._closed is None:
                self._closed = why
            idle = self._thread is None
        if idle:
            self._let_go()

    def close_at_exit(self) -> None:
        """Refuse new work, in the words that the stdlib has for it."""
        self._close(_EXITING)

    def join(self) -> None:
        """Block until all is done; the thread of outcomes does not wait."""
        thread = self._thread
        if thread is not None and thread is not threading.current_thread():
            thread.join()

    def after_fork(self) -> None:
        """Leave all to the parent: its connection is not the child's."""
        self._lock = threading.RLock()
        self._queue, self._out, self._thread = deque(), set(), None
        self._closed, self._released = _FORKED, True


def _ignore(_: object) -> None:
    """Deliver nothing: it was cancelled."""
