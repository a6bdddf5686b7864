"""SupervisedItem: a call with retries or a deadline, for as long as nothing has gone wrong.

Most of them need neither. So one that has a single executor to go to is a light item, which knows
nothing of routes and attempts: it has its deadline. If its first attempt fails, a `RoutedItem`
takes its place, with the same future and the same deadline, and decides what it would have decided.

Threads and locks: an item is in one pair of hands at a time, but for the alarm, which may fail it
at any moment. Whoever comes first to the future settles it, and the other lets go. What the alarm
has claimed is not replaced any more: that is settled under the future's lock, as is the moment in
which a routed item takes its place, so that who cancels meets one of the two.

Under a HybridExecutor one that may be tried again is a routed item from the start: who shuts down
counts those, and waits for them.
"""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import InvalidStateError
from concurrent.futures._base import PENDING, RUNNING
from contextlib import suppress
from math import inf
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
    from hybrid_compute.abc import SubExecutor
    from hybrid_compute.items import Keeper
    from hybrid_compute.tasks import Task, TaskOptions

__all__ = ["SupervisedItem", "is_quiet", "look_through", "submit_watched", "watch"]

_new = object.__new__
_HUGE = 1e9  # seconds: added to what a clock says, and taken away again, they make it inexact
_REST = 5e-6  # seconds for each job: see `look_through`


class SupervisedItem(WorkItem):
    """A work item that has one executor to go to, with retries or a deadline.

    Args:
        fn: what is called. It does not stream.
        args: its positional arguments.
        kwargs: its keyword arguments.
        options: the call's own, completed by the task's.
        context: as for `ContextItem`.
    """

    fn: Callable[..., Any] | None
    future: HybridFuture[Any]
    keeper: Keeper | None
    kwargs: dict[str, Any] | None
    context: Context | None
    deadline: float | None

    __slots__ = ("_executor", "_submitted", "context", "deadline")

    time_is_up = time_is_up

    def __init__(
        self,
        fn: Callable[..., Any],
        args: tuple[Any, ...],
        kwargs: dict[str, Any] | None,
        options: TaskOptions,
        context: Context | None,
    ) -> None:
        # By hand: super().__init__(fn, args, kwargs, options), as every submit comes by here.
        self.fn = fn
        self.args = args
        self.kwargs = kwargs or None
        self.options = options
        self.keeper = None
        self.future = HybridFuture(self)
        self.context = context
        # Who takes it away ends the item: see `claim`.
        self._executor: SubExecutor | None = None
        timeout = options.timeout
        if timeout is None or timeout > _HUGE:
            self._submitted = now = monotonic()
            self.deadline = None if timeout is None else now + timeout
        else:
            self.deadline = monotonic() + timeout

    def _age(self) -> float:
        """Return how many seconds ago it was submitted."""
        deadline, timeout = self.deadline, self.options.timeout
        if deadline is None or timeout is None or timeout > _HUGE:
            return monotonic() - self._submitted
        return monotonic() - deadline + timeout

    def hand_over(self, executor: SubExecutor) -> bool:
        """Give it to an executor; False: for that it has to be a `RoutedItem`.

        Raises:
            BaseException: what `execute` raises, but for ExecutorUnavailable, with which it fails;
                or there can be no thread that sees to its deadline. It is cancelled then.
        """
        if executor._watching is None and not self._fits(executor):
            return False
        alarm = executor._watching
        deadline = None if alarm is None else self.deadline
        self._executor = executor
        try:
            if alarm is not None and deadline is not None:
                alarm.came = True
                if alarm.thread is None:
                    alarm.start()  # before anybody has it, as there may be no thread
            if (budget := executor.retry_budget) is not None:
                budget.earn()
            executor.execute(self)
            # Once it is where the alarm looks: else that might look just before, and wait for long.
            if alarm is not None and deadline is not None and deadline < alarm.until:
                self.tell(alarm)
        except ExecutorUnavailable as error:
            self.refused(error.with_traceback(None))  # which would lead back to this item
        except BaseException:
            self.abort(alarm)
            raise
        return True

    def _fits(self, executor: SubExecutor) -> bool:
        """Say whether it may be a light item there. If there is a shelf, its alarm watches it."""
        if executor.capabilities.blocks:
            return False
        if executor._shelf is not None:
            watch(executor)
        elif self.deadline is not None:
            known.deadlines = True
            # Else nobody would know of it but the alarm, which would have to keep it.
            return executor._keeps_time or executor.capabilities.kills
        return True

    def tell(self, alarm: Alarm) -> None:
        """Have the alarm note it, which somebody has.

        Raises:
            RuntimeError: there can be no thread for the alarm; the item is cancelled.
        """
        try:
            alarm.note(self)
        except RuntimeError:
            if self.future.cancel():
                raise
            # It runs already, or has run. The alarm finds it as soon as it has a thread again.

    def abort(self, alarm: Alarm | None) -> None:
        """Cancel it, as its submitter was interrupted: nobody gets its future.

        Somebody may have it by then, and run it: he is on his own, but for the alarm.
        """
        if not self.future.cancel() and alarm is not None and self.deadline is not None:
            with suppress(RuntimeError):
                alarm.note(self)

    def run(self) -> None:
        """Run the call right here, on this thread, and deliver its outcome. Never raises."""
        # As `_metered.run_measured` does it, without a meter; with `start` and `succeed` by hand.
        future = self.future
        with future._lock:
            pending = future._state == PENDING
            if pending:
                future._state = RUNNING
        if not (pending or future._begin()):
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
            self = kwargs = context = fn = args = future = None  # type: ignore[assignment]
        else:
            if limit is not None:
                limit.deadline = outer
            if type(value) is GeneratorType:
                pool = current_thread().__dict__.get("hybrid_pool")
                future._pool = pool if context is None else pool_in(pool, context)
            self._executor = None
            try:  # noqa: SIM105 - `suppress` takes as long as all else
                future.set_result(value)
            except InvalidStateError:
                pass  # its time was up

    def start(self) -> bool:
        """Mark the item as running."""
        future = self.future
        with future._lock:  # most times it is as simple as this
            if future._state == PENDING:
                future._state = RUNNING
                return True
        return future._begin()

    def is_here(self) -> bool:
        """Say whether it is neither over nor replaced by another item."""
        return self._executor is not None

    def claim(self) -> bool:
        """Say whether its time, which is up, is what ends it: nobody else does so any more.

        Who takes the executor away has the last word, or lets another item have it: that is one of
        the alarm, who delivers a result, and who is about to have the call tried again.
        """
        with self.future._lock:
            here, self._executor = self._executor is not None, None
            return here and self.future._state in (PENDING, RUNNING)

    def succeed(self, value: Any) -> None:
        """Deliver the result."""
        self._executor = None
        with suppress(InvalidStateError):  # its time was up
            self.future.set_result(value)

    def give_up(self, error: BaseException) -> None:
        """Deliver the failure for good."""
        self._executor = None
        with suppress(InvalidStateError):
            self.future.set_exception(error)

    def end(self) -> None:
        """Deliver that the work was ended because that was asked for."""
        self._executor = None
        with suppress(InvalidStateError):
            super().end()

    def release(self) -> None:
        """Let go of the call, which was cancelled."""
        super().release()
        self._executor = None

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
        if fn is None:
            return None  # it was cancelled
        routed = RoutedItem(fn, args, kwargs, self.options)
        routed.context, routed.deadline = self.context, self.deadline
        since = perf_counter() - self._age()
        with future._lock:
            executor = self._executor
            # The alarm, if it has claimed this one, would not know of the thread of another.
            if executor is None or future._state not in (PENDING, RUNNING):
                return None
            self._executor = None  # whoever keeps this one must not keep its executor
            routed._started = future._state == RUNNING
            routed.future = future
            future._item = routed  # who cancels it now releases that one
        alarm = alarm_of(executor, routed)
        routed.take_over(executor, alarm, since=since)
        if alarm is not None and routed.deadline is not None and executor._shelf is not None:
            with suppress(RuntimeError):  # there can be no thread
                alarm.set(routed)  # it is on no shelf, and a rule for its retries may take long
        return routed


