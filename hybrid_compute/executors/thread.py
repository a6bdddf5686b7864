"""ThreadExecutor: the stdlib's ThreadPoolExecutor, to the letter, at a fraction of its cost.

Owns the pool: one queue, its threads, and who wakes whom. Knows of items only that they can
`run`, `cancel` and `reject`.

The executor that the user holds and the pool that the threads hold are two objects, so that an
executor which is dropped without `shutdown` is freed at once; its pool then finishes the work
that is queued, and the threads end.

Threads and locks. `_Pool.lock` guards all of the pool: the queue, the parked threads, how many
are on their way, the flags. It is re-entrant, since a signal handler or a finalizer that
submits may land on a thread that holds it; every mutation under it leaves a consistent state.
No user code runs and no future completes under it. A thread that finds the queue empty parks:
it appends its gate, a lock it cannot get past, to `parked`.

Why no item is forgotten. A thread counts in `waking` from the moment its gate is opened until it
has looked into the queue under the lock. The invariant, restored before each release of the
lock: *if items are queued and threads are parked, one is waking*. `push` wakes one unless one is
waking; who wakes takes an item and, if more are queued, wakes the next; a thread parks only when
the queue is empty. So one thread at most is woken at a time (a burst of small items does not
start a fight for the GIL), and yet n items that wait for each other all run: each thread that
wakes brings the next before it starts its own item. A new thread counts in `starting` until its
initializer, which may take its time, is done; nobody relies on it for waking others.
"""

from __future__ import annotations

import _thread
import math
import os
import threading
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import CancelledError, ThreadPoolExecutor
from concurrent.futures._base import LOGGER
from concurrent.futures.thread import BrokenThreadPool
from typing import Any, Protocol, TypeVar

from hybrid_compute import _exit
from hybrid_compute.abc import Capabilities, SubExecutor
from hybrid_compute.items import WorkItem
from hybrid_compute.maps import _FREE_THREADED, _NOBODY, MapOptions, Results, iterate

__all__ = ["ThreadExecutor", "check_max_workers"]

T = TypeVar("T")

_CLOSED = "cannot schedule new futures after shutdown"
_EXITING = "cannot schedule new futures after interpreter shutdown"
_FORKED = (
    "this executor belongs to the parent process; its threads do not exist in a forked child: "
    "make a new executor here"
)
_BROKEN = "A thread initializer failed, the thread pool is not usable anymore"


class _Job(Protocol):
    """What the queue holds: a WorkItem, or a map's share of the pool."""

    def run(self) -> None:
        """Do the work on this thread and deliver its outcome."""

    def cancel(self) -> None:
        """Deliver that it was cancelled; it has not started."""

    def reject(self, error: BaseException) -> None:
        """Deliver the error; it has not started."""


class _Pool:
    """The queue and its threads."""

    def __init__(
        self,
        size: int,
        thread_name_prefix: str,
        initializer: Callable[..., object] | None,
        initargs: tuple[Any, ...],
    ) -> None:
        self.size = size
        self.prefix = thread_name_prefix
        self.initializer = initializer
        self.initargs = initargs
        self.lock = threading.RLock()  # guards everything below; see the module's docstring
        self.jobs: deque[_Job] = deque()
        self.parked: list[_thread.LockType] = []
        self.waking = 0
        self.starting = 0
        self.threads: list[threading.Thread] = []
        self.refusal: Exception | None = None  # why no new work is taken
        self.broken: str | None = None
        self.forked = False

    def push(self, job: _Job, copies: int = 1) -> None:
        """Queue a job, or so many copies of it, and see that threads come."""
        with self.lock:
            if self.refusal is not None:
                raise type(self.refusal)(*self.refusal.args)
            if copies == 1:
                self.jobs.append(job)
            else:
                self.jobs.extend([job] * copies)
            if len(self.threads) < self.size:
                self._grow()
            if self.parked and not self.waking:
                self.waking = 1
                self.parked.pop().release()

    def _grow(self) -> None:
        # As the stdlib: a new thread only when no thread is free for a queued job.
        while (
            len(self.threads) < self.size
            and len(self.jobs) > len(self.parked) + self.waking + self.starting
        ):
            thread = threading.Thread(
                name=f"{self.prefix}_{len(self.threads)}", target=_work, args=(self,)
            )
            self.threads.append(thread)
            self.starting += 1
            try:
                thread.start()
            except BaseException:
                self.threads.pop()
                self.starting -= 1
                if not self.threads:
                    self.jobs.clear()  # nobody would ever run them, and the caller is told
                    raise
                return

    def close(self, refusal: Exception) -> None:
        """Refuse new work; the threads end once the queue is empty. Idempotent."""
        with self.lock:
            if self.refusal is None:
                self.refusal = refusal
            self.waking += len(self.parked)
            while self.parked:
                self.parked.pop().release()

    def cancel_all(self) -> None:
        """Cancel all that is queued."""
        with self.lock:
            dropped = list(self.jobs)
            self.jobs.clear()
        for job in dropped:
            job.cancel()

    def break_down(self) -> None:
        """An initializer failed: fail all that is queued and refuse the rest."""
        error = BrokenThreadPool(_BROKEN)
        with self.lock:
            self.broken = _BROKEN
            self.refusal = error
            dropped = list(self.jobs)
            self.jobs.clear()
        for job in dropped:
            job.reject(BrokenThreadPool(_BROKEN))
        self.close(error)

    def close_at_exit(self) -> None:
        """Refuse new work, in the words that the stdlib has for it."""
        self.close(RuntimeError(_EXITING))

    def join(self) -> None:
        """Block until the threads have ended; the thread that calls is not waited for."""
        with self.lock:
            threads = list(self.threads)
        me = threading.current_thread()
        for thread in threads:
            if thread is not me:
                thread.join()

    def after_fork(self) -> None:
        """Leave the parent's threads, locks and work to the parent."""
        self.lock = threading.RLock()
        self.jobs = deque()
        self.parked = []
        self.threads = []
        self.forked = True
        self.refusal = RuntimeError(_FORKED)


