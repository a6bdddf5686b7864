"""ThreadExecutor: the stdlib's ThreadPoolExecutor, to the letter, at a fraction of its cost.

The executor that the user holds and the pool that the threads hold are two objects, so that an
executor which is dropped without `shutdown` is freed at once; its pool (`_threads`, which has
the locks) then finishes the work that is queued, and the threads end.
"""

from __future__ import annotations

import math
import os
import weakref
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Executor, ThreadPoolExecutor
from typing import Any, TypeVar

from hybrid_compute import _exit
from hybrid_compute._contexts import current_context, each_in
from hybrid_compute.abc import Capabilities, SubExecutor
from hybrid_compute.executors._map_share import MapShare
from hybrid_compute.executors._threads import Pool
from hybrid_compute.items import WorkItem
from hybrid_compute.maps import MapOptions, Results, iterate
from hybrid_compute.routed import RoutedItem
from hybrid_compute.tasks import Task

__all__ = ["ThreadExecutor", "check_max_workers"]

T = TypeVar("T")

_CLOSED = "cannot schedule new futures after shutdown"

# Types whose iteration runs no code but their own: all of it can be read in one go.
_INERT = frozenset({list, tuple, range, dict, set, frozenset, str, bytes, deque})


class ThreadExecutor(SubExecutor):
    """A pool of threads with ThreadPoolExecutor's constructor, meaning and messages.

    Args:
        max_workers: most threads at once; default: as the stdlib, usable cores + 4, at most 32.
        thread_name_prefix: threads are called `prefix_0`, `prefix_1` and so on.
        initializer: called at the start of each thread; if it raises, the pool is broken.
        initargs: its arguments.
        name: the executor's name in a fleet.

    Threads start when work comes. All methods may be called from any thread; none but
    `shutdown(wait=True)` blocks.

    Raises:
        ValueError: `max_workers` is less than 1.
        TypeError: `max_workers` is no number, or `initializer` cannot be called.
    """

    workers: int

    capabilities: Capabilities = Capabilities(shares_memory=True, streams=True)

    def __init__(
        self,
        max_workers: int | None = None,
        thread_name_prefix: str = "",
        initializer: Callable[..., object] | None = None,
        initargs: tuple[Any, ...] = (),
        *,
        name: str = "thread",
    ) -> None:
        if max_workers is None:
            cores = getattr(os, "process_cpu_count", os.cpu_count)() or 1
            max_workers = min(32, cores + 4)
        self.name = name
        self.workers = self._max_workers = check_max_workers(max_workers)
        if initializer is not None and not callable(initializer):
            raise TypeError("initializer must be a callable")
        # The stdlib's own counter, so that default names are the stdlib's and stay unique.
        prefix = thread_name_prefix or f"ThreadPoolExecutor-{ThreadPoolExecutor._counter()}"  # type: ignore[attr-defined]
        self._pool = Pool(self.workers, prefix, initializer, initargs)
        self._pool.owner = weakref.ref(self)
        if type(self).execute is ThreadExecutor.execute:  # else items may be held elsewhere
            self._shelf = self._pool
        _exit.register(self._pool)

    def execute(self, item: WorkItem) -> None:
        """Queue the item."""
        item.keeper = pool = self._pool
        pool.push(item)

    def load(self) -> float:
        """Return the number of items queued and running per thread."""
        return sum(self.counts()) / self.workers

    def counts(self) -> tuple[int, int]:
        """Return how many items are queued and how many run; a `map` counts as its threads."""
        pool = self._pool
        with pool.lock:
            idle = len(pool.parked) + pool.waking + pool.starting + pool.left
            return len(pool.jobs) + len(pool.urgent), max(0, len(pool.threads) - idle)

    def give_back(self, belief: object) -> list[RoutedItem]:
        """Give up the items with this belief that no thread has taken yet."""
        return self._pool.give_back(belief)

    def _map(
        self, fn: Callable[..., T], iterables: tuple[Iterable[Any], ...], options: MapOptions
    ) -> Iterator[T]:
        if getattr(self.submit, "__func__", None) is not SubExecutor.submit:
            return super()._map(fn, iterables, options)  # who overrides submit sees every call
        if isinstance(fn, Task) and (context := current_context()) is not None:
            fn = each_in(context, fn)
        results = Results(options)
        inert = all(type(each) in _INERT for each in iterables)
        share = MapShare(self._pool, fn, results, inert=inert)
        return iterate(results, share, zip(*iterables, strict=False))

    def shutdown(self, wait: bool = True, *, cancel_futures: bool = False) -> None:
        """Accept no more work; finish or cancel what is queued.

        Args:
            wait: block until all threads have ended.
            cancel_futures: cancel what has not started.

        Raises:
            RuntimeError: with `wait`, one of the threads waits for itself.
        """
        self._pool.close(RuntimeError(_CLOSED))
        self._pool.end_streams()
        if cancel_futures:
            self._pool.cancel_all()
        if wait:
            self._pool.join()

    def runs_here(self) -> bool:
        """Say whether the current thread is one of this executor's."""
        return self._pool.runs_here()

    def belongs_to(self, owner: Executor) -> None:
        """Have the work that runs here find `owner`, when it asks `current().executor`."""
        self._pool.owner = weakref.ref(owner)

    @property
    def _broken(self) -> str | bool:
        # The stdlib's name: programs, and CPython's own tests, poll it.
        return self._pool.broken or False

    def __del__(self) -> None:
        pool = getattr(self, "_pool", None)  # the constructor may have raised
        if pool is not None:
            pool.close(RuntimeError(_CLOSED))


def check_max_workers(value: Any, name: str = "max_workers") -> int:
    """Return the number of workers as an int, or raise what the stdlib raises.

    A fraction counts as the next whole number: that is what the stdlib's pool does with
    `os.cpu_count() / 2`.
    """
    if not isinstance(value, (int, float)):
        raise TypeError(f"{name} must be a whole number or None, not {value!r}")
    if value <= 0:
        raise ValueError(f"{name} must be greater than 0")
    return value if isinstance(value, int) else math.ceil(min(value, 1 << 30))
