"""Tries: whether an exchange over HTTP that failed is made again, and when.

Owns the counts and the clock of one call, and the pauses of all; knows nothing of bytes. `Tries`
is used by one thread, `Pauses` by any: its lock guards whether they are over.

    busy                     again after a while that the service may name, a few times
    lost, idempotent         again, a few times; then also while nobody is there, for `patience`
    lost, not idempotent     an error: it may have run
    nobody there             an error, at once, if there was no try before: another tier may take it
"""

from __future__ import annotations

import random
import threading
import time
from collections.abc import Callable

from hybrid_compute.errors import RemoteBusy, RemoteConnectionLost, RemoteUnavailable
from hybrid_compute.executors._remote_calls import lost_for_good
from hybrid_compute.executors._remote_dialer import FIRST_PAUSE, LONGEST_PAUSE

__all__ = ["Pauses", "Tries"]

_MOST = 4  # of the first two kinds together, with no news between them


class Pauses:
    """Pauses between tries, which are cut short when there will be no other."""

    def __init__(self) -> None:
        # Re-entrant: who closes a stream may be a finalizer.
        self._changed = threading.Condition(threading.RLock())
        self._over = False

    def wait(self, seconds: float, is_unwanted: Callable[[], bool]) -> bool:
        """Pause; True if there is to be no other try.

        Args:
            seconds: how long.
            is_unwanted: says whether nobody waits for the call; quick.
        """
        with self._changed:
            return self._changed.wait_for(lambda: self._over or is_unwanted(), seconds)

    def look(self) -> None:
        """Ask those who pause whether their calls are wanted. Any thread."""
        with self._changed:
            self._changed.notify_all()

    def end(self) -> None:
        """End all pauses, now and from now on."""
        with self._changed:
            self._over = True
            self._changed.notify_all()


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
