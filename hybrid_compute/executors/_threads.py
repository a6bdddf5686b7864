"""The thread pool: one queue, its threads, and who wakes whom.

Knows of its jobs only that they can `run`, `cancel` and `reject`. How many threads may be at work
with what is queued is told in `_places`. (Some 80 lines over 400: its threads, their lives, and
what an alarm finds on them.)

Threads and locks. `Pool.lock` guards all of the pool: what is put into the queue, the parked
threads, how many are on their way, the flags. Only taking from the queue may also be done
without it: a deque's ends are atomic. It is re-entrant, since a signal handler or a finalizer that
submits may land on a thread that holds it; every mutation under it leaves a consistent state.
No user code runs and no future completes under it. A thread that finds the queue empty parks:
it appends its gate, a lock it cannot get past, to `parked`.

Why no item is forgotten. A thread counts in `waking` from the moment its gate is opened until it
has looked into the queue under the lock. The invariant, restored before each release of the
lock: *if items are queued and threads are parked, one is waking* (or there is no place for it, as
`_places` tells, and then those that are at work look before they take the next). `push` wakes one
unless one is waking; who wakes takes an item and, if more are queued, wakes the next; a thread
parks only when the queue is empty. So one thread at most is woken at a time (a burst of small
items does not start a fight for the GIL), and yet n items that wait for each other all run: each
thread that wakes brings the next before it starts its own item. Taking an item never breaks the
invariant, so a thread that is awake takes its next one without the lock. A new thread is born with
its first item, or, if there is an initializer, which may take its time, counts in `starting` until
that is done; nobody relies on it for waking others.
"""

from __future__ import annotations

import _thread
import operator
import sys
import threading
import weakref
from collections import deque
from collections.abc import Callable, Iterator
from concurrent.futures import CancelledError
from concurrent.futures._base import LOGGER
from concurrent.futures.thread import BrokenThreadPool
from types import GeneratorType
from typing import TYPE_CHECKING, Any

from hybrid_compute import _exit
from hybrid_compute._seats import Seat, here
from hybrid_compute.direct import DirectItem
from hybrid_compute.executors._places import Job, Places
from hybrid_compute.executors._pump import Pump
from hybrid_compute.routed import RoutedItem
from hybrid_compute.streamed import StreamItem
from hybrid_compute.supervised import SupervisedItem, look_through
from hybrid_compute.tasks import NO_OPTIONS

if TYPE_CHECKING:
    from contextvars import Context

    from hybrid_compute._alarm import Alarm

__all__ = ["Job", "Pool"]

_EXITING = "cannot schedule new futures after interpreter shutdown"
_FORKED = (
    "this executor belongs to the parent process; its threads do not exist in a forked child: "
    "make a new executor here"
)
_BROKEN = "A thread initializer failed, the thread pool is not usable anymore"


