"""Breaker: stops asking a service that does not answer, and finds out when it does again.

Pure but for its lock, which guards all state and is held for assignments only: time is passed in,
by a clock that never goes back. ::

             `most` failures in a row, or too many of the last
    CLOSED ----------------------------------------------------> OPEN
      ^                                                          |  ^
      | the trial succeeds                    the pause is over  |  | the trial fails:
      '------------------------ HALF_OPEN <----------------------'  | a longer pause
                                    '-------------------------------'

In HALF_OPEN one call goes through, the trial, and no other until that is over; one that nobody can
tell the outcome of (it was cancelled, or it is a stream that was closed) lets another one try.
"""

from __future__ import annotations

import enum
import threading
from collections import deque
from itertools import repeat

from hybrid_compute.errors import ConfigurationError

__all__ = ["Breaker", "State"]


class State(enum.Enum):
    """Whether calls go through."""

    CLOSED = "closed"  # as an electric circuit is: current flows
    OPEN = "open"
    HALF_OPEN = "half open"


class Breaker:
    """The circuit of one service. Thread-safe; never blocks.

    Args:
        most: failures in a row that open it; at least 1.
        share: part of the last `window` outcomes that open it if they failed.
        window: how many outcomes are looked at; before there are so many, none is judged by its
            share.
        pause: seconds that it stays open at first; twice as long after each trial that fails.
        longest: seconds of the longest pause.

    Attributes:
        state: what it was when something last happened. For others to read, at any time.

    Raises:
        ConfigurationError: a value is out of range.
    """

    def __init__(
        self,
        *,
        most: int = 5,
        share: float = 0.5,
        window: int = 20,
        pause: float = 1.0,
        longest: float = 30.0,
    ) -> None:
        pauses = type(pause) in (int, float) and 0 < pause < float("inf")
        bounds = pauses and type(longest) in (int, float) and pause <= longest
        count, seconds = "a whole number of at least 1", "a number of seconds"
        for name, value, good, remedy in (
            ("most", most, type(most) is int and most >= 1, count),
            (
                "share",
                share,
                type(share) in (int, float) and 0 < share <= 1,
                "a part of 1, above 0",
            ),
            ("window", window, type(window) is int and window >= 1, count),
            ("pause", pause, pauses, f"{seconds} greater than 0"),
            ("longest", longest, bounds, f"{seconds} of at least pause={pause!r}"),
        ):
            if not good:
                raise ConfigurationError(f"Breaker({name}={value!r}): give {remedy}")
        self._most = most
        self._share = share
        self._pause = float(pause)
        self._longest = float(longest)
        # Guards all below; re-entrant: a signal handler or a finalizer may land in the middle.
        self._lock = threading.RLock()
        self.state: State = State.CLOSED
        self._in_a_row = 0
        self._last: deque[bool] = deque(maxlen=window)  # which of the last outcomes failed
        self._trials = 0  # that failed, one after the other
        self._until = 0.0
        self._trial = False  # one is under way

    def refuses(self, now: float) -> float:
        """Return for how many seconds from `now` calls are refused; 0: one may go through.

        For policies: asking changes nothing.
        """
        if self.state is State.CLOSED:
            return 0.0
        with self._lock:
            if self.state is State.OPEN:
                return max(0.0, self._until - now)
            return self._pause if self._trial else 0.0

    def allow(self, now: float) -> bool:
        """Say whether a call may be made at `now`, on its clock; its outcome must then be told.

        Of several callers at the end of a pause one gets True: it makes the trial.
        """
        if self.state is State.CLOSED:
            return True
        with self._lock:
            if self.state is State.OPEN and now >= self._until:
                self.state = State.HALF_OPEN
                self._trial = False
            if self.state is State.HALF_OPEN and not self._trial:
                self._trial = True
                return True
            return self.state is State.CLOSED

    def succeeded(self, calls: int = 1) -> None:
        """The service has answered so many calls, whatever the answers were."""
        if not self._in_a_row and self.state is State.CLOSED and not self._last:
            return  # nothing has ever failed: nothing to be changed
        with self._lock:
            self._in_a_row = 0
            if self.state is State.CLOSED:
                self._last.extend(repeat(False, calls))
                if True not in self._last:
                    self._last.clear()
            else:
                self.state = State.CLOSED
                self._last.clear()
                self._trials = 0
                self._trial = False

    def failed(self, now: float) -> None:
        """Until `now` the service has not answered, or not as a service should."""
        with self._lock:
            self._in_a_row += 1
            self._last.append(True)
            if self.state is State.HALF_OPEN:
                self._trials += 1
                self._open(now)
            elif self.state is State.CLOSED and (self._in_a_row >= self._most or self._too_many()):
                self._open(now)

    def abandoned(self) -> None:
        """Nobody knows what became of a call; if it was the trial, another one may try."""
        with self._lock:
            self._trial = False

    def _too_many(self) -> bool:
        full = len(self._last) == self._last.maxlen
        return full and sum(self._last) >= self._share * len(self._last)

    def _open(self, now: float) -> None:
        self.state = State.OPEN
        self._trial = False
        self._until = now + min(self._longest, self._pause * 2.0 ** min(self._trials, 32))
