"""ProcessExecutor: runs work in worker processes, each of which may die without harm.

Owns the public face: arguments, defaults, life. The queue is in `_dispatch`, the thread that
listens to the workers in `_reader`, the children in `_spawner` and `_worker`, what is said
between them in `_frames`. Nothing is started, and most of it not even imported, before the
first item.

Holds no lock of its own; all methods may be called from any thread.
"""

from __future__ import annotations

import os
import sys
import threading
import weakref
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Executor, Future
from typing import Any, TypeVar

from hybrid_compute import _exit
from hybrid_compute._contexts import Carried
from hybrid_compute.abc import Capabilities, SubExecutor
from hybrid_compute.executors._chunks import Feeders, map_in_chunks
from hybrid_compute.executors._dispatch import CLOSED, Pool
from hybrid_compute.executors._settings import Settings
from hybrid_compute.executors.thread import check_max_workers
from hybrid_compute.items import WorkItem
from hybrid_compute.maps import MapOptions
from hybrid_compute.routed import RoutedItem

__all__ = ["ProcessExecutor"]

T = TypeVar("T")


class ProcessExecutor(SubExecutor):
    """Runs each item in one of several worker processes.

    Functions, arguments and results are pickled; lambdas, closures and functions of `__main__`
    or a notebook travel too. No `if __name__ == "__main__"` guard is needed. A worker that dies
    costs the one item that it ran, which fails with `WorkerCrashed`; a new worker takes its
    place. Workers start on first need, get the caller's environment, `sys.path` and working
    directory of that moment, write to the caller's stdout and stderr, have an empty stdin, are
    spared Ctrl-C, and never outlive the caller.

    As with the stdlib's ProcessPoolExecutor, `cancel()` works until an item is sent to a worker,
    and pickling errors are raised by `result()`.

    Args:
        max_workers: processes at most; None means one for each core that this process may use.
        initializer: called in each worker before its first item. If it raises in three workers
            one after the other, all items fail with `WorkerStartError`.
        initargs: its arguments.
        name: its name in a fleet.
        max_tasks_per_child: items after which a worker is replaced; a chunk of a `map` is one.
            None: never.
        idle_timeout: seconds without work after which a worker ends; None: it waits for ever.
        max_memory_per_child: bytes of resident memory above which a worker, found so after an
            item, is replaced; needs the extra `process`. None: never.
        max_payload: bytes that a pickled call, or a pickled result, may have; an item with more
            fails with `PayloadTooLarge`. None: any.
        native_threads: threads that OpenMP, OpenBLAS, MKL and the like start in each worker, by
            their environment variables. None: the cores' share of each worker, unless
            OMP_NUM_THREADS or the library's own variable is set.
        kill_grace: seconds that work which is ended has to clean up, between SIGTERM and
            SIGKILL.
        forward_logs: hand the log records of the workers to the loggers of this process, whose
            levels hold there; False: the workers keep them, for the handlers that they have.

    Work can be ended while it runs: at its `timeout` (see `TaskOptions`), or by
    `HybridFuture.cancel_running`. Large payloads travel through shared memory: the function gets,
    and the caller gets back, arrays that are private copies, made page by page as they are
    written to.

    Raises:
        ValueError: a number is out of range (`ConfigurationError` but for `max_workers`).
        TypeError: one is no number, or `initializer` cannot be called.
        ConfigurationError: `max_memory_per_child` needs psutil.
        OSError: this is not a POSIX system.
    """

    workers: int

    capabilities: Capabilities = Capabilities(isolates=True, chunks=True, kills=True, streams=True)

    def __init__(  # noqa: PLR0913 - all but two are keywords that few need
        self,
        max_workers: int | None = None,
        initializer: Callable[..., object] | None = None,
        initargs: tuple[Any, ...] = (),
        *,
        name: str = "process",
        max_tasks_per_child: int | None = None,
        idle_timeout: float | None = None,
        max_memory_per_child: int | None = None,
        max_payload: int | None = None,
        native_threads: int | None = None,
        kill_grace: float = 1.0,
        forward_logs: bool = True,
    ) -> None:
        if os.name != "posix":
            raise OSError(f"ProcessExecutor needs a POSIX system, and {sys.platform} is none")
        if max_workers is None:
            max_workers = _usable_cores()
        self.name = name
        self.workers = self._max_workers = check_max_workers(max_workers)
        if initializer is not None and not callable(initializer):
            raise TypeError("initializer must be a callable")
        settings = Settings(
            workers=self.workers,
            cores=_usable_cores(),
            max_tasks_per_child=max_tasks_per_child,
            idle_timeout=idle_timeout,
            max_memory_per_child=max_memory_per_child,
            max_payload=max_payload,
            native_threads=native_threads,
            kill_grace=kill_grace,
            forward_logs=forward_logs,
        )
        self._pool = Pool(name, initializer, initargs, settings)
        self._feeders = Feeders()
        self._pool.owner = weakref.ref(self)
        _exit.register(self._pool)

    @property
    def carried(self) -> Carried | None:
        """The context variables whose values go along with an item."""
        return self._pool.carried

    @carried.setter
    def carried(  # pyright: ignore[reportIncompatibleVariableOverride]  # not to be read only
        self, carried: Carried | None
    ) -> None:
        self._pool.carried = carried

    def execute(self, item: WorkItem) -> None:
        """Queue the item, or send it if a worker is idle. Does not wait for the worker."""
        self._pool.push(item)

    def execute_late(self, item: WorkItem) -> None:
        """Queue the item even if `shutdown` was called, for pieces of a chunk accepted before.

        Called on the reader thread while the item that it replaces is being settled, so that
        the reader cannot have ended. Raises what `execute` raises if the pool is broken.
        """
        self._pool.push(item, late=True)

    def runs_here(self) -> bool:
        """Say whether the current thread is the one on which this executor's callbacks run."""
        me, pool = threading.current_thread(), self._pool
        return me is pool.thread or any(each.thread is me for each in tuple(pool.agents))

    def belongs_to(self, owner: Executor) -> None:
        """Have the work that runs here find `owner`, when it asks `current().executor`."""
        self._pool.owner = weakref.ref(owner)

    def lane(self) -> int | None:
        """Return the process id of the worker whose answers are delivered just now."""
        return self._pool.heard

    def load(self) -> float:
        """Return the number of items queued and running per worker."""
        return sum(self.counts()) / self.workers

    def counts(self) -> tuple[int, int]:
        """Return how many items are queued, here or in a worker, and how many run."""
        pool = self._pool
        with pool.lock:
            sent = [len(each.items) for each in pool.workers]
            running = sum(1 for count in sent if count)
            return pool.waiting() + sum(sent) - running, running

    def give_back(self, belief: object) -> list[RoutedItem]:
        """Give up the items with this belief that were not sent to a worker."""
        return self._pool.give_back(belief)

    def _map(
        self, fn: Callable[..., T], iterables: tuple[Iterable[Any], ...], options: MapOptions
    ) -> Iterator[T]:
        if getattr(self.submit, "__func__", None) is not SubExecutor.submit:
            return super()._map(fn, iterables, options)  # who overrides submit sees every call
        return map_in_chunks(
            self.submit,
            fn,
            iterables,
            options,
            resubmit=self._submit_late,
            workers=lambda: self.workers,
            feeders=self._feeders,
        )

    def _submit_late(self, fn: Callable[..., T], *args: Any) -> Future[T]:
        item = WorkItem(fn, args)
        self.execute_late(item)
        return item.future

    def shutdown(self, wait: bool = True, *, cancel_futures: bool = False) -> None:
        """Accept no more work; finish or cancel what is queued.

        Args:
            wait: block until all work is done and all processes have ended; from a
                done-callback, which runs on the thread that sees to it, it does not block.
            cancel_futures: cancel what has not been sent to a worker.
        """
        if cancel_futures:
            self._feeders.cancel()
        else:
            self._feeders.flush()
        self._pool.close(RuntimeError(CLOSED))
        self._pool.end_streams()
        if cancel_futures:
            self._pool.cancel_all()
        if wait:
            self._pool.join()

    def _pids(self) -> list[int]:
        """Return the process ids of the live workers, as far as they are known."""
        with self._pool.lock:
            return [each.pid for each in self._pool.workers if each.pid is not None]

    @property
    def _broken(self) -> str | bool:
        # The stdlib's name: programs, and CPython's own tests, poll it.
        return self._pool.broken or False

    def __del__(self) -> None:
        pool = getattr(self, "_pool", None)  # the constructor may have raised
        if pool is not None:
            pool.close(RuntimeError(CLOSED))


def _usable_cores() -> int:
    count = getattr(os, "process_cpu_count", None)  # Python 3.13
    if count is not None:
        return count() or 1
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0)) or 1
    return os.cpu_count() or 1
