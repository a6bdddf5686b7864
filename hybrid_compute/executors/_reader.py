"""The one thread of a ProcessExecutor: it listens to all workers, and sees to their lives.

Owns the selector and the order of things; `_answers` knows what the workers say, `_lives` starts
and buries them. Everything here but `wake` and `forget` runs on that thread; see `_dispatch` for
the lock and for who else touches a worker.

    select -> answers    -> succeed, fail; END: learn, feed again
           -> EOF/report -> bury: take the answers from the journal, blame one, requeue the rest
           -> nothing for 5 ms from a worker with more than one item -> `Answers.overdue`
    before each select: feed the idle, start workers if items wait and fewer than `size` live

"""

from __future__ import annotations

import contextlib
import os
import selectors
import threading
import time
from concurrent.futures._base import LOGGER

from hybrid_compute.errors import WorkerStartError
from hybrid_compute.executors._answers import LATE, Answers
from hybrid_compute.executors._crew import Worker
from hybrid_compute.executors._delivery import settle
from hybrid_compute.executors._dispatch import Pool
from hybrid_compute.executors._lives import Lives
from hybrid_compute.executors._stops import Stops
from hybrid_compute.executors._upkeep import Upkeep

__all__ = ["Reader"]

_PARKED_SECONDS = 0.02  # between two looks whether a stream waits for its consumer, if work waits
_LONGEST = 3600.0  # seconds of one select, which counts milliseconds in 32 bits


