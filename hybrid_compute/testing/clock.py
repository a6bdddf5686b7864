"""VirtualClock: time that passes when it is told to, and not otherwise.

Owns the time and what is to happen at which. Its one lock guards both; nothing is called under it.
No threads: what is due is called by whoever makes time pass.
"""

from __future__ import annotations

import heapq
import itertools
import math
import threading
from collections.abc import Callable

__all__ = ["VirtualClock"]


class VirtualClock:
    """A clock for tests. Called as a function it tells the time, as `time.monotonic` does.

    All methods may be called from any thread, also by what is called when it is due.

    Args:
        start: seconds that it shows at first.
    """

    def __init__(self, start: float = 0.0) -> None:
        # Guards the time and the heap; re-entrant: finalizers may ask.
        self._lock = threading.RLock()
        self._now = start
        self._due: list[tuple[float, int, Callable[[], object]]] = []
        self._numbers = itertools.count()  # the order of what is due at the same time

    def __call__(self) -> float:
        """Return the time, in seconds."""
        return self._now

    def call_later(self, seconds: float, do: Callable[[], object]) -> None:
        """Have `do` called once `seconds` have passed, by whoever makes them pass."""
        with self._lock:
            heapq.heappush(self._due, (self._now + max(0.0, seconds), next(self._numbers), do))

    @property
    def waiting(self) -> int:
        """How many calls are due, now or later."""
        return len(self._due)

    def advance(self, seconds: float = 0.0) -> None:
        """Let time pass. What is due is called here, one after the other, at its own time.

        Args:
            seconds: how long; 0 calls what is due now.

        Raises:
            ValueError: `seconds` is negative, or no number: time goes forward.
        """
        if not 0 <= seconds < math.inf:
            raise ValueError(f"advance({seconds!r}): give a number of seconds that is not negative")
        end = self._now + seconds
        while self._step(end):
            pass
        with self._lock:
            self._now = max(self._now, end)

    def run(self) -> float:
        """Let time pass until nothing is due any more; return the time then."""
        while self._step(math.inf):
            pass
        return self._now

    def _step(self, end: float) -> bool:
        with self._lock:
            if not self._due or self._due[0][0] > end:
                return False
            when, _, do = heapq.heappop(self._due)
            self._now = max(self._now, when)
        do()
        return True
