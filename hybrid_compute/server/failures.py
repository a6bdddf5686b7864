"""Failures: what callers are told of a call that failed. No state, no threads."""

from __future__ import annotations

import traceback
from concurrent.futures import CancelledError
from typing import TYPE_CHECKING

from hybrid_compute._failures import RemoteTraceback, text_of, type_name_of
from hybrid_compute.errors import ExecutorUnavailable, PayloadTooLarge
from hybrid_compute.protocol.messages import Failed
from hybrid_compute.server.gate import Refusal

if TYPE_CHECKING:
    from hybrid_compute.server.service import Call

__all__ = ["Remembered", "failure_of", "failure_of_call"]


class Remembered(Exception):
    """Stands for the failure of a call whose end was remembered.

    Attributes:
        failed: what callers are told.
    """

    def __init__(self, failed: Failed) -> None:
        super().__init__(failed.text)
        self.failed = failed


def failure_of(error: BaseException, *, debug: bool) -> Failed:
    """Return what to tell of an error; with its traceback if `debug`."""
    if isinstance(error, Remembered):
        return error.failed
    if isinstance(error, Refusal):
        return Failed(0, error.text, error.status, path=error.path, retry_after=error.retry_after)
    status = 500
    if isinstance(error, ExecutorUnavailable):
        status = 503
    elif isinstance(error, PayloadTooLarge):
        status = 413
    name = type_name_of(type(error))
    trace = _traceback_of(error) if debug else ""
    return Failed(0, text_of(error).strip() or name, status, name, trace)


def _traceback_of(error: BaseException) -> str:
    """Return where an error was raised: in a worker process, or on a thread of this one."""
    cause = error.__cause__
    if isinstance(cause, RemoteTraceback):
        return str(cause.args[0]) if cause.args else ""
    return "".join(traceback.format_exception(error)) if error.__traceback__ else ""


def failure_of_call(call: Call, *, debug: bool) -> Failed | None:
    """Return what to tell of a call that has ended, or was left; None if it has a result."""
    assert call.future is not None  # noqa: S101 - it was started
    error = call.error
    if call.left and not call.future.done():
        return Failed(0, "the server is closing; the call goes on, and nobody sees its end", 504)
    if call.future.cancelled():
        # 503 says that it never began, so that it may run elsewhere.
        return Failed(0, "the server ended the call", 504 if call.stopped else 503)
    if isinstance(error, CancelledError) and (call.stopped or call.feed is not None):
        return Failed(0, "the server ended the call", 504)  # else the task itself raised it
    return None if error is None else failure_of(error, debug=debug)
