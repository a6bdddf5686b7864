"""HybridExecutor: one Executor in front of a fleet; a policy chooses for each work item.

Owns the fleet, the policy and the observers, none of which ever change. Knows of executors only
what `abc.SubExecutor` says.

    submit(fn, *args, **kwargs)
       plain callable --------------------------------> thread pool          (law 1: drop-in)
       task, or options that say it may move:
          eligible = fleet, less what cannot or must not run it               (law 2: placement)
          route    = policy.route(item, eligible)
          item.launch(): route[0].execute(item) ... later item.succeed | item.fail -> attempts

Threads and locks: none of its own. `_closed` goes from False to True once; an item that slips
past it while another thread shuts down meets the executors' own, which are guarded.
"""

from __future__ import annotations

import itertools
import threading
from collections.abc import Callable, Iterable, Iterator, Mapping
from concurrent.futures import Executor, ThreadPoolExecutor
from functools import partial
from types import MappingProxyType
from typing import Any, ParamSpec, TypeVar

import attrs

from hybrid_compute.abc import Fleet, Observer, Policy, SubExecutor
from hybrid_compute.errors import (
    ConfigurationError,
    PlacementError,
    PolicyError,
    UnknownExecutorError,
)
from hybrid_compute.executors._batch import run_batch
from hybrid_compute.executors._chunks import map_in_chunks
from hybrid_compute.executors.foreign import ForeignExecutor
from hybrid_compute.executors.inline import InlineExecutor
from hybrid_compute.executors.process import ProcessExecutor
from hybrid_compute.executors.thread import ThreadExecutor
from hybrid_compute.futures import HybridFuture
from hybrid_compute.items import WorkItem
from hybrid_compute.maps import MapOptions, map_by_submit
from hybrid_compute.policy.adaptive import Adaptive
from hybrid_compute.routing import ObservedItem, Observers, Outstanding, RoutedItem
from hybrid_compute.tasks import NO_OPTIONS, Task, TaskOptions

__all__ = ["ExecutorStats", "ExecutorView", "HybridExecutor", "Stats"]

P = ParamSpec("P")
T = TypeVar("T")

_POLICIES: Mapping[str, Callable[[], Policy]] = MappingProxyType({"adaptive": Adaptive})
_CLOSED = "cannot schedule new futures after shutdown"


@attrs.frozen(kw_only=True)
class ExecutorStats:
    """What one executor does at this moment.

    Attributes:
        workers: most items it runs at once.
        queued: items that wait.
        running: items that run.
    """

    workers: int
    queued: int
    running: int


@attrs.frozen(kw_only=True)
class Stats:
    """What a HybridExecutor does at this moment.

    Attributes:
        executors: by name.
    """

    executors: Mapping[str, ExecutorStats]