class Reader:
    """Made by the first `submit`, which starts the thread on `run`."""

    def __init__(self, pool: Pool) -> None:
        self._pool = pool
        self.begun = threading.Event()  # the thread is there
        self.closing = False  # it has begun to end: there can be no more work
        self._wake_read, self._wake_write = os.pipe()
        self._woken = False  # the pipe has something in it; under the pool's lock
        self._open = True  # the pipe is; under the pool's lock
        self._answers = Answers(pool)
        try:
            os.set_blocking(self._wake_read, False)
            os.set_blocking(self._wake_write, False)
            self._selector = selectors.DefaultSelector()
            self._selector.register(self._wake_read, selectors.EVENT_READ, self._on_wake)
        except BaseException:
            os.close(self._wake_read)
            os.close(self._wake_write)
            raise
        self._stops = self._answers.stops = Stops(pool, self._answers)
        self._upkeep = Upkeep(pool)
        self._next_stop: float | None = None
        self._lives = Lives(pool, self._answers, self._stops, self._selector)

    def wake(self) -> None:
        """Make the reader look around. Under the pool's lock, any thread; never blocks."""
        if self._open and not self._woken:
            self._woken = True
            os.write(self._wake_write, b"\0")

    def wake_up(self) -> None:
        """Make the reader look around. Any thread."""
        with self._pool.lock:
            self.wake()

    def run(self) -> None:
        """Serve until the pool is closed and its work is done; then end all children."""
        threading.current_thread().__dict__["hybrid_reader"] = self  # see `_stops.Request`
        self.begun.set()
        with self._pool.lock:
            if self._pool.reader is not self:
                return  # who started us was interrupted, and has given us up
        try:
            while self._work():
                self._listen()
        except BaseException as error:
            if self._pool.forked:
                return  # a callback has forked, and this is the child: nothing is ours
            LOGGER.critical("the reader of %s has failed", self._pool.name, exc_info=True)
            self._give_up(error)
        self.close()

    def serve_until(self, answered: threading.Event) -> None:
        """Go on serving inside a callback, which waits for something that this thread does."""
        while self._work() and not answered.is_set():
            self._listen()

    def _work(self) -> bool:
        """Do all that there is to do; False if there will be no more."""
        self._pool.recover()
        self._pool.deliver_failed()
        self._next_stop = self._stops.turn()
        self._pool.feed_idle()
        self._lives.start_workers()
        return not self._is_over()  # asked last: what makes it true later wakes us

    def _listen(self) -> None:
        """Wait for something to happen, and take note of it."""
        for key, mask in self._selector.select(self._look_after(self._next_stop)):
            if key.data == self._on_wake:
                self._on_wake()
            elif key.data == self._lives.on_report:
                self._lives.on_report()
            else:
                self._on_worker(key.data, mask)

    def _is_over(self) -> bool:
        pool = self._pool
        with pool.lock:
            if pool.refusal is None or pool.waiting() or pool.failed:
                return False
            if any(each.items or each.messages for each in pool.workers):
                return False
            if any(each.hand is not None for each in (*pool.workers, *self._lives.held)):
                return False
            if not self.closing:
                self.closing = self._lives.ending = True
                for worker in pool.workers:
                    worker.leave()
            return self._lives.all_gone()

    def _give_up(self, error: BaseException) -> None:
        """After a bug in here: nobody shall wait for ever."""
        pool = self._pool
        with pool.lock:
            pool.broken = f"the reader of {pool.name!r} has failed: {error!r}"
            pool.refusal = WorkerStartError(pool.broken)
            pool.cause = error
            workers, pool.workers, pool.idle = pool.workers, [], []
            for worker in workers:
                worker.dead = worker.buried = True
        for worker in workers:
            worker.kill()
            while worker.items:
                settle(worker.items.popleft().fail, pool.start_error())
            with pool.lock:
                if worker.hand is None:
                    worker.close()
        pool.drop_all()

    def close(self) -> None:
        """Give everything back."""
        self._stops.answer_all()
        self._lives.close()
        self._selector.close()
        with self._pool.lock:
            self._open = False
            os.close(self._wake_read)
            os.close(self._wake_write)

    def forget(self) -> None:
        """Close our copies of descriptors in a forked child."""
        if not self._open:
            return
        self._open = False
        self._selector.close()
        os.close(self._wake_read)
        os.close(self._wake_write)
        self._lives.forget()

    def _on_wake(self) -> None:
        with self._pool.lock:
            self._woken = False
            with contextlib.suppress(BlockingIOError):
                os.read(self._wake_read, 64)

    # Answers.

    def _on_worker(self, worker: Worker, mask: int) -> None:
        if worker.dead or worker.lost:
            return
        if mask & selectors.EVENT_WRITE:
            self._lives.flush(worker)
        if mask & selectors.EVENT_READ:
            try:
                alive = worker.inbox.fill()
            except BlockingIOError:
                return
            except OSError:
                alive = False
            if alive:
                worker.due = None
                if self._answers.deliver(worker):
                    self._pool.feed_more(worker)
                return
            self._lives.lose(worker)

    # What the socket did not take, and what takes long.

    def _next_start(self, now: float) -> list[float]:
        """Say when to look whether a worker is to be started. Under the lock."""
        pool = self._pool
        if self._lives.needs_worker():
            return [max(self._lives.not_before, now)]
        return [now + _PARKED_SECONDS] if pool.streaming and pool.waiting() else []

    def _look_after(self, soonest: float | None) -> float | None:
        """Watch for room in sockets that had none; return how long to select, None for ever.

        `soonest` is the monotonic time of what else there is to do.
        """
        pool = self._pool
        now = time.monotonic()
        times = [] if soonest is None else [soonest]
        with pool.lock:
            workers = list(pool.workers)
            times += self._next_start(now)
        if (when := self._upkeep.turn(now)) is not None:
            times.append(when)
        if not workers and pool.settings.idle_timeout is not None:
            self._lives.end_spawner()
        for worker in workers:
            if worker.lost:
                continue
            wants = selectors.EVENT_READ
            if worker.outbox and worker.hand is None:
                wants |= selectors.EVENT_WRITE
            if self._selector.get_key(worker.sock).events != wants:
                self._selector.modify(worker.sock, wants, worker)
            if len(worker.items) > 1 and worker.ready:
                if worker.due is None:
                    worker.due = now + LATE
                elif worker.due <= now:
                    worker.due = self._answers.overdue(worker, now)
                if worker.due is not None:
                    times.append(worker.due)
        return min(max(0.0, min(times) - now), _LONGEST) if times else None
