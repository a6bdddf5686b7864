"""The one thread of a ProcessExecutor: it listens to all workers, and sees to their lives.

Owns the selector, the spawner, and what becomes of answers, of overdue messages and of the
dead. Everything here but `wake` and `forget` runs on that thread; see `_dispatch` for the lock
and for who else touches a worker.

    select -> answers    -> succeed, fail; END: learn, feed again
           -> EOF/report -> bury: take the answers from the journal, blame one, requeue the rest
           -> nothing for 5 ms from a worker with more than one item -> `Answers.overdue`
    before each select: feed the idle, start workers if items wait and fewer than `size` live

A worker counts as started when its initializer has run. Three that end before that, one after
the other while none is alive, break the pool: nothing can be done about what is queued. Between
the tries the reader waits (in its select: nobody sleeps).
"""

from __future__ import annotations

import contextlib
import os
import selectors
import signal
import threading
import time
from concurrent.futures._base import LOGGER

from hybrid_compute.errors import WorkerStartError
from hybrid_compute.executors._answers import LATE, Answers, crash, why
from hybrid_compute.executors._crew import Spawner, Worker, setup_body
from hybrid_compute.executors._dispatch import Pool, settle
from hybrid_compute.executors._frames import DECODING, NO_STATUS, STARTED
from hybrid_compute.items import WorkItem

__all__ = ["Reader"]

