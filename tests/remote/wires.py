"""A wire: a relay on loopback that can go dead, or be cut, as networks do."""

from __future__ import annotations

import contextlib
import socket
import struct
import threading
from collections.abc import Callable, Iterator


class _Ends:
    """One connection through the wire."""

    def __init__(self, near: socket.socket, far: socket.socket) -> None:
        self.socks = near, far
        self.open = threading.Event()
        self.open.set()

    def reset(self) -> None:
        for sock in self.socks:
            with contextlib.suppress(OSError):
                sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
                sock.shutdown(socket.SHUT_RD)  # wakes who reads
            sock.close()


class Wire:
    """Relays connections to a port.

    Attributes:
        port: where it listens.
        cut_after: bytes of both directions after which a connection is reset; None: never.
        passed: bytes that went through, of all connections.
    """

    def __init__(self, target: int) -> None:
        self._target = target
        self._lock = threading.Lock()  # guards the counts and the list
        self._connections: list[_Ends] = []
        self._threads: list[threading.Thread] = []
        self.cut_after: int | None = None
        self.passed = 0
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port = self._listener.getsockname()[1]
        self._start(self._accept)

    def die(self) -> None:
        """Let nothing through any more on the connections that there are, and say nothing."""
        for each in self._connections:
            each.open.clear()

    def heal(self) -> None:
        """Deliver what was sent meanwhile."""
        for each in self._connections:
            each.open.set()

    def _start(self, run: Callable[[], None]) -> None:
        thread = threading.Thread(target=run)
        self._threads.append(thread)
        thread.start()

    def _accept(self) -> None:
        with contextlib.suppress(OSError):
            while True:
                near, _ = self._listener.accept()
                far = socket.create_connection(("127.0.0.1", self._target))
                for sock in (near, far):
                    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
                ends = _Ends(near, far)
                left = [self.cut_after]
                self._connections.append(ends)
                self._start(lambda e=ends, n=near, f=far, c=left: self._relay(e, n, f, c))
                self._start(lambda e=ends, n=near, f=far, c=left: self._relay(e, f, n, c))

    def _relay(
        self, ends: _Ends, source: socket.socket, sink: socket.socket, left: list[int | None]
    ) -> None:
        with contextlib.suppress(OSError):
            if left[0] == 0:
                ends.reset()
                return
            while data := source.recv(65536):
                ends.open.wait()
                with self._lock:
                    if left[0] is not None:
                        data = data[: left[0]]
                        left[0] -= len(data)
                    self.passed += len(data)
                sink.sendall(data)
                if left[0] == 0:
                    ends.reset()
                    return
            sink.shutdown(socket.SHUT_WR)

    def close(self) -> None:
        """End all connections."""
        with contextlib.suppress(OSError):
            self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        self._threads[0].join()
        self.heal()
        for ends in self._connections:
            for sock in ends.socks:
                with contextlib.suppress(OSError):
                    sock.shutdown(socket.SHUT_RDWR)
        for thread in self._threads[1:]:
            thread.join()
        for ends in self._connections:
            for sock in ends.socks:
                sock.close()


@contextlib.contextmanager
def wired(target: int) -> Iterator[Wire]:
    """Put a wire before a port."""
    wire = Wire(target)
    try:
        yield wire
    finally:
        wire.close()


@contextlib.contextmanager
def black_hole() -> Iterator[int]:
    """A port that answers no attempt at a connection: its queue of them is full."""
    with contextlib.ExitStack() as stack:
        listener = stack.enter_context(socket.socket())
        listener.bind(("127.0.0.1", 0))
        listener.listen(0)
        for _ in range(4):
            sock = stack.enter_context(socket.socket())
            sock.setblocking(False)
            sock.connect_ex(listener.getsockname())
        yield listener.getsockname()[1]
