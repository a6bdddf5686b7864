"""The seams: what an executor, a policy and an observer must do.

Owns the contracts between HybridExecutor and everything that can be plugged into it, and the
half of an executor that is the same for all: `submit` and `map` in terms of `execute`. Has no
threads or locks of its own.
"""

from __future__ import annotations

import abc
from collections.abc import AsyncIterable, AsyncIterator, Callable, Iterable, Iterator, Mapping
from concurrent.futures import Executor
from typing import (
    TYPE_CHECKING,
    Any,
    Never,
    ParamSpec,
    Protocol,
    TypeAlias,
    TypeVar,
    overload,
    runtime_checkable,
)

from hybrid_compute._contexts import Carried, current_context
from hybrid_compute._seats import here, known
from hybrid_compute._values import Value
from hybrid_compute.futures import HybridFuture
from hybrid_compute.items import ContextItem, WorkItem
from hybrid_compute.mapper import Mapper
from hybrid_compute.maps import MapOptions, map_by_submit
from hybrid_compute.privacy import Guard, guard_of, is_bare, needs_a_look, open_map, refuse_to_send
from hybrid_compute.routed import RoutedItem, alarm_of
from hybrid_compute.streamed import StreamItem
from hybrid_compute.streams import Stream
from hybrid_compute.supervised import SupervisedItem, submit_watched
from hybrid_compute.tasks import NO_OPTIONS, Task

if TYPE_CHECKING:
    from hybrid_compute._alarm import Alarm, Shelf
    from hybrid_compute.events import Event
    from hybrid_compute.prices import Price
    from hybrid_compute.retry import RetryBudget

__all__ = [
    "Capabilities",
    "Fleet",
    "Observer",
    "Policy",
    "SubExecutor",
    "WorkItem",
]

P = ParamSpec("P")
T = TypeVar("T")

#: Gets every event, on the thread where it happens. It must be quick, and may be called by several
#: threads at once. One that raises is logged, and told no more.
Observer: TypeAlias = Callable[["Event"], None]


class Capabilities(Value):
    """What an executor can do, and what running there means.

    Attributes:
        shares_memory: the work sees the caller's own objects: nothing is pickled or copied.
        isolates: work that crashes takes nothing else with it.
        remote: the work, or its data, leaves this machine.
        blocks: `execute` returns only after the work is done.
        kills: work that runs can be ended: the executor sees to an item's deadline itself.
        chunks: a message costs much more than a tiny call, so `map` sends many calls as one.
        streams: it runs generators as `streamed.StreamItem` says: others get none.
    """

    __slots__ = ("blocks", "chunks", "isolates", "kills", "remote", "shares_memory", "streams")

    shares_memory: bool
    isolates: bool
    remote: bool
    blocks: bool
    chunks: bool
    kills: bool
    streams: bool

    def __init__(
        self,
        *,
        shares_memory: bool = False,
        isolates: bool = False,
        remote: bool = False,
        blocks: bool = False,
        chunks: bool = False,
        kills: bool = False,
        streams: bool = False,
    ) -> None:
        self._set(
            shares_memory=shares_memory,
            isolates=isolates,
            remote=remote,
            blocks=blocks,
            chunks=chunks,
            kills=kills,
            streams=streams,
        )