class HybridExecutor(Executor):
    """A `concurrent.futures.Executor` that runs each item where it runs best.

    In place of ThreadPoolExecutor it changes no program: a plain callable runs on a thread of
    the pool. What its author declared with `@task` goes where the policy says.

    Args:
        max_workers: threads at most, as ThreadPoolExecutor's.
        thread_name_prefix: as ThreadPoolExecutor's.
        initializer: called at the start of each thread, as ThreadPoolExecutor's. Worker
            processes have their own: give a ProcessExecutor in `executors`.
        initargs: its arguments.
        max_processes: worker processes at most; default: usable cores.
        executors: more executors by name, or others in the place of "inline", "thread" and
            "process". Any `concurrent.futures.Executor` will do. They belong to this one from
            now on: its `shutdown` shuts them down.
        policy: an object with `route`, or "adaptive", the default.
        observers: callables that get every `Event`, on the thread where it happens.

    All methods may be called from any thread. Threads and processes start on first need.

    Raises:
        ValueError: a size is less than 1 (`ConfigurationError` for everything else, which is a
            ValueError too).
        TypeError: a size is no number, or `initializer` cannot be called.
    """

    def __init__(
        self,
        max_workers: int | None = None,
        thread_name_prefix: str = "",
        initializer: Callable[..., object] | None = None,
        initargs: tuple[Any, ...] = (),
        *,
        max_processes: int | None = None,
        executors: Mapping[str, Executor] | None = None,
        policy: Policy | str | None = None,
        observers: Iterable[Observer] = (),
    ) -> None:
        given = {name: _as_member(name, each) for name, each in (executors or {}).items()}
        fleet: dict[str, SubExecutor] = {
            "inline": given.get("inline") or InlineExecutor(),
            "thread": given.get("thread")
            or ThreadExecutor(max_workers, thread_name_prefix, initializer, initargs),
            "process": given.get("process") or ProcessExecutor(max_processes),
        }
        fleet.update(given)
        self._fleet: Fleet = MappingProxyType(fleet)
        self._policy = _as_policy(policy, self._fleet)
        self._observers = Observers(observers)
        if callable(observe := getattr(self._policy, "observe", None)):
            self._observers.add(observe)
        self._thread = fleet["thread"]
        self._max_workers = self._thread.workers  # the stdlib's name: dask and others read it
        self._ids = itertools.count(1)
        self._outstanding = Outstanding()
        self._closed = False
        # Plain callables take the short way unless somebody wants to see them or to move them.
        self._moves_plain = bool(getattr(self._policy, "moves_plain", False))
        self._short_way = not self._moves_plain and not self._observers
        # Whether every executor takes every item, so that nothing need be asked.
        self._all_eligible = not any(
            each.capabilities.remote or type(each).can_run is not SubExecutor.can_run
            for each in fleet.values()
        )

    # Submitting.

    def submit(self, fn: Callable[P, T], /, *args: P.args, **kwargs: P.kwargs) -> HybridFuture[T]:
        """Schedule `fn(*args, **kwargs)` and return its future. Does not block.

        (A task that is routed inline runs before `submit` returns.) What goes wrong with the
        item is on the future.

        Raises:
            RuntimeError: the executor is shut down.
            UnknownExecutorError: the task's options name an executor that is not there.
        """
        if self._closed:
            raise RuntimeError(_CLOSED)
        if type(fn) is Task or not self._short_way:
            return self._submit(NO_OPTIONS, fn, args, kwargs)
        item = WorkItem(fn, args, kwargs)
        self._thread.execute(item)
        return item.future

    def _submit(
        self,
        said: TaskOptions,
        fn: Callable[..., Any],
        args: tuple[Any, ...],
        kwargs: dict[str, Any] | None,
    ) -> HybridFuture[Any]:
        if self._closed:
            raise RuntimeError(_CLOSED)
        options = said.over(fn.options) if isinstance(fn, Task) else said
        item = self._item(fn, args, kwargs, options)
        try:
            route, fleet = self._route(item)
        except (PlacementError, PolicyError) as error:
            item.reject(error)
            return item.future
        return self._launch(item, route, fleet)

    def _item(
        self,
        fn: Callable[..., Any],
        args: tuple[Any, ...],
        kwargs: dict[str, Any] | None,
        options: TaskOptions,
    ) -> RoutedItem:
        if self._observers:
            return ObservedItem(
                fn, args, kwargs, options, observers=self._observers, item_id=next(self._ids)
            )
        return RoutedItem(fn, args, kwargs, options)

    def _launch(self, item: RoutedItem, route: tuple[str, ...], fleet: Fleet) -> HybridFuture[Any]:
        if item.options.retries or len(route) > 1:
            self._outstanding.add()
            item.future.add_done_callback(self._outstanding.remove)
        try:
            item.launch(route, fleet)
        except BaseException:
            item.future.cancel()  # nobody has it; takes it off the count
            raise
        return item.future

    def _route(self, item: WorkItem) -> tuple[tuple[str, ...], Fleet]:
        """Return where to try the item, in order, and the executors to find there."""
        options = item.options
        fleet = self._fleet if self._all_eligible else self._eligible(item)
        if options.executor is not None:
            route: tuple[str, ...] = (self._known(options.executor),)
        elif not self._may_move(item.fn, options):
            route = ("thread",)
        else:
            try:
                route = self._policy.route(item, fleet)
            except Exception as error:
                raise PolicyError(
                    f"policy {self._policy!r} raised {error!r} for {item.name!r}"
                ) from error
            self._check_answer(route, item)
        kept = tuple(name for name in route if name in fleet)
        if not kept:
            raise PlacementError(
                f"no executor may run {item.name!r}: the route is {list(route)}, and of the fleet "
                f"{list(self._fleet)} only {list(fleet)} can and may run it"
                + (" (it is local_only)" if options.local_only else "")
            )
        return kept, fleet

    def _eligible(self, item: WorkItem) -> Fleet:
        local = item.options.local_only
        return {
            name: each
            for name, each in self._fleet.items()
            if not (local and each.capabilities.remote) and each.can_run(item)
        }

    def _may_move(self, fn: object, options: TaskOptions) -> bool:
        if options.movable is not None:
            return options.movable
        return isinstance(fn, Task) or self._moves_plain

    def _known(self, name: str) -> str:
        if name not in self._fleet:
            raise UnknownExecutorError(
                f"executor={name!r}: the fleet has {list(self._fleet)}; "
                f"add it with HybridExecutor(executors={{{name!r}: ...}})"
            )
        return name

    def _check_answer(self, route: object, item: WorkItem) -> None:
        if not isinstance(route, tuple):
            raise PolicyError(
                f"policy {self._policy!r} answered {route!r} for {item.name!r}; "
                f"a route is a tuple of executors' names"
            )
        for name in route:
            if name not in self._fleet:
                raise PolicyError(
                    f"policy {self._policy!r} answered {name!r} for {item.name!r}; "
                    f"the fleet has {list(self._fleet)}"
                )

    def map(
        self,
        fn: Callable[..., T],
        *iterables: Iterable[Any],
        timeout: float | None = None,
        chunksize: int | None = None,
        buffersize: int | None = None,
        ordered: bool = True,
        return_exceptions: bool = False,
        progress: Any = None,
    ) -> Iterator[T]:
        """Call `fn` on the items of the iterables, side by side, and iterate over the results.

        As `SubExecutor.map`, which see for the arguments; a declared task is routed once, and
        sent in chunks where a message is dear.
        """
        options = MapOptions(
            timeout=timeout,
            chunksize=chunksize,
            buffersize=buffersize,
            ordered=ordered,
            return_exceptions=return_exceptions,
            progress=progress,
        )
        return self._map(NO_OPTIONS, fn, iterables, options)

    def _map(
        self,
        said: TaskOptions,
        fn: Callable[..., T],
        iterables: tuple[Iterable[Any], ...],
        mapping: MapOptions,
    ) -> Iterator[T]:
        if self._closed:
            raise RuntimeError(_CLOSED)
        if type(self).submit is not HybridExecutor.submit and said is NO_OPTIONS:
            return map_by_submit(self.submit, fn, iterables, mapping)  # a subclass sees each call
        if said is NO_OPTIONS and self._short_way and not isinstance(fn, Task):
            return self._thread._map(fn, iterables, mapping)
        options = said.over(fn.options) if isinstance(fn, Task) else said
        # One decision for the whole map, on an item that stands for all of its calls.
        route, fleet = self._route(WorkItem(fn, options=options))
        first = fleet[route[0]]
        # A retry is of a call, not of a chunk.
        if first.capabilities.chunks and not options.retries:
            return map_in_chunks(
                lambda _, *args: self._launch(
                    self._item(run_batch, args, None, options), route, fleet
                ),
                fn,
                iterables,
                mapping,
                workers=first.workers,
                split_crashed=bool(options.idempotent),
            )
        if len(route) == 1 and not options.retries and not self._observers:
            return first._map(fn, iterables, mapping)
        return map_by_submit(
            lambda fn, *args: self._launch(self._item(fn, args, None, options), route, fleet),
            fn,
            iterables,
            mapping,
        )

    def options(
        self,
        *,
        executor: str | None = None,
        retries: int | None = None,
        idempotent: bool | None = None,
        movable: bool | None = None,
        local_only: bool | None = None,
        tags: str | Iterable[str] | None = None,
    ) -> ExecutorView:
        """Return a view of this executor whose `submit` and `map` use these options.

        They go before the task's own; see `TaskOptions` for their meaning. The view is an
        `Executor` itself and costs next to nothing.

        Raises:
            UnknownExecutorError: `executor` names none of the fleet.
            ConfigurationError: another value is wrong.
        """
        said = TaskOptions(
            executor=executor,
            retries=retries,
            idempotent=idempotent,
            movable=movable,
            local_only=local_only,
            tags=tags,
        )
        return ExecutorView(self, said)

    # Looking and ending.

    def stats(self) -> Stats:
        """Return what the executors do at this moment. Does not block."""
        return Stats(
            executors=MappingProxyType(
                {
                    name: ExecutorStats(workers=each.workers, queued=queued, running=running)
                    for name, each in self._fleet.items()
                    for queued, running in [each.counts()]
                }
            )
        )

    def as_thread_pool(self) -> ThreadPoolExecutor:
        """Return this executor in the shape of a ThreadPoolExecutor.

        For those who insist on the class, such as asyncio's `loop.set_default_executor`. All
        work goes to this executor, and `shutdown` shuts it down.
        """
        return _ThreadPoolShape(self)

    def shutdown(self, wait: bool = True, *, cancel_futures: bool = False) -> None:
        """Accept no more work; finish or cancel what is queued. Idempotent.

        Retries and fallbacks of accepted items still take place, unless futures are cancelled.

        Args:
            wait: block until all work is done and all threads and processes have ended.
            cancel_futures: cancel what has not started.
        """
        self._closed = True
        if cancel_futures:
            self._close_fleet(wait=False, cancel_futures=True)
        if not wait:
            self._outstanding.when_none(partial(self._close_fleet, wait=False))
            return
        settled = threading.Event()
        self._outstanding.when_none(settled.set)
        settled.wait()
        self._close_fleet(wait=True)

    def _close_fleet(self, *, wait: bool, cancel_futures: bool = False) -> None:
        for each in self._fleet.values():
            each.shutdown(wait=False, cancel_futures=cancel_futures)
        if wait:
            for each in self._fleet.values():
                each.shutdown(wait=True)

    @property
    def _broken(self) -> Any:
        # The stdlib's name: programs, and CPython's own tests, poll it.
        return getattr(self._thread, "_broken", False)


