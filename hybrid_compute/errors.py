"""Every error that hybrid_compute raises itself, in one tree.

Owns the names and texts of failures; knows nothing of who raises them. Each error also derives
from the standard type that a user would catch, and survives pickling with its attributes. (More
than 400 lines, of short classes: one tree is better read in one place.) ::

    HybridComputeError
     |- ConfigurationError        ValueError         a constructor or option got a wrong value
     |   |- DuplicateTaskError                       a task name was used twice
     |   `- UnknownExecutorError                     a name that is not in the fleet
     |- DeadlockError             RuntimeError       work would wait for itself, for ever
     |- DecisionLogError          ValueError         a line of a decision log cannot be read
     |- RecordingError            ValueError         the file of a recording cannot be read
     |- PolicyError               RuntimeError       a policy raised, or answered nonsense
     |- PlacementError            RuntimeError       no executor may run the item (fails closed)
     |- ExecutorUnavailable       RuntimeError       not accepted: the item never started
     |   |- RemoteUnavailable     ConnectionError    no connection to the service; nothing was sent
     |   |- RemoteBusy                               the service declined: it has too much to do
     |   `- OutboxFull            OutboxError        no room for the call in the outbox's file
     |- OutboxError               OSError            the file of an outbox cannot be used
     |- NotDelivered              RuntimeError       the call stays in an outbox, for the next run
     |- PayloadError
     |   |- PayloadTooLarge                          a call or result is larger than was allowed
     |   |- TaskEncodeError       PicklingError      a call cannot be pickled
     |   |- TaskDecodeError       UnpicklingError    a call cannot be unpickled by the worker
     |   |- ResultEncodeError     PicklingError      a result cannot be pickled by the worker
     |   `- ResultDecodeError     UnpicklingError    a result cannot be unpickled by the caller
     |- ProtocolError             ValueError         what a peer sent breaks the protocol
     |- SandboxError              RuntimeError       code in a sandbox did what it may not
     |- StreamError               RuntimeError       a stream was not read to its end
     |- TaskTimeout               TimeoutError       an item's time was up; it was ended
     |- WorkerError               BrokenExecutor
     |   |- WorkerCrashed                            the process died while it ran the item
     |   `- WorkerStartError                         workers do not start; nothing ran
     |- RemoteConnectionLost      ConnectionError    the connection ended before the answer came
     |- AuthError                 PermissionError    the service does not let the caller in
     |- TLSError                  ConnectionError    no trust in the other end; never retried
     `- RemoteError                                  stands in for an exception that cannot travel
         `- RemoteTaskError                          what a service said of a call that failed
             |- UnknownTaskError  LookupError        the service has no task of that name
             |- OutcomeUnknown                       it began the call, and cannot tell how it ended
             `- TaskInputError    ValueError         the service refused the arguments

The exceptions of the work itself are not in this tree: they arrive as they were raised.
"""

from __future__ import annotations

from concurrent.futures import BrokenExecutor
from pickle import PicklingError, UnpicklingError
from typing import Any

__all__ = [
    "AuthError",
    "ConfigurationError",
    "DeadlockError",
    "DecisionLogError",
    "DuplicateTaskError",
    "ExecutorUnavailable",
    "HybridComputeError",
    "NotDelivered",
    "OutboxError",
    "OutboxFull",
    "OutcomeUnknown",
    "PayloadError",
    "PayloadTooLarge",
    "PlacementError",
    "PolicyError",
    "ProtocolError",
    "RecordingError",
    "RemoteBusy",
    "RemoteConnectionLost",
    "RemoteError",
    "RemoteTaskError",
    "RemoteUnavailable",
    "ResultDecodeError",
    "ResultEncodeError",
    "SandboxError",
    "StreamError",
    "TLSError",
    "TaskDecodeError",
    "TaskEncodeError",
    "TaskInputError",
    "TaskTimeout",
    "UnknownExecutorError",
    "UnknownTaskError",
    "WorkerCrashed",
    "WorkerError",
    "WorkerStartError",
]


def _restore(cls: type[HybridComputeError], text: str, state: dict[str, Any]) -> HybridComputeError:
    # An OSError has more fields in C than the others: only its own __new__ makes one, whatever
    # stands before it among the bases, and that leaves the text to an __init__.
    new: Any = OSError.__new__ if issubclass(cls, OSError) else cls.__new__
    error: HybridComputeError = new(cls, text)
    error.args = (text,)
    error.__dict__.update(state)
    return error


class HybridComputeError(Exception):
    """Base of all errors that the library itself raises."""

    def __reduce__(self) -> tuple[Any, ...]:
        # Exception's own __reduce__ calls the class with `args`, which fails for every error
        # whose constructor takes something else than its text.
        return _restore, (type(self), str(self), self.__dict__.copy())


