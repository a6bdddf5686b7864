"""Tries: whether an exchange over HTTP that failed is made again, and when.

Owns the counts and the clock of one call; knows nothing of bytes. Used by one thread.

    busy                     again after a while that the service may name, a few times
    lost, idempotent         again, a few times; then also while nobody is there, for `patience`
    lost, not idempotent     an error: it may have run
    nobody there             an error, at once, if there was no try before: another tier may take it
"""

from __future__ import annotations

import random
import time

from hybrid_compute.errors import RemoteBusy, RemoteConnectionLost, RemoteUnavailable
from hybrid_compute.executors._remote_calls import lost_for_good
from hybrid_compute.executors._remote_dialer import FIRST_PAUSE, LONGEST_PAUSE

__all__ = ["Tries"]

_MOST = 4  # of the first two kinds together, with no news between them


class Tries:
    """The tries of one call."""

    def __init__(self, *, idempotent: bool | None, patience: float, retry_after_cap: float) -> None:
        """Count from nothing.

        Args:
            idempotent: the call may run twice.
            patience: seconds during which a service that is gone may come back.
            retry_after_cap: most seconds to wait because the service asks for it.
        """
        self._idempotent = idempotent
        self._patience = patience
        self._cap = retry_after_cap
        self._made = self._came = 0
        self._pause = FIRST_PAUSE
        self._lost: RemoteConnectionLost | None = None
        self._until = 0.0

    def pause_after(self, error: Exception, came: int = 0) -> float:
        """Return how many seconds to wait before the next try.

        Args:
            error: what has ended the last.
            came: how many items of a stream there are: with more of them the count begins anew.

        Raises:
            HybridComputeError: there is to be none; what the caller is to see.
        """
        if came > self._came:
            self._came, self._made, self._pause = came, 0, FIRST_PAUSE
        if isinstance(error, RemoteUnavailable):
            if self._lost is None:
                raise error
            if time.monotonic() > self._until:
                raise lost_for_good(error)
        elif isinstance(error, RemoteConnectionLost):
            if not self._idempotent or self._made >= _MOST:
                raise error
            self._made += 1
            self._lost = error
            self._until = time.monotonic() + self._patience
        elif not isinstance(error, RemoteBusy) or self._made >= _MOST:
            raise error
        else:
            self._made += 1
        longest, self._pause = self._pause, min(2 * self._pause, LONGEST_PAUSE)
        if isinstance(error, RemoteBusy):
            return max(longest, min(error.retry_after or 0.0, self._cap))
        # All of it is left to chance: a server that comes back has many such callers.
        return random.uniform(0, longest)  # noqa: S311 - no secret
