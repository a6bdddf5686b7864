"""Policies that do not look at the item: `Always` one executor, or the first that can."""

from __future__ import annotations

from hybrid_compute.abc import Fleet, WorkItem
from hybrid_compute.policy._base import Move, check_move, check_names

__all__ = ["Always", "Prefer"]


class Prefer:
    """The first of the named executors that can run the item; the others are fallbacks.

    Args:
        names: names of executors, the best first.
        move: "declared" lets only declared tasks leave the thread pool; "all" moves plain
            callables too.

    Attributes:
        names: all names that `route` may answer; HybridExecutor checks them when it is made.
        moves_plain: whether plain callables are routed too.
    """

    def __init__(self, *names: str, move: Move = "declared") -> None:
        self._order = check_names(type(self).__name__, names)
        self.names: frozenset[str] = frozenset(names)
        self.moves_plain: bool = check_move(type(self).__name__, move)

    def route(self, item: WorkItem, fleet: Fleet) -> tuple[str, ...]:
        """Return those of the names that are in the fleet, in their order."""
        for name in self._order:
            if name not in fleet:
                return tuple(name for name in self._order if name in fleet)
        return self._order

    def __repr__(self) -> str:
        return f"{type(self).__name__}({', '.join(map(repr, self._order))})"


class Always(Prefer):
    """One executor for every item, and no fallback.

    Args:
        name: of the executor.
        move: "declared" lets only declared tasks leave the thread pool; "all" moves plain
            callables too.

    Raises:
        ConfigurationError: `name` is no name.
    """

    def __init__(self, name: str, *, move: Move = "declared") -> None:
        super().__init__(name, move=move)

    def route(self, item: WorkItem, fleet: Fleet) -> tuple[str, ...]:
        """Return the one name, if it is in the fleet."""
        return self._order if self._order[0] in fleet else ()
