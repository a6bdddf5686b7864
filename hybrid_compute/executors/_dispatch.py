"""The queue of a ProcessExecutor, and how its items get to the workers.

Owns the queue, the crew and who sends what to whom; `_reader` owns the thread that listens.
The user's executor and this pool are two objects, so that an executor which is dropped without
`shutdown` is freed at once; the pool then finishes its work, and the reader ends.

    submit() -> fresh --.                      .-> worker 1 --.
                         >- feed(worker): take,|               |
    a crash,  -> again --|  start, encode,     |-> worker 2 ---+-> reader: answers -> futures
    a refusal -> alone --'  send               '-> ...  --------'      END -> feed(worker)

Threads. `push` runs on any thread, everything in `_reader` on the reader thread, `feed` on
both: an idle worker is fed by the thread that submits, with one item, which saves a hop; a busy
one by the reader when it has ended a message. `worker.sending` says that some thread is at it;
that thread alone touches the worker's outbox and appends to its items.

The lock. `lock` guards the three queues, `workers`, `idle`, `refusal`, `broken`, `woken`, and
of each worker `sending`, `dead`, `revoked` and `messages`. It is re-entrant, since a signal
handler or a finalizer that submits may land on a thread that holds it; each statement under it
leaves a state that such a visitor can work with. No user code runs under it, nothing blocks
under it, and no future completes under it.

Why no item is forgotten, in whatever order things happen:

1. An item is in exactly one of: a queue, the hands of a `feed`, the items of a living worker.
   `feed` puts what it holds back into a queue if the worker is dead, or if it is interrupted.
2. If a queue is not empty, then somebody will look at it: a worker is being fed (`feed` only
   stops, under the lock, when there is nothing to take), or a worker has a message out, which
   ends with END or with its death and both lead to `feed`; or there is no such worker, and then
   `push`, or whoever put the item back, has woken the reader, which feeds idle workers and
   starts new ones.
3. A worker with items answers or dies. It dies as soon as it cannot answer: its socket is
   closed, or the spawner reports it, or the spawner is gone.
4. Neither side waits for the other to read: the worker may block in a send, but the reader
   always reads; the reader and `push` never block in a send.
"""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable
from concurrent.futures._base import LOGGER
from typing import TYPE_CHECKING, Any

from hybrid_compute._functions import CallEncoder
from hybrid_compute.executors._estimates import Estimates, key_of
from hybrid_compute.items import WorkItem

if TYPE_CHECKING:
    from hybrid_compute.executors._crew import Worker
    from hybrid_compute.executors._reader import Reader

__all__ = ["CLOSED", "Pool", "settle"]

CLOSED = "cannot schedule new futures after shutdown"
_EXITING = "cannot schedule new futures after interpreter shutdown"
_FORKED = (
    "this executor belongs to the parent process, whose worker processes a forked child cannot "
    "use: make a new executor here"
)

# A message costs some 50 us of both sides (benchmarks/process.py): 2 ms of
# work make that small, and hold nobody up for longer than one would notice.
_BATCH_SECONDS = 0.002
_SHORT_SECONDS = 0.001  # a second message goes to a busy worker only for what is this short
_BATCH_ITEMS = 2048
_WINDOW = 2  # messages in flight per worker: one is run while the next is on its way


def settle(deliver: Callable[[Any], None], outcome: Any) -> None:
    """Call `item.succeed` or `item.fail`; whatever comes out of it is logged and ends here.

    A done-callback may raise SystemExit, and a program may have settled the future by itself:
    neither must keep other items from theirs.
    """
    try:
        deliver(outcome)
    except BaseException:
        LOGGER.exception("exception delivering the outcome of a work item")


def _start(item: WorkItem) -> bool:
    try:
        return item.start()
    except RuntimeError:  # a program has settled the future by itself; the stdlib logs it
        return False