class SubExecutor(Mapper):
    """One place where work can run: a usable `Executor` by itself, or a part of a fleet.

    To write one: give it a `name` and `capabilities`, and implement `execute`, `load` and
    `shutdown`. `hybrid_compute.executors.InlineExecutor` is the shortest example.

    Attributes:
        name: its name in a fleet: in routes, options, events and thread names.
        capabilities: frozen; the same for its whole life.
        workers: how many items it can run at once, at the most.
        retry_budget: bounds how many attempts there may repeat others; None: no bound but theirs.
        price: what running something there costs; None: nothing. HybridExecutor sets it.
        carried: the context variables whose values it sends along with an item that has a
            `context`, if it sends items anywhere; None: none. HybridExecutor sets it.
    """

    retry_budget: RetryBudget | None = None
    name: str
    capabilities: Capabilities
    workers: int
    price: Price | None = None
    carried: Carried | None = None
    # Whether it fails items at their deadlines itself, as those do that can end what runs.
    _keeps_time: bool = False
    # Where all items that it has are until they are over, though it be dropped itself.
    _shelf: Shelf | None = None
    _alarm: Alarm | None = None  # see `alarm_in`
    _watching: Alarm | None = None  # the same, once it looks through the shelf

    def can_run(self, item: WorkItem) -> bool:
        """Say whether this executor could run the item at all. Quick, pure, any thread."""
        return True

    @abc.abstractmethod
    def execute(self, item: WorkItem) -> None:
        """Accept an item; later deliver its outcome exactly once.

        Called from any thread. Must not block for the work (unless `capabilities.blocks`).
        Having accepted it, call `item.start()` just before the work begins, do nothing more if
        that is False, else call `item.succeed(value)` or `item.fail(error)` once: from any
        thread, holding no lock. `item.raised(error)` instead says that the work itself raised it,
        which is never tried elsewhere, even if it looks like a refusal.

        Raises:
            ExecutorUnavailable: not accepted; the item was not touched.
            RuntimeError: shut down; the item was not touched.
        """

    def execute_late(self, item: WorkItem) -> None:
        """Accept a part of an item that was accepted before, also while shutting down.

        Called while the outcome of that item is being delivered. An executor with
        `capabilities.chunks` should not refuse it for being closed.
        """
        self.execute(item)

    @abc.abstractmethod
    def load(self) -> float:
        """Return the number of items queued and running per worker. Quick, any thread."""

    def give_back(self, belief: object) -> list[RoutedItem]:
        """Give up the items with this belief that wait here and have not started.

        For a policy that has learned better. They are the caller's then, as if they had never
        been accepted. An executor that cannot tell gives none. Quick, any thread.
        """
        return []

    def belongs_to(self, owner: Executor) -> None:
        """Note that it is in the fleet of `owner` now: what work finds as `current().executor`."""

    def counts(self) -> tuple[int, int]:
        """Return how many items are queued and how many run, as far as is known."""
        out = round(self.load() * self.workers)
        running = min(out, self.workers)
        return out - running, running

    def is_available(self) -> bool:
        """Say whether it takes items at the moment. Quick, pure, any thread.

        One that does not is left out of the fleet that a policy sees, if others are left.
        """
        return True

    def latency(self) -> float | None:
        """Return the seconds of the way to where it runs things and back; None: not known (yet).

        Quick, any thread: a policy may ask for each item.
        """
        return None

    def lane(self) -> str | int | None:
        """Return the name, or process id, of the worker whose news is delivered; None: not known.

        Asked inside `succeed`, `fail` and the like of an item that ran elsewhere, for pictures;
        of work that shares memory with its submitter, the name of its thread is taken.
        """
        return None

    def runs_here(self) -> bool:
        """Say whether the current thread runs this executor's items or delivers their outcomes.

        Such a thread must not wait for items: they might be waiting for it.
        """
        return False

    def wind_down(self) -> None:
        """Be told that `shutdown` follows once all that was accepted is over.

        Items may still come, since others may be tried again here. Who keeps items for something
        that is away should wait no longer than for a bounded time. Any thread; does not block.
        """

    @abc.abstractmethod
    def shutdown(self, wait: bool = True, *, cancel_futures: bool = False) -> None:
        """Accept no more items; those accepted are finished. Idempotent, any thread.

        Args:
            wait: block until all items are done and all resources are freed.
            cancel_futures: cancel what has not started.
        """

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
    def submit(self, fn: Callable[..., Any], /, *args: Any, **kwargs: Any) -> HybridFuture[Any]:
        """Schedule `fn(*args, **kwargs)` here and return its future. Never blocks.

        Raises:
            PlacementError: this executor leaves this machine, and the call must not.
            RuntimeError: the executor is shut down.
        """
        if isinstance(fn, Task):
            options, context = fn.options, current_context()
            guard = None if is_bare(fn) else self._guard(fn, args, kwargs)
            if guard is not None or fn._special:
                # What work with a deadline submits has no more time than is left of it.
                timed = known.deadlines and here.limit.deadline is not None
                if timed or fn.streams or guard is not None:
                    kind = StreamItem if fn.streams else RoutedItem
                    return self._submit_supervised(kind(fn, args, kwargs, options), guard)
                alarm = self._watching
                if alarm is not None:
                    return submit_watched(self, alarm, fn, args, kwargs, context)
                light = SupervisedItem(fn, args, kwargs, options, context)
                light.future._decision = self.name
                if light.hand_over(self):
                    return light.future
                return self._submit_supervised(RoutedItem.in_place_of(light), None)
        else:
            options, context = NO_OPTIONS, None
        if known.deadlines and here.limit.deadline is not None:
            # As above: another item has to see to that.
            return self._submit_supervised(RoutedItem(fn, args, kwargs, options), None)
        item = (
            WorkItem(fn, args, kwargs, options)
            if context is None
            else ContextItem(fn, args, kwargs, options, context)
        )
        item.future._decision = self.name
        self.execute(item)
        return item.future

    def _guard(
        self, fn: Task[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> Guard | None:
        if not needs_a_look(remote=self.capabilities.remote):
            return None
        return guard_of(fn, args, kwargs, fn.options)

    def _submit_supervised(self, item: RoutedItem, guard: Guard | None) -> HybridFuture[Any]:
        future = item.future  # once a stream has begun, its item has another one
        item.guard = guard
        if isinstance(item.target, Task):
            item.context = current_context()
        try:
            if guard is not None and guard.why is not None and self.capabilities.remote:
                refuse_to_send(item, self.name)
            item.launch((self.name,), {self.name: self}, alarm_of(self, item))
        except BaseException:
            future.cancel()  # nobody has it
            raise
        return future

    def stream(
        self, fn: Callable[P, Iterable[T] | AsyncIterable[T]], /, *args: P.args, **kwargs: P.kwargs
    ) -> Stream[T]:
        """Run the generator function `fn` here; iterate over its items as it produces them.

        Never blocks. The function may also be an asynchronous generator function, or return any
        iterator. What goes wrong is raised by the stream.

        Raises:
            PlacementError: this executor leaves this machine, and the call must not.
            RuntimeError: the executor is shut down.
        """
        item = StreamItem(fn, args, kwargs, fn.options if isinstance(fn, Task) else NO_OPTIONS)
        stream = item.hand_out()
        guard = self._guard(fn, args, kwargs) if isinstance(fn, Task) else None
        self._submit_supervised(item, guard)
        return stream

    def _map_as_said(
        self, fn: Callable[..., Any], iterables: tuple[Iterable[Any], ...], options: MapOptions
    ) -> Iterator[Any]:
        by_itself = isinstance(fn, Task) and (fn.options.supervised or fn.streams)
        if by_itself or here.limit.deadline is not None:  # a retry, and a deadline, is of one call
            return map_by_submit(self.submit, fn, iterables, options)
        if isinstance(fn, Task) and needs_a_look(remote=self.capabilities.remote):
            if self.capabilities.remote:
                return self._map_guarded(fn, iterables, options)
            iterables, _ = open_map(iterables)
        return self._map(fn, iterables, options)

    def _map(
        self, fn: Callable[..., T], iterables: tuple[Iterable[Any], ...], options: MapOptions
    ) -> Iterator[T]:
        return map_by_submit(self.submit, fn, iterables, options)

    def _map_guarded(
        self, fn: Task[..., T], iterables: tuple[Iterable[Any], ...], options: MapOptions
    ) -> Iterator[T]:
        # For who leaves this machine: a guard, too, is of one call.
        return map_by_submit(self.submit, fn, iterables, options)


#: What a policy chooses from, which is the executors by name, in order of preference.
Fleet: TypeAlias = Mapping[str, SubExecutor]


@runtime_checkable
class Policy(Protocol):
    """Chooses where a work item runs.

    A policy that learns may also have a method `observe(event)`, which then gets every event,
    from any thread.
    """

    def route(self, item: WorkItem, fleet: Fleet) -> tuple[str, ...] | None:
        """Return the names of executors to try: the first choice, then fallbacks.

        None means "not yet": the item is held, and routed again within 50 ms; if the answer is
        None then too, it goes to processes, or to threads.

        `fleet` holds only those that may and can run the `item`: privacy and capability were
        checked before. Called from any thread, once for each submit (or more often, after None);
        must be quick and pure.
        """
        ...