class Pool(_exit.Member, Places):
    """The queue and its threads."""

    def __init__(
        self,
        size: int,
        thread_name_prefix: str,
        initializer: Callable[..., object] | None,
        initargs: tuple[Any, ...],
    ) -> None:
        super().__init__(size)
        self.prefix = thread_name_prefix
        self.initializer = initializer
        self.initargs = initargs
        self.shares: list[Job] = []  # maps' shares that threads are at
        self.owner: Callable[[], Any] = _nobody  # the executor whose pool it is, if still there
        self.born = 0  # threads, ever: for their names
        self.refusal: Exception | None = None  # why no new work is taken
        self.broken: str | None = None
        self.pumps: set[Pump] = set()  # those that are parked
        self.ending = False  # none parks any more
        self.alarm: weakref.ref[Alarm] | None = None  # which looks through all this

    def push(self, job: Job, copies: int = 1, *, late: bool = False) -> None:
        """Queue a job, or so many copies of it, and see that threads come.

        Args:
            job: what is to be done.
            copies: by how many threads.
            late: it goes on with what was accepted before `close`.
        """
        with self.lock:
            if self.refusal is not None:
                if not late:
                    raise type(self.refusal)(*self.refusal.args)
                self._forget_ended()
            if copies == 1:
                self.jobs.append(job)
            else:
                self.jobs.extend([job] * copies)
            there = len(self.threads) - self.left
            if there - self.stuck < self.size:
                self._grow()
            room = there <= self.size or self._busy() < self.size
            if room and self.parked and not self.waking:
                self._wake_one()

    def _forget_ended(self) -> None:
        gone = [each for each in self.threads if not each.is_alive()]
        self.threads = [each for each in self.threads if each not in gone]
        self.left -= len(gone)

    def _start_thread(self, jobs: deque[Job]) -> bool:
        """Start a thread for the first of the jobs; False if there is none, or no thread."""
        # A new thread is born with its job, or it would have to win the lock against the very
        # thread that submits: a burst could be cancelled before any of it has started. In a
        # box, since a Thread keeps its arguments. An initializer may fail, so its job waits.
        first: deque[Job] = deque()
        thread: threading.Thread | None = None
        counted, handled = False, sys.exc_info()[1]
        try:
            if self.initializer is None and not _move(jobs.popleft, first):
                return False  # a thread has taken it meanwhile
            name = f"{self.prefix}_{self.born}"
            thread = threading.Thread(name=name, target=_work, args=(self, first))
            # No call stands between these lines, so a signal whose handler raises does not either.
            self.threads += [thread]
            self.born += 1
            self.starting += self.initializer is not None
            counted = True
            thread.start()
        except BaseException as error:
            # It may run all the same, as Ctrl-C may have come while start() waited. Then it finds
            # itself out of the books, and ends (`_work`): to wait for it is not safe here.
            if thread is not None and counted:
                self.threads.remove(thread)
                self.born -= 1
                self.starting -= self.initializer is not None
            jobs.extendleft(first)
            context = error.__context__
            if isinstance(context, KeyboardInterrupt) and context is not handled:
                raise context from None  # a lock of start() has made a RuntimeError of it
            if not isinstance(error, Exception):
                raise
            if not self.threads:
                jobs.clear()  # nobody would ever run them, and the caller is told
                raise
            return False
        return True

    def next_job(self, gate: _thread.LockType, counted: str, seat: Seat) -> Job | None:
        """Return the next job for a thread; park it and return None if there is none.

        Args:
            gate: opened when the parked thread is to look again.
            counted: "starting" or "waking" if the thread stands in that count. It leaves it
                under one lock with the look into the queue, or `push` would start too many.
            seat: the thread's.
        """
        with self.lock:
            if counted == "starting":
                self.starting -= 1
            elif counted:
                self.waking -= 1
            if seat.stuck:
                seat.stuck = False
                self.stuck -= 1
            busy = self._busy()
            job = self._take(busy)
            if job is None:
                spare = busy > self.size and len(self.parked) >= self.size
                if self.refusal is not None or spare:
                    self.leave(seat)
                    job = _OVER
                else:
                    self.parked.append(gate)
                    if self.alarm is not None:
                        self._tell_alarm()
            self._note()
            return job

    def leave(self, seat: Seat) -> None:
        """Note that a thread ends. Under the lock."""
        self.left += 1
        self.seats.remove(seat)
        self._tell_alarm()

    def _tell_alarm(self) -> None:
        # If nothing is there any more. Under the lock; takes none.
        alarm = None if self.alarm is None else self.alarm()
        if alarm is not None and len(self.parked) == len(self.seats):
            alarm.nothing_there()

    def look(self, now: float, due: list[Any], soon: list[Any]) -> tuple[float, float, bool]:
        """Look through all that is here for light items with deadlines: see `Shelf`."""
        with self.lock:
            # In this order: what leaves the queue meanwhile comes to a seat, by way of a hand.
            queued = [*_all_of(self.urgent), *_all_of(self.jobs)]
            running, hidden = self._shown()
        return *look_through(running + queued, now, due, soon), hidden

    def peek(self, seen: list[Any]) -> bool:
        """Look for light items with deadlines on the threads alone: see `Shelf`."""
        with self.lock:
            running, hidden = self._shown()
        seen += [
            each
            for each in running
            if type(each) is SupervisedItem and each.deadline is not None and each.is_here()
        ]
        return hidden

    def _shown(self) -> tuple[list[Job], bool]:
        """Return what threads run, and whether one may have something else in his hand.

        Under the lock, which those take who park.
        """
        running = [each.job for each in self.seats]
        # Those that have nothing in their hands, for sure; and those that have no seat yet.
        idle = len(self.parked) + self.waking + self.starting
        unseated = len(self.threads) - self.left - len(self.seats)
        hidden = unseated > 0 or running.count(None) > idle
        return [each for each in running if each is not None], hidden

    def close(self, refusal: Exception) -> None:
        """Refuse new work; the threads end once the queue is empty. Idempotent."""
        with self.lock:
            if self.refusal is None:
                self.refusal = refusal
            while self.parked:
                self._wake_one()

    def give_back(self, belief: object) -> list[RoutedItem]:
        """Take the items with this belief out of the queue; the others keep their order."""
        found: list[RoutedItem | DirectItem] = []
        others: list[Job] = []
        with self.lock:
            for _ in range(len(self.jobs)):
                try:
                    job = self.jobs.popleft()
                except IndexError:  # a thread has taken the last one
                    break
                if isinstance(job, (RoutedItem, DirectItem)) and job.belief is belief:
                    found.append(job)
                else:
                    others.append(job)
            self.jobs.extendleft(reversed(others))
            if self.jobs and self.parked and not self.waking:
                self._wake_one()  # one that found the queue empty meanwhile has parked
        routed = (each if isinstance(each, RoutedItem) else each.routed() for each in found)
        return [each for each in routed if each is not None]

    def cancel_all(self) -> None:
        """Cancel all that is queued."""
        self._drop(CancelledError)

    def _drop(self, why: Callable[[], BaseException]) -> None:
        """Cancel or reject all that is queued, and what maps have left."""
        with self.lock:
            self.dropping = why
            shares = list(self.shares)
        # One by one, since threads take jobs without the lock: each is in one pair of hands. And
        # whatever comes out of one, or however a signal ends this, the others are not forgotten.
        for share in shares:
            share.reject(why())
        escaped: BaseException | None = None
        while self.urgent or self.jobs:
            try:
                job = (self.urgent or self.jobs).popleft()
            except IndexError:
                continue  # a thread has taken it
            error = why()
            try:
                if isinstance(error, CancelledError):
                    job.cancel()
                else:
                    job.reject(error)
            except BaseException as caught:  # a callback's SystemExit, or Ctrl-C
                escaped = escaped or caught
        if escaped is not None:
            raise escaped

    def break_down(self) -> None:
        """An initializer failed: fail all that is queued and refuse the rest."""
        with self.lock:
            self.broken = _BROKEN
            self.refusal = BrokenThreadPool(_BROKEN)
        try:
            self._drop(lambda: BrokenThreadPool(_BROKEN))
        finally:  # a callback may raise SystemExit
            self.close(BrokenThreadPool(_BROKEN))

    def pump(
        self,
        item: StreamItem,
        iterator: Iterator[Any],
        interrupt: Callable[[], object] | None = None,
    ) -> None:
        """Run a generator, whose item has started, on this thread of ours and on others.

        Args:
            item: what it is.
            iterator: the generator.
            interrupt: called, on any thread, when nobody wants the rest: it may be in a wait.
        """
        pump = Pump(self, item, iterator, interrupt)
        item.begin(pump)
        pump.run()

    def iterate(
        self, generator: GeneratorType[Any, Any, Any], context: Context | None = None
    ) -> Iterator[Any]:
        """Return the items of a generator, which runs here from now on, ahead of its consumer.

        It runs in a copy of a context; None: in those of the threads.
        """
        item = StreamItem(_Given(generator), (), None, NO_OPTIONS)
        item.context = context
        stream = item.hand_out()
        try:
            self.push(item)
        except RuntimeError:  # shut down: who iterates runs it by himself
            item.future.cancel()
            return generator
        return stream

    def end_streams(self) -> None:
        """End the streams that wait for their consumers, now and from now on."""
        with self.lock:
            self.ending = True
            pumps = list(self.pumps)
        for pump in pumps:
            pump.resume()

    def close_at_exit(self) -> None:
        """Refuse new work, in the words that the stdlib has for it."""
        self.close(RuntimeError(_EXITING))
        self.end_streams()

    def join(self) -> None:
        """Block until the threads have ended. One that waits for itself gets a RuntimeError."""
        joined: set[threading.Thread] = set()
        while True:
            # Those that wait for what is queued may have others started meanwhile.
            with self.lock:
                threads = [each for each in self.threads if each not in joined]
            if not threads:
                return
            for thread in threads:
                thread.join()
            joined.update(threads)

    def runs_here(self) -> bool:
        """Say whether the current thread is one of the pool's."""
        return threading.current_thread() in self.threads

    def after_fork(self) -> None:
        """Leave the parent's threads, locks and work to the parent."""
        self.lock = threading.RLock()
        if self.threads:  # else it was not used yet: it is as good as new
            self.refusal = RuntimeError(_FORKED)
        self.jobs = deque()
        self.parked = []
        self.shares = []
        self.threads = []
        self.pumps = set()
        self.urgent = deque()
        self.seats = []
        self.waking = self.starting = self.left = self.blocked = self.stuck = 0
        self.attention = False


