"""HybridExecutor: one Executor in front of a fleet; a policy chooses for each work item.

Owns the fleet, the policy and the observers, none of which ever change. Knows of executors only
what `abc.SubExecutor` says.

    submit(fn, *args, **kwargs)
       plain callable --------------------------------> thread pool          (law 1: drop-in)
       task, or options that say it may move:
          router: fleet, less who cannot or must not run it; policy.route(item, the rest)   (law 2)
          item.launch(): route[0].execute(item) ... later item.succeed | item.fail -> attempts

(Some lines over 400: it is the face of the library, whose methods are mostly their docstrings.)

Threads and locks: none of its own. `_closed` goes from False to True once; an item that slips
past it while another thread shuts down meets the executors' own, which are guarded.
"""

from __future__ import annotations

import itertools
from collections.abc import AsyncIterable, AsyncIterator, Callable, Iterable, Iterator, Mapping
from concurrent.futures import Executor, ThreadPoolExecutor
from functools import partial
from threading import get_ident
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, Literal, Never, ParamSpec, TypeVar, cast, overload

from hybrid_compute._pauses import Outstanding
from hybrid_compute.abc import Fleet, Observer, Policy, SubExecutor
from hybrid_compute.errors import (
    ConfigurationError,
    ExecutorUnavailable,
    PlacementError,
    PolicyError,
)
from hybrid_compute.executors._chunks import Feeders
from hybrid_compute.executors.foreign import as_members
from hybrid_compute.executors.inline import InlineExecutor
from hybrid_compute.executors.process import ProcessExecutor
from hybrid_compute.executors.thread import ThreadExecutor, check_max_workers
from hybrid_compute.futures import HybridFuture
from hybrid_compute.items import WorkItem
from hybrid_compute.learning import Learning
from hybrid_compute.mapped import map_on
from hybrid_compute.mapper import Mapper
from hybrid_compute.maps import MapOptions
from hybrid_compute.prices import set_prices
from hybrid_compute.quick import quick_belief, run_quick
from hybrid_compute.retry import Retry
from hybrid_compute.routed import RoutedItem, alarm_of
from hybrid_compute.router import Router, as_policy
from hybrid_compute.streamed import StreamItem
from hybrid_compute.streams import Stream
from hybrid_compute.tasks import NO_OPTIONS, Task, TaskOptions
from hybrid_compute.views import ExecutorView, ThreadPoolShape

if TYPE_CHECKING:
    from hybrid_compute.executors.remote import RemoteExecutor
    from hybrid_compute.prices import Price
    from hybrid_compute.privacy import Guard
    from hybrid_compute.stats import Stats

__all__ = ["HybridExecutor"]

P = ParamSpec("P")
T = TypeVar("T")

_CLOSED = "cannot schedule new futures after shutdown"
_MOST_IN_LANE = 64  # threads for declared tasks that wait; asleep they cost some memory


