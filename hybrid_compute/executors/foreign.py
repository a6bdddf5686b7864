"""ForeignExecutor: any other `concurrent.futures.Executor` as a member of a fleet.

Owns the translation between the foreign future and ours. What a pool's class is known to be
(`_foreign_kinds`) says how a call gets there:

    threads, which share memory     the item itself: it runs, streams and is measured as on ours
    processes, interpreters         the call as bytes (`_packed`), and its outcome as bytes
    anything else                   `submit(fn, *args, **kwargs)`, as anybody would

Threads and locks: no thread of its own; outcomes are delivered on those of the foreign executor.
`_lock` guards which pool there is, and the end; `Streams.lock` the parked streams
(`_foreign_jobs`). A pool that broke is never called again but by `shutdown`, and not by that on a
thread which delivers for it: the stdlib's holds its lock while it fails its futures.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable, Iterator, Mapping
from concurrent.futures import BrokenExecutor, Executor, Future
from threading import get_ident
from typing import Any, TypeVar

from hybrid_compute import _packed
from hybrid_compute.abc import Capabilities, SubExecutor
from hybrid_compute.errors import (
    ConfigurationError,
    ExecutorUnavailable,
    PlacementError,
    TaskEncodeError,
    WorkerCrashed,
    WorkerStartError,
)
from hybrid_compute.executors._chunks import Feeders, map_in_chunks
from hybrid_compute.executors._foreign_jobs import Job, Streams, let_go
from hybrid_compute.executors._foreign_kinds import kind_of, remaker_of, workers_of
from hybrid_compute.executors._pump import Pump
from hybrid_compute.executors.thread import check_max_workers
from hybrid_compute.items import WorkItem
from hybrid_compute.maps import MapOptions
from hybrid_compute.streamed import StreamItem

__all__ = ["ForeignExecutor", "as_member", "as_members"]

T = TypeVar("T")

_CLOSED = "cannot schedule new futures after shutdown"
_KEPT = 4  # pools that broke, for `shutdown` to wait for; those before have long ended


class ForeignExecutor(SubExecutor):
    """Hands each item to another executor's `submit`, and its outcome back.

    Deadlines, retries, `cancel` and `map` work as with any executor of ours. On threads generators
    stream; other pools' futures bring one result, so that a stream is refused. A pool of processes
    gets calls, and gives results, that are pickled as `ProcessExecutor` does it.

    When such a pool breaks, as the stdlib's and loky's do if a worker dies, all that it holds fails
    with `WorkerCrashed`, since nobody knows what had begun; items that are `idempotent` and have
    `retries` run again. What follows goes to a new pool.

    Args:
        executor: what does the work; `shutdown` shuts it down too. None: `factory` makes it, now.
        name: the name in the fleet.
        capabilities: what is known of it. None: pools of threads, of processes (the stdlib's,
            loky's, mpi4py's) and of interpreters are known by their classes; others claim nothing.
        factory: makes another pool after one broke; called on the thread that submits next, or
            that retries. None: the stdlib's ProcessPoolExecutor is made anew, any other stays
            broken, and refuses.
        workers: how many items it can run at once; None: as many as it says, or 1.

    Raises:
        ConfigurationError: `executor` has no `submit` and `shutdown` that can be called, or
            `factory` cannot be called.
        ValueError: `workers` is less than 1.
    """

    def __init__(
        self,
        executor: Executor | None = None,
        *,
        name: str,
        capabilities: Capabilities | None = None,
        factory: Callable[[], Executor] | None = None,
        workers: int | None = None,
    ) -> None:
        if factory is not None and not callable(factory):
            raise ConfigurationError(
                f"executor {name!r}: factory={factory!r} cannot be called; give a function that "
                "makes a pool"
            )
        if executor is None and factory is not None:
            executor = factory()
        _check(name, executor)
        kind = kind_of(executor)
        self.name = name
        self.capabilities: Capabilities = capabilities or kind.capabilities
        self.workers: int = workers_of(executor) if workers is None else check_max_workers(workers)
        self._packs = kind.packs
        self._here = self.capabilities.shares_memory
        self._factory = factory or remaker_of(executor)
        self._pool: Executor | None = executor  # None: it broke
        self._retired: list[Executor] = []
        self._managers: list[threading.Thread] = []  # of pools of processes: they end last
        self._why: BaseException | None = None  # it broke
        self._lock = threading.RLock()  # see above; re-entrant: finalizers may submit
        # These need no lock: one addition, and one removal by whoever is the only one to do it.
        self._out: set[Job] = set()
        self._busy: dict[int, int] = {}  # by thread, how much runs or is delivered there
        self._streams = Streams(self)
        self._feeders: Feeders | None = None  # the first map makes them
        self._closed = False

    # Items.

    def execute(self, item: WorkItem) -> None:
        """Submit the item's call to the executor; callbacks run on its threads."""
        if item.streams and not self.capabilities.streams:
            raise PlacementError(
                f"executor {self.name!r}, {self._pool!r}, cannot stream {item.name!r}: its futures "
                "bring one result each. Submit it to threads, a ProcessExecutor or a service"
            )
        item.keeper = job = Job(self, item)
        try:
            job.packed = _packed.pack(item, self.carried) if self._packs else None
        except TaskEncodeError as error:
            item.keeper = None
            item.reject(error)
            return
        self._out.add(job)
        try:
            pool = job.pool = self._pool or self._next_pool()
            try:
                job.theirs = theirs = self._submit(pool, job, item)
            except BrokenExecutor as error:
                if not self._retire(pool, error):
                    raise
                # Once: a new one that is broken already would not be the last.
                pool = job.pool = self._next_pool()
                job.theirs = theirs = self._submit(pool, job, item)
        except BaseException as error:
            self._out.discard(job)
            item.keeper = None
            if isinstance(error, BrokenExecutor) and job.pool is not None:
                self._retire(job.pool, error)
            if not isinstance(error, Exception) or isinstance(error, ExecutorUnavailable):
                raise
            raise ExecutorUnavailable(
                f"executor {self.name!r}, {self._pool!r}, did not accept {item.name!r}: {error!r}"
            ) from error
        try:
            add = theirs.add_done_callback
        except AttributeError:
            self._out.discard(job)
            item.keeper = None
            item.reject(
                ConfigurationError(
                    f"executor {self.name!r}: submit() of {pool!r} returned {theirs!r}, "
                    f"which is no future, so that nobody knows what became of {item.name!r}"
                )
            )
        else:
            add(job.done)

    def _submit(self, pool: Executor, job: Job, item: WorkItem) -> Future[Any]:
        if self._here:
            return pool.submit(job)
        if job.packed is not None:
            return pool.submit(_packed.run_packed, job.packed)
        assert item.fn is not None  # noqa: S101 - an item that was released is never routed
        return pool.submit(item.fn, *item.args, **(item.kwargs or {}))

    def _run_stream(self, item: StreamItem) -> None:
        """Run a generator on a thread of the pool, and on others."""
        if item.start():
            iterator = item._open()
            if iterator is not None:
                pump = Pump(self._streams, item, iterator)
                item.begin(pump)
                pump.run()

    def _enter(self, me: int) -> None:
        self._busy[me] = self._busy.get(me, 0) + 1

    def _leave(self, me: int) -> None:
        count = self._busy.pop(me) - 1
        if count:
            self._busy[me] = count

    def _deliver(self, item: WorkItem, job: Job, theirs: Future[Any]) -> None:
        # The keeper stays until the item has started: without it, `cancel` would return True now,
        # though the work was done.
        if theirs.cancelled():
            item.cancel()
            return
        error = theirs.exception()
        me = get_ident()
        self._enter(me)
        try:
            if error is not None and self._is_broken(job.pool, error):
                assert job.pool is not None  # noqa: S101 - it has accepted the item
                self._retire(job.pool, error)
                lost = self._lost(item, error)
                if item.start():
                    let_go(item, job)
                    item.fail(lost)
            elif item.start():
                let_go(item, job)
                if error is not None:
                    (item.fail if self._packs else item.raised)(error)
                elif self._packs:
                    _packed.deliver(item, theirs.result())
                else:
                    item.succeed(theirs.result())
        finally:
            self._leave(me)

    # Pools.

    def _is_broken(self, pool: Executor | None, error: BaseException) -> bool:
        """Say whether it was the pool that failed: where it runs the function, that may be it."""
        if not isinstance(error, BrokenExecutor):
            return False
        return self._packs or self._here or bool(getattr(pool, "_broken", False))

    def _retire(self, pool: Executor, error: BaseException) -> bool:
        """Submit nothing more to a pool that broke; return whether there can be another one."""
        with self._lock:
            if self._pool is pool:
                self._pool, self._why = None, error
                self._retired = [*self._retired[1 - _KEPT :], pool]
            return self._pool is not None or self._factory is not None

    def _next_pool(self) -> Executor:
        if self._closed:
            raise RuntimeError(_CLOSED)
        if self._factory is None:
            raise ExecutorUnavailable(
                f"executor {self.name!r} is broken: {self._why!r}. With "
                "ForeignExecutor(..., factory=...) it would go on with another pool"
            ) from self._why
        made = self._factory()  # not under the lock: it is anybody's code
        _check(self.name, made)
        with self._lock:
            if self._pool is None and not self._closed:
                self._pool = made
                return made
            pool = self._pool
        made.shutdown(wait=False)  # another thread was quicker
        if pool is None:
            raise RuntimeError(_CLOSED)
        return pool

    def _lost(self, item: WorkItem, error: BaseException) -> Exception:
        if self._here:
            lost: Exception = WorkerStartError(
                f"executor {self.name!r} has no threads any more, so that {item.name!r} did not "
                f"run: {error}"
            )
        else:
            lost = WorkerCrashed(
                f"a worker of executor {self.name!r} died while its pool held {item.name!r}, which "
                f"may have had effects: {error} Such a pool loses all that it holds; an item that "
                "may run twice can say so with idempotent=True and retries",
                item_name=item.name,
                pid=-1,
                exitcode=None,
                signal=None,
            )
        lost.__cause__ = error
        return lost

    # Looking and ending.

    def load(self) -> float:
        """Return how many items are out per worker of the executor."""
        return len(self._out) / self.workers

    def counts(self) -> tuple[int, int]:
        """Return how many items are queued and how many run: guessed, but for threads."""
        if not self._here:
            return super().counts()
        out = len(self._out)
        running = min(out, len(self._busy))
        return out - running, running

    def runs_here(self) -> bool:
        """Say whether the current thread runs an item of it, or delivers its outcome."""
        return get_ident() in self._busy

    def is_available(self) -> bool:
        """Say whether it takes items: False once it is broken for good."""
        return self._pool is not None or self._factory is not None

    def _map(
        self, fn: Callable[..., T], iterables: tuple[Iterable[Any], ...], options: MapOptions
    ) -> Iterator[T]:
        submits = getattr(self.submit, "__func__", None) is SubExecutor.submit
        if not (self.capabilities.chunks and self._packs and submits):
            return super()._map(fn, iterables, options)  # who overrides submit sees every call
        with self._lock:
            feeders = self._feeders = self._feeders or Feeders()
        return map_in_chunks(
            self.submit,
            fn,
            iterables,
            options,
            resubmit=self.submit,
            workers=lambda: self.workers,
            feeders=feeders,
        )

    def shutdown(self, wait: bool = True, *, cancel_futures: bool = False) -> None:
        """Shut the executor down, with the same arguments as far as it takes them."""
        if self._feeders is not None:
            (self._feeders.cancel if cancel_futures else self._feeders.flush)()
        here = self.runs_here()
        with self._lock:
            self._closed = True
            pools = [] if self._pool is None else [self._pool]
            if wait and not here:  # see the module's docstring
                pools += self._retired
        self._streams.end()
        for pool in pools:
            # The stdlib's process pool, once told not to wait, has nothing left to wait for.
            manager = getattr(pool, "_executor_manager_thread", None)
            if isinstance(manager, threading.Thread):
                self._managers.append(manager)
            try:
                pool.shutdown(wait=wait, cancel_futures=cancel_futures)
            except TypeError:
                pool.shutdown(wait=wait)  # an executor from before Python 3.9
        if wait and not here:
            for manager in list(self._managers):
                manager.join()


def _check(name: str, executor: object) -> None:
    for method in ("submit", "shutdown"):
        if isinstance(executor, type) or not callable(getattr(executor, method, None)):
            raise ConfigurationError(
                f"executor {name!r}: {executor!r} is no concurrent.futures.Executor "
                f"(it has no {method}() to call); give an instance of one"
            )


def as_member(name: object, executor: object) -> SubExecutor:
    """Return an executor that was given for a fleet, wrapped if it is a foreign one."""
    if not isinstance(name, str) or not name:
        raise ConfigurationError(f"executors: {name!r} is no name; use a string such as 'gpu'")
    if isinstance(executor, str):
        from hybrid_compute.executors._named import executor_named  # noqa: PLC0415 - few have one

        executor = executor_named(executor, name)
    if isinstance(executor, SubExecutor):
        return executor
    return ForeignExecutor(executor, name=name)  # type: ignore[arg-type]  # which checks it


def as_members(
    executors: Mapping[str, Executor | str] | None, remote: object
) -> dict[str, SubExecutor]:
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
