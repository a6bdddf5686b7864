"""Attempts: what follows when one attempt at an item has failed. No clock, no threads."""

from __future__ import annotations

import enum
from math import inf
from typing import Any

from hybrid_compute._failures import add_note, text_of
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

__all__ = ["Verdict", "after_failure", "has_not_begun"]


_REFUSED = (ExecutorUnavailable, WorkerStartError)
_FINAL = (TaskTimeout, AuthError, TLSError, UnknownTaskError, TaskInputError, NotDelivered)


class Verdict(enum.Enum):
    """What to do with an item whose attempt failed."""

    GIVE_UP = "give up"
    SAME_ROUTE = "again, from the first executor of the route"
    NEXT_EXECUTOR = "the next executor of the route"


def has_not_begun(error: BaseException) -> bool:
    """Say whether an attempt that an executor ended with this error certainly never began."""
    if isinstance(error, RemoteConnectionLost):
        return not error.may_have_run
    return isinstance(error, _REFUSED)


def after_failure(
    error: BaseException,
    options: TaskOptions,
    *,
    failures: int,
    fallbacks: int,
    raised: bool = False,
    elapsed: float = 0.0,
) -> tuple[Verdict, float]:
    """Decide what follows a failed attempt.

    An executor that did not accept the item, or whose workers do not start, never started
    it: trying elsewhere is always safe, and where there is nobody else, `retries` says whether to
    try once more. A worker that crashed, or a service that was lost with the call sent, may have
    had effects: only an idempotent item runs again. What the work itself raised is its result; it
    is retried only if `retries` says so. KeyboardInterrupt and its like are never retried, and
    neither is an item whose time is up.

    Args:
        error: what ended the attempt. If `retries` cannot be asked, it is told so in a note.
        options: the item's own.
        failures: how many attempts have failed, this one included, but for those that somebody
            else of the route took over.
        fallbacks: how many executors of the route are left behind this one.
        raised: the work itself raised it, in whatever it did with executors of its own.
        elapsed: seconds since the item was submitted.

    Returns:
        What to do, and the seconds to wait before that.
    """
    if fallbacks and not raised and isinstance(error, _REFUSED):
        return Verdict.NEXT_EXECUTOR, 0.0
    # What a second try cannot change: time is up, no trust, no such task, wrong arguments; or must
    # not, since somebody has the call still.
    if isinstance(error, _FINAL) or not isinstance(error, Exception):
        return Verdict.GIVE_UP, 0.0
    delay = _delay(error, options.retries, failures, elapsed)
    if delay is None:
        return Verdict.GIVE_UP, 0.0
    effects = isinstance(error, WorkerCrashed)
    if isinstance(error, RemoteConnectionLost) and not raised:
        if not error.may_have_run and fallbacks:
            return Verdict.NEXT_EXECUTOR, 0.0
        effects = error.may_have_run
    if effects and not options.idempotent:
        return Verdict.GIVE_UP, 0.0
    return Verdict.SAME_ROUTE, delay


def _delay(error: Exception, retries: Any, failures: int, elapsed: float) -> float | None:
    if retries is None or isinstance(retries, int):
        # One that never started has not failed yet: it may have as many attempts as before.
        return 0.0 if failures <= (retries or 0) else None
    # Other people's code, which may do anything but keep the item from its end.
    try:
        delay: float | None = retries.delay(max(1, failures), error, elapsed=elapsed)
        good = delay is None or 0.0 <= delay < inf
    except BaseException as trouble:
        told = f"raised {type(trouble).__name__}: {text_of(trouble)}"
        add_note(error, f"not tried again: `retries` was asked, and {told}")
        return None
    if not good:
        told = f"answered that it is to wait {delay!r} seconds"
        add_note(error, f"not tried again: `retries` {told}")
        return None
    return delay