class ExecutorView(Executor):
    """A HybridExecutor with options: `submit` and `map` take the same arguments.

    Immutable and thread-safe. Made by `HybridExecutor.options`.
    """

    def __init__(self, executor: HybridExecutor, options: TaskOptions) -> None:
        if options.executor is not None:
            executor._known(options.executor)
            if options.movable is False:
                raise ConfigurationError(
                    f"executor={options.executor!r} moves the work, and movable=False forbids it; "
                    f"give one of them"
                )
        self._hybrid = executor
        self._options = options

    def submit(self, fn: Callable[P, T], /, *args: P.args, **kwargs: P.kwargs) -> HybridFuture[T]:
        """Schedule `fn(*args, **kwargs)`, as `HybridExecutor.submit` does."""
        return self._hybrid._submit(self._options, fn, args, kwargs)

    def map(
        self,
        fn: Callable[..., T],
        *iterables: Iterable[Any],
        timeout: float | None = None,
        chunksize: int | None = None,
        buffersize: int | None = None,
        ordered: bool = True,
        return_exceptions: bool = False,
        progress: Any = None,
    ) -> Iterator[T]:
        """Map, as `HybridExecutor.map` does."""
        mapping = MapOptions(
            timeout=timeout,
            chunksize=chunksize,
            buffersize=buffersize,
            ordered=ordered,
            return_exceptions=return_exceptions,
            progress=progress,
        )
        return self._hybrid._map(self._options, fn, iterables, mapping)

    def options(self, **options: Any) -> ExecutorView:
        """Return a view with these options too; the newer word counts."""
        return ExecutorView(self._hybrid, TaskOptions(**options).over(self._options))

    def shutdown(self, wait: bool = True, *, cancel_futures: bool = False) -> None:
        """Shut the whole executor down."""
        self._hybrid.shutdown(wait=wait, cancel_futures=cancel_futures)

    def __repr__(self) -> str:
        said = attrs.asdict(self._options, filter=lambda _, value: value is not None)
        return f"<{self._hybrid!r} with {said}>"


