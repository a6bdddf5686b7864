"""Tally: what the calls of a server came to since it began, by task, for `GET /stats`.

On the event loop only, hence no lock. It grows with the number of tasks, not with that of calls:
times are counted by powers of two, from which whoever asks twice can tell what came between.
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Iterable, Mapping
from typing import Any

from hybrid_compute.server.tokens import Token

__all__ = ["Tally", "TaskTally"]

_BUCKETS = 40  # the last is of calls that took six days, or longer


class TaskTally:
    """The calls of one task that have ended.

    Attributes:
        calls: how many.
        failed: how many of these have no result.
        seconds: how long they took in all, from their arrival to their end.
        histogram: how many of them took less than 2 ** n us, and not less than half of that, by n.
    """

    __slots__ = ("calls", "failed", "histogram", "seconds")

    calls: int
    failed: int

    def __init__(self) -> None:
        self.calls = self.failed = 0
        self.seconds: float = 0.0
        self.histogram: list[int] = [0] * _BUCKETS

    def add(self, calls: int, seconds: float) -> None:
        """Count so many calls that took so long each."""
        self.calls += calls
        self.seconds += calls * seconds
        self.histogram[min(_BUCKETS - 1, max(0, int(seconds * 1e6)).bit_length())] += calls

    def as_data(self, under_way: int) -> dict[str, Any]:
        """Return all of it as JSON takes it; of the histogram, what is not 0."""
        return {
            "under_way": under_way,
            "calls": self.calls,
            "failed": self.failed,
            "seconds": round(self.seconds, 6),
            "histogram": {str(n): count for n, count in enumerate(self.histogram) if count},
        }


class Tally:
    """The calls of all tasks.

    Attributes:
        refused: how many requests were, for whatever reason.
    """

    def __init__(self, tasks: Iterable[str]) -> None:
        # Made beforehand: a name that a caller makes up is in nobody's tally.
        self._tasks = {name: TaskTally() for name in tasks}
        self.refused = 0

    def ended(self, task: str, seconds: float, *, ok: bool) -> None:
        """Count a call that has ended."""
        found = self._tasks.get(task)
        if found is not None:
            found.add(1, seconds)
            found.failed += not ok

    def ended_here(self, ran: Mapping[str, int], began: float) -> None:
        """Count calls that the event loop has made, one after the other, since a monotonic time."""
        if not ran:
            return
        mean = (time.monotonic() - began) / max(1, sum(ran.values()))
        for task, count in ran.items():
            found = self._tasks.get(task)
            if found is not None:
                found.add(count, mean)

    def failed_here(self, task: str) -> None:
        """Count that one of those calls has no result."""
        found = self._tasks.get(task)
        if found is not None:
            found.failed += 1

    def as_data(self, under_way: Counter[str], token: Token) -> dict[str, Any]:
        """Return, as JSON takes it, the tallies of the tasks that a token may call."""
        return {
            name: each.as_data(under_way[name])
            for name, each in self._tasks.items()
            if token.allows(name)
        }
