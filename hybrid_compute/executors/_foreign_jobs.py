"""What stands in a foreign executor's queue: an item of ours, or a stream that goes on.

Knows of the executor that owns it only what it calls. `Streams.lock` guards the parked streams; a
job is in one pair of hands at a time.
"""

from __future__ import annotations

import threading
from concurrent.futures import Executor, Future
from threading import get_ident
from typing import TYPE_CHECKING, Any

from hybrid_compute.errors import ExecutorUnavailable
from hybrid_compute.executors._pump import Pump
from hybrid_compute.items import Keeper, WorkItem
from hybrid_compute.streamed import StreamItem

if TYPE_CHECKING:
    from hybrid_compute.executors.foreign import ForeignExecutor

__all__ = ["Job", "Streams", "let_go"]


def let_go(item: WorkItem, job: Job) -> None:
    """Note that a job keeps its item no more; another keeper stays."""
    if item.keeper is job:
        item.keeper = None


class Job(Keeper):
    """One item in their queue, so that only they know whether it can still be cancelled.

    Until their `submit` has returned nobody does. Called by their thread, where memory is shared.
    """

    __slots__ = ("_executor", "_item", "_ran", "packed", "pool", "theirs")

    def __init__(self, executor: ForeignExecutor, item: WorkItem) -> None:
        self._executor = executor
        self._item: WorkItem | None = item
        self._ran = False
        self.packed: bytes | None = None
        self.pool: Executor | None = None
        self.theirs: Future[Any] | None = None

    def __call__(self) -> None:
        """Run the item, on a thread of the pool; it may be elsewhere when this returns."""
        item = self._item
        if item is None:
            return  # a pool that calls twice what it was given once
        executor, me = self._executor, get_ident()
        self._ran = True
        executor._enter(me)
        try:
            if isinstance(item, StreamItem):
                executor._run_stream(item)
            else:
                item.run()
        finally:
            executor._leave(me)
            del item  # the traceback of what a callback raised must not keep it

    def withdraw(self, item: WorkItem) -> bool:
        return self.theirs is not None and self.theirs.cancel()

    def done(self, theirs: Future[Any]) -> None:
        item, self._item = self._item, None  # their future keeps its callbacks
        if item is None:
            return
        self._executor._out.discard(self)
        try:
            if not self._ran:
                self._executor._deliver(item, self, theirs)
        finally:
            let_go(item, self)
            self.theirs = None

    def __repr__(self) -> str:
        return f"<call of {'what is done' if self._item is None else self._item.name}>"


class Streams:
    """Runs the streams of a pool of threads: what `Pump` needs of one.

    Attributes:
        lock: guards `pumps`, which holds those that are parked, and `ending`.
        pumps: see there.
        ending: none parks any more.
        attention: never: it is their pool that says who is at work.
    """

    attention = False

    def __init__(self, executor: ForeignExecutor) -> None:
        self._executor = executor
        self.lock = threading.RLock()
        self.pumps: set[Pump] = set()
        self.ending = False

    def push(self, pump: Pump, *, late: bool = False) -> None:
        """Have a thread of the pool go on with a stream."""
        pool = self._executor._pool
        if pool is None:
            raise ExecutorUnavailable(f"executor {self._executor.name!r} is broken")
        pool.submit(pump.run).add_done_callback(
            lambda theirs: pump.cancel() if theirs.cancelled() else None
        )

    def urge_job(self, pump: Pump) -> None:
        """Do nothing: their queue is their own."""

    def end(self) -> None:
        """End the streams that wait for their consumers, now and from now on."""
        with self.lock:
            self.ending = True
            pumps = list(self.pumps)
        for pump in pumps:
            pump.resume()