class HybridExecutor(Mapper):
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
        remote: URL of a service, a `RemoteExecutor`, or a list of them. One is called "remote";
            of several, each has its host's name, or the one it was given.
        executors: more executors by name, or others in the place of "inline", "thread" and
            "process". Any `concurrent.futures.Executor` will do. They belong to this one from
            now on: its `shutdown` shuts them down.
        policy: an object with `route`, or the name of one: "adaptive", the default, or
            "least-loaded".
        prices: what running something costs, by the executors' names; those that have none here
            are free. `hybrid_compute.policy.Budget` keeps to a limit.
        observers: callables that get every `Event`, on the thread where it happens. One that has
            a method `attach` gets this executor first.

    All methods may be called from any thread. Threads and processes start on first need.

    Raises:
        ValueError: a size is less than 1 (`ConfigurationError` for everything else, which is a
            ValueError too).
        TypeError: a size is no number, or `initializer` cannot be called.
    """

    def __init__(  # noqa: PLR0913 - the stdlib's four, and one setting each by name
        self,
        max_workers: int | None = None,
        thread_name_prefix: str = "",
        initializer: Callable[..., object] | None = None,
        initargs: tuple[Any, ...] = (),
        *,
        max_processes: int | None = None,
        remote: str | RemoteExecutor | Iterable[str | RemoteExecutor] | None = None,
        executors: Mapping[str, Executor] | None = None,
        policy: Policy | Literal["adaptive", "least-loaded"] | None = None,
        prices: Mapping[str, Price] | None = None,
        observers: Iterable[Observer] = (),
    ) -> None:
        if max_processes is not None:
            max_processes = check_max_workers(max_processes, "max_processes")
        if not isinstance(observers, Iterable):
            raise ConfigurationError(f"observers={observers!r} is no list; give [{observers!r}]")
        given = as_members(executors, remote)
        fleet: dict[str, SubExecutor] = {
            "inline": given.get("inline") or InlineExecutor(),
            "thread": given.get("thread")
            or ThreadExecutor(max_workers, thread_name_prefix, initializer, initargs),
            "process": given.get("process") or ProcessExecutor(max_processes),
            "lane": given.get("lane")
            or ThreadExecutor(
                _MOST_IN_LANE,
                f"{thread_name_prefix or 'hybrid'}-lane",
                initializer,
                initargs,
                name="lane",
            ),
        }
        fleet.update(given)
        set_prices(fleet, prices)
        self._fleet: Fleet = MappingProxyType(fleet)
        chosen = as_policy(policy, self._fleet)
        self._policy = chosen
        told: list[Observer] = [*observers]
        observe: Any = getattr(chosen, "observe", None)
        if callable(observe):
            told.append(cast("Observer", observe))
        self._observed = bool(told)
        if told:
            from hybrid_compute.observed import Observers  # noqa: PLC0415 - most have none

            self._observers = Observers(told)
        self._thread = fleet["thread"]
        self._max_workers = self._thread.workers  # the stdlib's name: dask and others read it
        self._ids = itertools.count(1)
        self._feeders = Feeders()
        self._outstanding = Outstanding()
        self._launching: list[int] = []  # threads that hand over a counted item at the moment
        self._closed = False
        self._router = Router(self._fleet, chosen)
        learner = getattr(chosen, "learner", chosen)  # of a policy around another, the other
        self._learning = Learning(learner, self._router, self._fleet)
        self._learns = self._learning.learns
        # Tasks that their submitter may run himself: see `quick`. None: nobody may.
        own = type(fleet["inline"]) is InlineExecutor and not self._observed
        quick = getattr(chosen, "quick", None) if own else None
        # Another's policy may have something else of that name.
        self._quick: dict[Any, Any] | None = quick if isinstance(quick, dict) else None
        # Plain callables take the short way unless somebody wants to see them or to move them.
        ours = isinstance(self._thread, ThreadExecutor)
        for each in told:
            if callable(attach := getattr(each, "attach", None)):
                attach(self)
        self._short_way = ours and not self._router.moves_plain and not self._observed

    # Submitting.

    @overload  # of what never returns, or may return anything, a checker takes the first
    def submit(
        self, fn: Task[P, Never], /, *args: P.args, **kwargs: P.kwargs
    ) -> HybridFuture[Any]: ...
    @overload
    def submit(
        self,
        fn: Task[P, Iterator[T] | AsyncIterator[T]],
        /,
        *args: P.args,
        **kwargs: P.kwargs,
    ) -> HybridFuture[Stream[T]]: ...
    @overload
    def submit(
        self, fn: Callable[P, T], /, *args: P.args, **kwargs: P.kwargs
    ) -> HybridFuture[T]: ...
    def submit(self, fn: Any, /, *args: Any, **kwargs: Any) -> HybridFuture[Any]:
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
            if self._quick and type(fn) is Task and fn.key in self._quick:
                belief = quick_belief(self._quick, fn, args, kwargs)
                if belief is not None:
                    return run_quick(fn, args, kwargs, belief, self._learning)
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
        options, streams = said, False
        routed = self._observed or options.supervised
        if isinstance(fn, Task):
            options = fn.options if said is NO_OPTIONS else said.over(fn.options)
            streams = fn.streams
            routed = self._learns or routed or options.supervised
        elif self._learns and (options.movable or self._router.moves_plain):
            routed = True
        guard = self._router.guard(said, fn, args, kwargs, options)
        if routed or streams or guard is not None:
            return self._route(self._item(fn, args, kwargs, options, streams=streams, guard=guard))
        # Others have one place to go, and go there once: they need not be routed ones.
        return self._route(WorkItem(fn, args, kwargs, options))

    def _route(self, item: WorkItem) -> HybridFuture[Any]:
        try:
            route, fleet = self._router.route(item)
            if route is None:
                return self._hold(item, fleet)
            if isinstance(item, RoutedItem):
                if item.belief is not None:
                    item.meter = self._learning
                return self._launch(item, route, fleet)
            first = route[0]
            if len(route) > 1:
                return self._launch(RoutedItem.in_place_of(item), route, fleet)
            item.future._decision = first
            fleet[first].execute(item)
        except (PlacementError, PolicyError, ExecutorUnavailable) as error:
            # Its traceback, and that of its cause, would lead from the future to this frame.
            if error.__cause__ is not None:
                error.__cause__.with_traceback(None)
            item.abandon(error.with_traceback(None))
        except BaseException:
            item.future.cancel()  # nobody has it
            raise
        return item.future

    def _hold(self, item: WorkItem, fleet: Fleet) -> HybridFuture[Any]:
        """Keep an item of which its policy cannot tell yet where to go."""
        future = item.future
        if not isinstance(item, RoutedItem):
            item = RoutedItem.in_place_of(item)
        if item.belief is not None:
            item.meter = self._learning
        alarm = alarm_of(self, item)
        self._outstanding.add()
        future.add_done_callback(self._outstanding.remove)
        try:
            if not self._learning.hold(item, alarm):  # shut down at this very moment
                item.launch(self._router.for_want_of_an_answer(fleet), fleet, alarm)
        except BaseException:
            future.cancel()  # nobody has it; this takes it off the count
            raise
        return future

    def _item(
        self,
        fn: Callable[..., Any],
        args: tuple[Any, ...],
        kwargs: dict[str, Any] | None,
        options: TaskOptions,
        *,
        streams: bool = False,
        guard: Guard | None = None,
    ) -> RoutedItem:
        if self._observed:
            from hybrid_compute import observed  # noqa: PLC0415 - see __init__

            kind = observed.ObservedStreamItem if streams else observed.ObservedItem
            item: RoutedItem = kind(
                fn, args, kwargs, options, observers=self._observers, item_id=next(self._ids)
            )
        else:
            item = (StreamItem if streams else RoutedItem)(fn, args, kwargs, options)
        item.guard = guard
        if self._observed:
            self._router.audit(item)
        return item

    def _launch(self, item: RoutedItem, route: tuple[str, ...], fleet: Fleet) -> HybridFuture[Any]:
        future = item.future  # once a stream has begun, its item has another one
        if not item.options.retries and len(route) == 1 and not fleet[route[0]].capabilities.blocks:
            # It goes there once, and nobody need see after it.
            try:
                item.launch(route, fleet, alarm_of(self, item))
            except BaseException:
                future.cancel()  # nobody has it
                raise
            return future
        if item.options.retries or len(route) > 1:
            self._outstanding.add()
            item.future.add_done_callback(self._outstanding.remove)
        me = get_ident()
        self._launching.append(me)
        try:
            item.launch(route, fleet, alarm_of(self, item))  # runs it, where executors block
        except BaseException:
            future.cancel()  # nobody has it; this takes it off the count
            raise
        finally:
            self._launching.remove(me)
        return future

    def stream(
        self, fn: Callable[P, Iterable[T] | AsyncIterable[T]], /, *args: P.args, **kwargs: P.kwargs
    ) -> Stream[T]:
        """Run a generator function, and iterate over its items as it produces them.

        Never blocks. The function may also be an asynchronous generator function, or return any
        iterator; a declared one goes where the policy says. What goes wrong is raised by the
        stream.

        Raises:
            RuntimeError: the executor is shut down.
        """
        return self._stream(NO_OPTIONS, fn, args, kwargs)

    def _stream(
        self,
        said: TaskOptions,
        fn: Callable[..., Any],
        args: tuple[Any, ...],
        kwargs: dict[str, Any],
    ) -> Stream[Any]:
        if self._closed:
            raise RuntimeError(_CLOSED)
        options = said.over(fn.options) if isinstance(fn, Task) else said
        guard = self._router.guard(said, fn, args, kwargs, options)
        item = self._item(fn, args, kwargs, options, streams=True, guard=guard)
        assert isinstance(item, StreamItem)  # noqa: S101 - as was asked for
        stream = item.hand_out()
        self._route(item)
        return stream

    def _map_as_said(
        self, fn: Callable[..., Any], iterables: tuple[Iterable[Any], ...], options: MapOptions
    ) -> Iterator[Any]:
        return map_on(self, NO_OPTIONS, fn, iterables, options)

    def _map(
        self,
        said: TaskOptions,
        fn: Callable[..., T],
        iterables: tuple[Iterable[Any], ...],
        mapping: MapOptions,
    ) -> Iterator[T]:
        return map_on(self, said, fn, iterables, mapping)

    def _relaunch(self, piece: WorkItem, executor: SubExecutor) -> HybridFuture[Any]:
        executor.execute_late(piece)
        return piece.future

    def _submits_itself(self) -> bool:
        return getattr(self.submit, "__func__", None) is HybridExecutor.submit

    def options(  # noqa: PLR0913 - all are keywords
        self,
        *,
        executor: str | None = None,
        retries: int | Retry | Any | None = None,
        idempotent: bool | None = None,
        movable: bool | None = None,
        local_only: bool | None = None,
        before_remote: Callable[..., Any] | None = None,
        inline: bool | None = None,
        tags: str | Iterable[str] | None = None,
        key: str | None = None,
        timeout: float | None = None,
        buffersize: int | None = None,
        buffer_bytes: int | None = None,
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
            before_remote=before_remote,
            inline=inline,
            tags=tags,
            key=key,
            timeout=timeout,
            buffersize=buffersize,
            buffer_bytes=buffer_bytes,
        )
        return ExecutorView(self, said)

    # Looking and ending.

    def explain(self, fn: Callable[..., Any]) -> str:
        """Return what the policy believes of a function, for a person to read. Does not block.

        What became of one call, and why, tells `HybridFuture.explain`.
        """
        tell = getattr(getattr(self._policy, "learner", self._policy), "explain", None)
        if tell is None:
            return f"{self._policy!r} decides by what it is told, and learns nothing"
        return str(tell(fn))

    def stats(self) -> Stats:
        """Return what the executors do at this moment, and what was spent. Does not block."""
        from hybrid_compute.stats import stats_of  # noqa: PLC0415 - most never ask

        return stats_of(self._fleet, self._policy)

    def as_thread_pool(self) -> ThreadPoolExecutor:
        """Return this executor in the shape of a ThreadPoolExecutor.

        For those who insist on the class, such as asyncio's `loop.set_default_executor`. All
        work goes to this executor, and `shutdown` shuts it down.
        """
        return ThreadPoolShape(self)

    def shutdown(self, wait: bool = True, *, cancel_futures: bool = False) -> None:
        """Accept no more work; finish or cancel what is queued. Idempotent.

        Retries and fallbacks of accepted items still take place, unless futures are cancelled.

        Args:
            wait: block until all work is done and all threads and processes have ended. Work of
                this executor, and done-callbacks, cannot wait for their own end: there it does
                not block.
            cancel_futures: cancel what has not started.

        Raises:
            RuntimeError: with `wait`, on a thread of the pool, as in the stdlib; the executor is
                closed all the same.
        """
        self._closed = True
        self._learning.close(cancel=cancel_futures)
        if cancel_futures:
            self._cancel_pauses()
            self._feeders.cancel()
            self._close_fleet(wait=False, cancel_futures=True)
        else:
            self._feeders.flush()
        if not wait or self._runs_here():
            self._outstanding.when_none(partial(self._close_fleet, wait=False))
            if wait and self._thread.runs_here():
                raise RuntimeError("cannot join current thread")  # the stdlib's words
            return
        for each in self._fleet.values():
            each.wind_down()
        self._outstanding.wait()
        self._close_fleet(wait=True)
        self._learning.join()
        alarm = self.__dict__.get("_alarm")
        if alarm is not None:
            alarm.timer.join()

    def _runs_here(self) -> bool:
        # On a thread that is inside an item, or delivers the outcome of one, a wait for items
        # might be a wait for the one that is calling.
        return get_ident() in self._launching or any(
            each.runs_here() for each in self._fleet.values()
        )

    def _cancel_pauses(self) -> None:
        alarm = self.__dict__.get("_alarm")
        for pause in () if alarm is None else alarm.timer.withdraw_all():
            pause.cancel()

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
