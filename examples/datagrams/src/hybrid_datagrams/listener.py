"""Listener: the other end of many datagram transports, at one UDP port.

One thread reads the socket and calls `on_frame` and `on_lost`, holding no lock; they must not
block. `_lock` guards all channels, the bad network, and the writing.
"""

from __future__ import annotations

import contextlib
import json
import select
import socket
import threading
import time
from collections.abc import Callable, Mapping
from typing import Any

from hybrid_datagrams.badness import BadNetwork
from hybrid_datagrams.channel import Channel, Kind, head_of, pack

__all__ = ["Listener", "Visitor"]

_PATIENCE = 8.0
_MOST = 1000  # visitors at once


class Visitor:
    """One connection, seen from the server."""

    def __init__(self, listener: Listener, number: int, address: Any, channel: Channel) -> None:
        self._listener = listener
        self.number, self.address, self.channel = number, address, channel
        self.state: Any = None  # the owner's

    def send(self, frame: bytes) -> None:
        """Send a frame. Any thread; does not wait."""
        self._listener.send(self, frame)

    def close(self) -> None:
        """Say good-bye. Any thread."""
        self._listener.dismiss(self)


class Listener:
    """Takes connections at a port.

    Args:
        on_frame: gets each whole frame, with its visitor.
        on_lost: told once when a visitor has gone.
        admit: looks at a visitor's headers, and returns why it is turned away, or "".
        host: address to listen at.
        port: UDP port; 0: any that is free.
        max_bytes: of the largest frame to take.
        network: what becomes of what is sent.
    """

    def __init__(
        self,
        on_frame: Callable[[Visitor, bytes], None],
        on_lost: Callable[[Visitor], None],
        *,
        admit: Callable[[Mapping[str, str]], str] = lambda headers: "",
        host: str = "127.0.0.1",
        port: int = 0,
        max_bytes: int = 64 * 2**20,
        network: BadNetwork | None = None,
    ) -> None:
        self._on_frame, self._on_lost, self._admit = on_frame, on_lost, admit
        self._max_bytes = max_bytes
        self.network = network or BadNetwork()
        self._lock = threading.RLock()  # see above; re-entrant: on_frame may send
        self._visitors: dict[int, Visitor] = {}
        self._closing = False
        self._sock = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        self._sock.bind((host, port))
        self._sock.setblocking(False)
        self.port: int = self._sock.getsockname()[1]
        self._bell = socket.socketpair()
        for each in self._bell:
            each.setblocking(False)
        self._thread = threading.Thread(target=self._run, name="datagram listener", daemon=True)
        self._thread.start()

    def visitors(self) -> list[Visitor]:
        """Return who is connected."""
        with self._lock:
            return list(self._visitors.values())

    def send(self, visitor: Visitor, frame: bytes) -> None:
        """Send a frame to one visitor; dropped if it has gone."""
        with self._lock:
            if self._visitors.get(visitor.number) is not visitor:
                return
            visitor.channel.send(frame)
            self._flush(visitor)
        self._ring()

    def dismiss(self, visitor: Visitor) -> None:
        """End one connection."""
        with self._lock:
            if self._visitors.pop(visitor.number, None) is not None:
                self._out(visitor.address, [pack(Kind.BYE, visitor.number)] * 3)

    def close(self) -> None:
        """End all connections and free the port. Blocks until the thread has ended; idempotent."""
        with self._lock:
            for visitor in list(self._visitors.values()):
                self.dismiss(visitor)
            self._closing = True
        self._ring()
        self._thread.join()

    def _ring(self) -> None:
        with contextlib.suppress(OSError):
            self._bell[1].send(b"x")

    def _flush(self, visitor: Visitor) -> None:
        self._out(visitor.address, visitor.channel.datagrams(time.monotonic()))

    def _out(self, address: Any, datagrams: list[bytes]) -> None:
        for each in datagrams:
            for datagram in self.network.pass_on(each):
                with contextlib.suppress(OSError):  # as if it were lost on the way
                    self._sock.sendto(datagram, address)

    def _run(self) -> None:
        poll = select.poll()
        poll.register(self._sock, select.POLLIN)
        poll.register(self._bell[0], select.POLLIN)
        while True:
            with self._lock:
                if self._closing:
                    break
                pause, lost = self._attend()
            for each in lost:
                self._on_lost(each)
            poll.poll(None if pause is None else 1000 * max(0.0, pause))
            with contextlib.suppress(OSError):
                self._bell[0].recv(4096)
            with contextlib.suppress(OSError):
                for _ in range(64):
                    self._take(*self._sock.recvfrom(65536))
        self._sock.close()
        for each in self._bell:
            each.close()

    def _attend(self) -> tuple[float | None, list[Visitor]]:
        """Send what is due. With the lock held.

        Returns:
            The seconds until there is more, or None, and who has gone.
        """
        lost = []
        for visitor in list(self._visitors.values()):
            self._flush(visitor)
            if visitor.channel.failure:
                self.dismiss(visitor)
                lost.append(visitor)
        due = [each.channel.due() for each in self._visitors.values()]
        return (min(due) - time.monotonic() if due else None), lost

    def _take(self, datagram: bytes, address: Any) -> None:
        head = head_of(datagram)
        if head is None:
            return
        kind, number, body = head
        with self._lock:
            visitor = self._visitors.get(number)
            if kind == Kind.HELLO:
                self._welcome(visitor, number, body, address)
                return
            if visitor is None or visitor.address != address:
                if kind in (Kind.DATA, Kind.PING):  # of before a restart
                    self._out(address, [pack(Kind.BYE, number)])
                return
            if kind == Kind.BYE:
                del self._visitors[number]
                frames = None
            else:
                frames = visitor.channel.receive(kind, body, time.monotonic())
        if frames is None:
            self._on_lost(visitor)
        else:
            for frame in frames:
                self._on_frame(visitor, frame)

    def _welcome(self, visitor: Visitor | None, number: int, body: bytes, address: Any) -> None:
        if visitor is None:
            try:
                said = json.loads(body)
                headers = {str(key).lower(): str(each) for key, each in said.items()}
            except (ValueError, AttributeError):
                return
            refusal = self._admit(headers)
            if len(self._visitors) >= _MOST:
                refusal = refusal or "there are too many connections"
            if refusal:
                self._out(address, [pack(Kind.REFUSED, number, refusal.encode())])
                return
            channel = Channel(
                number, time.monotonic(), max_bytes=self._max_bytes, patience=_PATIENCE
            )
            self._visitors[number] = Visitor(self, number, address, channel)
        self._out(address, [pack(Kind.WELCOME, number)])
