"""FaultProxy: a relay of TCP connections that does what networks do, on demand.

Owns its port, its connections and its one thread, which does everything: it accepts, reads, waits
and writes, woken by sockets and by the times at which data are due. What data wait for is in
`_faults`.

    client --> near | Pipe "upstream"  : [(due, piece) ...] | far --> target
           <--      | Pipe "downstream": [(due, piece) ...] |     <--

Locks: one, that of a condition, which guards the tuple of faults, the list of connections and the
word to end. The thread takes it for a moment, and waits for nothing under it; whoever changes the
faults waits until the thread goes by them, which it does in its next round.
"""

from __future__ import annotations

import contextlib
import math
import random
import select
import socket
import threading
import time
from types import TracebackType
from typing import Any, Self, TypedDict

from hybrid_compute.testing._faults import (
    Bandwidth,
    Direction,
    Fault,
    Latency,
    LimitData,
    ResetPeer,
    Slicer,
    SlowClose,
    Timeout,
)
from hybrid_compute.testing._relay import Connection, Pipe

__all__ = ["FaultHandle", "FaultProxy"]


class FaultHandle:
    """A fault that is on. Leave its `with` block, or call `remove`, and it is off."""

    def __init__(self, proxy: FaultProxy, fault: Fault) -> None:
        self._proxy = proxy
        self._fault = fault

    def remove(self) -> None:
        """Switch the fault off; data that wait for it go out. Idempotent; any thread.

        A connection of which it has swallowed some for good is reset.
        """
        self._proxy._change(without=self._fault)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, _: TracebackType | None
    ) -> None:
        self.remove()


