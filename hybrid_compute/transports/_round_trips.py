"""RoundTrips: how long the way to a service and back takes.

Owns the last few measurements. Of these the shortest counts: whatever else a measurement contains
(the work of a call, a wait for a thread) can only have made it longer. No lock: each write is of
one number, and two threads that write at once lose one measurement.
"""

from __future__ import annotations

__all__ = ["RoundTrips"]


class RoundTrips:
    """The last round trips of one service.

    Args:
        keep: how many; a way that has become longer is noticed after so many.
    """

    __slots__ = ("_count", "_last")

    def __init__(self, keep: int = 8) -> None:
        self._last = [float("inf")] * keep
        self._count = 0

    def add(self, seconds: float) -> None:
        """Note one. Any thread."""
        self._last[self._count % len(self._last)] = seconds
        self._count += 1

    def shortest(self) -> float | None:
        """Return the shortest one in seconds; None: there was none yet. Any thread."""
        return min(self._last) if self._count else None
