"""The direct way of tasks that have one place to go, which is a pool of threads of this process.

Such a task is known, mostly waits, and there is no other place to choose from: to ask
the router and the policy for each call would cost more than the hand-over. So its item is a lighter
one, which knows nothing of routes; it is measured as any other, so that a change is seen.

Once in `_MOST_LEFT` items (`policy.adaptive`), and at once when something was learned, `left` is
used up, and the next item goes the long way, where the policy thinks again.
"""

from __future__ import annotations

from concurrent.futures._base import PENDING
from time import perf_counter
from typing import TYPE_CHECKING, Any

from hybrid_compute._metered import run_measured
from hybrid_compute.decisions import Decision
from hybrid_compute.routed import RoutedItem
from hybrid_compute.supervised import SupervisedItem
from hybrid_compute.tasks import Task

if TYPE_CHECKING:
    from contextvars import Context

    from hybrid_compute.items import Meter

__all__ = ["DirectItem"]


class DirectItem(SupervisedItem):
    """A work item with one place to go, where it is measured; and looked after, if it is to be.

    Attributes:
        decision: what `HybridFuture.explain` will tell.
        place: name of the executor.
    """

    __slots__ = ("belief", "decision", "meter", "place")

    decision: Decision

    def __init__(  # noqa: PLR0917 - as every submit comes by here
        self,
        fn: Task[..., Any],
        args: tuple[Any, ...],
        kwargs: dict[str, Any],
        belief: Any,
        meter: Meter,
        context: Context | None = None,
    ) -> None:
        SupervisedItem.__init__(self, fn, args, kwargs, fn.options, context)
        self.belief: Any = belief
        self.meter: Meter | None = meter
        decision = Decision(belief.choice, perf_counter())
        self.place: str = belief.route[0]
        decision.executor = self.place
        self.decision = self.future._decision = decision

    run = run_measured  # pyright: ignore[reportAssignmentType]  # its `self` has another name

    def succeed(self, value: Any) -> None:
        """Deliver the result."""
        self.decision.ended = perf_counter()
        if self._among is None:  # most are not looked after
            self.future.set_result(value)
        else:
            SupervisedItem.succeed(self, value)

    def fail(self, error: BaseException) -> None:
        """Deliver what the work raised, or what became of it; or have it tried again."""
        if self._among is None:
            self.give_up(error)
        else:
            super().fail(error)

    def raised(self, error: BaseException) -> None:
        """Deliver what the work raised, or have it tried again."""
        if self._among is None:
            self.fail(error)
        else:
            super().raised(error)

    def give_up(self, error: BaseException) -> None:
        """Deliver the failure for good."""
        self.decision.ended = perf_counter()
        super().give_up(error)

    def routed(self) -> RoutedItem | None:
        """Return an item in its place that can go anywhere; None: it was cancelled.

        For who has taken it out of its executor's queue.
        """
        routed = self._replaced((PENDING,))
        if routed is None:
            self.start()  # tells those who wait() for it, as who takes it from the queue would
        else:
            self._is_outstanding()
        self._let_go()
        return routed

    def _replaced(self, states: tuple[str, ...]) -> RoutedItem | None:
        routed = super()._replaced(states)
        if routed is not None:
            routed.belief, routed.meter = self.belief, self.meter
            routed.choice, routed.decision = self.decision.choice, self.decision
        return routed
