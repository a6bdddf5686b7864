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
import os
import weakref
from collections.abc import AsyncIterable, AsyncIterator, Callable, Iterable, Iterator, Mapping
from concurrent.futures import Executor, ThreadPoolExecutor
from contextlib import suppress
from contextvars import copy_context
from functools import partial
from threading import get_ident
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, Never, ParamSpec, Self, TypeVar, cast, overload

from hybrid_compute._contexts import Carried, current_context
from hybrid_compute._pauses import Outstanding
from hybrid_compute._seats import here, known
from hybrid_compute.abc import Fleet, Observer, Policy, SubExecutor
from hybrid_compute.direct import DirectItem
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
from hybrid_compute.items import ContextItem, WorkItem
from hybrid_compute.learning import Learning
from hybrid_compute.mapped import map_on
from hybrid_compute.mapper import Mapper
from hybrid_compute.maps import MapOptions
from hybrid_compute.prices import set_prices
from hybrid_compute.quick import direct_belief, quick_belief, run_quick
from hybrid_compute.retry import Retry, RetryBudget
from hybrid_compute.routed import RoutedItem, alarm_of
from hybrid_compute.router import Router, as_policy
from hybrid_compute.streamed import StreamItem
from hybrid_compute.streams import Stream
from hybrid_compute.supervised import SupervisedItem
from hybrid_compute.tasks import NO_OPTIONS, Task, TaskOptions
from hybrid_compute.views import ExecutorView, ThreadPoolShape

