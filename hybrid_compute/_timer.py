"""Timer: calls things later, so that nobody has to sleep until then.

Its one lock guards the heap, and its thread is there only while something waits. It looks with the
lock held and waits without: who changes the heap rings, and what was rung is heard. What it calls,
it calls with no lock held, one after the other: so that must be quick. What is withdrawn leaves a
blank in the heap, which goes when its time comes, or when half of all are blank: so that costs next
to nothing as well.
"""

from __future__ import annotations

import heapq
import itertools
import threading
import time
from collections.abc import Callable
from concurrent.futures._base import LOGGER
from typing import Any

from hybrid_compute import _exit
from hybrid_compute._bell import Bell

__all__ = ["Timer"]

_LONGEST = 3600.0  # seconds of one wait: there are limits to what a lock can wait for
_SPARE = 64  # blanks in the heap, before they are looked for

Call = Callable[[], object]


class Timer(_exit.Member):
    """Things to be called, by time.

    Attributes:
        at_once: the interpreter exits: nothing waits for its time any more.
    """

    def __init__(self, name: str = "timer") -> None:
        self._name = name
        # Guards all below; re-entrant: a signal handler or a finalizer may land in the middle.
        self._lock = threading.RLock()
        self._bell = Bell()  # for the thread: the heap is another
        self._heap: list[list[Any]] = []  # of time, number and call; None: it was withdrawn
        self._waiting: dict[int, list[Any]] = {}  # those that were not, by the id of the call
        self._numbers = itertools.count()
        self._thread: threading.Thread | None = None
        self.at_once: bool = False
        _exit.register(self)

    def after(self, seconds: float, call: Call) -> None:
        """Have `call` called on the timer's thread; at once, if the interpreter exits before.

        It must not be waiting already.
        """
        with self._lock:
            if self._thread is None:
                thread = threading.Thread(target=self._run, name=self._name, daemon=True)
                thread.start()  # it may not be possible; it waits for our lock
                self._thread = thread
            due = time.monotonic() + (0.0 if self.at_once else seconds)
            self._waiting[id(call)] = entry = [due, next(self._numbers), call]
            heapq.heappush(self._heap, entry)
            self._bell.ring()

    def withdraw(self, call: Call) -> bool:
        """Forget a call; return whether it was still waiting."""
        with self._lock:
            entry = self._waiting.pop(id(call), None)
            if entry is None:
                return False
            entry[2] = None
            if not self._waiting:
                self._heap.clear()
                self._bell.ring()  # the thread has nothing to wait for
            elif len(self._heap) > 2 * len(self._waiting) + _SPARE:
                self._sweep()
            return True

    def _sweep(self) -> None:
        """Remove the blanks. Under the lock."""
        calls, self._heap = self._heap, []  # which is where what comes in the middle of this goes
        try:
            calls = [each for each in calls if each[2] is not None]
        finally:
            self._heap += calls
            heapq.heapify(self._heap)

    def withdraw_all(self) -> list[Call]:
        """Forget all calls, and return them."""
        with self._lock:
            heap, self._heap, self._waiting = self._heap, [], {}
            self._bell.ring()
        return [call for _, _, call in heap if call is not None]

    def flush(self) -> None:
        """Call everything now: the interpreter exits."""
        with self._lock:
            self.at_once = True
        for call in self.withdraw_all():
            _call(call)

    def runs_here(self) -> bool:
        """Say whether the current thread is the timer's."""
        return self._thread is threading.current_thread()

    def join(self) -> None:
        """Block until the thread has gone, which has nothing left to do."""
        thread = self._thread
        if thread is not None and thread is not threading.current_thread():
            thread.join()

    def _run(self) -> None:
        while True:
            with self._lock:
                while self._heap and self._heap[0][2] is None:
                    heapq.heappop(self._heap)
                if not self._heap:
                    me, self._thread = self._thread, None
                    if not self._heap or self._thread is not None:
                        return
                    self._thread = me  # a finalizer has put something there in between
                wait = self._heap[0][0] - time.monotonic()
                # Whatever is the first by now, for the same reason, if any is: it is not due later.
                call = heapq.heappop(self._heap)[2] if wait <= 0 and self._heap else None
                if call is not None:
                    self._waiting.pop(id(call), None)
            if wait > 0:
                self._bell.wait(min(wait, _LONGEST))
            elif call is not None:
                _call(call)
                del call  # nothing is kept while it waits

    def after_fork(self) -> None:
        """Forget the parent's calls and thread."""
        self._lock, self._bell = threading.RLock(), Bell()
        self._heap, self._waiting = [], {}
        self._thread = None


def _call(call: Call) -> None:
    try:
        call()
    except BaseException:
        LOGGER.exception("exception in a call that was put off")
