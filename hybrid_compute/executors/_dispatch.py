"""The queue of a ProcessExecutor, and how its items get to the workers.

Owns the queue, the crew and who feeds whom; `_messages` owns what goes together in a message,
and its bytes, `_reader` the thread that listens.
(A few lines over 400: the lock and all that it guards are better seen in one place.)
The user's executor and this pool are two objects, so that an executor which is dropped without
`shutdown` is freed at once; the pool then finishes its work, and the reader ends.

    submit() -> fresh --.                      .-> worker 1 --.
                         >- feed(worker): take,|               |
    a crash,  -> again --|  start, encode,     |-> worker 2 ---+-> reader: answers -> futures
    a refusal -> alone --'  send               '-> ...  --------'      END -> feed(worker)

Threads. `push` runs on any thread, everything in `_reader` on the reader thread, `feed` on
both: an idle worker is fed by the thread that submits, with one item, which saves a hop; a busy
one by the reader when it has ended a message. `worker.hand` is what the thread that is at it
has taken for it; that thread alone touches the worker's outbox and appends to its items.

The lock. `lock` guards the queues, `workers`, `idle`, `refusal`, `broken`, `failed`, and of
each worker `hand`, `dead`, `revoked` and `messages`. It is re-entrant, since a signal handler
or a finalizer that submits may land on a thread that holds it; each statement under it leaves a
state that such a visitor can work with. No user code runs under it, nothing blocks under it
(but for the start of the reader), and no future completes under it.

Interrupts. A signal handler that raises, as Ctrl-C does, may cut `push` short after any call,
and only there: so what belongs together is done by statements in a row that call nothing. What
such a thread had in hand it leaves as it is, in `adrift`, for the reader to put in order: no
signal handler runs there. The item of a `submit` that was interrupted may still run, once.

Why no item is forgotten, in whatever order things happen:

1. An item is in exactly one of: a queue, the hands of a `feed`, the items of a living worker.
   If the worker dies or `feed` is interrupted, the reader puts it back into a queue: `recover`.
2. If a queue is not empty, then somebody will look at it: a worker is being fed (`feed` only
   stops, under the lock, when there is nothing to take), or a worker has a message out, which
   ends with END or with its death and both lead to `feed`; or there is no such worker, and then
   `push`, or whoever put the item back, has woken the reader, which feeds idle workers and
   starts new ones. No message tells that a stream waits for its consumer, who may wait for that
   item: so the reader looks every `_PARKED_SECONDS`, and who leaves the first item there wakes it,
   `push` or `let_go`.
3. A worker with items answers or dies. It dies as soon as it cannot answer: its socket is
   closed, or the spawner reports it, or the spawner is gone.
4. The reader lives until there is nothing of all this. If it dies of a bug, the pool is broken,
   and each thread that feeds fails what is left after that (`drop_all`).
5. Neither side waits for the other to read: the worker may block in a send, but the reader
   always reads; the reader and `push` never block in a send.
"""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Callable
from concurrent.futures._base import CANCELLED, PENDING, RUNNING
from math import inf
from typing import TYPE_CHECKING, Any

from hybrid_compute import _exit
from hybrid_compute._alarm import Deadlines
from hybrid_compute._contexts import Carried, run_carrying
from hybrid_compute._functions import CallEncoder
from hybrid_compute._producer import run_stream
from hybrid_compute.errors import WorkerStartError
from hybrid_compute.executors._batch import run_batch
from hybrid_compute.executors._delivery import cancel, settle, start
from hybrid_compute.executors._estimates import Estimates
from hybrid_compute.executors._frames import ENDING, PARKED
from hybrid_compute.executors._logs import Levels
from hybrid_compute.executors._messages import Messages
from hybrid_compute.executors._settings import Settings
from hybrid_compute.items import Keeper, WorkItem
from hybrid_compute.routed import RoutedItem

if TYPE_CHECKING:
    from hybrid_compute._seats import Seat
    from hybrid_compute.executors._agents import Agent
    from hybrid_compute.executors._crew import Worker
    from hybrid_compute.executors._reader import Reader
    from hybrid_compute.executors._stops import Request

__all__ = ["CLOSED", "Pool"]

CLOSED = "cannot schedule new futures after shutdown"
_EXITING = "cannot schedule new futures after interpreter shutdown"
_FORKED = (
    "this executor belongs to the parent process, whose worker processes a forked child cannot "
    "use: make a new executor here"
)