if TYPE_CHECKING:
    from contextvars import Context, ContextVar

    from hybrid_compute._alarm import Alarm
    from hybrid_compute.executors.remote import RemoteExecutor
    from hybrid_compute.prices import Price
    from hybrid_compute.privacy import Guard
    from hybrid_compute.recorder import Recorder
    from hybrid_compute.recording import Recording
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
            "process". Any `concurrent.futures.Executor` will do, or a text: the URL of a service,
            or the name of a type ("thread", or one of an installed package). They belong to this
            one from now on: its `shutdown` shuts them down.
        policy: an object with `route`, or the name of one, such as "adaptive", which is the
            default, "least-loaded", or one of an installed package.
        prices: what running something costs, by the executors' names; those that have none here
            are free. `hybrid_compute.policy.Budget` keeps to a limit.
        observers: callables that get every `Event`, on the thread where it happens. One that has
            a method `attach` gets this executor first.
        hedge_budget: bounds how many of the calls that have `hedge` get their second attempt.
            None: a tenth of them, one a second, and ten after a pause.
        carry: context variables (`contextvars.ContextVar`) whose values go along with an item to
            worker processes and to services, where they can be pickled, or sent as arguments can;
            what cannot stays behind. A service takes those that it lists by their names. On
            threads, and inline, a declared task finds all of its submitter's context, listed or
            not: it runs in a copy of it.
        inherit_context: True: so do plain callables, which in the stdlib's pools run in whatever
            context their thread has.
        log_unretrieved: an exception that nobody has looked at when its future dies is logged, by
            the logger "concurrent.futures": None: a declared task's; True: a plain callable's too;
            False: none.

    All methods may be called from any thread. Threads and processes start on first need.

    Raises:
        ValueError: a size is less than 1 (`ConfigurationError` for everything else, which is a
            ValueError too).
        TypeError: a size is no number, or `initializer` cannot be called.
    """

    _alarm: Alarm | None = None  # see `alarm_in`

    def __init__(  # noqa: PLR0913 - the stdlib's four, and one setting each by name
        self,
        max_workers: int | None = None,
        thread_name_prefix: str = "",
        initializer: Callable[..., object] | None = None,
        initargs: tuple[Any, ...] = (),
        *,
        max_processes: int | None = None,
        remote: str | RemoteExecutor | Iterable[str | RemoteExecutor] | None = None,
        executors: Mapping[str, Executor | str] | None = None,
        policy: Policy | str | None = None,
        prices: Mapping[str, Price] | None = None,
        observers: Iterable[Observer] = (),
        hedge_budget: RetryBudget | None = None,
        carry: Iterable[ContextVar[Any] | Any] = (),
        inherit_context: bool = False,
        log_unretrieved: bool | None = None,
    ) -> None:
        if max_processes is not None:
            max_processes = check_max_workers(max_processes, "max_processes")
        if not isinstance(observers, Iterable):
            raise ConfigurationError(f"observers={observers!r} is no list; give [{observers!r}]")
        given = as_members(executors, remote)
        threads = thread_name_prefix, initializer, initargs
        fleet = _fleet_of(given, max_workers, max_processes, threads)
        set_prices(fleet, prices)
        if not isinstance(inherit_context, bool):
            raise ConfigurationError(f"inherit_context={inherit_context!r} is not True or False")
        if log_unretrieved is not None and not isinstance(log_unretrieved, bool):
            raise ConfigurationError(
                f"log_unretrieved={log_unretrieved!r} is not True, False or None"
            )
        self._inherits, self._reports = inherit_context, log_unretrieved
        if carry != ():
            carried = Carried(carry)
            for member in fleet.values():
                member.carried = carried
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
        if hedge_budget is not None and not isinstance(hedge_budget, RetryBudget):
            raise ConfigurationError(
                f"hedge_budget={hedge_budget!r} is no RetryBudget; give RetryBudget(share=0.05)"
            )
        self._hedge_budget = hedge_budget
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
        self._open_short_ways()
        # What is there while it is recorded (see `record`), and what that puts itself in front of.
        self._recorder: Recorder | None = None
        self._make_call: Callable[..., WorkItem] = WorkItem
        self._make_context_call: Callable[..., WorkItem] = ContextItem
        self._make_direct: Callable[..., DirectItem] = DirectItem
        self._run_quick: Callable[..., HybridFuture[Any]] = run_quick
        self._adopt()
        for each in told:
            if callable(attach := getattr(each, "attach", None)):
                attach(self)

    def _adopt(self) -> None:
        """Tell all who run work whose it is: they tell the work, if it asks."""
        self._learning.owner = weakref.ref(self)
        for member in self._fleet.values():
            member.belongs_to(self)

    def _open_short_ways(self) -> None:
        """See which ways of submitting need not go by the router."""
        seen, fleet = self._observed, self._fleet
        # Tasks that their submitter may run himself: see `quick`. None: nobody may. Another's
        # policy may have something else of that name.
        own = type(fleet["inline"]) is InlineExecutor and not seen
        quick = getattr(self._policy, "quick", None) if own else None
        self._quick: dict[Any, Any] | None = quick if isinstance(quick, dict) else None
        # Tasks that may go to their one place without a question: see `direct`; None: none may.
        plain = self._router.asks_nobody and type(fleet["lane"]) is ThreadExecutor and not seen
        direct = getattr(self._policy, "direct", None) if plain else None
        self._direct: dict[Any, Any] | None = direct if isinstance(direct, dict) else None
        # Plain callables take the short way unless somebody wants to see them or to move them.
        ours = isinstance(self._thread, ThreadExecutor)
        self._short_way = ours and not self._router.moves_plain and not seen
        # The same way, with more to see to: its own flag, so that others do not pay for the look.
        more = self._inherits or self._reports is True
        self._short_way_on = self._short_way and more
        self._short_way = self._short_way and not more

    @classmethod
    def from_config(
        cls,
        source: str | os.PathLike[str] | Mapping[str, Any] | None = None,
        *,
        environ: Mapping[str, str] | None = None,
        **given: Any,
    ) -> Self:
        """Make one as a file and the environment say.

        Args:
            source: a TOML file, or a mapping of what would be in one. None: the file that the
                environment variable HYBRID_COMPUTE_CONFIG names; without it, the environment alone.
            environ: the environment; None: that of this process.
            given: arguments of the constructor, which count for more. Those of `executors` and
                `prices` are added, or take the place of others of their names.

        Raises:
            ConfigurationError: the file cannot be read, or a key is unknown or missing, or has a
                value that cannot be taken. It names the key, and never tells a secret.
        """
        from hybrid_compute.config import build, read_config  # noqa: PLC0415 - few have one

        return build(cls, read_config(source, environ=environ), given)

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
        # What a work item with a deadline submits has no more time than is left of it.
        timed = known.deadlines and here.limit.deadline is not None
        if type(fn) is Task or timed or not self._short_way:
            if type(fn) is Task:
                if self._quick and fn.key in self._quick:
                    belief = quick_belief(self._quick, fn, args, kwargs)
                    if belief is not None:
                        return self._run_quick(
                            fn, args, kwargs, belief, self._learning, reports=self._reports
                        )
                if self._direct and not timed and fn.key in self._direct:
                    belief = direct_belief(self._direct, fn, args, kwargs)
                    if belief is not None:
                        return self._hand_over(fn, args, kwargs, belief)
            elif self._short_way_on and not timed:
                context = self._context(fn)
                mine = (
                    self._make_call(fn, args, kwargs)
                    if context is None
                    else self._make_context_call(fn, args, kwargs, NO_OPTIONS, context)
                )
                if self._reports is not None:
                    mine.future._unretrieved = self._reports
                self._thread.execute(mine)
                return mine.future
            return self._submit(NO_OPTIONS, fn, args, kwargs)
        item = self._make_call(fn, args, kwargs)
        self._thread.execute(item)
        return item.future

    def _hand_over(
        self, fn: Task[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any], belief: Any
    ) -> HybridFuture[Any]:
        """Give a call to the one executor that it can go to."""
        item = self._make_direct(fn, args, kwargs, belief, self._learning)
        item.context = current_context()
        if self._reports is not None:
            item.future._unretrieved = self._reports
        try:
            self._fleet[item.place].execute(item)
        except BaseException:
            item.future.cancel()  # nobody has it
            raise
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
        # What a work item with a deadline submits has no more time than is left of it.
        routed = self._observed or (known.deadlines and here.limit.deadline is not None)
        if isinstance(fn, Task):
            options = fn.options if said is NO_OPTIONS else said.over(fn.options)
            streams = fn.streams
            routed = self._learns or routed
        elif self._learns and (options.movable or self._router.moves_plain):
            routed = True
        guard = self._router.guard(said, fn, args, kwargs, options)
        if options.hedge is not None:
            # Few are.
            from hybrid_compute._hedging import HedgedCall, submit_hedged  # noqa: PLC0415

            head = HedgedCall(fn, args, kwargs, options, self._context(fn))
            head.future._unretrieved = self._reports
            return submit_hedged(self, head, guard)
        context = self._context(fn)
        # Those that may be tried again are counted, for who shuts down.
        again = options.retries or (options.supervised and self._recorder is not None)
        if routed or again or streams or guard is not None:
            item = self._item(
                fn, args, kwargs, options, streams=streams, guard=guard, context=context
            )
            return self._route(item)
        # Others have one place to go, and go there once: they need not be routed ones.
        plain: WorkItem
        if options.timeout is not None:
            plain = SupervisedItem(fn, args, kwargs, options, context)
        elif context is None:
            plain = self._make_call(fn, args, kwargs, options)
        else:
            plain = self._make_context_call(fn, args, kwargs, options, context)
        if self._reports is not None:
            plain.future._unretrieved = self._reports
        return self._route(plain)

    def _context(self, fn: object) -> Context | None:
        """Return the context in which the call of a function is to run; None: in any."""
        if not (self._inherits or isinstance(fn, Task)):
            return None
        # Observers may have something to put into it.
        return copy_context() if self._observed else current_context()

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
                return self._launch(self._routed(item), route, fleet)
            item.future._decision = first
            if type(item) is not SupervisedItem:
                fleet[first].execute(item)
            elif not item.hand_over(fleet[first]):
                return self._launch(self._routed(item), route, fleet)
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
            item = self._routed(item)
        if item.belief is not None:
            item.meter = self._learning
        alarm = alarm_of(self, item)
        try:
            self._outstanding.watch(future)
            if not self._learning.hold(item, alarm):  # shut down at this very moment
                item.launch(self._router.for_want_of_an_answer(fleet), fleet, alarm)
        except BaseException:
            future.cancel()  # nobody has it; this takes it off the count
            raise
        return future

    def _routed(self, item: WorkItem) -> RoutedItem:
        recorder = self._recorder
        return RoutedItem.in_place_of(item) if recorder is None else recorder.routed(item)

    def _item(
        self,
        fn: Callable[..., Any],
        args: tuple[Any, ...],
        kwargs: dict[str, Any] | None,
        options: TaskOptions,
        *,
        streams: bool = False,
        guard: Guard | None = None,
        context: Context | None = None,
    ) -> RoutedItem:
        recorder = self._recorder
        kind: type[RoutedItem] = StreamItem if streams else RoutedItem
        more: dict[str, Any] = {}
        if self._observed:
            from hybrid_compute import observed  # noqa: PLC0415 - see __init__

            kind = observed.ObservedStreamItem if streams else observed.ObservedItem
            more = {
                "observers": self._observers,
                "item_id": next(self._ids),
                "context": context,
            }
        make: Callable[..., RoutedItem] = kind if recorder is None else recorder.maker(kind)
        item = make(fn, args, kwargs, options, **more)
        if not self._observed:
            item.context = context
        item.guard = guard
        if self._reports is not None:
            item.future._unretrieved = self._reports
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
        me = get_ident()
        try:
            if item.options.retries or len(route) > 1:
                self._outstanding.watch(future)
            self._launching.append(me)
            item.launch(route, fleet, alarm_of(self, item))  # runs it, where executors block
        except BaseException:
            future.cancel()  # nobody has it; this takes it off the count
            raise
        finally:
            with suppress(ValueError):  # an interrupt came before
                self._launching.remove(me)
        return future

    def stream(
        self, fn: Callable[P, Iterable[T] | AsyncIterable[T]], /, *args: P.args, **kwargs: P.kwargs
    ) -> Stream[T]:
        """Run the generator function `fn`, and iterate over its items as it produces them.

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
        if options.hedge is not None:
            from hybrid_compute._hedging import check_hedge  # noqa: PLC0415 - as above

            check_hedge(fn, options, streams=True)
        guard = self._router.guard(said, fn, args, kwargs, options)
        item = self._item(
            fn, args, kwargs, options, streams=True, guard=guard, context=self._context(fn)
        )
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
        hedge: float | str | None = None,
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
            hedge=hedge,
        )
        return ExecutorView(self, said)

    # Looking and ending.

    def explain(self, fn: Callable[..., Any]) -> str:
        """Return what the policy believes of the function `fn`, for a person. Does not block.

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

    def record(self, path: str | os.PathLike[str]) -> Recording:
        """Write what becomes of each item to a file, from now until the `Recording` is closed.

        `hybrid-compute report` makes a page of it. Costs less than 2 us of CPU an item, and nothing
        when nobody records. Use it as a context manager, or call its `close`; one at a time.

        Args:
            path: the file, by convention `*.jsonl`; what stands in it is replaced.

        Raises:
            ConfigurationError: a recording is under way already.
            OSError: the file cannot be written.
        """
        from hybrid_compute.recorder import Recorder  # noqa: PLC0415 - most never record
        from hybrid_compute.recording import Recording  # noqa: PLC0415 - likewise

        if self._recorder is not None:
            raise ConfigurationError(
                f"{self._recorder.recording!r} is under way; close it before the next one begins"
            )
        recording = Recording(path, self._fleet, self._end_recording)
        self._recorder = Recorder(self, recording)
        return recording

    def _end_recording(self, recording: Recording) -> None:
        recorder = self._recorder
        if recorder is not None and recorder.recording is recording:
            self._recorder = None
            recorder.restore(self)

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
            wait: block until all work is done and all threads and processes have ended. On a
                thread that runs work of this executor, or delivers its outcomes to done-callbacks,
                it does not block, since it would wait for itself.
            cancel_futures: cancel what has not started.

        Raises:
            RuntimeError: with `wait`, on a thread of the thread pool, in work or in a callback, as
                in the stdlib; the executor is closed all the same.
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
        for owner in (self.__dict__.get("_alarm"), self.__dict__.get("_hedging")):
            if owner is not None:
                owner.timer.join()

    def _runs_here(self) -> bool:
        # On a thread that is inside an item, or delivers the outcome of one, a wait for items
        # might be a wait for the one that is calling.
        fleet, hedging = self._fleet.values(), self.__dict__.get("_hedging")
        alarms = (self._alarm, *(each._alarm for each in fleet))
        return (
            get_ident() in self._launching
            or any(each.runs_here() for each in fleet)
            or any(each is not None and each.runs_here() for each in alarms)
            or (hedging is not None and hedging.timer.runs_here())
        )

    def _cancel_pauses(self) -> None:
        alarm = self.__dict__.get("_alarm")
        for pause in () if alarm is None else alarm.timer.withdraw_all():
            pause.cancel()

    def _close_fleet(self, *, wait: bool, cancel_futures: bool = False) -> None:
        if (hedging := self.__dict__.get("_hedging")) is not None:
            hedging.timer.flush()
        for each in self._fleet.values():
            each.shutdown(wait=False, cancel_futures=cancel_futures)
        if wait:
            for each in self._fleet.values():
                each.shutdown(wait=True)

    @property
    def _broken(self) -> Any:
        # The stdlib's name: programs, and CPython's own tests, poll it.
        return getattr(self._thread, "_broken", False)


def _fleet_of(
    given: dict[str, SubExecutor],
    max_workers: int | None,
    max_processes: int | None,
    threads: tuple[str, Callable[..., object] | None, tuple[Any, ...]],
) -> dict[str, SubExecutor]:
    """Return the executors by name: our own, where none of that name was given, and the others."""
    prefix, initializer, initargs = threads
    lane = f"{prefix or 'hybrid'}-lane"
    return {
        "inline": given.get("inline") or InlineExecutor(),
        "thread": given.get("thread") or ThreadExecutor(max_workers, *threads),
        "process": given.get("process") or ProcessExecutor(max_processes),
        "lane": given.get("lane")
        or ThreadExecutor(_MOST_IN_LANE, lane, initializer, initargs, name="lane"),
    } | given
