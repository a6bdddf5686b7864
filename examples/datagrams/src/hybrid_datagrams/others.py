"""An executor and a policy, to show that they can be had by name as well."""

from __future__ import annotations

import itertools
import threading

from hybrid_compute.abc import Capabilities, Fleet, SubExecutor, WorkItem

__all__ = ["NewestFirst", "RoundRobin"]


class NewestFirst(SubExecutor):
    """Threads that take what was submitted last: for work whose value fades while it waits.

    Args:
        max_workers: threads.
        name: in a fleet.
    """

    capabilities = Capabilities(shares_memory=True)

    def __init__(self, max_workers: int = 1, *, name: str = "newest-first") -> None:
        self.name, self.workers = name, max_workers
        self._changed = threading.Condition()  # guards all below
        self._stack: list[WorkItem] = []
        self._running = 0
        self._closed = False
        self._threads: list[threading.Thread] = []

    def execute(self, item: WorkItem) -> None:
        """Put the item on top."""
        with self._changed:
            if self._closed:
                raise RuntimeError("cannot schedule new futures after shutdown")
            if len(self._threads) < self.workers:
                thread = threading.Thread(target=self._work, name=f"{self.name}_{self.workers}")
                thread.start()
                self._threads.append(thread)
            self._stack.append(item)
            self._changed.notify()

    def _work(self) -> None:
        while True:
            with self._changed:
                self._changed.wait_for(lambda: self._stack or self._closed)
                if not self._stack:
                    return
                item = self._stack.pop()
                self._running += 1
            item.run()
            del item  # not to be kept while this waits for the next
            with self._changed:
                self._running -= 1

    def load(self) -> float:
        """Return how many items wait and run per thread."""
        with self._changed:
            return (len(self._stack) + self._running) / self.workers

    def shutdown(self, wait: bool = True, *, cancel_futures: bool = False) -> None:
        """Take no more; finish or cancel what waits."""
        with self._changed:
            self._closed = True
            dropped = self._stack[:] if cancel_futures else []
            if cancel_futures:
                self._stack.clear()
            self._changed.notify_all()
        for each in dropped:
            each.cancel()
        for each in self._threads if wait else ():
            each.join()


class RoundRobin:
    """One executor after the other; those behind it are its fallbacks.

    Args:
        names: of executors; none given: all of the fleet.
    """

    def __init__(self, *names: str) -> None:
        self.names = frozenset(names)
        self._order = names
        self._turn = itertools.count()

    def route(self, item: WorkItem, fleet: Fleet) -> tuple[str, ...]:
        """Return the executors, the next one first."""
        names = [name for name in self._order or fleet if name in fleet]
        first = next(self._turn) % len(names) if names else 0
        return (*names[first:], *names[:first])
