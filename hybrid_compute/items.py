"""WorkItem: one submitted call, and the one future that tells how it ended.

Owns what is to be called and the steps of its life: `start`, then `succeed` or `fail`, each
once per attempt. Knows no executor, no policy and no queue. An item is handed from thread to
thread, never shared: whoever took it from a queue is the only one to touch it, and only its
future, which has a lock, is in other hands meanwhile.
"""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures._base import CANCELLED
from threading import current_thread
from types import FunctionType, GeneratorType
from typing import TYPE_CHECKING, Any, Protocol

from hybrid_compute._metered import run_measured
from hybrid_compute.futures import HybridFuture
from hybrid_compute.tasks import NO_OPTIONS, Task, TaskOptions

if TYPE_CHECKING:
    from contextvars import Context

    from hybrid_compute.decisions import Choice
    from hybrid_compute.privacy import Guard
    from hybrid_compute.routed import RoutedItem

__all__ = ["PLAIN", "ContextItem", "Keeper", "Meter", "WorkItem", "name_of"]


def name_of(fn: Callable[..., Any] | None) -> str:
    """Return a short human name of a callable, as it stands in errors and events."""
    if isinstance(fn, Task):
        return fn.name
    try:
        name = getattr(fn, "__qualname__", None)
    except Exception:  # it has a `__getattr__` of its own: whoever asks for a name is no part of it
        name = None
    return name if isinstance(name, str) else type(fn).__name__


def _is(fn: object, mark: str) -> bool:
    # Of functions only, which ours are: other callables may do anything when they are asked.
    return type(fn) is FunctionType and mark in fn.__dict__


class Keeper:
    """Who holds an item, asked by its future on behalf of whoever holds that. Any thread."""

    __slots__ = ()  # there is one for each remote call

    def withdraw(self, item: WorkItem) -> bool:
        """Say whether the item, which has not started here, will certainly not start."""
        return True

    def stop(self, item: WorkItem) -> bool | None:
        """End the item's work although it runs, and deliver that; block until that is known.

        Returns:
            Whether it was ended; None if this keeper has it no more.
        """
        return False

    def drop(self, item: WorkItem) -> None:
        """End the item's work if that can be, since nobody wants it. Any thread; does not wait.

        It is delivered, if it was ended, as `stop` would.
        """

    def attend(self, timeout: float | None) -> None:
        """Do, for a time, what brings the end nearer; called by who is about to wait for it.

        It may return at any time, with nothing done, and runs nobody's code but its own.
        """

    def urge(self, items: set[WorkItem]) -> None:
        """See to it that the items are done, though whoever holds a place here waits for them.

        Called by a thread of a pool, which gives up its own place meanwhile. Takes no lock of a
        future, and waits for nothing.
        """

    def watched(self) -> None:
        """Note that somebody will be told of the end, who does not come to `attend`.

        Holds locks of futures: it takes none, and waits for nothing.
        """


class Meter(Protocol):
    """Whom items tell of their runs, for a policy that learns. Any thread; never raises."""

    def begin(self, item: RoutedItem) -> float | None:
        """Say that the item begins on this thread; return its CPU time if that is wanted."""

    def end(self, item: RoutedItem, begun: float, cpu: float | None, value: Any) -> bool:
        """Say that it has ended, with what `begin` gave; return whether to call `reconsider`."""
        ...

    def reconsider(self, belief: Any) -> None:
        """Think over what waits: something was learned. The item's outcome is delivered."""

    def handed(self, item: RoutedItem, name: str) -> None:
        """Say that an executor is about to get the item."""

    def left(self, item: RoutedItem, *, done: bool = False) -> None:
        """Say that the item has left its executor; `done`: with a result."""

    def ran(self, belief: Any, count: int, wall: float, cpu: float) -> None:
        """Say that so many calls have run in another process of this machine."""

    def pickled(self, item: RoutedItem, size: int, seconds: float) -> None:
        """Say how long it took to pickle what goes to another process, if that is much."""


