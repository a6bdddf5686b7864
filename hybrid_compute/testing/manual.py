"""ManualExecutor: runs what was submitted when it is told to, on the thread that tells it.

Owns a queue, and nothing else: no threads. Its one lock guards the queue, the count of what runs
and the closed flag; no work is run, and nothing is delivered, under it.
"""

from __future__ import annotations

import threading
from collections import deque

from hybrid_compute.abc import Capabilities, SubExecutor
from hybrid_compute.items import WorkItem
from hybrid_compute.routed import RoutedItem

__all__ = ["ManualExecutor"]

_LIKE_THREADS = Capabilities(shares_memory=True, streams=True)


class ManualExecutor(SubExecutor):
    """An executor for tests, by itself or in a fleet, in which nothing happens by chance.

    Nothing runs until `run_next` or `run_all` is called. Then it runs right there, and its future
    is done when the call returns. All methods may be called from any thread.

    Args:
        name: its name in a fleet.
        workers: what it says of its size, of which `load` is a share; it runs one item at a time.
        capabilities: what it says of itself, for a test of who gets what; None: those of threads.
    """

    def __init__(
        self,
        name: str = "manual",
        *,
        workers: int = 1,
        capabilities: Capabilities | None = None,
    ) -> None:
        self.name = name
        self.workers = workers
        self.capabilities: Capabilities = _LIKE_THREADS if capabilities is None else capabilities
        self._lock = threading.RLock()  # see above; re-entrant: finalizers may submit
        self._queue: deque[WorkItem] = deque()
        self._running = 0
        self._closed = False

    @property
    def pending(self) -> tuple[WorkItem, ...]:
        """The items that wait to be run, the next one first; those that were cancelled are gone."""
        with self._lock:
            return tuple(each for each in self._queue if not each.future.cancelled())

    def execute(self, item: WorkItem) -> None:
        """Queue the item."""
        with self._lock:
            if self._closed:
                raise RuntimeError("cannot schedule new futures after shutdown")
            self._queue.append(item)

    def execute_late(self, item: WorkItem) -> None:
        """Queue another attempt, or a part, of an item that was accepted before."""
        with self._lock:
            self._queue.append(item)

    def run_next(self) -> WorkItem:
        """Run the item that has waited longest, here and now, and return it: it is done.

        One that was cancelled is passed over.

        Raises:
            LookupError: nothing is pending.
        """
        item = self._run_one()
        if item is None:
            raise LookupError(
                f"executor {self.name!r} has nothing to run: nothing is pending; look at "
                "`pending`, or use run_all()"
            )
        return item

    def run_all(self) -> int:
        """Run all that is pending, and what that submits; return how many items have run."""
        count = 0
        while self._run_one() is not None:
            count += 1
        return count

    def _run_one(self) -> WorkItem | None:
        while True:
            with self._lock:
                if not self._queue:
                    return None
                item = self._queue.popleft()
                cancelled = item.future.cancelled()
                self._running += 1
            try:
                item.run()  # tells those who wait for one that was cancelled
            finally:
                with self._lock:
                    self._running -= 1
            if not cancelled:
                return item

    def give_back(self, belief: object) -> list[RoutedItem]:
        """Give up the pending items with this belief."""
        with self._lock:
            given = [
                each
                for each in self._queue
                if isinstance(each, RoutedItem) and each.belief is belief
            ]
            for each in given:
                self._queue.remove(each)
        return given

    def load(self) -> float:
        """Return how many items are pending or running per worker."""
        return sum(self.counts()) / self.workers

    def counts(self) -> tuple[int, int]:
        """Return how many items are pending and how many run."""
        with self._lock:
            return len(self._queue), self._running

    def shutdown(self, wait: bool = True, *, cancel_futures: bool = False) -> None:
        """Accept no more; nothing is lost.

        Args:
            wait: run what is pending, here and now: nobody else would.
            cancel_futures: cancel it instead.
        """
        with self._lock:
            self._closed = True
        if cancel_futures:
            while True:
                with self._lock:
                    if not self._queue:
                        break
                    item = self._queue.popleft()
                item.cancel()
        if wait:
            self.run_all()
