"""Verdicts: what follows from one attempt to deliver a row, and how long to wait before the next.

Pure: no clock, no threads, no file. ::

    it was not sent, or declined for want of room    AWAY       the service is; no fault of the row
    lost with the row under way; no trust; nonsense  AGAIN      counted; in the end DEAD
    the service has begun it once, and cannot tell   AGAIN as another call if idempotent, else DEAD
    the work raised, or its arguments were refused   FAILED     that is its outcome

When a service dies, all that was under way is lost with it, and only one row may be to blame. So
rows that were lost before, the suspects, are sent one at a time: a row that kills the service takes
new ones with it at most once each, and no two suspects count each other's deaths.
"""

from __future__ import annotations

import enum
import random

from hybrid_compute.errors import (
    AuthError,
    OutcomeUnknown,
    PlacementError,
    ProtocolError,
    RemoteBusy,
    RemoteConnectionLost,
    RemoteUnavailable,
    TaskTimeout,
    TLSError,
)

__all__ = ["Fate", "Pauses", "fate_of", "pause_before"]

_FIRST, _LONGEST = 0.1, 30.0  # seconds, of a row that is tried again


class Fate(enum.Enum):
    """What becomes of a row after an attempt."""

    AWAY = "it waits until the service is there"
    AGAIN = "it is sent again"
    ANEW = "it is sent again, as another call"
    FAILED = "it has its outcome, an error"
    DEAD = "it goes to the dead letters"


_COUNTED = (RemoteConnectionLost, AuthError, TLSError, ProtocolError, PlacementError, TaskTimeout)


def fate_of(error: BaseException, *, attempts: int, max_attempts: int, idempotent: bool) -> Fate:
    """Decide what becomes of a row.

    Args:
        error: what ended the attempt.
        attempts: how many have been counted, this one included if it is.
        max_attempts: after so many the row is dead.
        idempotent: its author said that it may run twice.
    """
    if isinstance(error, (RemoteUnavailable, RemoteBusy)):
        return Fate.AWAY
    if isinstance(error, RemoteConnectionLost) and not error.may_have_run:
        return Fate.AWAY
    if isinstance(error, OutcomeUnknown):
        return Fate.ANEW if idempotent and attempts < max_attempts else Fate.DEAD
    if isinstance(error, _COUNTED):
        return Fate.AGAIN if attempts < max_attempts else Fate.DEAD
    return Fate.FAILED


def pause_before(attempts: int) -> float:
    """Return how many seconds to wait before a row is sent again; all of it is left to chance."""
    return random.uniform(0, min(_LONGEST, _FIRST * 2.0**attempts))  # noqa: S311 - no secret


class Pauses:
    """How long to wait for a service that is away: longer each time, and all left to chance."""

    def __init__(self, first: float, longest: float) -> None:
        self._first = first
        self._longest = longest
        self._next = first

    def next(self, at_least: float = 0.0) -> float:
        """Return seconds to wait; `at_least` is what a busy service has asked for."""
        pause, self._next = self._next, min(2 * self._next, self._longest)
        return max(random.uniform(0, pause), at_least)  # noqa: S311 - no secret

    def reset(self) -> None:
        """Begin anew: the service was there."""
        self._next = self._first