class WorkItem:
    """One call to be made: `fn(*args, **kwargs)`.

    Attributes:
        fn: the callable; None once `release` was called.
        args: its positional arguments.
        kwargs: its keyword arguments; None when there are none (an empty dict an item is the
            dearest part of it).
        options: what the task's author and the caller said about placement and attempts.
        future: the future that the caller holds. An item has one, however often it is tried.
        keeper: who holds it, if that makes a difference to those who want it cancelled: someone
            else's queue, or an executor that can end work which runs.
        deadline: monotonic time by which it must be done; None: never mind.
        guard: sees to it that what is sensitive stays here; None: nothing is.
        observed: whether somebody wants to know of each step.
        item_id: its number in the events about it; None: there are none.
        key: tells a service of ours that two calls are the same one; None: they never are.
        packed: what a signed call carries, if it is not to be made of `fn` and the arguments.
        context: in a copy of which the work runs, as far as it goes where the work goes: see
            `_contexts`; None: as it is there.
        variables: context variables by their names, for a service, if they were read before; None:
            those of `context`.
    """

    __slots__ = ("args", "fn", "future", "keeper", "kwargs", "options")

    deadline: float | None = None  # an attribute of those items that may have one
    guard: Guard | None = None  # likewise
    observed = False
    item_id: int | None = None  # likewise
    streams = False  # whether it is a StreamItem
    # What a policy that learns notes on an item that it routes, which is a RoutedItem then.
    belief: Any = None  # what is known of its task
    choice: Choice | None = None  # why it goes where it goes
    counted: Any = None  # where it counts as work to be done
    meter: Meter | None = None  # whom to tell of its run
    behind = 0  # how many calls are known to come behind it, which are not submitted yet
    probes = False  # it is one of the first calls, on which others wait
    handed_at: float | None = None  # when it was handed over, by the performance counter
    key: str | None = None  # under which the service is to remember how the call ended
    packed: bytes | None = None  # the call pickled already, to be signed
    context: Context | None = None  # an attribute of those items that have one
    variables: dict[str, Any] | None = None  # likewise

    def __init__(
        self,
        fn: Callable[..., Any],
        args: tuple[Any, ...] = (),
        kwargs: dict[str, Any] | None = None,
        options: TaskOptions = NO_OPTIONS,
    ) -> None:
        self.fn: Callable[..., Any] | None = fn
        self.args: tuple[Any, ...] = args
        self.kwargs: dict[str, Any] | None = kwargs or None
        self.options: TaskOptions = options
        self.keeper: Keeper | None = None
        self.future: HybridFuture[Any] = HybridFuture(self)

    @property
    def name(self) -> str:
        """A short human name of what is called; a chunk of a map has its function's."""
        return name_of(self.target)

    @property
    def target(self) -> Any:
        """The user's function, which a chunk of a map, or what streams, has as its argument."""
        return self.args[0] if _is(self.fn, "carries_function") else self.fn

    @property
    def declared(self) -> bool:
        """Whether it is a call, or several, of a declared task."""
        return isinstance(self.target, Task)

    @property
    def calls(self) -> int:
        """How many calls it is: a chunk of a map is several."""
        return len(self.args[1]) if _is(self.fn, "carries_calls") else 1

    def is_unwanted(self) -> bool:
        """Say whether nobody waits for its outcome, though it still runs. Any thread."""
        return self.future.done() or self.future._unwanted

    def start(self) -> bool:
        """Mark the item as running; False if it was cancelled: then leave it alone.

        Called by the executor right before the work is done, or sent where nothing can stop it.
        """
        return self.future.set_running_or_notify_cancel()

    def succeed(self, value: Any) -> None:
        """Deliver the `value` that the work returned. Callbacks run here: hold no lock."""
        self.future.set_result(value)

    def fail(self, error: BaseException) -> None:
        """Deliver the `error` that the work raised, or met. Callbacks run: hold no lock."""
        self.future.set_exception(error)

    def raised(self, error: BaseException) -> None:
        """Deliver the `error` that the work itself raised: whatever it is, it is no refusal."""
        self.fail(error)

    def claim(self) -> bool:
        """Say whether its time, which is up, may end it. Any thread."""
        return True

    def reject(self, error: BaseException) -> None:
        """Fail the item with `error`: it never started, nor will; unless it was cancelled."""
        if self.start():
            self.fail(error)

    def give_up(self, error: BaseException) -> None:
        """Deliver `error` for good, whatever attempts there may be left."""
        self.future.set_exception(error)

    def abandon(self, error: BaseException) -> None:
        """Deliver the `error` for which nobody took the item, unless it was cancelled."""
        if self.start():
            self.give_up(error)

    def end(self) -> None:
        """Deliver that the work, which had started, was ended because that was asked for."""
        self.future._end()

    def cancel(self) -> None:
        """Cancel the item, which has not started: its executor is shut down. Does not block."""
        if self.future.cancel() and self.future._state == CANCELLED:  # not told yet
            self.start()  # tells those who wait() for the future

    def release(self) -> None:
        """Let go of the function and its arguments, which nobody will call any more."""
        self.fn = self.kwargs = None
        self.args = ()

    def run(self) -> None:
        """Run the call right here, on this thread, and deliver its outcome. Never raises."""
        if not self.start():
            return
        try:
            kwargs = self.kwargs
            value = self.fn(*self.args, **kwargs) if kwargs else self.fn(*self.args)  # type: ignore[misc]
        except BaseException as error:  # KeyboardInterrupt and the like go to the caller as well
            self.raised(error)
            # The traceback holds this frame: leave nothing in it, least of all the future.
            self = kwargs = None  # type: ignore[assignment]
        else:
            if type(value) is GeneratorType:
                self.future._pool = current_thread().__dict__.get("hybrid_pool")
            self.succeed(value)


class ContextItem(WorkItem):
    """An item that runs in a copy of its submitter's context, if it has one; else as a WorkItem."""

    __slots__ = ("context",)

    def __init__(
        self,
        fn: Callable[..., Any],
        args: tuple[Any, ...],
        kwargs: dict[str, Any] | None,
        options: TaskOptions,
        context: Context | None,
    ) -> None:
        super().__init__(fn, args, kwargs, options)
        self.context: Context | None = context

    run = run_measured  # pyright: ignore[reportAssignmentType]  # its `self` has another name


# Those that do nothing but run once: their outcome is that of their future.
PLAIN = frozenset({WorkItem, ContextItem})