class _ThreadPoolShape(ThreadPoolExecutor):
    """A ThreadPoolExecutor by class, which starts no thread of its own."""

    def __init__(self, executor: HybridExecutor) -> None:
        super().__init__(executor._max_workers)
        self._hybrid = executor

    def submit(self, fn: Callable[P, T], /, *args: P.args, **kwargs: P.kwargs) -> HybridFuture[T]:
        return self._hybrid.submit(fn, *args, **kwargs)

    def map(self, fn: Callable[..., T], *iterables: Iterable[Any], **options: Any) -> Iterator[T]:
        return self._hybrid.map(fn, *iterables, **options)

    def shutdown(self, wait: bool = True, *, cancel_futures: bool = False) -> None:
        self._hybrid.shutdown(wait=wait, cancel_futures=cancel_futures)


def _as_member(name: object, executor: object) -> SubExecutor:
    if not isinstance(name, str) or not name:
        raise ConfigurationError(f"executors: {name!r} is no name; use a string such as 'gpu'")
    if isinstance(executor, SubExecutor):
        return executor
    return ForeignExecutor(executor, name=name)  # type: ignore[arg-type]  # which checks it


def _as_policy(policy: Policy | str | None, fleet: Fleet) -> Policy:
    if policy is None:
        return Adaptive()
    if isinstance(policy, str):
        if policy not in _POLICIES:
            raise ConfigurationError(
                f"policy={policy!r}: the policies that have a name are {sorted(_POLICIES)}; "
                f"give an object for any other"
            )
        return _POLICIES[policy]()
    if isinstance(policy, type) or not callable(getattr(policy, "route", None)):
        raise ConfigurationError(
            f"policy={policy!r} has no method route(item, fleet); see hybrid_compute.policy"
        )
    unknown = sorted(frozenset(getattr(policy, "names", ())) - frozenset(fleet))
    if unknown:
        raise UnknownExecutorError(
            f"policy {policy!r} names {unknown}, and the fleet has {list(fleet)}; "
            f"add it with HybridExecutor(executors={{{unknown[0]!r}: ...}})"
        )
    return policy
