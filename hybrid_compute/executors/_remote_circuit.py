"""Circuit: what the outcomes of calls mean for the breaker of their service.

Only what tells of the service counts: that it cannot be reached, that it was lost, that its answer
was none of the protocol, that it is too busy. What a task raised is an answer like any other. A
stream, which may be closed by its consumer at any time, and a call that was cancelled, or that had
no time left, tell nothing.
"""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any

from hybrid_compute.breaker import Breaker, State
from hybrid_compute.errors import (
    ConfigurationError,
    ProtocolError,
    RemoteBusy,
    RemoteConnectionLost,
    RemoteUnavailable,
    TaskTimeout,
)

if TYPE_CHECKING:
    from hybrid_compute.items import WorkItem

__all__ = ["Circuit"]

_FAILURES = (RemoteUnavailable, RemoteConnectionLost, ProtocolError, RemoteBusy)


class Circuit:
    """The breaker of one service, and who tells it. Thread-safe; never blocks.

    Args:
        breaker: its state; None: a new one.
        service: how errors call the service.

    Attributes:
        breaker: that breaker.

    Raises:
        ConfigurationError: `breaker` is none.
    """

    def __init__(self, breaker: Breaker | None, service: str) -> None:
        given: Any = breaker
        if given is not None and not isinstance(given, Breaker):
            raise ConfigurationError(
                f"breaker={breaker!r} is none; give hybrid_compute.breaker.Breaker(...), or None"
            )
        self.breaker: Breaker = breaker or Breaker()
        self._service = service

    def is_open(self) -> bool:
        """Say whether calls would be refused now; asking changes nothing."""
        breaker = self.breaker
        return breaker.state is not State.CLOSED and breaker.refuses(time.monotonic()) > 0

    def refusal(self) -> RemoteUnavailable | None:
        """Return why a call must not be made; None: it may, and `tell` wants its outcome."""
        breaker = self.breaker
        if breaker.state is State.CLOSED:
            return None
        now = time.monotonic()
        if breaker.allow(now):
            return None
        wait = breaker.refuses(now)
        if breaker.state is State.OPEN and wait > 0:
            what = f"it is not asked for another {wait:.2g} s, and then by one call first"
        else:  # that call is under way, or was a moment ago
            what = "one call is finding out whether it is back, and meanwhile no other is made"
        return RemoteUnavailable(
            f"{self._service} has failed too often of late: {what} "
            "(see RemoteExecutor(breaker=...))"
        )

    def tell(self, item: WorkItem, error: BaseException | None) -> None:
        """Take note of the outcome of a call.

        Args:
            item: which it was.
            error: what it failed with; None: it has a result.
        """
        if item.streams or isinstance(error, TaskTimeout):
            self.breaker.abandoned()
        elif error is not None and isinstance(error, _FAILURES):
            self.breaker.failed(time.monotonic())
        else:
            self.breaker.succeeded()

    def answered(self, calls: int) -> None:
        """Take note that so many calls, none of them a stream, have their results."""
        self.breaker.succeeded(calls)

    def forget(self) -> None:
        """Take note that a call has no outcome: it was cancelled."""
        self.breaker.abandoned()
