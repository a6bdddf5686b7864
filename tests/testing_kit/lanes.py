"""An executor that somebody else might write: threads around one queue."""

from __future__ import annotations

import threading
from collections import deque

from hybrid_compute.abc import Capabilities, SubExecutor


class Lanes(SubExecutor):
    """A fixed number of threads."""

    capabilities = Capabilities(shares_memory=True, streams=True)

    def __init__(self, workers=2, name="lanes"):
        self.name, self.workers = name, workers
        self._changed = threading.Condition()  # guards the queue, the count and the flag
        self._queue = deque()
        self._running = 0
        self._closed = False
        self._threads = [threading.Thread(target=self._work) for _ in range(workers)]
        for each in self._threads:
            each.start()

    def execute(self, item):
        with self._changed:
            if self._closed:
                raise RuntimeError("cannot schedule new futures after shutdown")
            self._queue.append(item)
            self._changed.notify()

    def _work(self):
        while True:
            with self._changed:
                self._changed.wait_for(lambda: self._queue or self._closed)
                if not self._queue:
                    return
                item = self._queue.popleft()
                self._running += 1
            self.run(item)
            del item  # not to be kept while this waits for the next
            with self._changed:
                self._running -= 1

    def run(self, item):
        item.run()

    def load(self):
        return sum(self.counts()) / self.workers

    def counts(self):
        with self._changed:
            return len(self._queue), self._running

    def shutdown(self, wait=True, *, cancel_futures=False):
        with self._changed:
            self._closed = True
            dropped = list(self._queue) if cancel_futures else []
            if cancel_futures:
                self._queue.clear()
            self._changed.notify_all()
        for each in dropped:
            each.cancel()
        for each in self._threads if wait else ():
            each.join()
