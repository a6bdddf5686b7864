"""The lives of a ProcessExecutor's workers: when one is started, what a dead one leaves.

Owns the spawner, the list of its children, and the back-off between starts that fail. Part of
the reader thread (see `_reader`), on which all of it runs but `forget`; `_dispatch` tells of the
lock.

A worker counts as started when its initializer has run. Three that end before that, one after
the other while none is alive, break the pool: nothing can be done about what is queued. Between
the tries the reader waits (in its select: nobody sleeps).
"""

from __future__ import annotations

import os
import selectors
import signal
import time
from concurrent.futures import Future
from typing import Any

from hybrid_compute.errors import WorkerStartError
from hybrid_compute.executors._answers import Answers, crash, why
from hybrid_compute.executors._crew import Worker
from hybrid_compute.executors._delivery import settle
from hybrid_compute.executors._dispatch import Pool
from hybrid_compute.executors._frames import DECODING, ENDING, NO_STATUS, STARTED
from hybrid_compute.executors._spawning import Spawner, setup_body
from hybrid_compute.executors._stops import Stops
from hybrid_compute.items import WorkItem

__all__ = ["Lives"]

_TRIES = 3  # workers in a row that do not start, and workers that an item may kill
_BACK_OFF = 0.05  # seconds after the first failed start; four times as long after the next