def _work(pool: _Pool) -> None:
    """The life of a thread: take a job, run it, park when there is none."""
    if pool.initializer is not None:
        try:
            pool.initializer(*pool.initargs)
        except BaseException:
            LOGGER.critical("Exception in initializer:", exc_info=True)
            with pool.lock:
                pool.starting -= 1
            pool.break_down()
            return
    lock, jobs, parked = pool.lock, pool.jobs, pool.parked
    gate = _thread.allocate_lock()
    gate.acquire()
    with lock:
        pool.starting -= 1
    woken = False
    while True:
        with lock:
            if woken:
                pool.waking -= 1
                woken = False
            if jobs:
                job: _Job | None = jobs.popleft()
                if jobs and parked and not pool.waking:
                    pool.waking = 1
                    parked.pop().release()
            elif pool.refusal is not None:
                return
            else:
                job = None
                parked.append(gate)
        if job is None:
            gate.acquire()
            woken = True
            continue
        try:
            job.run()
        except BaseException:
            # Only a done-callback that raises KeyboardInterrupt or the like gets here. The
            # stdlib's thread dies of it; this one goes on.
            LOGGER.critical("Exception in worker", exc_info=True)
        del job  # before parking: nothing of a job that is done may be kept alive


class _MapShare:
    """One `map` on the pool: its calls need no futures and no queue of their own.

    As many shares as there are workers stand in the pool's queue, where one future for each call
    would stand, and all are this object: a thread that takes one makes calls until none is left.
    A call is claimed by `popleft`, which is atomic, with and without the GIL.
    """

    __slots__ = ("_calls", "_fn", "_pool", "_results")

    def __init__(self, pool: _Pool, fn: Callable[..., Any], results: Results) -> None:
        self._pool = pool
        self._fn = fn
        self._results = results
        self._calls: deque[tuple[int, tuple[Any, ...]]] = deque()

    # For the map's consumer.

    def feed(self, index: int, call: Any) -> None:
        self._calls.append((index, call))
        self._pool.push(self)

    def feed_all(self, calls: Iterable[Any]) -> None:
        self._calls.extend(enumerate(calls))
        count = self._results.total = len(self._calls)
        if count:
            self._pool.push(self, min(count, self._pool.size))

    # For the map's consumer and for a pool that shuts down.

    def cancel(self) -> None:
        self.reject(CancelledError())

    def reject(self, error: BaseException) -> None:
        while self._calls:
            try:
                index, _ = self._calls.popleft()
            except IndexError:  # a thread took the last one meanwhile
                return
            self._results.fail(index, error)

    # For the pool's threads.

    def run(self) -> None:
        fn, results = self._fn, self._results
        claim = self._calls.popleft
        values, order = results.values, results._order
        try:
            while True:
                index, args = claim()
                try:
                    value = fn(*args)
                except BaseException as error:
                    # Without this frame, which holds the results of the others.
                    trace = error.__traceback__
                    results.fail(index, error.with_traceback(trace and trace.tb_next))
                    del trace, args
                    continue
                # By hand: results.put(index, value), which costs as much as the rest together.
                values[index] = value
                if order is not None:
                    order.append(index)
                if results._wanted != _NOBODY or _FREE_THREADED:
                    results._wake(index)
                del value, args  # the next call may take long
        except IndexError:  # no call is left; an IndexError of `fn` does not get here
            return