_TRIES = 3  # workers in a row that do not start, and workers that an item may kill
_BACK_OFF = 0.05  # seconds after the first failed start; four times as long after the next


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
        self._spawner: Spawner | None = None
        self._serials = 0
        self._by_serial: dict[int, Worker] = {}
        self._setup: bytes | None = None  # the pickled initializer
        self._not_before = 0.0
        self._kills: dict[WorkItem, int] = {}
        self._held: list[Worker] = []  # dead, while some thread still has items for them in hand

    def wake(self) -> None:
        """Make the reader look around. Under the pool's lock, any thread; never blocks."""
        if self._open and not self._woken:
            self._woken = True
            os.write(self._wake_write, b"\0")

    def run(self) -> None:
        """Serve until the pool is closed and its work is done; then end all children."""
        self.begun.set()
        with self._pool.lock:
            if self._pool.reader is not self:
                return  # who started us was interrupted, and has given us up
        try:
            while True:
                self._pool.recover()
                self._pool.deliver_failed()
                self._pool.feed_idle()
                self._start_workers()
                if self._is_over():  # asked last: what makes it true later wakes us
                    break
                for key, mask in self._selector.select(self._look_after()):
                    if key.data == self._on_wake:
                        self._on_wake()
                    elif key.data == self._on_report:
                        self._on_report()
                    else:
                        self._on_worker(key.data, mask)
        except BaseException as error:
            if self._pool.forked:
                return  # a callback has forked, and this is the child: nothing is ours
            LOGGER.critical("the reader of %s has failed", self._pool.name, exc_info=True)
            self._give_up(error)
        self.close()

    def _is_over(self) -> bool:
        pool = self._pool
        with pool.lock:
            if pool.refusal is None or pool.waiting() or pool.failed:
                return False
            if any(each.items or each.messages for each in pool.workers):
                return False
            if any(each.hand is not None for each in (*pool.workers, *self._held)):
                return False
            if not self.closing:
                self.closing = True
                for worker in pool.workers:
                    worker.leave()
            return not self._by_serial

    def close(self) -> None:
        """Give everything back."""
        if self._spawner is not None:
            self._spawner.end()
            self._spawner = None
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
        if self._spawner is not None:
            self._spawner.forget()

    def _on_wake(self) -> None:
        with self._pool.lock:
            self._woken = False
            with contextlib.suppress(BlockingIOError):
                os.read(self._wake_read, 64)

    # Lives.

    def _start_workers(self) -> None:
        pool = self._pool
        if pool.broken is not None:
            pool.drop_all()
            return
        while time.monotonic() >= self._not_before:
            with pool.lock:
                if not self._needs_worker():
                    return
            self._start_worker()

    def _needs_worker(self) -> bool:
        pool = self._pool
        if pool.broken is not None or len(pool.workers) >= pool.size:
            return False
        # Items that a submitting thread is about to take need no new worker.
        takers = sum(1 for each in pool.workers if each.hand == [] and not each.messages)
        return pool.waiting() > takers

    def _start_worker(self) -> None:
        pool = self._pool
        worker = Worker(self._serials)
        try:
            if self._setup is None:
                self._setup = self._encode_initializer()
            if self._spawner is None:
                self._spawner = Spawner()
                self._selector.register(
                    self._spawner.control, selectors.EVENT_READ, self._on_report
                )
            worker.open(self._spawner, setup_body(self._setup))
        except BlockingIOError:  # the spawner has its hands full
            self._not_before = time.monotonic() + _BACK_OFF
            return
        except BaseException as error:
            self._start_failed(error)
            return
        self._serials += 1
        self._by_serial[worker.serial] = worker
        self._selector.register(worker.sock, selectors.EVENT_READ, worker)
        with pool.lock:
            hand: list[WorkItem] = []
            worker.hand = hand
            pool.workers.append(worker)
        pool.feed(worker, hand, 1)
        if worker.outbox:
            self._flush(worker)

    def _encode_initializer(self) -> bytes:
        pool = self._pool
        if pool.initializer is None:
            return b""
        try:
            return pool.encoder.encode_call(
                pool.initializer, pool.initargs, None, name="initializer"
            )
        except BaseException:
            self._pool.failures = _TRIES  # it will not be better next time
            raise

    def _start_failed(self, cause: BaseException | None, weight: float = 1.0) -> None:
        self._pool.failures += weight
        self._not_before = time.monotonic() + _BACK_OFF * 4 ** (self._pool.failures - 1)
        pool = self._pool
        if self._pool.failures >= _TRIES and not any(each.ready for each in pool.workers):
            with pool.lock:
                pool.broken = (
                    f"worker processes of {pool.name!r} do not start, {_TRIES} in a row: "
                    + why(cause)
                )
                pool.refusal = WorkerStartError(pool.broken)
                pool.cause = cause
            pool.drop_all()

    def _on_report(self) -> None:
        spawner = self._spawner
        if spawner is None:
            return
        try:
            for serial, pid, status in spawner.reports():
                worker = self._by_serial.get(serial)
                if worker is None:
                    continue
                if status == NO_STATUS:
                    worker.pid = pid
                elif pid == -1:
                    worker.unfit = OSError(status, f"fork: {os.strerror(status)}")
                    worker.status = status
                    self._bury(worker)
                else:
                    worker.status = status
                    self._bury(worker)
        except BlockingIOError:
            return
        except EOFError:
            self._selector.unregister(spawner.control)
            self._spawner = None
            spawner.end()
            # Its workers are nobody's: what they do could not be told from what others do.
            for worker in list(self._by_serial.values()):
                worker.kill()
                if worker.lost:
                    self._bury(worker)

    def _bury(self, worker: Worker) -> None:
        """Deliver what a dead worker has left, blame one item, requeue the others."""
        pool = self._pool
        with pool.lock:
            worker.dead = True  # from here on nobody adds to its items
            pool.workers.remove(worker)
            if worker in pool.idle:
                pool.idle.remove(worker)
        del self._by_serial[worker.serial]
        if not worker.lost:
            self._selector.unregister(worker.sock)
            self._drain(worker)
        # What it had answered and not sent. A frame that it has sent in part becomes whole.
        worker.inbox.inject(worker.journal.unsent(worker.inbox.received))
        self._answers.deliver(worker)
        guilty = self._requeue(worker)
        with pool.lock:
            if worker.hand is None:
                worker.close()
            self._held = [each for each in (*self._held, worker) if each.hand is not None]
        if guilty is not None:
            self._blame(guilty, worker)
        if self._kills:
            self._kills = {k: n for k, n in self._kills.items() if not k.future.done()}
        if not worker.ready and not self.closing:
            # SIGKILL comes from somebody else, who may stop: it takes ten times as many.
            killed = worker.status is not None and os.WIFSIGNALED(worker.status)
            killed = killed and os.WTERMSIG(worker.status or 0) == signal.SIGKILL
            self._start_failed(worker.unfit, 0.1 if killed and worker.unfit is None else 1.0)

    def _drain(self, worker: Worker) -> None:
        try:
            while worker.inbox.fill():
                self._answers.deliver(worker)
        except OSError:
            pass  # nothing more, or reset: it has died with messages unread

    def _requeue(self, worker: Worker) -> WorkItem | None:
        """Put what a dead worker has not begun back into the queues; return what it died of."""
        pool, items, number = self._pool, worker.items, worker.number
        guilty = None
        with pool.lock:
            if items and worker.words[STARTED] == number:
                guilty = items.popleft()
            elif items and worker.words[DECODING] == number:
                # It died unpickling this message. Which of the calls is to blame, each will
                # show by itself.
                end = worker.messages[0].end
                first = [items.popleft() for _ in range(min(end - number, len(items)))]
                if len(first) == 1:
                    guilty = first[0]
                else:
                    pool.alone.extend(first)
            pool.again.extendleft(reversed(items))
            items.clear()
            worker.messages.clear()
        return guilty

    def _blame(self, item: WorkItem, worker: Worker) -> None:
        kills = self._kills.pop(item, 0) + 1
        if kills < _TRIES and item.may_run_again():
            self._kills[item] = kills
            with self._pool.lock:
                self._pool.alone.append(item)
            return
        settle(item.fail, crash(worker, item, kills))

    def _give_up(self, error: BaseException) -> None:
        """After a bug in here: nobody shall wait for ever."""
        pool = self._pool
        with pool.lock:
            pool.broken = f"the reader of {pool.name!r} has failed: {error!r}"
            pool.refusal = WorkerStartError(pool.broken)
            pool.cause = error
            workers, pool.workers, pool.idle = pool.workers, [], []
            for worker in workers:
                worker.dead = True
        for worker in workers:
            worker.kill()
            while worker.items:
                settle(worker.items.popleft().fail, pool.start_error())
            with pool.lock:
                if worker.hand is None:
                    worker.close()
        pool.drop_all()

    # Answers.

    def _on_worker(self, worker: Worker, mask: int) -> None:
        if worker.dead:
            return
        if mask & selectors.EVENT_WRITE:
            self._flush(worker)
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
            worker.lost = True
            self._selector.unregister(worker.sock)
            if worker.home is not self._spawner:
                self._bury(worker)  # else the spawner tells why

    # What the socket did not take, and what takes long.

    def _flush(self, worker: Worker) -> None:
        pool = self._pool
        with pool.lock:
            if worker.hand is not None or worker.dead:
                return
            worker.hand = []
            if worker in pool.idle:  # it has had nothing but its first message
                pool.idle.remove(worker)
        worker.flush()
        with pool.lock:
            pool.let_go(worker)

    def _look_after(self) -> float | None:
        """Watch for room in sockets that had none; return how long to select, None for ever."""
        pool = self._pool
        now = time.monotonic()
        soonest: float | None = None
        with pool.lock:
            workers = list(pool.workers)
            if self._needs_worker():
                soonest = max(self._not_before, now)
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
                if worker.due is not None and (soonest is None or worker.due < soonest):
                    soonest = worker.due
        return None if soonest is None else max(0.0, soonest - now)
