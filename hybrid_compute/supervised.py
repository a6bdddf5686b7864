"""SupervisedItem: a call with retries or a deadline, for as long as nothing has gone wrong.

Most of them need neither. So one that has a single executor to go to is a light item, which knows
nothing of routes and attempts: it has its deadline. If its first attempt fails, a `RoutedItem`
takes its place, with the same future and the same deadline, and decides what it would have decided.

Threads and locks: an item is in one pair of hands at a time, but for the alarm, which may fail it
at any moment. Whoever comes first to the future settles it, and the other lets go. What the alarm
has taken out of its row is not replaced any more. The routed item takes the place under the
future's lock, so that who cancels meets one of the two.

Under a HybridExecutor one that may be tried again is a routed item from the start: who shuts down
counts those, and waits for them.
"""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import InvalidStateError
from concurrent.futures._base import PENDING, RUNNING
from contextlib import suppress
from threading import current_thread
from time import monotonic, perf_counter
from types import GeneratorType
from typing import TYPE_CHECKING, Any

from hybrid_compute._contexts import bind, pool_in
from hybrid_compute._seats import here, known
from hybrid_compute.errors import ExecutorUnavailable
from hybrid_compute.futures import HybridFuture
from hybrid_compute.items import PLAIN, WorkItem
from hybrid_compute.routed import RoutedItem, alarm_in, alarm_of, time_is_up

if TYPE_CHECKING:
    from contextvars import Context

    from hybrid_compute._alarm import Alarm
    from hybrid_compute._rows import Row
    from hybrid_compute.abc import SubExecutor
    from hybrid_compute.items import Keeper
    from hybrid_compute.tasks import TaskOptions

__all__ = ["SupervisedItem", "is_quiet"]

_HELD_UP = 0.005  # seconds from its submission: then the policy, or who was asked, has taken long