class _Given:
    """Calling it gives a generator that is there already."""

    def __init__(self, generator: GeneratorType[Any, Any, Any]) -> None:
        self.__qualname__ = generator.gi_code.co_qualname
        self._generator = generator

    def __call__(self) -> GeneratorType[Any, Any, Any]:
        return self._generator


def _nobody() -> None:
    return None


def _move(take: Callable[[], Job], box: deque[Job]) -> bool:
    """Put a job into a box; False if there is none.

    In one step of Python: Ctrl-C between two would leave it nowhere.
    """
    try:
        box.extend(map(operator.call, (take,)))
    except IndexError:
        return False
    return True


def _all_of(jobs: deque[Job]) -> list[Job]:
    while True:
        try:
            return list(jobs)
        except RuntimeError:  # a thread has taken one meanwhile
            continue


_OVER: Any = object()  # what `next_job` answers when there is nothing more to come


def _work(pool: Pool, first: deque[Job]) -> None:
    """The life of a thread: take a job, run it, park when there is none."""
    threading.current_thread().__dict__["hybrid_pool"] = pool  # see StreamItem.run
    here.seat = seat = Seat(pool)
    with pool.lock:
        if threading.current_thread() not in pool.threads:
            return  # see `_start_thread`
        pool.seats.append(seat)
    if pool.initializer is not None and not _initialize(pool, seat):
        return
    jobs = pool.jobs
    gate = _thread.allocate_lock()
    gate.acquire()
    counted = "" if first else "starting"  # the pool's count in which this thread is at the moment
    with pool.lock:
        pass  # `push` is done: else a quick job would end, and the next come, before this can park
    while True:
        job: Job | None = None
        if first:
            job = first.popleft()
        elif not counted and not pool.attention:
            # To take one more needs no lock: a deque's ends are atomic. With one, a thread that
            # loses the GIL while it holds it would make all others queue up.
            try:  # noqa: SIM105 - this is the hot path
                job = jobs.popleft()
            except IndexError:
                pass
        if job is None:
            job = pool.next_job(gate, counted, seat)
            counted = ""
            if job is _OVER:
                return
            if job is None:
                gate.acquire()
                counted = "waking"
                continue
        seat.job = job
        try:
            job.run()
        except BaseException:
            # Only a done-callback that raises KeyboardInterrupt or the like gets here. The
            # stdlib's thread dies of it; this one goes on.
            LOGGER.critical("Exception in worker", exc_info=True)
        # Nothing of a job that is done may be kept alive. And what a seat shows runs there: who
        # shows nothing may have the next one in his hand (see `look`).
        seat.job = None
        del job


def _initialize(pool: Pool, seat: Seat) -> bool:
    assert pool.initializer is not None  # noqa: S101 - the caller has looked
    try:
        pool.initializer(*pool.initargs)
    except BaseException:
        LOGGER.critical("Exception in initializer:", exc_info=True)
        with pool.lock:
            pool.starting -= 1
        try:
            pool.break_down()
        finally:
            with pool.lock:
                pool.leave(seat)
        return False
    return True
