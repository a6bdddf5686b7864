"""The direct way of tasks that have one place to go, which is a pool of threads of this process.

Such a task is known, mostly waits, and there is no other place to choose from: to ask
the router and the policy for each call would cost more than the hand-over. So its item is a lighter
one, which knows nothing of routes; it is measured as any other, so that a change is seen.

Once in `_MOST_LEFT` items (`policy.adaptive`), and at once when something was learned, `left` is
used up, and the next item goes the long way, where the policy thinks again.
"""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures._base import PENDING
from time import perf_counter
from typing import TYPE_CHECKING, Any

from hybrid_compute._metered import run_measured
from hybrid_compute.decisions import Decision
from hybrid_compute.items import WorkItem
from hybrid_compute.routed import RoutedItem
from hybrid_compute.tasks import Task

if TYPE_CHECKING:
    from contextvars import Context

    from hybrid_compute.items import Meter

__all__ = ["DirectItem"]


class DirectItem(WorkItem):
    """A work item with one place to go, where it is measured.

    Attributes:
        decision: what `HybridFuture.explain` will tell.
        place: name of the executor.
    """

    __slots__ = ("belief", "context", "decision", "meter", "place")

    decision: Decision

    def __init__(
        self,
        fn: Task[..., Any],
        args: tuple[Any, ...],
        kwargs: dict[str, Any],
        belief: Any,
        meter: Meter,
    ) -> None:
        WorkItem.__init__(self, fn, args, kwargs, fn.options)
        self.belief: Any = belief
        self.meter: Meter | None = meter
        self.context: Context | None = None
        decision = Decision(belief.choice, perf_counter())
        self.place: str = belief.route[0]
        decision.executor = self.place
        self.decision = self.future._decision = decision

    run = run_measured  # pyright: ignore[reportAssignmentType]  # its `self` has another name

    def succeed(self, value: Any) -> None:
        """Deliver the result."""
        self.decision.ended = perf_counter()
        self.future.set_result(value)

    def fail(self, error: BaseException) -> None:
        """Deliver what the work raised, or what became of it."""
        self.decision.ended = perf_counter()
        self.future.set_exception(error)

    def _routed(
        self, fn: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any] | None
    ) -> RoutedItem:
        return RoutedItem(fn, args, kwargs, self.options)

    def routed(self) -> RoutedItem | None:
        """Return an item in its place that can go anywhere; None: it was cancelled.

        For who has taken it out of its executor's queue.
        """
        fn, args, kwargs, future = self.fn, self.args, self.kwargs, self.future
        routed = None
        if fn is not None:
            routed = self._routed(fn, args, kwargs)
            with future._lock:
                if future._state == PENDING:
                    routed.future = future
                    future._item = routed  # who cancels it now releases that one
                else:
                    routed = None
        if routed is None:
            self.start()  # tells those who wait() for it, as who takes it from the queue would
            return None
        routed.belief = self.belief
        routed.choice = self.decision.choice
        routed.meter = self.meter
        routed.context = self.context
        routed.decision = self.decision
        return routed