def submit_watched(  # noqa: PLR0917 - it is called for every submit, and names take longer
    executor: SubExecutor,
    alarm: Alarm,
    fn: Task[..., Any],
    args: tuple[Any, ...],
    kwargs: dict[str, Any],
    context: Context | None,
) -> HybridFuture[Any]:
    """Give a call to an executor whose alarm watches it; return its future.

    As `SupervisedItem(...)` and `hand_over`, by hand: every submit of such a call comes by here,
    and each of these takes as long as all that is done in it.
    """
    item: SupervisedItem = _new(SupervisedItem)
    item.fn = fn
    item.args = args
    item.kwargs = kwargs or None
    item.options = options = fn.options
    item.keeper = None
    item.context = context
    item._executor = executor
    future: HybridFuture[Any] = HybridFuture(item)
    item.future = future
    future._decision = executor.name
    timeout = options.timeout
    if timeout is None or timeout > _HUGE:
        item._submitted = now = monotonic()
        item.deadline = deadline = None if timeout is None else now + timeout
    else:
        item.deadline = deadline = monotonic() + timeout
    try:
        if deadline is not None:
            alarm.came = True
            if alarm.thread is None:
                alarm.start()
        if (budget := executor.retry_budget) is not None:
            budget.earn()
        executor.execute(item)
        if deadline is not None and deadline < alarm.until:
            item.tell(alarm)
    except ExecutorUnavailable as error:
        item.refused(error.with_traceback(None))
    except BaseException:
        item.abort(alarm)
        raise
    return future


def watch(executor: SubExecutor) -> Alarm:
    """Have the alarm of an executor look through what the executor has, from now on."""
    alarm = alarm_in(executor)
    assert executor._shelf is not None  # noqa: S101 - who calls this has looked
    alarm.look_through(executor._shelf)
    executor._watching = alarm
    return alarm


def look_through(
    jobs: list[Any], now: float, due: list[Any], soon: list[Any]
) -> tuple[float, float]:
    """Look through light items for those with deadlines.

    Args:
        jobs: all that there is; other jobs are passed by, as others see to their deadlines.
        now: the monotonic time.
        due: those whose time is up are added to it.
        soon: those that are due before there is to be another look are added to it.

    Returns:
        The next deadline of all others, or inf; and until when `soon` goes. That is 50 times as
        long as a look takes, at 0.1 us a job: so looks take no more than 2 % of a core.
    """
    later, rests = inf, now + _REST * len(jobs)
    for job in jobs:
        if type(job) is SupervisedItem:
            deadline = job.deadline
            if deadline is not None and deadline < later and job._executor is not None:
                if deadline > rests:
                    later = deadline
                elif deadline > now:
                    soon.append(job)
                else:
                    due.append(job)
    return later, rests


_QUIET = PLAIN | {RoutedItem, SupervisedItem}


def is_quiet(item: WorkItem | None) -> bool:
    """Say whether to deliver a result to an item runs nobody's code, but for its callbacks."""
    return type(item) in _QUIET and item.meter is None  # type: ignore[union-attr]  # None is not in it
