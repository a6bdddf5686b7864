"""ForeignExecutor: any other `concurrent.futures.Executor` as a member of a fleet.

Owns the translation between the foreign future and ours. Has no threads of its own: outcomes are
delivered on the thread on which the foreign executor runs its callbacks. Its one lock guards the
count of items that are out.
"""

from __future__ import annotations

import threading
from collections.abc import Mapping
from concurrent.futures import Executor, Future
from functools import partial
from typing import Any

from hybrid_compute.abc import Capabilities, SubExecutor
from hybrid_compute.errors import ConfigurationError, ExecutorUnavailable
from hybrid_compute.items import Keeper, WorkItem

__all__ = ["ForeignExecutor", "as_member", "as_members"]


class ForeignExecutor(SubExecutor):
    """Hands each item to another executor's `submit`, and its outcome back.

    Args:
        executor: what does the work; `shutdown` shuts it down too.
        name: the name in the fleet.
        capabilities: what is known of it; the default claims nothing.

    Raises:
        ConfigurationError: `executor` has no `submit` and `shutdown` that can be called.
    """

    def __init__(
        self, executor: Executor, *, name: str, capabilities: Capabilities | None = None
    ) -> None:
        for method in ("submit", "shutdown"):
            if isinstance(executor, type) or not callable(getattr(executor, method, None)):
                raise ConfigurationError(
                    f"executor {name!r}: {executor!r} is no concurrent.futures.Executor "
                    f"(it has no {method}() to call); give an instance of one"
                )
        self.name = name
        self.capabilities: Capabilities = capabilities or Capabilities()
        workers = getattr(executor, "_max_workers", 1)  # the stdlib's pools, loky and others
        self.workers: int = workers if isinstance(workers, int) and workers > 0 else 1
        self._executor = executor
        self._lock = threading.RLock()  # guards _out; re-entrant: finalizers may submit
        self._out = 0

    def execute(self, item: WorkItem) -> None:
        """Submit the item's call to the executor; callbacks run on its threads."""
        assert item.fn is not None  # noqa: S101 - an item that was released is never routed
        item.keeper = keeper = _Theirs()
        with self._lock:
            self._out += 1
        try:
            theirs = self._executor.submit(item.fn, *item.args, **(item.kwargs or {}))
            keeper.future = theirs
        except BaseException as error:
            with self._lock:
                self._out -= 1
            item.keeper = None
            if not isinstance(error, Exception):
                raise
            raise ExecutorUnavailable(
                f"executor {self.name!r}, {self._executor!r}, did not accept "
                f"{item.name!r}: {error!r}"
            ) from error
        if not callable(getattr(theirs, "add_done_callback", None)):
            with self._lock:
                self._out -= 1
            item.keeper = None
            item.reject(
                ConfigurationError(
                    f"executor {self.name!r}: submit() of {self._executor!r} returned {theirs!r}, "
                    f"which is no future, so that nobody knows what became of {item.name!r}"
                )
            )
            return
        theirs.add_done_callback(partial(self._deliver, item))

    def _deliver(self, item: WorkItem, theirs: Future[Any]) -> None:
        with self._lock:
            self._out -= 1
        # The keeper stays until the item has started: without it, `cancel` would return True now,
        # though the work was done.
        if theirs.cancelled():
            item.cancel()
        elif item.start():
            item.keeper = None
            error = theirs.exception()
            if error is None:
                item.succeed(theirs.result())
            else:
                item.raised(error)

    def load(self) -> float:
        """Return how many items are out per worker of the executor."""
        return self._out / self.workers

    def shutdown(self, wait: bool = True, *, cancel_futures: bool = False) -> None:
        """Shut the executor down, with the same arguments as far as it takes them."""
        try:
            self._executor.shutdown(wait=wait, cancel_futures=cancel_futures)
        except TypeError:
            self._executor.shutdown(wait=wait)  # an executor from before Python 3.9


class _Theirs(Keeper):
    """Their queue holds the work, so only they know whether it can still be cancelled.

    Until their `submit` has returned nobody does.
    """

    def __init__(self) -> None:
        self.future: Future[Any] | None = None

    def withdraw(self, item: WorkItem) -> bool:
        return self.future is not None and self.future.cancel()


def as_member(name: object, executor: object) -> SubExecutor:
    """Return an executor that was given for a fleet, wrapped if it is a foreign one."""
    if not isinstance(name, str) or not name:
        raise ConfigurationError(f"executors: {name!r} is no name; use a string such as 'gpu'")
    if isinstance(executor, SubExecutor):
        return executor
    return ForeignExecutor(executor, name=name)  # type: ignore[arg-type]  # which checks it


def as_members(executors: Mapping[str, Executor] | None, remote: object) -> dict[str, SubExecutor]:
    """Return what HybridExecutor was given for its fleet, by name; `executors` count for more."""
    if not isinstance(executors or {}, Mapping):
        raise ConfigurationError(
            f"executors={executors!r} is no mapping; give names: {{'gpu': executor}}"
        )
    found: dict[str, SubExecutor] = {}
    if remote is not None:
        from hybrid_compute.executors.remote import as_remotes  # noqa: PLC0415 - most have none

        found.update(as_remotes(remote))
    found.update({name: as_member(name, each) for name, each in (executors or {}).items()})
    return found
