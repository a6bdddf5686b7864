"""SupervisedItem: a call with retries or a deadline, for as long as nothing has gone wrong.

Most of them need neither. So one that has a single executor to go to is a light item, which knows
nothing of routes and attempts: it has its deadline. If its first attempt fails, a `RoutedItem`
takes its place, with the same future and the same deadline, and decides what it would have decided.

Threads and locks: an item is in one pair of hands at a time, but for the alarm, which may fail it
at any moment. Whoever comes first to the future settles it, and the other lets go. The routed item
takes the place under the future's lock, so that who cancels meets one of the two.
"""

from __future__ import annotations

import time
from concurrent.futures import InvalidStateError
from concurrent.futures._base import PENDING, RUNNING
from threading import current_thread
from types import GeneratorType
from typing import TYPE_CHECKING, Any

from hybrid_compute._contexts import bind, pool_in
from hybrid_compute._seats import here, known
from hybrid_compute.futures import HybridFuture
from hybrid_compute.items import WorkItem
from hybrid_compute.routed import QUIET, RoutedItem, alarm_of, time_is_up

if TYPE_CHECKING:
    from contextvars import Context

    from hybrid_compute._alarm import Row
    from hybrid_compute.abc import SubExecutor
    from hybrid_compute.tasks import Task

__all__ = ["SupervisedItem"]


class SupervisedItem(WorkItem):
    """A work item with one executor to go to.

    Args:
        fn: the task, whose options are the item's. It does not stream.
        args: its positional arguments.
        kwargs: its keyword arguments.
        executor: where it goes, which does not block.
        row: where the alarm finds it; None: it has no deadline, or the executor keeps the time.
        context: as for `ContextItem`.
    """

    __slots__ = ("_executor", "_row", "_submitted", "context", "deadline")

    time_is_up = time_is_up

    def __init__(
        self,
        fn: Task[..., Any],
        args: tuple[Any, ...],
        kwargs: dict[str, Any],
        executor: SubExecutor,
        row: Row | None,
        context: Context | None,
    ) -> None:
        # By hand: super().__init__(fn, args, kwargs, fn.options), as every submit comes by here.
        self.fn = fn
        self.args = args
        self.kwargs = kwargs or None
        self.options = options = fn.options
        self.keeper = None
        self.future = future = HybridFuture(self)
        future._decision = executor.name
        self.context: Context | None = context
        self._executor: SubExecutor | None = executor
        self._row = row
        self._submitted = now = time.monotonic()
        if (timeout := options.timeout) is None:
            self.deadline: float | None = None
        else:
            self.deadline = now + timeout
            known.deadlines = True

    def run(self) -> None:
        """Run the call right here, on this thread, and deliver its outcome. Never raises."""
        # As `_metered.run_measured` does it, without a meter.
        if not self.start():
            return
        deadline, context = self.deadline, self.context
        fn, args = (self.fn, self.args) if context is None else bind(context, self.fn, self.args)
        outer = None if deadline is None else here.deadline
        try:
            if deadline is not None:
                here.deadline = deadline  # for what it submits; in here, so that it is taken back
            kwargs = self.kwargs
            value = fn(*args, **kwargs) if kwargs else fn(*args)  # type: ignore[misc]  # see `release`
        except BaseException as error:
            if deadline is not None:
                here.deadline = outer
            self.raised(error)
            self = kwargs = context = fn = args = None  # type: ignore[assignment]
        else:
            if deadline is not None:
                here.deadline = outer
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

    def _let_go(self) -> None:
        """Note that it is over. Whoever keeps it must not keep its executor."""
        self._executor = None
        row = self._row
        if row is not None:
            row.pop(self, None)
            if not row:
                row.emptied()

    def succeed(self, value: Any) -> None:
        """Deliver the result."""
        self._executor = None  # as `_let_go` does it
        row = self._row
        if row is not None:
            row.pop(self, None)
            if not row:
                row.emptied()
        try:
            self.future.set_result(value)
        except InvalidStateError:
            pass  # its time was up

    def give_up(self, error: BaseException) -> None:
        """Deliver the failure for good."""
        self._let_go()
        try:
            self.future.set_exception(error)
        except InvalidStateError:
            pass

    def end(self) -> None:
        """Deliver that the work was ended because that was asked for."""
        self._let_go()
        try:
            super().end()
        except InvalidStateError:
            pass

    def release(self) -> None:
        """Let go of the call, which was cancelled."""
        super().release()
        self._let_go()

    def fail(self, error: BaseException) -> None:
        """Have the item that takes its place deliver the failure, or go on."""
        if (routed := self._routed()) is not None:
            routed.fail(error)

    def raised(self, error: BaseException) -> None:
        """Do the same with what the work itself raised."""
        if (routed := self._routed()) is not None:
            routed.raised(error)

    def _routed(self) -> RoutedItem | None:
        """Return the item that takes its place; None: it is over, as its future tells."""
        fn, args, kwargs, executor = self.fn, self.args, self.kwargs, self._executor
        self._let_go()
        if fn is None or executor is None:
            return None
        future, routed = self.future, RoutedItem(fn, args, kwargs, self.options)
        routed.context, routed.deadline = self.context, self.deadline
        with future._lock:
            state = future._state
            if state not in (PENDING, RUNNING):
                return None
            routed.future = future
            future._item = routed  # who cancels it now releases that one
        since = time.perf_counter() - (time.monotonic() - self._submitted)
        alarm = alarm_of(executor, routed)
        routed.take_over(executor, alarm, since=since, started=state == RUNNING)
        return routed


QUIET.add(SupervisedItem)
