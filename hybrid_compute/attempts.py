"""Attempts: what follows when one attempt at an item has failed. No clock, no threads."""

from __future__ import annotations

import enum
from typing import Any

from hybrid_compute.errors import (
    AuthError,
    ExecutorUnavailable,
    NotDelivered,
    RemoteConnectionLost,
    TaskInputError,
    TaskTimeout,
    TLSError,
    UnknownTaskError,
    WorkerCrashed,
    WorkerStartError,
)
from hybrid_compute.tasks import TaskOptions

__all__ = ["Verdict", "after_failure"]


_FINAL = (TaskTimeout, AuthError, TLSError, UnknownTaskError, TaskInputError, NotDelivered)


class Verdict(enum.Enum):
    """What to do with an item whose attempt failed."""

    GIVE_UP = "give up"
    SAME_ROUTE = "again, from the first executor of the route"
    NEXT_EXECUTOR = "the next executor of the route"


def after_failure(
    error: BaseException,
    options: TaskOptions,
    *,
    failures: int,
    fallbacks: int,
    raised: bool = False,
) -> tuple[Verdict, float]:
    """Decide what follows a failed attempt.

    An executor that did not accept the item, or whose workers do not start, never started
    it: trying elsewhere is always safe. A
    worker that crashed, or a service that was lost with the call sent, may have had effects: only
    an idempotent item runs again. What the work
    itself raised is its result; it is retried only if `retries` says so. KeyboardInterrupt and
    its like are never retried, and neither is an item whose time is up.

    Args:
        error: what ended the attempt.
        options: the item's own.
        failures: how many attempts have started and failed, this one included.
        fallbacks: how many executors of the route are left behind this one.
        raised: the work itself raised it, in whatever it did with executors of its own.

    Returns:
        What to do, and the seconds to wait before that.
    """
    if not raised and isinstance(error, (ExecutorUnavailable, WorkerStartError)):
        return (Verdict.NEXT_EXECUTOR if fallbacks else Verdict.GIVE_UP), 0.0
    # What a second try cannot change: time is up, no trust, no such task, wrong arguments; or must
    # not, since somebody has the call still.
    if isinstance(error, _FINAL):
        return Verdict.GIVE_UP, 0.0
    delay = _delay(error, options.retries, failures)
    if delay is None or not isinstance(error, Exception):
        return Verdict.GIVE_UP, 0.0
    effects = isinstance(error, WorkerCrashed)
    if isinstance(error, RemoteConnectionLost) and not raised:
        if not error.may_have_run and fallbacks:
            return Verdict.NEXT_EXECUTOR, 0.0
        effects = error.may_have_run
    if effects and not options.idempotent:
        return Verdict.GIVE_UP, 0.0
    return Verdict.SAME_ROUTE, delay


def _delay(error: BaseException, retries: Any, failures: int) -> float | None:
    if retries is None or isinstance(retries, int):
        # One that never started has not failed yet: it may have as many attempts as before.
        return 0.0 if failures <= (retries or 0) else None
    return retries.delay(max(1, failures), error)  # type: ignore[no-any-return]  # a Retry
