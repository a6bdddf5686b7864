"""Every error that hybrid_compute raises itself, in one tree.

Owns the names and texts of failures; knows nothing of who raises them. Each error also derives
from the standard type that a user would catch, and survives pickling with its attributes::

    HybridComputeError
     |- ConfigurationError        ValueError         a constructor or option got a wrong value
     |   |- DuplicateTaskError                       a task name was used twice
     |   `- UnknownExecutorError                     a name that is not in the fleet
     |- PolicyError               RuntimeError       a policy raised, or answered nonsense
     |- PlacementError            RuntimeError       no executor may run the item (fails closed)
     |- ExecutorUnavailable       RuntimeError       not accepted: the item never started
     |- PayloadError
     |   |- PayloadTooLarge                          a call or result is larger than was allowed
     |   |- TaskEncodeError       PicklingError      a call cannot be pickled
     |   |- TaskDecodeError       UnpicklingError    a call cannot be unpickled by the worker
     |   |- ResultEncodeError     PicklingError      a result cannot be pickled by the worker
     |   `- ResultDecodeError     UnpicklingError    a result cannot be unpickled by the caller
     |- TaskTimeout               TimeoutError       an item's time was up; it was ended
     |- WorkerError               BrokenExecutor
     |   |- WorkerCrashed                            the process died while it ran the item
     |   `- WorkerStartError                         workers do not start; nothing ran
     `- RemoteError                                  stands in for an exception that cannot travel

The exceptions of the work itself are not in this tree: they arrive as they were raised.
"""

from __future__ import annotations

from concurrent.futures import BrokenExecutor
from pickle import PicklingError, UnpicklingError
from typing import Any

__all__ = [
    "ConfigurationError",
    "DuplicateTaskError",
    "ExecutorUnavailable",
    "HybridComputeError",
    "PayloadError",
    "PayloadTooLarge",
    "PlacementError",
    "PolicyError",
    "RemoteError",
    "ResultDecodeError",
    "ResultEncodeError",
    "TaskDecodeError",
    "TaskEncodeError",
    "TaskTimeout",
    "UnknownExecutorError",
    "WorkerCrashed",
    "WorkerError",
    "WorkerStartError",
]


def _restore(cls: type[HybridComputeError], text: str, state: dict[str, Any]) -> HybridComputeError:
    error = cls.__new__(cls, text)
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


class PolicyError(HybridComputeError, RuntimeError):
    """A policy raised, or its answer is not a route."""


class PlacementError(HybridComputeError, RuntimeError):
    """No executor of the route may run the item; it was neither pickled nor sent."""


class ExecutorUnavailable(HybridComputeError, RuntimeError):
    """An executor did not accept the item, which never started: trying elsewhere is safe."""


class PayloadError(HybridComputeError):
    """Arguments or a result could not travel; only this one item is affected."""


class PayloadTooLarge(PayloadError):
    """A pickled call, or a result, has more bytes than was allowed.

    Attributes:
        size: its bytes.
        limit: how many were allowed.
    """

    size: int
    limit: int

    def __init__(self, text: str, *, size: int, limit: int) -> None:
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
