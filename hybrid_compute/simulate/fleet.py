"""A fleet that is only simulated, and items that stand for those of a log.

Owns what a policy may look at: executors that tell their load, and items with the names and
options of those that were logged, but with no body and no arguments. Pure.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Mapping
from typing import Any, NoReturn

import attrs

from hybrid_compute.abc import Capabilities, SubExecutor, WorkItem
from hybrid_compute.errors import ConfigurationError, ExecutorUnavailable
from hybrid_compute.prices import Price
from hybrid_compute.routed import RoutedItem
from hybrid_compute.simulate.log import ExecutorRecord, ItemRecord
from hybrid_compute.tasks import NO_OPTIONS, Task, TaskOptions

__all__ = ["SimulatedExecutor", "StandIns", "change_fleet"]


_MOST_BYTES = 1 << 26


class SimulatedExecutor(SubExecutor):
    """An executor of which only the queue is there; the engine moves it.

    Args:
        name: its name in the fleet.
        record: what it is.

    Attributes:
        record: the same.
        queue: those that wait for a worker, the first first.
        running: how many workers are busy.
        travelling: items that are on their way there.
        link_free: when the last item is on its way, so that the next can follow.
        ready: when the first worker takes work; None: nobody has asked for one yet.
    """

    def __init__(self, name: str, record: ExecutorRecord) -> None:
        self.name = name
        self.record = record
        self.workers: int = record.workers
        self.capabilities: Capabilities = Capabilities(
            shares_memory=record.shares_memory,
            isolates=record.isolates,
            remote=record.remote,
            blocks=record.blocks,
            streams=True,
        )
        self.price: Price | None = (
            Price(
                per_call=record.per_call,
                per_second=record.per_second,
                per_megabyte=record.per_megabyte,
            )
            or None
        )
        self.queue: deque[Any] = deque()
        self.running = self.travelling = 0
        self.link_free: float = 0.0
        self.ready: float | None = None

    def can_run(self, item: WorkItem) -> bool:
        """Say whether it could run the item: a service knows tasks only, or was named."""
        known = isinstance(item.fn, Task) or item.options.executor == self.name
        return known or not self.record.remote

    def load(self) -> float:
        """Return the number of items queued and running per worker."""
        if self.record.blocks:
            return 0.0  # as InlineExecutor: its caller waits for nobody
        return (self.travelling + len(self.queue) + self.running) / self.workers

    def latency(self) -> float | None:
        """Return the seconds of the way there and back; None: there is none."""
        return self.record.rtt

    def counts(self) -> tuple[int, int]:
        """Return how many items are queued and how many run."""
        return self.travelling + len(self.queue), self.running

    def execute(self, item: WorkItem) -> None:
        """Refuse: nothing runs here."""
        raise ExecutorUnavailable(f"executor {self.name!r} is simulated and runs nothing")

    def shutdown(self, wait: bool = True, *, cancel_futures: bool = False) -> None:
        """Do nothing: there is nothing to end."""


class _Body:
    """Stands where a function was; what is learned of it is learned of its name."""

    __task__ = True  # for `_keys.key_of`

    def __init__(self, name: str) -> None:
        self.key = name
        self.__name__ = self.__qualname__ = name

    def __call__(self, *_: Any, **__: Any) -> NoReturn:
        raise RuntimeError(f"{self.__name__!r} is replayed from a log, and has no body to call")


class StandIns:
    """Makes items in the place of logged ones; those of one task share one function."""

    def __init__(self) -> None:
        self._functions: dict[tuple[str, bool, TaskOptions], Callable[..., Any]] = {}

    def item(self, record: ItemRecord) -> RoutedItem:
        """Return an item with the name and options of a logged one, and as many bytes."""
        options = NO_OPTIONS
        if record.pinned or record.movable is not None or record.local_only or record.tags:
            options = TaskOptions(
                executor=record.pinned,
                movable=record.movable,
                local_only=record.local_only or None,
                tags=record.tags or None,
            )
        key = (record.task, record.declared, options)
        fn = self._functions.get(key)
        if fn is None:
            fn = _Body(record.task)
            if record.declared:
                fn = Task(fn, name=record.task, options=options)
            self._functions[key] = fn
        # Zeros, which take no memory until somebody looks at them.
        size = min(record.bytes or 0, _MOST_BYTES)
        return RoutedItem(fn, (bytes(size),) if size else (), None, options)


def change_fleet(
    fleet: Mapping[str, ExecutorRecord],
    *,
    workers: Mapping[str, int] | None = None,
    remotes: Mapping[str, ExecutorRecord] | None = None,
    prices: Mapping[str, tuple[float, ...]] | None = None,
) -> dict[str, ExecutorRecord]:
    """Return another fleet than the logged one.

    Args:
        fleet: the logged one.
        workers: numbers of workers by executor.
        remotes: executors to add, or to put in the place of others.
        prices: for a call, a second and a megabyte, by executor; those left out are 0.

    Raises:
        ConfigurationError: a name is not in the fleet.
    """
    changed = {**fleet, **(remotes or {})}
    for name, count in (workers or {}).items():
        changed[name] = attrs.evolve(_found(changed, name), workers=count)
    for name, price in (prices or {}).items():
        call, second, megabyte = (*price, 0.0, 0.0, 0.0)[:3]
        changed[name] = attrs.evolve(
            _found(changed, name), per_call=call, per_second=second, per_megabyte=megabyte
        )
    return changed


def _found(fleet: Mapping[str, ExecutorRecord], name: str) -> ExecutorRecord:
    if name not in fleet:
        raise ConfigurationError(
            f"executor {name!r} is not in the fleet, which has {list(fleet)}; add it as a remote"
        )
    return fleet[name]
