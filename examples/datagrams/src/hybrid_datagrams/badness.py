"""BadNetwork: what happens to datagrams on their way, by the numbers. Not for two threads."""

from __future__ import annotations

import random

__all__ = ["BadNetwork"]


class BadNetwork:
    """Loses some datagrams, doubles some, and keeps some back until others have overtaken them.

    Args:
        loss: share of datagrams that are lost.
        reorder: share that is kept back, each behind up to four others.
        double: share that comes twice.
        seed: two networks with one seed do the same.
    """

    def __init__(
        self, *, loss: float = 0.0, reorder: float = 0.0, double: float = 0.0, seed: int = 1
    ) -> None:
        self._loss, self._reorder, self._double = loss, reorder, double
        self._chance = random.Random(seed)
        self._kept: list[tuple[int, bytes]] = []  # how many are yet to overtake it
        self.lost = self.kept = self.doubled = 0

    def pass_on(self, datagram: bytes) -> list[bytes]:
        """Return what comes out at the other end when this one goes in."""
        chance, out = self._chance, []
        if chance.random() < self._loss:
            self.lost += 1
        elif chance.random() < self._reorder:
            self.kept += 1
            self._kept.append((chance.randint(1, 4), datagram))
            return []
        else:
            out.append(datagram)
            if chance.random() < self._double:
                self.doubled += 1
                out.append(datagram)
        self._kept = [(left - 1, each) for left, each in self._kept]
        out += [each for left, each in self._kept if left <= 0]
        self._kept = [each for each in self._kept if each[0] > 0]
        return out