class ConfigurationError(HybridComputeError, ValueError):
    """A constructor, a decorator or an option got a value that it cannot take."""


class DuplicateTaskError(ConfigurationError):
    """A task name is already taken in its registry."""


class UnknownExecutorError(ConfigurationError):
    """A name was given that no executor of the fleet has."""


class DeadlockError(HybridComputeError, RuntimeError):
    """Work was about to wait for what cannot be done before it goes on; so it does not wait.

    Attributes:
        item_names: what waits for each other, as in `WorkItem.name`; () if it is no circle, but
            there is nobody left to do the work.
    """

    item_names: tuple[str, ...]

    def __init__(self, text: str, *, item_names: tuple[str, ...] = ()) -> None:
        super().__init__(text)
        self.item_names = item_names


class DecisionLogError(HybridComputeError, ValueError):
    """A decision log is not one, or a line of it says what it should not.

    Attributes:
        path: name of the log.
        line: number of the line, counted from 1; None: the whole log.
        key: the key in that line, as in "fleet.process.workers"; None: the whole line.
    """

    path: str
    line: int | None
    key: str | None

    def __init__(
        self, text: str, *, path: str, line: int | None = None, key: str | None = None
    ) -> None:
        super().__init__(text)
        self.path = path
        self.line = line
        self.key = key


class RecordingError(HybridComputeError, ValueError):
    """A file is no recording, or a line of it says what it should not."""


class PolicyError(HybridComputeError, RuntimeError):
    """A policy raised, or its answer is not a route."""


class PlacementError(HybridComputeError, RuntimeError):
    """No executor of the route may run the item; it was neither pickled nor sent."""


class ExecutorUnavailable(HybridComputeError, RuntimeError):
    """An executor did not accept the item, which never started: trying elsewhere is safe."""


class RemoteUnavailable(ExecutorUnavailable, ConnectionError):
    """There is no connection to the service, and nothing was sent: trying elsewhere is safe."""


class RemoteBusy(ExecutorUnavailable):
    """The service declined the call before it started: its queue is full, or it is closing.

    Attributes:
        status: the HTTP status, 429 or 503, also of an answer over WebSocket.
        retry_after: seconds that the service asks to wait, or None.
    """

    status: int
    retry_after: float | None

    def __init__(self, text: str, *, status: int = 503, retry_after: float | None = None) -> None:
        super().__init__(text)
        self.status = status
        self.retry_after = retry_after


class OutboxError(HybridComputeError, OSError):
    """The file of an outbox, or of what a server remembers, cannot be used as it is.

    Attributes:
        path: of the file.
    """

    path: str

    def __init__(self, text: str, *, path: str) -> None:
        super().__init__(text)
        self.path = path


class OutboxFull(ExecutorUnavailable, OutboxError):
    """There is no room for the call, which was not accepted; what was accepted is intact."""


class NotDelivered(HybridComputeError, RuntimeError):
    """Nobody here sees how the call ends: it stays in the outbox, whose next user delivers it.

    Attributes:
        path: of the outbox's file.
        key: the call's own, as `OutboxExecutor.pending` and `results` tell it.
    """

    path: str
    key: str

    def __init__(self, text: str, *, path: str, key: str) -> None:
        super().__init__(text)
        self.path = path
        self.key = key


class ProtocolError(HybridComputeError, ValueError):
    """What came from the other side breaks the protocol; none of it was taken for a result.

    Attributes:
        status: HTTP status of the answer, or None when it came over a WebSocket.
        content_type: its content type; "" if it had none.
        excerpt: its first 200 bytes.
    """

    status: int | None
    content_type: str
    excerpt: bytes

    def __init__(
        self,
        text: str,
        *,
        status: int | None = None,
        content_type: str = "",
        excerpt: bytes = b"",
    ) -> None:
        super().__init__(text)
        self.status = status
        self.content_type = content_type
        self.excerpt = bytes(excerpt[:200])


class PayloadError(HybridComputeError):
    """Arguments or a result could not travel; only this one item is affected."""


class PayloadTooLarge(PayloadError):
    """A call, a result or a frame has more bytes than one of the two sides takes.

    Attributes:
        size: its bytes; None if that is not known.
        limit: how many were allowed; None if that is not known.
    """

    size: int | None
    limit: int | None

    def __init__(self, text: str, *, size: int | None = None, limit: int | None = None) -> None:
        super().__init__(text)
        self.size = size
        self.limit = limit


class TaskEncodeError(PayloadError, PicklingError):
    """A function or its arguments cannot be pickled; the item never started."""


class TaskDecodeError(PayloadError, UnpicklingError):
    """A worker could not unpickle the function or its arguments; the item never started."""


class ResultEncodeError(PayloadError, PicklingError):
    """The work was done, but its result cannot be pickled by the worker."""


