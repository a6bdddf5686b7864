"""What a network does wrong, as values, and when data that came in may go out under it.

Owns the arithmetic of `proxy`: no threads, no sockets, no clocks. The names are those of toxiproxy.
"""

from __future__ import annotations

import math
import random
from collections.abc import Iterable, Iterator
from typing import Literal, TypeAlias

import attrs

__all__ = [
    "Bandwidth",
    "Direction",
    "Fault",
    "Latency",
    "LimitData",
    "Plan",
    "ResetPeer",
    "Slicer",
    "SlowClose",
    "Timeout",
]

Direction: TypeAlias = Literal["upstream", "downstream", "both"]


@attrs.frozen(eq=False, kw_only=True)
class Fault:
    """One thing that is wrong.

    Attributes:
        direction: of which data: "upstream" is from the client to the target.
        since: monotonic time since when.
        new_connections: whether of connections, too, that are made later.
    """

    direction: Direction
    since: float
    new_connections: bool

    def hits(self, direction: Direction, begun: float) -> bool:
        """Say whether it is of data of one direction, of a connection begun at that time."""
        return self.direction in (direction, "both") and (
            self.new_connections or begun <= self.since
        )


@attrs.frozen(eq=False, kw_only=True)
class Latency(Fault):
    """All data take longer, in their order."""

    seconds: float
    jitter: float


@attrs.frozen(eq=False, kw_only=True)
class Bandwidth(Fault):
    """So many bytes a second go through, of each connection and direction."""

    bytes_per_second: float


@attrs.frozen(eq=False, kw_only=True)
class Slicer(Fault):
    """Data go out in pieces."""

    size_bytes: int
    delay: float


@attrs.frozen(eq=False, kw_only=True)
class LimitData(Fault):
    """The connection ends after so many bytes."""

    size_bytes: int
    reset: bool


@attrs.frozen(eq=False, kw_only=True)
class ResetPeer(Fault):
    """The connection is reset."""

    seconds: float


@attrs.frozen(eq=False, kw_only=True)
class Timeout(Fault):
    """Nothing goes through, and nobody is told."""

    seconds: float | None
    keep: bool


@attrs.frozen(eq=False, kw_only=True)
class SlowClose(Fault):
    """Who hangs up is heard of late."""

    seconds: float


class Plan:
    """When the data of one connection and direction may go out.

    Attributes:
        last: when the last piece goes out that was planned.
    """

    def __init__(self) -> None:
        self.last = -math.inf

    def pieces(
        self, data: bytes, faults: Iterable[Fault], now: float, jitter: random.Random
    ) -> Iterator[tuple[float, bytes]]:
        """Yield when each piece of the data may go out, and the piece; no data is the end of them.

        Args:
            data: what came in.
            faults: those that are of it.
            now: when it came.
            jitter: where chance comes from.
        """
        due, size, pause, rate = now, len(data), 0.0, math.inf
        for fault in faults:
            if isinstance(fault, Latency):
                due += fault.seconds + jitter.uniform(-fault.jitter, fault.jitter)
            elif isinstance(fault, Slicer):
                size, pause = min(size, fault.size_bytes), max(pause, fault.delay)
            elif isinstance(fault, Bandwidth):
                rate = min(rate, fault.bytes_per_second)
            elif isinstance(fault, SlowClose) and not data:
                due += fault.seconds
        if rate < math.inf:
            size = max(1, min(size, int(rate / 50)))  # a piece in 20 ms, or it comes in bursts
        due = max(due, self.last)
        if not data:
            self.last = due
            yield due, b""
        for start in range(0, len(data), max(1, size)):
            piece = data[start : start + size]
            due += len(piece) / rate + (pause if start else 0.0)
            self.last = due
            yield due, piece
