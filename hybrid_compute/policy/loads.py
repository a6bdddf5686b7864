"""LeastLoaded: where the least work waits."""

from __future__ import annotations

from hybrid_compute.abc import Fleet, WorkItem
from hybrid_compute.policy._base import Move, check_move, check_names

__all__ = ["LeastLoaded"]


class LeastLoaded:
    """The executor with the least work per worker; the others are fallbacks, in that order.

    Of two with the same load the one that was named first is taken.

    Args:
        names: names of executors. None given: all of the fleet, in its order, but for those that
            run the work in whoever submits it ("inline"), and the lane of threads, which is for
            what waits and would always have the least.
        move: "declared" lets only declared tasks leave the thread pool; "all" moves plain
            callables too.

    Attributes:
        names: all names that `route` may answer; HybridExecutor checks them when it is made.
        moves_plain: whether plain callables are routed too.
    """

    def __init__(self, *names: str, move: Move = "declared") -> None:
        self._order = check_names("LeastLoaded", names) if names else ()
        self.names: frozenset[str] = frozenset(names)
        self.moves_plain: bool = check_move("LeastLoaded", move)

    def route(self, item: WorkItem, fleet: Fleet) -> tuple[str, ...]:
        """Return the names by their executors' loads at this moment."""
        if self._order:
            names = [name for name in self._order if name in fleet]
        else:
            names = [
                name
                for name, each in fleet.items()
                if name != "lane" and not each.capabilities.blocks
            ] or [*fleet]
        if len(names) > 1:
            names.sort(key=lambda name: fleet[name].load())  # stable: ties stay in order
        return tuple(names)

    def __repr__(self) -> str:
        return f"LeastLoaded({', '.join(map(repr, self._order))})"
