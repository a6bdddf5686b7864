"""Nearest: the remote executor with the shortest way, the same for all items of a key if asked.

Owns which one is the nearest at present, which were tried to find out, and where keys live. Its
one lock guards these; it is re-entrant, since a finalizer that submits may land in the middle.
Executors are asked for their latency with no lock held.
"""

from __future__ import annotations

import threading

from hybrid_compute import _exit
from hybrid_compute.abc import Fleet, WorkItem
from hybrid_compute.errors import ConfigurationError
from hybrid_compute.policy._base import Move, check_move, check_names

__all__ = ["Nearest"]

# The nearest one changes when another's way is shorter by a fifth and by half a millisecond: so
# much do the times of one and the same way differ from one measurement to the next.
_SHORTER, _SHORTER_SECONDS = 0.8, 0.0005
_MOST_KEYS = 65_536  # then the one that was seen first is forgotten


class Nearest(_exit.Member):
    """The remote executor with the lowest measured latency; the others are fallbacks.

    Those of which nothing is known yet are tried first, once each. The nearest one changes only
    when another is nearer by a margin.

    Args:
        names: names of remote executors. Those of others are fallbacks, behind all remotes and in
            their order. None given: all remotes of the fleet, and no fallback but these.
        sticky: whether items with the same `key` (see `TaskOptions`) stay with the one that was
            the nearest for the first of them (or was tried with it), for as long as it is there.
            The last 65,536 keys are remembered.
        move: "declared" lets only declared tasks leave the thread pool; "all" moves plain
            callables too.

    Attributes:
        names: all names that `route` may answer; HybridExecutor checks them when it is made.
        moves_plain: whether plain callables are routed too.

    Raises:
        ConfigurationError: a name is none, or `sticky` is neither True nor False.
    """

    def __init__(self, *names: str, sticky: bool = False, move: Move = "declared") -> None:
        if not isinstance(sticky, bool):
            raise ConfigurationError(f"Nearest(sticky={sticky!r}): give True or False")
        self._order = check_names("Nearest", names) if names else ()
        self._sticky = sticky
        self.names: frozenset[str] = frozenset(names)
        self.moves_plain: bool = check_move("Nearest", move)
        self._lock = threading.RLock()  # see above
        self._tried: set[str] = set()
        self._nearest: str | None = None
        self._homes: dict[str, str] = {}  # of keys; the oldest first
        _exit.register(self)

    def after_fork(self) -> None:
        """Forget a lock that another thread of the parent may have held."""
        self._lock = threading.RLock()

    def route(self, item: WorkItem, fleet: Fleet) -> tuple[str, ...]:
        """Return the remotes by their distance, a key's own or an untried one before them."""
        names = [name for name in self._order or fleet if name in fleet]
        ways = {name: fleet[name].latency() for name in names if fleet[name].capabilities.remote}
        if not ways:
            return tuple(names) if self._order else ()
        key = item.options.key if self._sticky else None
        with self._lock:
            first = None if key is None else self._homes.get(key)
            if first not in ways:
                first = self._choose(ways)
                if key is not None and key not in self._homes:
                    if len(self._homes) >= _MOST_KEYS:
                        del self._homes[next(iter(self._homes))]
                    self._homes[key] = first
        # An unknown way counts as the longest. Sorting is stable: equals stay in their order.
        far = float("inf")
        ways[first] = -1.0
        by_way = sorted(ways, key=lambda name: far if (way := ways[name]) is None else way)
        others = [name for name in names if name not in ways] if self._order else []
        return (*by_way, *others)

    def _choose(self, ways: dict[str, float | None]) -> str:
        """Return an untried one, or the nearest. With the lock held."""
        known: dict[str, float] = {}
        for name, way in ways.items():
            if way is not None:
                known[name] = way
            elif name not in self._tried:
                self._tried.add(name)
                return name
        if not known:
            return next(iter(ways))
        best = min(known, key=known.__getitem__)
        now = known.get(self._nearest) if self._nearest is not None else None
        if now is None:
            # Who cannot run this item may be the nearest of the next: it stays that.
            if self._nearest is None:
                self._nearest = best
            return best
        if known[best] < min(now * _SHORTER, now - _SHORTER_SECONDS):
            self._nearest = best
        assert self._nearest is not None  # noqa: S101 - its latency is known
        return self._nearest

    def __repr__(self) -> str:
        inside = [*map(repr, self._order), *(["sticky=True"] if self._sticky else [])]
        return f"Nearest({', '.join(inside)})"
