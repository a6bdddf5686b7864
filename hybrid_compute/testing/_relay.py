"""One connection through `proxy`: what came in, what has gone out, and what waits for its time.

All of it belongs to the thread of the proxy: no locks, and sockets that never block.
"""

from __future__ import annotations

import contextlib
import math
import random
import socket
import struct
from collections import deque

from hybrid_compute.testing._faults import Direction, Fault, LimitData, Plan, ResetPeer, Timeout

__all__ = ["Connection", "Pipe"]

_READ = 65536
_MOST = 4 * _READ  # bytes that wait in one direction before no more are read


class Pipe:
    """One direction of a connection, as far as `Connection` has got with it."""

    def __init__(self, direction: Direction, source: socket.socket, sink: socket.socket) -> None:
        self.direction: Direction = direction
        self.source = source
        self.sink = sink
        self.faults: tuple[Fault, ...] = ()
        self.plan = Plan()
        self.queue: deque[tuple[float, bytes]] = deque()
        self.waiting = self.passed = 0  # bytes
        self.ended = False  # the source has hung up
        self.told = False  # and so has the sink been
        self.full = False  # the sink takes no more for the moment
        self.lossy = False  # a fault has swallowed some of it for good

    @property
    def reads(self) -> bool:
        """Whether more data are to be taken from the source."""
        return not self.ended and self.waiting < _MOST

    @property
    def torn(self) -> bool:
        """Whether data would go on behind a gap, which TCP never lets happen."""
        return self.lossy and not any(isinstance(each, Timeout) for each in self.faults)

    @property
    def due(self) -> float:
        """When the next piece may go out."""
        return self.queue[0][0] if self.queue else math.inf


class Connection:
    """One connection through the proxy.

    Attributes:
        pipes: the way to the target, and the way back.
        over: whether it has ended.
        passed: bytes that went through, both ways.
    """

    def __init__(
        self, near: socket.socket, far: socket.socket, begun: float, jitter: random.Random
    ) -> None:
        self._jitter = jitter
        self._begun = begun
        self._faults: tuple[Fault, ...] = ()
        self.pipes = Pipe("upstream", near, far), Pipe("downstream", far, near)
        self.over = False
        self.passed = 0  # bytes, of both directions

    def plan_anew(self, faults: tuple[Fault, ...], now: float) -> None:
        """Hear of other faults; data that wait are treated as if they had just come.

        If data would go on where some have been lost, the connection is reset instead.
        """
        self._faults = tuple(
            each
            for each in faults
            if any(each.hits(pipe.direction, self._begun) for pipe in self.pipes)
        )
        for pipe in self.pipes:
            pipe.faults = tuple(each for each in faults if each.hits(pipe.direction, self._begun))
            waiting = b"".join(data for _, data in pipe.queue)
            pipe.queue.clear()
            pipe.plan, pipe.waiting = Plan(), 0
            if waiting:
                self._take(pipe, waiting, now)
            if pipe.ended and not pipe.told:
                self._take(pipe, b"", now)
        if any(pipe.torn for pipe in self.pipes):
            self.end(reset=True)

    def read(self, pipe: Pipe, now: float) -> None:
        """Take what has come, and plan when it goes on."""
        try:
            data = pipe.source.recv(_READ)
        except (BlockingIOError, InterruptedError):
            return
        except OSError:
            self.end(reset=True)  # as the other end would see it
            return
        pipe.ended = not data
        self._take(pipe, data, now)

    def _take(self, pipe: Pipe, data: bytes, now: float) -> None:
        for fault in pipe.faults:
            if isinstance(fault, Timeout):
                if data and not fault.keep:
                    pipe.lossy = True
                    return
                pipe.queue.append((math.inf, data))
                pipe.waiting += len(data)
                return
        for piece in pipe.plan.pieces(data, pipe.faults, now, self._jitter):
            pipe.queue.append(piece)
        pipe.waiting += len(data)

    def work(self, now: float) -> float:
        """Do all that is due; return when there is something to do again."""
        due = math.inf
        for fault in self._faults:
            if isinstance(fault, (ResetPeer, Timeout)) and fault.seconds is not None:
                when = max(fault.since, self._begun) + fault.seconds
                if when <= now:
                    self.end(reset=isinstance(fault, ResetPeer))
                    return math.inf
                due = min(due, when)
        for pipe in self.pipes:
            self._limit(pipe, 0)
            while not self.over and not pipe.full and pipe.due <= now:
                self._write(pipe)
            if self.over:
                return math.inf
            if not pipe.full:
                due = min(due, pipe.due)
        if all(pipe.ended and not pipe.queue for pipe in self.pipes):
            self.end()
        return due

    def _limit(self, pipe: Pipe, size: int) -> int:
        """Return how many of so many bytes may go on; end the connection if none ever may."""
        for fault in pipe.faults:
            if isinstance(fault, LimitData):
                gone = sum(
                    each.passed
                    for each in self.pipes
                    if fault.direction in (each.direction, "both")
                )
                left = fault.size_bytes - gone
                if left <= 0:
                    self.end(reset=fault.reset)
                    return 0
                size = min(size, left)
        return size

    def _write(self, pipe: Pipe) -> None:
        due, data = pipe.queue.popleft()
        try:
            if not data:
                pipe.told = True
                pipe.sink.shutdown(socket.SHUT_WR)
                return
            size = self._limit(pipe, len(data))
            if self.over:
                return
            done = pipe.sink.send(data[:size])
        except (BlockingIOError, InterruptedError):
            pipe.queue.appendleft((due, data))
            pipe.full = True
            return
        except OSError:
            self.end(reset=True)
            return
        if done < len(data):
            pipe.queue.appendleft((due, data[done:]))
        pipe.waiting -= done
        pipe.passed += done
        self.passed += done
        self._limit(pipe, 0)

    def end(self, *, reset: bool = False) -> None:
        """End both halves."""
        self.over = True
        for sock in (self.pipes[0].source, self.pipes[0].sink):
            if reset:
                with contextlib.suppress(OSError):
                    sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            sock.close()
