"""Legs: the two attempts at a hedged call. The second part of `_hedging`, which tells of the race.

Owns what a leg does at each step of an item's life: it asks the race whether the step still counts.
Threads and locks: as any item's; none.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from hybrid_compute.errors import TaskTimeout
from hybrid_compute.items import WorkItem
from hybrid_compute.routed import RoutedItem
from hybrid_compute.tasks import TaskOptions

if TYPE_CHECKING:
    from hybrid_compute._alarm import Alarm
    from hybrid_compute._hedging import Race
    from hybrid_compute.abc import Fleet
    from hybrid_compute.privacy import Guard

__all__ = ["HedgedLeg", "Leg", "options_of"]


class HedgedLeg(RoutedItem):
    """One of the attempts: what is the same with and without observers."""

    # No slots: `ObservedItem`, beside which it is a base, has some.
    _race: Race
    _answer: BaseException | None
    deadline: float | None
    guard: Guard | None

    def _enter(self, race: Race, before: HedgedLeg | None) -> None:
        """Take part in a race, behind another leg if there is one."""
        self._race = race
        self._answer = None
        self.future._unretrieved = False  # nobody has it: it is the race's that tells
        if before is not None:
            self.deadline = before.deadline
            if before.guard is not None:
                self.guard = before.guard.twin()

    @property
    def route(self) -> tuple[str, ...]:
        """The executors that the policy has named."""
        return self._route

    @property
    def fleet(self) -> Fleet:
        """Where they are found; empty once the leg is over."""
        return self._fleet

    def tell_hedged(self, name: str, why: str) -> None:
        """Do nothing: tells observers of a second attempt, if there are any."""

    def tell_dropped(self) -> None:
        """Do nothing: tells observers that this attempt was not the one, if there are any."""

    def launch(
        self,
        route: tuple[str, ...],
        fleet: Fleet,
        alarm: Alarm | None = None,
        *,
        late: bool = False,
    ) -> None:
        """Hand the item over; from then on the clock of its hedge runs."""
        arms = self._race.handed(self)
        super().launch(route, fleet, alarm, late=late)
        if arms:
            self._race.arm()

    def start(self) -> bool:
        """Mark the item as running, unless the other one has brought an answer."""
        if not super().start():
            return False
        if self._race.begin():
            return True
        self._race.leave(self)
        self._is_over()
        self.tell_dropped()
        if self._settles():
            self.future._end()
        return False

    def raised(self, error: BaseException) -> None:
        """Deliver what the work itself raised."""
        self._answer = error
        super().raised(error)

    def _goes_on(self, error: BaseException) -> bool:
        return not self._race.is_over() and super()._goes_on(error)

    def _deliver(self, value: Any) -> None:
        if self._race.leave(self, answers=True):
            super()._deliver(value)
            self._race.win(self, value)
        else:
            self.tell_dropped()
            self.future.set_result(None)

    def _deliver_failure(self, error: BaseException) -> None:
        answers = error is self._answer or isinstance(error, TaskTimeout)
        self._answer = None
        if not answers:
            self._race.note_loss(self, error)
        if self._race.leave(self, answers=answers):
            super()._deliver_failure(error)
            self._race.lose(self, error)
        else:
            self.tell_dropped()
            self.future.set_exception(error)

    def end(self) -> None:
        """Deliver that the work was ended."""
        if self._race.leave(self):
            super().end()
            self._race.cancelled(self)
        else:
            self._is_over()
            self.tell_dropped()
            if self._settles():
                self.future._end()

    def release(self) -> None:
        """Let go of the call, which was cancelled."""
        last = self._race.leave(self)
        if last:
            super().release()
        else:
            RoutedItem.release(self)
            self.tell_dropped()
        if last:
            self._race.cancelled(self)


class Leg(HedgedLeg):
    """An attempt that nobody observes."""

    def __init__(self, race: Race, head: WorkItem, before: HedgedLeg | None) -> None:
        assert head.fn is not None  # noqa: S101 - nobody has released it
        super().__init__(head.fn, head.args, head.kwargs, options_of(head, before))
        self.context = head.context
        self._enter(race, before)


def options_of(head: WorkItem, before: HedgedLeg | None) -> TaskOptions:
    """Return the options of a leg: the second one is tried once."""
    return head.options if before is None else head.options._with(retries=None)