class SupervisedItem(WorkItem):
    """A work item that has one executor to go to, with retries or a deadline.

    Args:
        fn: what is called. It does not stream.
        args: its positional arguments.
        kwargs: its keyword arguments.
        options: the call's own, completed by the task's.
        context: as for `ContextItem`.
        executor: where it goes, if that is known; else `hand_over` is told.
        alarm: whose row it is put into; likewise.
        row: likewise.
    """

    fn: Callable[..., Any] | None
    future: HybridFuture[Any]
    keeper: Keeper | None
    kwargs: dict[str, Any] | None
    context: Context | None
    deadline: float | None

    __slots__ = ("_alarm", "_executor", "_row", "_submitted", "context", "deadline")

    time_is_up = time_is_up

    def __init__(  # noqa: PLR0917 - it is called for every submit, and names take longer
        self,
        fn: Callable[..., Any],
        args: tuple[Any, ...],
        kwargs: dict[str, Any] | None,
        options: TaskOptions,
        context: Context | None,
        executor: SubExecutor | None = None,
        alarm: Alarm | None = None,
        row: Row | None = None,
    ) -> None:
        # By hand: super().__init__(fn, args, kwargs, options), as every submit comes by here.
        self.fn = fn
        self.args = args
        self.kwargs = kwargs or None
        self.options = options
        self.keeper = None
        self.future = HybridFuture(self)
        self.context = context
        self._executor = executor
        self._alarm = alarm  # which sees to its deadline
        self._row = row  # where that finds it, until it is over
        self._submitted = now = monotonic()
        timeout = options.timeout
        self.deadline = None if timeout is None else now + timeout

    def hand_over(self, executor: SubExecutor, owner: Any) -> bool:
        """Give it to an executor; False: for that it has to be a `RoutedItem`.

        Args:
            executor: where it goes.
            owner: whose alarm it is that sees to its deadline, where the executor does not.

        Raises:
            Exception: what `execute` raises, but for ExecutorUnavailable, with which it fails.
        """
        if executor.capabilities.blocks:
            return False
        self._executor = executor
        deadline, seconds = self.deadline, self.options.timeout
        if seconds is not None:
            known.deadlines = True
        if (
            seconds is not None
            and deadline is not None
            and not (executor._keeps_time or executor.capabilities.kills)
        ):
            if not executor._holds_items:
                return False  # a row would keep it, and all that is its, until its time is up
            alarm = owner._alarm or alarm_in(owner)
            row = alarm.rows.get(seconds)
            if row is None and (row := alarm.add_row(seconds)) is None:
                return False
            if owner is not executor and monotonic() - self._submitted > _HELD_UP:
                return False  # others have come meanwhile, whose deadlines are later
            self._alarm, self._row = alarm, row
            row[self] = None  # before it is looked whether somebody waits for that
            if deadline < alarm.until:
                alarm.rouse(deadline)
        if executor.retry_budget is not None:
            executor.retry_budget.earn()
        try:
            executor.execute(self)
        except ExecutorUnavailable as error:
            self.refused(error.with_traceback(None))  # which would lead back to this item
        return True

    def run(self) -> None:
        """Run the call right here, on this thread, and deliver its outcome. Never raises."""
        # As `_metered.run_measured` does it, without a meter.
        if not self.start():
            return
        deadline, context = self.deadline, self.context
        fn, args = self.fn, self.args
        if context is not None:
            fn, args = bind(context, fn, args)
        limit = outer = None
        if deadline is not None:
            limit = here.limit
            outer = limit.deadline
        try:
            if limit is not None:
                limit.deadline = deadline  # for what it submits; in here, so that it is taken back
            kwargs = self.kwargs
            value = fn(*args, **kwargs) if kwargs else fn(*args)  # type: ignore[misc]  # see `release`
        except BaseException as error:
            if limit is not None:
                limit.deadline = outer
            self.raised(error)
            self = kwargs = context = fn = args = None  # type: ignore[assignment]
        else:
            if limit is not None:
                limit.deadline = outer
            if type(value) is GeneratorType:
                pool = current_thread().__dict__.get("hybrid_pool")
                self.future._pool = pool if context is None else pool_in(pool, context)
            self.succeed(value)

    def start(self) -> bool:
        """Mark the item as running."""
        future = self.future
        with future._lock:  # most times it is as simple as this
            if future._state == PENDING:
                future._state = RUNNING
                return True
        return future._begin()

    def _let_go(self) -> bool:
        """Note that it is over; False: the alarm has taken it, and is about to fail it.

        Whoever keeps it must not keep its executor.
        """
        self._executor = None
        row = self._row
        if row is None:
            return True
        mine = row.pop(self, self) is None
        if not row and self._alarm is not None:
            self._alarm.emptied()
        return mine

    def succeed(self, value: Any) -> None:
        """Deliver the result."""
        # By hand, as `_let_go`: every call comes by here.
        self._executor = None
        row = self._row
        if row is not None:
            try:  # noqa: SIM105 - `suppress` takes as long as all else
                del row[self]
            except KeyError:
                pass  # its time is up, and the alarm is about to say so
            if not row and self._alarm is not None:
                self._alarm.emptied()
        try:  # noqa: SIM105 - as above
            self.future.set_result(value)
        except InvalidStateError:
            pass  # its time was up

    def give_up(self, error: BaseException) -> None:
        """Deliver the failure for good."""
        self._let_go()
        with suppress(InvalidStateError):
            self.future.set_exception(error)

    def end(self) -> None:
        """Deliver that the work was ended because that was asked for."""
        self._let_go()
        with suppress(InvalidStateError):
            super().end()

    def release(self) -> None:
        """Let go of the call, which was cancelled."""
        super().release()
        self._let_go()

    def fail(self, error: BaseException) -> None:
        """Have the item that takes its place deliver the failure, or go on."""
        if (routed := self._routed()) is not None:
            routed.fail(error)

    def refused(self, error: ExecutorUnavailable) -> None:
        """Be told that its executor did not take it."""
        if not self.options.retries:
            self.abandon(error)
        elif (routed := self._routed()) is not None:
            routed.refused(error)

    def raised(self, error: BaseException) -> None:
        """Do the same with what the work itself raised."""
        if (routed := self._routed()) is not None:
            routed.raised(error)

    def _routed(self) -> RoutedItem | None:
        """Return the item that takes its place; None: it is over, as its future tells."""
        fn, args, kwargs, future = self.fn, self.args, self.kwargs, self.future
        executor = self._executor
        if not self._let_go() or fn is None or executor is None:
            return None  # else the alarm would not know of the thread that the other one is on
        routed = RoutedItem(fn, args, kwargs, self.options)
        routed.context, routed.deadline = self.context, self.deadline
        with future._lock:
            if future._state not in (PENDING, RUNNING):
                return None
            routed._started = future._state == RUNNING
            routed.future = future
            future._item = routed  # who cancels it now releases that one
        since = perf_counter() - (monotonic() - self._submitted)
        routed.take_over(executor, self._alarm or alarm_of(executor, routed), since=since)
        return routed


_QUIET = PLAIN | {RoutedItem, SupervisedItem}


def is_quiet(item: WorkItem | None) -> bool:
    """Say whether to deliver a result to an item runs nobody's code, but for its callbacks."""
    return type(item) in _QUIET and item.meter is None  # type: ignore[union-attr]  # None is not in it