class FaultProxy:
    """Listens on loopback, and relays each connection to a target, with faults.

    Faults are switched on by the methods that are called as in toxiproxy, any number at a time,
    before and while there are connections, and off by the handle that these return, or by `heal`:
    when the call returns.
    All methods may be called from any thread. Use it in a `with` block, or call `close`.

    Each of them takes `direction`: "upstream" (what the client sends), "downstream" (what the
    target sends) or "both"; and `new_connections`: False leaves connections alone that are made
    later.

    Args:
        host: where the target is.
        port: its TCP port.
        seed: of the chance in `jitter`.

    Attributes:
        host: where the proxy listens.
        port: its TCP port.

    Raises:
        OSError: the target's name has no address.
        ValueError: `port` is none; and from the methods below: a number, or a direction, makes no
            sense.
    """

    host: str
    port: int

    def __init__(self, host: str, port: int, *, seed: int = 0) -> None:
        if type(port) is not int or not 0 < port < 65536:
            raise ValueError(f"port={port!r} is none of TCP: give a whole number from 1 to 65535")
        found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
        self._family: int = found[0]
        self._target: Any = found[4]
        self._passed = 0  # by connections that have ended
        self._jitter = random.Random(seed)  # noqa: S311 - nobody is to be kept from guessing it
        self._changed = threading.Condition()  # see above
        self._faults: tuple[Fault, ...] = ()
        self._seen: tuple[Fault, ...] = ()  # those that the thread goes by
        self._ending = False
        self._connections: list[Connection] = []
        self._listener = socket.create_server(("127.0.0.1", 0))
        self._listener.setblocking(False)
        self.host, self.port = self._listener.getsockname()[:2]
        self._wake = socket.socketpair()
        for each in self._wake:
            each.setblocking(False)
        self._thread = threading.Thread(target=self._run, name=f"fault proxy {self.port}")
        self._thread.start()

    @property
    def passed_bytes(self) -> int:
        """How much went through, of all connections and both directions."""
        with self._changed:
            return self._passed + sum(each.passed for each in self._connections)

    # Faults.

    def latency(
        self,
        seconds: float,
        *,
        jitter: float = 0.0,
        direction: Direction = "both",
        new_connections: bool = True,
    ) -> FaultHandle:
        """Deliver all data later by `seconds`, give or take up to `jitter`; in their order.

        Args:
            seconds: how much later.
            jitter: seconds of the largest deviation.
            direction: see the class.
            new_connections: see the class.
        """
        _check("seconds", seconds)
        _check("jitter", jitter)
        return self._add(Latency(seconds=seconds, jitter=jitter, **_of(direction, new_connections)))

    def bandwidth(
        self,
        bytes_per_second: float,
        *,
        direction: Direction = "both",
        new_connections: bool = True,
    ) -> FaultHandle:
        """Let so many bytes a second through, for each connection and direction.

        Args:
            bytes_per_second: how many, at least 1.
            direction: see the class.
            new_connections: see the class.
        """
        _check("bytes_per_second", bytes_per_second, 1)
        return self._add(
            Bandwidth(bytes_per_second=bytes_per_second, **_of(direction, new_connections))
        )

    def slicer(
        self,
        size_bytes: int,
        *,
        delay: float = 0.0,
        direction: Direction = "both",
        new_connections: bool = True,
    ) -> FaultHandle:
        """Deliver data in pieces of so many bytes, with `delay` seconds between them.

        Args:
            size_bytes: of a piece, at least 1.
            delay: seconds between two.
            direction: see the class.
            new_connections: see the class.
        """
        _check("size_bytes", size_bytes, 1, whole=True)
        _check("delay", delay)
        return self._add(
            Slicer(size_bytes=size_bytes, delay=delay, **_of(direction, new_connections))
        )

    def limit_data(
        self,
        size_bytes: int,
        *,
        reset: bool = True,
        direction: Direction = "both",
        new_connections: bool = True,
    ) -> FaultHandle:
        """End a connection after exactly so many bytes, counted from its beginning.

        Args:
            size_bytes: how many, of both directions together if `direction` is "both"; 0 ends it
                before the first.
            reset: by a TCP reset; False: by an orderly end.
            direction: see the class.
            new_connections: see the class.
        """
        _check("size_bytes", size_bytes, whole=True)
        return self._add(
            LimitData(size_bytes=size_bytes, reset=reset, **_of(direction, new_connections))
        )

    def reset_peer(self, seconds: float = 0.0, *, new_connections: bool = True) -> FaultHandle:
        """Reset each connection `seconds` from now, or from its beginning if that is later.

        Args:
            seconds: how long after.
            new_connections: see the class.
        """
        _check("seconds", seconds)
        return self._add(ResetPeer(seconds=seconds, **_of("both", new_connections)))

    def timeout(
        self,
        seconds: float | None = None,
        *,
        keep: bool = False,
        direction: Direction = "both",
        new_connections: bool = True,
    ) -> FaultHandle:
        """Swallow all data and tell nobody: a connection that is open at one end only.

        When the fault is removed, a connection that has lost data to it is reset, as the far end
        of a real one would do: TCP never goes on behind a gap. One that has lost nothing goes on.

        Args:
            seconds: end the connection after so long; None: never.
            keep: lose nothing: deliver what was swallowed when the fault is removed, as a network
                does that was away for a while.
            direction: see the class.
            new_connections: see the class.
        """
        if seconds is not None:
            _check("seconds", seconds)
        return self._add(Timeout(seconds=seconds, keep=keep, **_of(direction, new_connections)))

    def slow_close(
        self, seconds: float, *, direction: Direction = "both", new_connections: bool = True
    ) -> FaultHandle:
        """Tell the other end `seconds` later that one end has hung up.

        Args:
            seconds: how much later.
            direction: see the class.
            new_connections: see the class.
        """
        _check("seconds", seconds)
        return self._add(SlowClose(seconds=seconds, **_of(direction, new_connections)))

    def heal(self) -> None:
        """Switch all faults off, as `FaultHandle.remove` does it with one."""
        with self._changed:
            self._set(())

    def close(self) -> None:
        """End all connections and stop to listen; block until that is done. Idempotent."""
        with self._changed:
            self._ending = True
        self._nudge()
        self._thread.join()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, _: TracebackType | None
    ) -> None:
        self.close()

    def __repr__(self) -> str:
        return f"<FaultProxy at port {self.port} with {len(self._faults)} faults>"

    def _add(self, fault: Fault) -> FaultHandle:
        with self._changed:
            self._set((*self._faults, fault))
        return FaultHandle(self, fault)

    def _change(self, *, without: Fault) -> None:
        with self._changed:
            self._set(tuple(each for each in self._faults if each is not without))

    def _set(self, faults: tuple[Fault, ...]) -> None:
        """Change the faults, with the lock held; return when the thread goes by them."""
        self._faults = faults
        self._nudge()
        self._changed.wait_for(lambda: self._seen is self._faults or not self._thread.is_alive())

    def _nudge(self) -> None:
        with contextlib.suppress(OSError):  # full, so it is awake; or gone
            self._wake[1].send(b"x")

    # The thread.

    def _run(self) -> None:
        faults: tuple[Fault, ...] = ()
        try:
            while not self._ending:
                now = time.monotonic()
                if self._faults is not faults:
                    faults = self._faults
                    for each in self._connections:
                        each.plan_anew(faults, now)
                    self._heard(faults)
                due = min((each.work(now) for each in self._connections), default=math.inf)
                self._forget()
                self._wait(faults, due)
        finally:
            for connection in self._connections:
                connection.end()
            self._forget()
            self._heard(self._faults)
            for sock in (self._listener, *self._wake):
                sock.close()

    def _heard(self, faults: tuple[Fault, ...]) -> None:
        with self._changed:
            self._seen = faults
            self._changed.notify_all()

    def _forget(self) -> None:
        """Keep the connections that there are."""
        with self._changed:
            self._passed += sum(each.passed for each in self._connections if each.over)
            self._connections = [each for each in self._connections if not each.over]

    def _wait(self, faults: tuple[Fault, ...], due: float) -> None:
        poll = select.poll()
        poll.register(self._listener, select.POLLIN)
        poll.register(self._wake[0], select.POLLIN)
        readers: dict[int, tuple[Connection, Pipe]] = {}
        wanted: dict[int, int] = {}
        now = time.monotonic()
        for connection in self._connections:
            for pipe in connection.pipes:
                if pipe.reads:
                    readers[pipe.source.fileno()] = connection, pipe
                    number = pipe.source.fileno()
                    wanted[number] = wanted.get(number, 0) | select.POLLIN
                if pipe.full and pipe.due <= now:
                    number = pipe.sink.fileno()
                    wanted[number] = wanted.get(number, 0) | select.POLLOUT
        for number, events in wanted.items():
            poll.register(number, events)
        seconds = max(0.0, due - now)
        # Rounded up: not yet due is not to be looked at again and again.
        found = dict(poll.poll(None if seconds == math.inf else math.ceil(seconds * 1000)))
        if self._wake[0].fileno() in found:
            with contextlib.suppress(BlockingIOError):
                self._wake[0].recv(4096)
        now = time.monotonic()
        for number, (connection, pipe) in readers.items():
            if found.get(number, 0) & ~select.POLLOUT and not connection.over:
                connection.read(pipe, now)
        for pipe in (pipe for each in self._connections for pipe in each.pipes):
            pipe.full = pipe.full and not found.get(pipe.sink.fileno(), 0) & ~select.POLLIN
        if self._listener.fileno() in found:
            self._accept(faults, now)

    def _accept(self, faults: tuple[Fault, ...], now: float) -> None:
        try:
            near, _ = self._listener.accept()
        except OSError:
            return  # it has gone again
        far = socket.socket(self._family, socket.SOCK_STREAM)
        for sock in (near, far):
            sock.setblocking(False)
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        far.connect_ex(self._target)  # a failure is found by the first read
        connection = Connection(near, far, now, self._jitter)
        connection.plan_anew(faults, now)
        with self._changed:
            self._connections.append(connection)


class _Scope(TypedDict):
    direction: Direction
    new_connections: bool
    since: float


def _of(direction: Direction, new_connections: bool) -> _Scope:
    if direction not in ("upstream", "downstream", "both"):
        raise ValueError(
            f"direction={direction!r} is unknown; there are 'upstream', 'downstream' and 'both'"
        )
    return {"direction": direction, "new_connections": new_connections, "since": time.monotonic()}


def _check(name: str, value: Any, least: float = 0.0, *, whole: bool = False) -> None:
    kinds = int if whole else (int, float)
    if isinstance(value, bool) or not isinstance(value, kinds) or not least <= value < math.inf:
        kind = "whole number" if whole else "number"
        raise ValueError(f"{name}={value!r} is out of range: give a {kind} from {least:g} up")