class Pool:
    """The queues and the crew. All methods may be called from any thread."""

    def __init__(
        self,
        size: int,
        name: str,
        initializer: Callable[..., object] | None,
        initargs: tuple[Any, ...],
    ) -> None:
        self.size = size
        self.name = name
        self.initializer = initializer
        self.initargs = initargs
        self.encoder = CallEncoder()
        self.lock = threading.RLock()  # guards what follows: see the module's docstring
        self.fresh: deque[WorkItem] = deque()  # not started: they can be cancelled
        self.again: deque[WorkItem] = deque()  # started, and taken back before they ran
        self.alone: deque[WorkItem] = deque()  # the same, each to be sent by itself
        self.estimates = Estimates()
        self.workers: list[Worker] = []
        self.idle: list[Worker] = []  # the last to be idle is the first to be busy: it is warm
        self.refusal: Exception | None = None  # why no new work is taken
        self.broken: str | None = None  # why none of the queued work will be done either
        self.reader: Reader | None = None
        self.thread: threading.Thread | None = None
        self.cause: BaseException | None = None  # of `broken`
        self.failures = 0.0  # workers in a row that did not start; the reader's
        self.forked = False

    # Coming in.

    def push(self, item: WorkItem) -> None:
        """Queue an item; send it at once if a worker is idle."""
        with self.lock:
            if self.refusal is not None:
                raise type(self.refusal)(*self.refusal.args) from self.cause
            self.fresh.append(item)
            if self.idle:
                worker = self.idle.pop()
                worker.sending = True
            else:
                if len(self.workers) < self.size:
                    self._start_or_wake(item)
                return
        self.feed(worker, 1)

    def _start_or_wake(self, item: WorkItem) -> None:
        if self.thread is None:
            from hybrid_compute.executors._reader import Reader  # noqa: PLC0415 - on first need

            reader = Reader(self)
            thread = threading.Thread(target=reader.run, name=f"{self.name}-reader", daemon=True)
            self.reader, self.thread = reader, thread
            try:
                thread.start()
            except BaseException:
                self.reader = self.thread = None
                reader.close()
                self.fresh.remove(item)
                raise
        self.wake()

    def wake(self) -> None:
        """Have the reader look at everything soon."""
        with self.lock:
            if self.reader is not None:
                self.reader.wake()

    # Going out.

    def feed(self, worker: Worker, window: int) -> None:
        """Send items to a worker while it may have more.

        The caller has set `worker.sending`; it is given back when this returns or raises.

        Args:
            worker: whom to feed.
            window: how many messages the worker may have at a time. 1 also means: one item,
                since this is not the reader, which alone watches for batches that take long.
        """
        items: list[WorkItem] = []
        try:
            while True:
                with self.lock:
                    # Those that come again are running already, as far as their futures know.
                    cancellable = not self.alone and not self.again
                    items = self._take(worker, window)
                    if not items:
                        self.let_go(worker)
                        return
                if cancellable:
                    items[:] = [item for item in items if _start(item)]
                self._send(worker, items)
        except BaseException:  # Ctrl-C on the submitting thread, or no memory
            self._abandon(worker, items)
            raise

    def _take(self, worker: Worker, window: int) -> list[WorkItem]:
        """Return the items of the next message. Under the lock."""
        busy = len(worker.messages)
        if worker.dead or worker.revoked or busy >= window:
            return []
        if self.alone:
            return [] if busy else [self.alone.popleft()]
        queue = self.again or self.fresh
        if not queue:
            return []
        fn = queue[0].fn
        seconds = self.estimates.of(key_of(fn))
        if seconds is None or seconds > _SHORT_SECONDS:
            return [] if busy else [queue.popleft()]
        if window == 1:
            return [queue.popleft()]
        items: list[WorkItem] = []
        left = _BATCH_SECONDS
        for _ in range(min(_BATCH_ITEMS, max(1, len(queue) // (_WINDOW * self.size)))):
            item = queue[0]
            if item.fn is not fn:
                fn = item.fn
                seconds = self.estimates.of(key_of(fn))
                if seconds is None:
                    break
            left -= seconds
            if left < 0 and items:
                break
            items.append(queue.popleft())
        return items

    def _send(self, worker: Worker, items: list[WorkItem]) -> None:
        """Encode and send items; empties the list as they find an owner."""
        together = len(items) > 1
        while items:
            body = self._encode_all(items) if together else self._encode_first(items)
            if body is None:
                together = False  # one is to blame: find out which
                continue
            batch = items[:] if together else items[:1]
            key = key_of(batch[0].fn)
            if together and any(key_of(each.fn) is not key for each in batch):
                key = None
            with self.lock:
                if worker.dead:
                    self.again.extendleft(reversed(items))
                    items.clear()
                    return
                worker.put_calls(batch, body, key)
                del items[: len(batch)]
        worker.flush()

    def _encode_all(self, items: list[WorkItem]) -> bytes | None:
        """Pickle the items as one message; None if that cannot be."""
        try:
            calls = [(each.fn, each.args, each.kwargs) for each in items]
            return self.encoder.encode_calls(calls)  # type: ignore[arg-type]  # not released
        except BaseException:  # a __reduce__ may raise anything; signals go to another thread
            return None

    def _encode_first(self, items: list[WorkItem]) -> bytes | None:
        """Pickle the first of the items; if that cannot be, fail it, and take it from the list."""
        item = items[0]
        fn, args, kwargs = item.fn, item.args, item.kwargs
        try:
            return self.encoder.encode_call(fn, args, kwargs, name=item.name)  # type: ignore[arg-type]
        except Exception as error:
            del items[0]
            settle(item.fail, error)
            return None

    def let_go(self, worker: Worker) -> None:
        """End the feeding of a worker. Under the lock."""
        worker.sending = False
        if worker.dead:
            worker.close()  # the reader has left it to us
            self.wake()
            return
        if not worker.messages and not worker.revoked:
            self.idle.append(worker)
        if worker.outbox:
            self.wake()

    def _abandon(self, worker: Worker, items: list[WorkItem]) -> None:
        """Give back what was taken for a worker and not sent."""
        with self.lock:
            for item in reversed(items):
                if item.future.running():
                    self.again.appendleft(item)
                else:
                    self.fresh.appendleft(item)  # if it was cancelled, start() will say so
            if worker.flushing:
                worker.kill()  # it may have got half a frame; only these items were sent to it
            self.let_go(worker)
            self.wake()

    # For the reader.

    def waiting(self) -> int:
        """Return how many items are queued."""
        return len(self.alone) + len(self.again) + len(self.fresh)

    def feed_idle(self) -> None:
        """Feed idle workers as long as there is work for them."""
        while True:
            with self.lock:
                if not self.idle or not self.waiting():
                    return
                worker = self.idle.pop()
                worker.sending = True
            self.feed(worker, _WINDOW)

    def feed_more(self, worker: Worker) -> None:
        """Feed a worker that has ended a message."""
        with self.lock:
            if worker.sending or worker.dead:
                return  # who sends looks for more by itself
            if worker in self.idle:
                return
            worker.sending = True
        self.feed(worker, _WINDOW)

    # The end.

    def close(self, refusal: Exception) -> None:
        """Refuse new work from now on, for this reason."""
        with self.lock:
            if self.refusal is None:
                self.refusal = refusal
            self.wake()

    def cancel_all(self) -> None:
        """Cancel what has not been sent, and waits for more than its worker's start."""
        with self.lock:
            # With the stdlib's pools, an item that finds a worker free runs: so also here.
            free = self.size - len(self.workers)
            dropped = list(self.fresh)[free:]
            while len(self.fresh) > free:
                self.fresh.pop()
        for item in dropped:
            item.cancel()

    def close_at_exit(self) -> None:
        """Refuse new work, in the words that the stdlib has for it."""
        self.close(RuntimeError(_EXITING))

    def join(self) -> None:
        """Block until all is done and the children have ended; the reader does not wait."""
        thread = self.thread
        if thread is not None and thread is not threading.current_thread():
            thread.join()

    def after_fork(self) -> None:
        """Leave all to the parent, but for the descriptors, which are copies."""
        self.lock = threading.RLock()
        self.forked = True
        self.refusal = RuntimeError(_FORKED)
        self.fresh, self.again, self.alone = deque(), deque(), deque()
        self.idle = []
        workers, self.workers = self.workers, []
        for worker in workers:
            worker.forget()
        reader, self.reader, self.thread = self.reader, None, None
        if reader is not None:
            reader.forget()
