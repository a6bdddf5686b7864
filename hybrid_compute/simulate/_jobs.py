"""Job: one item on its way through a simulation. Owns nothing; its parts move it on."""

from __future__ import annotations

from collections.abc import Callable

import attrs

from hybrid_compute.routed import RoutedItem
from hybrid_compute.simulate.fleet import SimulatedExecutor
from hybrid_compute.simulate.log import ItemRecord
from hybrid_compute.simulate.needs import Need

__all__ = ["Job"]


@attrs.define(eq=False)
class Job:
    """One item on its way.

    Attributes:
        record: what the log says of it.
        item: what a policy sees of it.
        need: what it takes.
        submitted: when it was submitted here.
        executor: where it is, or was; None before the policy has answered.
        begun: when a worker took it.
        working: when its own work began, after the hand-over.
        busy: seconds for which a worker was busy with it.
        then: what its submitter does next; None: he has gone on.
    """

    record: ItemRecord
    item: RoutedItem
    need: Need
    submitted: float
    executor: SimulatedExecutor | None = None
    begun: float = 0.0
    working: float = 0.0
    busy: float = 0.0
    then: Callable[[], None] | None = None

    @property
    def cpu(self) -> float:
        """Seconds of processor time that it takes in all."""
        return self.need.held + self.need.free

    def go_on(self) -> None:
        """Let the submitter do what it does next, once."""
        then = self.then
        self.then = None
        if then is not None:
            then()

    def seen(self, now: float) -> tuple[float, float]:
        """Return for how long it has worked, and about how much of that was processor time."""
        passed = max(0.0, now - self.working)
        return passed, min(self.cpu, passed * self.cpu / self.need.alone if self.cpu else 0.0)
