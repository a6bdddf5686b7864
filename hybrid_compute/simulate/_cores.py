"""The cores of one machine, shared by all that computes on it.

Owns who gets how much of them at each instant. Those that hold the GIL of one process are one
runner together, however many they are; each of the others is one by itself; the runners share
the cores equally, and none uses more than one. Nothing is sliced: all advance at once, each at its
rate (processor sharing), so a simulation takes as many steps as there are beginnings and ends.

Pure: it is told the time. Work in each class advances at one rate, so a class keeps one sum of
what each of its members has been given so far, and its members by the sum at which they are done.
"""

from __future__ import annotations

import heapq
import itertools
import math
from collections.abc import Callable

__all__ = ["Cores"]


class _Class:
    """Work that advances at one rate."""

    def __init__(self) -> None:
        self.given = 0.0
        self.heap: list[tuple[float, int, Callable[[], None]]] = []

    def take(self) -> list[tuple[int, Callable[[], None]]]:
        """Remove those that are done."""
        done = []
        while self.heap and self.heap[0][0] <= self.given:
            _, number, then = heapq.heappop(self.heap)
            done.append((number, then))
        if not self.heap:
            self.given = 0.0  # small numbers are exact ones
        return done


class Cores:
    """So many cores.

    Args:
        count: how many.
    """

    def __init__(self, count: int) -> None:
        self._count = count
        self._held, self._free = _Class(), _Class()
        self._at = 0.0
        self._numbers = itertools.count()

    def add(self, seconds: float, then: Callable[[], None], *, holds: bool, now: float) -> None:
        """Let somebody compute.

        Args:
            seconds: of processor time that it needs.
            then: is returned by `finish` when it has had them.
            holds: whether it holds the process's GIL.
            now: the time, not before the last one.
        """
        self._advance(now)
        kind = self._held if holds else self._free
        heapq.heappush(kind.heap, (kind.given + seconds, next(self._numbers), then))

    def next(self) -> float:
        """Return when the next one is done, if none is added before; infinity: nobody computes."""
        return min(self._due(kind, rate) for kind, rate in self._rates())

    def finish(self) -> list[Callable[[], None]]:
        """Advance to that time, and return what was to be called then, in order of arrival."""
        soonest, its_rate = min(self._rates(), key=lambda each: self._due(*each))
        self._advance(self._due(soonest, its_rate))
        soonest.given = soonest.heap[0][0]  # as it is, but for rounding
        done = sorted(self._held.take() + self._free.take(), key=lambda each: each[0])
        return [then for _, then in done]

    def _rates(self) -> tuple[tuple[_Class, float], tuple[_Class, float]]:
        holders = len(self._held.heap)
        runners = len(self._free.heap) + (1 if holders else 0)
        share = min(1.0, self._count / runners) if runners else 0.0
        return (self._held, share / holders if holders else 0.0), (self._free, share)

    def _due(self, kind: _Class, rate: float) -> float:
        return self._at + (kind.heap[0][0] - kind.given) / rate if kind.heap else math.inf

    def _advance(self, now: float) -> None:
        passed = now - self._at
        if passed > 0:
            for kind, rate in self._rates():
                kind.given += rate * passed
            self._at = now
