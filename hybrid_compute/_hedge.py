"""Hedges: how long to wait for an answer before somebody else is asked too.

Owns the words of `hedge=` and the percentiles of what was measured. Pure: no clock. The one lock,
of `Waits`, guards its table.
"""

from __future__ import annotations

import math
import threading
from collections import OrderedDict, deque
from typing import Any

from hybrid_compute.errors import ConfigurationError

__all__ = ["Waits", "as_hedge", "share_of"]

_FEWEST = 20  # calls, before there is a percentile: the 95th of fewer is the slowest of them
_MOST = 128  # calls of one task that are remembered: it may change
_MOST_TASKS = 1024
_STALE = 8  # calls after which a percentile is looked up anew


def as_hedge(value: Any) -> float | str | None:
    """Return what `hedge=` was given: seconds, or a percentile such as "p95".

    Raises:
        ConfigurationError: it is neither.
    """
    if value is None:
        return None
    if isinstance(value, (int, float)) and not isinstance(value, bool) and 0 < value < math.inf:
        return float(value)
    if isinstance(value, str) and share_of(value) is not None:
        return value
    raise ConfigurationError(
        f"hedge={value!r} is neither a number of seconds greater than 0 nor a percentile of what "
        "was measured, such as 'p95'"
    )


def share_of(percentile: str) -> float | None:
    """Return the share, from 0 to 1, that "p95" and its like mean; None: it is no such word."""
    number = percentile.removeprefix("p")
    # By hand, as workers load this module: `re` takes longer than all else that they load.
    if len(number) == len(percentile) or not number.isascii():
        return None
    whole, point, part = number.partition(".")
    if not (0 < len(whole) <= 2 and whole.isdigit() and bool(point) == part.isdigit()):
        return None
    return float(number) / 100 or None


class _Times:
    """The last times of one task."""

    __slots__ = ("last", "news", "values")

    def __init__(self) -> None:
        self.values: deque[float] = deque(maxlen=_MOST)
        self.news = 0  # since `last` was computed
        self.last: tuple[float, float] | None = None  # a share, and its time


class Waits:
    """How long the first attempts at tasks took, by task. Thread-safe; never blocks."""

    def __init__(self) -> None:
        self._lock = threading.RLock()  # guards the table; re-entrant for signal handlers
        self._times: OrderedDict[Any, _Times] = OrderedDict()

    def add(self, key: Any, seconds: float) -> None:
        """Take note of an attempt: how long it took, or has taken at the least."""
        with self._lock:
            times = self._times.get(key)
            if times is None:
                times = self._times[key] = _Times()
                if len(self._times) > _MOST_TASKS:
                    self._times.popitem(last=False)
            else:
                self._times.move_to_end(key)
            times.values.append(seconds)
            times.news += 1

    def percentile(self, key: Any, share: float) -> float | None:
        """Return the time that so great a share of attempts do not exceed; None: not known yet."""
        with self._lock:
            times = self._times.get(key)
            if times is None or len(times.values) < _FEWEST:
                return None
            if times.last is None or times.last[0] != share or times.news >= _STALE:
                ordered = sorted(times.values)
                place = math.ceil(share * len(ordered)) - 1
                times.last, times.news = (share, ordered[place]), 0
            return times.last[1]