class ResultDecodeError(PayloadError, UnpicklingError):
    """The work was done, but its result cannot be unpickled by the caller."""


class SandboxError(HybridComputeError, RuntimeError):
    """Code in a sandbox did what it may not, or used up what it may use.

    Attributes:
        reason: "out_of_fuel", "memory", "stack_overflow", "unreachable", "memory_out_of_bounds" and
            the like; "error" if it has no name.
    """

    reason: str

    def __init__(self, text: str, *, reason: str) -> None:
        super().__init__(text)
        self.reason = reason


class StreamError(HybridComputeError, RuntimeError):
    """A stream has no value yet, or ended before it was read: its executor was shut down."""


class TaskTimeout(HybridComputeError, TimeoutError):
    """The item was not done within its `timeout`.

    Attributes:
        item_name: what should have been done, as in `WorkItem.name`.
        timeout: seconds that it had.
    """

    item_name: str
    timeout: float

    def __init__(self, text: str, *, item_name: str, timeout: float) -> None:
        super().__init__(text)
        self.item_name = item_name
        self.timeout = timeout


class RemoteConnectionLost(HybridComputeError, ConnectionError):
    """The connection ended while the call waited for its answer.

    Attributes:
        may_have_run: the call was sent, so it may have run, or be running still. If False, it
            cannot have started.
    """

    may_have_run: bool

    def __init__(self, text: str, *, may_have_run: bool) -> None:
        super().__init__(text)
        self.may_have_run = may_have_run


class AuthError(HybridComputeError, PermissionError):
    """The service does not let the caller in, or not to this task.

    Attributes:
        status: 401 (who are you?), 403 (you may not), or None.
    """

    status: int | None

    def __init__(self, text: str, *, status: int | None = None) -> None:
        super().__init__(text)
        self.status = status


class TLSError(HybridComputeError, ConnectionError):
    """The other end did not prove who it is, or does not speak TLS. Never retried unverified."""


class WorkerError(HybridComputeError, BrokenExecutor):
    """A worker process failed, not the work in it."""


class WorkerCrashed(WorkerError):
    """The worker process died while it ran the item, which may have had effects.

    Attributes:
        item_name: what ran, as in `WorkItem.name`.
        pid: process id of the dead worker.
        exitcode: its exit code, or None when a signal ended it.
        signal: number of the signal that ended it, or None.
        oom: whether the kernel ended it because memory had run out, as far as its counters tell.
        stack: what the interpreter wrote of its threads as it died; "" if nothing.
    """

    item_name: str
    pid: int
    exitcode: int | None
    signal: int | None
    oom: bool
    stack: str

    def __init__(
        self,
        text: str,
        *,
        item_name: str,
        pid: int,
        exitcode: int | None,
        signal: int | None,
        oom: bool = False,
        stack: str = "",
    ) -> None:
        super().__init__(text)
        self.item_name = item_name
        self.pid = pid
        self.exitcode = exitcode
        self.signal = signal
        self.oom = oom
        self.stack = stack


class WorkerStartError(WorkerError):
    """Worker processes end before they accept work: a broken initializer or environment."""


class RemoteError(HybridComputeError):
    """Stands in for an exception that cannot be pickled or unpickled.

    Attributes:
        type_name: qualified name of the original exception's class.
        traceback_text: the original traceback, formatted where it happened.
    """

    type_name: str
    traceback_text: str

    def __init__(self, text: str, *, type_name: str, traceback_text: str) -> None:
        super().__init__(text)
        self.type_name = type_name
        self.traceback_text = traceback_text


class RemoteTaskError(RemoteError):
    """A service answered a call with an error: the task raised there, or was not run.

    Attributes:
        status: the HTTP status, also of an answer over WebSocket if it told one, or None.
        type_name: qualified name of the exception's class over there; "" if it did not tell.
        traceback_text: the traceback over there; "" unless the service shows them.
    """

    status: int | None

    def __init__(
        self,
        text: str,
        *,
        status: int | None = None,
        type_name: str = "",
        traceback_text: str = "",
    ) -> None:
        super().__init__(text, type_name=type_name, traceback_text=traceback_text)
        self.status = status


class UnknownTaskError(RemoteTaskError, LookupError):
    """The service has no task of that name."""


class OutcomeUnknown(RemoteTaskError):
    """The service began the call once, was ended in the midst of it, and does not run it again."""


class TaskInputError(RemoteTaskError, ValueError):
    """The service refused the arguments before anything ran.

    Attributes:
        path: where the bad value stands, as in `$.args[1].x`; "" if the service did not tell.
    """

    path: str

    def __init__(self, text: str, *, path: str = "", **details: Any) -> None:
        super().__init__(text, **details)
        self.path = path