class Lives:
    """The children of one pool.

    Attributes:
        not_before: monotonic time before which no worker is started.
        held: workers that are dead, while some thread still has items for them in hand.
        ending: the pool has no more work to do; a worker that ends is no failure.
    """

    def __init__(
        self, pool: Pool, answers: Answers, stops: Stops, selector: selectors.BaseSelector
    ) -> None:
        self._pool = pool
        self._stops = stops
        self._answers = answers
        self._selector = selector
        self._spawner: Spawner | None = None
        self._serials = 0
        self._by_serial: dict[int, Worker] = {}
        self._setup: bytes | None = None  # the pickled initializer
        self._kills: dict[Future[Any], int] = {}  # by the futures of the items that did it
        self.not_before = 0.0
        self.held: list[Worker] = []
        self.ending = False

    def all_gone(self) -> bool:
        """Say whether no worker is left."""
        return not self._by_serial

    def close(self) -> None:
        """End the spawner, and with it whatever is left of the workers."""
        if self._spawner is not None:
            self._spawner.end()
            self._spawner = None

    def end_spawner(self) -> None:
        """End the spawner while there are no workers; the next start makes another."""
        if self._spawner is not None and not self._by_serial:
            self._selector.unregister(self._spawner.control)
            self.close()

    def forget(self) -> None:
        """Close our copies of descriptors in a forked child."""
        if self._spawner is not None:
            self._spawner.forget()

    # Births.

    def start_workers(self) -> None:
        """Start as many as the queues need and `size` allows, unless it is too soon."""
        pool = self._pool
        if pool.broken is not None:
            pool.drop_all()
            return
        while time.monotonic() >= self.not_before:
            with pool.lock:
                if not self.needs_worker():
                    return
            self._start_worker()

    def needs_worker(self) -> bool:
        """Say whether another worker would find something to do. Under the lock."""
        pool = self._pool
        if pool.broken is not None:
            return False
        if pool.has_room():
            waiting = pool.waiting()
        elif pool.has_room_for_urgent():
            waiting = pool.waiting() - len(pool.fresh)
        else:
            return False
        # Items that a submitting thread is about to take need no new worker.
        takers = sum(1 for each in pool.workers if each.hand == [] and not each.messages)
        return waiting > takers

    def _start_worker(self) -> None:
        pool = self._pool
        worker = Worker(self._serials, pool.settings.max_tasks_per_child)
        try:
            if self._setup is None:
                self._setup = self._encode_initializer()
            if self._spawner is None:
                self._spawner = Spawner()
                self._selector.register(self._spawner.control, selectors.EVENT_READ, self.on_report)
            worker.levels = None if pool.levels is None else pool.levels.now()
            setup = setup_body(self._setup, pool.settings, worker.levels)
            worker.open(self._spawner, setup)
        except BlockingIOError:  # the spawner has its hands full
            self.not_before = time.monotonic() + _BACK_OFF
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
            worker.words[ENDING] = pool.ending
            pool.workers.append(worker)
        pool.feed(worker, hand, 1)
        if worker.outbox:
            self.flush(worker)

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
        self.not_before = time.monotonic() + _BACK_OFF * 4 ** (self._pool.failures - 1)
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

    def on_report(self) -> None:
        """Receive what the spawner tells of its children."""
        spawner = self._spawner
        if spawner is None:
            return
        try:
            dead = []
            for serial, pid, status in spawner.reports():
                worker = self._by_serial.get(serial)
                if worker is None:
                    continue
                if status == NO_STATUS:
                    worker.pid = pid
                    continue
                if pid == -1:
                    worker.unfit = OSError(status, f"fork: {os.strerror(status)}")
                worker.status = status
                dead.append(worker)
            for worker in dead:  # only now: a callback must find all that was told
                if not worker.dead:
                    self.bury(worker)
        except BlockingIOError:
            return
        except EOFError:
            self._selector.unregister(spawner.control)
            self._spawner = None
            spawner.end()
            # Its workers are nobody's: what they do could not be told from what others do.
            for worker in list(self._by_serial.values()):
                worker.kill()
                if worker.lost and not worker.dead:
                    self.bury(worker)

    # Deaths.

    def bury(self, worker: Worker) -> None:
        """Deliver what a dead worker has left, blame one item, requeue the others."""
        pool = self._pool
        with pool.lock:
            worker.dead = True  # from here on nobody adds to its items
            if worker in pool.idle:
                pool.idle.remove(worker)
        del self._by_serial[worker.serial]
        if not worker.lost:
            self._selector.unregister(worker.sock)
            worker.lost = True
            self._drain(worker)
        # What it had answered and not sent. A frame that it has sent in part becomes whole.
        worker.inbox.inject(worker.journal.unsent(worker.inbox.received))
        self._answers.deliver(worker)
        worker.stack = worker.journal.stack()
        guilty = self._requeue(worker)
        if worker.agent is not None:
            worker.agent.hang_up()
        with pool.lock:
            # Not before: a callback, in which this thread may go on, must see its items somewhere.
            pool.workers.remove(worker)
            pool.leaving -= worker.leaving is not None
            worker.buried = True
            pool.resting -= worker.waits > 0
            if worker.hand is None:
                worker.close()
            self.held = [each for each in (*self.held, worker) if each.hand is not None]
        if guilty is not None:
            self._blame(guilty, worker)
        if self._kills:
            self._kills = {k: n for k, n in self._kills.items() if not k.done()}
        if not worker.ready and not self.ending:
            # SIGKILL comes from somebody else, who may stop: it takes ten times as many.
            killed = worker.status is not None and os.WIFSIGNALED(worker.status)
            killed = killed and os.WTERMSIG(worker.status or 0) == signal.SIGKILL
            self._start_failed(worker.unfit, 0.1 if killed and worker.unfit is None else 1.0)

    def lose(self, worker: Worker) -> None:
        """Take note that a worker has closed its end of the socket, hence dies or is dead."""
        worker.lost = True
        self._selector.unregister(worker.sock)
        if worker.home is not self._spawner:
            self.bury(worker)  # else the spawner tells why

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
        withheld = worker.withheld is not None and number >= worker.withheld
        with pool.lock:
            if withheld:
                pass  # it did not run, though the worker may have looked at it
            elif items and worker.words[STARTED] == number:
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
        if self._stops.take(item) or item.future.done():
            return
        kills = self._kills.pop(item.future, 0) + 1
        error = crash(worker, item, kills)
        if kills < _TRIES:
            self._kills[item.future] = kills  # it may come again: see `RoutedItem.fail`
            settle(item.fail, error)
        else:
            settle(item.give_up, error)

    def flush(self, worker: Worker) -> None:
        """Send what has not fitted into the socket, unless somebody is at it."""
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
