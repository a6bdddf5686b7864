"""First calls: those of a task of which nothing is known yet, while they run.

Owns who runs them, and what can be seen of them from outside: how much CPU time their threads have
used, and how long they have waited for a core while others had it. The latter, which on a busy
machine would look like waiting for something, only Linux tells.

The lock guards the table. It is held while a thread's clock is read, since the clock of a thread
that has ended must not be: a thread takes itself out under the lock before it can end.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from typing import Any

__all__ = ["FirstCalls"]

_cpu_clock_of: Callable[[int], int] | None = getattr(time, "pthread_getcpuclockid", None)


def _kept_waiting(native_id: int) -> float:
    """Return the seconds for which a thread of this process could have run, and had no core."""
    try:
        with open(f"/proc/self/task/{native_id}/schedstat", "rb") as file:  # noqa: PTH123 - quick
            return int(file.read().split()[1]) * 1e-9
    except (OSError, ValueError, IndexError):  # another system
        return 0.0


class _Call:
    """One of them: what its thread's clocks showed when it began."""

    __slots__ = ("begun", "belief", "cpu", "native_id", "waited")

    def __init__(self, belief: Any) -> None:
        self.belief = belief
        self.native_id = threading.get_native_id()
        self.waited = _kept_waiting(self.native_id)
        self.cpu = time.thread_time()
        self.begun = time.perf_counter()


class FirstCalls:
    """The first calls that run at the moment."""

    def __init__(self) -> None:
        # Guards _running; re-entrant: a signal handler may land in the middle.
        self._lock = threading.RLock()
        self._running: dict[int, _Call] = {}  # by thread

    def begin(self, belief: Any) -> None:
        """Take note that a first call begins on this thread."""
        call = _Call(belief)
        with self._lock:
            self._running[threading.get_ident()] = call

    def end(self) -> float:
        """Take note that it has ended; return the seconds for which it was kept from a core."""
        if not self._running:
            return 0.0
        with self._lock:
            call = self._running.pop(threading.get_ident(), None)
        return 0.0 if call is None else _kept_waiting(call.native_id) - call.waited

    def look(self, belief: Any) -> tuple[float, float, float] | None:
        """Return how long the first calls of a task have run by now, and how busy they were.

        The longest run counts, then the seconds of CPU that all of them have used together: of two
        that hold the GIL each uses half; what is more than the longest run, let go of it. Last, the
        seconds for which they were kept from a core, in which they would have been as busy. None:
        none runs, or nothing can be seen of them.
        """
        if _cpu_clock_of is None:
            return None
        longest = cpu = kept = 0.0
        with self._lock:
            for thread, call in self._running.items():
                if call.belief is belief:
                    longest = max(longest, time.perf_counter() - call.begun)
                    cpu += time.clock_gettime(_cpu_clock_of(thread)) - call.cpu
                    kept += _kept_waiting(call.native_id) - call.waited
        return (longest, cpu, kept) if longest else None
