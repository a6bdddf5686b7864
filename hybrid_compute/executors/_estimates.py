"""How long the functions take, and how large their calls are: what batching needs, and no more.

Owns two numbers per function. Pure but for its memory; under the lock of whoever owns it.
"""

from __future__ import annotations

from typing import Any

__all__ = ["Estimates"]

_MOST = 4096  # functions; then all is forgotten, and learned again with one call each


class Estimates:
    """Seconds that one call takes, and bytes that it pickles to, by `key_of` its function."""

    __slots__ = ("_seconds", "_sizes")

    def __init__(self) -> None:
        self._seconds: dict[Any, float] = {}
        self._sizes: dict[Any, int] = {}

    def of(self, key: Any) -> float | None:
        """Return the seconds of one call; None if there was none yet."""
        return self._seconds.get(key)

    def learn(self, key: Any, seconds: float) -> None:
        """Take note of a call, or of the mean of some.

        Down at once, up by half: a first call is often slow for reasons of its own, and one
        that is underestimated costs little, for the calls behind it move to another worker.
        """
        old = self._seconds.get(key)
        if old is None and len(self._seconds) >= _MOST:
            self._seconds.clear()
        self._seconds[key] = seconds if old is None or seconds < old else (old + seconds) / 2

    def size_of(self, key: Any) -> int:
        """Return the bytes of one call; 0 if they were never worth mentioning."""
        return self._sizes.get(key, 0)

    def learn_size(self, key: Any, size: int) -> None:
        """Take note of the size of a call, or of the mean of some."""
        if key not in self._sizes and len(self._sizes) >= _MOST:
            self._sizes.clear()
        self._sizes[key] = size
