"""The table of beliefs: by task and size class, and those of them that are quick.

Pure; who has one guards it, but for `quick` and `direct`, which others may read at any time: what
they hold is replaced, never changed.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from hybrid_compute._keys import key_of
from hybrid_compute.items import name_of
from hybrid_compute.policy._belief import Belief
from hybrid_compute.policy._memory import recall

__all__ = ["Beliefs"]

_MOST = 4096  # tasks and size classes that are remembered; then the oldest is forgotten


class Beliefs:
    """What is known of tasks. Keeps no function alive.

    Args:
        saved: rows of a file, by origin and size class.

    Attributes:
        quick: the tasks that their submitter may run, by key and size class.
        direct: those that have one place to go, which is in this process, likewise.
    """

    def __init__(self, saved: Mapping[tuple[str, int], Mapping[str, Any]]) -> None:
        self.quick: dict[Any, dict[int, Belief]] = {}
        self.direct: dict[Any, dict[int, Belief]] = {}
        self._saved = saved
        self._all: dict[tuple[Any, int], Belief] = {}
        self._sizes: dict[Any, list[int]] = {}  # the size classes of each key

    def get(self, key: Any, size: int) -> Belief | None:
        """Return what is known of a task with arguments of a size; None: it was never seen."""
        return self._all.get((key, size))

    def add(self, fn: Any, key: Any, size: int) -> Belief:
        """Return the same, made if it is not there."""
        belief = self._all.get((key, size))
        if belief is not None:
            return belief
        while len(self._all) >= _MOST:
            self._forget(next(iter(self._all.values())))
        inner = getattr(fn, "fn", fn)
        origin = f"{getattr(inner, '__module__', None)}:{name_of(inner)}"
        belief = Belief(name_of(fn), origin, (key, size))
        saved = self._saved.get((origin, size))
        if saved is not None:
            recall(belief, saved)
        else:
            for near in (size - 1, size + 1):
                other = self._all.get((key, near))
                if other is not None and other.known:
                    belief.inherit(other)
                    break
        self._all[key, size] = belief
        self._sizes.setdefault(key, []).append(size)
        return belief

    def renew(self, belief: Belief) -> None:
        """Know nothing of a task any more: the next calls are its first ones again.

        For one that ran inline and took long: nobody has seen whether it waited or computed, and
        to guess would send all that follow to the wrong place. What is still under way keeps the
        old belief, also if it is routed anew, and tells that: of the new one it would say nothing.
        """
        if self._all.get(belief.key) is belief:
            self.set_slow(belief)
            _take(self.direct, belief)
            belief.outdated = True
            self._all[belief.key] = Belief(belief.name, belief.origin, belief.key)

    def of(self, fn: Any) -> list[Belief]:
        """Return all that is known of a function, the smallest arguments first."""
        key = key_of(fn)
        return [self._all[key, size] for size in sorted(self._sizes.get(key, ()))]

    def all(self) -> list[Belief]:
        """Return all."""
        return list(self._all.values())

    def set_quick(self, belief: Belief) -> None:
        """Let submitters run calls of this task."""
        if self._all.get(belief.key) is belief:
            _put(self.quick, belief)

    def set_slow(self, belief: Belief) -> None:
        """Do not let them any more."""
        _take(self.quick, belief)

    def set_direct(self, belief: Belief) -> None:
        """Let calls of this task go to its place without a question, for as many as are `left`."""
        known = self._all.get(belief.key) is belief
        if known and self.direct.get(belief.key[0], {}).get(belief.key[1]) is not belief:
            _put(self.direct, belief)

    def _forget(self, belief: Belief) -> None:
        key, size = belief.key
        del self._all[key, size]
        self.set_slow(belief)
        _take(self.direct, belief)
        self._sizes[key].remove(size)
        if not self._sizes[key]:
            del self._sizes[key]


def _put(table: dict[Any, dict[int, Belief]], belief: Belief) -> None:
    key, size = belief.key
    table[key] = {**table.get(key, {}), size: belief}


def _take(table: dict[Any, dict[int, Belief]], belief: Belief) -> None:
    key, size = belief.key
    others = table.get(key, {})
    if others.get(size) is belief:
        table[key] = {each: one for each, one in others.items() if each != size}
        if not table[key]:
            del table[key]