class ThreadExecutor(SubExecutor):
    """A pool of threads with ThreadPoolExecutor's constructor, meaning and messages.

    Args:
        max_workers: most threads at once; default: as the stdlib, usable cores + 4, at most 32.
        thread_name_prefix: threads are called `prefix_0`, `prefix_1` and so on.
        initializer: called at the start of each thread; if it raises, the pool is broken.
        initargs: its arguments.
        name: the executor's name in a fleet.

    Threads start when work comes. All methods may be called from any thread; none but
    `shutdown(wait=True)` blocks.

    Raises:
        ValueError: `max_workers` is less than 1.
        TypeError: `max_workers` is no number, or `initializer` cannot be called.
    """

    capabilities = Capabilities(shares_memory=True)

    def __init__(
        self,
        max_workers: int | None = None,
        thread_name_prefix: str = "",
        initializer: Callable[..., object] | None = None,
        initargs: tuple[Any, ...] = (),
        *,
        name: str = "thread",
    ) -> None:
        if max_workers is None:
            cores = getattr(os, "process_cpu_count", os.cpu_count)() or 1
            max_workers = min(32, cores + 4)
        self.name = name
        self.workers = self._max_workers = check_max_workers(max_workers)
        if initializer is not None and not callable(initializer):
            raise TypeError("initializer must be a callable")
        # The stdlib's own counter, so that default names are the stdlib's and stay unique.
        prefix = thread_name_prefix or f"ThreadPoolExecutor-{ThreadPoolExecutor._counter()}"  # type: ignore[attr-defined]
        self._pool = _Pool(self.workers, prefix, initializer, initargs)
        _exit.register(self._pool)

    def execute(self, item: WorkItem) -> None:
        """Queue the item."""
        self._pool.push(item)

    def load(self) -> float:
        """Return the number of items queued and running per thread."""
        return sum(self.counts()) / self.workers

    def counts(self) -> tuple[int, int]:
        """Return how many items are queued and how many run; a `map` counts as its threads."""
        pool = self._pool
        with pool.lock:
            return len(pool.jobs), max(
                0, len(pool.threads) - len(pool.parked) - pool.waking - pool.starting
            )

    def _map(
        self, fn: Callable[..., T], iterables: tuple[Iterable[Any], ...], options: MapOptions
    ) -> Iterator[T]:
        if type(self).submit is not ThreadExecutor.submit:
            return super()._map(fn, iterables, options)  # a subclass sees every call
        results = Results(options)
        calls = zip(*iterables, strict=False)
        return iterate(results, _MapShare(self._pool, fn, results), calls)

    def shutdown(self, wait: bool = True, *, cancel_futures: bool = False) -> None:
        """Accept no more work; finish or cancel what is queued.

        Args:
            wait: block until all threads have ended (but for the one that calls, if it is one).
            cancel_futures: cancel what has not started.
        """
        self._pool.close(RuntimeError(_CLOSED))
        if cancel_futures:
            self._pool.cancel_all()
        if wait:
            self._pool.join()

    @property
    def _broken(self) -> str | bool:
        # The stdlib's name: programs, and CPython's own tests, poll it.
        return self._pool.broken or False

    def __del__(self) -> None:
        pool = getattr(self, "_pool", None)  # the constructor may have raised
        if pool is not None:
            pool.close(RuntimeError(_CLOSED))


def check_max_workers(value: Any) -> int:
    """Return the number of workers as an int, or raise what the stdlib raises.

    A fraction counts as the next whole number: that is what the stdlib's pool does with
    `os.cpu_count() / 2`.
    """
    if not isinstance(value, (int, float)):
        raise TypeError(f"max_workers must be a whole number or None, not {value!r}")
    if value <= 0:
        raise ValueError("max_workers must be greater than 0")
    return value if isinstance(value, int) else math.ceil(min(value, 1 << 30))