_START_SECONDS = 1.0  # a thread that was started has begun by then, or is taken not to be there
_MOST_PARKED = 64
_MOST_RESTING = 64  # workers that wait, and in whose place others may be there
_WINDOW = 2  # messages in flight per worker: one is run while the next is on its way


class Pool(_exit.Member, Keeper):
    """The queues and the crew. All methods may be called from any thread."""

    def __init__(
        self,
        name: str,
        initializer: Callable[..., object] | None,
        initargs: tuple[Any, ...],
        settings: Settings,
    ) -> None:
        self.size = settings.workers
        self.settings = settings
        self.name = name
        self.initializer = initializer
        self.initargs = initargs
        self.encoder = CallEncoder(carriers=(run_batch, run_stream, run_carrying))
        self.messages = Messages(self)
        self.levels = Levels() if settings.forward_logs else None
        self.carried: Carried | None = None  # see SubExecutor
        self.lock = threading.RLock()  # guards what follows: see the module's docstring
        self.fresh: deque[WorkItem] = deque()  # not started: they can be cancelled
        self.again: deque[WorkItem] = deque()  # started, and taken back before they ran
        self.alone: deque[WorkItem] = deque()  # the same, each to be sent by itself
        self.urgent: deque[WorkItem] = deque()  # fresh, and waited for by who holds a place himself
        self.failed: deque[tuple[WorkItem, BaseException]] = deque()  # for the reader to deliver
        self.adrift: list[tuple[Worker, list[WorkItem]]] = []  # left by interrupted threads
        self.requests: list[Request] = []  # items that somebody wants ended, though they run
        self.deadlines = Deadlines()
        self.next_deadline = inf  # when the reader looks for the next, or before: see `Stops.turn`
        self.estimates = Estimates()
        self.workers: list[Worker] = []
        self.ending = False  # streams wait for no consumer
        self.streaming = False  # there has been a stream
        self.resting = 0  # how many of them run what waits for other work
        self.agents: list[Agent] = []
        self.owner: Callable[[], Any] = (
            _nobody  # the executor whose pool it is, if it is still there
        )
        self.leaving = 0  # how many of them were dismissed
        self.idle: list[Worker] = []  # the last to be idle is the first to be busy: it is warm
        self.refusal: Exception | None = None  # why no new work is taken
        self.broken: str | None = None  # why none of the queued work will be done either
        self.reader: Reader | None = None
        self.thread: threading.Thread | None = None
        self.cause: BaseException | None = None  # of `broken`
        self.heard: int | None = None  # process id of the worker heard last; the reader's
        self.failures = 0.0  # workers in a row that did not start; the reader's
        self.forked = self.cancelling = False

    # Coming in.

    def push(self, item: WorkItem, *, late: bool = False) -> None:
        """Queue an item; send it at once if a worker is idle.

        Args:
            item: what is to be done.
            late: it stands for work that was accepted before `close`: take it as long as the
                reader is there.
        """
        hand: list[WorkItem] = []
        worker: Worker | None = None
        try:
            with self.lock:
                if self.refusal is not None and not (late and self._takes_late()):
                    raise type(self.refusal)(*self.refusal.args) from self.cause
                item.keeper = self
                if item.deadline is not None:
                    self.watch(item)
                self.fresh.append(item)
                if self.idle:
                    worker = self.idle[-1]
                    worker.hand = hand
                    del self.idle[-1]
                elif self.thread is None:
                    self._start_reader(item)
                elif self.has_room() or (self.streaming and len(self.fresh) == 1):
                    self.wake()  # it is to look now and then whether a stream waits, see 2.
            if worker is not None:
                self.feed(worker, hand, 1)
        except BaseException:
            with self.lock:
                if worker is not None:
                    self._strand(worker, hand)
                elif self.thread is not None:
                    self.wake()
                elif item in self.fresh:
                    self.fresh.remove(item)  # there is nobody to run it
            raise
        finally:
            if worker is not None and self.broken is not None:
                self.drop_all()

    def watch(self, item: WorkItem) -> None:
        """See to it that an item ends at its deadline. Under the lock."""
        self.deadlines.add(item)
        if item.deadline is not None and item.deadline < self.next_deadline:
            self.next_deadline = item.deadline
            self.wake()  # it sleeps, and does not know of it

    def _takes_late(self) -> bool:
        reader = self.reader
        gone = self.broken is not None or self.forked or self.cancelling
        return not (gone or reader is None or reader.closing)

    def _start_reader(self, item: WorkItem) -> None:
        reader = None
        try:
            from hybrid_compute.executors._reader import Reader  # noqa: PLC0415 - on first need

            reader = Reader(self)
            thread = threading.Thread(target=reader.run, name=f"{self.name}-reader", daemon=True)
            self.reader, self.thread = reader, thread
            thread.start()
        except BaseException as error:
            # An interrupted start() may have started it. If not, it says so by a RuntimeError.
            if self.thread is None or isinstance(error, RuntimeError) or not self._has_begun():
                self.reader = self.thread = None
                self.fresh.remove(item)
                if reader is not None:
                    reader.close()
            raise

    def _has_begun(self) -> bool:
        return self.reader is not None and self.reader.begun.wait(_START_SECONDS)

    def wake(self) -> None:
        """Have the reader look at everything soon."""
        with self.lock:
            if self.reader is not None:
                self.reader.wake()

    def give_back(self, belief: object) -> list[RoutedItem]:
        """Take the items with this belief, which have not started, out of the queue."""
        with self.lock:
            found = [
                each
                for each in self.fresh
                if isinstance(each, RoutedItem) and each.belief is belief and each.deadline is None
            ]
            if found:
                gone = set(map(id, found))
                self.fresh = deque(each for each in self.fresh if id(each) not in gone)
                for each in found:
                    each.keeper = None
                self.wake()  # it may have nothing left to do
        return found

    # Going out.

    def feed(self, worker: Worker, hand: list[WorkItem], window: int) -> None:
        """Send items to a worker while it may have more.

        Args:
            worker: whom to feed; it is let go when this returns or raises.
            hand: `worker.hand`, which the caller has set.
            window: how many messages the worker may have at a time. 1 also means: one item,
                since this is not the reader, which alone watches for batches that take long.
        """
        try:
            while True:
                with self.lock:
                    fresh = self.messages.take(worker, hand, window)
                    if not hand:
                        self.let_go(worker)
                        return
                if fresh:
                    hand[:] = [item for item in hand if start(item)]
                if not self.messages.send(worker, hand):
                    self._strand(worker, hand)
                    return
        except BaseException:  # Ctrl-C on the submitting thread, or no memory
            self._strand(worker, hand)
            raise

    def let_go(self, worker: Worker) -> None:
        """End the feeding of a worker, whose hand is empty. Under the lock."""
        if worker.dead:
            if worker.buried:
                worker.close()  # the reader has left it to us
            self.wake()
        else:
            idle = not worker.messages and not worker.revoked
            if idle and (worker.retiring or self._has_spare()):
                self.dismiss(worker)
            elif idle:
                if self.settings.idle_timeout is not None or worker.sender.has_some:
                    worker.idle_since = time.monotonic()
                    worker.trims = 0
                    if threading.current_thread() is not self.thread:
                        self.wake()  # it sleeps, and does not know since when
                self.idle.append(worker)
            # Items may have come meanwhile, from a signal handler or while this one was taken.
            # And if streams come to wait, there will be room for another worker: see 2.
            waits = (idle or self.streaming or self.has_room()) and self.waiting()
            if worker.outbox or waits or self.refusal is not None:
                self.wake()
        worker.hand = None  # last: if a signal handler raises before, `recover` does it again

    def has_room(self) -> bool:
        """Say whether there may be another worker. Under the lock.

        Those that only have to exit do not count, unless there are many: they may take long. And
        those whose stream waits for its consumer do not either, or he might wait for work that
        waits for them.
        """
        return self.crew() < self.size

    def crew(self) -> int:
        """Return how many workers count. Under the lock."""
        return len(self.workers) - min(self.leaving, self.size) - self.parked()

    def is_crowded(self) -> bool:
        """Say whether more than `size` are at work or rest: those take what is urgent, and no more.

        Under the lock, for a worker that is not idle.
        """
        return len(self.workers) > self.size and self._busy() > self.size

    def _busy(self) -> int:
        return len(self.workers) - self.leaving - self.parked() - len(self.idle)

    def _has_spare(self) -> bool:
        """Say whether there are more workers than any call could have use for. Under the lock.

        Who has waited for nested work once will do so again: then one more is kept.
        """
        crew = len(self.workers) - self.leaving - self.parked()
        return crew - self.resting > self.size + bool(self.agents)

    def has_room_for_urgent(self) -> bool:
        """Say whether there may be another worker for those who wait. Under the lock."""
        return self.crew() - min(self.resting, _MOST_RESTING) < self.size

    def rest(self, worker: Worker) -> None:
        """Take note that a worker runs what is about to wait for other work. Any thread."""
        with self.lock:
            self.resting += not (worker.waits or worker.buried)
            worker.waits += 1
            if len(worker.items) > 1:
                worker.due = 0.0  # what it waits for may be among those behind it: take them back
            self.wake()

    def unrest(self, worker: Worker, seat: Seat) -> None:
        """Take note that it goes on. Any thread."""
        with self.lock:
            if seat.blocked:
                seat.blocked = False
                worker.waits -= 1
                self.resting -= not (worker.waits or worker.buried)

    @property
    def most(self) -> int:
        """How many workers there may be, those that rest included."""
        return self.size + _MOST_RESTING

    def is_exhausted(self) -> bool:
        """Say whether all workers rest, and there may be no other. Any thread."""
        with self.lock:
            all_rest = self.resting >= max(len(self.workers) - self.leaving, self.most)
            return all_rest and self.waiting() > 0

    def urge(self, items: set[WorkItem]) -> None:
        """Have queued items done first, since a thread that has a place waits for them."""
        wanted = {each for each in items if each.future._state == PENDING}
        if not wanted:
            return
        found: list[WorkItem] = []
        behind: list[WorkItem] = []
        with self.lock:
            # From the right, where they most probably are: who waits has just submitted them.
            while self.fresh and len(found) < len(wanted):
                item = self.fresh.pop()
                (found if item in wanted else behind).append(item)
            self.fresh.extend(reversed(behind))
            self.urgent.extend(reversed(found))
            self.wake()

    def agent_ended(self, agent: Agent) -> None:
        """Forget an agent, whose thread is about to end."""
        with self.lock:
            if agent in self.agents:
                self.agents.remove(agent)

    def parked(self) -> int:
        """Return how many workers do nothing, since their streams wait. Under the lock."""
        if not self.streaming:
            return 0
        return min(
            _MOST_PARKED,
            sum(1 for each in self.workers if each.items and each.words[PARKED]),
        )

    def dismiss(self, worker: Worker) -> None:
        """Tell an idle worker that there is nothing more to come. Under the lock."""
        if worker.leaving is None:
            worker.leaving = time.monotonic()
            self.leaving += 1
            worker.leave()

    def _strand(self, worker: Worker, hand: list[WorkItem]) -> None:
        """Leave a worker, and what was taken for it, to the reader."""
        if worker.hand is hand:
            self.adrift += ((worker, hand),)
        self.wake()

    def recover(self) -> None:
        """Put back into the queues what was taken for a worker and not sent."""
        while True:
            with self.lock:
                if not self.adrift:
                    return
                worker, hand = self.adrift.pop()
                if worker.hand is not hand:
                    continue  # it was let go
                if worker.taken is not None and worker.taken not in hand:
                    hand.append(worker.taken)
                worker.taken = None
                for item in reversed(hand):
                    if item.future._state == RUNNING:
                        self.again.appendleft(item)
                    elif item.future._state in (PENDING, CANCELLED):
                        self.fresh.appendleft(item)  # if it was cancelled, start() will say so
                hand.clear()
                if worker in self.idle:
                    self.idle.remove(worker)
                self.let_go(worker)

    def stop(self, item: WorkItem) -> bool | None:
        """End an item although it runs; see `Keeper.stop` and `_stops`."""
        from hybrid_compute.executors._stops import end_and_wait  # noqa: PLC0415 - few need it

        return end_and_wait(self, item)

    def drop(self, item: WorkItem) -> None:
        """Have an item ended although it runs, and do not wait for that."""
        from hybrid_compute.executors._stops import end_soon  # noqa: PLC0415 - few need it

        end_soon(self, item)

    # For the reader.

    def waiting(self) -> int:
        """Return how many items are queued."""
        return len(self.alone) + len(self.again) + len(self.urgent) + len(self.fresh)

    def feed_idle(self) -> None:
        """Feed idle workers as long as there is work for them."""
        while True:
            with self.lock:
                if not self.idle or not self.waiting():
                    return
                if self.waiting() == len(self.fresh) and self._busy() >= self.size:
                    return  # there are more than `size` workers, and enough of them have work
                worker = self.idle.pop()
                hand: list[WorkItem] = []
                worker.hand = hand
            self.feed(worker, hand, _WINDOW)

    def feed_more(self, worker: Worker) -> None:
        """Feed a worker that has ended a message."""
        with self.lock:
            if worker.hand is not None or worker.dead:
                return  # who sends looks for more by itself
            if worker in self.idle:
                return
            hand: list[WorkItem] = []
            worker.hand = hand
        self.feed(worker, hand, _WINDOW)

    def deliver_failed(self) -> None:
        """Deliver to items that they cannot be pickled."""
        while True:
            with self.lock:
                if not self.failed:
                    return
                item, error = self.failed.popleft()
            settle(item.fail, error)
            del item, error

    def drop_all(self) -> None:
        """Fail all that is queued: the pool is broken."""
        self.recover()
        self.deliver_failed()
        with self.lock:
            started = [*self.alone, *self.again]
            fresh = [*self.urgent, *self.fresh]
            self.alone.clear()
            self.again.clear()
            self.urgent.clear()
            self.fresh.clear()
        for item in started:
            settle(item.fail, self.start_error())
        for item in fresh:
            settle(item.reject, self.start_error())

    def start_error(self) -> WorkerStartError:
        """Return what fails the items of a broken pool."""
        error = WorkerStartError(self.broken or "")
        error.__cause__ = self.cause
        return error

    # The end.

    def close(self, refusal: Exception) -> None:
        """Refuse new work from now on, for this reason."""
        with self.lock:
            if self.refusal is None:
                self.refusal = refusal
            self.wake()

    def cancel_all(self) -> None:
        """Cancel what has not been sent, and waits for more than its worker's start."""
        dropped: list[WorkItem] = []
        interrupt: BaseException | None = None
        while True:
            try:
                with self.lock:
                    self.cancelling = True
                    while self.urgent:
                        self.fresh.appendleft(self.urgent.pop())
                    # With the stdlib's pools, an item that finds a worker free runs: so also here.
                    free = self.size - len(self.workers)
                    while len(self.fresh) > free:
                        item = self.fresh[-1]
                        del self.fresh[-1]
                        dropped += (item,)
                    self.wake()
                while dropped:
                    cancel(dropped[-1])
                    del dropped[-1]
                break
            except BaseException as error:  # Ctrl-C, which waits until none is forgotten
                interrupt = error
        if interrupt is not None:
            raise interrupt

    def close_at_exit(self) -> None:
        """Refuse new work, in the words that the stdlib has for it."""
        self.close(RuntimeError(_EXITING))
        self.end_streams()

    def end_streams(self) -> None:
        """End the streams that wait for their consumers, now and from now on."""
        with self.lock:
            self.ending = True
            for worker in self.workers:
                worker.words[ENDING] = 1

    def join(self) -> None:
        """Block until all is done and the children have ended; the reader does not wait."""
        thread, me = self.thread, threading.current_thread()
        if thread is not None and thread is not me:
            thread.join()
            with self.lock:
                agents = list(self.agents)
            for each in agents:
                if each.thread is not me:
                    each.thread.join()

    def at_fork(self) -> None:
        """See to it that the child's copies of results stay as they are."""
        with self.lock:
            for worker in self.workers:
                worker.receiver.retire()

    def after_fork(self) -> None:
        """Leave all to the parent, but for the descriptors, which are copies."""
        self.lock = threading.RLock()
        self.forked = True
        self.refusal = RuntimeError(_FORKED)
        self.fresh, self.again, self.alone, self.failed = deque(), deque(), deque(), deque()
        self.urgent, self.resting = deque(), 0
        self.idle, self.adrift, self.requests, self.leaving = [], [], [], 0
        agents, self.agents = self.agents, []
        for agent in agents:
            agent.forget()
        self.deadlines, self.next_deadline = Deadlines(), inf
        workers, self.workers = self.workers, []
        for worker in workers:
            worker.forget()
        reader, self.reader, self.thread = self.reader, None, None
        if reader is not None:
            reader.forget()


def _nobody() -> None:
    return None
