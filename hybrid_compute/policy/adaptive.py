"""Adaptive: the default policy."""

from __future__ import annotations

from hybrid_compute.abc import Fleet, WorkItem
from hybrid_compute.policy._base import Move
from hybrid_compute.policy.fixed import Prefer

__all__ = ["Adaptive"]


class Adaptive(Prefer):
    """Declared tasks go to processes, where Python code uses all cores; the rest stays.

    Where a fleet has no processes, or they do not start, threads take the tasks.

    Args:
        move: "declared" lets only declared tasks leave the thread pool; "all" moves plain
            callables too.
    """

    def __init__(self, *, move: Move = "declared") -> None:
        super().__init__("process", "thread", move=move)
        self.names = frozenset()  # it takes the fleet as it is

    def route(self, item: WorkItem, fleet: Fleet) -> tuple[str, ...]:
        """Return processes, then threads; or all that the fleet has if it has neither."""
        return super().route(item, fleet) or tuple(fleet)

    def __repr__(self) -> str:
        return "Adaptive()" if not self.moves_plain else "Adaptive(move='all')"
